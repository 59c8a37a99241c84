"""Reads from disks that may hang: in a thread that nobody joins, shared by all who want the result.

A disk or a file server that hangs can't be interrupted. It may cost one thread, but neither a
deadline nor the end of the process.
"""

import asyncio
import errno
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar, cast

import anyio

T = TypeVar("T")


class _Call(Generic[T]):
    """One call on its way."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.result: T | None = None
        self.error: Exception | None = None


class SharedRead(Generic[T]):
    """Makes a blocking call in a thread, one at a time; it belongs to one event loop.

    Whoever stops waiting, by a deadline or a cancellation, leaves the call to the others.
    """

    def __init__(self, name: str) -> None:
        """Call nothing yet.

        Args:
            name: Of the thread.
        """
        self._name = name
        self._call: _Call[T] | None = None

    @property
    def is_running(self) -> bool:
        """Whether a call is on its way, be there anyone who waits for it."""
        return self._call is not None

    async def take(self, read: Callable[[], T]) -> T:
        """What the call on its way returns or raises, or one that begins now.

        Give it a deadline.

        Args:
            read: What to call where no call is on its way; blocks.

        Raises:
            OSError: No thread can be started.
        """
        call = self._call or self._begin(read)
        await call.done.wait()
        if call.error is not None:
            raise call.error
        return cast("T", call.result)

    async def begin(self, read: Callable[[], T]) -> T:
        """What a call that begins now returns or raises; one on its way is waited for before."""
        while self._call is not None:
            await self._call.done.wait()
        return await self.take(read)

    def _begin(self, read: Callable[[], T]) -> _Call[T]:
        loop = asyncio.get_running_loop()
        call: _Call[T] = _Call()

        def run() -> None:
            try:
                call.result = read()
            except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
                call.error = error
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._end, call)

        # The interpreter joins the threads of a pool at its end; this one it leaves alone.
        try:
            threading.Thread(target=run, name=self._name, daemon=True).start()
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, "no thread can be started") from error
        self._call = call
        return call

    def _end(self, call: _Call[T]) -> None:
        self._call = None
        call.done.set()
