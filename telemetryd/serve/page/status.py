"""The document of ``/status.json``, and its summary in one line.

Of the identity it has only which parts are known.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, fields
from typing import Any, Final

from telemetryd.bounds import document
from telemetryd.gather.consumer import Registrations
from telemetryd.model import (
    ConfigStatus,
    Disclosure,
    ExporterStatus,
    GroupKey,
    HistoryStatus,
    Identity,
    InformerStatus,
    RequestState,
    RequestStatus,
    RestrictionStatus,
    Snapshot,
    Totals,
    split,
    total,
)
from telemetryd.redaction import OURS
from telemetryd.serve.page.disclosure import list_fields, render_fields, render_plugin
from telemetryd.serve.page.facts import StatusFacts, render_time
from telemetryd.serve.page.notes import MOST_NOTES, TONE_NAMES, Tone
from telemetryd.serve.page.overview import fix_of, judge

_NANO = 1_000_000_000
MOST_REQUESTS: Final = 200
"""SecretRequests in every view: anyone who may create them decides how many there are."""

_TROUBLE_FIRST: Final = (
    RequestState.FAILING,
    RequestState.CONFLICT,
    RequestState.REJECTED,
    RequestState.WAITING,
    RequestState.UNDECIDED,
    RequestState.LEAVING,
    RequestState.SERVED,
)
_WITH_EXPORTER: Final = frozenset(
    {RequestState.FAILING, RequestState.CONFLICT, RequestState.SERVED}
)


def render_status(facts: StatusFacts) -> dict[str, Any]:
    """The document of ``/status.json``, of JSON types only; times are RFC 3339 in UTC."""
    rendered: dict[str, Any] = document(_status(facts))
    rendered["exporters"] = list(_exporters(facts))
    return rendered


def _status(facts: StatusFacts) -> dict[str, Any]:
    requests, left_out = choose_requests(facts.requests)
    return {
        "version": facts.version,
        "time": render_time(facts.now),
        "started_at": render_time(facts.started_at),
        "uptime_seconds": round(max(0.0, facts.now - facts.started_at), 3),
        "overview": _overview(facts),
        "api_server": facts.api_server,
        "login_problem": facts.login_problem,
        "config": _config(facts.config),
        "collection": _collection(facts),
        "consumer": _consumer(facts),
        "leader": None if facts.leader is None else asdict(facts.leader),
        "history": _history(facts.history),
        "informers": [_informer(informer) for informer in facts.informers],
        "exporters": [],
        "secret_requests": [_request(request) for request in requests],
        "secret_requests_left_out": left_out,
        "identity": _identity(facts.snapshot),
        "waiting_for": list(facts.missing),
        "snapshot": None if facts.snapshot is None else _snapshot(facts.snapshot),
    }


def _history(history: HistoryStatus) -> dict[str, Any]:
    at = history.last_sample_at
    return {
        "enabled": history.enabled,
        "samples": history.samples,
        "last_sample": None if at is None else render_time(at),
        "lost_slots": history.lost_slots,
        "trouble": history.trouble,
        "licenses": history.licenses,
        "limit": history.limit,
    }


def _overview(facts: StatusFacts) -> dict[str, Any]:
    """What the page says at its top."""
    overview = judge(facts)
    return {
        "state": _state(overview.tone),
        "sentence": overview.sentence,
        "findings": [
            {"state": _state(note.tone), "what": note.what, "why": note.why, "fix": note.fix}
            for note in overview.notes[:MOST_NOTES]
        ],
        "findings_left_out": max(0, len(overview.notes) - MOST_NOTES),
    }


def _state(tone: Tone) -> str:
    return TONE_NAMES[tone].lower().replace(" ", "_")


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
    """Registrations without their names."""
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


def _exporters(facts: StatusFacts) -> Iterator[dict[str, Any]]:
    """Exporters that send the same share the list of their fields: a thousand have 100,000."""
    situation = facts.situation
    lists: dict[Disclosure, Any] = {}
    for exporter in facts.exporters:
        sent = exporter.disclosure
        if sent not in lists:
            lists[sent] = document(render_fields(list_fields(sent, situation)))
        yield {**document(_exporter(exporter, facts.now)), "fields": lists[sent]}


def _exporter(exporter: ExporterStatus, now: float) -> dict[str, Any]:
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
        "last_error_fix": fix_of(exporter) if exporter.last_error else "",
        "next_run_at": render_time(next_run_at),
        "payload_bytes": exporter.payload_bytes,
        "digest": exporter.digest,
        "schema_valid": exporter.schema_valid,
        "fields": [],
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


def render_fleet(totals: Totals) -> dict[str, Any]:
    """The fleet by kinds of clusters, of JSON types only."""
    everything = totals.everything
    stale = total(totals.groups, lambda key: key.stale)
    return {
        "clusters": {"local": totals.local_clusters, "managed": totals.managed_clusters},
        "nodes": totals.nodes,
        "node_roles": dict(totals.roles),
        "cpu_cores": totals.cpu_nano / _NANO,
        "memory_bytes": totals.memory_nano // _NANO,
        "gpus": everything.gpus._asdict(),
        "by_kind": _parts(totals, lambda key: key.kind),
        "by_provider": _parts(totals, lambda key: key.provider),
        "by_driver": _parts(totals, lambda key: key.driver),
        "by_management": _parts(totals, lambda key: key.management),
        "by_kubernetes_minor": _parts(totals, lambda key: key.kubernetes_minor),
        "active_clusters": total(totals.groups, lambda key: key.active).clusters,
        "deleting_clusters": total(totals.groups, lambda key: key.deleting).clusters,
        "stale_clusters": stale.clusters,
        "stale_nodes": stale.nodes,
        "differing_clusters": everything.differing_clusters,
        "drops": [asdict(drop) for drop in totals.drops],
        "pod_capacity": everything.pods,
        "requested": {
            "pods": everything.requested_pods,
            "cpu_cores": everything.requested_cpu_nano / _NANO,
            "memory_bytes": everything.requested_memory_nano // _NANO,
        },
        "unreported_nodes": {"cpu": totals.unreported_cpu, "memory": totals.unreported_memory},
        "unreadable_nodes": everything.unreadable_nodes,
        "orphan_nodes": totals.orphan_nodes,
        "unreadable_objects": dict(totals.unreadable),
        "withheld_texts": dict(totals.withheld),
    }


def _parts(totals: Totals, part_of: Callable[[GroupKey], str]) -> dict[str, Any]:
    return {
        part: {
            "clusters": sums.clusters,
            "nodes": sums.nodes,
            "cpu_cores": sums.cpu_nano / _NANO,
        }
        for part, sums in split(totals.groups, part_of).items()
    }


def choose_requests(requests: Collection[RequestStatus]) -> tuple[list[RequestStatus], int]:
    """The SecretRequests to show, failing ones first, then by name; and how many are left out.

    Those with an exporter are always shown: the number of exporters is limited.
    """

    def place(request: RequestStatus) -> tuple[int, str]:
        return _TROUBLE_FIRST.index(request.state), request.name

    shown = sorted(requests, key=lambda each: (each.state not in _WITH_EXPORTER, *place(each)))
    shown = sorted(shown[:MOST_REQUESTS], key=place)
    return shown, len(requests) - len(shown)
