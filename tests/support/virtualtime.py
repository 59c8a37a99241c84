"""An event loop on virtual time: when nothing is ready, its clock jumps to the next timer.

Not for tests that use sockets or threads: their answers would take no virtual time at all.
"""

import asyncio
import selectors
from typing import Any


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A selector event loop whose ``time()`` moves only by the timers it waits for.

    Attributes:
        jumps: How often it has waited: each is a wake-up of an idle process.
    """

    def __init__(self) -> None:
        super().__init__(_JumpingSelector(self))
        self._virtual_now = 0.0
        self.jumps = 0

    def time(self) -> float:
        return self._virtual_now

    def jump(self, seconds: float) -> None:
        """Move the clock ahead, as the selector does instead of waiting."""
        self._virtual_now += seconds
        self.jumps += 1


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("every task waits for something that no timer will bring")
        ready: list[Any] = super().select(0)
        if not ready and timeout > 0:
            self._loop.jump(timeout)
        return ready
