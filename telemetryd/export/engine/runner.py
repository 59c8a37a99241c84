"""One exporter's task: waits for its slot, makes a run of attempts, and ends when it is told to.

Which exporters there are, and when one is stopped, is the manager's affair; the arithmetic of
slots and pauses is ``timing``'s.
"""

import logging
import math
from functools import partial

import anyio
from anyio.abc import TaskGroup

from telemetryd.bounds import error_text
from telemetryd.errors import (
    ExportError,
    OutrankedError,
    PermanentError,
    Reason,
    RetryableError,
)
from telemetryd.export.engine.attempt import CUT_GRACE_S, Attempts, Surroundings
from telemetryd.export.engine.doorbell import Doorbell
from telemetryd.export.engine.foreign import ForeignCall
from telemetryd.export.exporter import Exporter
from telemetryd.export.ledger import Ledger
from telemetryd.export.spec import ExporterSpec
from telemetryd.timing import (
    LONGEST_SLEEP_S,
    Grid,
    Retry,
    Schedule,
    retry_budget_s,
    splay_s,
)

log = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 1.0
"""How long an exporter may take to release what it holds."""

BREAKER_RUNS = 3
"""After so many failed runs a run has one attempt, until one succeeds or is asked for by hand."""

MOST_OUTRANKED = 3
"""So often a run goes on above what the receiver has; then it has failed."""

BY_HAND = "by hand"
"""Shown as the detail of an exporter that is stopped while its manager runs."""

_SUSPEND_THRESHOLD_S = 1.0


class Runner:
    """The schedule, the runs and the end of one exporter.

    Attributes:
        wanted: It shall run whenever its manager does.
        leaving: It is being unregistered.
        closed: ``aclose`` was called; it can't run any more.
        finished: Set at the end of its task; None while that hasn't been launched.
    """

    __slots__ = (
        "_around",
        "_asked",
        "_attempts",
        "_bell",
        "_failed_in_a_row",
        "_run_number",
        "_runs_numbered",
        "_schedule",
        "_suspended_s",
        "closed",
        "exporter",
        "finished",
        "leaving",
        "ledger",
        "spec",
        "wanted",
    )

    def __init__(self, spec: ExporterSpec, exporter: Exporter, around: Surroundings) -> None:
        self.spec = spec
        self.exporter = exporter
        self.ledger = Ledger(spec, around.now)
        self.wanted = spec.enabled
        self.leaving = self.closed = False
        self.finished: anyio.Event | None = None
        self._around = around
        self._bell = Doorbell()
        self._attempts = Attempts(spec, exporter, self.ledger, self._bell, around)
        self._schedule: Schedule | None = None
        self._asked: int | None = None
        self._run_number = self._runs_numbered = 0
        self._failed_in_a_row = 0
        self._suspended_s = 0.0

    @property
    def active(self) -> bool:
        """Its task has been launched and hasn't finished."""
        return self.finished is not None and not self.finished.is_set()

    @property
    def stray(self) -> bool:
        """A call of its sink ignores its cancellation and still runs."""
        return self._attempts.stray

    @property
    def overdue_s(self) -> float:
        """Seconds by which its task has missed a wake-up, 0 on time."""
        return self._bell.overdue_s if self.active else 0.0

    @property
    def next_run_in_s(self) -> float | None:
        """Seconds to the next planned run, None where none is."""
        if self._schedule is None:
            return None
        in_run = self._attempts.in_progress and not self._attempts.stray
        planned_s = self._schedule.next_slot_s if in_run else self._schedule.due_s
        return max(0.0, planned_s - anyio.current_time())

    def told_to_stop(self) -> bool:
        """Whether it was asked to stop since it was launched."""
        return self._attempts.stop_by_s < math.inf

    def launch(self, group: TaskGroup) -> None:
        """Start the task as a child of the group."""
        self.finished = anyio.Event()
        self._attempts.stop_by_s = math.inf
        self._attempts.abandoned = False
        self.ledger.waiting()
        group.start_soon(self._run_until_stopped, group)

    def source_ready(self) -> None:
        """The source gives snapshots: go on where that was waited for."""
        self._bell.ring()

    def trigger(self) -> str:
        """Ask for a run as soon as the current one, if any, is over; returns that run's id."""
        if self._asked is None:
            self._asked = self._next_number()
        self._bell.ring()
        return self._run_id(self._asked)

    def reschedule(self, spec: ExporterSpec) -> None:
        """Go on by another interval and timeout; a run or a retry in progress isn't disturbed."""
        former, self.spec = self.spec, spec
        self.ledger.spec = self._attempts.spec = spec
        if self._schedule is not None and spec.interval_s != former.interval_s:
            self._schedule.change_interval(
                spec.interval_s,
                now_s=anyio.current_time(),
                shift_s=self._splay_s(spec) - self._splay_s(former),
            )
            self._bell.ring()

    def ask_to_stop(self, by_s: float) -> None:
        """End the schedule: what runs may end, and one attempt be made, until this time."""
        self._attempts.stop_by_s = min(self._attempts.stop_by_s, by_s)
        self.ledger.stopping()
        self._bell.ring()

    def abandon(self) -> None:
        """End the schedule at once: what runs is cut off, and no attempt is made any more."""
        self._attempts.abandoned = True
        self.ask_to_stop(anyio.current_time())

    def note_stopped(self) -> None:
        """It has stopped: by hand, unless it is to leave or the manager stops."""
        by_hand = self.spec.enabled and not (self.wanted or self.leaving)
        self.ledger.stopped(BY_HAND if by_hand else "")

    async def close(self, group: TaskGroup) -> None:
        """Let the exporter release what it holds, once, within a bound; nothing is raised."""
        if self.closed:
            return
        self.closed = True
        done = anyio.Event()
        call = ForeignCall(self.exporter.aclose, done.set)
        group.start_soon(call.run)
        # Shielded: whoever is cancelled here would leave a call behind that nobody cuts off.
        with anyio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
            await done.wait()
        if not call.done:
            call.cut()
            with anyio.move_on_after(CUT_GRACE_S, shield=True):
                await done.wait()
        if call.cut_off or call.error is not None:
            problem = (
                "no end in time" if call.error is None or call.cut_off else error_text(call.error)
            )
            log.warning("exporter not closed exporter=%s error=%r", self.spec.name, problem)

    async def _run_until_stopped(self, group: TaskGroup) -> None:
        try:
            while not self.told_to_stop():
                try:
                    await self._live(group)
                except Exception as exc:
                    # Sink, renderer and source can't get here: this is a fault of ours, and the
                    # other exporters need not suffer for it.
                    log.exception("exporter task failed exporter=%s", self.spec.name)
                    self._fail(PermanentError(Reason.INTERNAL, error_text(exc)))
                    until_s = anyio.current_time() + self.spec.interval_s
                    await self._bell.wait(until_s, self.told_to_stop)
        finally:
            self._schedule = None
            self.note_stopped()
            if self.finished is not None:
                self.finished.set()

    async def _live(self, group: TaskGroup) -> None:
        await self._until_ready(group)
        if not self.told_to_stop():
            self.ledger.idle()
            self._suspended_s = self._around.suspended_s()
            self._schedule = self._plan(anyio.current_time())
            while await self._sleep(self._schedule):
                late = not self._around.ready
                await self._until_ready(group)
                if self.told_to_stop():
                    break
                await self._run_slot(group, self._schedule, late=late)
        await self._make_final_attempt(group)

    def _plan(self, now_s: float) -> Schedule:
        spec, rng = self.spec, self._around.rng
        return Schedule(
            Grid(now_s + self._splay_s(spec), spec.interval_s),
            first_s=now_s + rng.uniform(0.0, spec.initial_delay_max_s),
            jitter=spec.jitter,
            rng=rng,
        )

    def _splay_s(self, spec: ExporterSpec) -> float:
        return splay_s(
            self._around.installation_id,
            spec.name,
            interval_s=spec.interval_s,
            splay_max_s=spec.splay_max_s,
        )

    async def _until_ready(self, group: TaskGroup) -> None:
        """Wait for the source, and meanwhile deliver what an earlier process has left."""

        def over() -> bool:
            return self.told_to_stop() or self._around.ready

        while not over():
            self.ledger.waiting()
            # One interval for the source: what it gives is newer.
            until_s = anyio.current_time() + self.spec.interval_s
            await self._bell.wait(until_s if self.spec.spooled else math.inf, over)
            if not (over() or self._attempts.in_progress):
                run_id = self._begin_run(self._next_number())
                error = await self._attempts.make_without_snapshot(group, run_id=run_id)
                if error is not None:
                    self._fail(error)

    async def _sleep(self, schedule: Schedule) -> bool:
        """Sleep until the next run is due or asked for; False where it is to stop instead."""
        while not (self.told_to_stop() or self._asked):
            now_s = anyio.current_time()
            if now_s >= schedule.due_s:
                break
            until_s = min(schedule.due_s, now_s + LONGEST_SLEEP_S)
            await self._bell.wait(until_s, partial(self._woken, schedule, until_s))
            self._notice_suspend(schedule)
        return not self.told_to_stop()

    def _woken(self, schedule: Schedule, until_s: float) -> bool:
        return self.told_to_stop() or self._asked is not None or schedule.due_s < until_s

    def _notice_suspend(self, schedule: Schedule) -> None:
        grown_s = self._around.suspended_s() - self._suspended_s
        if grown_s > _SUSPEND_THRESHOLD_S:
            self._suspended_s += grown_s
            slots = schedule.resume(anyio.current_time(), suspended_s=grown_s)
            self.ledger.skipped("suspend", slots)

    async def _run_slot(self, group: TaskGroup, schedule: Schedule, *, late: bool) -> None:
        """Make the run that is due or asked for, and plan the next."""
        now_s = anyio.current_time()
        if now_s >= schedule.due_s:
            self.ledger.stats.schedule_delay.observe(now_s - schedule.due_s)
        missed = schedule.begin(now_s)
        self.ledger.skipped("not_ready" if late else "overrun", missed)
        if self._asked is not None:
            self._failed_in_a_row = 0
        self._begin_run(self._asked or self._next_number())
        self._asked = None
        if self._attempts.in_progress:
            self.ledger.skipped("overrun")
            parked_until_s = None
        else:
            parked_until_s = await self._run(group, schedule.next_slot_s)
        missed = schedule.finish(anyio.current_time(), not_before_s=parked_until_s)
        self.ledger.skipped("overrun" if parked_until_s is None else "retry_after", missed)

    async def _run(self, group: TaskGroup, next_slot_s: float) -> float | None:
        """Make one run; returns until when the destination wants to be left alone, if at all."""
        spec, rng = self.spec, self._around.rng
        run_id = self._run_id(self._run_number)
        began_s = anyio.current_time()
        budget_s = retry_budget_s(
            budget_s=spec.retry_budget_s,
            to_next_slot_s=next_slot_s - began_s,
            timeout_s=spec.attempt_timeout_s,
        )
        attempt, outranked = 1, 0
        while (error := await self._attempts.make(group, attempt, run_id=run_id)) is not None:
            if not isinstance(error, RetryableError):
                self._fail(error)
                return None
            if isinstance(error, OutrankedError):
                outranked += 1
                if outranked > MOST_OUTRANKED or self.told_to_stop():
                    self._fail(error)
                    return None
                self.ledger.stats.retries[error.reason] += 1
                attempt += 1
                continue
            retry = Retry(spec.retry_base_s, spec.retry_cap_s, rng, failures=attempt - 1)
            retry.failed(anyio.current_time(), retry_after_s=error.retry_after_s)
            resume_s = retry.due_s
            one_attempt = self._failed_in_a_row >= BREAKER_RUNS
            if resume_s <= began_s + budget_s and not (one_attempt or self.stray):
                self.ledger.backoff()
                await self._bell.wait(resume_s, self.told_to_stop)
                if not self.told_to_stop():
                    self.ledger.stats.retries[error.reason] += 1
                    attempt += 1
                    continue
            self._fail(error)
            asked_s = error.retry_after_s or 0.0
            early = asked_s > budget_s and not one_attempt
            return resume_s if asked_s and (early or resume_s > next_slot_s) else None
        self._failed_in_a_row = 0
        return None

    def _fail(self, error: ExportError) -> None:
        self._failed_in_a_row += 1
        self.ledger.run_failed(error, run_id=self._run_id(self._run_number))

    async def _make_final_attempt(self, group: TaskGroup) -> None:
        """On the way out: one attempt without retry, where something is unsent."""
        attempts = self._attempts
        if (
            not self._around.ready
            or attempts.in_progress
            or anyio.current_time() >= attempts.stop_by_s
        ):
            return
        run_id = self._begin_run(self._next_number())
        error = await attempts.make(group, 1, run_id=run_id, final=True)
        if isinstance(error, OutrankedError):
            error = await attempts.make(group, 2, run_id=run_id, final=True)
        if error is not None:
            self._fail(error)

    def _next_number(self) -> int:
        self._runs_numbered += 1
        return self._runs_numbered

    def _begin_run(self, number: int) -> str:
        self._run_number = number
        return self._run_id(number)

    def _run_id(self, number: int) -> str:
        return f"{self.spec.name}#{number}"
