"""Sums by kind of cluster: a recount after any order of deltas, and when a difference counts."""

from dataclasses import astuple
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from telemetryd.errors import UnreadableReason
from telemetryd.gather.aggregate import LASTING_S, FleetAggregate
from telemetryd.model import (
    NO_GPUS,
    Amounts,
    ClusterGroup,
    ClusterRecord,
    ClusterTraits,
    Delta,
    Gpus,
    GroupKey,
    NodeRecord,
    Sums,
    Unreadable,
    is_entitled,
    split,
    total,
)
from tests.gather.readers import node

GIB_NANO = 2**30 * 10**9
UNREADABLE = Unreadable("uid", UnreadableReason.TYPE)
RKE2 = ClusterTraits("rke2", "imported", "provisioned", active=True)
EKS = ClusterTraits("eks", "eks", "hosted", active=True)
DELETED = ClusterTraits("eks", "eks", "hosted", deleting=True)
STALE = ClusterTraits("k3s", "k3s", "imported", stale=True)

names = st.sampled_from(["local", "c-1", "c-2"])


def machine(
    cpu: str | None = "4",
    memory: str | None = "16Gi",
    gpus: Gpus = NO_GPUS,
    *,
    in_capacity: bool = True,
) -> NodeRecord:
    made = node(cpu, memory)
    traits = structs.replace(made.traits, gpus=gpus, in_capacity=in_capacity)
    return structs.replace(made, traits=traits)


def a_cluster(
    traits: ClusterTraits = RKE2, version: str = "v1.33.1", **numbers: Any
) -> ClusterRecord:
    return ClusterRecord("uid", version, traits, **numbers)


amounts = st.none() | st.builds(
    Amounts,
    cpu_nano=st.sampled_from([None, 0, 4 * 10**9, 8 * 10**9]),
    memory_nano=st.sampled_from([None, 0, 16 * GIB_NANO]),
    pods=st.sampled_from([None, 110, 220]),
)
clusters = (
    st.none()
    | st.just(UNREADABLE)
    | st.builds(
        a_cluster,
        st.sampled_from([RKE2, EKS, DELETED, STALE, ClusterTraits()]),
        st.sampled_from(["v1.33.1", "v1.33.4+rke2r1", "v1.34.0", "other", ""]),
        node_count=st.sampled_from([None, 0, 1, 2]),
        capacity=amounts,
        requested=amounts,
    )
)
nodes = (
    st.none()
    | st.just(UNREADABLE)
    | st.builds(
        machine,
        st.sampled_from([None, "4"]),
        st.sampled_from([None, "16Gi"]),
        st.sampled_from([Gpus(), Gpus(nvidia=2), Gpus(1, 2, 3, 4)]),
        in_capacity=st.booleans(),
    )
)
steps = st.one_of(
    st.tuples(st.just("node"), st.tuples(names, st.sampled_from("abc")), nodes),
    st.tuples(st.just("cluster"), names, clusters),
    st.tuples(st.just("look"), st.none(), st.none()),
)


def minor_of(version: str) -> str:
    return ".".join(version.removeprefix("v").split(".")[:2]) if version[:1] == "v" else "other"


def recount(held_clusters: dict[str, Any], held_nodes: dict[Any, Any]) -> dict[GroupKey, Sums]:
    """The groups from scratch, by nothing but what is held; without any difference."""
    found: dict[GroupKey, Sums] = {}
    for name, held in held_clusters.items():
        if held is None:
            continue
        record = held if isinstance(held, ClusterRecord) else ClusterRecord("", "")
        traits = record.traits
        key = GroupKey(
            "local" if name == "local" else "managed",
            traits.provider or "other",
            traits.driver or "other",
            "local" if name == "local" else traits.management,
            minor_of(record.kubernetes_version),
            *astuple(traits)[3:],
        )
        inside = [
            node
            for (namespace, _), node in held_nodes.items()
            if isinstance(node, NodeRecord) and namespace == name
        ]
        unread = sum(
            node is UNREADABLE for (namespace, _), node in held_nodes.items() if namespace == name
        )
        shapes = [node.shape for node in inside]
        capacity, requested = record.capacity, record.requested
        sums = Sums(
            clusters=1,
            nodes=len(inside) + unread,
            unreadable_nodes=unread,
            cpu_nano=sum(shape.cpu_nano or 0 for shape in shapes),
            memory_nano=sum(shape.memory_nano or 0 for shape in shapes),
            unreported_cpu=sum(shape.cpu_nano is None for shape in shapes) + unread,
            unreported_memory=sum(shape.memory_nano is None for shape in shapes) + unread,
            gpus_nvidia=sum(shape.gpus.nvidia for shape in shapes),
            gpus_amd=sum(shape.gpus.amd for shape in shapes),
            gpus_intel=sum(shape.gpus.intel for shape in shapes),
            gpus_other=sum(shape.gpus.other for shape in shapes),
            counted_clusters=int(record.node_count is not None or capacity is not None),
            differing_clusters=int(differs(record, inside, unread)),
            sized_clusters=int(capacity is not None and capacity.pods is not None),
            pods=(capacity.pods or 0) if capacity else 0,
            requesting_clusters=int(requested is not None),
            requested_cpu_nano=(requested.cpu_nano or 0) if requested else 0,
            requested_memory_nano=(requested.memory_nano or 0) if requested else 0,
            requested_pods=(requested.pods or 0) if requested else 0,
        )
        found[key] = Sums(*(a + b for a, b in zip(found.get(key, Sums()), sums, strict=True)))
    return found


def differs(record: ClusterRecord, inside: list[NodeRecord], unread: int) -> bool:
    if record.traits.deleting:
        return False
    adding = [node for node in inside if node.traits.in_capacity]
    stated = [(record.node_count, len(inside) + unread)]
    if record.capacity is not None:
        cpu = sum(node.cpu_nano or 0 for node in adding)
        memory = sum(node.memory_nano or 0 for node in adding)
        stated += [(record.capacity.cpu_nano, cpu), (record.capacity.memory_nano, memory)]
    return any(own is not None and own != counted for own, counted in stated)


def grouped(groups: tuple[ClusterGroup, ...]) -> dict[GroupKey, Sums]:
    assert list(groups) == sorted(groups, key=lambda group: group.key)
    return {group.key: group.sums for group in groups}


@given(st.lists(steps, max_size=40))
def test_any_order_of_deltas_equals_a_recount(changes: list[tuple[str, Any, Any]]) -> None:
    fleet = FleetAggregate()
    held_clusters: dict[str, Any] = {}
    held_nodes: dict[Any, Any] = {}
    now_s = 0.0
    for kind, key, new in changes:
        if kind == "node":
            fleet.apply_node(Delta("/".join(key), held_nodes.get(key), new))
            held_nodes[key] = new
        elif kind == "cluster":
            fleet.apply_cluster(Delta(key, held_clusters.get(key), new))
            held_clusters[key] = new
        now_s += LASTING_S
        fleet.groups(now_s)  # a difference is seen,
        now_s += LASTING_S
        fleet.ripen(now_s)  # and has lasted
        assert grouped(fleet.groups(now_s)) == recount(held_clusters, held_nodes)
    for key, record in held_nodes.items():
        fleet.apply_node(Delta("/".join(key), record, None))
    for key, held in held_clusters.items():
        fleet.apply_cluster(Delta(key, held, None))
    assert fleet.groups(now_s) == ()
    assert not fleet._changed
    assert not fleet._young


def fleet_with(record: ClusterRecord, *inside: NodeRecord) -> FleetAggregate:
    fleet = FleetAggregate()
    fleet.apply_cluster(Delta("c-1", None, record))
    for number, held in enumerate(inside):
        fleet.apply_node(Delta(f"c-1/{number}", None, held))
    return fleet


def differing(fleet: FleetAggregate, now_s: float) -> int:
    fleet.ripen(now_s)
    return total(fleet.groups(now_s)).differing_clusters


@pytest.mark.parametrize(
    ("record", "inside", "differ"),
    [
        (a_cluster(EKS, node_count=3, capacity=Amounts(12 * 10**9)), [], True),
        (a_cluster(node_count=1), [machine()], False),
        (a_cluster(node_count=1, capacity=Amounts(4 * 10**9)), [machine()], False),
        (a_cluster(node_count=1, capacity=Amounts(5 * 10**9)), [machine()], True),
        (a_cluster(node_count=1, capacity=Amounts(None, GIB_NANO)), [machine()], True),
        (a_cluster(node_count=0, capacity=Amounts(0, 0, 0)), [], False),
        (a_cluster(node_count=1, capacity=Amounts(0, 0)), [machine(in_capacity=False)], False),
        (a_cluster(node_count=1, capacity=Amounts(4 * 10**9)), [machine(cpu=None)], True),
        (a_cluster(DELETED, node_count=3), [], False),
        (a_cluster(), [machine()], False),
    ],
)
def test_a_clusters_own_numbers_are_compared_with_its_nodes(
    record: ClusterRecord,
    inside: list[NodeRecord],
    differ: bool,
) -> None:
    assert differing(fleet_with(record, *inside), 0.0) == differ


def test_a_difference_that_begins_counts_once_it_has_lasted() -> None:
    fleet = fleet_with(a_cluster(node_count=1), machine())
    assert differing(fleet, 0.0) == 0
    fleet.apply_node(Delta("c-1/1", None, machine()))
    version = fleet.version
    assert differing(fleet, 1.0) == 0
    assert fleet.version == version
    assert differing(fleet, 1.0 + LASTING_S - 0.1) == 0
    assert differing(fleet, 1.0 + LASTING_S) == 1
    assert fleet.version > version
    fleet.apply_cluster(Delta("c-1", a_cluster(node_count=1), a_cluster(node_count=2)))
    assert differing(fleet, 2.0 + LASTING_S) == 0


def test_a_difference_that_ends_in_time_never_counts() -> None:
    fleet = fleet_with(a_cluster(node_count=1), machine())
    assert differing(fleet, 0.0) == 0
    for number in range(1, 20):
        fleet.apply_node(Delta(f"c-1/{number}", None, machine()))
        assert differing(fleet, 100.0 * number) == 0
        before, after = a_cluster(node_count=number), a_cluster(node_count=number + 1)
        fleet.apply_cluster(Delta("c-1", before, after))
        assert differing(fleet, 100.0 * number + 10) == 0


def test_splits_are_sums_of_groups_and_entitlement_leaves_out_what_is_deleted() -> None:
    fleet = FleetAggregate()
    for name, traits, size in (
        ("local", RKE2, 3),
        ("c-1", RKE2, 2),
        ("c-2", EKS, 5),
        ("c-3", DELETED, 4),
        ("c-4", STALE, 1),
    ):
        fleet.apply_cluster(Delta(name, None, a_cluster(traits)))
        for number in range(size):
            fleet.apply_node(Delta(f"{name}/{number}", None, machine()))
    groups = fleet.groups(0.0)
    by_kind = {kind: sums.nodes for kind, sums in split(groups, lambda key: key.kind).items()}
    assert by_kind == {"local": 3, "managed": 12}
    by_provider = split(groups, lambda key: key.provider)
    assert {name: (sums.clusters, sums.nodes) for name, sums in by_provider.items()} == {
        "eks": (2, 9),
        "k3s": (1, 1),
        "rke2": (2, 5),
    }
    assert list(by_provider) == sorted(by_provider)
    entitled = total(groups, is_entitled)
    assert (entitled.clusters, entitled.nodes, entitled.cpu_nano) == (3, 8, 32 * 10**9)
    assert total(groups, lambda key: key.stale).nodes == 1
    assert total(groups).nodes == fleet.tally().totals.nodes == 15


def test_unreadable_nodes_count_in_the_cluster_of_their_namespace() -> None:
    fleet = FleetAggregate()
    fleet.apply_cluster(Delta("local", None, a_cluster()))
    fleet.apply_node(Delta("local/good", None, machine()))
    fleet.apply_node(Delta("local/bad", None, UNREADABLE))
    fleet.apply_node(Delta("gone/bad", None, UNREADABLE))
    tally = fleet.tally()
    assert (tally.totals.nodes, tally.totals.orphan_nodes) == (2, 1)
    assert [(row.architecture, row.cpu_cores, row.count) for row in tally.systems] == [
        ("", 0, 1),
        ("amd64", 4, 1),
    ]
    assert total(fleet.groups(0.0)).unreadable_nodes == 1
    plain = FleetAggregate("local")
    plain.apply_cluster(Delta("local", None, a_cluster()))
    plain.apply_node(Delta("bad", None, UNREADABLE))
    assert plain.tally().totals.nodes == 1


def test_only_clusters_that_changed_are_summed_up_again() -> None:
    fleet = FleetAggregate()
    for number in range(50):
        fleet.apply_cluster(Delta(f"c-{number}", None, a_cluster()))
    fleet.groups(0.0)
    fleet.apply_node(Delta("c-7/1", None, machine()))
    assert {cluster.total.nodes for cluster in fleet._changed} == {1}
    assert total(fleet.groups(1.0)).nodes == 1
    assert not fleet._changed
