"""The exporter manager: which exporters there are, and their start, stop, state and end.

All that sinks need not know is here and in ``runner``: schedules, retries, deadlines, isolation.
What a payload holds and where it goes doesn't belong here.
"""

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from random import Random

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup, TaskStatus

from telemetryd.errors import ManagerError
from telemetryd.export.engine.attempt import CUT_GRACE_S, Surroundings
from telemetryd.export.engine.holds import Hold, Holds
from telemetryd.export.engine.runner import CLOSE_TIMEOUT_S, Runner
from telemetryd.export.engine.sourcewatch import SourceWatch
from telemetryd.export.exporter import Exporter
from telemetryd.export.spec import ExporterSpec
from telemetryd.export.turn import shared_threads
from telemetryd.model import ExporterState, ExporterStatus, Payload, SnapshotSource
from telemetryd.stats import ExporterStats

__all__ = ["ExporterManager", "ExporterSpec", "suspended_s"]

log = logging.getLogger(__name__)

_NOT_STARTED = "the manager to run"


def suspended_s() -> float:
    """Seconds this machine has spent suspended since it booted."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


class ExporterManager:
    """Runs any number of exporters side by side; none can hold up another.

    Each has one task that sleeps between its runs, and one more only while its sink is at work.
    All methods belong to the event loop's thread. They work before, during and after ``run()``.

    Attributes:
        drain_timeout_s: How long exporters have to come to their end; may be set at any time.
    """

    def __init__(
        self,
        source: SnapshotSource,
        *,
        now: Callable[[], float],
        rng: Random,
        drain_timeout_s: float = 20.0,
        epoch: Callable[[], int] = lambda: 0,
        require_leading: Callable[[], None] = lambda: None,
        suspended_s: Callable[[], float] = suspended_s,
        spool_dir: str | None = None,
        saw_epoch: Callable[[int], None] = lambda _: None,
        omitted: Callable[[], frozenset[str]] = frozenset,
    ) -> None:
        """A manager without exporters.

        Args:
            source: Where snapshots come from.
            now: Unix time in seconds.
            rng: Source of every jitter.
            drain_timeout_s: How long exporters have to come to their end.
            epoch: Leadership epoch, for the exporters' context.
            require_leading: Called directly before each sink is; raises NotLeading where another
                replica may lead.
            suspended_s: Seconds the machine has spent suspended since it booted.
            spool_dir: Where exporters keep pending payloads; None for nowhere.
            saw_epoch: Called with each epoch that is found on disk or in a receiver's answer.
            omitted: Names of the ``[privacy]`` keys that omit something now. A payload that was
                made while fewer did never leaves.
        """
        self.drain_timeout_s = drain_timeout_s
        self._watch = SourceWatch(source, self._source_ready)
        self._runners: dict[str, Runner] = {}
        self._holds = Holds()
        self._group: TaskGroup | None = None
        self._running = self._draining = False
        self._around = Surroundings(
            source=source,
            now=now,
            rng=rng,
            suspended_s=suspended_s,
            epoch=epoch,
            saw_epoch=saw_epoch,
            omitted=omitted,
            lost_source=self._lost_source,
            require_leading=require_leading,
            spool_threads=shared_threads(),
            spool_dir=spool_dir,
        )

    def register(self, spec: ExporterSpec, exporter: Exporter) -> None:
        """Add an exporter; it starts at once where the manager runs.

        Raises:
            ManagerError: The name is taken, or the manager is stopping.
        """
        self._refuse_unless_registrable(spec.name)
        runner = Runner(spec, exporter, self._around)
        self._runners[spec.name] = runner
        self._launch(runner)

    async def unregister(self, name: str) -> None:
        """Stop an exporter, close it and forget it. Takes at most the drain timeout and 2 s.

        Raises:
            ManagerError: There is none of that name, or it is being unregistered already.
        """
        await self.exchange((name,), ())

    async def exchange(
        self, out: Collection[str], into: Collection[tuple[ExporterSpec, Exporter]]
    ) -> None:
        """Take exporters out and then put others in, which may bear their names.

        Those that go are stopped side by side, within the drain timeout and 2 s. Only once all of
        them have ended do the new ones begin, so that no two ever write to one destination. None
        of the others notices anything.

        Raises:
            ManagerError: A name to take out is unknown or on its way out already, one to put in is
                taken, or the manager is stopping. Nothing was touched, unless that came meanwhile.
        """
        leaving = [self._get(name) for name in out]
        for runner in leaving:
            if runner.leaving:
                raise ManagerError(f"exporter {runner.spec.name!r} is being unregistered already")
        for spec, _ in into:
            self._refuse_unless_registrable(spec.name, ending=out)
        for runner in leaving:
            runner.leaving = True
        try:
            async with anyio.create_task_group() as group:
                for runner in leaving:
                    group.start_soon(self._end, runner)
            for runner in leaving:
                del self._runners[runner.spec.name]
        finally:
            # Where the caller is cancelled they stay registered, stopped, to be taken out anew.
            for runner in leaving:
                runner.leaving = False
        for spec, exporter in into:
            self.register(spec, exporter)

    def reschedule(self, spec: ExporterSpec) -> None:
        """Give an exporter another interval and timeout in place; all else of it goes on.

        Its state and counters, a run or a retry in progress, and whether it is stopped stay as they
        are. The next run comes within one new interval and a half of the last, never in a burst.

        Raises:
            ManagerError: There is none of that name, or more than its schedule is to change.
        """
        runner = self._get(spec.name)
        kept = replace(
            runner.spec,
            interval_s=spec.interval_s,
            timeout_s=spec.timeout_s,
            initial_delay_max_s=spec.initial_delay_max_s,
        )
        if kept != spec:
            raise ManagerError(f"exporter {spec.name!r} can't change so much in place")
        runner.reschedule(spec)

    def has(self, name: str) -> bool:
        """Whether an exporter of that name is registered."""
        return name in self._runners

    def status(self, name: str) -> ExporterStatus:
        """What is known of one exporter.

        Raises:
            ManagerError: There is none of that name.
        """
        runner = self._get(name)
        return self._status(runner, self._waiting_for((runner,)))

    def statuses(self) -> tuple[ExporterStatus, ...]:
        """What is known of all exporters, sorted by name."""
        runners = [self._runners[name] for name in sorted(self._runners)]
        waiting_for = self._waiting_for(runners)
        return tuple(self._status(runner, waiting_for) for runner in runners)

    def payload(self, name: str) -> Payload | None:
        """What an exporter last wrote, or newer content that it is yet to write.

        Returns:
            The payload itself; None where it hasn't had one yet.

        Raises:
            ManagerError: There is none of that name.
        """
        return self._get(name).ledger.payload

    def overdue_s(self) -> float:
        """The scheduler's pulse: how late the exporter is that has waited longest to be woken.

        Every task of an exporter has a time by which it wakes again, whatever its sink does. Where
        this is more than moments, the scheduler stands still.
        """
        return max((runner.overdue_s for runner in self._runners.values()), default=0.0)

    def stats(self) -> dict[str, ExporterStats]:
        """The counters of all exporters by name, live: for the metrics to read."""
        return {name: runner.ledger.stats for name, runner in self._runners.items()}

    def start(self, name: str) -> None:
        """Let a stopped exporter run again; nothing where it runs.

        Raises:
            ManagerError: There is none of that name, it is disabled, held, stopping or closed.
        """
        runner = self._get(name)
        self._refuse_unless_runnable(runner)
        runner.wanted = True
        if self._group is None:
            runner.ledger.waiting()
        else:
            self._launch(runner)

    async def stop(self, name: str) -> None:
        """Stop an exporter, after a last attempt where something is unsent; it stays registered.

        Nothing where it is stopped. Takes at most the drain timeout.

        Raises:
            ManagerError: There is none of that name.
        """
        await self._stop(self._get(name))

    async def restart(self, name: str) -> None:
        """Stop an exporter and start it again.

        Raises:
            ManagerError: There is none of that name, it is disabled, held, stopping or closed.
        """
        runner = self._get(name)
        self._refuse_unless_runnable(runner)
        await self._stop(runner)
        if self._holds.shown is not None:
            runner.wanted = True  # held meanwhile: it starts with all others
        else:
            self.start(name)

    def trigger(self, name: str) -> str:
        """Ask for a run now, or as soon as the current one is over; at most one is ever pending.

        Returns:
            The id of that run, as the log names it.

        Raises:
            ManagerError: There is none of that name, or it is disabled, held, stopped or stopping.
        """
        runner = self._get(name)
        self._refuse_unless_runnable(runner)
        if not runner.wanted:
            raise ManagerError(f"exporter {name!r} is stopped")
        return runner.trigger()

    async def hold(self, state: ExporterState, detail: str) -> None:
        """Keep every exporter from running until the same state is released.

        What runs is cut off and makes no last attempt; it isn't counted as a failure. Takes
        moments, and is shielded. Counters, last results, and who was stopped by hand stay.
        Exporters may be registered, exchanged, rescheduled and stopped meanwhile. Several states
        may be held at a time; one that is held already takes the new detail.

        Args:
            state: ``DISABLED`` or ``STANDBY``, in which starts and triggers are refused, or
                ``WAITING``, in which they are kept for later.
            detail: Why, in a few words.
        """
        self._holds.put(Hold(state, detail))
        ending = [runner for runner in self._runners.values() if runner.active]
        for runner in ending:
            runner.abandon()
        with anyio.CancelScope(shield=True):
            for runner in ending:
                if runner.finished is not None:
                    await runner.finished.wait()
        for runner in ending:
            self._launch(runner)  # where it was released meanwhile

    def release(self, state: ExporterState) -> None:
        """End a hold; nothing where the state isn't held.

        Once nothing is held, each exporter runs as soon as the source is ready, and then by a
        schedule that begins there.
        """
        if self._holds.lift(state):
            self._lost_source()  # it may be another one by now, and is asked anew
            for runner in self._runners.values():
                self._launch(runner)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run the exporters until cancelled; then drain and close them, within a bound.

        It ends at most 2 s after the drain timeout, but for an exporter that ignores its
        cancellation: that one is waited for, after all others have been seen to, and named.

        Raises:
            ManagerError: It runs already.
        """
        if self._running:
            raise ManagerError("the manager runs already")
        self._running = True
        cancelled = anyio.Event()
        try:
            async with anyio.create_task_group() as outer:
                outer.start_soon(self._watch.run)
                outer.start_soon(_set_when_cancelled, cancelled)
                # The exporters' tasks are out of the cancellation's reach: they are told to stop.
                with anyio.CancelScope(shield=True):
                    async with anyio.create_task_group() as group:
                        self._group = group
                        for runner in self._runners.values():
                            self._launch(runner)
                        task_status.started()
                        try:
                            await cancelled.wait()
                        finally:
                            await self._drain()
                            self._group = None
            await anyio.lowlevel.checkpoint()
        finally:
            self._group = None
            self._running = self._draining = self._around.ready = False

    def _get(self, name: str) -> Runner:
        try:
            return self._runners[name]
        except KeyError:
            raise ManagerError(f"there is no exporter {name!r}") from None

    def _refuse_unless_registrable(self, name: str, *, ending: Collection[str] = ()) -> None:
        if name in self._runners and name not in ending:
            raise ManagerError(f"exporter {name!r} is registered already")
        if self._draining:
            raise ManagerError(f"exporter {name!r} comes too late: the manager is stopping")

    def _refuse_unless_runnable(self, runner: Runner) -> None:
        name = runner.spec.name
        if not runner.spec.enabled:
            raise ManagerError(f"exporter {name!r} is disabled by its configuration")
        held = self._holds.shown
        if held is not None and held.state is not ExporterState.WAITING:
            raise ManagerError(f"exporter {name!r} is held: {held.detail}")
        if runner.closed:
            raise ManagerError(f"exporter {name!r} is closed: unregister it and register it anew")
        if self._draining or runner.leaving or (runner.active and runner.told_to_stop()):
            raise ManagerError(f"exporter {name!r} is stopping")

    def _launch(self, runner: Runner) -> None:
        if self._group is None or self._draining or self._holds.shown is not None:
            return
        if not runner.wanted or runner.closed or runner.active:
            return
        runner.launch(self._group)

    async def _stop(self, runner: Runner) -> None:
        runner.wanted = False
        if runner.active and runner.finished is not None:
            runner.ask_to_stop(anyio.current_time() + self.drain_timeout_s)
            await runner.finished.wait()
        else:
            runner.note_stopped()

    async def _end(self, runner: Runner) -> None:
        await self._stop(runner)
        await self._close(runner)

    async def _close(self, runner: Runner) -> None:
        if self._group is not None:
            await runner.close(self._group)
        else:
            async with anyio.create_task_group() as group:
                await runner.close(group)

    async def _drain(self) -> None:
        self._draining = True
        runners = list(self._runners.values())
        by_s = anyio.current_time() + self.drain_timeout_s
        for runner in runners:
            if runner.active:
                runner.ask_to_stop(by_s)
        for runner in runners:
            if runner.finished is not None:
                await runner.finished.wait()
        with anyio.move_on_after(CLOSE_TIMEOUT_S + 2 * CUT_GRACE_S):
            async with anyio.create_task_group() as closers:
                for runner in runners:
                    closers.start_soon(self._close, runner)
        for runner in runners:
            runner.ledger.stopped()
        if strays := sorted(runner.spec.name for runner in runners if runner.stray):
            log.error("exporters still ignore their cancellation exporters=%s", ",".join(strays))

    def _source_ready(self, installation_id: str) -> None:
        self._around.installation_id = installation_id
        self._around.ready = True
        for runner in self._runners.values():
            runner.source_ready()

    def _lost_source(self) -> None:
        self._around.ready = False
        self._watch.lost()

    def _waiting_for(self, runners: "list[Runner] | tuple[Runner, ...]") -> str:
        if not any(runner.ledger.state is ExporterState.WAITING for runner in runners):
            return ""
        return _NOT_STARTED if self._group is None else self._watch.missing()

    def _status(self, runner: Runner, waiting_for: str) -> ExporterStatus:
        status = runner.ledger.status(next_run_in_s=runner.next_run_in_s, waiting_for=waiting_for)
        held = self._holds.shown
        if held is None or not runner.wanted or runner.active:
            return status
        return replace(
            status,
            state=held.state,
            detail=held.detail,
            enabled=held.state is not ExporterState.DISABLED,
            next_run_in_s=None,
        )


async def _set_when_cancelled(event: anyio.Event) -> None:
    try:
        await anyio.sleep_forever()
    finally:
        event.set()
