"""The real fleet: what differs in it, what agrees, and that a seed decides all of it."""

import json
from collections import defaultdict
from typing import Any

import pytest

from benchmarks.fleet import Stored
from benchmarks.realfleet import CoreFleet, RealFleet
from telemetryd.quantity import NANO, parse_capacity

NODES = 2_500


@pytest.fixture(scope="module")
def objects() -> list[Stored]:
    return list(RealFleet(NODES).objects())


@pytest.fixture(scope="module")
def nodes(objects: list[Stored]) -> list[dict[str, Any]]:
    """Those of managed clusters."""
    return [
        json.loads(stored.body)
        for stored in objects
        if stored.plural == "nodes" and stored.namespace != "local"
    ]


def capacity(node: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = node["status"]["internalNodeStatus"]["capacity"]
    return found


def test_same_arguments_give_the_same_fleet(objects: list[Stored]) -> None:
    assert list(RealFleet(NODES).objects()) == objects


def test_each_node_has_a_memory_size_of_its_own(nodes: list[dict[str, Any]]) -> None:
    assert len({capacity(node)["memory"] for node in nodes}) == len(nodes) == NODES


def test_memory_differs_by_less_than_a_machine_of_its_type(nodes: list[dict[str, Any]]) -> None:
    by_type: dict[tuple[str, str], list[int]] = defaultdict(list)
    for node in nodes:
        labels = node["status"]["nodeLabels"]
        memory = parse_capacity(capacity(node)["memory"])
        assert memory is not None
        by_type[labels["node.kubernetes.io/instance-type"], labels["kubernetes.io/arch"]].append(
            memory // NANO
        )
    assert len(by_type) == 13
    assert all(max(sizes) - min(sizes) < 32 << 20 for sizes in by_type.values())


@pytest.mark.parametrize(
    ("fact", "least"),
    [
        ("kernelVersion", 400),
        ("osImage", 50),
        ("kubeletVersion", 40),
        ("containerRuntimeVersion", 40),
    ],
)
def test_versions_have_many_patch_levels(
    nodes: list[dict[str, Any]], fact: str, least: int
) -> None:
    assert len({node["status"]["internalNodeStatus"]["nodeInfo"][fact] for node in nodes}) >= least


def test_sizes_are_those_of_the_field(objects: list[Stored]) -> None:
    sizes = sorted(len(stored.body) for stored in objects if stored.plural == "nodes")
    assert 8_000 < sum(sizes) / len(sizes) < 11_000
    assert sizes[0] < 7_500
    assert sizes[-1] > 18_000
    labels = {len(json.loads(o.body)["metadata"]["labels"]) for o in objects if o.plural == "nodes"}
    assert min(labels) < 15
    assert max(labels) > 50


def test_clusters_agree_with_their_nodes(
    objects: list[Stored], nodes: list[dict[str, Any]]
) -> None:
    cores: dict[str, int] = defaultdict(int)
    memory_kib: dict[str, int] = defaultdict(int)
    versions = defaultdict(set)
    for node in nodes:
        cluster = node["metadata"]["namespace"]
        cores[cluster] += int(capacity(node)["cpu"])
        memory_kib[cluster] += int(capacity(node)["memory"].removesuffix("Ki"))
        versions[cluster].add(node["status"]["internalNodeStatus"]["nodeInfo"]["kubeletVersion"])
    clusters = [o for o in objects if o.plural == "clusters" and o.name != "local"]
    assert len(clusters) == NODES // 50
    for stored in clusters:
        status = json.loads(stored.body)["status"]
        assert status["capacity"]["cpu"] == str(cores[stored.name])
        assert status["capacity"]["memory"] == f"{memory_kib[stored.name]}Ki"
        assert {status["version"]["gitVersion"]} == versions[stored.name]


def test_heartbeat_changes_only_its_times() -> None:
    fleet = RealFleet(50)
    first, again = (list(fleet.heartbeats(51))[number] for number in (0, 50))
    assert (first.name, len(first.body)) == (again.name, len(again.body))
    assert first.body != again.body
    assert first.body.replace(b"08:30:01Z", b"") == again.body.replace(b"08:30:51Z", b"")


def test_core_nodes_are_the_same_machines() -> None:
    core, real = CoreFleet(100), RealFleet(100)
    bodies = [json.loads(stored.body) for stored in core.objects()]
    assert core.nodes == len(bodies) == 100
    assert {stored.group for stored in core.objects()} == {""}
    assert len({body["metadata"]["name"] for body in bodies}) == 100
    assert [body["status"] for body in bodies] == [
        json.loads(stored.body)["status"]["internalNodeStatus"]
        for stored in real.objects()
        if stored.plural == "nodes" and stored.namespace != "local"
    ]


def test_last_of_the_core_heartbeats_shows_by_its_cordon() -> None:
    fleet = CoreFleet(50)
    cordoned = []
    for count in (10, 10, 3):
        beats = list(fleet.heartbeats(count))
        assert {beat.group for beat in beats} == {""}
        cordoned.append([n for n, beat in enumerate(beats) if b'"unschedulable":true' in beat.body])
    assert cordoned == [[9], [], [2]]
