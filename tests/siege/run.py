"""One siege from its quiet beginning to the restart after it."""

import contextlib
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Final

from tests.apiserver.process import ApiServer
from tests.siege.attacks import KINDS, attacking
from tests.siege.cage import Cage, caged
from tests.siege.clients import SCRAPE, SCRAPE_BESIDE, held_requests, series_of
from tests.siege.probes import (
    Asked,
    Prober,
    Sample,
    Sampler,
    memory_bytes,
    read_metrics,
)
from tests.siege.recovery import Recovery
from tests.siege.stage import EXPORTERS, Stage, Tenant, api_server
from tests.siege.swelling import swelling
from tests.siege.verdict import RECOVERS_WITHIN_S, Exports, Phase, Siege
from tests.support.daemon import Daemon
from tests.support.sink import Sink, receiving

LIMIT_BYTES: Final = 128 * 2**20
_MIB = 2**20
_SETTLE_S = 5.0
_LOOK_S = 0.5
_RESTART_S = 90.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how much."""

    quiet_s: float = 15.0
    siege_s: float = 80.0
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
    ) -> None:
        self.daemon = daemon
        self._prober = prober
        self._sampler = sampler
        self._sink = sink
        self._api = api

    def wait(self, name: str, seconds: float) -> _Span:
        """Lets the time pass, unless the daemon ends."""
        begin_s = time.monotonic()
        with contextlib.suppress(TimeoutExpired):
            self.daemon.process.wait(seconds)
        return _Span(name, begin_s, time.monotonic())

    def recover(self, recovery: Recovery) -> tuple[_Span, list[str]]:
        """Waits until all is as before; returns what is not, in the end."""
        while True:
            left = recovery.differences()
            end_s = time.monotonic()
            late = end_s - recovery.since_s > RECOVERS_WITHIN_S
            if not left or late or self.daemon.process.poll() is not None:
                return _Span("after", recovery.since_s, end_s), left
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
        for name, interval_s in EXPORTERS.items():
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
        run = Run(daemon, prober, sampler, sink, api)
        with prober.running(), sampler.running():
            run.wait("settling", _SETTLE_S)
            tell(f"quiet for {plan.quiet_s:.0f} s")
            began = time.time()
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
            requests, now_s = tenant.created + 1, time.monotonic()
            recovery = Recovery(quiet, requests, now_s, stage, server, prober, sampler)
            after_span, after = run.recover(recovery)
            died = daemon.process.poll()
            peak = _peak_mib(daemon)
            ended = time.time()
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
    siege.history = stage.history_faults(began, ended)
    return siege


def shares(samples: Sequence[Sample]) -> tuple[float, float]:
    """CPU that a process used, and time that it waited for a core, over wall time."""
    if len(samples) < 2:
        return 0.0, 0.0
    first, last = samples[0], samples[-1]
    wall_s = last.at_s - first.at_s
    return (last.cpu_s - first.cpu_s) / wall_s, (last.waited_s - first.waited_s) / wall_s


def _restart(stage: Stage, cage: Cage, siege: Siege, tell: Callable[[str], None]) -> None:
    """Starts it again, with all the tenant's requests there from the beginning."""
    tell("starting again, with all requests there")
    begin_s = time.monotonic()
    try:
        with stage.daemon(cage) as (daemon, server):
            token = stage.token()
            daemon.wait_for("readiness", lambda: server.ask("/readyz").is_answered, _RESTART_S)
            daemon.wait_for(
                "the list of SecretRequests",
                lambda: held_requests(server.ask("/metrics", token=token)),
                _RESTART_S,
            )
            ready_s = time.monotonic() - begin_s
            held = held_requests(server.ask("/metrics", token=token))
            peak = _peak_mib(daemon)
    except AssertionError as error:
        siege.restart = str(error).splitlines()[0]
        return
    siege.peak_mib = max(siege.peak_mib, peak)
    siege.kills += cage.kills()
    siege.notes.append(
        f"start with all requests there: {held:.0f} held and ready after {ready_s:.1f} s, "
        f"{peak:.0f} MiB at the peak"
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
