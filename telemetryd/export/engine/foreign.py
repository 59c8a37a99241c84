"""Calls into code that isn't ours: a task each, so that nothing it does reaches anyone else.

A sink may hang, raise anything, cancel its own task or swallow its cancellation. When and how
often it is called doesn't belong here.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from typing import Any, Generic, TypeVar

import anyio
import anyio.lowlevel

T = TypeVar("T")


class ForeignCall(Generic[T]):
    """One call, run as a child of a task group that no failure of it can bring down.

    It is cut off by cancelling its task once, as asyncio's own timeouts do. A cancel scope would
    cancel again at every turn of the loop for as long as the call swallows it, which costs a whole
    core and starves the others.

    Attributes:
        done: The call is over: one of the next two is set.
        value: What it returned.
        error: What it raised, ``asyncio.CancelledError`` included.
        cut_off: ``cut`` was called while it ran.
        longest_step_s: The longest it has kept the event loop to itself, in seconds.
    """

    __slots__ = (
        "_call",
        "_on_done",
        "_task",
        "cut_off",
        "done",
        "error",
        "longest_step_s",
        "value",
    )

    def __init__(self, call: Callable[[], Awaitable[T]], on_done: Callable[[], None]) -> None:
        self._call = call
        self._on_done = on_done
        self._task: asyncio.Task[object] | None = None
        self.done = False
        self.cut_off = False
        self.value: T | None = None
        self.error: BaseException | None = None
        self.longest_step_s = 0.0

    async def run(self) -> None:
        """The body of the task: call, and keep what comes of it.

        Raises:
            CancelledError: The task group itself is cancelled.
            KeyboardInterrupt: The process is interrupted.
        """
        self._task = asyncio.current_task()
        try:
            self.value = await _Stepped(self._call(), self._note_step)
            await self._absorb_cancellation()
        except asyncio.CancelledError as exc:
            if anyio.current_effective_deadline() == -math.inf:
                raise
            # Let through, it would cancel the whole task group: only its owner may do that.
            self.error = exc
        except KeyboardInterrupt:
            raise
        except BaseException as exc:  # noqa: BLE001 - a sink's SystemExit ends the sink alone
            self.error = exc
        finally:
            self.done = True
            self._task = None  # with all that hangs on it, for a call is kept until the next
            self._on_done()

    def cut(self) -> None:
        """Cancel the call, once; whether it obeys shows in ``done``."""
        self.cut_off = True
        if self._task is not None:
            self._task.cancel()

    def _note_step(self, took_s: float) -> None:
        self.longest_step_s = max(self.longest_step_s, took_s)

    async def _absorb_cancellation(self) -> None:
        """Take a cancellation that is pending on the task, which would hit it as it returns.

        Raises:
            CancelledError: The task group itself is cancelled.
        """
        if self._task is not None and self._task.cancelling():
            try:
                await anyio.lowlevel.cancel_shielded_checkpoint()
            except asyncio.CancelledError:
                if anyio.current_effective_deadline() == -math.inf:
                    raise


class _Stepped(Generic[T]):
    """Awaits something and times each of its steps: what it does between two waits.

    The event loop turns for nobody during a step, so a long one is what blocks it.
    """

    __slots__ = ("_awaitable", "_note")

    def __init__(self, awaitable: Awaitable[T], note: Callable[[float], None]) -> None:
        self._awaitable = awaitable
        self._note = note

    def __await__(self) -> Generator[Any, Any, T]:
        steps = self._awaitable.__await__()
        step = partial(next, steps)
        while True:
            started_s = time.perf_counter()
            try:
                awaited = step()
            except StopIteration as end:
                result: T = end.value
                return result
            finally:
                self._note(time.perf_counter() - started_s)
            try:
                sent = yield awaited
            except GeneratorExit:
                steps.close()
                raise
            except BaseException as exc:  # noqa: BLE001 - whatever it is, it is meant for the steps
                step = partial(steps.throw, exc)
            else:
                step = partial(steps.send, sent)
