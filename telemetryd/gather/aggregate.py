"""Fleet totals that each delta moves, so that they never have to be counted from the nodes.

A node delta costs O(1), a cluster delta the number of shapes in that cluster, and a tally the
number of its rows, even where every node has a shape of its own. The detail costs the number of
clusters and shapes, and the shapes of each cluster that has changed. Where deltas come from doesn't
belong here.
"""

from collections import Counter
from dataclasses import dataclass

from telemetryd.gather.anonymous import anonymous_id
from telemetryd.gather.project import LOCAL_CLUSTER
from telemetryd.gather.texts import OTHER
from telemetryd.model import (
    ClusterDetail,
    ClusterRecord,
    ClusterRow,
    Delta,
    FleetDetail,
    NodeRecord,
    NodeShape,
    RoleCounts,
    ShapeDetail,
    SystemRow,
    Unreadable,
)
from telemetryd.quantity import whole_cores, whole_mib

TEXTS = ("architecture", "operating_system", "container_runtime", "kernel_version")
"""Texts of a shape that have a form."""

ROLES = ("controlplane", "etcd", "worker", "other")
"""All roles that are told apart; ``other`` is a node without any of the three."""


@dataclass(frozen=True, slots=True)
class Tally:
    """The totals at one moment.

    Attributes:
        systems: Sorted rows of nodes alike in what the SCC payload tells of them.
        clusters: Sorted rows of clusters with the same number of nodes.
        roles: Nodes per role, all of ``ROLES`` present; a node counts in each of its roles.
        cpu_nano: Sum over nodes in 1e-9 cores.
        memory_nano: Sum over nodes in 1e-9 bytes.
    """

    systems: tuple[SystemRow, ...]
    clusters: tuple[ClusterRow, ...]
    local_clusters: int
    managed_clusters: int
    nodes: int
    orphan_nodes: int
    roles: dict[str, int]
    cpu_nano: int
    memory_nano: int
    unreported_cpu: int
    unreported_memory: int


class _Row:
    """Nodes of one architecture and rounded size, in clusters that exist; shared by shapes."""

    __slots__ = ("key", "local", "managed", "shapes")

    def __init__(self, key: tuple[str, int, int]) -> None:
        self.key = key
        self.shapes = 0
        self.local = 0
        self.managed = 0


class _ShapeCount:
    """Nodes of one shape, orphans among them. Hashed by identity, for speed."""

    __slots__ = ("nodes", "orphans", "row", "shape")

    def __init__(self, shape: NodeShape, row: _Row) -> None:
        self.shape = shape
        self.row = row
        self.nodes = 0
        self.orphans = 0


class _Cluster:
    """One cluster: whether it exists, and its nodes, which may be there before it and after it.

    Its id and its detail are made when asked for, and kept until what they hang on changes.
    """

    __slots__ = (
        "detail",
        "exists",
        "id",
        "kubernetes_version",
        "nodes",
        "shapes",
        "uid",
        "upstream",
    )

    def __init__(self, name: str) -> None:
        self.upstream = name == LOCAL_CLUSTER
        self.exists = False
        self.nodes = 0
        self.shapes: dict[_ShapeCount, int] = {}
        self.uid = ""
        self.kubernetes_version = ""
        self.id = ""
        self.detail: ClusterDetail | None = None

    def forget_id(self) -> None:
        """Its UID, or the key of all ids, is another."""
        self.id = ""
        self.detail = None

    def describe(self, install_uuid: str | None) -> ClusterDetail:
        """Its detail, with an id where there is a key and a UID."""
        if self.detail is None:
            if install_uuid is not None and self.uid and not self.id:
                self.id = anonymous_id(self.uid, install_uuid)
            self.detail = self._sum_up()
        return self.detail

    def _sum_up(self) -> ClusterDetail:
        roles = dict.fromkeys(ROLES, 0)
        cpu_nano = memory_nano = unreported_cpu = unreported_memory = 0
        for count, nodes in self.shapes.items():
            shape = count.shape
            for role in shape.roles or ("other",):
                roles[role] += nodes
            cpu_nano += nodes * (shape.cpu_nano or 0)
            memory_nano += nodes * (shape.memory_nano or 0)
            unreported_cpu += nodes * (shape.cpu_nano is None)
            unreported_memory += nodes * (shape.memory_nano is None)
        return ClusterDetail(
            id=self.id,
            upstream=self.upstream,
            kubernetes_version=self.kubernetes_version,
            nodes=self.nodes,
            roles=RoleCounts(**roles),
            cpu_nano=cpu_nano,
            memory_nano=memory_nano,
            unreported_cpu=unreported_cpu,
            unreported_memory=unreported_memory,
        )


class FleetAggregate:
    """Counts the fleet by deltas of its clusters and nodes, in whatever order they come.

    Attributes:
        version: Rises with each delta that changed a total.
        detail_version: Rises with each that changed what a cluster is, and no total.
    """

    def __init__(self) -> None:
        self.version = 0
        self.detail_version = 0
        self._id_key: str | None = None
        self._counts: dict[NodeShape, _ShapeCount] = {}
        self._rows: dict[tuple[str, int, int], _Row] = {}
        self._clusters: dict[str, _Cluster] = {}
        self._sizes: Counter[int] = Counter()  # managed clusters by their number of nodes
        self._orphans = 0
        self._nodes = 0
        self._roles = dict.fromkeys(ROLES, 0)
        self._cpu_nano = 0
        self._memory_nano = 0
        self._unreported_cpu = 0
        self._unreported_memory = 0

    def apply_node(self, delta: Delta[NodeRecord]) -> None:
        """Count one change of a node. One that can't be read counts nowhere."""
        old = delta.old if isinstance(delta.old, NodeRecord) else None
        new = delta.new if isinstance(delta.new, NodeRecord) else None
        if old is not None and new is not None:
            if old.cluster == new.cluster and old.shape == new.shape:
                return
        elif old is new:
            return
        self.version += 1
        # First the new, so that what both have in common isn't dropped in between.
        if new is not None:
            self._count_node(new, +1)
        if old is not None:
            self._count_node(old, -1)

    def apply_cluster(self, delta: Delta[ClusterRecord]) -> None:
        """Count one change of a cluster. One that can't be read exists all the same."""
        exists = delta.new is not None
        cluster = self._clusters.get(delta.key)
        if cluster is None:
            cluster = self._clusters[delta.key] = _Cluster(delta.key)
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
        if delta.new is not None:
            self._learn(cluster, delta.new)
        elif not cluster.nodes:
            del self._clusters[delta.key]

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
            local_clusters=int(has_local),
            managed_clusters=self._sizes.total(),
            nodes=self._nodes,
            orphan_nodes=self._orphans,
            roles=dict(self._roles),
            cpu_nano=self._cpu_nano,
            memory_nano=self._memory_nano,
            unreported_cpu=self._unreported_cpu,
            unreported_memory=self._unreported_memory,
        )

    def withheld(self) -> Counter[str]:
        """Nodes, and clusters, by the field whose text may not leave."""
        found: Counter[str] = Counter()
        for count in self._counts.values():
            for name in TEXTS:
                if getattr(count.shape, name) == OTHER:
                    found[name] += count.nodes - count.orphans
        found["kubernetes_version"] = sum(
            cluster.exists and cluster.kubernetes_version == OTHER
            for cluster in self._clusters.values()
        )
        return found

    def detail(self, install_uuid: str | None) -> FleetDetail:
        """Each cluster and each shape now.

        Args:
            install_uuid: What the clusters' ids are keyed with; None for no ids.
        """
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

    def _learn(self, cluster: _Cluster, record: ClusterRecord | Unreadable) -> None:
        """Take what is known of a cluster beside its nodes; of one that can't be read, its UID."""
        version = record.kubernetes_version if isinstance(record, ClusterRecord) else ""
        if (record.uid, version) == (cluster.uid, cluster.kubernetes_version):
            return
        self.detail_version += 1
        cluster.kubernetes_version = version
        cluster.detail = None
        if record.uid != cluster.uid:
            cluster.uid = record.uid
            cluster.forget_id()

    def _count_node(self, node: NodeRecord, step: int) -> None:
        cluster = self._clusters.get(node.cluster)
        if cluster is None:
            cluster = self._clusters[node.cluster] = _Cluster(node.cluster)
        count = self._counts.get(node.shape) or self._count_of(node.shape)
        left = cluster.shapes.get(count, 0) + step
        if left:
            cluster.shapes[count] = left
        else:
            del cluster.shapes[count]
        count.nodes += step
        cluster.nodes += step
        cluster.detail = None
        if cluster.exists:
            self._add(count, step, upstream=cluster.upstream)
            if not cluster.upstream:
                self._count_size(cluster.nodes - step, -1)
                self._count_size(cluster.nodes, +1)
        else:
            self._orphans += step
            count.orphans += step
            if not cluster.nodes:
                del self._clusters[node.cluster]
        if not count.nodes:
            self._drop(count)

    def _add(self, count: _ShapeCount, nodes: int, *, upstream: bool) -> None:
        """Move all totals by so many nodes of a shape; negative takes them back."""
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

    def _count_of(self, shape: NodeShape) -> _ShapeCount:
        """A count for a shape that has none yet."""
        key = (
            shape.architecture,
            whole_cores(shape.cpu_nano or 0),
            whole_mib(shape.memory_nano or 0),
        )
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = _Row(key)
        row.shapes += 1
        count = self._counts[shape] = _ShapeCount(shape, row)
        return count

    def _drop(self, count: _ShapeCount) -> None:
        """Forget a shape that no node has, and its row with the last of its shapes."""
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
