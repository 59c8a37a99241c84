"""Calls of a sink: each in a task of its own, timed, cut off at its deadline, its error translated.

A sink may hang, raise anything, cancel its own task or swallow its cancellation. None of that
reaches the manager or another exporter.
"""

import asyncio
import math
import time
import types
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Generic, TypeVar

import anyio
import anyio.lowlevel

from telemetryd.bounds import causes_of, error_text, free_text, message_of
from telemetryd.errors import (
    ConflictError,
    ExportError,
    OutrankedError,
    PermanentError,
    Reason,
    RetryableError,
)
from telemetryd.limiter import Gate
from telemetryd.timing import LONGEST_SLEEP_S, RETRY_AFTER_CAP_S

T = TypeVar("T")

ERROR_CHARS: Final = 1000

MOST_BEGINNING: Final = 64
"""Tasks of exporters at a time, without those that have been at work for longer."""
_PATIENCE_S: Final = 0.5
"""Sixty-four sinks that hang hold up the others for so long."""


def shared_gate() -> Gate:
    """A gate for the tasks of all exporters: a thousand at once would take their memory at once."""
    return Gate(MOST_BEGINNING, patience_s=_PATIENCE_S)


class Waiter:
    """Waits for a time or a notification, for one owner; all on one event loop.

    While it waits it holds a timer and a function to call: no task, no event, no scope of anyio's,
    which take kilobytes, and a thousand exporters wait nearly all the time.
    """

    __slots__ = ("_awake_by_s", "_timer", "_wake")

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None
        self._wake: Callable[[], None] | None = None
        self._awake_by_s = math.inf

    @property
    def overdue_s(self) -> float:
        """Seconds by which the owner's wake-up was missed; 0 on time, or at work."""
        return max(0.0, anyio.current_time() - self._awake_by_s)

    def notify(self) -> None:
        """Wake the owner if it waits, to check again what it waits for."""
        wake = self._wake
        self._forget()
        if wake is not None:
            wake()

    def call(self, until_s: float, wake: Callable[[], None]) -> None:
        """Call ``wake`` once: at the time, after ``LONGEST_SLEEP_S``, or at a notification."""
        loop = asyncio.get_running_loop()
        self._awake_by_s = min(until_s, loop.time() + LONGEST_SLEEP_S)
        self._timer, self._wake = loop.call_at(self._awake_by_s, self.notify), wake

    async def wait(self, until_s: float, over: Callable[[], bool]) -> None:
        """Wait until the time, or until a notification after which ``over`` is true."""
        while not over() and until_s > anyio.current_time():
            woken = asyncio.get_running_loop().create_future()
            self.call(until_s, partial(_settle, woken))
            try:
                await woken
            finally:
                self._forget()

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._wake = None
        self._awake_by_s = math.inf


def _settle(woken: "asyncio.Future[None]") -> None:
    if not woken.done():
        woken.set_result(None)


@dataclass(slots=True, eq=False)
class SinkCall(Generic[T]):
    """One call, run as a child of a task group that no failure of it can bring down.

    It is cut off by cancelling its task once, as asyncio's own timeouts do. A cancel scope would
    cancel again at every turn of the loop for as long as the call swallows it, which costs a whole
    core and starves the others.

    Attributes:
        done: The call is over: ``value`` or ``error`` is set.
        error: What it raised, ``asyncio.CancelledError`` included.
        longest_step_s: The longest it has blocked the event loop, in seconds.
    """

    _call: Callable[[], Awaitable[T]]
    _on_done: Callable[[], None]
    _task: asyncio.Task[object] | None = field(default=None, init=False)
    done: bool = field(default=False, init=False)
    cut_off: bool = field(default=False, init=False)
    value: T | None = field(default=None, init=False)
    error: BaseException | None = field(default=None, init=False)
    longest_step_s: float = field(default=0.0, init=False)

    async def run(self) -> None:
        """The body of the task: make the call and keep its result.

        Raises:
            CancelledError: The task group itself is cancelled.
            KeyboardInterrupt: The process is interrupted.
        """
        self._task = asyncio.current_task()
        try:
            self.value = await self._timed_steps()
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
            self._task = None  # and all that it refers to, for a call is kept until the next
            self._on_done()

    def cut(self) -> None:
        """Cancel the call, once; ``done`` shows whether it obeys."""
        self.cut_off = True
        if self._task is not None:
            self._task.cancel()

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

    @types.coroutine
    def _timed_steps(self) -> Generator[Any, Any, T]:
        """Make the call, and time each step of it, for which it blocks the event loop."""
        steps = self._call().__await__()
        step = partial(next, steps)
        while True:
            started_s = time.perf_counter()
            try:
                awaited = step()
            except StopIteration as end:
                result: T = end.value
                return result
            finally:
                took_s = time.perf_counter() - started_s
                self.longest_step_s = max(self.longest_step_s, took_s)
            try:
                sent = yield awaited
            except BaseException as exc:  # noqa: BLE001 - it is meant for the steps
                step = partial(steps.throw, exc)
            else:
                step = partial(steps.send, sent)


def export_error(error: BaseException, plugin: str) -> ExportError:
    """What a call of an exporter raised, as an error whose type says whether to try again.

    Exporters of other distributions raise anything, in groups of groups, with any text and any
    reason. Status, log, page and metrics see only what is made of it here. The plug-in is named in
    it, unless that is empty.
    """
    causes = causes_of(error)
    cause = causes[0] if len(causes) == 1 else error
    by = f"{plugin}: " if plugin else ""
    if isinstance(cause, ExportError):
        return _bounded(cause, by)
    said = f"{by}{error_text(cause, ERROR_CHARS)}"
    made: ExportError
    if isinstance(cause, TimeoutError):
        made = RetryableError(Reason.TIMEOUT, said)
    else:
        made = PermanentError(Reason.INTERNAL, said)
    made.__cause__ = error
    return made


def _bounded(error: ExportError, by: str) -> ExportError:
    """The same error with a known reason, and a bounded text and pause."""
    given = getattr(error, "reason", None)
    said = f"{by}{free_text(message_of(error), ERROR_CHARS)}"
    try:
        reason = Reason(given if isinstance(given, str) else "")
    except ValueError:
        reason = Reason.INTERNAL
        said = f"{said} (without a reason that telemetryd knows)"
    made: ExportError
    if isinstance(error, OutrankedError):
        made = OutrankedError(said, epoch=error.epoch, sequence=error.sequence)
    elif isinstance(error, RetryableError):
        made = RetryableError(reason, said, retry_after_s=_seconds(error))
    elif isinstance(error, ConflictError):
        made = ConflictError(reason, said)
    else:
        made = PermanentError(reason, said)
    made.__cause__ = error if reason is Reason.INTERNAL else error.__cause__
    return made


def _seconds(error: RetryableError) -> float | None:
    """Seconds that the destination asks to wait, None where that is not a number."""
    given: object = getattr(error, "retry_after_s", None)
    if isinstance(given, bool) or not isinstance(given, int | float) or given != given:  # noqa: PLR0124
        return None
    return float(min(max(given, 0), RETRY_AFTER_CAP_S))
