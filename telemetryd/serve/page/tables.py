"""The tables of the status page, and the HTML that all of it is made of.

Text is escaped, unless it is ``Markup`` already. Roles repeat the meaning of the elements: narrow
screens show a table as cards, and in browsers an element loses its meaning with its ``display``.
"""

import html
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final, TypeAlias
from urllib.parse import quote

from telemetryd.bounds import escaped
from telemetryd.model import ExporterStatus, InformerStatus, RequestStatus
from telemetryd.serve.page.overview import Tone, judge_exporter, judge_informer, judge_request
from telemetryd.serve.page.status import (
    StatusFacts,
    choose_requests,
    render_time,
)

TONE_NAMES: Final = {
    Tone.GOOD: "All well",
    Tone.QUIET: "At rest",
    Tone.BUSY: "In progress",
    Tone.GAPS: "Gaps",
    Tone.BAD: "Needs attention",
}

_UNITS: Final = ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))
_KIB: Final = 1024
_MOST_SHOWN_IN_BYTES: Final = 10 * _KIB

MOST_SHOWN_CHARS: Final = 2000
"""For one text."""

_VOID: Final = frozenset({"br", "link", "meta"})


class Markup(str):
    """HTML, not to be escaped again."""

    __slots__ = ()


Child: TypeAlias = str | Markup
Attribute: TypeAlias = str | bool | None


def escape(text: str) -> Markup:
    """A text as HTML, up to ``MOST_SHOWN_CHARS`` of it.

    Controls, surrogates and marks that change the direction of text are shown as escapes.
    """
    return Markup(html.escape(escaped(text, MOST_SHOWN_CHARS)))


def tag(name: str, /, *children: Child, **attributes: Attribute) -> Markup:
    """An element.

    Args:
        name: Of the element.
        children: Text is escaped.
        attributes: By name, with ``_`` for ``-`` and one at the end for a Python keyword
            (``class_``); True for an attribute without a value, None for a missing one.
    """
    given = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(value)}"')
        for key, value in attributes.items()
        if not (value is None or value is False)
    )
    start = f"<{name}{given}>"
    return Markup(start) if name in _VOID else Markup(f"{start}{join(children)}</{name}>")


def join(children: Iterable[Child]) -> Markup:
    """The children in sequence; text is escaped."""
    return Markup(
        "".join(child if isinstance(child, Markup) else escape(child) for child in children)
    )


def mark(tone: Tone) -> Markup:
    """A coloured shape; the text beside it says the same."""
    return tag("i", class_=f"mark {tone.name.lower()}", aria_hidden="true")


def render_count(count: int) -> str:
    """A whole number, in groups of three digits."""
    return f"{count:,}"


def span(seconds: float) -> str:
    """The two largest units, without one that is 0: ``3 d 4 h``, ``5 min``."""
    whole = max(0, int(seconds))
    for unit_s, unit, part_s, part in _UNITS:
        if whole >= unit_s:
            rest = whole % unit_s // part_s
            return (
                f"{whole // unit_s} {unit} {rest} {part}" if rest else f"{whole // unit_s} {unit}"
            )
    return f"{whole} s"


def time_of(unix_s: float | None, now: float, *, absolute: bool = False) -> Markup:
    """A time for people and machines.

    ``absolute`` shows the time itself instead of its distance.
    """
    if unix_s is None:
        return tag("span", "never", class_="quiet")
    exact = datetime.fromtimestamp(unix_s, tz=UTC)
    if absolute:
        shown = f"{exact:%Y-%m-%d %H:%M:%S} UTC"
    elif unix_s >= now + 1:  # a snapshot may be taken while this is rendered
        shown = f"in {span(unix_s - now)}"
    else:
        shown = f"{span(now - unix_s)} ago"
    title = None if absolute else f"{exact:%Y-%m-%d %H:%M:%S} UTC"
    return tag("time", shown, datetime=render_time(unix_s), title=title)


def exporters_table(facts: StatusFacts) -> Markup:
    """All exporters; a sentence where there is none."""
    if not facts.exporters:
        return tag("p", "None is configured.", class_="quiet")
    return _table(
        "State, last success and next run of each exporter, and its last error",
        "exporters",
        ("Exporter", "State", "Last success", "Next run", "Payload", "Last error"),
        [_exporter(exporter, facts) for exporter in facts.exporters],
    )


def requests_table(facts: StatusFacts) -> Markup:
    """The SecretRequests of ``choose_requests``, and how many more there are."""
    shown, left_out = choose_requests(facts.requests)
    table = _table(
        "State and last write of each SecretRequest's Secret, and its problem",
        "requests",
        ("SecretRequest", "State", "Secret", "Last write", "Trouble"),
        [_request(request, facts.now) for request in shown],
    )
    if not left_out:
        return table
    command = tag("code", "kubectl get secretrequests.telemetry.cattle.io")
    more = tag("p", f"{render_count(left_out)} more are left out: ", command, class_="quiet")
    return join((table, more))


def informers_table(facts: StatusFacts) -> Markup:
    """All informers; a sentence where there is none."""
    if not facts.informers:
        return tag("p", "Nothing is watched at the moment.", class_="quiet")
    return _table(
        "State, number of objects and last contact of each cache, and its problem",
        "informers",
        ("Resource", "State", "Objects", "Last contact", "Trouble"),
        [_informer(informer, facts.now) for informer in facts.informers],
    )


def _exporter(exporter: ExporterStatus, facts: StatusFacts) -> Sequence[Child]:
    detail = "" if exporter.detail == exporter.last_error else exporter.detail
    kind = (exporter.type, exporter.disclosure.format, f"every {span(exporter.interval_s)}")
    return (
        join(
            (
                tag("b", exporter.name),
                tag("small", ", ".join(filter(None, kind))),
            )
        ),
        _state(judge_exporter(exporter), str(exporter.state).capitalize(), detail),
        time_of(exporter.last_success_at, facts.now),
        _next_run(exporter.next_run_in_s, facts.now),
        _payload(exporter, exposed=facts.payload_exposed),
        _last_error(exporter),
    )


def _next_run(in_s: float | None, now: float) -> Markup:
    if in_s is None:
        return _none("not planned")
    return time_of(now + in_s, now) if in_s >= 1 else tag("span", "now")


def _last_error(exporter: ExporterStatus) -> Markup:
    if not exporter.last_error:
        return _none()
    failures = exporter.consecutive_failures
    count = f" ({failures} in a row)" if failures > 1 else ""
    reason = exporter.last_error_reason.replace("_", " ").capitalize()
    return join((tag("b", f"{reason}{count}: "), exporter.last_error))


def _payload(exporter: ExporterStatus, *, exposed: bool) -> Child:
    size = exporter.payload_bytes
    if size is None:
        return _none("none yet")
    shown = f"{size:,} B" if size < _MOST_SHOWN_IN_BYTES else f"{size / _KIB:,.0f} KiB"
    if not exposed:
        return shown
    target = f"payload/{quote(exporter.name, safe='/')}"
    return tag("a", shown, href=target, aria_label=f"Payload of {exporter.name}, {shown}")


def _request(request: RequestStatus, now: float) -> Sequence[Child]:
    return (
        tag("b", request.name),
        _state(judge_request(request), str(request.state).capitalize(), ""),
        request.target or _none(),
        time_of(request.last_write_at, now),
        request.detail or _none(),
    )


_LIST_METHODS = {"stream": "listed as a stream", "pages": "listed in pages"}


def _informer(informer: InformerStatus, now: float) -> Sequence[Child]:
    tone = judge_informer(informer)
    if informer.last_error:
        word = "Out of date" if informer.synced else "Not synced"
    else:
        word = "Synced" if informer.synced else "Syncing"
    if informer.unreadable:
        detail = f"{informer.unreadable} unreadable"
    else:
        detail = _LIST_METHODS.get(informer.list_method, "")
    name, _, group = informer.resource.partition(".")
    return (
        join((tag("b", name), tag("small", group or "core"))),
        _state(tone, "Not served" if informer.absent else word, detail),
        render_count(informer.objects),
        time_of(informer.last_contact_at, now),
        informer.last_error or _none(),
    )


def _state(tone: Tone, word: str, detail: str) -> Markup:
    small = tag("small", detail) if detail else ""
    return tag("div", mark(tone), tag("div", tag("span", word), small), class_="state")


def _none(text: str = "none") -> Markup:
    return tag("span", text, class_="quiet")


def _table(
    caption: str, kind: str, heads: Sequence[str], rows: Iterable[Sequence[Child]]
) -> Markup:
    """A table; cards leave out cells that say none."""
    head = tag(
        "tr",
        *(tag("th", name, scope="col", role="columnheader") for name in heads),
        role="row",
    )
    body = (
        tag(
            "tr",
            tag("th", row[0], scope="row", role="rowheader"),
            *(
                tag(
                    "td",
                    tag("div", cell),
                    role="cell",
                    data_label=name,
                    class_="nothing" if cell == _none() else None,
                )
                for name, cell in zip(heads[1:], row[1:], strict=True)
            ),
            role="row",
        )
        for row in rows
    )
    return tag(
        "table",
        tag("caption", caption),
        tag("thead", head, role="rowgroup"),
        tag("tbody", *body, role="rowgroup"),
        role="table",
        class_=kind,
    )
