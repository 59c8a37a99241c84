"""The status page as HTML: well-formed, in order, complete, and deaf to what texts try."""

from dataclasses import replace
from html.parser import HTMLParser

import pytest

from telemetryd.model import (
    ExporterState,
    RequestState,
    RequestStatus,
    Restriction,
    RestrictionStatus,
)
from telemetryd.serve.page.page import render_page
from telemetryd.serve.page.status import StatusFacts
from telemetryd.serve.page.tables import span
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
    "table", "caption", "thead", "tbody", "tr", "th", "td",
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
    assert {cell.get("scope") for cell in document.all("th")} <= {"col", "row"}
    for tag, role in {
        "table": "table", "thead": "rowgroup", "tbody": "rowgroup", "tr": "row", "td": "cell",
    }.items():  # fmt: skip
        assert {each.get("role") for each in document.all(tag)} <= {role}


def test_nothing_is_loaded_refreshed_or_sent(facts: StatusFacts) -> None:
    text = render_page(facts)
    document = Document(text)
    assert not [meta for meta in document.all("meta") if "http-equiv" in meta]
    assert [link["rel"] for link in document.all("link")] == ["icon"]
    targets = {href for href, _ in document.links if not href.startswith("payload/")}
    assert targets == {"#status", ".", "metrics", "status.json", "readyz?verbose"}
    style = text.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_times_are_for_people_and_for_machines() -> None:
    text = render_page(WELL)
    assert (
        '<time datetime="2027-01-15T07:59:40.000Z" title="2027-01-15 07:59:40 UTC">20 s ago</time>'
    ) in text
    assert ">in 40 s</time>" in text
    assert '<time datetime="2027-01-12T04:00:00.000Z">2027-01-12 04:00:00 UTC</time>' in text


def test_everything_known_of_the_daemon_is_shown() -> None:
    text = Document(render_page(WELL)).text
    for shown in (
        "0.1.0", "3 d 4 h", "https://10.43.0.1:443", "/etc/telemetryd/config.toml", "fffffffffffd",
        "accepted", "archive", "file, scc, every 1 h", "Idle", "nodes", "management.cattle.io",
        "Synced", "303", "63 controlplane, 63 etcd, 240 worker", "2,424 cores", "9,696 GiB",
        "telemetryd payload", "enabled = false",
    ):  # fmt: skip
        assert shown in text
    assert INSTALL_UUID not in text


def test_errors_are_shown_whole_with_reason_and_count() -> None:
    text = Document(render_page(STATES["failing"])).text
    assert "Forbidden (7 in a row): " in text
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
    assert "<title>All well · telemetryd</title>" in render_page(WELL)
    assert "<title>Needs attention · telemetryd</title>" in render_page(STATES["conflict"])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (59.9, "59 s"), (60, "1 min"), (61, "1 min 1 s"), (3600, "1 h"),
     (3661, "1 h 1 min"), (86400, "1 d"), (90000, "1 d 1 h")],
)  # fmt: skip
def test_spans_have_their_two_largest_units(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_snapshot_of_this_moment_is_not_of_the_future() -> None:
    assert WELL.snapshot is not None
    taken = replace(WELL, snapshot=replace(WELL.snapshot, taken_at=WELL.now + 0.01))
    assert ">0 s ago</time></dd></div></dl>" in render_page(taken)


def test_next_run_that_is_due_is_now() -> None:
    due = replace(WELL, exporters=(exporter_status(next_run_in_s=0.2),))
    assert "<span>now</span>" in render_page(due)


def test_each_restriction_says_who_made_it_and_what_ends_it() -> None:
    restriction = Restriction("file", "enabled", "/etc/<t>.toml", WELL.now - 60, written=False)
    shown = RestrictionStatus(restriction, "collection is off", ("/s/restrictions.json",), "opt in")
    facts = replace(WELL, restrictions=(shown,), memory_warning="not stored")
    text = " ".join(Document(render_page(facts)).texts)
    for part in (
        "remembered from",
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
    assert "2,949 more" in page
    assert ">served<" in page
