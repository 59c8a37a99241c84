"""Blocking calls in worker threads: one at a time for each caller, and a few for all callers."""

import threading
from collections.abc import Callable
from typing import Final, TypeVar

import anyio
import anyio.to_thread

from telemetryd.limiter import Limiter

T = TypeVar("T")

MOST_THREADS: Final = 8
"""Calls at a time for all callers that share a limiter, not counting those that hang."""

PATIENCE_S: Final = 0.25
"""A call that takes longer no longer counts: a disk that hangs must not hold up another one, and a
slow one costs a few more threads."""


def shared_threads() -> Limiter:
    """A limiter for the calls of any number of callers; it belongs to one event loop."""
    return Limiter(MOST_THREADS, patience_s=PATIENCE_S)


class StillHangingError(Exception):
    """An earlier call of the same caller hasn't returned yet."""


class WorkerThread:
    """Makes one blocking call at a time in a worker thread.

    A call that is cut off goes on there, because it can't be ended. No other begins before it
    returns, so a disk that hangs costs one thread.
    """

    __slots__ = ("_callers", "_limiter", "_lock", "_threads")

    def __init__(self, threads: Limiter | None = None) -> None:
        """``threads`` is shared with others; None for a limiter of its own."""
        self._threads = threads or shared_threads()
        self._callers = 0
        self._limiter: anyio.CapacityLimiter | None = None  # only while needed: it takes a kilobyte
        self._lock = threading.Lock()

    async def run(self, call: Callable[[], T]) -> T:
        """What the call returns or raises.

        Raises:
            StillHangingError: An earlier call hangs.
        """
        limiter = self._limiter = self._limiter or anyio.CapacityLimiter(1)
        self._callers += 1
        try:
            async with self._threads.turn():
                return await anyio.to_thread.run_sync(
                    self._alone, call, abandon_on_cancel=True, limiter=limiter
                )
        finally:
            self._callers -= 1
            if not self._callers:
                self._limiter = None

    def _alone(self, call: Callable[[], T]) -> T:
        # An abandoned call no longer holds the limiter, but keeps the lock until it returns.
        if not self._lock.acquire(blocking=False):
            raise StillHangingError
        try:
            return call()
        finally:
            self._lock.release()
