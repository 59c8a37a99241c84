"""How an exporter's task waits: until a time, or until what it waits for has happened."""

import math
from collections.abc import Callable

import anyio

from telemetryd.timing import LONGEST_SLEEP_S


class Doorbell:
    """One task waits, anyone rings; all on one event loop."""

    __slots__ = ("_awake_by_s", "_bell")

    def __init__(self) -> None:
        self._bell: anyio.Event | None = None
        self._awake_by_s = math.inf

    @property
    def overdue_s(self) -> float:
        """Seconds by which the waiting task has missed its wake-up; 0 on time, or at work."""
        return max(0.0, anyio.current_time() - self._awake_by_s)

    def ring(self) -> None:
        """Make the waiting task, if there is one, look again at its condition."""
        if self._bell is not None:
            self._bell.set()

    async def wait(self, until_s: float, over: Callable[[], bool]) -> None:
        """Wait until the time, or until a ring after which ``over`` is true."""
        while not over() and (left_s := until_s - anyio.current_time()) > 0:
            self._bell = anyio.Event()
            sleep_s = min(left_s, LONGEST_SLEEP_S)
            self._awake_by_s = anyio.current_time() + sleep_s
            with anyio.move_on_after(sleep_s):
                await self._bell.wait()
            self._awake_by_s = math.inf
        self._bell = None
