"""The collecting half, wired for one source: informers over a client, a gatherer over their stores.

A collection is made anew whenever collecting begins, and dropped as a whole when it ends: nothing
of it outlives a switch of source or an opt-out. When that happens is ``collector``'s.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import anyio

from telemetryd.config import Config, IdentityConfig
from telemetryd.export.payloads.formats import PAYLOAD_FORMATS
from telemetryd.gather.build_info import RancherCommit
from telemetryd.gather.clusters import CLUSTERS
from telemetryd.gather.consumer import BUILD_SETTING, RancherBuild, build_of
from telemetryd.gather.corenode import core_nodes_resource
from telemetryd.gather.gatherer import Gatherer, Readers
from telemetryd.gather.identity import setting_value
from telemetryd.gather.plain import PlainReaders
from telemetryd.gather.project import (
    FEATURES,
    KUBE_SYSTEM,
    SETTINGS,
    nodes_resource,
)
from telemetryd.gather.serverversion import ServerVersion
from telemetryd.gather.shapes import ShapeTable
from telemetryd.informer.informer import Informer
from telemetryd.informer.resource import Resource, T
from telemetryd.informer.source import KubeSource
from telemetryd.kube.client import KubeClient
from telemetryd.model import InformerStatus, R, SourceKind
from telemetryd.stats import GatherStats, InformerStats


class Informers:
    """Makes the informers of one collection, and knows them all."""

    def __init__(
        self,
        client: KubeClient,
        *,
        page_size: int,
        streamed: bool,
        now: Callable[[], float],
        rng: random.Random,
    ) -> None:
        """Prepare.

        Args:
            client: The API server; stays the caller's.
            page_size: Objects a page.
            streamed: Lists come as streams where the API server serves them so.
            now: Unix time in seconds.
            rng: Spreads retries and relists.
        """
        self._client = client
        self._page_size = page_size
        self._streamed = streamed
        self._now = now
        self._rng = rng
        self._made: list[tuple[Informer[Any, Any], InformerStats]] = []

    def make(self, resource: Resource[T, R]) -> Informer[T, R]:
        """An informer of the resource; it does nothing before it is run."""
        stats = InformerStats(resource.id)
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
        """The informer of that resource, None where there is none."""
        return next((each for each, _ in self._made if each.resource.id == resource_id), None)

    def all(self) -> Iterator[Informer[Any, Any]]:
        """Every one that has been made."""
        return (each for each, _ in self._made)

    def statuses(self) -> Iterator[tuple[InformerStatus, InformerStats]]:
        """Status and counters of each informer."""
        for informer, stats in self._made:
            yield informer.reader.status(), stats

    def on_change(self, handler: Callable[[], None]) -> None:
        """Call the handler whenever anything that one of them holds or tells has changed."""
        for informer, _ in self._made:
            informer.reader.on_change(handler)

    async def run(self) -> None:
        """Run them all; returns only when cancelled."""
        async with anyio.create_task_group() as watching:
            for informer, _ in self._made:
                watching.start_soon(informer.run, name=f"informer {informer.resource.id}")


class Build(Protocol):
    """What knows the build commit of the product, and has to be run for it."""

    def override(self, overrides: IdentityConfig) -> None:
        """Put other overrides in force."""

    async def run(self) -> None:
        """Keep it; returns only when cancelled."""


class Collection:
    """Everything that has to run for snapshots of one source to come.

    Attributes:
        source: What is collected from.
        informers: Of all that is watched.
        gatherer: Where snapshots are taken from.
    """

    def __init__(
        self,
        source: SourceKind,
        identity: IdentityConfig,
        informers: Informers,
        gatherer: Gatherer,
        build: Build,
    ) -> None:
        """Use ``build_collection``; nothing runs before ``run``."""
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
        """Put in force what a new configuration asks of snapshots, before its exporters are.

        Detail that was asked for once goes on: an exporter that ends may need it to the last.
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
    """Wire a collection; nothing is asked of the API server yet.

    Args:
        source: What to collect from.
        config: In force now.
        client: The API server; stays the caller's.
        now: Unix time in seconds.
        rng: Spreads retries and relists.
        stats: Moved by its gatherer.
    """
    informers = Informers(
        client,
        page_size=config.kubernetes.page_size,
        streamed=config.kubernetes.streamed,
        now=now,
        rng=rng,
    )
    if source is SourceKind.RANCHER:
        return _build_rancher(informers, config, client, now=now, rng=rng, stats=stats)
    return _build_plain(informers, config, client, now=now, rng=rng, stats=stats)


def _build_rancher(
    informers: Informers,
    config: Config,
    client: KubeClient,
    *,
    now: Callable[[], float],
    rng: random.Random,
    stats: GatherStats,
) -> Collection:
    settings = informers.make(SETTINGS).reader
    readers = Readers(
        clusters=informers.make(CLUSTERS).reader,
        nodes=informers.make(nodes_resource(ShapeTable())).reader,
        settings=settings,
        features=informers.make(FEATURES).reader,
        kube_system=informers.make(KUBE_SYSTEM).reader,
    )
    build_info = RancherCommit(
        settings=settings,
        overrides=config.identity,
        api_server=lambda: client.server,
        rng=rng,
    )
    gatherer = _gather(readers, config, build_info.git_hash, now=now, stats=stats)
    build_info.on_change(gatherer.recheck)
    return Collection(SourceKind.RANCHER, config.identity, informers, gatherer, build_info)


def _build_plain(
    informers: Informers,
    config: Config,
    client: KubeClient,
    *,
    now: Callable[[], float],
    rng: random.Random,
    stats: GatherStats,
) -> Collection:
    nodes = informers.make(core_nodes_resource(ShapeTable())).reader
    version = ServerVersion(client, nodes=nodes, overrides=config.identity, rng=rng)
    readers = PlainReaders(
        nodes=nodes,
        kube_system=informers.make(KUBE_SYSTEM).reader,
        server_version=lambda: version.version,
    )
    gatherer = _gather(readers, config, version.git_hash, now=now, stats=stats)
    version.on_change(gatherer.facts_changed)
    return Collection(SourceKind.KUBERNETES, config.identity, informers, gatherer, version)


def _gather(
    readers: Readers | PlainReaders,
    config: Config,
    git_hash: Callable[[], str | None],
    *,
    now: Callable[[], float],
    stats: GatherStats,
) -> Gatherer:
    return Gatherer(
        readers=readers,
        overrides=config.identity,
        git_hash=git_hash,
        now=now,
        stats=stats,
        privacy=config.privacy,
        detailed=needs_detail(config),
    )


def find_build(informers: Iterable[Informer[Any, Any]]) -> RancherBuild | None:
    """Which build of Rancher they follow; None where they follow none, or before that is known."""
    for each in informers:
        if each.resource.id == SETTINGS.id:
            status = each.reader.status()
            known = status.synced and not status.absent
            return build_of(setting_value(each.reader, BUILD_SETTING)) if known else None
    return None


def needs_detail(config: Config) -> bool:
    """Whether one of the exporters sends what only detailed snapshots hold."""
    return any(PAYLOAD_FORMATS[exporter.format].needs_detail for exporter in config.exporters)
