"""Totals by deltas: upstream's tables, a recount after any order of deltas, and what they cost."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetryd.errors import UnreadableReason
from telemetryd.gather.aggregate import FleetAggregate, Tally
from telemetryd.model import (
    UNREADABLE_TRAITS,
    ClusterRecord,
    ClusterRow,
    ClusterTraits,
    Delta,
    NodeRecord,
    SystemRow,
    Totals,
    Unreadable,
    own_of,
)
from tests.gather.readers import cluster, node
from tests.support.counting import lines_of

UNREADABLE = Unreadable("uid", UnreadableReason.TYPE)
UNREADABLE_SHAPE = NodeRecord(own_of("", None), UNREADABLE_TRAITS).shape
MIB = 2**20


def fleet_of(**clusters: list[NodeRecord]) -> FleetAggregate:
    fleet = FleetAggregate()
    for name, nodes in clusters.items():
        fleet.apply_cluster(Delta(name, None, cluster(name)))
        for number, record in enumerate(nodes):
            fleet.apply_node(Delta(f"{name}/{number}", None, record))
    return fleet


@pytest.mark.parametrize("managed", [0, 1, 2])
def test_managed_clusters_beside_the_local_one_are_counted(managed: int) -> None:
    tally = fleet_of(local=[], **{f"c{number}": [] for number in range(managed)}).tally()
    assert tally.totals.local_clusters + tally.totals.managed_clusters == managed + 1


@pytest.mark.parametrize("nodes", [1, 2])
def test_nodes_of_the_local_cluster_stand_in_a_row_of_their_own(nodes: int) -> None:
    tally = fleet_of(local=[node()] * nodes, c1=[node()] * nodes).tally()
    assert tally.clusters == (ClusterRow(False, nodes, 1), ClusterRow(True, nodes, 1))


@pytest.mark.parametrize(
    ("clusters", "cores", "memory"),
    [
        ({"local": [node(1, "8Mi")]}, 1, 8388608),
        ({"local": [node("4", "16Gi"), node("22", "7Gi")]}, 26, 24696061952),
        ({"c1": [node("1", "8Mi")]}, 1, 8388608),
        ({"c1": [node("4", "24Gi")], "c2": [node("12", "8Gi")]}, 16, 34359738368),
        (
            {
                "c1": [node("2", "9Gi"), node("3", "19Gi")],
                "c2": [node("6", "4Gi"), node("25", "9Gi"), node("99", "128Gi")],
            },
            135,
            181462368256,
        ),
    ],
)
def test_compute_of_the_upstream_tables_is_summed_exactly(
    clusters: dict[str, list[NodeRecord]], cores: int, memory: int
) -> None:
    tally = fleet_of(**clusters).tally()
    assert (tally.totals.cpu_nano, tally.totals.memory_nano) == (cores * 10**9, memory * 10**9)


def test_the_upstream_payload_table_comes_out_row_by_row() -> None:
    def three(architecture: str) -> list[NodeRecord]:
        sizes = (("6", "4Gi"), ("25", "9Gi"), ("99", "128Gi"))
        return [node(cpu, memory, architecture=architecture) for cpu, memory in sizes]

    tally = fleet_of(
        local=[],
        pkjsf=[node("6", "4Gi"), node("3", "19Gi")],
        kwerk=three("amd64"),
        kwpow=three("amd64"),
        weoriyu=three("arm64"),
    ).tally()
    assert set(tally.systems) == {
        SystemRow("amd64", 6, 4096, False, 3),
        SystemRow("amd64", 25, 9216, False, 2),
        SystemRow("amd64", 99, 131072, False, 2),
        SystemRow("amd64", 3, 19456, False, 1),
        SystemRow("arm64", 6, 4096, False, 1),
        SystemRow("arm64", 99, 131072, False, 1),
        SystemRow("arm64", 25, 9216, False, 1),
    }
    assert list(tally.systems) == sorted(tally.systems)
    assert tally.clusters == (
        ClusterRow(False, 2, 1),
        ClusterRow(False, 3, 3),
        ClusterRow(True, 0, 1),
    )


def test_an_empty_fleet_has_empty_rows_and_all_roles() -> None:
    tally = FleetAggregate().tally()
    assert (tally.systems, tally.clusters, tally.totals.nodes) == ((), (), 0)
    assert tally.totals.roles == {"controlplane": 0, "etcd": 0, "worker": 0, "other": 0}


def test_without_a_local_cluster_there_is_no_upstream_row() -> None:
    tally = fleet_of(c1=[node()]).tally()
    assert tally.clusters == (ClusterRow(False, 1, 1),)
    assert tally.totals.local_clusters == 0


def test_a_cluster_without_nodes_counts_with_zero_nodes() -> None:
    assert fleet_of(c1=[], c2=[]).tally().clusters == (ClusterRow(False, 0, 2),)


def test_each_node_is_rounded_up_but_sums_are_exact() -> None:
    tally = fleet_of(c1=[node("500m", "1")] * 3).tally()
    assert tally.systems == (SystemRow("amd64", 1, 1, False, 3),)
    assert (tally.totals.cpu_nano, tally.totals.memory_nano) == (1_500_000_000, 3 * 10**9)


def test_a_node_counts_in_each_of_its_roles_and_without_any_as_other() -> None:
    every = ("controlplane", "etcd", "worker")
    tally = fleet_of(c1=[node(roles=every), node(roles=("worker",)), node(roles=())]).tally()
    assert tally.totals.roles == {"controlplane": 1, "etcd": 1, "worker": 2, "other": 1}
    assert tally.totals.nodes == 3


def test_capacity_that_is_unreported_or_malformed_counts_as_zero_and_is_counted() -> None:
    nodes = [node(None, "16Gi"), node("four", ""), node("4", "-1"), node("4", "16Gi")]
    tally = fleet_of(local=nodes).tally()
    assert (tally.totals.unreported_cpu, tally.totals.unreported_memory) == (2, 2)
    assert tally.systems == (
        SystemRow("amd64", 0, 0, True, 1),
        SystemRow("amd64", 0, 16384, True, 1),
        SystemRow("amd64", 4, 0, True, 1),
        SystemRow("amd64", 4, 16384, True, 1),
    )


def test_nodes_whose_cluster_is_gone_are_orphans_until_it_is_back() -> None:
    fleet = fleet_of(c1=[node(), node()], local=[node()])
    fleet.apply_cluster(Delta("c1", cluster("c1"), None))
    gone = fleet.tally()
    assert (gone.totals.orphan_nodes, gone.totals.nodes, gone.totals.managed_clusters) == (2, 1, 0)
    assert gone.systems == (SystemRow("amd64", 4, 16384, True, 1),)
    fleet.apply_cluster(Delta("c1", None, cluster("c1")))
    back = fleet.tally()
    assert (back.totals.orphan_nodes, back.totals.nodes, back.totals.managed_clusters) == (0, 3, 1)


def test_an_orphan_that_goes_leaves_nothing_behind() -> None:
    fleet = FleetAggregate()
    fleet.apply_node(Delta("c1/0", None, node()))
    fleet.apply_node(Delta("c1/0", node(), None))
    assert fleet.tally() == FleetAggregate().tally()
    assert not fleet._clusters
    assert not len(fleet._systems)


def test_an_unreadable_cluster_is_a_cluster_and_an_unreadable_node_is_a_node_of_its_own() -> None:
    fleet = FleetAggregate()
    fleet.apply_cluster(Delta("c1", None, UNREADABLE))
    fleet.apply_node(Delta("c1/0", None, node()))
    fleet.apply_node(Delta("c1/1", None, UNREADABLE))
    rows = (SystemRow("", 0, 0, False, 1), SystemRow("amd64", 4, 16384, False, 1))
    first = fleet.tally()
    assert first.clusters == (ClusterRow(False, 2, 1),)
    assert first.systems == rows
    assert (first.totals.nodes, first.totals.unreported_cpu) == (2, 1)
    assert first.totals.roles["other"] == 1
    fleet.apply_node(Delta("c1/1", UNREADABLE, node()))
    fleet.apply_node(Delta("c1/0", node(), UNREADABLE))
    fleet.apply_cluster(Delta("c1", UNREADABLE, cluster("c1")))
    assert fleet.tally() == first


def test_a_delta_that_changes_no_total_leaves_the_version() -> None:
    fleet = fleet_of(c1=[node()])
    version = fleet.version
    fleet.apply_node(Delta("c1/0", node(uid="a"), node(uid="b")))
    patched = ClusterRecord("another", "v1.33.9")
    fleet.apply_cluster(Delta("c1", cluster("c1"), patched))
    assert fleet.version == version
    fleet.apply_cluster(Delta("c1", patched, ClusterRecord("another", "v1.34.0")))
    assert fleet.version == version + 1


names = st.sampled_from(["local", "c1", "c2"])
states = st.one_of(
    st.none(),
    st.just(UNREADABLE),
    st.builds(
        node,
        st.sampled_from([None, "500m", "4", "4000m"]),
        st.sampled_from([None, "8Gi", "8589934592"])
        | st.integers(2**23, 2**23 + 9000).map("{}Ki".format),
        architecture=st.sampled_from(["amd64", "arm64", "pdp11"]),
        roles=st.sampled_from([(), ("etcd", "worker")]),
    ),
)
cluster_states = st.sampled_from(
    [None, UNREADABLE, cluster("any"), ClusterRecord("any", "other", ClusterTraits("other", "eks"))]
)
steps = st.one_of(
    st.tuples(st.just("node"), st.sampled_from(["c1/n1", "c2/n2", "local/n3", "c1/n4"]), states),
    st.tuples(st.just("cluster"), names, cluster_states),
)


@given(st.lists(steps, max_size=40))
def test_any_order_of_deltas_equals_a_recount(changes: list[tuple[str, str, Any]]) -> None:
    fleet = FleetAggregate()
    nodes: dict[str, NodeRecord | Unreadable | None] = {}
    clusters: dict[str, ClusterRecord | Unreadable | None] = {}
    for kind, key, new in changes:
        if kind == "node":
            fleet.apply_node(Delta(key, nodes.get(key), new))
            nodes[key] = new
        else:
            fleet.apply_cluster(Delta(key, clusters.get(key), new))
            clusters[key] = new
        assert fleet.tally() == recount(nodes, clusters)
        assert +fleet.withheld() == withheld(nodes, clusters)
    for key, record in nodes.items():
        fleet.apply_node(Delta(key, record, None))
    for key, held in clusters.items():
        fleet.apply_cluster(Delta(key, held, None))
    assert not fleet._clusters
    assert not len(fleet._systems)
    assert not len(fleet._sizes)


def cluster_of(key: str) -> str:
    return key.partition("/")[0]


def withheld(nodes: dict[str, Any], clusters: dict[str, Any]) -> Counter[str]:
    present = {name for name, record in clusters.items() if record is not None}
    found = Counter(
        "architecture"
        for key, record in nodes.items()
        if isinstance(record, NodeRecord)
        and cluster_of(key) in present
        and record.traits.architecture == "other"
    )
    for record in clusters.values():
        if isinstance(record, ClusterRecord) and record.kubernetes_version == "other":
            found.update(("kubernetes_version", "provider"))
    return found


def recount(
    nodes: dict[str, NodeRecord | Unreadable | None],
    clusters: dict[str, ClusterRecord | Unreadable | None],
) -> Tally:
    present = {name for name, record in clusters.items() if record is not None}
    readable = [
        (cluster_of(key), record.shape if isinstance(record, NodeRecord) else UNREADABLE_SHAPE)
        for key, record in nodes.items()
        if record is not None
    ]
    counted = [(name, shape) for name, shape in readable if name in present]
    shapes = [shape for _, shape in counted]
    per_cluster = Counter(name for name, _ in counted)
    sizes = Counter(per_cluster[name] for name in present - {"local"})
    rows = [ClusterRow(False, size, count) for size, count in sizes.items()]
    rows += [ClusterRow(True, per_cluster["local"], 1)] if "local" in present else []
    systems = Counter(
        (
            shape.architecture,
            -((shape.cpu_nano or 0) // -(10**9)),
            -((shape.memory_nano or 0) // -(MIB * 10**9)),
            name == "local",
        )
        for name, shape in counted
    )
    roles = Counter(role for shape in shapes for role in shape.roles or ("other",))
    return Tally(
        systems=tuple(sorted(SystemRow(*row, count) for row, count in systems.items())),
        clusters=tuple(sorted(rows)),
        totals=Totals(
            local_clusters=int("local" in present),
            managed_clusters=len(present - {"local"}),
            nodes=len(counted),
            orphan_nodes=len(readable) - len(counted),
            roles={name: roles[name] for name in ("controlplane", "etcd", "worker", "other")},
            cpu_nano=sum(shape.cpu_nano or 0 for shape in shapes),
            memory_nano=sum(shape.memory_nano or 0 for shape in shapes),
            unreported_cpu=sum(shape.cpu_nano is None for shape in shapes),
            unreported_memory=sum(shape.memory_nano is None for shape in shapes),
        ),
    )


def lines_run(work: Callable[[], object]) -> int:
    return lines_of(work, "aggregate.py", "counts.py", "rows.py").total()


def test_a_tally_costs_the_same_with_ten_times_the_nodes() -> None:
    kinds = [node("4", f"{size}Gi") for size in range(1, 21)]

    def fleet(per_shape: int) -> FleetAggregate:
        return fleet_of(**{f"c{number}": kinds * per_shape for number in range(10)})

    small, large = lines_run(fleet(2).tally), lines_run(fleet(20).tally)
    assert small > 0
    assert large == small


def sized(number: int) -> NodeRecord:
    return node("4", f"{16 * 2**20 + 1024 * number}Ki")


def test_a_change_costs_the_same_with_ten_times_the_nodes_each_in_a_row_of_its_own() -> None:
    def change_lines(clusters: int) -> int:
        nodes = iter(range(10 * clusters))
        fleet = fleet_of(
            **{f"c{number}": [sized(next(nodes)) for _ in range(10)] for number in range(clusters)}
        )
        look(fleet)

        def change() -> None:
            fleet.apply_node(Delta("c1/1", sized(11), node("8")))
            look(fleet)

        return lines_run(change)

    assert change_lines(20) == change_lines(200) > 0


def look(fleet: FleetAggregate) -> None:
    fleet.tally()
    fleet.groups(0.0)
    fleet.withheld()


def test_a_node_delta_costs_the_same_with_ten_times_the_nodes() -> None:
    def delta_lines(nodes: int) -> int:
        fleet = fleet_of(c1=[node("4", f"{size}Mi") for size in range(nodes)])
        old, new = node("4", "1Mi"), node("8", "1Mi")
        return lines_run(lambda: fleet.apply_node(Delta("c1/1", old, new)))

    assert delta_lines(20) == delta_lines(200) > 0


def test_a_cluster_delta_costs_its_rows_and_not_its_nodes() -> None:
    def delta_lines(nodes: int, others: int) -> int:
        clusters = {f"c{number}": [node("2", "1Gi")] for number in range(others)}
        fleet = fleet_of(gone=[node("4"), node("8")] * nodes, **clusters)
        return lines_run(lambda: fleet.apply_cluster(Delta("gone", cluster("gone"), None)))

    assert delta_lines(5, 5) == delta_lines(50, 50) > 0
