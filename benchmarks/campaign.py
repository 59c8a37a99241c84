"""The whole benchmark: which fleets on which servers, who takes part, and the results of it all."""

import contextlib
import dataclasses
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Self

from benchmarks.errors import CampaignError
from benchmarks.fleet import NODES_EACH, BenchFleet
from benchmarks.holders import ROOT, Holder, Peer, Telemetryd
from benchmarks.realfleet import make_fleet
from benchmarks.resting import measure_rest, measure_silent
from benchmarks.results import (
    CLIENT_GO,
    CLIENT_GO_OLD,
    CORE,
    DROPPED,
    DROPPED_PROTOBUF,
    DROPPED_STREAM,
    KUBE_STATE_METRICS,
    KUBERNETES_ASYNCIO,
    LIGHTKUBE,
    PAGES,
    REAL,
    TELEMETRYD,
    UNIFORM,
    Results,
    Section,
)
from benchmarks.scenarios import (
    EXPORTER_KINDS,
    IDLE_S,
    MANY_EXPORTERS,
    MANY_INTERVAL_S,
    UPDATES,
    Contender,
    Measured,
    going_on,
    measure_idle,
    measure_lag,
    measure_many,
    measure_relists,
    measure_scrapes,
    run_rounds,
    timed,
)
from benchmarks.servers import Server, given, own_pair
from benchmarks.statemetrics import KubeStateMetrics
from tests.apiserver.versions import find_assets
from tests.support.gobuild import build, cache, required

USUAL_NODES = 10_000
PARTS = frozenset(
    (
        "core",
        "exporters",
        "history",
        "idle",
        "inside",
        "lag",
        "relists",
        "rest",
        "rounds",
        "scrapes",
        "silent",
        "tiny",
    )
)
"""What can be measured alone."""
_MOST_NODES_FOR_ALL = 20_000
"""Above it only those whom a goal names take part: the others need gigabytes, and minutes."""
_LARGE_RUNS = 2
"""Rounds there: a holder takes a minute or more in each."""
_FURTHER_RUNS = 3
_SILENT_DAEMONS = 3
_PEERS = {
    KUBERNETES_ASYNCIO: ("asyncio_client",),
    LIGHTKUBE: ("lightkube_client",),
    DROPPED: ("dropped",),
}
_STREAM_FLOOR = {DROPPED_STREAM: ("dropped", "--stream=json")}
_CORE_FLOORS = {
    DROPPED_STREAM: ("dropped", "--core", "--stream=json"),
    DROPPED_PROTOBUF: ("dropped", "--core", "--stream=protobuf"),
}
"""Peers in Python, by name: a module of ``benchmarks.peers``, and its arguments."""
_CLIENT_GO = ROOT / "benchmarks" / "clientgo"
_CLIENT_GO_OLD = _CLIENT_GO / "old"
_STATE_METRICS = ROOT / "benchmarks" / "kubestatemetrics"
_PEER_PACKAGES = ("kubernetes_asyncio", "lightkube", "aiohttp", "orjson")
_OWN_PACKAGES = ("aiohttp", "msgspec", "orjson", "kubernetes_asyncio", "prometheus_client")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured.

    Attributes:
        parts: What is measured, of ``PARTS``.
        nodes: Sizes of the uniform and the real fleets; above 20,000 there is a real one only.
        tiny: Nodes of the fleet of a small Rancher.
        core: Nodes of plain Kubernetes.
        runs: Rounds of each.
        kubeconfig: A throwaway cluster to use; None starts a kube-apiserver.
        peers: Let others than telemetryd take part, where they are built.
        updates: In a measurement of their CPU.
        idle_s: How long the idle daemon is looked at.
        exporters: How many are many.
        exporters_interval_s: From one run of such a one to the next.
        inside: Sizes that are measured without a server.
        history_rows: In the store of the history.
        patience_s: How long holders may take to notice that a stream is silent.
        busy: A loop keeps one core busy all the while.
        old: An older client-go takes part as well.
    """

    parts: frozenset[str] = PARTS
    nodes: tuple[int, ...] = (1_000, USUAL_NODES)
    tiny: int = 200
    core: int = 20_000
    runs: int = 5
    kubeconfig: Path | None = None
    peers: bool = True
    updates: int = UPDATES
    idle_s: float = IDLE_S
    exporters: int = MANY_EXPORTERS
    exporters_interval_s: int = MANY_INTERVAL_S
    inside: tuple[int, ...] = (1_000, 10_000, 100_000)
    history_rows: int = 10_000_000
    patience_s: float = 400.0
    busy: bool = False
    old: bool = False

    @property
    def usual_nodes(self) -> int:
        """The fleet on which all is measured that needs only one."""
        return max((n for n in self.nodes if n <= USUAL_NODES), default=min(self.nodes))

    def fleets(self) -> Iterator[tuple[str, int]]:
        """Name and size of each."""
        yield REAL, self.tiny
        for nodes in self.nodes:
            if nodes <= _MOST_NODES_FOR_ALL:
                yield UNIFORM, nodes
            if nodes != self.tiny:
                yield REAL, nodes
        if self.kubeconfig is None:
            yield CORE, self.core

    def parts_of(self, name: str, nodes: int) -> frozenset[str]:
        """What of ``parts`` is measured on this fleet."""
        if name == CORE:
            found = {"core"}
        elif (name, nodes) == (REAL, self.tiny):
            found = {"tiny", "rest"} | ({"silent"} if self.kubeconfig is None else set())
        else:
            found = {"rounds"}
            if name == UNIFORM and nodes == min(self.nodes):
                found |= {"scrapes", "exporters"}
            if name == UNIFORM and nodes == self.usual_nodes:
                found |= {"idle", "lag", "relists"}
        return self.parts & found

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """As the variables ask for that start with ``BENCH_``.

        Raises:
            CampaignError: One of them can't be used.
        """
        plan = cls()
        nodes = _numbers(environ, "BENCH_NODES", plan.nodes)
        if any(number % NODES_EACH for number in nodes):
            message = f"BENCH_NODES: each must be a multiple of {NODES_EACH}, not {nodes}"
            raise CampaignError(message)
        runs = _numbers(environ, "BENCH_RUNS", (plan.runs,))[0]
        kubeconfig = environ.get("BENCH_KUBECONFIG")
        return dataclasses.replace(
            plan,
            nodes=nodes,
            runs=runs,
            kubeconfig=Path(kubeconfig) if kubeconfig else None,
            busy=_is_set(environ, "BENCH_BUSY"),
            old=_is_set(environ, "BENCH_OLD"),
        )


def _is_set(environ: Mapping[str, str], name: str) -> bool:
    return environ.get(name, "") not in {"", "0"}


def _numbers(environ: Mapping[str, str], name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """The numbers that a variable holds, parted by commas, in rising order.

    Raises:
        CampaignError: One of them isn't a number from 1 on.
    """
    text = environ.get(name)
    if not text:
        return default
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) for part in parts):
        raise CampaignError(f"{name}={text}: numbers from 1 on, parted by commas")
    return tuple(sorted(int(part) for part in parts))


def run(plan: Plan) -> Results:
    """Measure everything.

    Raises:
        CampaignError: There is no API server.
    """
    started_at = datetime.now(UTC)
    machine = _machine()
    inside: dict[str, dict[int, dict[str, float]]] = {}
    history: dict[str, float] = {}
    with _busy() if plan.busy else contextlib.nullcontext():
        sections = [
            _measure(plan, name, nodes, parts)
            for name, nodes in plan.fleets()
            if (parts := plan.parts_of(name, nodes))
        ]
        if "inside" in plan.parts:
            with timed("the stores alone"):
                for name in (UNIFORM, REAL):
                    inside[name] = {
                        nodes: _alone("inprocess", str(nodes), name) for nodes in plan.inside
                    }
        if "history" in plan.parts:
            with timed("the history"):
                history = _alone("history", str(plan.history_rows))
    return Results(
        taken_at=f"{started_at:%Y-%m-%dT%H:%M:%SZ}",
        machine=machine,
        versions=_versions(plan),
        sections=sections,
        inside=inside,
        history=history,
        busy=plan.busy,
    )


@contextlib.contextmanager
def _busy() -> Iterator[None]:
    """Keeps one core busy."""
    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        loop.kill()
        loop.wait()


def _measure(plan: Plan, name: str, nodes: int, parts: frozenset[str]) -> Section:
    """These parts on a fleet of this name and size."""
    fleet = make_fleet(name, nodes)
    measured = Measured()
    with serve(plan, fleet) as server:
        if name == CORE:
            _on_core(plan, fleet, server, measured)
        elif (name, nodes) == (REAL, plan.tiny):
            _on_tiny(plan, fleet, server, parts, measured)
        else:
            _on_rancher(plan, fleet, server, parts, measured)
    return Section(
        fleet=name,
        server=server.kind,
        nodes=fleet.nodes,
        clusters=1 if name == CORE else fleet.clusters + 1,
        json_bytes=sum(len(s.body) for s in fleet.objects() if s.plural == "nodes"),
        holders=measured.by_holder,
    )


@contextlib.contextmanager
def serve(plan: Plan, fleet: BenchFleet) -> Iterator[Server]:
    """The server of the plan with this fleet.

    Raises:
        CampaignError: There are no binaries.
    """
    assets = find_assets()
    if plan.kubeconfig is None and assets is None:
        message = "no kube-apiserver here: `make apiserver` builds one, or set KUBEBUILDER_ASSETS"
        raise CampaignError(f"{message} or BENCH_KUBECONFIG")
    with contextlib.ExitStack() as stack:
        with timed(f"an API server with {fleet.nodes:,} nodes"):
            source = (
                given(plan.kubeconfig, fleet)
                if plan.kubeconfig is not None
                else own_pair(assets or Path(), fleet)
            )
            server = stack.enter_context(source)
        yield server


def build_peers(plan: Plan) -> None:
    """Build the peers that are made of Go modules, unless they are there.

    Raises:
        GoBuildError: One of them can't be built.
    """
    build(_CLIENT_GO, ".", client_go())
    build(_STATE_METRICS, "k8s.io/kube-state-metrics/v2", state_metrics())
    if plan.old:
        build(_CLIENT_GO_OLD, "telemetryd.test/clientgo", client_go(CLIENT_GO_OLD))


def client_go(name: str = CLIENT_GO) -> Path:
    """Where the peer of the newest client-go is, or that of the older one."""
    file = "clientgo" if name == CLIENT_GO else f"clientgo-{_old_version()}"
    return cache() / "benchmarks" / file


def state_metrics() -> Path:
    """Where kube-state-metrics is."""
    return cache() / "benchmarks" / f"kube-state-metrics-{_state_metrics_version()}"


def _old_version() -> str:
    """Of the older client-go."""
    text = (_CLIENT_GO_OLD / "go.mod").read_text(encoding="utf-8")
    return text.partition("k8s.io/client-go => k8s.io/client-go v")[2].split()[0]


def _state_metrics_version() -> str:
    return required(_STATE_METRICS, "k8s.io/kube-state-metrics/v2")


def _on_rancher(
    plan: Plan, fleet: BenchFleet, server: Server, parts: frozenset[str], measured: Measured
) -> None:
    kubeconfig = server.kubeconfig
    start = partial(Telemetryd, TELEMETRYD, kubeconfig)

    def with_exporters(exporters: str) -> Telemetryd:
        return Telemetryd(TELEMETRYD, kubeconfig, exporters=exporters)

    if "rounds" in parts:
        _rounds(plan, fleet, server, measured)
    if "scrapes" in parts:
        with going_on("scrapes"):
            measure_scrapes(with_exporters, measured)
    if "exporters" in parts:
        for kind in EXPORTER_KINDS:
            with going_on(f"{plan.exporters} exporters of type {kind}"):
                measure_many(
                    with_exporters,
                    measured,
                    kind,
                    exporters=plan.exporters,
                    interval_s=plan.exporters_interval_s,
                )
    further = min(plan.runs, _FURTHER_RUNS)
    if "idle" in parts:
        with going_on("idle"):
            measure_idle(with_exporters, measured, duration_s=plan.idle_s)
    if "lag" in parts:
        with going_on("loop lag"):
            measure_lag(start, measured, runs=further)
    if "relists" in parts:
        with going_on("relists"):
            measure_relists(server, start, measured, runs=further)


def _rounds(plan: Plan, fleet: BenchFleet, server: Server, measured: Measured) -> None:
    kubeconfig, nodes = server.kubeconfig, fleet.clusters * NODES_EACH
    usual, real = nodes == plan.usual_nodes, fleet.name == REAL
    churned = {"churned": usual, "burst": usual and real}
    start = partial(Telemetryd, TELEMETRYD, kubeconfig)
    paged = partial(Telemetryd, PAGES, kubeconfig, kubernetes='watch_list = "off"')
    contenders = [Contender(TELEMETRYD, start, **churned), Contender(PAGES, paged)]
    if plan.peers:
        contenders += _client_go(plan, kubeconfig, **churned)
        if not real:
            contenders += _python_peers(kubeconfig, _PEERS)
        elif server.streams:
            contenders += _python_peers(kubeconfig, _STREAM_FLOOR)
    runs = plan.runs
    if nodes > _MOST_NODES_FOR_ALL:
        runs = min(runs, _LARGE_RUNS)
    elif real and not usual:
        runs = min(runs, _FURTHER_RUNS)
    with timed(f"{fleet.nodes:,} nodes, everyone in turns"):
        run_rounds(server, fleet, contenders, measured, runs=runs, updates=plan.updates)


def _on_tiny(
    plan: Plan, fleet: BenchFleet, server: Server, parts: frozenset[str], measured: Measured
) -> None:
    start = partial(Telemetryd, TELEMETRYD, server.kubeconfig)
    if "tiny" in parts:
        contenders = [Contender(TELEMETRYD, start)]
        if plan.peers:
            contenders += _client_go(plan, server.kubeconfig)
        with timed(f"{fleet.nodes:,} nodes, everyone in turns"):
            run_rounds(server, fleet, contenders, measured, runs=plan.runs, updates=plan.updates)
    if "rest" in parts:
        with going_on("rest"):
            measure_rest(start, measured, duration_s=plan.idle_s)
    if "silent" in parts:
        starts: list[Callable[[Path], Holder]] = [partial(Telemetryd, TELEMETRYD)] * _SILENT_DAEMONS
        if plan.peers and client_go().exists():
            starts.append(_start_client_go)
        with going_on("silent streams"):
            measure_silent(server, fleet, starts, measured, patience_s=plan.patience_s)


def _on_core(plan: Plan, fleet: BenchFleet, server: Server, measured: Measured) -> None:
    daemon = partial(
        Telemetryd,
        TELEMETRYD,
        server.kubeconfig,
        kubernetes='source = "kubernetes"',
        nodes="nodes",
    )
    contenders = [Contender(TELEMETRYD, daemon, churned=True)]
    if plan.peers and state_metrics().exists():
        peer = partial(KubeStateMetrics, state_metrics(), server.kubeconfig, fleet.nodes)
        contenders.append(Contender(KUBE_STATE_METRICS, peer, churned=True, last_only=True))
    if plan.peers and server.streams:
        contenders += _python_peers(server.kubeconfig, _CORE_FLOORS)
    with timed(f"{fleet.nodes:,} core nodes, everyone in turns"):
        runs = min(plan.runs, _FURTHER_RUNS)
        run_rounds(server, fleet, contenders, measured, runs=runs, updates=plan.updates)


def _start_client_go(kubeconfig: Path, name: str = CLIENT_GO) -> Peer:
    return Peer(name, (client_go(name), "-kubeconfig", kubeconfig), watches=True)


def _client_go(
    plan: Plan, kubeconfig: Path, *, churned: bool = False, burst: bool = False
) -> list[Contender]:
    return [
        Contender(name, partial(_start_client_go, kubeconfig, name), churned=churned, burst=burst)
        for name in (CLIENT_GO, CLIENT_GO_OLD)[: 1 + plan.old]
        if client_go(name).exists()
    ]


def _python_peers(kubeconfig: Path, peers: Mapping[str, tuple[str, ...]]) -> list[Contender]:
    python = ROOT / ".venv-bench" / "bin" / "python"
    if not python.exists():
        return []
    return [
        Contender(
            name,
            partial(
                Peer, name, (python, "-m", f"benchmarks.peers.{module}", *arguments, kubeconfig)
            ),
        )
        for name, (module, *arguments) in peers.items()
    ]


def _alone(module: str, *arguments: str) -> dict[str, float]:
    """What a module measures in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *arguments],
        check=True,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def _machine() -> dict[str, str]:
    cpus = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in cpus if "model name" in line), "?")
    memory_kib = int(Path("/proc/meminfo").read_text(encoding="ascii").split()[1])
    return {
        "processor": f"{os.cpu_count()} cores of {model}",
        "memory": f"{memory_kib / 1e6:.0f} GB",
        "system": f"{platform.system()} {platform.release()}",
        "load before": " ".join(f"{load:.1f}" for load in os.getloadavg()),
    }


def _versions(plan: Plan) -> dict[str, str]:
    versions = {
        "telemetryd": f"{version('telemetryd')}, Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in _OWN_PACKAGES)
    }
    if not plan.peers:
        return versions
    if client_go().exists():
        number = required(_CLIENT_GO, "k8s.io/client-go")
        versions[CLIENT_GO] = f"{number}, typed shared informers"
    if plan.old and client_go(CLIENT_GO_OLD).exists():
        versions[CLIENT_GO_OLD] = f"{_old_version()}, the same"
    if state_metrics().exists():
        versions[KUBE_STATE_METRICS] = f"{_state_metrics_version()}, --resources=nodes, protobuf"
    python = ROOT / ".venv-bench" / "bin" / "python"
    if python.exists():
        program = (
            "import importlib.metadata as m, sys; print(*(m.version(n) for n in sys.argv[1:]))"
        )
        done = subprocess.run(
            [python, "-c", program, *_PEER_PACKAGES], check=True, capture_output=True, text=True
        )
        found = zip(_PEER_PACKAGES, done.stdout.split(), strict=True)
        versions["Python peers"] = ", ".join(f"{name} {number}" for name, number in found)
    return versions
