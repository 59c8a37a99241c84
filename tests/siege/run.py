"""One siege from its quiet beginning to the restart after it."""

import contextlib
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from subprocess import PIPE, Popen, TimeoutExpired
from typing import Final

from telemetryd.serve.control.client import ask as ask_control
from telemetryd.serve.control.protocol import Request
from tests.apiserver.process import ApiServer
from tests.siege.cage import Cage, caged
from tests.siege.probes import (
    SCRAPE_TIMEOUT_S,
    Asked,
    Prober,
    Sample,
    Sampler,
    Series,
    Server,
    memory_bytes,
    read_metrics,
)
from tests.siege.stage import DELIVERY_INTERVAL_S, SCC_INTERVAL_S, Stage, Tenant, api_server
from tests.siege.swelling import swelling
from tests.siege.verdict import (
    MOST_GROWTH_MIB,
    RECOVERS_WITHIN_S,
    Exports,
    Phase,
    Siege,
    ratio_of,
)
from tests.system.daemon import Daemon
from tests.system.sink import Sink, receiving

LIMIT_BYTES: Final = 128 * 2**20
ATTACKERS: Final = "127.0.0.2"
"""Their address; every process of loopback may have one of its own."""
KINDS: Final = {
    "slow": 400,
    "handshakes": 200,
    "busy": 600,
    "headers": 100,
    "garbage": 20,
    "control": 20,
}
"""600 slow ones, of which a third does not even finish its handshake, and 600 busy ones."""
LIVEZ, LIVEZ_BESIDE = "/livez", "/livez, attackers' address"
SCRAPE, SCRAPE_BESIDE = "/metrics", "/metrics, attackers' address"
_MIB = 2**20
_SETTLE_S = 5.0
_LOOK_S = 0.5
_DISBAND_S = 30.0
_RESTART_S = 60.0
_LAST = 5
_AS_BEFORE = 3.0
"""So many times the quiet median at most, over the last few answers."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how much."""

    quiet_s: float = 20.0
    siege_s: float = 70.0
    requests: int = 3_000
    large: int = 50
    text_bytes: int = 1_000_000
    kinds: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class _Span:
    name: str
    begin_s: float
    end_s: float


class Run:
    """The one daemon under siege, and all who look at it."""

    def __init__(
        self,
        daemon: Daemon,
        prober: Prober,
        sampler: Sampler,
        sink: Sink,
        api: ApiServer,
        stage: Stage,
    ) -> None:
        self.daemon = daemon
        self._prober = prober
        self._sampler = sampler
        self._sink = sink
        self._api = api
        self._stage = stage

    def wait(self, name: str, seconds: float) -> _Span:
        """Lets the time pass, unless the daemon ends."""
        begin_s = time.monotonic()
        with contextlib.suppress(TimeoutExpired):
            self.daemon.process.wait(seconds)
        return _Span(name, begin_s, time.monotonic())

    def recover(self, quiet: Phase) -> tuple[_Span, list[str]]:
        """Waits until all is as in the quiet phase; returns what is not, in the end."""
        begin_s = time.monotonic()
        while True:
            left = self._different(quiet, begin_s)
            end_s = time.monotonic()
            if not left or end_s - begin_s > RECOVERS_WITHIN_S or self.daemon.process.poll():
                return _Span("after", begin_s, end_s), left
            time.sleep(_LOOK_S)

    def look(self, span: _Span) -> Phase:
        """What was seen in a phase."""
        asked = self._prober.between(span.begin_s, span.end_s)
        samples = self._sampler.between(span.begin_s, span.end_s)
        cores, waited = shares(samples)
        return Phase(
            name=span.name,
            seconds=span.end_s - span.begin_s,
            asked=asked,
            exports=self._exports(asked),
            requests=self._count_requests(span),
            rss_mib=max((each.rss_bytes for each in samples), default=0) / _MIB,
            connections=max((each.connections for each in samples), default=0),
            cores=cores,
            waited=waited,
        )

    def _exports(self, asked: Mapping[str, Sequence[Asked]]) -> dict[str, Exports]:
        """By the first and the last scrape of the phase, and by the receiver between them."""
        scrapes = sorted(
            (each for name in (SCRAPE, SCRAPE_BESIDE) for each in asked[name] if each.is_answered),
            key=lambda each: each.at_s,
        )
        if len(scrapes) < 2:
            return {}
        first, last = scrapes[0], scrapes[-1]
        before, after = read_metrics(first.text), read_metrics(last.text)
        found = {}
        for name, interval_s in (("scc", SCC_INTERVAL_S), ("receiver", DELIVERY_INTERVAL_S)):
            grown = Counter[str]()
            for family in ("runs_total", "skipped_ticks_total"):
                prefix = f'telemetryd_exporter_{family}{{exporter="{name}",'
                for series, value in after.items():
                    if series.startswith(prefix):
                        label = series[len(prefix) :].rstrip("}")
                        grown[family] += int(value - before.get(series, 0.0))
                        grown[label] += int(value - before.get(series, 0.0))
            posts = None
            if name == "receiver":
                posts = sum(each.ended_s < last.at_s for each in self._sink.posts(first.at_s))
            found[name] = Exports(
                slots=int((last.at_s - first.at_s) / interval_s),
                runs=grown["runs_total"],
                skipped=grown["skipped_ticks_total"],
                posts=posts,
                failures=grown['result="failure"'],
            )
        return found

    def _count_requests(self, span: _Span) -> int:
        return sum(
            event["stage"] == "RequestReceived"
            and span.begin_s <= _monotonic_of(event["requestReceivedTimestamp"]) < span.end_s
            for event in self._api.audit()
        )

    def count_by_resource(self, span: _Span) -> Counter[str]:
        """Requests of a phase by verb and resource."""
        return Counter(
            f"{event['verb']} {event.get('objectRef', {}).get('resource', '?')}"
            for event in self._api.audit()
            if event["stage"] == "RequestReceived"
            and span.begin_s <= _monotonic_of(event["requestReceivedTimestamp"]) < span.end_s
        )

    def _different(self, quiet: Phase, since_s: float) -> list[str]:
        """What is not as it was in the quiet phase."""
        found = []
        sample = self._sampler.now()
        if sample is None:
            return ["the daemon is gone"]
        if sample.connections > quiet.connections + 2:
            found.append(f"{sample.connections} connections, {quiet.connections} before")
        grown = sample.rss_bytes / _MIB - quiet.rss_mib
        if grown > MOST_GROWTH_MIB:
            found.append(f"{grown:.0f} MiB more are resident")
        for name, asked in self._prober.between(since_s, time.monotonic()).items():
            last, before = asked[-_LAST:], ratio_of(quiet.asked[name])
            now = ratio_of(last)
            if len(last) < _LAST or not all(each.is_answered for each in last):
                found.append(f"{name} is not answered")
            elif now > _AS_BEFORE * before:
                found.append(f"{name} takes {now:.1f} ms, {before:.1f} before")
        scrapes = self._prober.between(since_s, time.monotonic())[SCRAPE]
        metrics = read_metrics(scrapes[-1].text) if scrapes and scrapes[-1].is_answered else {}
        for series, value in metrics.items():
            if series.startswith("telemetryd_informer_synced") and value != 1:
                found.append(f"{series} is {value:g}")
            own = 'exporter="scc"' in series or 'exporter="receiver"' in series
            if series.startswith("telemetryd_exporter_consecutive_failures") and own and value:
                found.append(f"{series} is {value:g}")
        return [*found, *self._unready()]

    def _unready(self) -> Iterator[str]:
        server = Server(self.daemon.port, self._stage.context)
        ready = server.ask("/readyz")
        if not ready.is_answered:
            yield f"/readyz: {ready.status} {ready.error}"
        if not self._stage.is_operator_served():
            yield "scc-operator's request is not served"
        answer = ask_control([str(self._stage.control_socket)], Request("status"), timeout_s=10)
        if not answer.ok:
            yield f"the control socket answers {answer.error}"


def besiege(assets: Path, plan: Plan, tell: Callable[[str], None]) -> Siege:
    """The whole run; takes about as long as its phases and a minute more."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="telemetryd-siege-")))
        sink = stack.enter_context(receiving())
        tell("starting the API server")
        api, admin = stack.enter_context(api_server(assets, folder / "apiserver"))
        proxy = stack.enter_context(swelling(api.url, api.ca_file, folder, plan.text_bytes))
        stage = Stage(api, admin, folder, sink, proxy)
        with caged(LIMIT_BYTES) as cage:
            tell(f"the daemon's memory: {cage.describe()}")
            siege = _phases(stage, api, sink, cage, plan, tell)
        if siege.died is None:
            with caged(LIMIT_BYTES) as cage:
                _restart(stage, cage, siege, tell)
    return siege


def _phases(
    stage: Stage, api: ApiServer, sink: Sink, cage: Cage, plan: Plan, tell: Callable[[str], None]
) -> Siege:
    with stage.daemon(cage) as (daemon, server):
        daemon.wait_for("readiness", lambda: server.ask("/readyz").is_answered, 60)
        daemon.wait_for("scc-operator's Secret", stage.is_operator_served, 60)
        prober = Prober(series_of(stage, server))
        sampler = Sampler(daemon.process.pid, daemon.port)
        run = Run(daemon, prober, sampler, sink, api, stage)
        with prober.running(), sampler.running():
            run.wait("settling", _SETTLE_S)
            tell(f"quiet for {plan.quiet_s:.0f} s")
            quiet_span = run.wait("quiet", plan.quiet_s)
            tell(f"under siege for {plan.siege_s:.0f} s")
            tenant = Tenant(
                stage.admin, plan.requests, plan.large, plan.requests / max(1, plan.siege_s - 10)
            )
            numbers = plan.kinds or KINDS
            attack = attacking(server, numbers, control=stage.control_socket)
            with attack as attackers, tenant.running():
                siege_span = run.wait("siege", plan.siege_s)
            counts = attackers.counts
            tell("and after it")
            quiet = run.look(quiet_span)
            after_span, after = run.recover(quiet)
            died = daemon.process.poll()
            peak = _peak_mib(daemon)
        siege = Siege(
            quiet=quiet,
            siege=run.look(siege_span),
            recovery=run.look(after_span),
            after=after,
            recovered_s=after_span.end_s - after_span.begin_s,
            peak_mib=peak or max(each.rss_bytes for each in sampler.samples) / _MIB,
            kills=cage.kills(),
            died=died,
        )
        siege.notes += _notes(cage, siege, tenant, counts, run.count_by_resource(siege_span))
        if died is not None:
            siege.notes.append(f"the end of its log:\n{daemon.log()[-2000:]}")
        return siege


def shares(samples: Sequence[Sample]) -> tuple[float, float]:
    """CPU that a process used, and time that it waited for a core, over wall time."""
    if len(samples) < 2:
        return 0.0, 0.0
    first, last = samples[0], samples[-1]
    wall_s = last.at_s - first.at_s
    return (last.cpu_s - first.cpu_s) / wall_s, (last.waited_s - first.waited_s) / wall_s


def series_of(stage: Stage, server: Server) -> list[Series]:
    """Probes and scrapes, from an address of their own and from the attackers'."""
    token = stage.token()
    beside = stage.token()

    def scrape(source: str, token: str) -> Asked:
        return server.ask("/metrics", source=source, token=token, timeout_s=SCRAPE_TIMEOUT_S)

    return [
        Series(LIVEZ, lambda: server.ask("/livez")),
        Series(SCRAPE, lambda: scrape("127.0.0.1", token)),
        Series(LIVEZ_BESIDE, lambda: server.ask("/livez", source=ATTACKERS)),
        Series(SCRAPE_BESIDE, lambda: scrape(ATTACKERS, beside)),
    ]


class Attackers:
    """The process of the attackers, and in the end what they did."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}


@contextlib.contextmanager
def attacking(
    server: Server, numbers: Mapping[str, int], *, control: Path | None = None
) -> Iterator[Attackers]:
    """Attackers in a process of their own, until left.

    Raises:
        RuntimeError: They did not attack until then.
    """
    command = [sys.executable, "-m", "tests.siege.attacks", "--port", str(server.port)]
    command += ["--source", ATTACKERS]
    if server.context is not None:
        command.append("--tls")
    if control is not None:
        command += ["--control", str(control)]
    command += [f"{kind}={number}" for kind, number in numbers.items()]
    attackers = Attackers()
    with Popen(command, stdin=PIPE, stdout=PIPE, text=True) as process:
        try:
            yield attackers
            ended = process.poll()
            told, _ = process.communicate(timeout=_DISBAND_S)
        finally:
            process.kill()
    if ended is not None:
        raise RuntimeError(f"the attackers ended too early, with {ended}")
    attackers.counts = json.loads(told)


def _restart(stage: Stage, cage: Cage, siege: Siege, tell: Callable[[str], None]) -> None:
    """Starts it again, with all the tenant's requests there from the beginning."""
    tell("starting again, with all requests there")
    begin_s = time.monotonic()
    try:
        with stage.daemon(cage) as (daemon, server):
            daemon.wait_for("readiness", lambda: server.ask("/readyz").is_answered, _RESTART_S)
            ready_s = time.monotonic() - begin_s
            peak = _peak_mib(daemon)
    except AssertionError as error:
        siege.restart = str(error).splitlines()[0]
        return
    siege.peak_mib = max(siege.peak_mib, peak)
    siege.kills += cage.kills()
    siege.notes.append(
        f"start with all requests there: ready after {ready_s:.1f} s, {peak:.0f} MiB"
    )


def _notes(
    cage: Cage,
    siege: Siege,
    tenant: Tenant,
    counts: Mapping[str, int],
    requests: Mapping[str, int],
) -> list[str]:
    peak = cage.peak_bytes()
    whole = "" if peak is None else f"; the cgroup {peak / _MIB:.0f} MiB with page cache"
    asked = ", ".join(f"{name} {number}" for name, number in sorted(requests.items()))
    did = ", ".join(f"{name} {number}" for name, number in sorted(counts.items()))
    notes = [
        f"memory: {cage.describe()}; {siege.peak_mib:.0f} MiB resident at the peak{whole}",
        f"SecretRequests: {tenant.created} of {tenant.number} made while it was under siege",
        f"requests to the API server in the siege: {asked}",
        f"attackers: {did}",
        f"as before after {siege.recovered_s:.1f} s",
    ]
    return [*notes, *(f"the tenant was refused: {each}" for each in tenant.errors)]


def _peak_mib(daemon: Daemon) -> float:
    try:
        return memory_bytes(daemon.process.pid, "VmHWM") / _MIB
    except (OSError, StopIteration):
        return 0.0


def _monotonic_of(timestamp: str) -> float:
    """The audit log's time by our clock."""
    wall_s = datetime.fromisoformat(timestamp).timestamp()
    return wall_s - datetime.now(UTC).timestamp() + time.monotonic()
