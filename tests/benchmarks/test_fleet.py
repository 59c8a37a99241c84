import json
from collections import Counter

import pytest

from benchmarks.exposition import parse
from benchmarks.fleet import BenchFleet, Stored


@pytest.fixture(scope="module")
def objects() -> list[Stored]:
    return list(BenchFleet(2_500).objects())


def test_fleet_has_as_many_nodes_as_asked_for_and_three_local_ones(objects: list[Stored]) -> None:
    fleet = BenchFleet(2_500)
    kinds = Counter(stored.plural for stored in objects)
    assert (fleet.nodes, fleet.clusters) == (2_503, 50)
    assert (kinds["nodes"], kinds["clusters"]) == (2_503, 51)
    sizes = Counter(stored.namespace for stored in objects if stored.plural == "nodes")
    assert Counter(sizes.values()) == {50: 50, 3: 1}


def test_every_object_is_itself_under_its_own_name(objects: list[Stored]) -> None:
    keys, uids = set(), set()
    for stored in objects:
        metadata = json.loads(stored.body)["metadata"]
        assert (metadata["name"], metadata.get("namespace", "")) == (stored.name, stored.namespace)
        keys.add((stored.plural, stored.namespace, stored.name))
        uids.add(metadata["uid"])
    assert len(keys) == len(uids) == len(objects)


def test_nodes_are_of_the_size_of_real_ones(objects: list[Stored]) -> None:
    sizes = [len(stored.body) for stored in objects if stored.plural == "nodes"]
    assert 7_000 < sum(sizes) / len(sizes) < 7_600


def test_renamed_nodes_name_their_own_cluster_alone(objects: list[Stored]) -> None:
    clusters = {stored.name for stored in objects if stored.plural == "clusters"}
    last = next(stored for stored in reversed(objects) if stored.plural == "nodes")
    assert last.namespace in clusters
    hostname = json.loads(last.body)["spec"]["displayName"]
    assert hostname.startswith(f"{last.namespace}-")


def test_each_heartbeat_changes_a_node_and_nothing_but_its_times() -> None:
    fleet = BenchFleet(50)
    beats = list(fleet.heartbeats(120))
    assert len(beats) == 120
    first, again = beats[0], beats[50]
    assert (first.namespace, first.name) == (again.namespace, again.name)
    assert first.body != again.body
    one, other = json.loads(first.body), json.loads(again.body)
    for state in (one, other):
        for condition in state["status"]["internalNodeStatus"]["conditions"]:
            del condition["lastHeartbeatTime"]
    assert one == other


@pytest.mark.parametrize("nodes", [0, 49, 75])
def test_part_of_a_cluster_is_refused(nodes: int) -> None:
    with pytest.raises(ValueError, match="multiple of 50"):
        BenchFleet(nodes)


def test_samples_of_a_scrape_are_summed_by_label() -> None:
    scrape = parse(
        '# HELP a text\na_total{x="1",y="b}"} 2\na_total{x="2"} 3e0\n'
        'h_bucket{e="p",le="0.5"} 1\nh_bucket{e="q",le="0.5"} 2\nh_bucket{e="p",le="+Inf"} 4\n'
    )
    assert scrape.value("a_total") == 5
    assert scrape.value("a_total", y="b}") == 2
    assert scrape.value("b") == 0
    assert scrape.cumulative("h") == [(0.5, 3.0), (float("inf"), 4.0)]
    assert scrape.cumulative("h", e="p") == [(0.5, 1.0), (float("inf"), 4.0)]
