"""Rows without ids: nothing in them recognises a cluster from one run to the next."""

from hypothesis import given
from hypothesis import strategies as st

from telemetryd.gather.aggregate import FleetAggregate
from telemetryd.gather.counts import coarsen
from telemetryd.model import ClusterDetail, Delta, FleetDetail, RoleCounts
from tests.gather.readers import INSTALL_UUID, node
from tests.gather.readers import cluster as a_cluster

GIB = 2**30 * 10**9


def cluster(nodes: int, node_memory: int, version: str = "v1.33.1+rke2r1") -> ClusterDetail:
    roles = RoleCounts(3, 3, nodes, 0)
    cpu = nodes * 4 * 10**9
    return ClusterDetail("x", False, version, nodes, roles, cpu, nodes * node_memory, 0, 0)


@given(st.lists(st.integers(16 * GIB - GIB // 2, 16 * GIB), min_size=2, max_size=20))
def test_clusters_whose_memory_differs_by_little_are_alike(memories: list[int]) -> None:
    rows = coarsen(FleetDetail(tuple(cluster(15, each) for each in memories), ())).clusters
    assert len(set(rows)) == 1
    assert rows[0].id == ""
    assert (rows[0].nodes, rows[0].memory_nano) == (16, 256 * GIB)
    assert rows[0].kubernetes_version == "v1.33"


def test_shapes_that_become_alike_are_one() -> None:
    fleet = FleetAggregate()
    fleet.apply_cluster(Delta("c-1", None, a_cluster("c-1")))
    held = [
        (f"c-1/{number}", node("3920m", memory))
        for number, memory in enumerate(("15.9Gi", "15.8Gi", "15.8Gi", None))
    ]
    for key, record in held:
        fleet.apply_node(Delta(key, None, record))
    fleet.count_shapes(held, coarse=True)
    made = fleet.detail(INSTALL_UUID)
    assert {(each.shape.memory_nano, each.nodes) for each in made.shapes} == {
        (16 * GIB, 3),
        (None, 1),
    }
    assert {each.shape.cpu_nano for each in made.shapes} == {4 * 10**9}
    assert made.coarse


def test_nothing_stays_nothing() -> None:
    (row,) = coarsen(FleetDetail((cluster(0, 0, ""),), ())).clusters
    assert (row.nodes, row.cpu_nano, row.memory_nano, row.kubernetes_version) == (0, 0, 0, "")
