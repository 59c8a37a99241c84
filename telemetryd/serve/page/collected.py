"""What each exporter sends, field by field, what is read, and what never is."""

from collections.abc import Iterator
from typing import Final

from telemetryd.model import Disclosure
from telemetryd.serve.page.disclosure import NEVER_READ, FieldState, Group, list_reads
from telemetryd.serve.page.facts import StatusFacts
from telemetryd.serve.page.layout import items, section
from telemetryd.serve.page.markup import Markup, join, quiet, render_count, some, tag
from telemetryd.serve.page.overview import listed

MOST_GROUPS: Final = 20
"""Plug-ins may declare other fields for each exporter."""

_MOST_NAMED: Final = 8

_STATES: Final = {
    FieldState.SENT: "from: ",
    FieldState.EMPTY: "empty: ",
    FieldState.LEFT_OUT: "left out: ",
}


def places_of(groups: tuple[Group, ...]) -> dict[Disclosure, str]:
    """The fragment of each group that is shown."""
    shown = enumerate(groups[:MOST_GROUPS], 1)
    return {group.disclosure: f"sends-{number}" for number, group in shown}


def what_is_sent(facts: StatusFacts, groups: tuple[Group, ...]) -> Markup:
    """The fields of each exporter; exporters that send the same are together."""
    if not groups:
        return tag("p", "No exporter is configured: nothing is sent.")
    places = places_of(groups)
    unknown = (
        " The source isn't known yet: these are the fields for a Rancher."
        if facts.situation.source is None
        else ""
    )
    exact = (
        "To see the values, run ",
        tag("code", "telemetryd payload --exporter NAME"),
        f": it prints what would be sent, and sends nothing.{unknown}",
    )
    left_out = len(groups) - len(places)
    return join(
        (
            tag("p", *exact, class_="quiet"),
            *(_group(group, places[group.disclosure]) for group in groups[: len(places)]),
            tag("p", f"{render_count(left_out)} more are in status.json.") if left_out else "",
        )
    )


def what_is_read(facts: StatusFacts) -> Markup:
    """The keys that are read, sent or not."""
    elects = facts.leader is not None
    reads = list_reads(facts.informers, facts.exporters, facts.situation, elects=elects)
    read = [join((tag("b", where), " ", tag("code", keys))) for where, keys in reads]
    if read:
        heading = tag("h3", "Read, whether it is sent or not")
        count = quiet(some(len(read), "place"))
        keys = tag("div", items(read, "fields reads"))
        shown = tag("details", tag("summary", heading, " ", count), keys)
    else:
        shown = tag("p", "Nothing is read at the moment.")
    return section(
        "read",
        "What is read",
        shown,
        tag("h3", "Never read"),
        items(NEVER_READ, "fields"),
    )


def _group(group: Group, place: str) -> Markup:
    sent = group.disclosure
    form = f" ({sent.format})" if sent.format else ""
    fields = (
        tag(
            "li",
            tag("code", each.key),
            tag("span", each.what),
            tag("small", f"{_STATES[each.state]}{each.source}"),
            class_=str(each.state).replace("_", "-"),
        )
        for each in group.fields
    )
    heading = tag("h3", f"Sent by {listed(group.names, _MOST_NAMED)}{form}")
    return tag(
        "details",
        tag("summary", heading, " ", quiet(some(len(group.fields), "field"))),
        tag(
            "div",
            *(_given(sent) if sent.plugin else ()),
            tag("ul", *fields, class_="fields") if sent.fields else tag("p", "None is declared."),
            id=place,
        ),
    )


def _given(sent: Disclosure) -> Iterator[Markup]:
    """What a plug-in gets."""
    lines = (
        tag("li", tag("code", key), tag("span", what), class_="given") for key, what in sent.given
    )
    yield tag("p", f"The plug-in {sent.plugin} decides what it sends. It is given:")
    yield tag("ul", *lines, class_="fields")
    yield tag("p", "The payload that it is given has these fields:")
