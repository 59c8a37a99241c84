"""The exporter manager: which exporters there are, and their start, stop, state and end."""

import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from random import Random
from typing import Final

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup, TaskStatus

from telemetryd.errors import ManagerError
from telemetryd.export.engine.attempt import CUT_GRACE_S
from telemetryd.export.engine.runner import CLOSE_TIMEOUT_S, Runner
from telemetryd.export.engine.sinkcall import shared_gate
from telemetryd.export.exporter import Exporter, ExporterSpec
from telemetryd.export.ledger import Ledger, Shared, SourceWatch, suspended_s
from telemetryd.export.threads import shared_threads
from telemetryd.model import ExporterState, ExporterStatus, Payload, SnapshotSource
from telemetryd.stats import ExporterStats

log = logging.getLogger(__name__)

_HOLDS: Final = (ExporterState.DISABLED, ExporterState.STANDBY, ExporterState.WAITING)
"""States in which all exporters can be held, the one that is shown first."""


class ExporterManager:
    """Runs any number of exporters side by side; none can hold up another.

    Each has a task only during a run, and one more while its sink is at work; between them a timer.
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
        """None yet; ``Shared`` says what is given. A source that is none is a TypeError."""
        self.drain_timeout_s = drain_timeout_s
        self._watch = SourceWatch(source, self._source_ready)
        self._runners: dict[str, Runner] = {}
        self._holds: dict[ExporterState, str] = {}
        self._group: TaskGroup | None = None
        self._running = self._draining = False
        self._shared = Shared(
            source=source,
            watch=self._watch,
            now=now,
            rng=rng,
            suspended_s=suspended_s,
            epoch=epoch,
            saw_epoch=saw_epoch,
            omitted=omitted,
            require_leading=require_leading,
            gate=shared_gate(),
            spool_threads=shared_threads(),
            spool_dir=spool_dir,
        )

    def register(self, spec: ExporterSpec, exporter: Exporter) -> None:
        """Add an exporter; it starts at once where the manager runs.

        Raises:
            ManagerError: The name is taken, or the manager is stopping.
            TypeError: The object has no ``export()`` or no ``aclose()``.
        """
        self._refuse_unless_registrable(spec.name)
        ledger = Ledger(spec, self._shared.now)
        runner = self._runners[spec.name] = Runner(exporter, ledger, self._shared)
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
        """Unregister some exporters, and then register others, which may have the same names.

        The former stop side by side, within the drain timeout and 2 s. The latter start once all of
        them have ended, so that no two ever write to one destination.

        Raises:
            ManagerError: A name to unregister is unknown or being unregistered, one to register is
                taken, or the manager is stopping. Nothing changed, unless that happened meanwhile.
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
            # Where the caller is cancelled they stay registered, and stopped.
            for runner in leaving:
                runner.leaving = False
        for spec, exporter in into:
            self.register(spec, exporter)

    def reschedule(self, spec: ExporterSpec) -> None:
        """Change an exporter's interval and timeout in place.

        Its state and counters, a run or a retry in progress, and whether it is stopped stay. The
        next run comes within one and a half new intervals after the last, never in a burst.

        Raises:
            ManagerError: There is none of that name, or more than its schedule would change.
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
        """The status of one exporter.

        Raises:
            ManagerError: There is none of that name.
        """
        runner = self._get(name)
        return self._status(runner, self._waiting_for((runner,)))

    def statuses(self) -> tuple[ExporterStatus, ...]:
        """The status of all exporters, sorted by name."""
        runners = [self._runners[name] for name in sorted(self._runners)]
        waiting_for = self._waiting_for(runners)
        return tuple(self._status(runner, waiting_for) for runner in runners)

    def payload(self, name: str) -> Payload | None:
        """What an exporter last wrote, or newer content still to write; None before the first.

        Raises:
            ManagerError: There is none of that name.
        """
        return self._get(name).ledger.payload

    def overdue_s(self) -> float:
        """Seconds by which a task has missed its wake-up; where these are many, it is stalled."""
        return max((runner.overdue_s for runner in self._runners.values()), default=0.0)

    def stats(self) -> dict[str, ExporterStats]:
        """The counters of all exporters by name, live: for the metrics to read."""
        return {name: runner.ledger.stats for name, runner in self._runners.items()}

    def start(self, name: str) -> None:
        """Let a stopped exporter run again; no effect where it runs.

        Raises:
            ManagerError: There is none of that name, it is disabled, held, stopping or closed.
        """
        runner = self._runnable(name)
        runner.wanted = True
        if self._group is None:
            runner.ledger.enter(ExporterState.WAITING)
        else:
            self._launch(runner)

    async def stop(self, name: str) -> None:
        """Stop an exporter, after a last attempt where something is unsent; it stays registered.

        No effect where it is stopped. Takes at most the drain timeout.

        Raises:
            ManagerError: There is none of that name.
        """
        await self._stop(self._get(name))

    async def restart(self, name: str) -> None:
        """Stop an exporter and start it again.

        Raises:
            ManagerError: There is none of that name, it is disabled, held, stopping or closed.
        """
        runner = self._runnable(name)
        await self._stop(runner)
        if self._held() is None:
            self.start(name)
        else:
            runner.wanted = True  # held meanwhile: it starts with all others

    def trigger(self, name: str) -> str:
        """Ask for one run, now or after the current one; returns its id, as the log shows it.

        Raises:
            ManagerError: There is none of that name, or it is disabled, held, stopped or stopping.
        """
        runner = self._runnable(name)
        if not runner.wanted:
            raise ManagerError(f"exporter {name!r} is stopped")
        return runner.trigger()

    async def hold(self, state: ExporterState, detail: str) -> None:
        """Keep every exporter from running until the same state is released.

        A run in progress is cut off without a last attempt, and not counted as a failure. Takes
        moments, and is shielded. Several states may be held at a time.

        Args:
            state: ``DISABLED`` or ``STANDBY``, in which starts and triggers are refused, or
                ``WAITING``, in which they are kept for later.
            detail: Why, in a few words; replaces that of an earlier hold in this state.

        Raises:
            ValueError: Exporters can't be held in that state.
        """
        if state not in _HOLDS:
            raise ValueError(f"no exporter is held in state {state}")
        self._holds[state] = detail
        ending = [runner for runner in self._runners.values() if runner.active]
        for runner in ending:
            runner.abandon()
        with anyio.CancelScope(shield=True):
            for runner in ending:
                await runner.until_finished()
        for runner in ending:
            self._launch(runner)  # where it was released meanwhile

    def release(self, state: ExporterState) -> None:
        """End a hold; no effect where the state isn't held.

        After the last hold each exporter runs as soon as the source is ready, on a new schedule.
        """
        if self._holds.pop(state, None) is not None:
            self._watch.lost()  # it may be another one by now
            for runner in self._runners.values():
                self._launch(runner)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run the exporters until cancelled; then drain and close them.

        It ends at most 2 s after the drain timeout, unless an exporter ignores its cancellation:
        that one is named and waited for, after all others are closed.

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
                # A cancellation doesn't reach the exporters' tasks: they are asked to stop.
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
            self._running = self._draining = self._watch.ready = False

    def _get(self, name: str) -> Runner:
        if name not in self._runners:
            known = ", ".join(sorted(self._runners)[:8]) or "none"
            raise ManagerError(f"there is no exporter {name!r}; there are: {known}")
        return self._runners[name]

    def _refuse_unless_registrable(self, name: str, *, ending: Collection[str] = ()) -> None:
        if name in self._runners and name not in ending:
            raise ManagerError(f"exporter {name!r} is registered already")
        if self._draining:
            raise ManagerError(f"exporter {name!r} comes too late: the manager is stopping")

    def _runnable(self, name: str) -> Runner:
        runner = self._get(name)
        if not runner.spec.enabled:
            raise ManagerError(f"exporter {name!r} is disabled by its configuration")
        held = self._held()
        if held is not None and held is not ExporterState.WAITING:
            raise ManagerError(f"exporter {name!r} is held: {self._holds[held]}")
        if runner.closed:
            raise ManagerError(f"exporter {name!r} is closed: unregister and register it again")
        if self._draining or runner.leaving or (runner.active and runner.must_stop()):
            raise ManagerError(f"exporter {name!r} is stopping")
        return runner

    def _launch(self, runner: Runner) -> None:
        if self._group is None or self._draining or self._held() is not None:
            return
        if runner.wanted and not (runner.closed or runner.active):
            runner.launch(self._group)

    def _held(self) -> ExporterState | None:
        """The state that held exporters show, None where nothing is held."""
        return next((state for state in _HOLDS if state in self._holds), None)

    async def _stop(self, runner: Runner) -> None:
        runner.wanted = False
        if runner.active:
            runner.ask_to_stop(anyio.current_time() + self.drain_timeout_s)
            await runner.until_finished()
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
            await runner.until_finished()
        with anyio.move_on_after(CLOSE_TIMEOUT_S + 2 * CUT_GRACE_S):
            async with anyio.create_task_group() as closers:
                for runner in runners:
                    closers.start_soon(self._close, runner)
        for runner in runners:
            runner.ledger.stopped()
        if strays := sorted(runner.spec.name for runner in runners if runner.stray):
            log.error("exporters still ignore their cancellation exporters=%s", ",".join(strays))

    def _source_ready(self) -> None:
        for runner in self._runners.values():
            runner.source_ready()

    def _waiting_for(self, runners: Collection[Runner]) -> str:
        if not any(runner.ledger.state is ExporterState.WAITING for runner in runners):
            return ""
        return "the manager to run" if self._group is None else self._watch.missing()

    def _status(self, runner: Runner, waiting_for: str) -> ExporterStatus:
        status = runner.ledger.status(next_run_in_s=runner.next_run_in_s, waiting_for=waiting_for)
        held = self._held()
        if held is None or not runner.wanted or runner.active:
            return status
        return replace(
            status,
            state=held,
            detail=self._holds[held],
            enabled=held is not ExporterState.DISABLED,
            next_run_in_s=None,
        )


async def _set_when_cancelled(event: anyio.Event) -> None:
    try:
        await anyio.sleep_forever()
    finally:
        event.set()
