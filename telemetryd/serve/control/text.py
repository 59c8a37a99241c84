"""Answers of the daemon as text, as ``telemetryd ctl`` prints them.

Ages are by the daemon's clock. An answer may come from another version: a missing value is shown
as ``-``.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import orjson

from telemetryd.bounds import visible
from telemetryd.serve.control.protocol import CommandAnswer, Document, Request

_NOTHING = "-"
_GAP = "  "
_MINUTE_S = 60
_HOUR_S = 3600
_DAY_S = 86400


def render_result(  # noqa: PLR0911 - one a command
    request: Request, answer: CommandAnswer, *, as_json: bool
) -> str:
    """The text for stdout; empty where the command was refused.

    ``as_json`` is only for ``status``: print the document itself.
    """
    result = answer.result
    if answer.error:
        return ""
    match request.command:
        case "status" if not as_json:
            return render_table(result)
        case "status" | "cache" | "support-bundle" | "history" | "slots" | "prune":
            options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
            return orjson.dumps(result, option=options).decode()
        case "reload":
            changes = result.get("changes") or (["nothing has changed"] if answer.ok else [])
            return _lines(changes)
        case "opt-in":
            ended = [f"ended: {_restriction(each)}" for each in result.get("ended") or ()]
            kept = [f"remains: {_restriction(each)}" for each in result.get("remaining") or ()]
            return _lines([*(ended or ["nothing was remembered"]), *kept])
        case "trigger":
            run, outcome = result.get("run"), result.get("result")
            return _lines([f"{run}: {outcome}" if outcome else run])
        case "start" | "stop" | "restart":
            exporter = result.get("exporter") or {}
            state, detail = exporter.get("state"), exporter.get("detail")
            return _lines(
                [f"{request.name}: {state} ({detail})" if detail else f"{request.name}: {state}"]
            )


def render_complaints(request: Request, answer: CommandAnswer) -> list[str]:
    """The lines for stderr: the problems, if any."""
    if answer.error:
        return [visible(answer.error)]
    if answer.ok:
        return []
    result = answer.result
    if request.command in {"reload", "opt-in"}:
        return [visible(str(problem)) for problem in result.get("problems") or ()]
    if request.command == "trigger":
        exporter = result.get("exporter") or {}
        reason, error = exporter.get("last_error_reason"), exporter.get("last_error")
        return [visible(f"{result.get('run')} failed: {reason}: {error}")]
    if not result.get("synced"):
        return [f"{request.name} isn't synced"]
    found = result.get("verification") or {}
    counts = f"{found.get('missing_count')} missing, {found.get('extra_count')} extra"
    return [f"{request.name} differs from the API server: {counts}"]


def render_table(document: Document) -> str:
    """The status as text."""
    now = _moment(document.get("time"))
    lines = [
        _headline(document),
        *_collection(document.get("collection") or {}),
        *_leader(document.get("leader") or {}),
        *_history(document.get("history") or {}),
    ]
    lines += _consumer(document.get("consumer") or {}, now)
    waiting = document.get("waiting_for") or []
    if waiting:
        lines.append(f"waiting for {', '.join(map(str, waiting))}")
    lines += _fleet(document.get("snapshot") or {})
    last_reload = (document.get("config") or {}).get("last_reload") or {}
    lines += [f"last reload rejected: {each}" for each in last_reload.get("problems") or ()]
    informers = [_informer(each, now) for each in document.get("informers") or []]
    exporters = [_exporter(each, now) for each in document.get("exporters") or []]
    lines += [
        "",
        *render_columns(("INFORMER", "STATE", "OBJECTS", "LAST CONTACT", "DETAIL"), informers),
    ]
    lines += [
        "",
        *render_columns(
            ("EXPORTER", "TYPE", "STATE", "LAST SUCCESS", "NEXT RUN", "DETAIL"),
            exporters or [(_NOTHING,) * 6],
        ),
    ]
    if requests := document.get("secret_requests"):
        head = ("SECRETREQUEST", "SECRET", "STATE", "LAST WRITE", "DETAIL")
        lines += ["", *render_columns(head, [_request(each, now) for each in requests])]
    if left_out := document.get("secret_requests_left_out"):
        lines.append(f"{left_out} more SecretRequests are left out")
    return _lines(lines)


def _headline(document: Document) -> str:
    uptime = _span(document.get("uptime_seconds"))
    server = document.get("api_server") or _NOTHING
    line = f"telemetryd {document.get('version')}, up {uptime}, API server {server}"
    problem = document.get("login_problem")
    return f"{line}, login: {problem}" if problem else line


def _history(history: Document) -> Iterable[str]:
    licenses, limit = history.get("licenses"), history.get("limit")
    if licenses is not None:
        of = f" of {limit}" if limit is not None else ""
        over = ", over the limit" if limit is not None and licenses > limit else ""
        yield f"licenses this month: {licenses}{of}{over}"
    if history.get("enabled") and history.get("trouble"):
        yield f"history can't be written: {history['trouble']}"


def _leader(leader: Document) -> Iterable[str]:
    if leader.get("leading"):
        yield f"leading, term {leader.get('epoch')}, by lease {leader.get('name')}"
    elif leader:
        holder = leader.get("holder")
        leads = f"{holder} leads" if holder else "no known leader"
        trouble = f": {leader['last_error']}" if leader.get("last_error") else ""
        yield f"standing by, {leads}, by lease {leader.get('name')}{trouble}"


def _collection(collection: Document) -> Iterable[str]:
    if collection.get("enabled") is False:
        yield f"collection is {collection.get('detail')}"
    elif source := collection.get("source"):
        yield f"source {source}"
    for restriction in collection.get("restrictions") or ():
        yield f"restriction: {_restriction(restriction)}"
    if warning := collection.get("memory_warning"):
        yield f"restrictions: {warning}"


def _consumer(consumer: Document, now: datetime | None) -> Iterable[str]:
    if detail := consumer.get("detail"):
        yield str(detail)
    registrations = consumer.get("registrations") or ()
    for each in registrations:
        synced = _ago(each.get("last_sync_at"), now)
        yield (
            f"registration {each.get('state')}, {each.get('mode')}, last sync {synced},"
            f" expires {each.get('expires_at') or _NOTHING}"
        )
    if unreadable := consumer.get("unreadable"):
        yield f"registrations that can't be read: {unreadable}"
    elif consumer.get("served") and not registrations:
        yield "registration: none"
    if error := consumer.get("last_error"):
        yield f"registrations: {error}"


def _restriction(restriction: Document) -> str:
    said = "written in" if restriction.get("written") else "remembered from"
    kept = ", ".join(map(str, restriction.get("remembered_in") or ())) or "nowhere"
    return (
        f"{restriction.get('what')}: {restriction.get('key')}, {said} {restriction.get('where')},"
        f" since {restriction.get('since')}, remembered in {kept};"
        f" to end it, {restriction.get('end')}"
    )


def _fleet(snapshot: Document) -> Iterable[str]:
    fleet = snapshot.get("fleet")
    if not fleet:
        return
    clusters = sum((fleet.get("clusters") or {}).values())
    yield f"{clusters} clusters, {fleet.get('nodes')} nodes"
    if reasons := snapshot.get("incomplete_reasons"):
        yield f"incomplete: {', '.join(map(str, reasons))}"
    if doubts := snapshot.get("doubts"):
        yield f"doubtful: {', '.join(map(str, doubts))}"
    if stale := fleet.get("stale_clusters"):
        yield f"unreachable: {stale} clusters, {fleet.get('stale_nodes')} nodes as last known"


_LIST_METHODS = {"stream": "listed as a stream", "pages": "listed in pages"}


def _informer(informer: Document, now: datetime | None) -> Sequence[str]:
    synced = "synced" if informer.get("synced") else "syncing"
    return (
        str(informer.get("resource")),
        "absent" if informer.get("absent") else synced,
        str(informer.get("objects", _NOTHING)),
        _ago(informer.get("last_contact_at"), now),
        str(informer.get("last_error") or _LIST_METHODS.get(str(informer.get("list_method")), "")),
    )


def _exporter(exporter: Document, now: datetime | None) -> Sequence[str]:
    failing = bool(exporter.get("consecutive_failures"))
    reason, error = exporter.get("last_error_reason"), exporter.get("last_error")
    detail = exporter.get("detail") or (f"{reason}: {error}" if failing and error else "")
    return (
        str(exporter.get("name")),
        str(exporter.get("type")),
        str(exporter.get("state")),
        _ago(exporter.get("last_success_at"), now),
        _in(exporter.get("next_run_at"), now),
        str(detail),
    )


def _request(request: Document, now: datetime | None) -> Sequence[str]:
    return (
        str(request.get("name")),
        str(request.get("target") or _NOTHING),
        str(request.get("state")),
        _ago(request.get("last_write_at"), now),
        str(request.get("detail") or ""),
    )


def render_columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Lines of a table."""
    table = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield _GAP.join(cells).rstrip()


def _moment(text: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None


def _ago(text: Any, now: datetime | None) -> str:
    moment = _moment(text)
    if moment is None or now is None:
        return _NOTHING
    return f"{_span(max(0.0, (now - moment).total_seconds()))} ago"


def _in(text: Any, now: datetime | None) -> str:
    moment = _moment(text)
    if moment is None or now is None:
        return _NOTHING
    seconds = (moment - now).total_seconds()
    return f"in {_span(seconds)}" if seconds >= 1 else "now"


def _span(seconds: Any) -> str:
    """The two largest units: ``3d4h``, ``5m10s``."""
    if not isinstance(seconds, int | float):
        return _NOTHING
    whole = int(seconds)
    if whole >= _DAY_S:
        return f"{whole // _DAY_S}d{whole % _DAY_S // _HOUR_S}h"
    if whole >= _HOUR_S:
        return f"{whole // _HOUR_S}h{whole % _HOUR_S // _MINUTE_S}m"
    if whole >= _MINUTE_S:
        return f"{whole // _MINUTE_S}m{whole % _MINUTE_S}s"
    return f"{whole}s"


def _lines(lines: Iterable[Any]) -> str:
    return "".join(f"{visible(str(line))}\n" for line in lines)
