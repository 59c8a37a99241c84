"""Limits how many callers use a shared resource at once.

A caller that holds its turn longer than ``patience_s`` no longer counts.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import anyio

WAITED: Final = "it still waited for its turn, for others are at work"
"""Noted on the cancellation of who is cut off before it had its turn."""


class Limiter:
    """Turns for a few callers at a time, in the order in which they ask.

    A caller whose turn takes longer than the patience no longer counts, though it goes on. With a
    limit of 16 and half a second, sixteen callers that hang delay all others once, by half a
    second.
    """

    __slots__ = ("_patience_s", "_semaphore")

    def __init__(self, limit: int, *, patience_s: float) -> None:
        """A free limiter; belongs to the event loop that first uses it.

        Args:
            limit: So many at a time.
            patience_s: After so many seconds a turn no longer counts.
        """
        self._semaphore = anyio.Semaphore(limit, max_value=limit, fast_acquire=True)
        self._patience_s = patience_s

    @property
    def waiting(self) -> int:
        """How many have asked for a turn and not had it yet."""
        return self._semaphore.statistics().tasks_waiting

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, and keep it until the block is left; the deadline is the caller's.

        Raises:
            CancelledError: The caller was cut off before; ``WAITED`` is noted on it.
        """
        try:
            await self._semaphore.acquire()
        except asyncio.CancelledError as cut:
            cut.add_note(WAITED)
            raise
        counts = True

        def give_back() -> None:
            nonlocal counts
            if counts:
                counts = False
                self._semaphore.release()

        timer = asyncio.get_running_loop().call_later(self._patience_s, give_back)
        try:
            yield
        finally:
            timer.cancel()
            give_back()
