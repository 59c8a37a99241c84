"""Blocking calls in worker threads, one at a time and within a bound.

What is called, and what comes of a failure, is the caller's affair.
"""

import threading
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread

T = TypeVar("T")


class Turn:
    """Lets one call at a time into a worker thread.

    A call that is cut off goes on there, for it can't be ended: until it is back no other begins,
    so that a disk that hangs costs one thread.
    """

    __slots__ = ("_limiter", "_lock")

    def __init__(self) -> None:
        self._limiter = anyio.CapacityLimiter(1)
        self._lock = threading.Lock()

    async def take(self, call: Callable[[], T]) -> T:
        """What the call returns or raises.

        Raises:
            TimeoutError: An earlier one hangs.
        """
        return await anyio.to_thread.run_sync(
            self._alone, call, abandon_on_cancel=True, limiter=self._limiter
        )

    def _alone(self, call: Callable[[], T]) -> T:
        # The limiter gives the turn of an abandoned call away; the lock is released at its end.
        if not self._lock.acquire(blocking=False):
            raise TimeoutError("an earlier call still hangs")
        try:
            return call()
        finally:
            self._lock.release()
