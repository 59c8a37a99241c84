"""SecretRequests, wired: two informers, the controller over them, and the switch that rules both.

The informers run beside the collection, the controller is guarded work: it runs only while nothing
is held, and what holds it waits for its end.

Both informers belong to the controller alone: nothing else reads projects, and no payload or
readiness waits for either.
"""

import math
import random
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Unpack

import anyio
import anyio.lowlevel

from telemetryd.config import Config, ExporterConfig, SecretExporterConfig, SecretRequestsConfig
from telemetryd.config.exporters import default_timeout_s
from telemetryd.control.secretrequest import SecretRequestController, Target
from telemetryd.daemon.leadership import Leadership
from telemetryd.errors import Reason, Unavailable
from telemetryd.export.engine.manager import ExporterManager
from telemetryd.export.exporter import Exporter
from telemetryd.export.spec import ExporterSpec
from telemetryd.gather.project import PROJECTS
from telemetryd.gather.requests import SECRET_REQUESTS
from telemetryd.informer.informer import Informer
from telemetryd.informer.resource import Resource
from telemetryd.informer.source import KubeSource
from telemetryd.kube.client import KubeClient
from telemetryd.kube.requests import RequestOptions, Requests
from telemetryd.model import ExporterState, InformerStatus, RequestStatus, SourceKind
from telemetryd.stats import InformerStats


@dataclass(frozen=True, slots=True)
class _Watched:
    informer: Informer[Any, Any]
    stats: InformerStats


class SecretRequests:
    """Everything that has to run for SecretRequests to be served.

    ``run`` may be cancelled and called again: it then begins with empty informers, and exporters
    that are registered go on. ``serve`` runs beside it, all the time.
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
            leadership: Every write is held to it.
            now: Unix time in seconds.
            rng: Spreads retries, relists and looks.
        """
        self._client = client
        self._kubernetes = config.kubernetes
        self._source = source
        self._manager = manager
        self._now = now
        self._rng = rng
        self._settings = config.secret_requests
        self._changed = anyio.Event()
        self._stats = {each.id: InformerStats(each.id) for each in (SECRET_REQUESTS, PROJECTS)}
        self._watched: tuple[_Watched, ...] = ()
        self._held: set[ExporterState] = set()
        self._serving: anyio.CancelScope | None = None
        self._ended = anyio.Event()
        self._writes = UnbrokenWrites(client.requests(fence=leadership.require))

        def build_for(
            name: str, target: Target, settings: SecretRequestsConfig
        ) -> tuple[ExporterSpec, Exporter]:
            return build(_exporter_config(name, target, settings))

        self._controller = SecretRequestController(
            self._writes,
            manager,
            build_for,
            settings=config.secret_requests,
            configured=_configured(config),
            now=now,
            rng=rng,
        )

    async def run(self) -> None:
        """Watch while that is switched on; returns only when cancelled."""
        self._change()  # there is a source now
        while True:
            while not self._is_on():
                await self._changed.wait()
            requests, projects = self._watch(SECRET_REQUESTS), self._watch(PROJECTS)
            try:
                async with anyio.create_task_group() as watching:
                    for each in (requests, projects):
                        name = f"informer {each.stats.resource}"
                        watching.start_soon(each.informer.run, name=name)
                    self._watched = (requests, projects)
                    self._change()
                    while self._is_on():
                        await self._changed.wait()
                    watching.cancel_scope.cancel()
            finally:
                self._watched = ()
                self._change()

    async def serve(self) -> None:
        """Serve what is watched while nothing is held; returns only when cancelled.

        A write that has begun then comes to its end first, within the drain timeout.
        """
        while True:
            changed = self._changed
            if self._may_serve(self._watched):
                await self._serve(self._watched)
                continue
            if self._source() is not None and not self._is_on():
                await self._controller.withdraw()
            await changed.wait()

    def cut(self, state: ExporterState) -> None:
        """End the controller at once, and a write of it that has begun; see ``ended``."""
        self._held.add(state)
        if self._serving is not None:
            self._serving.cancel()
            self._writes.end_by(anyio.current_time())

    async def ended(self) -> None:
        """Return once the controller has ended that was cut; takes moments, and is shielded."""
        if self._serving is not None:
            with anyio.CancelScope(shield=True):
                await self._ended.wait()

    def release(self, state: ExporterState) -> None:
        """Let the controller run again, unless it is cut for another reason too."""
        self._held.discard(state)
        self._change()

    def _is_on(self) -> bool:
        if isinstance(self._settings.enabled, bool):
            return self._settings.enabled
        return self._source() is SourceKind.RANCHER

    def _may_serve(self, watched: tuple[_Watched, ...]) -> bool:
        return bool(watched) and watched is self._watched and self._is_on() and not self._held

    async def _serve(self, watched: tuple[_Watched, ...]) -> None:
        self._ended = anyio.Event()
        self._writes.end_by(math.inf)
        try:
            async with anyio.create_task_group() as serving:
                self._serving = serving.cancel_scope
                requests, projects = (each.informer.reader for each in watched)
                serving.start_soon(self._controller.run, requests, projects, name="controller")
                try:
                    while self._may_serve(watched):
                        await self._changed.wait()
                    serving.cancel_scope.cancel()
                finally:
                    if not self._held:
                        self._writes.end_by(anyio.current_time() + self._manager.drain_timeout_s)
        finally:
            self._serving = None
            self._ended.set()

    def _change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def configure(self, config: Config) -> Collection[str]:
        """Put another configuration in force.

        Returns:
            The exporters of requests that must end before those configured begin.
        """
        self._settings = config.secret_requests
        self._change()
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


class UnbrokenWrites:
    """Requests of one task, of which a write that has begun isn't cut off with its task.

    A write that is cut off may still be carried out, after the Lease has been released.
    """

    def __init__(self, requests: Requests) -> None:
        """Around those requests."""
        self._requests = requests
        self._end_s = math.inf
        self._writing: anyio.CancelScope | None = None

    def end_by(self, time_s: float) -> None:
        """Cut off the write at this time, on the loop's clock, and those that begin from now on."""
        self._end_s = time_s
        if self._writing is not None:
            self._writing.deadline = time_s

    async def request(self, method: str, path: str, **options: Unpack[RequestOptions]) -> bytes:
        """Make one request; the answer's body.

        Raises:
            Unavailable: It was cut off.
            KubeError: There was no answer, or an error.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        with anyio.CancelScope(shield=method != "GET", deadline=self._end_s) as self._writing:
            return await self._requests.request(method, path, **options)
        await anyio.lowlevel.checkpoint_if_cancelled()
        raise Unavailable(f"{method} {path}: cut off", kind=Reason.TIMEOUT)


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
