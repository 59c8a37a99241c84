"""One exporter's schedule: waits for its slot, makes a run of attempts, and ends when asked to.

It has a task while there is something to do; while it waits, a timer that begins the next one.
"""

import logging
import math
from dataclasses import dataclass, field

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
from telemetryd.limiter import GatePass
from telemetryd.model import ExporterState
from telemetryd.timing import (
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
        active: It has been launched and hasn't finished.
        closed: ``aclose`` was called; it can't run any more.
    """

    exporter: Exporter
    ledger: Ledger
    _shared: Shared
    wanted: bool = field(init=False)
    leaving: bool = field(default=False, init=False)
    active: bool = field(default=False, init=False)
    closed: bool = field(default=False, init=False)
    _finished: anyio.Event | None = field(default=None, init=False)
    _group: TaskGroup = field(init=False)  # since it was launched
    _waiter: Waiter = field(default_factory=Waiter, init=False)
    _attempts: Attempts = field(init=False)
    _schedule: Schedule | None = field(default=None, init=False)
    _asked: str | None = field(default=None, init=False)
    _runs: int = field(default=0, init=False)
    _failed_in_a_row: int = field(default=0, init=False)
    _suspended_s: float = field(default=0.0, init=False)
    _lives: bool = field(default=False, init=False)  # it has begun since it was launched
    _slept: bool = field(default=False, init=False)
    _late: bool = field(default=False, init=False)
    _paused_until_s: float = field(default=-math.inf, init=False)
    _patience_until_s: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if why := why_no_exporter(self.exporter):
            raise TypeError(f"exporter {self.spec.name!r}: {why}")
        self.wanted = self.spec.enabled
        self._attempts = Attempts(self.exporter, self.ledger, self._waiter, self._shared)
        self.ledger.run_id = f"{self.spec.name}#0"

    @property
    def spec(self) -> ExporterSpec:
        """Its schedule and limits."""
        return self.ledger.spec

    @property
    def stray(self) -> bool:
        """A call of its sink ignores its cancellation and still runs."""
        return self._attempts.stray

    @property
    def overdue_s(self) -> float:
        """Seconds by which it has missed a wake-up, 0 on time."""
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
        """Let it run until it is asked to stop; its tasks are children of the group."""
        self.active = True
        self._attempts.stop_by_s = math.inf
        self._attempts.abandoned = False
        self.ledger.enter(ExporterState.WAITING)
        self._group = group
        self._begin()

    async def until_finished(self) -> None:
        """Return once it isn't active."""
        while self.active:
            self._finished = self._finished or anyio.Event()
            await self._finished.wait()

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

    def _begin(self) -> None:
        """Start its task, once there is room for one."""
        self._shared.gate.enter(lambda entered: self._group.start_soon(self._run, entered))

    def _wait(self, until_s: float) -> None:
        """Begin another task then, or when something has changed; this one ends."""
        self._waiter.call(until_s, self._begin)

    async def _run(self, entered: GatePass) -> None:
        try:
            await self._work()
        finally:
            entered.give_back()

    async def _work(self) -> None:
        """Do what is due, and then wait for what comes next, or finish."""
        try:
            if await self._advance():
                return
        except Exception as exc:
            # A bug of ours, as errors of sink and source are caught before. Others go on.
            log.exception("exporter task failed exporter=%s", self.spec.name)
            self._fail(PermanentError(Reason.INTERNAL, error_text(exc)))
            self._rest()
            self._paused_until_s = anyio.current_time() + self.spec.interval_s
            if not self.must_stop():
                self._wait(self._paused_until_s)
                return
        except BaseException:
            self._finish()
            raise
        self._finish()

    def _rest(self) -> None:
        """Forget where in its schedule it was."""
        self._schedule = self._patience_until_s = None
        self._lives = self._slept = self._late = False
        self._paused_until_s = -math.inf

    def _finish(self) -> None:
        self._rest()
        self.note_stopped()
        self.active = False
        if self._finished is not None:
            self._finished.set()
            self._finished = None

    async def _advance(self) -> bool:
        """Do all that is due; False once it has stopped, as it was asked to."""
        while not self.must_stop():
            if anyio.current_time() < self._paused_until_s:
                self._wait(self._paused_until_s)
                return True
            self._lives = True
            schedule = await self._when_due()
            if schedule is not None:
                late, self._late = self._late, False
                await self._run_slot(schedule, late=late)
            elif not self.must_stop():
                return True
        if self._lives:
            await self._make_final_attempt()
        return False

    async def _when_due(self) -> Schedule | None:
        """Its schedule where a run is due or triggered; None where it waits now, or must stop."""
        schedule = self._schedule
        if schedule is None:
            if not await self._is_ready():
                return None
            self.ledger.enter(ExporterState.IDLE)
            self._suspended_s = self._shared.suspended_s()
            schedule = self._schedule = self._plan(anyio.current_time())
        elif self._slept:
            self._notice_suspend(schedule)
        self._slept = not self._asked and anyio.current_time() < schedule.due_s
        if self._slept:
            self._wait(schedule.due_s)
            return None
        self._late = self._late or not self._shared.watch.ready
        return schedule if await self._is_ready() else None

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

    async def _is_ready(self) -> bool:
        """Whether the source is ready; else it waits, or delivers what an earlier process left."""
        while not (self._shared.watch.ready or self.must_stop()):
            self.ledger.enter(ExporterState.WAITING)
            now_s = anyio.current_time()
            if self._patience_until_s is None:
                # The source has one interval, as its snapshot is newer.
                interval_s = self.spec.interval_s if self.spec.spooled else math.inf
                self._patience_until_s = now_s + interval_s
            if now_s < self._patience_until_s:
                self._wait(self._patience_until_s)
                return False
            self._patience_until_s = None
            if not self._attempts.in_progress:
                self.ledger.run_id = self._next_run()
                error = await self._attempts.make_without_snapshot(self._group)
                if error is not None:
                    self._fail(error)
        self._patience_until_s = None
        return not self.must_stop()

    def _notice_suspend(self, schedule: Schedule) -> None:
        grown_s = self._shared.suspended_s() - self._suspended_s
        if grown_s > _SUSPEND_THRESHOLD_S:
            self._suspended_s += grown_s
            slots = schedule.resume(anyio.current_time(), suspended_s=grown_s)
            self.ledger.skipped("suspend", slots)

    async def _run_slot(self, schedule: Schedule, *, late: bool) -> None:
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
            parked_until_s = await self._try(schedule.next_slot_s)
        missed = schedule.finish(anyio.current_time(), not_before_s=parked_until_s)
        self.ledger.skipped("overrun" if parked_until_s is None else "retry_after", missed)

    async def _try(self, next_slot_s: float) -> float | None:
        """Make one run; returns the time before which the destination wants no other, if any."""
        spec, rng = self.spec, self._shared.rng
        began_s = anyio.current_time()
        budget_s = retry_budget_s(
            budget_s=spec.retry_budget_s,
            to_next_slot_s=next_slot_s - began_s,
            timeout_s=spec.attempt_timeout_s,
        )
        attempt, outranked = 1, 0
        while (error := await self._attempts.make(self._group, attempt)) is not None:
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

    async def _make_final_attempt(self) -> None:
        """Before it ends: one attempt without retry, where something is unsent."""
        attempts = self._attempts
        if (
            not self._shared.watch.ready
            or attempts.in_progress
            or anyio.current_time() >= attempts.stop_by_s
        ):
            return
        self.ledger.run_id = self._next_run()
        error = await attempts.make(self._group, 1, final=True)
        if isinstance(error, OutrankedError):
            error = await attempts.make(self._group, 2, final=True)
        if error is not None:
            self._fail(error)

    def _next_run(self) -> str:
        self._runs += 1
        return f"{self.spec.name}#{self._runs}"
