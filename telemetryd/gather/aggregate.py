"""Fleet totals that each delta updates, so that they are never counted from the nodes.

Costs: a node delta O(1); a cluster delta the rows that its nodes are in; a tally the rows that
changed; groups each cluster that changed; the detail its rows. References to rows are moved beside,
and no cost grows with the number of nodes or of their sizes.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from operator import attrgetter
from typing import Final

from telemetryd.gather.counts import ClusterCount, NodeSums, SystemKey, coarse_shape, coarsen
from telemetryd.gather.project import LOCAL_CLUSTER
from telemetryd.gather.rows import CountedRows
from telemetryd.model import (
    NOTHING,
    UNREADABLE_TRAITS,
    ClusterGroup,
    ClusterRecord,
    ClusterRow,
    Delta,
    FleetDetail,
    GroupKey,
    NodeRecord,
    NodeShape,
    ShapeDetail,
    Sums,
    SystemRow,
    Totals,
    Unreadable,
    minus,
    own_of,
    plus,
)
from telemetryd.quantity import whole_cores, whole_mib

LASTING_S: Final = 30.0
"""After this time a difference between a cluster's own status and its nodes counts.

Rancher updates that status at most every 10 s. A difference at the first look counts at once.
"""


@dataclass(frozen=True, slots=True)
class Tally:
    """The totals at one moment.

    Attributes:
        systems: Sorted rows of nodes alike in what the SCC payload says of them.
        clusters: Sorted rows of clusters with the same number of nodes.
        totals: Without texts that were withheld, groups and drops.
    """

    systems: tuple[SystemRow, ...]
    clusters: tuple[ClusterRow, ...]
    totals: Totals


class FleetAggregate:
    """Counts the fleet by deltas of its clusters and nodes, in any order.

    Attributes:
        version: Rises with each delta that changed a total.
        detail_version: Rises with each delta that changed only a cluster's other properties.
    """

    def __init__(self, only_cluster: str = "") -> None:
        """Without a cluster; a node whose key has no namespace is in ``only_cluster``."""
        self._only_cluster = only_cluster
        self.version = 0
        self.detail_version = 0
        self._id_key: str | None = None
        self._total = NodeSums()  # of clusters that exist, as all that follows
        self._systems: CountedRows[SystemKey, SystemRow] = CountedRows(_system_row)
        self._sizes: CountedRows[tuple[bool, int], ClusterRow] = CountedRows(_cluster_row)
        self._shapes: CountedRows[NodeShape, ShapeDetail] | None = None
        self._coarse = False
        self._existing = 0
        self._withheld: Counter[str] = Counter()  # clusters by field
        self._orphans = 0
        self._clusters: dict[str, ClusterCount] = {}
        self._changed: set[ClusterCount] = set()  # since the groups were summed up
        self._groups: dict[GroupKey, ClusterGroup] = {}  # sorted
        self._looked = False
        self._young: set[ClusterCount] = set()  # differ from their own status, not for long yet

    def count_shapes(
        self, nodes: Iterable[tuple[str, NodeRecord | Unreadable | None]], *, coarse: bool = False
    ) -> None:
        """Count nodes by shape too, for the detail, from now on.

        Args:
            nodes: All that were applied so far, by key.
            coarse: The detail has rounded numbers and no ids.
        """
        shapes = self._shapes = CountedRows(ShapeDetail, attrgetter("order"))
        self._coarse = coarse
        for cluster in self._clusters.values():
            cluster.shapes.clear()
        for key, held in nodes:
            node = _node(held)
            if node is None:
                continue
            cluster = self._clusters[self._cluster_of(key)]
            shapes.add_to(cluster.shapes, self._shape(node), 1, counts=cluster.exists)

    def apply_node(self, delta: Delta[NodeRecord]) -> None:
        """Count a change of a node. One that can't be read counts in the cluster of its key."""
        old, new = _node(delta.old), _node(delta.new)
        if old is not None and new is not None:
            if _counts_as(old) == _counts_as(new):
                return
        elif old is new:
            return
        self.version += 1
        # First the new one, so that nothing that both have is dropped in between.
        name = self._cluster_of(delta.key)
        if new is not None:
            self._count_node(name, new, +1)
        if old is not None:
            self._count_node(name, old, -1)

    def apply_cluster(self, delta: Delta[ClusterRecord]) -> None:
        """Count a change of a cluster. One that can't be read exists too."""
        exists = delta.new is not None
        cluster = self._clusters.get(delta.key)
        if cluster is None:
            cluster = self._clusters[delta.key] = ClusterCount(delta.key)
        if cluster.exists:
            self._withheld.subtract(cluster.withheld())
        if cluster.exists is not exists:
            self.version += 1
            cluster.exists = exists
            self._count_cluster(cluster, 1 if exists else -1)
        if delta.new is not None:
            self._learn(cluster, delta.new)
            self._withheld.update(cluster.withheld())
        elif not cluster.total.nodes:
            self._forget(delta.key, cluster)

    @property
    def sizes(self) -> tuple[int, int]:
        """The number of clusters, and of their nodes."""
        return self._existing, self._total.nodes

    def ripen(self, now_s: float) -> None:
        """Count differences that have lasted ``LASTING_S``."""
        for cluster in list(self._young):
            if now_s - (cluster.differs_since or 0.0) >= LASTING_S:
                self._young.discard(cluster)
                self._changed.add(cluster)
                cluster.detail = None
                self.version += 1

    def groups(self, now_s: float) -> tuple[ClusterGroup, ...]:
        """The clusters that exist, in groups with equal traits; sorted."""
        new = False
        for cluster in self._changed:
            before = cluster.grouped
            self._judge(cluster, now_s)
            cluster.grouped = (cluster.key, cluster.sums()) if cluster.exists else None
            if cluster.grouped == before:
                continue
            if cluster.grouped is not None:
                key, sums = cluster.grouped
                group = self._groups.get(key)
                new = new or group is None
                self._groups[key] = ClusterGroup(key, plus(group.sums if group else NOTHING, sums))
            if before is not None:
                self._leave_group(*before)
        self._changed.clear()
        self._looked = True
        if new:
            self._groups = {key: self._groups[key] for key in sorted(self._groups)}
        return tuple(self._groups.values())

    def _leave_group(self, key: GroupKey, sums: Sums) -> None:
        left = minus(self._groups[key].sums, sums)
        if left.clusters:
            self._groups[key] = ClusterGroup(key, left)
        else:
            del self._groups[key]

    def _judge(self, cluster: ClusterCount, now_s: float) -> None:
        """Update whether a cluster differs from its own status, and since when."""
        self._young.discard(cluster)
        if not cluster.exists or not cluster.disagrees():
            cluster.differs, cluster.differs_since = False, None
            return
        if cluster.differs_since is None:
            cluster.differs_since = now_s if self._looked else -inf
        cluster.differs = now_s - cluster.differs_since >= LASTING_S
        if not cluster.differs:
            self._young.add(cluster)

    def tally(self) -> Tally:
        """The totals now."""
        total = self._total
        local = self._clusters.get(LOCAL_CLUSTER)
        local_clusters = int(local is not None and local.exists)
        return Tally(
            systems=self._systems.rows(),
            clusters=self._sizes.rows(),
            totals=Totals(
                local_clusters=local_clusters,
                managed_clusters=self._existing - local_clusters,
                nodes=total.nodes,
                orphan_nodes=self._orphans,
                roles=dict(total.roles),
                cpu_nano=total.cpu_nano,
                memory_nano=total.memory_nano,
                unreported_cpu=total.unreported_cpu,
                unreported_memory=total.unreported_memory,
            ),
        )

    def withheld(self) -> Counter[str]:
        """The number of nodes and clusters by the field whose text may not leave."""
        return self._total.withheld + self._withheld

    def detail(self, install_uuid: str | None) -> FleetDetail:
        """All clusters, and all shapes where they are counted."""
        if self._coarse:
            install_uuid = None
        if install_uuid != self._id_key:
            self._id_key = install_uuid
            for cluster in self._clusters.values():
                cluster.forget_id()
        clusters = (
            cluster.describe(install_uuid) for cluster in self._clusters.values() if cluster.exists
        )
        detail = FleetDetail(
            clusters=tuple(sorted(clusters, key=lambda each: (not each.upstream, each.id))),
            shapes=self._shapes.rows() if self._shapes is not None else (),
        )
        return coarsen(detail) if self._coarse else detail

    def _learn(self, cluster: ClusterCount, record: ClusterRecord | Unreadable) -> None:
        before, key_before = cluster.record, cluster.key
        cluster.learn(record)
        after = cluster.record
        if after == before:
            return
        self._changed.add(cluster)
        if cluster.key == key_before and (after.node_count, after.capacity, after.requested) == (
            before.node_count,
            before.capacity,
            before.requested,
        ):
            self.detail_version += 1
        else:
            self.version += 1

    def _forget(self, name: str, cluster: ClusterCount) -> None:
        """Remove a cluster that is gone and has no nodes."""
        del self._clusters[name]
        if cluster.grouped is None:
            self._changed.discard(cluster)

    def _cluster_of(self, key: str) -> str:
        """The name of the cluster of the node with this key."""
        namespace, slash, _ = key.partition("/")
        return namespace if slash else self._only_cluster

    def _shape(self, node: NodeRecord) -> NodeShape:
        return coarse_shape(node.shape) if self._coarse else node.shape

    def _count_node(self, name: str, node: NodeRecord, step: int) -> None:
        cluster = self._clusters.get(name)
        if cluster is None:
            cluster = self._clusters[name] = ClusterCount(name)
        exists, upstream = cluster.exists, cluster.upstream
        self._systems.add_to(cluster.systems, _system_key(node, upstream), step, counts=exists)
        if self._shapes is not None:
            self._shapes.add_to(cluster.shapes, self._shape(node), step, counts=exists)
        cluster.total.add(node, step)
        cluster.detail = None
        self._changed.add(cluster)
        if exists:
            self._total.add(node, step)
            self._sizes.add((upstream, cluster.total.nodes - step), -1)
            self._sizes.add((upstream, cluster.total.nodes), +1)
            return
        self._orphans += step
        if not cluster.total.nodes:
            self._forget(name, cluster)

    def _count_cluster(self, cluster: ClusterCount, step: int) -> None:
        """Count a cluster that has come (+1) or gone (-1), and its nodes."""
        self._existing += step
        self._orphans -= step * cluster.total.nodes
        self._total.add_all(cluster.total, step)
        self._sizes.add((cluster.upstream, cluster.total.nodes), step)
        self._systems.add_part(cluster.systems, step)
        if self._shapes is not None:
            self._shapes.add_part(cluster.shapes, step)
        self._changed.add(cluster)


def _node(held: NodeRecord | Unreadable | None) -> NodeRecord | None:
    """The node as it counts: an unreadable one has no size."""
    if held is None or isinstance(held, NodeRecord):
        return held
    return NodeRecord(own_of(held.uid, None), UNREADABLE_TRAITS)


def _counts_as(node: NodeRecord) -> tuple[object, ...]:
    return (
        node.traits,
        node.container_runtime,
        node.kernel_version,
        node.memory_nano,
    )


def _system_key(node: NodeRecord, upstream: bool) -> SystemKey:  # noqa: FBT001 - part of the key
    return (
        node.traits.architecture,
        whole_cores(node.cpu_nano or 0),
        whole_mib(node.memory_nano or 0),
        upstream,
    )


def _system_row(key: SystemKey, nodes: int) -> SystemRow:
    return SystemRow(*key, nodes)


def _cluster_row(key: tuple[bool, int], clusters: int) -> ClusterRow:
    return ClusterRow(*key, clusters)
