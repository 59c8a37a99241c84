"""The contract between the engine and an exporter, as a check that authors run in their own tests.

No verdict depends on how fast the machine is: an exporter is cancelled at each of its waits, one
after the other, the fence itself sees what was written before it, and a slow step is confirmed.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import anyio

from telemetryd.api.testing.driving import driving
from telemetryd.api.testing.samples import (
    FakeSource,
    make_context,
    make_exporter,
    make_payload,
)
from telemetryd.api.testing.steps import SteppedCall, unwatched
from telemetryd.bounds import error_text
from telemetryd.errors import ConfigError, ExportError, NotLeading, Reason, RetryableError
from telemetryd.export.engine.attempt import BLOCKED_S
from telemetryd.export.exporter import Exporter, ExporterPlugin, Outcome

MOST_WAITS: Final = 50
"""So many waits of a delivery are tried with a cancellation."""

CONFIRMATIONS: Final = 3
"""A step that is slow so often in a row is the exporter's doing, not that of a busy machine."""

_TRIES: Final = 40
_TRY_AGAIN_S: Final = 0.05
"""While a thread of a call that was cut off still works, the exporter may refuse the next one."""

_RAISE: Final = (
    "raise RetryableError, PermanentError or ConflictError with a Reason, or the engine reports "
    "internal and logs a traceback"
)


async def check_exporter(
    plugin: ExporterPlugin,
    table: Mapping[str, object],
    *,
    delivered: Callable[[], object],
    failing: Iterable[Mapping[str, object]] = (),
    refused: Iterable[Mapping[str, object]] = (),
    patience_s: float = 10.0,
) -> None:
    """Check that an exporter does what the engine relies on, against a destination that works.

    Build: wrong tables are a ConfigError, and nothing is touched. Export: it delivers, asks the
    fence before it writes, writes nothing where the fence refuses, ends when it is cancelled at
    any of its waits, works again after that, never blocks the event loop, and raises only errors
    whose type says whether to retry. Close: ``aclose`` ends, and no task goes on.

    Args:
        plugin: What the entry point leads to.
        table: Keys and values as in TOML, without ``type``, that lead to a destination that works.
        delivered: What the destination holds now: any value that is equal to an earlier one as
            long as nothing was written. It is called in the event loop and in worker threads.
        failing: Keys, in place of those of ``table``, that lead to a destination that fails.
        refused: Keys, in place of those of ``table``, that are wrong.
        patience_s: A call that takes longer is cut off.

    Raises:
        AssertionError: With each breach and its fix, a line each.
    """
    tasks = asyncio.all_tasks()
    check = _Check(plugin, dict(table), delivered, patience_s)
    for changes in refused:
        check.refuses(changes)
    made = check.builds()
    if made is not None:
        await check.works(made)
        for changes in failing:
            await check.fails(changes)
        await check.leaves_no_task(tasks)
    if check.breaches:
        lines = "\n".join(f"- {breach}" for breach in dict.fromkeys(check.breaches))
        raise AssertionError(f"the exporter breaks its contract:\n{lines}")


@dataclass(slots=True)
class _Fence:
    """The fence of one call.

    Attributes:
        refuses: It raises NotLeading.
        before: What the destination held before the call.
        asked: What it held when the fence was first asked; None before.
    """

    delivered: Callable[[], object]
    refuses: bool
    before: object
    asked: tuple[object] | None = None

    def __call__(self) -> None:
        with unwatched():
            if self.asked is None:
                self.asked = (self.delivered(),)
        if self.refuses:
            raise NotLeading("another replica leads")


@dataclass(slots=True)
class _Check:
    """What is checked, and what was found."""

    plugin: ExporterPlugin
    table: dict[str, object]
    delivered: Callable[[], object]
    patience_s: float
    breaches: list[str] = field(default_factory=list)
    source: FakeSource = field(default_factory=FakeSource)
    sequence: int = 0

    def refuses(self, changes: Mapping[str, object]) -> None:
        """A wrong table is an error of the configuration, found before anything runs."""
        shown = dict(changes)
        try:
            make_exporter(self.plugin, {**self.table, **changes})
        except ConfigError:
            return
        except Exception as error:  # noqa: BLE001 - what it raises is what is checked
            self.breaches.append(
                f"build() raises {error_text(error)} for {shown}: give the key a kind or a Rule, "
                "or raise ConfigError"
            )
        else:
            self.breaches.append(f"{shown} is accepted: give the key a kind or a Rule")

    def builds(self) -> Exporter | None:
        """The exporter of the table, None where there is none that can be checked."""
        before = self.delivered()
        try:
            made = make_exporter(self.plugin, self.table)
        except ConfigError as error:
            self.breaches.append(f"it can't be built of its table: {error}")
            return None
        except Exception as error:  # noqa: BLE001 - what it raises is what is checked
            self.breaches.append(f"build() raises {error_text(error)}: raise ConfigError")
            return None
        if self.delivered() != before:
            self.breaches.append("build() writes: a reload may build an exporter in vain")
        return made

    async def works(self, exporter: Exporter) -> None:
        """Each part of the contract at a destination that works; ends with ``aclose``."""
        if await self._delivers(exporter):
            await self._obeys_fence(exporter)
            await self._obeys_fence_in_thread(exporter)
            if await self._ends_when_cancelled(exporter):
                call, _ = await self._export_again(exporter)
                if call.error is not None:
                    self.breaches.append(
                        f"after a cancellation it fails with {error_text(call.error)}: release "
                        "what a call holds in finally"
                    )
            await self._closes(exporter)
            await self._runs_under_the_engine()
        else:
            await self._closes(exporter)

    async def fails(self, changes: Mapping[str, object]) -> None:
        """A destination that fails is an error whose type says whether to retry."""
        shown = dict(changes)
        try:
            exporter = make_exporter(self.plugin, {**self.table, **changes})
        except Exception as error:  # noqa: BLE001 - what it raises is what is checked
            self.breaches.append(f"it can't be built with {shown}: {error_text(error)}")
            return
        call, _ = await self._export(exporter)
        if call.error is None:
            self.breaches.append(f"export() returns {call.value!r} with {shown}: it must raise")
        elif not isinstance(call.error, asyncio.CancelledError) and not _is_known(call.error):
            self.breaches.append(f"export() raises {error_text(call.error)} with {shown}: {_RAISE}")
        await self._closes(exporter)

    async def leaves_no_task(self, before: "set[asyncio.Task[Any]]") -> None:
        """Nothing goes on after ``aclose``: the engine could neither stop it nor see it fail."""
        for _ in range(_TRIES):
            left = {task for task in asyncio.all_tasks() - before if not task.done()}
            left.discard(asyncio.current_task())
            if not left:
                return
            await anyio.sleep(_TRY_AGAIN_S)
        names = ", ".join(sorted({getattr(task.get_coro(), "__qualname__", "") for task in left}))
        self.breaches.append(f"after aclose() tasks go on ({names}): await them in export()")

    async def _delivers(self, exporter: Exporter) -> bool:
        """Whether it delivers at all; its writes come after the fence."""
        call, fence = await self._export(exporter)
        error = call.error
        if isinstance(error, asyncio.CancelledError):
            self.breaches.append(f"export() doesn't end within {self.patience_s:g} s")
        elif isinstance(error, ExportError):
            self.breaches.append(f"it can't deliver with its table: {error_text(error)}")
        elif error is not None:
            self.breaches.append(f"export() raises {error_text(error)}: {_RAISE}")
        elif call.value not in list(Outcome):
            self.breaches.append(
                f"export() returns {call.value!r}: return Outcome.WRITTEN or Outcome.UNCHANGED"
            )
        elif self.delivered() == fence.before:
            self.breaches.append("export() writes nothing that delivered() sees")
        elif fence.asked is None:
            self.breaches.append("export() never calls context.fence()")
        elif fence.asked[0] != fence.before:
            self.breaches.append("export() writes before it calls context.fence()")
        return error is None

    async def _obeys_fence(self, exporter: Exporter) -> None:
        """A fence that refuses keeps every byte from leaving, and its error comes through."""
        call, fence = await self._export(exporter, refuses=True)
        if fence.asked is not None and not isinstance(call.error, NotLeading):
            ended = f"returns {call.value!r}" if call.error is None else error_text(call.error)
            self.breaches.append(f"export() keeps what the fence raises: let it through ({ended})")
        if self.delivered() != fence.before:
            self.breaches.append("export() writes though context.fence() refuses")

    async def _obeys_fence_in_thread(self, exporter: Exporter) -> None:
        """A thread of a call that was cut off asks the fence, and writes nothing."""
        loop, in_loop = asyncio.get_running_loop(), threading.get_ident()
        released, refused = threading.Event(), threading.Event()
        before = self.delivered()

        def fence() -> None:
            if threading.get_ident() == in_loop:
                return
            if not refused.is_set():
                loop.call_soon_threadsafe(call.cancel)
                released.wait(self.patience_s)
                refused.set()
            raise NotLeading("the exporter has ended")

        call = self._call(exporter, fence)
        await call.run(patience_s=self.patience_s)
        released.set()
        if not call.cancelled:
            return  # it asks in the event loop
        for _ in range(_TRIES):
            if refused.is_set() and self.delivered() != before:
                break
            await anyio.sleep(_TRY_AGAIN_S / 4)
        if self.delivered() != before:
            self.breaches.append(
                "export() writes in a thread after it was cut off, though context.fence() refuses"
            )

    async def _ends_when_cancelled(self, exporter: Exporter) -> bool:
        """Whether it ends wherever it is cancelled."""
        for number in range(1, MOST_WAITS + 1):
            call, _ = await self._export_again(exporter, cancel_at=number)
            where = f"at its wait number {number}"
            if not call.cancelled:
                return True
            if call.gave_up or call.error is None:
                self.breaches.append(f"export() swallows its cancellation {where}: let it through")
                return False
            if not isinstance(call.error, asyncio.CancelledError):
                self.breaches.append(
                    f"export() turns its cancellation {where} into {error_text(call.error)}: let "
                    "it through"
                )
                return False
        return True

    async def _runs_under_the_engine(self) -> None:
        """Under the engine itself it delivers, and is closed once."""
        async with driving(
            make_exporter(self.plugin, self.table),
            snapshot=self.source.current,
            timeout_s=self.patience_s,
        ) as drive:
            status = await drive.run()
            if status.last_error:
                self.breaches.append(f"under the engine it fails: {status.last_error}")

    async def _closes(self, exporter: Exporter) -> None:
        slow: list[float] = []
        while len(slow) < CONFIRMATIONS:
            call = SteppedCall(exporter.aclose)
            await call.run(patience_s=self.patience_s)
            if not self._note_blocked(call, "aclose", slow):
                break
            exporter = make_exporter(self.plugin, self.table)
        if call.error is not None:
            self.breaches.append(f"aclose() doesn't end well: {error_text(call.error)}")

    async def _export_again(
        self, exporter: Exporter, *, cancel_at: int = 0
    ) -> tuple[SteppedCall[Outcome], _Fence]:
        """Export once a thread of an earlier call, which was cut off, has ended."""
        for _ in range(_TRIES):
            call, fence = await self._export(exporter, cancel_at=cancel_at)
            if call.cancelled or not isinstance(call.error, RetryableError):
                break
            await anyio.sleep(_TRY_AGAIN_S)
        return call, fence

    async def _export(
        self, exporter: Exporter, *, refuses: bool = False, cancel_at: int = 0
    ) -> tuple[SteppedCall[Outcome], _Fence]:
        slow: list[float] = []
        while len(slow) < CONFIRMATIONS:
            fence = _Fence(self.delivered, refuses, self.delivered())
            call = self._call(exporter, fence, cancel_at=cancel_at)
            await call.run(patience_s=self.patience_s)
            if not self._note_blocked(call, "export", slow):
                break
        return call, fence

    def _call(
        self, exporter: Exporter, fence: Callable[[], None], *, cancel_at: int = 0
    ) -> SteppedCall[Outcome]:
        """A call with content that it has never had."""
        self.source.change()
        self.sequence += 1
        at = time.time()  # noqa: TID251 - exporters compare it with the times of files
        payload = make_payload(self.source.current, at=at, sequence=self.sequence)
        context = make_context(fence=fence, sequence=self.sequence)
        return SteppedCall(lambda: exporter.export(payload, context), cancel_at)

    def _note_blocked(self, call: SteppedCall[Any], name: str, slow: list[float]) -> bool:
        """Note what blocks; whether the call must be made again, to confirm a slow step."""
        for each in call.blocked:
            self.breaches.append(f"{name}() blocks the event loop, {each}: use a thread")
        breach = f"{name}() blocks the event loop for {BLOCKED_S:g} s and more: use a thread"
        if not call.slow_s or breach in self.breaches:
            return False
        slow.append(call.slow_s)
        if len(slow) == CONFIRMATIONS:
            self.breaches.append(breach)
        return True


def _is_known(error: BaseException) -> bool:
    """Whether the engine knows what to do about it."""
    reason = getattr(error, "reason", None)
    return isinstance(error, ExportError) and reason in list(Reason) and reason != Reason.INTERNAL
