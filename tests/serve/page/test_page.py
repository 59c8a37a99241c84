"""The status page as HTML: well-formed, in order, complete, and deaf to what texts try."""

import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import pytest

from telemetryd.export.payloads.formats import PAYLOAD_FORMATS
from telemetryd.model import (
    Disclosure,
    ExporterState,
    Field,
    LeaderStatus,
    RequestState,
    RequestStatus,
    Restriction,
    RestrictionStatus,
)
from telemetryd.serve.page.facts import StatusFacts
from telemetryd.serve.page.layout import LONGEST_NAME
from telemetryd.serve.page.page import render_page
from tests.serve.facts import (
    INSTALL_UUID,
    exporter_status,
    informer_status,
    new_exporter_status,
)
from tests.serve.states import STATES, WELL

VOID = {"meta", "link", "br"}
ELEMENTS = VOID | {
    "html", "head", "title", "style", "body", "header", "nav", "main", "section", "div", "h1", "h2",
    "h3", "p", "ul", "li", "dl", "dt", "dd", "a", "b", "i", "small", "span", "code", "time",
    "table", "caption", "thead", "tbody", "tr", "th", "td", "details", "summary",
    "figure", "figcaption", "svg", "rect", "line", "text", "polygon", "polyline",
}  # fmt: skip


class Document(HTMLParser):
    """The tree of a page, or an assertion that fails."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self.links: list[tuple[str, str]] = []
        self.texts: list[str] = []
        assert text.startswith("<!doctype html>\n<html ")
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        assert tag in ELEMENTS, tag
        assert len(attributes) == len(attrs), attrs
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        self.elements.append((tag, attributes))
        if tag in {"h1", "h2", "h3"}:
            self.headings.append(tag)
        if tag == "a":
            self.links.append((attributes["href"] or "", ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"style", "title"}:
            self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(self.texts)


@pytest.fixture(params=STATES)
def facts(request: pytest.FixtureRequest) -> StatusFacts:
    return STATES[request.param]


def test_page_is_well_formed_and_its_headings_are_in_order(facts: StatusFacts) -> None:
    document = Document(render_page(facts))
    assert document.headings[0] == "h1"
    assert document.headings.count("h1") == 1
    for upper, lower in zip(document.headings, document.headings[1:], strict=False):
        assert int(lower[1]) - int(upper[1]) <= 1
    (root,) = document.all("html")
    assert root == {"lang": "en"}
    for landmark in ("header", "nav", "main", "title"):
        assert len(document.all(landmark)) == 1
    assert document.all("a")[0] == {"class": "skip", "href": "#status"}
    assert document.all("main")[0]["id"] == "status"


def test_ids_are_unique_and_what_names_others_is_there(facts: StatusFacts) -> None:
    document = Document(render_page(facts))
    ids = [attributes["id"] for _, attributes in document.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    named = [each["aria-labelledby"] for each in document.all("section")]
    assert set(named) <= set(ids)


def test_tables_say_what_they_are_and_what_each_cell_belongs_to(facts: StatusFacts) -> None:
    document = Document(render_page(facts))
    assert len(document.all("caption")) == len(document.all("table"))
    assert {cell.get("scope") for cell in document.all("th")} <= {"col", "row", "rowgroup"}
    roles = {"table": "table", "thead": "rowgroup", "tbody": "rowgroup", "tr": "row", "td": "cell"}
    for tag, role in roles.items():  # those of figures stay tables at every width
        assert {each.get("role") for each in document.all(tag)} <= {role, None}


def test_nothing_is_loaded_refreshed_or_sent(facts: StatusFacts) -> None:
    text = render_page(facts)
    document = Document(text)
    assert not [meta for meta in document.all("meta") if "http-equiv" in meta]
    assert [link["rel"] for link in document.all("link")] == ["icon"]
    targets = {href for href, _ in document.links if not href.startswith(("payload/", "#sends-"))}
    assert targets == {"#status", ".", "history", "metrics", "status.json", "readyz?verbose"}
    ids = {attributes.get("id") for _, attributes in document.elements}
    assert {href[1:] for href, _ in document.links if href.startswith("#")} <= ids
    style = text.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_everything_known_of_the_daemon_is_shown() -> None:
    text = Document(render_page(WELL)).text
    for shown in (
        "1.0.0", "3 days 4 hours", "https://10.43.0.1:443", "/etc/telemetryd/config.toml",
        "fffffffffffd", "accepted", "archive", "file, every hour", "format scc", "18 fields",
        "Idle", "nodes", "management.cattle.io", "Synced", "303", "1,212",
        "63 controlplane, 63 etcd, 240 worker", "4,848 GiB", "telemetryd payload",
        "enabled = false", "3 exporters: 3 idle", "6 informers with 478 objects: 6 synced",
        "2027-01-15 08:00:00 UTC", "07:59:40 UTC",
    ):  # fmt: skip
        assert shown in text
    assert INSTALL_UUID not in text


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({}, ("15 licenses, within the limit of 16", "yes, last count", "4 seconds ago")),
        ({"licenses": 1, "limit": None}, ("1 license; no limit is configured",)),
        ({"licenses": 18}, ("18 licenses, 2 over the limit of 16",)),
        ({"licenses": None, "enabled": False}, ("not known yet", "no: history.enabled is false")),
        ({"trouble": "disk full", "lost_slots": 3}, ("can't be written: disk full", "3 minutes")),
    ],
)
def test_entitlement_and_whether_the_history_is_kept_are_shown(
    changes: dict[str, object], shown: tuple[str, ...]
) -> None:
    page = render_page(replace(WELL, history=replace(WELL.history, **changes)))  # type: ignore[arg-type]
    text = page.partition('id="entitlement"')[2].partition("</section>")[0]
    assert all(each in unescape(text) for each in shown), text


def test_errors_are_shown_whole_with_reason_and_count() -> None:
    text = Document(render_page(STATES["failing"])).text
    assert "Last error, forbidden, 7 times in a row: " in text
    assert "What to do:  Grant the right that the message names" in text
    assert 'is "1 minute": must be a duration' in text
    assert "Fix the file and run telemetryd ctl reload." in text


def test_payloads_are_linked_where_they_are_exposed_and_exist() -> None:
    exporters = (
        exporter_status(name="secretrequest/a b", payload_bytes=20480),
        new_exporter_status(name="new"),
    )
    exposed = replace(WELL, exporters=exporters)
    links = [href for href, _ in Document(render_page(exposed)).links if "payload" in href]
    assert links == ["payload/secretrequest/a%20b"]
    hidden = Document(render_page(replace(exposed, payload_exposed=False)))
    assert not [href for href, _ in hidden.links if "payload" in href]
    assert "20 KiB" in hidden.text


@pytest.mark.parametrize("state", ExporterState)
def test_every_state_is_shown_in_words(state: ExporterState) -> None:
    exporters = (exporter_status(state=state, detail="because"),)
    text = Document(render_page(replace(WELL, exporters=exporters))).text
    assert str(state).capitalize() in text
    assert "because" in text


def test_informers_are_shown_as_they_are() -> None:
    informers = (
        informer_status(resource="a.x", absent=True),
        informer_status(resource="b.x", synced=False),
        informer_status(resource="c.x", last_error="refused"),
        informer_status(resource="d.x", synced=False, last_error="refused"),
    )
    text = Document(render_page(replace(WELL, informers=informers))).text
    for word in ("Not served", "Syncing", "Out of date", "Not synced", "1 unreadable"):
        assert word in text


def test_tone_in_the_title_follows_the_verdict() -> None:
    assert "<title>Healthy · telemetryd</title>" in render_page(WELL)
    assert "<title>Needs attention · telemetryd</title>" in render_page(STATES["conflict"])


def test_exporters_in_trouble_come_first() -> None:
    text = render_page(STATES["failing"]).partition('id="exporters"')[2]
    places = [text.index(f"<b>{name}</b>") for name in ("archive", "scc", "secretrequest/")[:2]]
    assert max(places) < text.index("<b>secretrequest/rancher-scc-metrics</b>")
    many = render_page(STATES["many"]).partition('id="exporters"')[2]
    assert many.index("<b>receiver-0907</b>") < many.index("<b>receiver-0000</b>")


def test_each_exporter_leads_to_the_fields_of_its_format() -> None:
    page = render_page(STATES["served"])
    rows = page.partition('id="exporters"')[2].partition("</table>")[0].split("<tbody")[1:]
    for form in ("scc", "fleet"):
        (row,) = (
            each for each in rows if f"format {form}<" in each and "secretrequest" not in each
        )
        place = row.partition('href="#')[2].partition('"')[0]
        listed = page.partition(f'id="{place}"')[2].partition("</details>")[0]
        fields = PAYLOAD_FORMATS[form].fields
        assert re.findall(r"<code>([^<]*)</code>", listed) == [field.key for field in fields]
        assert f"{len(fields)} fields" in row


def test_next_run_that_is_due_is_now() -> None:
    due = replace(WELL, exporters=(exporter_status(next_run_in_s=0.2),))
    assert ">now <small>08:00:00 UTC</small></time>" in render_page(due)


def test_leader_is_named_with_its_lease_and_term() -> None:
    text = Document(render_page(STATES["standby"])).text
    for shown in ("telemetryd-7c9f", "stands by", "cattle-telemetry-system/telemetryd", "12"):
        assert shown in text.partition("Leader")[2].partition("Configuration")[0]
    leading = LeaderStatus("ns/lease", "me-1", leading=True, holder="me-1", epoch=3, last_error="x")
    text = Document(render_page(replace(WELL, leader=leading))).text
    assert "this replica,  me-1" in text
    assert "Leader election is off" in Document(render_page(WELL)).text


def test_long_names_and_texts_get_the_whole_width() -> None:
    page = render_page(STATES["long"])
    rows = re.findall(r"<th [^>]*><b>([^<]*)</b>", page)
    wide = re.findall(r'<th [^>]*colspan="[46]"[^>]*><b>([^<]*)</b>', page)
    assert wide == [name for name in rows if len(name) > LONGEST_NAME]
    assert len(wide) == 3
    assert re.search(r'colspan="4"><div><p><b>Secret: </b>nnnn', page)


def test_each_restriction_says_who_made_it_and_what_ends_it() -> None:
    restriction = Restriction("file", "enabled", "/etc/<t>.toml", WELL.now - 60, written=False)
    shown = RestrictionStatus(restriction, "collection is off", ("/s/restrictions.json",), "opt in")
    facts = replace(WELL, restrictions=(shown,), memory_warning="not stored")
    text = " ".join(Document(render_page(facts)).texts)
    for part in (
        "Remembered from",
        "/etc/<t>.toml",
        "/s/restrictions.json",
        "opt in",
        "not stored",
    ):
        assert part in text
    assert "Restrictions" not in render_page(WELL)


def test_thousands_of_requests_with_huge_texts_make_a_bounded_page() -> None:
    huge = "<" * 2**20
    requests = [
        RequestStatus(f"r{number}", huge, RequestState.REJECTED, huge, None)
        for number in range(2999)
    ]
    served = RequestStatus("served", "ns/s", RequestState.SERVED, "", None)
    page = render_page(replace(WELL, requests=(served, *requests)))
    Document(page)
    assert len(page) < 5_000_000
    assert "2,800 more are left out: <code>kubectl get secretrequests" in page
    assert "2,948 more" in page
    assert ">served<" in page


def test_thousand_exporters_make_a_bounded_page_that_names_those_that_fail() -> None:
    page = render_page(STATES["many"])
    Document(page)
    assert len(page) < 300_000
    assert "1,000 exporters: 10 failed, 990 idle" in page
    assert "800 more are left out: <code>telemetryd ctl status" in page
    for number in range(7, 1000, 100):
        assert f"<b>receiver-{number:04}</b>" in page


def test_thousand_plugins_that_fail_with_huge_texts_make_a_bounded_page() -> None:
    huge = "<" * 2**20
    exporters = tuple(
        exporter_status(
            name=f"x{number}",
            state=ExporterState.FAILED,
            detail=huge,
            last_error=f"{number}{huge}",
            last_error_reason=huge,
            disclosure=Disclosure(fields=(Field(f"k{number}", huge, huge, huge),), plugin=huge),
        )
        for number in range(1000)
    )
    page = render_page(replace(WELL, exporters=exporters))
    Document(page)
    assert len(page) < 8_000_000
    assert "949 more" in page
    assert "980 more are in status.json." in page
