"""One exporter's task: waits for its slot, makes a run of attempts, and ends when asked to."""

import logging
import math
from dataclasses import dataclass, field
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
from telemetryd.export.engine.attempt import CUT_GRACE_S, Attempts
from telemetryd.export.engine.sinkcall import SinkCall, Waiter
from telemetryd.export.exporter import Exporter, ExporterSpec, why_no_exporter
from telemetryd.export.ledger import Ledger, Shared
from telemetryd.model import ExporterState
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
"""How long an exporter may take to release its resources."""

BREAKER_RUNS = 3
"""After so many failed runs a run has one attempt, until one succeeds or is triggered by hand."""

MOST_OUTRANKED = 3
"""How often a run tries again above the receiver's pair before it fails."""

BY_HAND = "by hand"
"""Shown as the detail of an exporter that is stopped while its manager runs."""

_SUSPEND_THRESHOLD_S = 1.0


@dataclass(slots=True, eq=False)
class Runner:
    """The schedule, the runs and the end of one exporter.

    Attributes:
        wanted: It runs whenever its manager does.
        closed: ``aclose`` was called; it can't run any more.
        finished: Set unless its task runs.
    """

    exporter: Exporter
    ledger: Ledger
    _shared: Shared
    wanted: bool = field(init=False)
    leaving: bool = field(default=False, init=False)
    closed: bool = field(default=False, init=False)
    finished: anyio.Event = field(default_factory=anyio.Event, init=False)
    _waiter: Waiter = field(default_factory=Waiter, init=False)
    _attempts: Attempts = field(init=False)
    _schedule: Schedule | None = field(default=None, init=False)
    _asked: str | None = field(default=None, init=False)
    _runs: int = field(default=0, init=False)
    _failed_in_a_row: int = field(default=0, init=False)
    _suspended_s: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        if why := why_no_exporter(self.exporter):
            raise TypeError(f"exporter {self.spec.name!r}: {why}")
        self.wanted = self.spec.enabled
        self.finished.set()
        self._attempts = Attempts(self.exporter, self.ledger, self._waiter, self._shared)
        self.ledger.run_id = f"{self.spec.name}#0"

    @property
    def spec(self) -> ExporterSpec:
        """Its schedule and limits."""
        return self.ledger.spec

    @property
    def active(self) -> bool:
        """Its task has been launched and hasn't finished."""
        return not self.finished.is_set()

    @property
    def stray(self) -> bool:
        """A call of its sink ignores its cancellation and still runs."""
        return self._attempts.stray

    @property
    def overdue_s(self) -> float:
        """Seconds by which its task has missed a wake-up, 0 on time."""
        return self._waiter.overdue_s if self.active else 0.0

    @property
    def next_run_in_s(self) -> float | None:
        """Seconds to the next planned run, None where none is."""
        if self._schedule is None:
            return None
        in_run = self._attempts.in_progress and not self._attempts.stray
        planned_s = self._schedule.next_slot_s if in_run else self._schedule.due_s
        return max(0.0, planned_s - anyio.current_time())

    def must_stop(self) -> bool:
        """Whether it was asked to stop since it was launched."""
        return self._attempts.stop_by_s < math.inf

    def launch(self, group: TaskGroup) -> None:
        """Start the task as a child of the group."""
        self.finished = anyio.Event()
        self._attempts.stop_by_s = math.inf
        self._attempts.abandoned = False
        self.ledger.enter(ExporterState.WAITING)
        group.start_soon(self._run_until_stopped, group)

    def source_ready(self) -> None:
        """The source gives snapshots: continue where it waited for them."""
        self._waiter.notify()

    def trigger(self) -> str:
        """Ask for a run as soon as the current one, if any, is over; returns that run's id."""
        self._asked = self._asked or self._next_run()
        self._waiter.notify()
        return self._asked

    def reschedule(self, spec: ExporterSpec) -> None:
        """Use another interval and timeout; a run or a retry in progress isn't disturbed."""
        former, self.ledger.spec = self.spec, spec
        if self._schedule is not None and spec.interval_s != former.interval_s:
            self._schedule.change_interval(
                spec.interval_s,
                now_s=anyio.current_time(),
                shift_s=self._splay_s(spec) - self._splay_s(former),
            )
            self._waiter.notify()

    def ask_to_stop(self, by_s: float) -> None:
        """End the schedule: until this time the current run may end, and one attempt be made."""
        self._attempts.stop_by_s = min(self._attempts.stop_by_s, by_s)
        self.ledger.stopping = True
        self._waiter.notify()

    def abandon(self) -> None:
        """End the schedule at once: the current run is cut off, and no attempt is made any more."""
        self._attempts.abandoned = True
        self.ask_to_stop(anyio.current_time())

    def note_stopped(self) -> None:
        """Show that it has stopped: by hand, unless it is unregistered or the manager stops."""
        by_hand = self.spec.enabled and not (self.wanted or self.leaving)
        self.ledger.stopped(BY_HAND if by_hand else "")

    async def close(self, group: TaskGroup) -> None:
        """Let the exporter release its resources, once, in limited time; raises nothing."""
        if self.closed:
            return
        self.closed = True
        done = anyio.Event()
        call = SinkCall(self.exporter.aclose, done.set)
        group.start_soon(call.run)
        # Shielded: a caller that is cancelled here would leave a call that is never cut off.
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
            while not self.must_stop():
                try:
                    await self._live(group)
                except Exception as exc:
                    # A bug of ours, as errors of sink and source are caught before. Others go on.
                    log.exception("exporter task failed exporter=%s", self.spec.name)
                    self._fail(PermanentError(Reason.INTERNAL, error_text(exc)))
                    until_s = anyio.current_time() + self.spec.interval_s
                    await self._waiter.wait(until_s, self.must_stop)
        finally:
            self._schedule = None
            self.note_stopped()
            self.finished.set()

    async def _live(self, group: TaskGroup) -> None:
        await self._until_ready(group)
        if not self.must_stop():
            self.ledger.enter(ExporterState.IDLE)
            self._suspended_s = self._shared.suspended_s()
            self._schedule = self._plan(anyio.current_time())
            while await self._sleep(self._schedule):
                late = not self._shared.watch.ready
                await self._until_ready(group)
                if self.must_stop():
                    break
                await self._run_slot(group, self._schedule, late=late)
        await self._make_final_attempt(group)

    def _plan(self, now_s: float) -> Schedule:
        spec, rng = self.spec, self._shared.rng
        return Schedule(
            Grid(now_s + self._splay_s(spec), spec.interval_s),
            first_s=now_s + rng.uniform(0.0, spec.initial_delay_max_s),
            jitter=spec.jitter,
            rng=rng,
        )

    def _splay_s(self, spec: ExporterSpec) -> float:
        return splay_s(
            self._shared.watch.installation_id,
            spec.name,
            interval_s=spec.interval_s,
            splay_max_s=spec.splay_max_s,
        )

    async def _until_ready(self, group: TaskGroup) -> None:
        """Wait for the source, and meanwhile deliver what an earlier process left."""

        def over() -> bool:
            return self.must_stop() or self._shared.watch.ready

        while not over():
            self.ledger.enter(ExporterState.WAITING)
            # The source has one interval, as its snapshot is newer.
            until_s = anyio.current_time() + self.spec.interval_s
            await self._waiter.wait(until_s if self.spec.spooled else math.inf, over)
            if not (over() or self._attempts.in_progress):
                self.ledger.run_id = self._next_run()
                error = await self._attempts.make_without_snapshot(group)
                if error is not None:
                    self._fail(error)

    async def _sleep(self, schedule: Schedule) -> bool:
        """Sleep until the next run is due or triggered; False where it must stop instead."""
        while not (self.must_stop() or self._asked):
            now_s = anyio.current_time()
            if now_s >= schedule.due_s:
                break
            until_s = min(schedule.due_s, now_s + LONGEST_SLEEP_S)
            await self._waiter.wait(until_s, partial(self._woken, schedule, until_s))
            self._notice_suspend(schedule)
        return not self.must_stop()

    def _woken(self, schedule: Schedule, until_s: float) -> bool:
        return self.must_stop() or self._asked is not None or schedule.due_s < until_s

    def _notice_suspend(self, schedule: Schedule) -> None:
        grown_s = self._shared.suspended_s() - self._suspended_s
        if grown_s > _SUSPEND_THRESHOLD_S:
            self._suspended_s += grown_s
            slots = schedule.resume(anyio.current_time(), suspended_s=grown_s)
            self.ledger.skipped("suspend", slots)

    async def _run_slot(self, group: TaskGroup, schedule: Schedule, *, late: bool) -> None:
        """Make the run that is due or triggered, and plan the next."""
        now_s = anyio.current_time()
        if now_s >= schedule.due_s:
            self.ledger.stats.schedule_delay.observe(now_s - schedule.due_s)
        missed = schedule.begin(now_s)
        self.ledger.skipped("not_ready" if late else "overrun", missed)
        if self._asked is not None:
            self._failed_in_a_row = 0
        self.ledger.run_id = self._asked or self._next_run()
        self._asked = None
        if self._attempts.in_progress:
            self.ledger.skipped("overrun")
            parked_until_s = None
        else:
            parked_until_s = await self._run(group, schedule.next_slot_s)
        missed = schedule.finish(anyio.current_time(), not_before_s=parked_until_s)
        self.ledger.skipped("overrun" if parked_until_s is None else "retry_after", missed)

    async def _run(self, group: TaskGroup, next_slot_s: float) -> float | None:
        """Make one run; returns the time before which the destination wants no other, if any."""
        spec, rng = self.spec, self._shared.rng
        began_s = anyio.current_time()
        budget_s = retry_budget_s(
            budget_s=spec.retry_budget_s,
            to_next_slot_s=next_slot_s - began_s,
            timeout_s=spec.attempt_timeout_s,
        )
        attempt, outranked = 1, 0
        while (error := await self._attempts.make(group, attempt)) is not None:
            if not isinstance(error, RetryableError):
                self._fail(error)
                return None
            if isinstance(error, OutrankedError):
                outranked += 1
                if outranked > MOST_OUTRANKED or self.must_stop():
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
                self.ledger.enter(ExporterState.BACKOFF)
                await self._waiter.wait(resume_s, self.must_stop)
                if not self.must_stop():
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
        self.ledger.run_failed(error)

    async def _make_final_attempt(self, group: TaskGroup) -> None:
        """Before it ends: one attempt without retry, where something is unsent."""
        attempts = self._attempts
        if (
            not self._shared.watch.ready
            or attempts.in_progress
            or anyio.current_time() >= attempts.stop_by_s
        ):
            return
        self.ledger.run_id = self._next_run()
        error = await attempts.make(group, 1, final=True)
        if isinstance(error, OutrankedError):
            error = await attempts.make(group, 2, final=True)
        if error is not None:
            self._fail(error)

    def _next_run(self) -> str:
        self._runs += 1
        return f"{self.spec.name}#{self._runs}"
