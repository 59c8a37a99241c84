"""SecretRequests in the daemon, and the Registrations of scc-operator.

Guarded work is what one replica alone may do: the exporters and the controller of SecretRequests.
Its two informers run beside the collection, and no payload or readiness waits for them. The
Registrations are read for the status alone: two small reads every few minutes, while Rancher is
the source.
"""

import logging
import math
import random
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final, Unpack

import anyio
import anyio.lowlevel

from telemetryd.bounds import free_text
from telemetryd.config import Config, ExporterConfig, SecretExporterConfig, SecretRequestsConfig
from telemetryd.config.exporters import default_timeout_s
from telemetryd.control.secretrequest.controller import SecretRequestController
from telemetryd.control.secretrequest.decision import SecretRef
from telemetryd.daemon.collection import Informers
from telemetryd.errors import KubeError, Reason, Unavailable
from telemetryd.export.engine.manager import ExporterManager
from telemetryd.export.exporter import Exporter, ExporterSpec
from telemetryd.gather.consumer import Registrations, read_registrations
from telemetryd.gather.project import PROJECTS
from telemetryd.gather.requests import SECRET_REQUESTS
from telemetryd.informer.informer import Informer
from telemetryd.kube.client import KubeClient
from telemetryd.kube.requests import Fence, RequestOptions, Requests
from telemetryd.model import ExporterState, InformerStatus, RequestStatus, SourceKind
from telemetryd.stats import InformerStats

log = logging.getLogger(__name__)

POLL_S: Final = 300.0
"""Between two reads, give or take a fifth."""

REQUEST_S: Final = 10.0
"""Deadline of each of two requests."""


class SecretRequests:
    """Everything that has to run for SecretRequests to be served.

    ``run`` may be cancelled and called again: it then starts with empty informers, and registered
    exporters go on. ``serve`` runs beside it, all the time.
    """

    def __init__(
        self,
        config: Config,
        client: KubeClient,
        manager: ExporterManager,
        build: Callable[[ExporterConfig], tuple[ExporterSpec, Exporter]],
        *,
        source: Callable[[], SourceKind | None],
        fence: Fence,
        now: Callable[[], float],
        rng: random.Random,
    ) -> None:
        """Nothing runs before ``run``.

        ``client`` stays the caller's; ``build`` has no side effects; ``fence`` is called before
        each write.
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
        self._watched: Informers | None = None
        self._held: set[ExporterState] = set()
        self._serving: anyio.CancelScope | None = None
        self._ended = anyio.Event()
        self._writes = UnbrokenWrites(client.requests(fence=fence))

        self._controller = SecretRequestController(
            self._writes,
            manager,
            lambda name, target, settings: build(_exporter_config(name, target, settings)),
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
            informers = self._make_informers()
            try:
                async with anyio.create_task_group() as watching:
                    watching.start_soon(informers.run, name="informers")
                    self._watched = informers
                    self._change()
                    while self._is_on():
                        await self._changed.wait()
                    watching.cancel_scope.cancel()
            finally:
                self._watched = None
                self._change()

    async def serve(self) -> None:
        """Serve requests while nothing is held; returns only when cancelled.

        A write that has started is completed first, within the drain timeout.
        """
        while True:
            changed, watched = self._changed, self._watched
            if watched is not None and self._may_serve(watched):
                await self._serve(watched)
                continue
            if self._source() is not None and not self._is_on():
                await self._controller.withdraw()
            await changed.wait()

    def cut(self, state: ExporterState) -> None:
        """End the controller and its current write at once; see ``ended``."""
        self._held.add(state)
        if self._serving is not None:
            self._serving.cancel()
            self._writes.end_by(anyio.current_time())

    async def ended(self) -> None:
        """Return when the controller that was cut has ended; quick, and shielded."""
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

    def _may_serve(self, watched: Informers) -> bool:
        return watched is self._watched and self._is_on() and not self._held

    async def _serve(self, watched: Informers) -> None:
        self._ended = anyio.Event()
        self._writes.end_by(math.inf)
        try:
            async with anyio.create_task_group() as serving:
                self._serving = serving.cancel_scope
                requests, projects = (each.reader for each in watched.all())
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
            The exporters of requests that must end before those configured start.
        """
        if config.secret_requests != self._settings:
            self._settings = config.secret_requests
            self._change()
        return self._controller.configure(config.secret_requests, _configured(config))

    def statuses(self) -> tuple[RequestStatus, ...]:
        """What is known of each request, by name."""
        return tuple(self._controller.statuses())

    def watched(self) -> Iterable[Informer[Any, Any]]:
        """The informers that run now."""
        return () if self._watched is None else self._watched.all()

    def informers(self) -> Iterable[tuple[InformerStatus, InformerStats]]:
        """Status and counters of each informer."""
        return () if self._watched is None else self._watched.statuses()

    def _make_informers(self) -> Informers:
        informers = Informers(
            self._client,
            page_size=self._kubernetes.page_size,
            streamed=self._kubernetes.streamed,
            now=self._now,
            rng=self._rng,
        )
        informers.make(SECRET_REQUESTS, self._stats[SECRET_REQUESTS.id])
        informers.make(PROJECTS, self._stats[PROJECTS.id])
        return informers


class GuardedWork:
    """The exporters and the SecretRequest controller: what one replica alone may do.

    An opt-out, a move to another source or the loss of the Lease holds it; a shutdown drains it.
    In both cases it has ended when the call returns, so the Lease is released only after that.
    """

    def __init__(self, exporters: ExporterManager, requests: SecretRequests) -> None:
        self._exporters = exporters
        self._requests = requests

    async def run(self) -> None:
        """Work until cancelled, then drain: both at once, within the drain timeout and 2 s."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._exporters.run, name="exporters")
            group.start_soon(self._requests.serve, name="secret requests")

    async def hold(self, state: ExporterState, detail: str) -> None:
        """Cut off all work, and allow none until this state is released; ``detail`` says why."""
        self._requests.cut(state)
        await self._exporters.hold(state, detail)
        await self._requests.ended()

    def release(self, state: ExporterState) -> None:
        """End a hold; nothing if the state isn't held."""
        self._exporters.release(state)
        self._requests.release(state)


class UnbrokenWrites:
    """Requests of one task; a write that has started isn't cut off when the task is cancelled.

    The API server may carry out a write that was cut off after the Lease has been released.
    """

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._end_s = math.inf
        self._writing: anyio.CancelScope | None = None

    def end_by(self, time_s: float) -> None:
        """Cut off the current write and later ones at this time, on the loop's clock."""
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
    name: str, target: SecretRef, settings: SecretRequestsConfig
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


def _configured(config: Config) -> Mapping[SecretRef, str]:
    """The Secrets that exporters of the configuration write, and the exporters' names."""
    return {
        SecretRef(exporter.namespace, exporter.secret): exporter.name
        for exporter in config.exporters
        if isinstance(exporter, SecretExporterConfig) and exporter.enabled
    }


class RegistrationReader:
    """Reads Registrations from time to time.

    Attributes:
        known: What was read last; None before the first read, and while nothing is collected.
    """

    def __init__(
        self,
        requests: Requests,
        *,
        source: Callable[[], SourceKind | None],
        now: Callable[[], float],
        rng: random.Random,
    ) -> None:
        """Nothing is read before ``run``; ``rng`` spreads the reads of many daemons."""
        self._requests = requests
        self._source = source
        self._now = now
        self._rng = rng
        self.known: Registrations | None = None

    async def run(self) -> None:
        """Read until cancelled, then forget."""
        try:
            while True:
                if self._source() is SourceKind.RANCHER:
                    await self._read()
                await anyio.sleep(POLL_S * self._rng.uniform(0.8, 1.2))
        finally:
            self.known = None

    async def _read(self) -> None:
        try:
            self.known = await read_registrations(
                self._requests, timeout_s=REQUEST_S, now_s=self._now()
            )
        except KubeError as error:
            before = self.known or Registrations(served=None)
            if not before.error:
                log.info("registrations of scc-operator can't be read error=%r", str(error))
            self.known = replace(before, error=free_text(str(error)))
