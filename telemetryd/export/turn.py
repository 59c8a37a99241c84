"""Blocking calls in worker threads: of one caller one at a time, and of all no more than a few.

What is called, and what comes of a failure, is the caller's affair.
"""

import threading
from collections.abc import Callable
from typing import Final, TypeVar

import anyio
import anyio.to_thread

from telemetryd.limiter import Limiter

T = TypeVar("T")

MOST_THREADS: Final = 8
"""At work at a time for those who share a limiter, but for those that hang."""

PATIENCE_S: Final = 0.25
"""A call that takes longer no longer counts among them: a disk that hangs must not hold up another,
and one that is merely slow does with a few threads more."""


def shared_threads() -> Limiter:
    """A limiter for the calls of any number of callers; it belongs to one event loop."""
    return Limiter(MOST_THREADS, patience_s=PATIENCE_S)


class StillHangingError(Exception):
    """An earlier call of the same caller isn't back yet."""


class Turn:
    """Lets one call at a time into a worker thread.

    A call that is cut off goes on there, for it can't be ended: until it is back no other begins,
    so that a disk that hangs costs one thread.
    """

    __slots__ = ("_limiter", "_lock", "_threads")

    def __init__(self, threads: Limiter) -> None:
        """Nothing is called yet.

        Args:
            threads: Shared with others, so that there are few threads for them all.
        """
        self._threads = threads
        self._limiter: anyio.CapacityLimiter | None = None  # made when needed: it takes a kilobyte
        self._lock = threading.Lock()

    async def take(self, call: Callable[[], T]) -> T:
        """What the call returns or raises.

        Raises:
            StillHangingError: An earlier one hangs.
        """
        limiter = self._limiter = self._limiter or anyio.CapacityLimiter(1)
        async with self._threads.turn():
            return await anyio.to_thread.run_sync(
                self._alone, call, abandon_on_cancel=True, limiter=limiter
            )

    def _alone(self, call: Callable[[], T]) -> T:
        # The limiter gives the turn of an abandoned call away; the lock is released at its end.
        if not self._lock.acquire(blocking=False):
            raise StillHangingError
        try:
            return call()
        finally:
            self._lock.release()
