"""Reads from disks that may hang: in a daemon thread, shared by all callers.

A disk or a file server that hangs can't be interrupted. It may cost one thread, but neither a
deadline nor the end of the process.
"""

import asyncio
import errno
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Generic, TypeVar, cast

import anyio

T = TypeVar("T")

PATIENCE_S: Final = 1.0
"""For a read whose last result is still good."""


class _Call(Generic[T]):
    """One call on its way."""

    def __init__(self) -> None:
        self.begun_s = anyio.current_time()
        self.done = anyio.Event()
        self.result: T | None = None
        self.error: Exception | None = None


class SharedRead(Generic[T]):
    """Makes a blocking call in a thread, one at a time; it belongs to one event loop.

    A caller that stops waiting, by a deadline or a cancellation, leaves the call to the others.
    """

    def __init__(self, name: str, settle: Callable[[T], None] | None = None) -> None:
        """Call nothing yet.

        ``settle`` gets each result, also one that comes after every caller has stopped waiting.
        """
        self._name = name
        self._settle = settle
        self._call: _Call[T] | None = None

    @property
    def is_running(self) -> bool:
        """Whether a call is on its way, be there anyone who waits for it."""
        return self._call is not None

    async def take(self, read: Callable[[], T]) -> T:
        """What the call on its way returns or raises, or one that begins now.

        Give it a deadline.

        ``read`` is called where no call is on its way; it blocks.

        Raises:
            OSError: No thread can be started.
        """
        call = self._call or self._begin(read)
        await call.done.wait()
        if call.error is not None:
            raise call.error
        return cast("T", call.result)

    async def take_soon(self, read: Callable[[], T]) -> T:
        """As ``take``, for callers that can do without: waits ``PATIENCE_S`` after the beginning.

        Raises:
            TimeoutError: It takes longer; ``settle`` still gets the result.
        """
        call = self._call
        begun_s = anyio.current_time() if call is None else call.begun_s
        left_s = anyio.current_effective_deadline() - anyio.current_time()
        wait_s = min(begun_s + PATIENCE_S - anyio.current_time(), left_s / 2)
        with anyio.fail_after(max(0.0, wait_s)):
            return await self.take(read)

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
        try:
            if call.error is None and self._settle is not None:
                self._settle(cast("T", call.result))
        finally:
            call.done.set()
