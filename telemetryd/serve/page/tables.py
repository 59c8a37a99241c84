"""The tables of exporters, SecretRequests and informers; those in trouble come first."""

from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import quote

from telemetryd.model import (
    Disclosure,
    ExporterState,
    ExporterStatus,
    InformerStatus,
    RequestStatus,
)
from telemetryd.serve.page.facts import StatusFacts
from telemetryd.serve.page.layout import LONGEST_CELL, PageRow, counted, mark, more, records
from telemetryd.serve.page.markup import (
    Child,
    Markup,
    every,
    join,
    quiet,
    render_count,
    size_of,
    some,
    tag,
    time_of,
)
from telemetryd.serve.page.notes import Tone
from telemetryd.serve.page.overview import fix_of, judge_exporter, judge_informer, judge_request
from telemetryd.serve.page.status import choose_requests

MOST_EXPORTERS: Final = 200
"""In the table; `/status.json` and ``telemetryd ctl status`` have all."""

_OPEN_ROWS: Final = 40
"""Further ones are shown when asked for."""
_SHORT_DETAIL: Final = 12
"""Of the state, shown beneath it."""

_EXPORTERS: Final = ("Exporter", "State", "Last success", "Next run", "Sends", "Last payload")
_REQUESTS: Final = ("SecretRequest", "State", "Secret", "Last write")
_INFORMERS: Final = ("Resource", "State", "Objects", "Last contact", "Last list")
_DETAILS: Final = {
    ExporterState.WAITING: "Waits for",
    ExporterState.IDLE: "Problem",
    ExporterState.RUNNING: "Problem",
}
"""What the detail of an exporter is; otherwise why it is in its state."""
_LIST_METHODS: Final = {"stream": "as a stream", "pages": "in pages"}


def exporters_table(facts: StatusFacts, places: Mapping[Disclosure, str]) -> Markup:
    """Up to ``MOST_EXPORTERS`` of them; a sentence where there is none.

    ``places`` has the fragment of what exporters with a disclosure send.
    """
    if not facts.exporters:
        return tag("p", quiet("None is configured."))
    ordered = sorted(facts.exporters, key=lambda exporter: -judge_exporter(exporter))
    states = counted(str(exporter.state) for exporter in ordered)
    rows = [_exporter(exporter, facts, places) for exporter in ordered[:MOST_EXPORTERS]]
    caption = f"{some(len(ordered), 'exporter')}: {states}"
    return _table(caption, _EXPORTERS, rows, len(ordered), "telemetryd ctl status")


def requests_table(facts: StatusFacts) -> Markup:
    """The SecretRequests of ``choose_requests``, and how many more there are."""
    shown, _ = choose_requests(facts.requests)
    states = counted(str(each.state) for each in sorted(facts.requests, key=judge_request)[::-1])
    rows = [_request(request, facts.now) for request in shown]
    caption = f"{some(len(facts.requests), 'SecretRequest')}: {states}"
    command = "kubectl get secretrequests.telemetry.cattle.io"
    return _table(caption, _REQUESTS, rows, len(facts.requests), command)


def informers_table(facts: StatusFacts) -> Markup:
    """All informers; a sentence where there is none."""
    if not facts.informers:
        return tag("p", quiet("Nothing is watched at the moment."))
    objects = sum(informer.objects for informer in facts.informers)
    states = counted(_word(informer).lower() for informer in facts.informers)
    rows = [_informer(informer, facts.now) for informer in facts.informers]
    caption = f"{some(len(rows), 'informer')} with {some(objects, 'object')}: {states}"
    return records(caption, _INFORMERS, rows)


def _table(
    caption: str, heads: Sequence[str], rows: Sequence[PageRow], total: int, command: str
) -> Markup:
    """A table whose later rows are shown when asked for; ``command`` lists all."""
    parts = [records(caption, heads, rows[:_OPEN_ROWS])]
    if further := rows[_OPEN_ROWS:]:
        shown = f"Rows {_OPEN_ROWS + 1} to {len(rows)}"
        parts.append(more(shown, records(shown, heads, further)))
    if left_out := total - len(rows):
        text = f"{render_count(left_out)} more are left out: "
        parts.append(tag("p", text, tag("code", command), class_="quiet"))
    return join(parts)


def _exporter(
    exporter: ExporterStatus, facts: StatusFacts, places: Mapping[Disclosure, str]
) -> PageRow:
    said = {exporter.last_error, facts.switches.detail}
    detail = "" if exporter.detail in said else exporter.detail
    is_short = len(detail) <= _SHORT_DETAIL
    texts = [] if is_short else [(_DETAILS.get(exporter.state, "Why"), detail)]
    if exporter.last_error:
        texts.append((_reason(exporter), exporter.last_error))
        if fix := fix_of(exporter):
            texts.append(("What to do", fix))
    return PageRow(
        exporter.name,
        f"{exporter.type}, {every(exporter.interval_s)}",
        (
            _state(
                judge_exporter(exporter),
                str(exporter.state).capitalize(),
                detail if is_short else "",
            ),
            time_of(exporter.last_success_at, facts.now),
            _next_run(exporter.next_run_in_s, facts.now),
            _sends(exporter.disclosure, places),
            _payload(exporter, exposed=facts.payload_exposed),
        ),
        texts,
    )


def _reason(exporter: ExporterStatus) -> str:
    reason = exporter.last_error_reason.replace("_", " ") or "unknown reason"
    failures = exporter.consecutive_failures
    return f"Last error, {reason}" + (f", {failures} times in a row" if failures > 1 else "")


def _next_run(in_s: float | None, now: float) -> Markup | None:
    if in_s is None:
        return quiet("not planned")
    return time_of(now + in_s, now)


def _sends(sent: Disclosure, places: Mapping[Disclosure, str]) -> Child | None:
    if not (sent.fields or sent.given):
        return None
    text = some(len(sent.fields), "field")
    place = places.get(sent)
    link = tag("a", text, href=f"#{place}") if place else text
    return join((link, tag("small", f"format {sent.format}") if sent.format else ""))


def _payload(exporter: ExporterStatus, *, exposed: bool) -> Child | None:
    if exporter.payload_bytes is None:
        return None
    shown = size_of(exporter.payload_bytes)
    if not exposed:
        return shown
    target = f"payload/{quote(exporter.name, safe='/')}"
    return tag("a", shown, href=target, aria_label=f"Payload of {exporter.name}, {shown}")


def _request(request: RequestStatus, now: float) -> PageRow:
    is_short = len(request.target) <= LONGEST_CELL
    texts = [] if is_short else [("Secret", request.target)]
    if request.detail:
        texts.append(("Why", request.detail))
    return PageRow(
        request.name,
        "",
        (
            _state(judge_request(request), str(request.state).capitalize(), ""),
            (request.target if is_short else "see below") or None,
            time_of(request.last_write_at, now),
        ),
        texts,
    )


def _informer(informer: InformerStatus, now: float) -> PageRow:
    detail = f"{informer.unreadable} unreadable" if informer.unreadable else ""
    name, _, group = informer.resource.partition(".")
    return PageRow(
        name,
        group or "core",
        (
            _state(judge_informer(informer), _word(informer), detail),
            render_count(informer.objects),
            time_of(informer.last_contact_at, now),
            _LIST_METHODS.get(informer.list_method),
        ),
        [("Last error", informer.last_error)] if informer.last_error else (),
    )


def _word(informer: InformerStatus) -> str:
    if informer.absent:
        return "Not served"
    if informer.last_error:
        return "Out of date" if informer.synced else "Not synced"
    return "Synced" if informer.synced else "Syncing"


def _state(tone: Tone, word: str, detail: str) -> Markup:
    small = tag("small", detail) if detail else ""
    return tag("div", mark(tone), tag("div", tag("span", word), small), class_="state")
