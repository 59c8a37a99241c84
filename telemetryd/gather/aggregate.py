"""Fleet totals that each delta updates, so that they are never counted from the nodes.

Costs: a node delta O(1), a cluster delta the shapes in that cluster, a tally its rows (even if
every node has a shape of its own), groups their number and the shapes of each changed cluster, the
detail also the number of clusters and shapes.
"""

from collections import Counter
from dataclasses import dataclass
from math import inf
from typing import Final

from telemetryd.gather.counts import ROLES, ClusterCount, Row, ShapeCount
from telemetryd.gather.project import LOCAL_CLUSTER
from telemetryd.gather.texts import OTHER
from telemetryd.model import (
    NOTHING,
    UNREADABLE_SHAPE,
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
    plus,
)
from telemetryd.quantity import whole_cores, whole_mib

LASTING_S: Final = 30.0
"""After this time a difference between a cluster's own status and its nodes counts.

Rancher updates that status at most every 10 s. A difference at the first look counts at once.
"""

TEXTS = ("architecture", "operating_system", "container_runtime", "kernel_version")
"""Texts of a shape that may be ``other``."""


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
        self._only_cluster = only_cluster
        self.version = 0
        self.detail_version = 0
        self._id_key: str | None = None
        self._counts: dict[NodeShape, ShapeCount] = {}
        self._rows: dict[tuple[str, int, int], Row] = {}
        self._clusters: dict[str, ClusterCount] = {}
        self._changed: set[ClusterCount] = set()  # since the groups were summed up
        self._groups: dict[GroupKey, Sums] = {}
        self._looked = False
        self._young: set[ClusterCount] = set()  # differ from their own status, not for long yet
        self._sizes: Counter[int] = Counter()  # managed clusters by their number of nodes
        self._orphans = 0
        self._nodes = 0
        self._roles = dict.fromkeys(ROLES, 0)
        self._cpu_nano = 0
        self._memory_nano = 0
        self._unreported_cpu = 0
        self._unreported_memory = 0

    def apply_node(self, delta: Delta[NodeRecord]) -> None:
        """Count a change of a node. One that can't be read counts in the cluster of its key."""
        old, new = self._node(delta.key, delta.old), self._node(delta.key, delta.new)
        if old is not None and new is not None:
            if (
                old.cluster == new.cluster
                and old.shape == new.shape
                and old.in_capacity == new.in_capacity
            ):
                return
        elif old is new:
            return
        self.version += 1
        # First the new one, so that a shape of both isn't dropped in between.
        if new is not None:
            self._count_node(new, +1)
        if old is not None:
            self._count_node(old, -1)

    def apply_cluster(self, delta: Delta[ClusterRecord]) -> None:
        """Count a change of a cluster. One that can't be read exists too."""
        exists = delta.new is not None
        cluster = self._clusters.get(delta.key)
        if cluster is None:
            cluster = self._clusters[delta.key] = ClusterCount(delta.key)
        if cluster.exists is not exists:
            self.version += 1
            cluster.exists = exists
            step = 1 if exists else -1
            self._orphans -= step * cluster.nodes
            if not cluster.upstream:
                self._count_size(cluster.nodes, step)
            for count, nodes in cluster.shapes.items():
                count.orphans -= step * nodes
                self._add(count, step * nodes, upstream=cluster.upstream)
            self._changed.add(cluster)
        if delta.new is not None:
            self._learn(cluster, delta.new)
        elif not cluster.nodes:
            self._forget(delta.key, cluster)

    @property
    def sizes(self) -> tuple[int, int]:
        """The number of clusters, and of their nodes."""
        local = self._clusters.get(LOCAL_CLUSTER)
        return self._sizes.total() + int(local is not None and local.exists), self._nodes

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
        for cluster in self._changed:
            if cluster.grouped is not None:
                key, sums = cluster.grouped
                left = minus(self._groups[key], sums)
                if left.clusters:
                    self._groups[key] = left
                else:
                    del self._groups[key]
            self._judge(cluster, now_s)
            cluster.grouped = (cluster.key, cluster.sums()) if cluster.exists else None
            if cluster.grouped is not None:
                key, sums = cluster.grouped
                self._groups[key] = plus(self._groups.get(key, NOTHING), sums)
        self._changed.clear()
        self._looked = True
        return tuple(ClusterGroup(key, self._groups[key]) for key in sorted(self._groups))

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
        systems: list[SystemRow] = []
        for row in self._rows.values():
            if row.managed:
                systems.append(SystemRow(*row.key, False, row.managed))
            if row.local:
                systems.append(SystemRow(*row.key, True, row.local))
        local = self._clusters.get(LOCAL_CLUSTER)
        clusters = [ClusterRow(False, size, number) for size, number in self._sizes.items()]
        has_local = local is not None and local.exists
        if local is not None and has_local:
            clusters.append(ClusterRow(True, local.nodes, 1))
        return Tally(
            systems=tuple(sorted(systems)),
            clusters=tuple(sorted(clusters)),
            totals=Totals(
                local_clusters=int(has_local),
                managed_clusters=self._sizes.total(),
                nodes=self._nodes,
                orphan_nodes=self._orphans,
                roles=dict(self._roles),
                cpu_nano=self._cpu_nano,
                memory_nano=self._memory_nano,
                unreported_cpu=self._unreported_cpu,
                unreported_memory=self._unreported_memory,
            ),
        )

    def withheld(self) -> Counter[str]:
        """The number of nodes and clusters by the field whose text may not leave."""
        found: Counter[str] = Counter()
        for count in self._counts.values():
            for name in TEXTS:
                if getattr(count.shape, name) == OTHER:
                    found[name] += count.nodes - count.orphans
        for cluster in self._clusters.values():
            if cluster.exists:
                record = cluster.record
                found["kubernetes_version"] += record.kubernetes_version == OTHER
                found["provider"] += record.traits.provider == OTHER
                found["driver"] += record.traits.driver == OTHER
        return found

    def detail(self, install_uuid: str | None) -> FleetDetail:
        """All clusters and shapes now."""
        if install_uuid != self._id_key:
            self._id_key = install_uuid
            for cluster in self._clusters.values():
                cluster.forget_id()
        return FleetDetail(
            clusters=tuple(
                cluster.describe(install_uuid)
                for cluster in self._clusters.values()
                if cluster.exists
            ),
            shapes=tuple(
                ShapeDetail(count.shape, count.nodes - count.orphans)
                for count in self._counts.values()
                if count.nodes > count.orphans
            ),
        )

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

    def _node(self, key: str, held: NodeRecord | Unreadable | None) -> NodeRecord | None:
        """The node as it counts: an unreadable one has the cluster of its key and no shape."""
        if held is None or isinstance(held, NodeRecord):
            return held
        namespace, slash, _ = key.partition("/")
        return NodeRecord(
            uid=held.uid,
            cluster=namespace if slash else self._only_cluster,
            shape=UNREADABLE_SHAPE,
        )

    def _count_node(self, node: NodeRecord, step: int) -> None:
        cluster = self._clusters.get(node.cluster)
        if cluster is None:
            cluster = self._clusters[node.cluster] = ClusterCount(node.cluster)
        count = self._counts.get(node.shape) or self._count_of(node.shape)
        left = cluster.shapes.get(count, 0) + step
        if left:
            cluster.shapes[count] = left
        else:
            del cluster.shapes[count]
        if not node.in_capacity:
            left_out = cluster.left_out.get(count, 0) + step
            if left_out:
                cluster.left_out[count] = left_out
            else:
                del cluster.left_out[count]
        count.nodes += step
        cluster.nodes += step
        cluster.detail = None
        self._changed.add(cluster)
        if cluster.exists:
            self._add(count, step, upstream=cluster.upstream)
            if not cluster.upstream:
                self._count_size(cluster.nodes - step, -1)
                self._count_size(cluster.nodes, +1)
        else:
            self._orphans += step
            count.orphans += step
            if not cluster.nodes:
                self._forget(node.cluster, cluster)
        if not count.nodes:
            self._drop(count)

    def _add(self, count: ShapeCount, nodes: int, *, upstream: bool) -> None:
        """Add nodes of a shape to all totals; a negative number removes them."""
        if upstream:
            count.row.local += nodes
        else:
            count.row.managed += nodes
        shape = count.shape
        self._nodes += nodes
        for role in shape.roles or ("other",):
            self._roles[role] += nodes
        if shape.cpu_nano is None:
            self._unreported_cpu += nodes
        else:
            self._cpu_nano += nodes * shape.cpu_nano
        if shape.memory_nano is None:
            self._unreported_memory += nodes
        else:
            self._memory_nano += nodes * shape.memory_nano

    def _count_of(self, shape: NodeShape) -> ShapeCount:
        """A new count for a shape."""
        key = (
            shape.architecture,
            whole_cores(shape.cpu_nano or 0),
            whole_mib(shape.memory_nano or 0),
        )
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = Row(key)
        row.shapes += 1
        count = self._counts[shape] = ShapeCount(shape, row)
        return count

    def _drop(self, count: ShapeCount) -> None:
        """Remove a shape without nodes, and its row if that has no other shape."""
        del self._counts[count.shape]
        count.row.shapes -= 1
        if not count.row.shapes:
            del self._rows[count.row.key]

    def _count_size(self, nodes: int, step: int) -> None:
        left = self._sizes[nodes] + step
        if left:
            self._sizes[nodes] = left
        else:
            del self._sizes[nodes]
