"""The whole benchmark: which fleets on which servers, who takes part, and the results of it all."""

import contextlib
import dataclasses
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Self

from benchmarks.errors import CampaignError
from benchmarks.fleet import NODES_EACH, BenchFleet
from benchmarks.holders import ROOT, Peer, Telemetryd
from benchmarks.results import (
    CLIENT_GO,
    DROPPED,
    KUBERNETES_ASYNCIO,
    LIGHTKUBE,
    PAGES,
    TELEMETRYD,
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
from tests.apiserver.versions import find_assets
from tests.support.gobuild import cache, required

USUAL_NODES = 10_000
_MOST_NODES_FOR_ALL = 20_000
"""Above it only those whom a goal names take part: the others need gigabytes, and minutes."""
_LARGE_RUNS = 2
"""Rounds there: a holder takes a minute or more in each."""
_FURTHER_RUNS = 3
_PEERS = {
    KUBERNETES_ASYNCIO: "asyncio_client",
    LIGHTKUBE: "lightkube_client",
    DROPPED: "dropped_pages",
}
_PEER_PACKAGES = ("kubernetes_asyncio", "lightkube", "aiohttp", "orjson")
_OWN_PACKAGES = ("aiohttp", "msgspec", "orjson", "kubernetes_asyncio", "prometheus_client")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured.

    Attributes:
        nodes: Sizes of the fleets.
        runs: Rounds of each.
        kubeconfig: A throwaway cluster to use; None starts a kube-apiserver.
        peers: Let others than telemetryd take part, where they are built.
        updates: In a measurement of their CPU.
        idle_s: How long the idle daemon is looked at.
        exporters: How many are many.
        exporters_interval_s: From one run of such a one to the next.
        inside: Sizes that are measured without a server.
        history_rows: In the store of the history.
    """

    nodes: tuple[int, ...] = (1_000, USUAL_NODES)
    runs: int = 5
    kubeconfig: Path | None = None
    peers: bool = True
    updates: int = UPDATES
    idle_s: float = IDLE_S
    exporters: int = MANY_EXPORTERS
    exporters_interval_s: int = MANY_INTERVAL_S
    inside: tuple[int, ...] = (1_000, 10_000, 100_000)
    history_rows: int = 10_000_000

    @property
    def usual_nodes(self) -> int:
        """The fleet on which all is measured that needs only one."""
        return max((n for n in self.nodes if n <= USUAL_NODES), default=min(self.nodes))

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """As ``BENCH_NODES``, ``BENCH_RUNS`` and ``BENCH_KUBECONFIG`` ask for.

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
            plan, nodes=nodes, runs=runs, kubeconfig=Path(kubeconfig) if kubeconfig else None
        )


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
    sections = []
    for nodes in plan.nodes:
        fleet = BenchFleet(nodes)
        with serve(plan, fleet) as server:
            measured = _on_real(plan, fleet, server, nodes)
            sections.append(_section(server, fleet, measured))
    with timed("the stores alone"):
        inside = {nodes: _alone("inprocess", nodes) for nodes in plan.inside}
    with timed("the history"):
        history = _alone("history", plan.history_rows)
    return Results(
        taken_at=f"{started_at:%Y-%m-%dT%H:%M:%SZ}",
        machine=machine,
        versions=_versions(plan),
        sections=sections,
        inside=inside,
        history=history,
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


def client_go() -> Path:
    """Where ``make bench`` leaves the peer that is built from Go modules."""
    return cache() / "benchmarks" / "clientgo"


def _on_real(plan: Plan, fleet: BenchFleet, server: Server, nodes: int) -> Measured:
    usual = nodes == plan.usual_nodes
    kubeconfig = server.kubeconfig
    start = partial(Telemetryd, TELEMETRYD, kubeconfig)
    paged = partial(Telemetryd, PAGES, kubeconfig, kubernetes='watch_list = "off"')
    contenders = [Contender(TELEMETRYD, start, churned=usual), Contender(PAGES, paged)]
    contenders += _peers(plan, kubeconfig, nodes, churned=usual)
    runs = plan.runs if nodes <= _MOST_NODES_FOR_ALL else min(plan.runs, _LARGE_RUNS)
    with timed(f"{fleet.nodes:,} nodes, everyone in turns"):
        measured = run_rounds(server, fleet, contenders, runs=runs, updates=plan.updates)

    def with_exporters(exporters: str) -> Telemetryd:
        return Telemetryd(TELEMETRYD, kubeconfig, exporters=exporters)

    if nodes == min(plan.nodes):
        with going_on("scrapes"):
            measure_scrapes(with_exporters, measured)
        for kind in EXPORTER_KINDS:
            with going_on(f"{plan.exporters} exporters of type {kind}"):
                measure_many(
                    with_exporters,
                    measured,
                    kind,
                    exporters=plan.exporters,
                    interval_s=plan.exporters_interval_s,
                )
    if not usual:
        return measured
    further = min(plan.runs, _FURTHER_RUNS)
    with going_on("idle"):
        measure_idle(with_exporters, measured, duration_s=plan.idle_s)
    with going_on("loop lag"):
        measure_lag(start, measured, runs=further)
    with going_on("relists"):
        measure_relists(server, start, measured, runs=further)
    return measured


def _peers(plan: Plan, kubeconfig: Path, nodes: int, *, churned: bool) -> Iterator[Contender]:
    if not plan.peers:
        return
    if client_go().exists():
        start = partial(Peer, CLIENT_GO, (client_go(), "-kubeconfig", kubeconfig), watches=True)
        yield Contender(CLIENT_GO, start, churned=churned)
    python = ROOT / ".venv-bench" / "bin" / "python"
    if python.exists():
        for name, program in _PEERS.items():
            if nodes <= _MOST_NODES_FOR_ALL or name == DROPPED:
                command = (python, "-m", f"benchmarks.peers.{program}", kubeconfig)
                yield Contender(name, partial(Peer, name, command))


def _section(server: Server, fleet: BenchFleet, measured: Measured) -> Section:
    return Section(
        server=server.kind,
        nodes=fleet.nodes,
        clusters=fleet.clusters + 1,
        json_bytes=sum(len(s.body) for s in fleet.objects() if s.plural == "nodes"),
        holders=measured.by_holder,
    )


def _alone(module: str, size: int) -> dict[str, float]:
    """What a module measures in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", str(size)],
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
        number = required(ROOT / "benchmarks" / "clientgo", "k8s.io/client-go")
        versions[CLIENT_GO] = f"{number}, typed shared informers"
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
