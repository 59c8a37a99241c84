"""The status page: HTML and CSS, no script.

``overview`` judges the state, ``tables`` draws the tables, ``style`` has the look. Links are
relative: a proxy may serve the page under a path.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from telemetryd.model import Disclosure, LeaderStatus, SourceKind
from telemetryd.serve.page.disclosure import (
    NEVER_READ,
    FieldState,
    Group,
    group_exporters,
    list_reads,
)
from telemetryd.serve.page.fleet import fleet_rows
from telemetryd.serve.page.overview import Note, Overview, judge
from telemetryd.serve.page.status import StatusFacts
from telemetryd.serve.page.style import ICON, STYLE
from telemetryd.serve.page.tables import (
    TONE_NAMES,
    Child,
    Markup,
    exporters_table,
    informers_table,
    join,
    mark,
    render_count,
    requests_table,
    span,
    tag,
    time_of,
)

MOST_NOTES: Final = 50

_LINKS: Final = (
    (".", "Refresh"),
    ("metrics", "Metrics"),
    ("status.json", "Status as JSON"),
    ("readyz?verbose", "Readiness"),
)


def render_page(facts: StatusFacts) -> str:
    """The whole document."""
    overview = judge(facts)
    head = join(
        (
            tag("meta", charset="utf-8"),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("title", f"{TONE_NAMES[overview.tone]} · telemetryd"),
            tag("link", rel="icon", href=ICON),
            tag("style", Markup(STYLE)),
        )
    )
    body = tag(
        "body",
        tag("a", "Skip to the status", class_="skip", href="#status"),
        _header(facts),
        tag(
            "main",
            _overview(overview),
            _section("exporters", "Exporters", exporters_table(facts)),
            _section("requests", "SecretRequests", requests_table(facts)) if facts.requests else "",
            _section("informers", "Caches", informers_table(facts)),
            _fleet(facts),
            _configuration(facts),
            _disclosure(facts),
            _restrictions(facts) if facts.restrictions else "",
            _switches(facts),
            id="status",
            tabindex="-1",
        ),
    )
    return f"<!doctype html>\n{tag('html', tag('head', head), body, lang='en')}\n"


def _header(facts: StatusFacts) -> Markup:
    links = (tag("li", tag("a", text, href=target)) for target, text in _LINKS)
    up = (
        tag("span", "up ", tag("b", span(facts.now - facts.started_at))),
        tag("span", "since ", time_of(facts.started_at, facts.now, absolute=True)),
        tag("span", "as of ", time_of(facts.now, facts.now, absolute=True)),
    )
    return tag(
        "header",
        tag(
            "div",
            tag("p", "telemetryd ", tag("span", facts.version), class_="brand"),
            tag("nav", tag("ul", *links), aria_label="Other views"),
            class_="bar",
        ),
        tag("p", *up, class_="facts"),
    )


def _overview(overview: Overview) -> Markup:
    said = [note for note in overview.notes if note.what == overview.sentence]
    rest = [note for note in overview.notes if note not in said]
    left_out = len(rest) - MOST_NOTES
    listed = [*map(_note, rest[:MOST_NOTES])]
    if left_out > 0:
        listed.append(tag("li", f"{render_count(left_out)} more"))
    advice = [line for note in said for line in _advice(note)]
    return tag(
        "section",
        tag("h1", mark(overview.tone), tag("span", overview.sentence), id="verdict"),
        tag("div", *advice, class_="advice") if advice else "",
        tag("ul", *listed, class_="findings") if listed else "",
        class_=f"verdict {overview.tone.name.lower()}",
        aria_labelledby="verdict",
    )


def _note(note: Note) -> Markup:
    return tag("li", mark(note.tone), tag("div", tag("p", note.what), *_advice(note)))


def _advice(note: Note) -> Iterator[Markup]:
    if note.why:
        yield tag("p", note.why, class_="why")
    if note.fix:
        yield tag("p", note.fix)


def _section(name: str, heading: str, *children: Child) -> Markup:
    return tag(
        "section",
        tag("h2", heading, id=name),
        *children,
        aria_labelledby=name,
    )


def _list(rows: Iterable[tuple[str, Child]]) -> Markup:
    """Names and values."""
    pairs = (tag("div", tag("dt", name), tag("dd", value)) for name, value in rows)
    return tag("dl", *pairs)


def _fleet(facts: StatusFacts) -> Markup:
    snapshot = facts.snapshot
    if snapshot is None:
        missing = ", ".join(facts.missing)
        text = f"Not known yet: waiting for {missing}." if missing else "Not known."
        return _section("fleet", "Fleet", tag("p", text, class_="quiet"))
    manages = facts.source is not SourceKind.KUBERNETES
    return _section("fleet", "Fleet", _list(fleet_rows(snapshot, facts.now, manages=manages)))


def _configuration(facts: StatusFacts) -> Markup:
    config = facts.config
    if config.reloaded_at is None:
        last: Child = "none since the start"
    else:
        outcome = "rejected " if config.problems else "accepted "
        last = join((outcome, time_of(config.reloaded_at, facts.now)))
    rows: list[tuple[str, Child]] = [
        ("API server", tag("code", facts.api_server) if facts.api_server else "none yet"),
        ("Login", facts.login_problem or "up to date"),
        (
            "Source",
            "none at the moment" if facts.source is None else str(facts.source).capitalize(),
        ),
        *_consumer(facts),
        ("Configuration", tag("code", config.where)),
        ("In force", time_of(config.in_force_at, facts.now)),
        ("Hash", tag("code", f"{config.hash:012x}")),
        ("Last reload", last),
        ("Leader election", _election(facts.leader)),
        ("Payloads", "shown here" if facts.payload_exposed else "not shown here"),
    ]
    problems = tag("ul", *(tag("li", tag("code", each)) for each in config.problems))
    return _section(
        "configuration",
        "Configuration",
        _list(rows),
        join((tag("h3", "Why the reload was rejected"), problems)) if config.problems else "",
    )


def _consumer(facts: StatusFacts) -> Iterator[tuple[str, Child]]:
    """The build of Rancher and its registrations, as far as they are known."""
    if facts.build is not None:
        yield "Rancher build", facts.build.capitalize()
    known = facts.registrations
    if known is not None and known.served:
        found = [f"{each.state(facts.now)}: {each}" for each in known.found]
        if known.unreadable:
            found.append(f"{render_count(known.unreadable)} can't be read")
        yield "Registration with SUSE", "; ".join(found) or "none"
    if known is not None and known.error:
        yield "Registrations", tag("code", known.error)


def _election(leader: LeaderStatus | None) -> Child:
    if leader is None:
        return "off"
    lease = join(("by the Lease ", tag("code", leader.name)))
    if leader.leading:
        text: Child = join(("this replica leads, term ", str(leader.epoch), ", ", lease))
    elif leader.holder:
        text = join((tag("code", leader.holder), " leads, ", lease))
    else:
        text = join(("no known leader, ", lease))
    return join((text, "; ", tag("code", leader.last_error))) if leader.last_error else text


def _disclosure(facts: StatusFacts) -> Markup:
    situation = facts.situation
    exact = tag(
        "p",
        "Exactly what an exporter would send is printed by ",
        tag("code", "telemetryd payload --exporter NAME"),
        ".",
        " What is collected from isn't known yet: this is what a Rancher's fleet would give."
        if situation.source is None
        else "",
        class_="quiet",
    )
    groups = [_sent(group) for group in group_exporters(facts.exporters, situation)]
    elects = facts.leader is not None
    reads = list_reads(facts.informers, facts.exporters, situation, elects=elects)
    read = [tag("li", tag("b", where), " ", tag("code", keys)) for where, keys in reads]
    return _section(
        "collected",
        "What is collected",
        exact,
        *(groups or [tag("p", "No exporter is configured: nothing is sent.")]),
        tag("h3", "Read, whether it is sent or not"),
        tag("ul", *read, class_="fields") if read else tag("p", "Nothing is read at the moment."),
        tag("h3", "Never read"),
        tag("ul", *(tag("li", line) for line in NEVER_READ), class_="fields"),
    )


_STATES: Final = {
    FieldState.SENT: "from: ",
    FieldState.EMPTY: "empty: ",
    FieldState.LEFT_OUT: "left out: ",
}


def _sent(group: Group) -> Markup:
    sent = group.disclosure
    form = f" ({sent.format})" if sent.format else ""
    lines = (
        tag(
            "li",
            tag("code", each.key),
            tag("span", each.what),
            tag("small", f"{_STATES[each.state]}{each.source}"),
            class_=str(each.state).replace("_", "-"),
        )
        for each in group.fields
    )
    return tag(
        "div",
        tag("h3", f"Sent by {', '.join(group.names)}{form}"),
        _given(sent) if sent.plugin else "",
        tag("ul", *lines, class_="fields") if sent.fields else tag("p", "Nothing is declared."),
    )


def _given(sent: Disclosure) -> Markup:
    """What a plug-in gets."""
    lines = (
        tag("li", tag("code", key), tag("span", what), class_="given") for key, what in sent.given
    )
    return join(
        (
            tag("p", f"The plug-in {sent.plugin} decides what it sends. It is given:"),
            tag("ul", *lines, class_="fields"),
            tag("p", "The payload that it is given has these fields:"),
        )
    )


def _restrictions(facts: StatusFacts) -> Markup:
    rows = []
    for each in facts.restrictions:
        restriction = each.restriction
        said = "written in " if restriction.written else "remembered from "
        since = time_of(restriction.since, facts.now, absolute=True)
        kept = ", ".join(each.remembered_in) or "nowhere"
        text = (said, restriction.where, " since ", since, f"; remembered in {kept}. To end it, ")
        rows.append((each.what, join((*text, each.end, "."))))
    warning = tag("p", facts.memory_warning) if facts.memory_warning else ""
    return _section("restrictions", "Restrictions", join((_list(rows), warning)))


def _switches(facts: StatusFacts) -> Markup:
    plain = facts.source is SourceKind.KUBERNETES
    setting = "" if plain else ", or telemetry-opt = out in Rancher's settings"
    ways = (
        (
            "One exporter, for now",
            tag("code", "telemetryd ctl stop NAME"),
            "lasts until it is started again, or the daemon is.",
        ),
        (
            "One exporter, for good",
            tag("code", "enabled = false"),
            "in its table of the configuration; a reload is enough.",
        ),
        (
            "Everything, while it runs",
            tag("code", "enabled = false"),
            f"in the configuration and a reload{setting}.",
        ),
        (
            "Everything, from the start",
            tag("code", "DO_NOT_TRACK=1"),
            "or TELEMETRYD_ENABLED=false in the environment, whatever the file says.",
        ),
    )
    rows = [(name, join((command, " ", text))) for name, command, text in ways]
    return _section("off", "Switching it off", _list(rows))
