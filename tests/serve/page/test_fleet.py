"""The fleet on the status page and in the status document."""

from dataclasses import replace
from html.parser import HTMLParser

from telemetryd.model import Totals
from telemetryd.serve.page.facts import StatusFacts
from telemetryd.serve.page.notes import Tone
from telemetryd.serve.page.overview import judge
from telemetryd.serve.page.page import render_page
from telemetryd.serve.page.status import render_status
from tests.serve.facts import DOUBTFUL, SNAPSHOT, Facts
from tests.serve.states import STATES, WELL


class Fleet(HTMLParser):
    """The part of the page that shows the fleet: values by name, and tables by caption."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.values: dict[str, str] = {}
        self.tables: dict[str, list[list[str]]] = {}
        self._rows: list[list[str]] = []
        self._name = self._open = ""
        self.feed(page.partition('id="fleet"')[2].partition("</section>")[0])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"dt", "dd", "caption", "th", "td"}:
            self._open = tag
        if tag in {"th", "td"}:
            self._rows[-1].append("")
        if tag == "tr":
            self._rows.append([])

    def handle_endtag(self, tag: str) -> None:
        if tag == self._open:
            self._open = ""

    def handle_data(self, data: str) -> None:
        match self._open:
            case "dt":
                self._name = data
            case "dd":
                self.values[self._name] = self.values.get(self._name, "") + data
            case "caption":
                self._rows = self.tables[data] = []
            case "th" | "td":
                self._rows[-1][-1] += data


def shown(facts: StatusFacts) -> Fleet:
    return Fleet(render_page(facts))


def test_fleet_is_shown_first_by_kind_distribution_and_version() -> None:
    fleet = shown(STATES["doubtful"])
    assert fleet.tables == {
        "By kind": [
            ["Kind", "Clusters", "Nodes", "Cores"],
            ["managed", "20", "300", "1,200"],
            ["local", "1", "3", "12"],
        ],
        "By distribution": [
            ["Distribution", "Clusters", "Nodes", "Cores"],
            ["rke2", "16", "243", "972"],
            ["eks", "4", "52", "208"],
            ["other", "1", "8", "32"],
        ],
        "By Kubernetes version": [
            ["Version", "Clusters", "Nodes", "Cores"],
            ["1.33", "17", "255", "1,020"],
            ["1.32", "3", "40", "160"],
            ["other", "1", "8", "32"],
        ],
        "By management": [
            ["Management", "Clusters", "Nodes", "Cores"],
            ["provisioned", "15", "240", "960"],
            ["hosted", "4", "52", "208"],
            ["imported", "1", "8", "32"],
            ["local", "1", "3", "12"],
        ],
        "By driver": [
            ["Driver", "Clusters", "Nodes", "Cores"],
            ["imported", "15", "240", "960"],
            ["eks", "4", "52", "208"],
            ["other", "1", "8", "32"],
            ["rke2", "1", "3", "12"],
        ],
    }
    assert fleet.values == {
        "Clusters": "21 1 local, 20 managed",
        "Nodes": "303 3 local, 300 managed",
        "CPU cores": "1,212 12 local, 1,200 managed",
        "Memory": "4,848 GiB 48 GiB local, 4,800 GiB managed",
        "GPUs": "18 16 NVIDIA, 2 Intel",
        "Cluster states": "18 active, 3 not active, 1 being deleted",
        "Unreachable": " 2 clusters with 12 nodes as last known",
        "Differing counts": " 1 cluster whose own status says otherwise",
        "Node roles": "61 controlplane, 62 etcd, 250 worker, 3 other",
        "Requested by pods": "295 cores, 590 GiB, 5,900 of 32,450 pods; not reported by 1 cluster",
        "Nodes with gaps": "1 unreadable, 4 without CPU, 5 without memory, 2 whose cluster is gone",
        "Counted": "5 seconds ago 07:59:55 UTC",
    }


def test_fleet_stands_before_the_exporters() -> None:
    for facts in STATES.values():
        page = render_page(facts)
        assert page.index('id="verdict"') < page.index('id="fleet"') < page.index('id="exporters"')


def test_fleet_without_oddities_says_none_of_each() -> None:
    values = shown(WELL).values
    for name in ("Unreachable", "Differing counts", "Nodes with gaps"):
        assert values[name] == "none"
    assert values["Cluster states"] == "21 active"
    assert "Incomplete" not in values


def test_incomplete_fleet_says_why_where_it_is_shown() -> None:
    assert shown(STATES["gaps"]).values["Incomplete"].strip() == (
        "nodes.management.cattle.io: 1 unreadable"
    )


def test_empty_fleet_says_none_of_each() -> None:
    fleet = shown(replace(WELL, snapshot=replace(SNAPSHOT, totals=Totals())))
    assert fleet.values["Clusters"].strip() == "0"
    assert fleet.values["Requested by pods"] == "not reported"
    assert fleet.values["Cluster states"] == fleet.values["Node roles"] == "none"
    assert fleet.tables == {}


def test_plain_kubernetes_says_nothing_of_kinds_and_management() -> None:
    fleet = shown(STATES["plain"])
    numbers = {name: fleet.values[name].strip() for name in ("Clusters", "Nodes", "CPU cores")}
    assert numbers == {"Clusters": "1", "Nodes": "5", "CPU cores": "20"}
    assert {name: rows[1] for name, rows in fleet.tables.items()} == {
        "By distribution": ["k3s", "1", "5", "20"],
        "By Kubernetes version": ["1.33", "1", "5", "20"],
    }
    assert not {"Cluster states", "Unreachable", "Differing counts"} & set(fleet.values)


def test_fleet_that_is_not_known_names_what_is_missing() -> None:
    page = render_page(STATES["starting"])
    text = "Not known yet: waiting for informer nodes.management.cattle.io, install UUID."
    assert text in page


def test_doubts_are_gaps_that_are_sent_all_the_same() -> None:
    overview = judge(STATES["doubtful"])
    (note,) = overview.notes
    assert (overview.tone, overview.sentence) == (Tone.GAPS, note.what)
    assert note.what == "The counts may not cover the whole fleet."
    assert note.why == "; ".join(DOUBTFUL.doubts)


def test_status_document_splits_the_fleet_and_names_doubts() -> None:
    snapshot = render_status(Facts(snapshot=DOUBTFUL).status())["snapshot"]
    assert snapshot["doubts"] == list(DOUBTFUL.doubts)
    fleet = snapshot["fleet"]
    assert fleet["by_kind"] == {
        "local": {"clusters": 1, "nodes": 3, "cpu_cores": 12},
        "managed": {"clusters": 20, "nodes": 300, "cpu_cores": 1200},
    }
    assert {name: part["clusters"] for name, part in fleet["by_provider"].items()} == {
        "eks": 4,
        "other": 1,
        "rke2": 16,
    }
    assert {name: part["clusters"] for name, part in fleet["by_driver"].items()} == {
        "eks": 4,
        "imported": 15,
        "other": 1,
        "rke2": 1,
    }
    assert {name: part["clusters"] for name, part in fleet["by_management"].items()} == {
        "hosted": 4,
        "imported": 1,
        "local": 1,
        "provisioned": 15,
    }
    assert {name: part["nodes"] for name, part in fleet["by_kubernetes_minor"].items()} == {
        "1.32": 40,
        "1.33": 255,
        "other": 8,
    }
    assert fleet["gpus"] == {"nvidia": 16, "amd": 0, "intel": 2, "other": 0}
    assert (fleet["stale_clusters"], fleet["stale_nodes"]) == (2, 12)
    assert (fleet["active_clusters"], fleet["deleting_clusters"]) == (18, 1)
    assert (fleet["differing_clusters"], fleet["unreadable_nodes"]) == (1, 1)
    assert fleet["drops"] == [{"what": "nodes", "before": 700, "now": 303}]
    assert fleet["requested"] == {"pods": 5900, "cpu_cores": 295, "memory_bytes": 590 * 2**30}
    assert fleet["pod_capacity"] == 32450
