"""How an exporter's task waits: until a time, or until what it waits for has happened."""

from collections.abc import Callable

import anyio

from telemetryd.timing import LONGEST_SLEEP_S


class Doorbell:
    """One task waits, anyone rings; all on one event loop."""

    __slots__ = ("_bell",)

    def __init__(self) -> None:
        self._bell: anyio.Event | None = None

    def ring(self) -> None:
        """Make the waiting task, if there is one, look again at its condition."""
        if self._bell is not None:
            self._bell.set()

    async def wait(self, until_s: float, over: Callable[[], bool]) -> None:
        """Wait until the time, or until a ring after which ``over`` is true."""
        while not over() and (left_s := until_s - anyio.current_time()) > 0:
            self._bell = anyio.Event()
            with anyio.move_on_after(min(left_s, LONGEST_SLEEP_S)):
                await self._bell.wait()
        self._bell = None
