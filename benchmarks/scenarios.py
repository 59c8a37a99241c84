"""What is measured, and in which order: every holder in its turn, the whole round several times.

How a holder is started is ``holders``'s; what the figures come to is ``goals``'s.
"""

import contextlib
import itertools
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TypeAlias

from benchmarks import processes
from benchmarks.errors import HolderError
from benchmarks.exposition import fetch
from benchmarks.figures import bucket_bound, quantile
from benchmarks.fleet import BenchFleet
from benchmarks.holders import ColdSync, Holder, Peer, Telemetryd
from benchmarks.servers import NAMESPACE, Server

Start: TypeAlias = Callable[[], Holder]
Samples: TypeAlias = dict[str, list[float]]

UPDATES = 3_000
UPDATES_PER_S = 500.0
BURST = 500
"""Updates at once, as where a switch comes back and all kubelets report."""
BURSTS = 5
SCRAPES = 30
EXPORTERS = 50
MANY_EXPORTERS = 1_000
IDLE_S = 60.0
_SETTLE_S = 1.0
_RELIST_TIMEOUT_S = 120.0
_PING_PERIOD_S = 0.005
MANY_INTERVAL_S = 10
EXPORTER_KINDS = ("secret", "file")
_MANY_PERIODS = 3
_THREADS_PERIOD_S = 0.1
_COLLECTIONS = 20
_NODES_LABEL = "nodes.management.cattle.io"


def say(text: str) -> None:
    """Progress, on stderr."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


@dataclass(slots=True)
class Measured:
    """Samples of each figure of each holder, one a run."""

    by_holder: dict[str, Samples] = field(default_factory=dict)

    def add(self, holder: str, figure: str, value: float) -> None:
        """One more sample."""
        self.by_holder.setdefault(holder, {}).setdefault(figure, []).append(value)


@dataclass(frozen=True, slots=True)
class Contender:
    """Who takes part in the rounds.

    Attributes:
        start: Starts it.
        churned: Updates are measured after its sync.
        burst: Bursts of updates as well.
        last_only: Counts no updates, but shows the last one.
    """

    name: str
    start: Start
    churned: bool = False
    burst: bool = False
    last_only: bool = False


def run_rounds(
    server: Server,
    fleet: BenchFleet,
    contenders: Sequence[Contender],
    measured: Measured,
    *,
    runs: int,
    updates: int = UPDATES,
) -> None:
    """Cold sync of each in its turn, and updates where it takes part in them.

    Raises:
        HolderError: One of them does not hold the fleet as it is.
    """
    for number in range(1, runs + 1):
        first = (number - 1) % len(contenders)  # nobody is always the first on a cold server
        for contender in (*contenders[first:], *contenders[:first]):
            with contender.start() as holder:
                cold = holder.cold_sync()
                if cold.nodes != fleet.nodes:
                    message = f"{contender.name} holds {cold.nodes} nodes of {fleet.nodes}"
                    raise HolderError(message)
                _note_cold_sync(measured, contender.name, cold)
                if isinstance(holder, Telemetryd):
                    measured.add(contender.name, "first_export_s", holder.first_export_s)
                    after_s = cold.wall_s - _list_s(holder)
                    measured.add(contender.name, "export_after_list_s", after_s)
                if isinstance(holder, Peer) and holder.watches:
                    _collect(holder, measured)
                if contender.churned and server.update is not None:
                    per_event_s = _churn(
                        server.update, fleet, holder, updates, last_only=contender.last_only
                    )
                    measured.add(contender.name, "cpu_per_event_s", per_event_s)
                if contender.burst and server.update is not None:
                    per_event_s = _churn(
                        server.update, fleet, holder, min(updates, BURST), bursts=BURSTS
                    )
                    measured.add(contender.name, "cpu_per_burst_event_s", per_event_s)
            say(
                f"run {number}/{runs}  {contender.name}: {cold.wall_s:.2f} s wall, "
                f"{cold.cpu_s:.2f} s CPU, peak {cold.peak_bytes / 1e6:.0f} MB"
            )


def _note_cold_sync(measured: Measured, holder: str, cold: ColdSync) -> None:
    """All its figures, and those with start and imports included."""
    for figure, value in asdict(cold).items():
        measured.add(holder, figure, value)
    measured.add(holder, "whole_s", cold.loaded_s + cold.wall_s)
    measured.add(holder, "whole_cpu_s", cold.loaded_cpu_s + cold.cpu_s)


def _list_s(daemon: Telemetryd) -> float:
    """Seconds of the daemon's one list of nodes."""
    name = "telemetryd_informer_list_duration_seconds_sum"
    return daemon.metrics(name).value(name, resource=_NODES_LABEL)


def _collect(peer: Peer, measured: Measured) -> None:
    durations = [peer.ask("collect")["ms"] / 1e3 for _ in range(_COLLECTIONS)]
    measured.add(peer.name, "collection_s", quantile(durations, 0.5))


def _churn(
    update: Callable[..., None],
    fleet: BenchFleet,
    holder: Holder,
    count: int,
    *,
    bursts: int = 0,
    last_only: bool = False,
) -> float:
    """CPU seconds of the holder for each of so many updates: at a fixed rate, or in bursts of them.

    Raises:
        HolderError: It watches nothing, or misses some.
    """
    seen = holder.updates()
    if seen is None:
        raise HolderError(f"{holder.name} watches nothing")
    total = count * max(1, bursts)
    beats = fleet.heartbeats(total)
    before_s = processes.cpu_s(holder.pid)
    for _ in range(max(1, bursts)):
        update(itertools.islice(beats, count), math.inf if bursts else UPDATES_PER_S)
        time.sleep(_SETTLE_S)
    deadline = time.monotonic() + _RELIST_TIMEOUT_S
    while True:
        spent_s = processes.cpu_s(holder.pid) - before_s
        now_seen = holder.updates() or 0
        if now_seen - seen >= total or (last_only and now_seen != seen):
            return spent_s / total
        if time.monotonic() > deadline:
            raise HolderError(f"{holder.name} has not seen all {total} updates")
        time.sleep(_SETTLE_S)


def measure_relists(
    server: Server, start: Callable[[], Telemetryd], measured: Measured, *, runs: int
) -> None:
    """Peak over steady while an unchanged fleet is listed anew, after its watches are gone.

    Raises:
        HolderError: It is not listed anew.
    """
    if server.restart is None:
        return
    for _ in range(runs):
        with start() as daemon:
            daemon.cold_sync()
            for _ in range(5):  # scrapes are part of the steady state, for they find the relist
                before = _node_lists(daemon)
                time.sleep(0.2)
            steady = processes.memory(daemon.pid).resident_bytes
            processes.forget_peak(daemon.pid)
            server.restart()
            deadline = time.monotonic() + _RELIST_TIMEOUT_S
            while _node_lists(daemon) == before:
                if time.monotonic() > deadline:
                    raise HolderError("the fleet was not listed anew")
                time.sleep(0.2)
            peak = processes.memory(daemon.pid).peak_bytes
            measured.add(daemon.name, "relist_peak_over_steady_bytes", peak - steady)
            say(
                f"relist: {steady / 1e6:.1f} MB steady, {(peak - steady) / 1e6:.1f} MB more at most"
            )


def _node_lists(daemon: Telemetryd) -> float:
    name = "telemetryd_informer_lists_total"
    return daemon.metrics(name).value(name, resource=_NODES_LABEL, result="success")


def measure_lag(start: Callable[[], Telemetryd], measured: Measured, *, runs: int) -> None:
    """How late the event loop answers during a cold sync: ``/livez``, asked every 5 ms.

    The answer's whole time on the wire is an upper bound of the loop's lag. Where other programs
    keep the cores busy, both ends wait for one: ``lag_p99_s`` is without that, ``raw_lag_p99_s``
    with it.
    """
    for _ in range(runs):
        with start() as daemon:
            daemon.await_ready()
            pings = list(_pings(daemon))
            raw_s = quantile([took_s for took_s, _ in pings], 0.99)
            lag_s = quantile([max(0.0, took_s - queued_s) for took_s, queued_s in pings], 0.99)
            measured.add(daemon.name, "raw_lag_p99_s", raw_s)
            measured.add(daemon.name, "lag_p99_s", lag_s)
            bound = bucket_bound(_cumulative(daemon, "telemetryd_event_loop_lag_seconds"), 0.99)
            if bound is not None:
                measured.add(daemon.name, "own_lag_p99_bound_s", bound)
        say(f"loop lag: p99 {lag_s * 1e3:.1f} ms of {len(pings)} answers, {raw_s * 1e3:.1f} raw")


def _pings(daemon: Telemetryd) -> Iterator[tuple[float, float]]:
    """Seconds of each answer until the first export, and those spent waiting for a core."""
    us = os.getpid()
    while not daemon.has_exported():
        queued_s = processes.main_thread_queued_s(daemon.pid) + processes.main_thread_queued_s(us)
        asked_s = time.perf_counter()
        fetch(daemon.port, "/livez")
        took_s = time.perf_counter() - asked_s
        both_s = processes.main_thread_queued_s(daemon.pid) + processes.main_thread_queued_s(us)
        yield took_s, both_s - queued_s
        time.sleep(max(0.0, _PING_PERIOD_S - took_s))


def measure_scrapes(start: Callable[[str], Telemetryd], measured: Measured) -> None:
    """Scrapes with 50 exporters: time of the event loop's thread, and of the whole answer."""
    with start(_file_exporters(EXPORTERS - 1, 'interval = "1h"\n')) as daemon:
        daemon.cold_sync()
        time.sleep(_SETTLE_S)
        for _ in range(SCRAPES):
            loop_s = processes.main_thread_cpu_s(daemon.pid)
            begun_s = time.perf_counter()
            body = fetch(daemon.port, "/metrics")
            measured.add(daemon.name, "scrape_wall_s", time.perf_counter() - begun_s)
            loop_s = processes.main_thread_cpu_s(daemon.pid) - loop_s
            measured.add(daemon.name, "scrape_loop_s", loop_s)
            measured.add(daemon.name, "scrape_bytes", len(body))
    say(f"scrape: {len(body) / 1e3:.0f} kB")


def measure_idle(
    start: Callable[[str], Telemetryd], measured: Measured, *, duration_s: float
) -> None:
    """CPU and requests of a daemon with nothing to do but an export of a Secret a minute."""
    exporter = f'[[exporters]]\nname = "scc"\ntype = "secret"\nnamespace = "{NAMESPACE}"\n'
    with start(exporter) as daemon:
        daemon.cold_sync()
        time.sleep(_SETTLE_S * 3)
        requests, exports = "telemetryd_kube_requests_total", "telemetryd_exporter_runs_total"
        before, before_s = daemon.metrics(requests, exports), processes.cpu_s(daemon.pid)
        begun_s = time.monotonic()
        time.sleep(duration_s)
        spent_s = processes.cpu_s(daemon.pid) - before_s
        measured.add(daemon.name, "idle_core", spent_s / (time.monotonic() - begun_s))
        after = daemon.metrics(requests, exports)
        writes = sum(
            after.value(requests, method=method) - before.value(requests, method=method)
            for method in ("POST", "PUT", "PATCH", "DELETE")
        )
        measured.add(daemon.name, "idle_writes", writes)
        measured.add(daemon.name, "idle_exports", after.value(exports) - before.value(exports))
    say(f"idle: {spent_s / duration_s:.2%} of a core")


def measure_many(
    start: Callable[[str], Telemetryd],
    measured: Measured,
    kind: str,
    *,
    exporters: int,
    interval_s: int,
) -> None:
    """So many exporters of a kind beside one: threads, memory, and how late their slots are met."""
    with start("") as daemon:
        daemon.cold_sync()
        time.sleep(_SETTLE_S)
        alone_bytes = processes.memory(daemon.pid).resident_bytes
        measured.add(daemon.name, "threads_one", processes.threads(daemon.pid))
    spread = f'interval = "{interval_s}s"\nsplay_max = "{interval_s}s"\n'
    make = _secret_exporters if kind == "secret" else _file_exporters
    with start(make(exporters, spread)) as daemon:
        daemon.cold_sync()
        most_threads = 0
        until_s = time.monotonic() + _MANY_PERIODS * interval_s
        while time.monotonic() < until_s:
            most_threads = max(most_threads, processes.threads(daemon.pid))
            time.sleep(_THREADS_PERIOD_S)
        more_bytes = processes.memory(daemon.pid).resident_bytes - alone_bytes
        measured.add(daemon.name, f"many_{kind}_bytes", more_bytes)
        measured.add(daemon.name, f"many_{kind}_threads", most_threads)
        say(f"{exporters} {kind}s: {more_bytes / 1e6:.1f} MB, at most {most_threads} threads")
        name = "telemetryd_exporter_schedule_delay_seconds"
        late_s = bucket_bound(_cumulative(daemon, name), 0.99)
        if late_s is not None:
            measured.add(daemon.name, f"many_{kind}_late_s", late_s)


def _cumulative(daemon: Telemetryd, histogram: str) -> list[tuple[float, float]]:
    return daemon.metrics(f"{histogram}_bucket").cumulative(histogram)


def _secret_exporters(count: int, further: str) -> str:
    return "".join(
        f'[[exporters]]\nname = "e{number}"\ntype = "secret"\nnamespace = "{NAMESPACE}"\n'
        f'secret = "e{number}"\n{further}'
        for number in range(count)
    )


def _file_exporters(count: int, further: str) -> str:
    return "".join(
        f'[[exporters]]\nname = "e{number}"\ntype = "file"\n'
        f'directory = "{{folder}}/e{number}"\n{further}'
        for number in range(count)
    )


@contextlib.contextmanager
def going_on(what: str) -> Iterator[None]:
    """Lets a figure that can't be had cost itself alone; the report calls it not measured."""
    try:
        yield
    except HolderError as error:
        say(f"{what}: not measured: {error}")


@contextlib.contextmanager
def timed(what: str) -> Iterator[None]:
    """Says what begins, and how long it took."""
    say(f"{what} ...")
    begun_s = time.monotonic()
    yield
    say(f"{what}: {time.monotonic() - begun_s:.0f} s")
