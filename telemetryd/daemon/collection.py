"""The collecting half, wired: informers over one client, and the gatherer over their stores."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import anyio

from telemetryd.config import Config, IdentityConfig
from telemetryd.export.formats import PAYLOAD_FORMATS
from telemetryd.gather.build_info import BuildInfo
from telemetryd.gather.gatherer import Gatherer, Readers
from telemetryd.gather.project import (
    CLUSTERS,
    FEATURES,
    KUBE_SYSTEM,
    PROJECTS,
    SETTINGS,
    nodes_resource,
)
from telemetryd.gather.shapes import ShapeTable
from telemetryd.kube.client import KubeClient
from telemetryd.kube.informer import Informer
from telemetryd.kube.resource import Resource
from telemetryd.kube.source import KubeSource
from telemetryd.model import InformerStatus
from telemetryd.stats import GatherStats, InformerStats


class Collection:
    """Everything that has to run for snapshots to come.

    Attributes:
        gatherer: Where snapshots are taken from.
        gather_stats: What it did.
    """

    def __init__(
        self,
        config: Config,
        client: KubeClient,
        *,
        now: Callable[[], float],
        rng: random.Random,
    ) -> None:
        """Wire; nothing runs before ``run``.

        Args:
            config: Effective values of everything.
            client: The API server; stays the caller's.
            now: Unix time in seconds.
            rng: Spreads retries and relists.
        """
        self._informers: list[tuple[Informer[Any, Any], InformerStats]] = []

        def informer(resource: Resource[Any, Any]) -> Informer[Any, Any]:
            stats = InformerStats(resource.id)
            made = Informer(
                resource,
                KubeSource(client, resource),
                now=now,
                rng=rng,
                stats=stats,
                page_size=config.kubernetes.page_size,
            )
            self._informers.append((made, stats))
            return made

        settings = informer(SETTINGS).reader
        readers = Readers(
            clusters=informer(CLUSTERS).reader,
            nodes=informer(nodes_resource(ShapeTable())).reader,
            settings=settings,
            features=informer(FEATURES).reader,
            kube_system=informer(KUBE_SYSTEM).reader,
        )
        informer(PROJECTS)
        self._build_info = BuildInfo(settings=settings, overrides=config.identity, rng=rng)
        self.gather_stats = GatherStats()
        self.gatherer = Gatherer(
            readers=readers,
            overrides=config.identity,
            git_hash=self._build_info.git_hash,
            now=now,
            stats=self.gather_stats,
            privacy=config.privacy,
            detailed=_needs_detail(config),
        )
        self._build_info.on_change(self.gatherer.recheck)

    async def run(self) -> None:
        """Watch and gather; returns only when cancelled."""
        async with anyio.create_task_group() as watching:
            for informer, _ in self._informers:
                watching.start_soon(informer.run, name=f"informer {informer.resource.id}")
            watching.start_soon(self._build_info.run, name="build info")

    def override_identity(self, overrides: IdentityConfig) -> None:
        """Put other parts of the identity in force than those of the start."""
        self._build_info.override(overrides)
        self.gatherer.override(overrides)

    def follow(self, config: Config) -> None:
        """Put in force what a new configuration asks of snapshots, before its exporters are.

        Detail that was asked for once goes on: an exporter that ends may need it to the last.
        """
        self.gatherer.protect(config.privacy)
        if _needs_detail(config):
            self.gatherer.add_detail()

    def informer(self, resource_id: str) -> Informer[Any, Any] | None:
        """The informer of that resource, None where there is none."""
        found = (each for each, _ in self._informers if each.resource.id == resource_id)
        return next(found, None)

    def informers(self) -> Iterator[tuple[InformerStatus, InformerStats]]:
        """Status and counters of each informer."""
        for informer, stats in self._informers:
            yield informer.reader.status(), stats


def _needs_detail(config: Config) -> bool:
    return any(PAYLOAD_FORMATS[exporter.format].needs_detail for exporter in config.exporters)
