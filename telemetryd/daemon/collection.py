"""What is collected from: the source that there is, and a collection from it.

A collection is informers, and a gatherer over their stores. A new one is made whenever collecting
starts, and it is dropped as a whole when that ends: nothing of it outlives a change of source or an
opt-out.

The source is Rancher if the API server serves its group, else Kubernetes alone. One answer is
enough for Rancher. That there is none must be confirmed, because an API server that has just
started doesn't know its CRDs yet. An error says nothing either way.
"""

import logging
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import anyio

from telemetryd.config import Config, IdentityConfig
from telemetryd.errors import KubeError
from telemetryd.export.payloads.formats import PAYLOAD_FORMATS
from telemetryd.gather.build_info import RancherCommit
from telemetryd.gather.clusters import CLUSTERS
from telemetryd.gather.consumer import BUILD_SETTING, RancherBuild, build_of
from telemetryd.gather.gatherer import Gatherer, Readers
from telemetryd.gather.plain import CORE_NODES, PlainReaders, ServerVersion
from telemetryd.gather.project import (
    FEATURES,
    KUBE_SYSTEM,
    NODES,
    SETTINGS,
    setting_value,
)
from telemetryd.informer.informer import Informer
from telemetryd.informer.resource import Resource, T
from telemetryd.informer.source import KubeSource, serves_group
from telemetryd.kube.client import KubeClient
from telemetryd.kube.requests import Requests
from telemetryd.model import InformerStatus, R, SourceKind
from telemetryd.stats import GatherStats, InformerStats

log = logging.getLogger(__name__)


class Informers:
    """Informers that run together."""

    def __init__(
        self,
        client: KubeClient,
        *,
        page_size: int,
        streamed: bool,
        now: Callable[[], float],
        rng: random.Random,
    ) -> None:
        """None yet.

        ``client`` stays the caller's; lists come as streams if ``streamed`` and the API server can.
        """
        self._client = client
        self._page_size = page_size
        self._streamed = streamed
        self._now = now
        self._rng = rng
        self._made: list[tuple[Informer[Any, Any], InformerStats]] = []

    def make(self, resource: Resource[T, R], stats: InformerStats | None = None) -> Informer[T, R]:
        """Add an informer of the resource, which does nothing before ``run``.

        ``stats`` are counters that go on; None for new ones.
        """
        stats = stats or InformerStats(resource.id)
        made = Informer(
            resource,
            KubeSource(self._client, resource),
            now=self._now,
            rng=self._rng,
            stats=stats,
            page_size=self._page_size,
            streamed=self._streamed,
        )
        self._made.append((made, stats))
        return made

    def find(self, resource_id: str) -> Informer[Any, Any] | None:
        """The informer of that resource, None for none."""
        return next((each for each, _ in self._made if each.resource.id == resource_id), None)

    def all(self) -> Iterator[Informer[Any, Any]]:
        """All informers."""
        return (each for each, _ in self._made)

    def statuses(self) -> Iterator[tuple[InformerStatus, InformerStats]]:
        """Status and counters of each informer."""
        return ((informer.reader.status(), stats) for informer, stats in self._made)

    def on_change(self, handler: Callable[[], None]) -> None:
        """Call the handler when objects or the status of one of them have changed."""
        for informer, _ in self._made:
            informer.reader.on_change(handler)

    async def run(self) -> None:
        """Run them all; returns only when cancelled."""
        async with anyio.create_task_group() as watching:
            for informer, _ in self._made:
                watching.start_soon(informer.run, name=f"informer {informer.resource.id}")


class Collection:
    """Everything that must run for snapshots of one source."""

    def __init__(
        self,
        source: SourceKind,
        identity: IdentityConfig,
        informers: Informers,
        gatherer: Gatherer,
        build: RancherCommit | ServerVersion,
    ) -> None:
        """Made by ``build_collection``; nothing runs before ``run``."""
        self.source = source
        self._identity = identity
        self.informers = informers
        self.gatherer = gatherer
        self._build = build

    async def run(self) -> None:
        """Watch and gather; returns only when cancelled."""
        async with anyio.create_task_group() as collecting:
            collecting.start_soon(self.informers.run, name="informers")
            collecting.start_soon(self._build.run, name="build info")

    def follow(self, config: Config) -> None:
        """Put a configuration in force for snapshots, before its exporters are.

        Detail that was once needed stays: an exporter that ends may need it to the last.
        """
        if config.identity != self._identity:
            self._identity = config.identity
            self._build.override(config.identity)
            self.gatherer.override(config.identity)
        self.gatherer.protect(config.privacy)
        if needs_detail(config):
            self.gatherer.add_detail()


def build_collection(
    source: SourceKind,
    config: Config,
    client: KubeClient,
    *,
    now: Callable[[], float],
    rng: random.Random,
    stats: GatherStats,
) -> Collection:
    """Make a collection; nothing is requested yet. Its gatherer counts in ``stats``."""
    informers = Informers(
        client,
        page_size=config.kubernetes.page_size,
        streamed=config.kubernetes.streamed,
        now=now,
        rng=rng,
    )

    def gather(readers: Readers | PlainReaders, git_hash: Callable[[], str | None]) -> Gatherer:
        return Gatherer(
            readers=readers,
            overrides=config.identity,
            git_hash=git_hash,
            now=now,
            stats=stats,
            privacy=config.privacy,
            detailed=needs_detail(config),
        )

    if source is SourceKind.RANCHER:
        settings = informers.make(SETTINGS).reader
        rancher = Readers(
            clusters=informers.make(CLUSTERS).reader,
            nodes=informers.make(NODES).reader,
            settings=settings,
            features=informers.make(FEATURES).reader,
            kube_system=informers.make(KUBE_SYSTEM).reader,
        )
        build = RancherCommit(
            settings=settings,
            overrides=config.identity,
            api_server=lambda: client.server,
            rng=rng,
        )
        gatherer = gather(rancher, build.git_hash)
        build.on_change(gatherer.recheck)
        return Collection(source, config.identity, informers, gatherer, build)
    nodes = informers.make(CORE_NODES).reader
    version = ServerVersion(client, nodes=nodes, overrides=config.identity, rng=rng)
    plain = PlainReaders(
        nodes=nodes,
        kube_system=informers.make(KUBE_SYSTEM).reader,
        server_version=lambda: version.version,
    )
    gatherer = gather(plain, version.git_hash)
    version.on_change(gatherer.facts_changed)
    return Collection(source, config.identity, informers, gatherer, version)


def find_build(informers: Iterable[Informer[Any, Any]]) -> RancherBuild | None:
    """Which build of Rancher they watch; None for none, or before that is known."""
    for each in informers:
        if each.resource.id == SETTINGS.id:
            status = each.reader.status()
            known = status.synced and not status.absent
            return build_of(setting_value(each.reader, BUILD_SETTING)) if known else None
    return None


def needs_detail(config: Config) -> bool:
    """Whether one of the exporters sends what only detailed snapshots hold."""
    return any(PAYLOAD_FORMATS[exporter.format].needs_detail for exporter in config.exporters)


@dataclass(frozen=True, slots=True)
class FinderTiming:
    """When discovery is requested; tests shorten it.

    Attributes:
        poll_s: Between regular checks; up to a fifth longer or shorter.
        settled_s: The same while there is a Rancher: its informers notice at once if it goes.
        confirm_s: Between the checks that confirm an absence.
        confirmations: Checks in a row that must find no Rancher.
        retry_s: After a check that failed, while no source is known.
        timeout_s: Of one check.
    """

    poll_s: float = 10.0
    settled_s: float = 60.0
    confirm_s: float = 3.0
    confirmations: int = 3
    retry_s: float = 2.0
    timeout_s: float = 10.0


DEFAULT_TIMING: Final = FinderTiming()


class SourceFinder:
    """Finds the source, and keeps checking it.

    Attributes:
        found: The source, None before it is known.
        error: Why the last check failed, empty if it didn't.
    """

    def __init__(
        self,
        client: Requests,
        *,
        rng: random.Random,
        changed: Callable[[], None],
        timing: FinderTiming = DEFAULT_TIMING,
    ) -> None:
        """Nothing is requested yet; ``changed`` is called when ``found`` has changed."""
        self._client = client
        self._rng = rng
        self._changed = changed
        self._timing = timing
        self._absences = 0
        self._look_now = anyio.Event()
        self.found: SourceKind | None = None
        self.error = ""

    def look(self) -> None:
        """Check again at once: a resource of the source is gone."""
        self._look_now.set()

    async def find(self) -> SourceKind:
        """Check until the source is known."""
        while True:
            pause_s = await self._look()
            if self.found is not None:
                return self.found
            await anyio.sleep(pause_s)

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            self._look_now = anyio.Event()
            pause_s = await self._look()
            if self._absences and self.found is not SourceKind.KUBERNETES:
                # Checks at the same moment, for several informers, confirm nothing.
                await anyio.sleep(pause_s)
            else:
                with anyio.move_on_after(pause_s):
                    await self._look_now.wait()

    async def _look(self) -> float:
        """Check once; returns the seconds to the next check."""
        timing = self._timing
        try:
            there = await serves_group(
                self._client, CLUSTERS.group, CLUSTERS.version, timeout_s=timing.timeout_s
            )
        except KubeError as error:
            self._absences = 0
            level = logging.DEBUG if self.error else logging.WARNING
            log.log(level, "source not found error=%r", str(error))
            self.error = str(error)
            return timing.retry_s if self.found is None else self._poll_s()
        self.error = ""
        if there:
            self._absences = 0
            self._settle(SourceKind.RANCHER)
        elif self.found is not SourceKind.KUBERNETES:
            self._absences += 1
            if self._absences < timing.confirmations:
                return timing.confirm_s
            self._settle(SourceKind.KUBERNETES)
        return self._poll_s()

    def _settle(self, source: SourceKind) -> None:
        if source is not self.found:
            self.found = source
            self._changed()

    def _poll_s(self) -> float:
        settled = self.found is SourceKind.RANCHER and not self.error
        period_s = self._timing.settled_s if settled else self._timing.poll_s
        return period_s * self._rng.uniform(0.8, 1.2)
