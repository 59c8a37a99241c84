"""The counts of each cluster and of each shape of nodes, which ``aggregate`` updates.

The sums of a cluster are computed on request, and kept until the cluster changes.
"""

import hmac
from typing import Final
from uuid import UUID

from telemetryd.gather.project import LOCAL_CLUSTER
from telemetryd.gather.texts import OTHER, kubernetes_minor
from telemetryd.model import (
    LOCAL,
    MANAGED,
    ClusterDetail,
    ClusterRecord,
    GroupKey,
    NodeShape,
    RoleCounts,
    Sums,
    Unreadable,
)

ROLES: Final = ("controlplane", "etcd", "worker", "other")
"""The roles of nodes; ``other`` is a node without any of the three."""

UNREAD: Final = ClusterRecord(uid="", kubernetes_version="")
"""The record of a cluster that isn't known."""


class Row:
    """Nodes of one architecture and rounded size, in clusters that exist; shared by shapes."""

    __slots__ = ("key", "local", "managed", "shapes")

    def __init__(self, key: tuple[str, int, int]) -> None:
        self.key = key
        self.shapes = 0
        self.local = 0
        self.managed = 0


class ShapeCount:
    """Nodes of one shape, including orphans. Hashed by identity, for speed."""

    __slots__ = ("nodes", "orphans", "row", "shape")

    def __init__(self, shape: NodeShape, row: Row) -> None:
        self.shape = shape
        self.row = row
        self.nodes = 0
        self.orphans = 0


class ClusterCount:
    """One cluster and its nodes, which may come before it and stay after it.

    Attributes:
        shapes: Its nodes by shape.
        left_out: Those that Rancher leaves out of the cluster's capacity, by shape.
        grouped: Its share of the sums of its group.
        differs: Its own status and its nodes have differed for a while.
        differs_since: Since when, on the aggregate's clock; None if they agree.
    """

    __slots__ = (
        "detail",
        "differs",
        "differs_since",
        "exists",
        "grouped",
        "id",
        "left_out",
        "nodes",
        "record",
        "shapes",
        "upstream",
    )

    def __init__(self, name: str) -> None:
        self.upstream = name == LOCAL_CLUSTER
        self.exists = False
        self.nodes = 0
        self.shapes: dict[ShapeCount, int] = {}
        self.left_out: dict[ShapeCount, int] = {}
        self.record = UNREAD
        self.id = ""
        self.detail: ClusterDetail | None = None
        self.grouped: tuple[GroupKey, Sums] | None = None
        self.differs = False
        self.differs_since: float | None = None

    def learn(self, record: ClusterRecord | Unreadable) -> None:
        """Update its record; of one that can't be read, only its UID."""
        if not isinstance(record, ClusterRecord):
            record = ClusterRecord(uid=record.uid, kubernetes_version="")
        if record.uid != self.record.uid:
            self.id = ""
        self.record = record
        self.detail = None

    def forget_id(self) -> None:
        """The key of all ids has changed."""
        self.id = ""
        self.detail = None

    def describe(self, install_uuid: str | None) -> ClusterDetail:
        """Its detail, with an id if there is a key and a UID."""
        if self.detail is None:
            if install_uuid is not None and self.record.uid and not self.id:
                self.id = anonymous_id(self.record.uid, install_uuid)
            self.detail = self._sum_up()
        return self.detail

    @property
    def key(self) -> GroupKey:
        """The group that it belongs to."""
        traits = self.record.traits
        return GroupKey(
            kind=LOCAL if self.upstream else MANAGED,
            provider=traits.provider or OTHER,
            driver=traits.driver or OTHER,
            management=LOCAL if self.upstream else traits.management,
            kubernetes_minor=kubernetes_minor(self.record.kubernetes_version),
            active=traits.active,
            deleting=traits.deleting,
            stale=traits.stale,
        )

    def sums(self) -> Sums:
        """The sums over its nodes, and of its own status."""
        unreadable = cpu_nano = memory_nano = unreported_cpu = unreported_memory = 0
        gpus = [0, 0, 0, 0]
        for count, nodes in self.shapes.items():
            shape = count.shape
            unreadable += nodes * (not shape.readable)
            cpu_nano += nodes * (shape.cpu_nano or 0)
            memory_nano += nodes * (shape.memory_nano or 0)
            unreported_cpu += nodes * (shape.cpu_nano is None)
            unreported_memory += nodes * (shape.memory_nano is None)
            for vendor, number in enumerate(shape.gpus):
                gpus[vendor] += nodes * number
        capacity, requested = self.record.capacity, self.record.requested
        pods = capacity.pods if capacity is not None else None
        return Sums(
            clusters=1,
            nodes=self.nodes,
            unreadable_nodes=unreadable,
            cpu_nano=cpu_nano,
            memory_nano=memory_nano,
            unreported_cpu=unreported_cpu,
            unreported_memory=unreported_memory,
            gpus_nvidia=gpus[0],
            gpus_amd=gpus[1],
            gpus_intel=gpus[2],
            gpus_other=gpus[3],
            counted_clusters=int(self.record.node_count is not None or capacity is not None),
            differing_clusters=int(self.differs),
            sized_clusters=int(pods is not None),
            pods=pods or 0,
            requesting_clusters=int(requested is not None),
            requested_cpu_nano=(requested.cpu_nano or 0) if requested is not None else 0,
            requested_memory_nano=(requested.memory_nano or 0) if requested is not None else 0,
            requested_pods=(requested.pods or 0) if requested is not None else 0,
        )

    def disagrees(self) -> bool:
        """Whether its own status differs from the sums of its nodes; never while it is deleted."""
        record = self.record
        if record.traits.deleting:
            return False
        if record.node_count not in {None, self.nodes}:
            return True
        if record.capacity is None:
            return False
        cpu_nano = memory_nano = 0
        for count, nodes in self.shapes.items():
            adding = nodes - self.left_out.get(count, 0)
            cpu_nano += adding * (count.shape.cpu_nano or 0)
            memory_nano += adding * (count.shape.memory_nano or 0)
        return record.capacity.cpu_nano not in {None, cpu_nano} or (
            record.capacity.memory_nano not in {None, memory_nano}
        )

    def _sum_up(self) -> ClusterDetail:
        roles = dict.fromkeys(ROLES, 0)
        for count, nodes in self.shapes.items():
            for role in count.shape.roles or ("other",):
                roles[role] += nodes
        sums, record = self.sums(), self.record
        return ClusterDetail(
            id=self.id,
            upstream=self.upstream,
            kubernetes_version=record.kubernetes_version,
            nodes=self.nodes,
            roles=RoleCounts(**roles),
            cpu_nano=sums.cpu_nano,
            memory_nano=sums.memory_nano,
            unreported_cpu=sums.unreported_cpu,
            unreported_memory=sums.unreported_memory,
            unreadable_nodes=sums.unreadable_nodes,
            group=self.key,
            gpus=sums.gpus,
            node_count=record.node_count,
            capacity=record.capacity,
            requested=record.requested,
            differs=self.differs,
        )


_VERSION_BYTE = 6
_VARIANT_BYTE = 8


def anonymous_id(uid: str, install_uuid: str) -> str:
    """The pseudonymous id of a cluster, which stays the same for the life of the cluster.

    It is a UUIDv8 (RFC 9562, section 5.8): the first 16 bytes of the HMAC-SHA256 of the UID's UTF-8
    text, keyed with the 16 bytes of the install UUID, with version and variant set. The key is in
    the payload, so anyone who can read the UIDs of an installation's clusters can compute the ids.
    Names could be guessed and tried; UIDs are random.

    Args:
        uid: ``metadata.uid`` of the cluster's object, or of kube-system if there is no such object.
        install_uuid: Of the installation, in upper or lower case.

    Raises:
        ValueError: The install UUID isn't a UUID.
    """
    made = bytearray(hmac.digest(UUID(install_uuid).bytes, uid.encode(), "sha256")[:16])
    made[_VERSION_BYTE] = made[_VERSION_BYTE] & 0x0F | 0x80
    made[_VARIANT_BYTE] = made[_VARIANT_BYTE] & 0x3F | 0x80
    return str(UUID(bytes=bytes(made)))
