"""The daemon: every part wired together, from the first line of the log to the last."""

import asyncio
import logging
import platform
import random
import signal
from collections.abc import Callable, Iterator

import anyio
from anyio.abc import TaskStatus

from telemetryd import __version__
from telemetryd.config import Config
from telemetryd.daemon.collection import Collection
from telemetryd.daemon.exporters import ExporterFactory
from telemetryd.daemon.heartbeat import Heartbeat
from telemetryd.errors import NotReady
from telemetryd.export.manager import ExporterManager
from telemetryd.kube.client import KubeClient
from telemetryd.model import ExporterStatus, Snapshot
from telemetryd.serve.metrics import MetricsRenderer
from telemetryd.serve.server import Endpoints, Listening, serve
from telemetryd.serve.status import Report, StatusFacts, liveness, readiness
from telemetryd.serve.view import BuildInfo, MetricsSources
from telemetryd.stats import ExporterStats, KubeStats

log = logging.getLogger(__name__)


async def run_daemon(
    config: Config, *, where: str, now: Callable[[], float], rng: random.Random
) -> None:
    """Run until SIGTERM or SIGINT, then drain.

    Args:
        config: Effective values of everything.
        where: The file it came from, for messages.
        now: Unix time in seconds.
        rng: Source of every jitter.

    Raises:
        ConfigError: The API server's access or the listen address can't be used.
    """
    stop = anyio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, stop, number)
    await run_until(stop, config, where=where, now=now, rng=rng)


def _stop(stop: anyio.Event, number: signal.Signals) -> None:
    log.info("stopping signal=%s", number.name)
    stop.set()


async def run_until(
    stop: anyio.Event,
    config: Config,
    *,
    where: str,
    now: Callable[[], float],
    rng: random.Random,
    task_status: TaskStatus[Listening] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Run until the event is set, then drain within the configured time.

    Raises:
        ConfigError: As of ``run_daemon``.
    """
    kube_stats = KubeStats()
    async with KubeClient.connect(config.kubernetes, kube_stats) as client:
        daemon = Daemon(config, client, kube_stats, now=now, rng=rng)
        endpoints = daemon.endpoints()
        listen = config.server
        async with serve(
            listen.listen_host, listen.listen_port, endpoints, where=where
        ) as listening:
            log.info(
                "started version=%s api_server=%s listen=%s exporters=%d",
                __version__,
                client.server,
                listening,
                len(config.exporters),
            )
            task_status.started(listening)
            await daemon.run(stop)
    log.info("stopped")


class Daemon:
    """The parts of a running daemon, and what it tells of them."""

    def __init__(
        self,
        config: Config,
        client: KubeClient,
        kube_stats: KubeStats,
        *,
        now: Callable[[], float],
        rng: random.Random,
    ) -> None:
        """Wire; nothing runs before ``run``."""
        self._client = client
        self._kube_stats = kube_stats
        self._now = now
        self._started_at = now()
        self._heartbeat = Heartbeat()
        self._collection = Collection(config, client, now=now, rng=rng)
        self._manager = ExporterManager(
            self._collection.gatherer, now=now, rng=rng, drain_timeout_s=config.drain_timeout_s
        )
        self._factory = ExporterFactory(client, now=now)
        for exporter in config.exporters:
            self._manager.register(*self._factory.build(exporter))

    async def run(self, stop: anyio.Event) -> None:
        """Collect and export until the event is set, then drain."""
        async with anyio.create_task_group() as background:
            background.start_soon(self._heartbeat.run, name="heartbeat")
            background.start_soon(self._collection.run, name="collection")
            # A group of its own: while exporters drain, the rest goes on.
            async with anyio.create_task_group() as exporting:
                exporting.start_soon(self._manager.run, name="exporters")
                await stop.wait()
                exporting.cancel_scope.cancel()
            background.cancel_scope.cancel()

    def endpoints(self) -> Endpoints:
        """What HTTP shows of this daemon."""
        sources = MetricsSources(
            build=BuildInfo(__version__, "", platform.python_version()),
            now=self._now,
            informers=self._collection.informers,
            kube=self._kube_stats,
            gather=self._collection.gather_stats,
            snapshot=self._snapshot,
            exporters=self._exporters,
            loop_lag=self._heartbeat.lag,
        )
        return Endpoints(
            metrics=MetricsRenderer(sources),
            liveness=self._liveness,
            readiness=self._readiness,
            status=self._status,
        )

    def _snapshot(self) -> Snapshot | None:
        try:
            return self._collection.gatherer.snapshot()
        except NotReady:
            return None

    def _exporters(self) -> Iterator[tuple[ExporterStatus, ExporterStats]]:
        stats = self._manager.stats()
        for status in self._manager.statuses():
            yield status, stats[status.name]

    def _liveness(self) -> Report:
        return liveness(loop_alive=self._heartbeat.alive, scheduler_alive=True)

    def _readiness(self) -> Report:
        return readiness(
            config_applied=True, required=[status for status, _ in self._collection.informers()]
        )

    def _status(self) -> StatusFacts:
        return StatusFacts(
            version=__version__,
            now=self._now(),
            started_at=self._started_at,
            api_server=self._client.server,
            informers=tuple(status for status, _ in self._collection.informers()),
            exporters=self._manager.statuses(),
            snapshot=self._snapshot(),
            missing=self._collection.gatherer.missing(),
        )
