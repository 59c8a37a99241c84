"""SecretRequests, wired: two informers, the controller over them, and the switch that rules both.

Both informers belong to the controller alone: nothing else reads projects, and no payload or
readiness waits for either.
"""

import random
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import anyio

from telemetryd.config import Config, ExporterConfig, SecretExporterConfig, SecretRequestsConfig
from telemetryd.config.exporters import default_timeout_s
from telemetryd.control.secretrequest import SecretRequestController, Target
from telemetryd.daemon.leadership import Leadership
from telemetryd.export.exporter import Exporter
from telemetryd.export.manager import ExporterManager
from telemetryd.export.spec import ExporterSpec
from telemetryd.gather.project import PROJECTS
from telemetryd.gather.requests import SECRET_REQUESTS
from telemetryd.kube.client import KubeClient
from telemetryd.kube.informer import Informer
from telemetryd.kube.resource import Resource
from telemetryd.kube.source import KubeSource
from telemetryd.model import InformerStatus, RequestStatus, SourceKind
from telemetryd.stats import InformerStats


@dataclass(frozen=True, slots=True)
class _Watched:
    informer: Informer[Any, Any]
    stats: InformerStats


class SecretRequests:
    """Everything that has to run for SecretRequests to be served.

    ``run`` may be cancelled and called again: it then begins with empty informers, and exporters
    that are registered go on.
    """

    def __init__(
        self,
        config: Config,
        client: KubeClient,
        manager: ExporterManager,
        build: Callable[[ExporterConfig], tuple[ExporterSpec, Exporter]],
        *,
        source: Callable[[], SourceKind | None],
        leadership: Leadership,
        now: Callable[[], float],
        rng: random.Random,
    ) -> None:
        """Wire; nothing runs before ``run``.

        Args:
            config: Effective values of everything.
            client: The API server; stays the caller's.
            manager: Where exporters are registered.
            build: Makes an exporter of its configuration, without side effects.
            source: What is collected from.
            leadership: Requests are served while this replica leads.
            now: Unix time in seconds.
            rng: Spreads retries, relists and looks.
        """
        self._client = client
        self._kubernetes = config.kubernetes
        self._source = source
        self._leadership = leadership
        self._now = now
        self._rng = rng
        self._settings = config.secret_requests
        self._changed = anyio.Event()
        self._stats = {each.id: InformerStats(each.id) for each in (SECRET_REQUESTS, PROJECTS)}
        self._watched: tuple[_Watched, ...] = ()

        def build_for(
            name: str, target: Target, settings: SecretRequestsConfig
        ) -> tuple[ExporterSpec, Exporter]:
            return build(_exporter_config(name, target, settings))

        self._controller = SecretRequestController(
            client.requests(fence=leadership.require),
            manager,
            build_for,
            settings=config.secret_requests,
            configured=_configured(config),
            now=now,
            rng=rng,
        )

    async def run(self) -> None:
        """Watch and serve while that is switched on; returns only when cancelled."""
        while True:
            changed = self._changed = anyio.Event()
            if not self._is_on():
                await self._controller.withdraw()
                await changed.wait()
                continue
            try:
                async with anyio.create_task_group() as serving:
                    serving.start_soon(self._serve, name="secret requests")
                    while self._is_on():
                        changed = self._changed = anyio.Event()
                        await changed.wait()
                    serving.cancel_scope.cancel()
            finally:
                self._watched = ()

    def _is_on(self) -> bool:
        if isinstance(self._settings.enabled, bool):
            return self._settings.enabled
        return self._source() is SourceKind.RANCHER

    async def _serve(self) -> None:
        requests, projects = self._watch(SECRET_REQUESTS), self._watch(PROJECTS)
        self._watched = (requests, projects)
        async with anyio.create_task_group() as watching:
            for each in self._watched:
                watching.start_soon(each.informer.run, name=f"informer {each.stats.resource}")
            while True:
                if self._leadership.leading:
                    async with anyio.create_task_group() as leading:
                        leading.start_soon(
                            self._controller.run, requests.informer.reader, projects.informer.reader
                        )
                        await self._leadership.changed()
                        leading.cancel_scope.cancel()
                else:
                    await self._leadership.changed()

    def configure(self, config: Config) -> Collection[str]:
        """Put another configuration in force.

        Returns:
            The exporters of requests that must end before those configured begin.
        """
        self._settings = config.secret_requests
        self._changed.set()
        return self._controller.configure(config.secret_requests, _configured(config))

    def statuses(self) -> tuple[RequestStatus, ...]:
        """What is known of each request, by name."""
        return tuple(self._controller.statuses())

    def watched(self) -> Iterator[Informer[Any, Any]]:
        """The informers that run now."""
        return (each.informer for each in self._watched)

    def informers(self) -> Iterator[tuple[InformerStatus, InformerStats]]:
        """Status and counters of each informer."""
        for each in self._watched:
            yield each.informer.reader.status(), each.stats

    def _watch(self, resource: Resource[Any, Any]) -> _Watched:
        stats = self._stats[resource.id]
        informer = Informer(
            resource,
            KubeSource(self._client, resource),
            now=self._now,
            rng=self._rng,
            stats=stats,
            page_size=self._kubernetes.page_size,
            streamed=self._kubernetes.streamed,
        )
        return _Watched(informer, stats)


def _exporter_config(
    name: str, target: Target, settings: SecretRequestsConfig
) -> SecretExporterConfig:
    return SecretExporterConfig(
        name=name,
        interval_s=settings.interval_s,
        timeout_s=default_timeout_s(settings.interval_s),
        namespace=target.namespace,
        secret=target.secret,
        takeover=settings.takeover,
        quiet_period_s=settings.quiet_period_s,
    )


def _configured(config: Config) -> Mapping[Target, str]:
    """The Secrets that exporters of the configuration write, and the exporters' names."""
    return {
        Target(exporter.namespace, exporter.secret): exporter.name
        for exporter in config.exporters
        if isinstance(exporter, SecretExporterConfig) and exporter.enabled
    }
