"""The status page: HTML and CSS, no script.

``overview`` judges the state, ``fleet``, ``tables`` and ``collected`` make the large parts,
``layout`` and ``style`` have the look. Links are relative: a proxy may serve the page under a path.
"""

from collections.abc import Iterator
from typing import Final

from telemetryd.model import LeaderStatus, SourceKind
from telemetryd.serve.page.collected import places_of, what_is_read, what_is_sent
from telemetryd.serve.page.disclosure import group_exporters
from telemetryd.serve.page.facts import StatusFacts
from telemetryd.serve.page.fleet import fleet_section
from telemetryd.serve.page.layout import (
    document,
    items,
    mark,
    masthead,
    pairs,
    section,
    verdict,
)
from telemetryd.serve.page.markup import (
    Child,
    Markup,
    date_of,
    join,
    render_count,
    some,
    span,
    tag,
    time_of,
)
from telemetryd.serve.page.notes import TONE_NAMES, Tone, words_of_limit
from telemetryd.serve.page.overview import judge
from telemetryd.serve.page.tables import exporters_table, informers_table, requests_table

_LINKS: Final = (
    (".", "Refresh"),
    ("history", "History"),
    ("metrics", "Metrics"),
    ("status.json", "Status as JSON"),
    ("readyz?verbose", "Readiness"),
)


def render_page(facts: StatusFacts) -> str:
    """The whole document."""
    overview = judge(facts)
    groups = group_exporters(facts.exporters, facts.situation)
    return document(
        TONE_NAMES[overview.tone],
        tag("a", "Skip to the status", class_="skip", href="#status"),
        _header(facts),
        tag(
            "main",
            verdict(overview),
            fleet_section(facts),
            _entitlement(facts),
            section(
                "exporters",
                "Exporters",
                exporters_table(facts, places_of(groups)),
                tag("h3", "What each exporter sends"),
                what_is_sent(facts, groups),
            ),
            section("requests", "SecretRequests", requests_table(facts)) if facts.requests else "",
            section("informers", "Informers", informers_table(facts)),
            _leader(facts.leader),
            _configuration(facts),
            _restrictions(facts) if facts.restrictions else "",
            what_is_read(facts),
            _switches(facts),
            id="status",
            tabindex="-1",
        ),
    )


def _header(facts: StatusFacts) -> Markup:
    up = (
        tag("span", "Status of ", date_of(facts.now)),
        tag("span", "up ", tag("b", span(facts.now - facts.started_at))),
        tag("span", "since ", date_of(facts.started_at)),
    )
    return masthead(facts.version, _LINKS, *up)


def _entitlement(facts: StatusFacts) -> Markup:
    """What this month counts, and whether it is kept."""
    history = facts.history
    if history.licenses is None:
        counted: Child = "not known yet"
    else:
        counted = words_of_limit(history.licenses, history.limit)
    if not history.enabled:
        kept: Child = "no: history.enabled is false"
    elif not facts.switches.enabled:
        kept = f"no: {facts.switches.detail}"
    elif history.trouble:
        kept = join((mark(Tone.GAPS), f" can't be written: {history.trouble}"))
    else:
        kept = join(("yes, last count ", time_of(history.last_sample_at, facts.now)))
    rows: list[tuple[str, Child]] = [("This month", counted), ("Kept", kept)]
    if history.lost_slots:
        rows.append(("Lost", f"{some(history.lost_slots, 'minute')} that could not be written"))
    return section("entitlement", "Entitlement and history", pairs(rows))


def _leader(leader: LeaderStatus | None) -> Markup:
    if leader is None:
        text = "Leader election is off: this replica exports. Run no other one beside it."
        return section("leader", "Leader", tag("p", text))
    if leader.leading:
        leads: Child = join(("this replica, ", tag("code", leader.identity)))
    else:
        leads = tag("code", leader.holder) if leader.holder else "not known"
    rows: list[tuple[str, Child]] = [
        ("Leader", leads),
        ("This replica", "exports" if leader.leading else "stands by"),
        ("Lease", tag("code", leader.name)),
        ("Term", str(leader.epoch)),
    ]
    if leader.last_error:
        rows.append(("Last error", leader.last_error))
    return section("leader", "Leader", pairs(rows))


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
        ("In force since", time_of(config.in_force_at, facts.now)),
        ("Hash", tag("code", f"{config.hash:012x}")),
        ("Last reload", last),
        ("Payloads", "shown" if facts.payload_exposed else "not shown"),
    ]
    problems = [tag("code", each) for each in config.problems]
    return section(
        "configuration",
        "Configuration",
        pairs(rows),
        join((tag("h3", "Why the reload was rejected"), items(problems))) if problems else "",
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


def _restrictions(facts: StatusFacts) -> Markup:
    rows = []
    for each in facts.restrictions:
        restriction = each.restriction
        source = "Written in " if restriction.written else "Remembered from "
        kept = ", ".join(each.remembered_in)
        remembered = f"remembered in {kept}" if kept else "not remembered anywhere"
        since = date_of(restriction.since)
        text = (source, restriction.where, " since ", since, f"; {remembered}. To end it, ")
        rows.append((f"{each.what[:1].upper()}{each.what[1:]}", join((*text, each.end, "."))))
    warning = (mark(Tone.GAPS), f" Restrictions: {facts.memory_warning}.")
    return section(
        "restrictions",
        "Restrictions",
        pairs(rows),
        tag("p", *warning) if facts.memory_warning else "",
    )


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
    return section("off", "Switching it off", pairs(rows))
