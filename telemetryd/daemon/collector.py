"""Starts and ends the collection, as switches and source say.

A daemon has one collector, which has at most one collection at a time. After every change ``run``
starts or ends what the switches and the source require. While collection is off, no object is held
and the API server is asked only for the setting that may have switched it off.
"""

import gc
import logging
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from telemetryd.config import Config, EnvironmentSwitches
from telemetryd.config.restrictions import COLLECTION, OPT_OUT
from telemetryd.daemon.collection import (
    DEFAULT_TIMING,
    Collection,
    FinderTiming,
    Informers,
    SourceFinder,
    build_collection,
)
from telemetryd.daemon.optout import OptOutSetting
from telemetryd.daemon.restrictions import Restrictions, switches_of
from telemetryd.errors import NotReady
from telemetryd.informer.informer import Informer
from telemetryd.kube.client import KubeClient
from telemetryd.model import (
    ExporterState,
    InformerStatus,
    Snapshot,
    SourceKind,
    Switch,
    Switches,
)
from telemetryd.stats import GatherStats, InformerStats

log = logging.getLogger(__name__)

_FIRST_LOOK = "setting telemetry-opt (first look)"
MARK_UNSEEN = "the opt-out's mark on the Secret (first look)"
_BY_SETTING = {Switch.SETTING, Switch.MEMORY}


class Holdable(Protocol):
    """Work that can be held: all guarded work, or the exporters of a manager alone."""

    async def hold(self, state: ExporterState, detail: str) -> None:
        """Stop the work, and allow none until this state is released; ``detail`` says why."""

    def release(self, state: ExporterState) -> None:
        """End a hold."""


class RestartableTask:
    """A task that can be started and stopped again and again."""

    def __init__(self) -> None:
        self._scope: anyio.CancelScope | None = None
        self._ended = anyio.Event()

    def start(self, group: TaskGroup, run: Callable[[], Awaitable[None]], *, name: str) -> None:
        """Start it in the group; nothing if it runs."""
        if self._scope is None:
            self._scope = anyio.CancelScope()
            self._ended = anyio.Event()
            group.start_soon(self._run, run, self._scope, self._ended, name=name)

    async def stop(self) -> None:
        """Cancel it and wait for its end; nothing if it doesn't run."""
        if self._scope is not None:
            self._scope.cancel()
            await self._ended.wait()
            self._scope = None

    @staticmethod
    async def _run(
        run: Callable[[], Awaitable[None]], scope: anyio.CancelScope, ended: anyio.Event
    ) -> None:
        try:
            with scope:
                await run()
        finally:
            ended.set()


class Collector:
    """Collects from the source that there is while no switch is off; a ``SnapshotSource``."""

    def __init__(
        self,
        config: Config,
        client: KubeClient,
        environment: EnvironmentSwitches,
        *,
        now: Callable[[], float],
        rng: random.Random,
        timing: FinderTiming = DEFAULT_TIMING,
        restrictions: Restrictions | None = None,
        looked_at_marks: Callable[[], bool] = lambda: True,
    ) -> None:
        """Nothing runs before ``run``.

        Args:
            config: At the start.
            client: The API server; stays the caller's.
            environment: What the environment leaves on.
            now: Unix time in seconds.
            rng: Spreads retries, relists and checks.
            timing: When to look for a source.
            restrictions: What is remembered; learns what the setting says.
            looked_at_marks: Whether the Secrets have been read for the mark of an opt-out.
        """
        self._restrictions = restrictions or Restrictions((), {}, now=now)
        self._restrictions.on_change(self.wake)
        self._looked_at_marks = looked_at_marks
        self._config = config
        self._client = client
        self._now = now
        self._rng = rng
        self._timing = timing
        self._environment = environment
        self._logged = Switches()
        self._finder: SourceFinder | None = None
        self._opt_out: OptOutSetting | None = None
        self._collection: Collection | None = None
        self._absent: frozenset[str] = frozenset()
        self._finding, self._watching = RestartableTask(), RestartableTask()
        self._collecting, self._accompanying = RestartableTask(), RestartableTask()
        self._changed = anyio.Event()
        self.gather_stats = GatherStats()

    # -- what others see

    @property
    def switches(self) -> Switches:
        """Which switches are off now."""
        remembered = self._restrictions.remembered_switches
        return switches_of(
            self._environment,
            enabled=self._config.enabled or COLLECTION in remembered,
            opted_out=self._opt_out is not None and self._opt_out.out,
            remembered=bool(remembered),
        )

    @property
    def asks_about_opt_out(self) -> bool:
        """It is on, or only the setting's opt-out keeps it off, which another value may end."""
        remembered = self._restrictions.remembered_switches
        return self.switches.off <= _BY_SETTING and remembered <= {OPT_OUT}

    @property
    def source(self) -> SourceKind | None:
        """What is collected from, None while nothing is."""
        return self._collection.source if self._collection is not None else None

    @property
    def omitted(self) -> frozenset[str]:
        """Names of the ``[privacy]`` keys that omit something now."""
        return self._config.privacy.omitted

    def snapshot(self) -> Snapshot:
        """The fleet now.

        Raises:
            NotReady: It is off, or something is missing.
        """
        switches = self.switches
        if not switches.enabled:
            raise NotReady((f"collection, which is {switches.detail}",))
        if self._collection is None:
            raise NotReady(self.missing())
        return self._collection.gatherer.snapshot()

    async def changed(self) -> None:
        """Return when the next snapshot may be another one, or collection is on or off."""
        async with anyio.create_task_group() as group:
            if self._collection is not None:
                group.start_soon(_cancel_after, self._changed, group.cancel_scope)
                await self._collection.gatherer.changed()
            else:
                await self._changed.wait()
            group.cancel_scope.cancel()

    async def wait_ready(self) -> None:
        """Return once ``snapshot()`` would not raise NotReady."""
        while not self._is_ready():
            changed = self._changed
            async with anyio.create_task_group() as group:
                group.start_soon(_cancel_after, changed, group.cancel_scope)
                if self._collection is None or not self.switches.enabled:
                    await changed.wait()
                else:
                    await self._collection.gatherer.wait_ready()
                group.cancel_scope.cancel()

    def missing(self) -> tuple[str, ...]:
        """What a snapshot waits for; empty when ready, and while it is off."""
        if not self.switches.enabled:
            return ()
        if self._collection is not None:
            return self._collection.gatherer.missing()
        return (self.unsettled() or "collection",)

    def unsettled(self) -> str:
        """Why the collection hasn't started though it is on, empty if it has or is off."""
        if self._collection is not None or not self.switches.enabled:
            return ""
        if self._target() is None:
            error = self._finder.error if self._finder is not None else ""
            return f"source: {error}" if error else "source (discovery)"
        return _FIRST_LOOK

    def required(self) -> list[InformerStatus]:
        """Status of each informer that a snapshot can't be made without."""
        return [] if self._collection is None else self._collection.gatherer.required()

    def informers(self) -> Iterable[tuple[InformerStatus, InformerStats]]:
        """Status and counters of each informer; while it is off, of what is still watched."""
        if self._collection is not None:
            return self._collection.informers.statuses()
        return self._opt_out.informers.statuses() if self._opt_out is not None else ()

    def watched(self) -> Iterable[Informer[Any, Any]]:
        """The informers of the collection."""
        return () if self._collection is None else self._collection.informers.all()

    # -- what a reload does

    def follow(self, config: Config) -> None:
        """Put a configuration in force, before its exporters are."""
        self._config = config
        if self._collection is not None:
            self._collection.follow(config)
        self.wake()

    # -- what runs

    async def run(
        self, work: Holdable, accompany: Callable[[], Awaitable[None]] = anyio.sleep_forever
    ) -> None:
        """Collect whenever nothing is off; returns only when cancelled.

        Args:
            work: Held while it is off, and during the move from one source to another.
            accompany: Runs while there is a collection, and is cancelled with it.
        """
        async with anyio.create_task_group() as group:
            while True:
                changed = self._changed
                self._log_switches()
                if self.switches.enabled:
                    await self._start(work, group, accompany)
                else:
                    await self._stop(work, group)
                await changed.wait()

    async def _stop(self, work: Holdable, group: TaskGroup) -> None:
        await work.hold(ExporterState.DISABLED, self.switches.detail)
        await self._drop_collection()
        await self._finding.stop()
        self._finder = None
        if self.asks_about_opt_out:
            if self._config.kubernetes.source != SourceKind.KUBERNETES:
                self._watch_opt_out(group)
        else:
            await self._drop_opt_out()

    async def _start(
        self, work: Holdable, group: TaskGroup, accompany: Callable[[], Awaitable[None]]
    ) -> None:
        if self._config.kubernetes.source == "auto" and self._finder is None:
            self._finder = SourceFinder(
                self._client, rng=self._rng, changed=self.wake, timing=self._timing
            )
            self._finding.start(group, self._finder.run, name="source finder")
        target = self._target()
        if self._collection is not None and self._collection.source is not target:
            await work.hold(ExporterState.WAITING, f"the move to source {target}")
            await self._drop_collection()
        if target is SourceKind.KUBERNETES:
            await self._drop_opt_out()
        elif target is SourceKind.RANCHER:
            self._watch_opt_out(group)
        if target is not None and self._collection is None and self._may_begin(target):
            self._begin(target, group)
            self._accompanying.start(group, accompany, name="beside the collection")
        if self._collection is None or not self._knows_of_opt_out(self._collection.source):
            # Pending payloads must not leave before it is known that no one opted out.
            problem = self._opt_out.problem if self._opt_out is not None else ""
            await work.hold(ExporterState.WAITING, self.unsettled() or problem or _FIRST_LOOK)
        elif not self._looked_at_marks():
            await work.hold(ExporterState.WAITING, MARK_UNSEEN)
        else:
            work.release(ExporterState.WAITING)
        work.release(ExporterState.DISABLED)

    def _may_begin(self, target: SourceKind) -> bool:
        """Whether the setting that opts out has been read, if there is one."""
        return target is SourceKind.KUBERNETES or (
            self._opt_out is not None and self._opt_out.looked and not self._opt_out.out
        )

    def _knows_of_opt_out(self, source: SourceKind) -> bool:
        return source is SourceKind.KUBERNETES or (
            self._opt_out is not None and self._opt_out.known
        )

    def _begin(self, source: SourceKind, group: TaskGroup) -> None:
        log.info("collecting source=%s", source)
        self._collection = build_collection(
            source,
            self._config,
            self._client,
            now=self._now,
            rng=self._rng,
            stats=self.gather_stats,
        )
        self._absent = frozenset()
        self._collection.informers.on_change(self._look_for_absence)
        self._collecting.start(group, self._collection.run, name="collection")
        self.wake()

    async def _drop_collection(self) -> None:
        await self._accompanying.stop()
        await self._collecting.stop()
        if self._collection is not None:
            log.info("collecting ended: nothing is held source=%s", self._collection.source)
            self._collection = None
            self.wake()
            # Its tasks have ended, but the loop releases them only in its next round.
            await anyio.lowlevel.checkpoint()
            # Stores, gatherer and informers refer to each other: free them now.
            gc.collect()

    def _watch_opt_out(self, group: TaskGroup) -> None:
        if self._opt_out is None:
            informers = Informers(
                self._client, page_size=1, streamed=False, now=self._now, rng=self._rng
            )
            self._opt_out = OptOutSetting(
                informers, note=self._restrictions.note_setting, changed=self.wake
            )
        self._watching.start(group, self._opt_out.run, name="opt-out")

    async def _drop_opt_out(self) -> None:
        await self._watching.stop()
        if self._opt_out is not None:
            self._opt_out = None
            self._restrictions.note_setting(None)

    def _target(self) -> SourceKind | None:
        configured = self._config.kubernetes.source
        if configured != "auto":
            return SourceKind(configured)
        return self._finder.found if self._finder is not None else None

    def _is_ready(self) -> bool:
        return (
            self._collection is not None
            and self.switches.enabled
            and not self._collection.gatherer.missing()
        )

    def _look_for_absence(self) -> None:
        """A resource of the source is gone, perhaps with the source: check at once."""
        absent = frozenset(status.resource for status, _ in self.informers() if status.absent)
        if absent - self._absent and self._finder is not None:
            self._finder.look()
        self._absent = absent

    def wake(self) -> None:
        """Check again what must run: something has changed."""
        self._changed.set()
        self._changed = anyio.Event()

    def _log_switches(self) -> None:
        switches = self.switches
        if switches == self._logged:
            return
        self._logged = switches
        if switches.enabled:
            log.warning("collection on")
        else:
            log.warning(
                "collection off: nothing is collected or exported by=%s",
                ",".join(switches.off_by),
            )


async def _cancel_after(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
