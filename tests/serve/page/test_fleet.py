"""The fleet on the status page and in the status document."""

from dataclasses import replace
from html.parser import HTMLParser

from telemetryd.model import SourceKind, Totals
from telemetryd.serve.page.overview import Tone, judge
from telemetryd.serve.page.page import render_page
from telemetryd.serve.page.status import StatusFacts, render_status
from tests.serve.facts import DOUBTFUL, LOCAL_KEY, SNAPSHOT, Facts, group
from tests.serve.states import STATES, WELL


class Rows(HTMLParser):
    """Names and values of the lists of a page, in their order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.pairs: list[list[str]] = []
        self._open = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "dt":
            self.pairs.append(["", ""])
        if tag in {"dt", "dd"}:
            self._open = tag

    def handle_endtag(self, tag: str) -> None:
        if tag == self._open:
            self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open:
            self.pairs[-1][self._open == "dd"] += data


def listed(facts: StatusFacts) -> dict[str, str]:
    """The list of the fleet."""
    pairs = [(name, value.strip()) for name, value in Rows(render_page(facts)).pairs]
    names = [name for name, _ in pairs]
    return dict(pairs[: names.index("Counted")])


def test_fleet_of_all_kinds_is_shown_by_what_its_clusters_are() -> None:
    assert listed(STATES["doubtful"]) == {
        "Clusters": "21: the local one, 20 managed",
        "State": "18 active, 3 not active, 1 being deleted",
        "Unreachable": "2, with 12 nodes as last known",
        "Own count differs": "1",
        "Management": "provisioned: 15 (240 nodes), hosted: 4 (52 nodes), "
        "imported: 1 (8 nodes), local: 1 (3 nodes)",
        "Driver": "imported: 15 (240 nodes), eks: 4 (52 nodes), "
        "other: 1 (8 nodes), rke2: 1 (3 nodes)",
        "Distribution": "rke2: 16 (243 nodes), eks: 4 (52 nodes), other: 1 (8 nodes)",
        "Kubernetes": "1.33: 17 (255 nodes), 1.32: 3 (40 nodes), other: 1 (8 nodes)",
        "Nodes": "303, 300 of managed clusters",
        "Roles": "61 controlplane, 62 etcd, 250 worker, 3 other",
        "CPU": "1,212 cores, 1,200 of managed clusters",
        "Memory": "4,848 GiB",
        "GPUs": "16 NVIDIA, 2 Intel",
        "Requested by pods": "295 cores, 590 GiB, 5,900 of 32,450 pods; not reported by 1 cluster",
        "Nodes with gaps": "1 unreadable, 4 without CPU, 5 without memory, 2 whose cluster is gone",
    }


def test_fleet_without_oddities_says_none_of_each() -> None:
    shown = listed(WELL)
    for name in ("Unreachable", "Own count differs", "Nodes with gaps"):
        assert shown[name] == "none"
    assert shown["State"] == "21 active"


def test_empty_fleet_says_none_of_each() -> None:
    shown = listed(replace(WELL, snapshot=replace(SNAPSHOT, totals=Totals())))
    assert shown["Clusters"] == "0: no local one, 0 managed"
    assert shown["Requested by pods"] == "not reported"
    for name in ("State", "Management", "Driver", "Distribution", "Kubernetes", "Roles", "GPUs"):
        assert shown[name] == "none"


def test_plain_kubernetes_says_nothing_of_management() -> None:
    key = replace(LOCAL_KEY, provider="k3s", driver="local")
    totals = Totals(local_clusters=1, nodes=3, cpu_nano=12 * 10**9, groups=(group(key, 1, 3),))
    plain = replace(WELL, source=SourceKind.KUBERNETES, snapshot=replace(SNAPSHOT, totals=totals))
    shown = listed(plain)
    assert (shown["Clusters"], shown["Nodes"], shown["CPU"]) == ("1", "3", "12 cores")
    assert (shown["Distribution"], shown["Kubernetes"]) == ("k3s: 1 (3 nodes)", "1.33: 1 (3 nodes)")
    assert not {"State", "Unreachable", "Management", "Driver", "Own count differs"} & set(shown)


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
