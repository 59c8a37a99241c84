"""Runs one call of an exporter step by step: where it waits, where it blocks, how it is cancelled.

A step is what a call does between two waits. While it lasts nothing else runs in the event loop.
"""

import asyncio
import inspect
import os
import resource
import sys
import threading
import time
import types
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Generic, TypeVar

import anyio

from telemetryd.export.engine.attempt import BLOCKED_S
from telemetryd.export.engine.sinkcall import SinkCall

T = TypeVar("T")

_LOCAL: Final = threading.local()
_STANDARD_LIBRARY: Final = os.path.dirname(os.__file__)  # noqa: PTH120 - compared with file names
_OF_PYTHON: Final = ("importlib.", "_frozen_importlib", "linecache", "tokenize")
"""Modules that open files of programs: an import, or the text of a traceback."""
_hooked = False


@dataclass(slots=True, eq=False)
class SteppedCall(Generic[T]):
    """One call, in a task of its own as the engine makes it.

    Attributes:
        cancel_at: Cancel it at its wait of this number, from 1 on; 0 for never.
        waits: How often it has waited.
        cancelled: It was cancelled at that wait.
        gave_up: It did not end in time, even after it was cancelled.
        blocked: Calls in it that block the event loop, and where.
        slow_s: Its longest step in seconds, where that is one the engine logs; otherwise 0.
        value: What it returned.
        error: What it raised, ``CancelledError`` included.
    """

    call: Callable[[], Awaitable[T]]
    cancel_at: int = 0
    waits: int = field(default=0, init=False)
    cancelled: bool = field(default=False, init=False)
    gave_up: bool = field(default=False, init=False)
    blocked: list[str] = field(default_factory=list, init=False)
    slow_s: float = field(default=0.0, init=False)
    value: T | None = field(default=None, init=False)
    error: BaseException | None = field(default=None, init=False)
    _task: "asyncio.Task[object] | None" = field(default=None, init=False)

    async def run(self, *, patience_s: float) -> "SteppedCall[T]":
        """Make the call; it is cut off after so long, and closed after twice as long."""
        done = anyio.Event()
        made = SinkCall(self._stepping, done.set)
        async with anyio.create_task_group() as group:
            group.start_soon(made.run)
            with anyio.move_on_after(patience_s):
                await done.wait()
            if not made.done:
                made.cut()
                with anyio.move_on_after(patience_s):
                    await done.wait()
            if not made.done:
                self.gave_up = True
                made.cut()
                await done.wait()
        self.value, self.error = made.value, made.error
        return self

    def cancel(self) -> None:
        """Cancel the call now, as the engine does at a timeout; for its own event loop."""
        if self._task is not None:
            self.cancelled = True
            self._task.cancel()

    async def _stepping(self) -> T:
        return await self._steps()

    @types.coroutine
    def _steps(self) -> Generator[Any, Any, T]:
        """Drive the call.

        Raises:
            TypeError: It can't be awaited.
        """
        self._task = asyncio.current_task()
        with self._watched():
            made = self.call()
        if not inspect.isawaitable(made):
            raise TypeError("it is not async: write async def")
        steps = made.__await__()
        step: Callable[[], Any] = partial(next, steps)
        while True:
            try:
                with self._watched():
                    awaited = step()
            except StopIteration as end:
                result: T = end.value
                return result
            self.waits += 1
            if self.waits == self.cancel_at:
                self.cancel()
            try:
                sent = yield awaited
            except BaseException as error:
                if self.gave_up:
                    steps.close()
                    raise
                step = partial(steps.throw, error)
            else:
                step = partial(steps.send, sent)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Note what blocks in this step."""
        _watch_calls()
        _LOCAL.found = self.blocked
        began_s, cpu_s, waits = time.perf_counter(), time.thread_time(), _waits()
        try:
            yield
        finally:
            _LOCAL.found = None
            took_s, busy_s = time.perf_counter() - began_s, time.thread_time() - cpu_s
            # A busy machine makes a step longer without a wait of its own.
            if took_s >= BLOCKED_S and (busy_s >= BLOCKED_S or _waits() > waits):
                self.slow_s = max(self.slow_s, took_s)


@contextmanager
def unwatched() -> Iterator[None]:
    """Let the test's own functions block within a step."""
    found, _LOCAL.found = getattr(_LOCAL, "found", None), None
    try:
        yield
    finally:
        _LOCAL.found = found


def _waits() -> int:
    """How often this thread has waited for something."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def _watch_calls() -> None:
    """Have Python report calls that block; a hook can't be removed, so there is one."""
    global _hooked  # noqa: PLW0603
    if not _hooked:
        _hooked = True
        sys.addaudithook(_audit)


def _audit(event: str, args: tuple[Any, ...]) -> None:
    found: list[str] | None = getattr(_LOCAL, "found", None)
    if found is None or not (what := _blocking(event, args)):
        return
    with unwatched():
        where = _where()
    if where:
        found.append(f"{what} at {where}")


def _blocking(event: str, args: tuple[Any, ...]) -> str:
    match event, args:
        case "time.sleep", _:
            return "calls time.sleep()"
        case "open", (str() | bytes() as path, *_):
            return f"opens {os.fsdecode(path)}"
        case "socket.connect", (opened, *_) if opened.gettimeout() != 0:
            return "connects a blocking socket"
        case "socket.getaddrinfo" | "socket.gethostbyname", _:
            return "asks for an address"
        case _:
            return ""


def _where() -> str:
    """The line that made the call, outside of the standard library; empty for Python itself."""
    frame: types.FrameType | None = sys._getframe(2)  # noqa: SLF001 - of the audited call
    first = ""
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(_OF_PYTHON):
            return ""
        code = frame.f_code
        here = f"{code.co_filename}:{frame.f_lineno}"
        if code.co_filename == __file__:
            return first
        if not first and not _is_of_python(code.co_filename):
            first = here
        frame = frame.f_back
    return first


def _is_of_python(file: str) -> bool:
    rest = file.removeprefix(_STANDARD_LIBRARY)
    return rest != file and "-packages" not in rest
