"""The daemon: connects all parts, and runs them from the start to the end of the drain."""

import logging
import os
import platform
import random
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from functools import partial
from itertools import chain

import anyio
from anyio.abc import TaskStatus

from telemetryd import __version__, revision
from telemetryd.config import Config, read_switches
from telemetryd.daemon.collection import find_build
from telemetryd.daemon.collector import MARK_UNSEEN, Collector
from telemetryd.daemon.commands import DaemonCommands
from telemetryd.daemon.dryrun import ReadOnlyClient, announce, dry, without_places
from telemetryd.daemon.exporters import ExporterFactory, spool_dir
from telemetryd.daemon.filewatch import FileWatch
from telemetryd.daemon.history import HistoryKeeper
from telemetryd.daemon.leadership import RELEASE_TIMEOUT_S, Leadership
from telemetryd.daemon.loop import ALIVE_WITHIN_S, Heartbeat, trim_heap
from telemetryd.daemon.notify import Notifier, Startup, StatusLog, Supervision
from telemetryd.daemon.optout import OptOutMark
from telemetryd.daemon.reload import Reloader, ReloadTarget
from telemetryd.daemon.secretrequests import GuardedWork, RegistrationReader, SecretRequests
from telemetryd.daemon.signals import ENDING, EarlySignals, handling
from telemetryd.errors import NotReady
from telemetryd.export.engine.manager import ExporterManager
from telemetryd.kube.client import KubeClient
from telemetryd.kube.requests import request_limiter
from telemetryd.logs import lines_lost
from telemetryd.model import ExporterState, InformerStatus, Snapshot
from telemetryd.serve.control.server import ControlServer
from telemetryd.serve.control.socketfile import open_control_socket
from telemetryd.serve.http.health import HealthReport, liveness, readiness
from telemetryd.serve.http.listener import Listening
from telemetryd.serve.http.reviews import Reviews
from telemetryd.serve.http.security import Security
from telemetryd.serve.http.server import Endpoints, serve
from telemetryd.serve.metrics.family import MetricsFacts
from telemetryd.serve.metrics.metrics import MetricsRenderer
from telemetryd.serve.page.facts import StatusFacts, render_summary
from telemetryd.stats import InformerStats, KubeStats

log = logging.getLogger(__name__)


async def run_daemon(
    config: Config,
    reloader: Reloader,
    *,
    early: EarlySignals,
    now: Callable[[], float],
    rng: random.Random,
    dry_run: bool = False,
) -> None:
    """Run until SIGTERM or SIGINT, then drain; during the start, end at once.

    ``early`` has the signals so far; ``rng`` is the source of every jitter.

    Raises:
        ConfigError: The access to the API server, the listen address or a certificate is unusable.
        TelemetrydError: The listen address or the control socket isn't available now.
    """
    stop = anyio.Event()
    startup = Startup()
    notifier = Notifier.from_environ(os.environ, os.getpid())

    def end(number: signal.Signals) -> None:
        notifier.stopping()
        log.info("stopping signal=%s", number.name)
        stop.set()
        startup.interrupt()

    status_log = StatusLog()
    handlers: dict[signal.Signals, Callable[[], None]]
    handlers = {number: partial(end, number) for number in ENDING}
    handlers[signal.SIGHUP] = partial(reloader.ask, "signal")
    handlers[signal.SIGUSR1] = status_log.ask
    with handling(handlers), startup.scope:
        if early.reload_asked:
            reloader.ask("signal")
        if early.summary_asked:
            status_log.ask()
        await run_until(
            stop,
            config,
            reloader,
            status_log,
            now=now,
            rng=rng,
            notifier=notifier,
            task_status=startup,
            dry_run=dry_run,
        )


async def run_until(
    stop: anyio.Event,
    config: Config,
    reloader: Reloader,
    status_log: StatusLog,
    *,
    now: Callable[[], float],
    rng: random.Random,
    notifier: Notifier,
    task_status: TaskStatus[Listening] = anyio.TASK_STATUS_IGNORED,
    dry_run: bool = False,
) -> None:
    """Run until ``stop`` is set, then drain; ``task_status`` is started when all sockets are bound.

    Raises:
        ConfigError: As ``run_daemon``.
        TelemetrydError: As ``run_daemon``.
    """
    reloader.restrictions.stores = not dry_run
    config = await reloader.recall(config)
    config = without_places(config) if dry_run else config
    where = reloader.stats.status.where
    connect = ReadOnlyClient.connect if dry_run else KubeClient.connect
    async with (
        connect(config.kubernetes, KubeStats()) as client,
        Leadership.connect(config, client, client.stats, now=now, rng=rng) as leadership,
    ):
        security = Security(Reviews(client), now)
        security.apply(await security.prepare(config.server, where))
        daemon = Daemon(
            config,
            client,
            leadership,
            security,
            reloader=reloader,
            status_log=status_log,
            now=now,
            rng=rng,
            notifier=notifier,
            dry_run=dry_run,
        )
        announce(config, client.server, reloader.source.environ, dry_run=dry_run)
        endpoints = daemon.endpoints()
        listen, place = config.server, config.server.control_socket
        async with (
            serve(
                listen.listen_host, listen.listen_port, endpoints, security=security, where=where
            ) as listening,
            nullcontext() if dry_run else open_control_socket(place, where=where) as control,
        ):
            message = "started version=%s api_server=%s listen=%s control=%s exporters=%d"
            at = control and control.getsockname()
            log.info(message, __version__, client.server, listening, at, len(config.exporters))
            task_status.started(listening)
            await daemon.run(stop, control)
    log.info("stopped")


class Daemon:
    """The parts of a running daemon, and what it shows of them."""

    def __init__(
        self,
        config: Config,
        client: KubeClient,
        leadership: Leadership,
        security: Security,
        *,
        reloader: Reloader,
        status_log: StatusLog,
        now: Callable[[], float],
        rng: random.Random,
        notifier: Notifier,
        dry_run: bool,
    ) -> None:
        """Nothing runs before ``run``; in a dry run the client is read-only."""
        self._client = client
        self._leadership = leadership
        self._security = security
        self._reloader = reloader
        self._status_log = status_log
        self._dry_run = dry_run
        self._now = now
        self._started_at = now()
        self._heartbeat = Heartbeat()
        self._collector = Collector(
            config,
            client,
            read_switches(reloader.source.environ),
            now=now,
            rng=rng,
            restrictions=reloader.restrictions,
            looked_at_marks=lambda: self._opt_out_mark.looked,
        )
        self._manager = ExporterManager(
            self._collector,
            now=now,
            rng=rng,
            drain_timeout_s=config.drain_timeout_s,
            epoch=lambda: leadership.epoch,
            require_leading=leadership.require,
            spool_dir=spool_dir(config),
            omitted=lambda: self._collector.omitted,
            saw_epoch=leadership.saw,
        )
        fenced = client.requests(fence=leadership.require, limiter=request_limiter())
        self._factory = ExporterFactory(fenced, now=now, saw_epoch=leadership.saw)
        self._opt_out_mark = OptOutMark(
            fenced,
            reloader.restrictions,
            config,
            wanted=lambda: self._collector.asks_about_opt_out,
            now=now,
            changed=self._collector.wake,
        )
        self._build = dry(self._factory.build) if dry_run else self._factory.build
        for exporter in config.exporters:
            self._manager.register(*self._build(exporter))
        self._requests = SecretRequests(
            config,
            client,
            self._manager,
            self._build,
            source=lambda: self._collector.source,
            fence=leadership.require,
            now=now,
            rng=rng,
        )
        self._registrations = RegistrationReader(
            client, source=lambda: self._collector.source, now=now, rng=rng
        )
        self._guarded = GuardedWork(self._manager, self._requests)
        self._history = HistoryKeeper(self._collector, config, lambda: leadership.epoch, now=now)
        self._supervision = Supervision(
            notifier, summary=self._summary, alive=lambda: self._liveness().ok
        )

    async def run(self, stop: anyio.Event, control: socket.socket | None) -> None:
        """Collect and export until ``stop`` is set, then drain; ``control`` receives commands."""
        self._supervision.ready()
        async with anyio.create_task_group() as background:
            background.start_soon(self._heartbeat.run, name="heartbeat")
            background.start_soon(trim_heap, name="heap")
            background.start_soon(self._supervision.run, name="supervision")
            background.start_soon(self._client.follow, name="login")
            background.start_soon(
                self._collector.run, self._guarded, self._accompany, name="collector"
            )
            background.start_soon(self._status_log.run, self._summary, name="status log")
            background.start_soon(self._history.run, name="history")
            background.start_soon(
                self._reloader.restrictions.run, self._reloader.reapply, name="restrictions"
            )
            if control is not None:
                commands = DaemonCommands(
                    status=self._status,
                    metrics=self._metrics,
                    reloader=self._reloader,
                    manager=self._manager,
                    informers=lambda: chain(self._collector.watched(), self._requests.watched()),
                    collector=self._collector,
                    client=self._client,
                    history=self._history,
                )
                background.start_soon(ControlServer(control, commands.execute).run, name="control")
            async with anyio.create_task_group() as electing:
                run = partial(
                    self._leadership.run,
                    self._guarded,
                    may_read=lambda: self._collector.asks_about_opt_out,
                    begin=self._begin_term,
                )
                electing.start_soon(run, name="leader election")
                await self._work(stop)
                electing.cancel_scope.cancel()
            await self._leadership.release(RELEASE_TIMEOUT_S)
            background.cancel_scope.cancel()

    async def _accompany(self) -> None:
        async with anyio.create_task_group() as beside:
            beside.start_soon(self._requests.run, name="SecretRequests")
            beside.start_soon(self._registrations.run, name="registrations")

    async def _begin_term(self) -> None:
        """Another replica led until now, and may have marked an opt-out that this one missed."""
        self._opt_out_mark.forget()
        if not self._opt_out_mark.looked:
            await self._guarded.hold(ExporterState.WAITING, MARK_UNSEEN)
        self._collector.wake()

    async def _work(self, stop: anyio.Event) -> None:
        """Do the guarded work until ``stop`` is set, then drain it while the rest goes on."""
        target = ReloadTarget(
            manager=self._manager,
            build=self._build,
            spec=self._factory.spec,
            look=self._opt_out_mark.look,
            follow=self._follow,
            configure_requests=self._requests.configure,
            security=self._security,
            begin=self._supervision.reloading,
            end=self._supervision.ready,
        )
        async with anyio.create_task_group() as working:
            working.start_soon(self._guarded.run, name="guarded work")
            working.start_soon(self._opt_out_mark.run, name="opt-out mark")
            working.start_soon(self._reloader.run, target, name="reloads")
            working.start_soon(FileWatch(self._reloader).run, name="configuration file")
            await stop.wait()
            working.cancel_scope.cancel()

    def _follow(self, config: Config) -> None:
        self._opt_out_mark.follow(config)
        self._collector.follow(config)
        self._leadership.follow(config)
        self._history.follow(without_places(config) if self._dry_run else config)

    def endpoints(self) -> Endpoints:
        """What HTTP shows of this daemon."""
        return Endpoints(
            metrics=MetricsRenderer(self._metrics),
            liveness=self._liveness,
            readiness=lambda: readiness(
                config_applied=True,
                unsettled=self._collector.unsettled(),
                required=self._collector.required(),
            ),
            status=self._status,
            payload_exposed=lambda: self._reloader.config.server.expose_payload,
            payload=self._manager.payload,
            history_exposed=lambda: self._reloader.config.server.expose_history,
            history=self._history.facts,
            slots=self._history.read,
        )

    def _metrics(self) -> MetricsFacts:
        stats = self._manager.stats()
        return MetricsFacts(
            build=(__version__, revision(), platform.python_version()),
            now=self._now(),
            informers=tuple(self._informers()),
            exporters=tuple((each, stats[each.name]) for each in self._manager.statuses()),
            snapshot=self._snapshot(),
            kube=self._client.stats,
            gather=self._collector.gather_stats,
            config=self._reloader.stats,
            loop_lag=self._heartbeat.lag,
            switches=self._collector.switches,
            leader=self._leadership.metrics(),
            history=self._history.status,
            log_lines_lost=lines_lost(),
        )

    def _snapshot(self) -> Snapshot | None:
        with suppress(NotReady):
            return self._collector.snapshot()
        return None

    def _informers(self) -> Iterator[tuple[InformerStatus, InformerStats]]:
        return chain(self._collector.informers(), self._requests.informers())

    def _liveness(self) -> HealthReport:
        return liveness(
            loop_alive=self._heartbeat.alive,
            scheduler_alive=self._manager.overdue_s() < ALIVE_WITHIN_S,
        )

    def _summary(self) -> str:
        return render_summary(self._status())

    def _status(self) -> StatusFacts:
        return StatusFacts(
            version=__version__,
            now=self._now(),
            started_at=self._started_at,
            api_server=self._client.server,
            login_problem=self._client.login_problem,
            informers=tuple(status for status, _ in self._informers()),
            exporters=self._manager.statuses(),
            config=self._reloader.stats.status,
            snapshot=self._snapshot(),
            missing=self._collector.missing(),
            requests=self._requests.statuses(),
            switches=self._collector.switches,
            source=self._collector.source,
            build=find_build(self._collector.watched()),
            registrations=self._registrations.known,
            leader=self._leadership.status(),
            history=self._history.status,
            payload_exposed=self._reloader.config.server.expose_payload,
            privacy=self._reloader.config.privacy,
            identity=self._reloader.config.identity,
            restrictions=self._reloader.restrictions.statuses(),
            memory_warning=self._reloader.restrictions.warning,
        )
