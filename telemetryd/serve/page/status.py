"""What ``/status.json`` and the health endpoints say: pure functions of what they are given.

No HTTP, no clock, and no identity: of that only which parts are known is shown.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

from telemetryd.bounds import document, free_text
from telemetryd.config import IdentityConfig, PrivacyConfig
from telemetryd.gather.consumer import RancherBuild, Registrations, explain_build
from telemetryd.model import (
    ConfigStatus,
    ExporterState,
    ExporterStatus,
    Identity,
    InformerStatus,
    LeaderStatus,
    RequestStatus,
    RestrictionStatus,
    Snapshot,
    SourceKind,
    Switches,
)
from telemetryd.redaction import OURS
from telemetryd.serve.page.chosen import choose_requests, count_left_out
from telemetryd.serve.page.disclosure import (
    Situation,
    list_fields,
    render_fields,
    render_plugin,
    situation_of,
)
from telemetryd.serve.page.fleet import render_fleet

_WITHHELD = "failed: reason withheld"
"""As Kubernetes says it to clients that may not see more."""
REPORT_CHARS = 1000
"""Of one line of a health report."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of a health report.

    Attributes:
        name: ``informer/nodes.management.cattle.io``.
        failure: What is wrong, in a few words on one line; empty where all is well.
    """

    name: str
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What a health endpoint found."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return not any(check.failure for check in self.checks)


@dataclass(frozen=True, slots=True)
class StatusFacts:
    """What the daemon knows of itself when it is asked.

    Attributes:
        now: Unix time in seconds.
        started_at: Likewise, when the process started.
        api_server: Its URL without credentials; empty before the first connection.
        missing: What no snapshot can be made without, each named; empty once there is one, and
            while collection is off.
        requests: SecretRequests, all of them.
        switches: What has switched it off, if anything has.
        source: What is collected from, None while nothing is.
        build: Which build of Rancher that is, None while that isn't known.
        registrations: What scc-operator says; None while that isn't read.
        leader: What became of leader election, None without one.
        payload_exposed: Payloads are shown under ``/payload/``.
        privacy: In force.
        identity: In force.
        restrictions: Each with who made it, when, and where it is remembered.
        memory_warning: Why they would be forgotten at a restart, empty where they wouldn't.
        login_problem: Why the API server is asked with the last good login, empty where all is
            well.
    """

    version: str
    now: float
    started_at: float
    api_server: str
    informers: tuple[InformerStatus, ...]
    exporters: tuple[ExporterStatus, ...]
    config: ConfigStatus
    snapshot: Snapshot | None
    missing: tuple[str, ...]
    requests: tuple[RequestStatus, ...] = ()
    switches: Switches = field(default_factory=Switches)
    source: SourceKind | None = None
    build: RancherBuild | None = None
    registrations: Registrations | None = None
    leader: LeaderStatus | None = None
    payload_exposed: bool = False
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    identity: IdentityConfig = field(default_factory=IdentityConfig)
    restrictions: tuple[RestrictionStatus, ...] = ()
    memory_warning: str = ""
    login_problem: str = ""

    @property
    def not_expected(self) -> str:
        """Why no one at SUSE expects the payload; empty where they do, or that isn't known."""
        if self.build is None:
            return ""
        known = self.snapshot.identity.product if self.snapshot is not None else ""
        return explain_build(self.build, known or self.identity.product or "rancher")

    @property
    def situation(self) -> Situation:
        """What decides what exporters send."""
        return situation_of(self.source, self.privacy, self.identity)


def liveness(*, loop_alive: bool, scheduler_alive: bool) -> Report:
    """Whether the process does its work; never asks how the API server or a sink is."""
    return Report(
        (
            Check("event-loop", "" if loop_alive else "stalled"),
            Check("scheduler", "" if scheduler_alive else "stalled"),
        )
    )


def readiness(
    *, config_applied: bool, required: Iterable[InformerStatus], unsettled: str = ""
) -> Report:
    """Whether the configuration is applied and every required informer has synced.

    A resource that the API server is known not to serve counts as synced, and while collection is
    switched off nothing is required.

    Args:
        config_applied: The first of it.
        required: The informers.
        unsettled: Why it can't be told yet which informers are required; empty where it can.
    """
    return Report(
        (
            Check("config", "" if config_applied else "not applied yet"),
            *((Check("source", f"waiting for {unsettled}"),) if unsettled else ()),
            *(
                Check(
                    f"informer/{informer.resource}",
                    "" if informer.synced else f"not synced: {informer.last_error or 'first list'}",
                )
                for informer in required
            ),
        )
    )


def render_report(report: Report, endpoint: str, *, reasons: bool = True) -> str:
    """Lines as Kubernetes' own health endpoints write them.

    Args:
        report: What was found.
        endpoint: ``readyz``; named in the last line.
        reasons: Say why a check failed. A reason may quote the API server, user names included.
    """
    lines = [
        f"[-]{check.name} {_one_line(check.failure) if reasons else _WITHHELD}"
        if check.failure
        else f"[+]{check.name} ok"
        for check in report.checks
    ]
    verdict = "passed" if report.ok else "failed"
    return "\n".join((*lines, f"{endpoint} check {verdict}", ""))


def render_status(facts: StatusFacts) -> dict[str, Any]:
    """The document of ``/status.json``, of JSON types only; times are RFC 3339 in UTC."""
    rendered: dict[str, Any] = document(_status(facts))
    return rendered


def _status(facts: StatusFacts) -> dict[str, Any]:
    return {
        "version": facts.version,
        "time": render_time(facts.now),
        "started_at": render_time(facts.started_at),
        "uptime_seconds": round(max(0.0, facts.now - facts.started_at), 3),
        "api_server": facts.api_server,
        "login_problem": facts.login_problem,
        "config": _config(facts.config),
        "collection": _collection(facts),
        "consumer": _consumer(facts),
        "leader": None if facts.leader is None else asdict(facts.leader),
        "informers": [_informer(informer) for informer in facts.informers],
        "exporters": [
            _exporter(exporter, facts.now, facts.situation) for exporter in facts.exporters
        ],
        "secret_requests": [_request(request) for request in choose_requests(facts.requests)],
        "secret_requests_left_out": count_left_out(facts.requests),
        "identity": _identity(facts.snapshot),
        "waiting_for": list(facts.missing),
        "snapshot": None if facts.snapshot is None else _snapshot(facts.snapshot),
    }


def render_summary(facts: StatusFacts) -> str:
    """The same in one line of ``key=value``, for the log and for ``STATUS=``."""
    synced = sum(informer.synced for informer in facts.informers)
    healthy = sum(exporter.last_success_at is not None for exporter in facts.exporters)
    failing = sorted(
        exporter.name
        for exporter in facts.exporters
        if exporter.state in {ExporterState.FAILED, ExporterState.BACKOFF, ExporterState.CONFLICT}
    )
    off = ",".join(facts.switches.off_by)
    parts = [f"collection=off by={off}"] if off else []
    parts += [
        f"informers_synced={synced}/{len(facts.informers)}",
        f"exporters_succeeded={healthy}/{len(facts.exporters)}",
    ]
    if facts.source is not None:
        parts.append(f"source={facts.source}")
    if facts.snapshot is not None:
        totals = facts.snapshot.totals
        clusters = totals.local_clusters + totals.managed_clusters
        parts += [f"clusters={clusters}", f"nodes={totals.nodes}"]
    if failing:
        parts.append(f"failing={','.join(failing)}")
    if facts.config.problems:
        parts.append("config=rejected")
    return " ".join(parts)


def _collection(facts: StatusFacts) -> dict[str, Any]:
    return {
        "enabled": facts.switches.enabled,
        "off_by": [str(switch) for switch in facts.switches.off_by],
        "detail": facts.switches.detail,
        "source": None if facts.source is None else str(facts.source),
        "restrictions": [render_restriction(each) for each in facts.restrictions],
        "memory_warning": facts.memory_warning,
    }


def _consumer(facts: StatusFacts) -> dict[str, Any]:
    """Registrations without their names, which no one needs here."""
    known = facts.registrations or Registrations(served=None)
    return {
        "rancher_build": None if facts.build is None else str(facts.build),
        "detail": facts.not_expected,
        "served": known.served,
        "checked_at": render_time(known.checked_at),
        "last_error": known.error,
        "registrations": [
            {
                "state": str(each.state(facts.now)),
                "mode": each.mode,
                "activated": each.activated,
                "last_sync_at": render_time(each.last_sync_at),
                "expires_at": render_time(each.expires_at),
            }
            for each in known.found
        ],
        "unreadable": known.unreadable,
        "more": known.more,
    }


def render_restriction(status: RestrictionStatus) -> dict[str, Any]:
    """One restriction, of JSON types only."""
    restriction = status.restriction
    return {
        "what": status.what,
        "source": restriction.source,
        "key": restriction.key,
        "where": restriction.where,
        "since": render_time(restriction.since),
        "written": restriction.written,
        "remembered_in": list(status.remembered_in),
        "end": status.end,
    }


def _config(config: ConfigStatus) -> dict[str, Any]:
    return {
        "file": config.where,
        "hash": f"{config.hash:012x}",
        "in_force_at": render_time(config.in_force_at),
        "last_reload": None
        if config.reloaded_at is None
        else {
            "at": render_time(config.reloaded_at),
            "ok": not config.problems,
            "problems": list(config.problems),
        },
    }


def _informer(informer: InformerStatus) -> dict[str, Any]:
    return {
        "resource": informer.resource,
        "synced": informer.synced,
        "absent": informer.absent,
        "objects": informer.objects,
        "unreadable": informer.unreadable,
        "resource_version": informer.resource_version and OURS.redact(informer.resource_version),
        "last_contact_at": render_time(informer.last_contact_at),
        "last_error": informer.last_error,
        "list_method": informer.list_method or None,
    }


def _exporter(exporter: ExporterStatus, now: float, situation: Situation) -> dict[str, Any]:
    sent = exporter.disclosure
    next_run_at = None if exporter.next_run_in_s is None else now + exporter.next_run_in_s
    return {
        "name": exporter.name,
        "type": exporter.type,
        **({"format": sent.format} if sent.format else {}),
        "enabled": exporter.enabled,
        "state": str(exporter.state),
        "detail": exporter.detail,
        "interval_seconds": exporter.interval_s,
        "consecutive_failures": exporter.consecutive_failures,
        "last_attempt_at": render_time(exporter.last_attempt_at),
        "last_success_at": render_time(exporter.last_success_at),
        "last_failure_at": render_time(exporter.last_failure_at),
        "last_error": exporter.last_error,
        "last_error_reason": exporter.last_error_reason,
        "next_run_at": render_time(next_run_at),
        "payload_bytes": exporter.payload_bytes,
        "digest": exporter.digest,
        "schema_valid": exporter.schema_valid,
        "fields": render_fields(list_fields(sent, situation)),
        **render_plugin(sent),
    }


def _request(request: RequestStatus) -> dict[str, Any]:
    return {
        "name": request.name,
        "target": request.target,
        "state": str(request.state),
        "detail": request.detail,
        "last_write_at": render_time(request.last_write_at),
    }


def _identity(snapshot: Snapshot | None) -> dict[str, list[str]]:
    names = [each.name for each in fields(Identity)]
    known = [] if snapshot is None else [n for n in names if getattr(snapshot.identity, n)]
    return {"known": known, "missing": [name for name in names if name not in known]}


def _snapshot(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "revision": snapshot.revision,
        "taken_at": render_time(snapshot.taken_at),
        "complete": snapshot.complete,
        "incomplete_reasons": list(snapshot.incomplete_reasons),
        "doubts": list(snapshot.doubts),
        "fleet": render_fleet(snapshot.totals),
    }


def render_time(unix_s: float | None) -> str | None:
    """Unix time in seconds as RFC 3339 in UTC, with milliseconds."""
    if unix_s is None:
        return None
    text = datetime.fromtimestamp(unix_s, tz=UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def _one_line(text: str) -> str:
    return free_text(" ".join(text.split()), REPORT_CHARS)
