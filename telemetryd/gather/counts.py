"""The counts of each cluster, which ``aggregate`` updates.

``coarsen`` rounds them for ``cluster_ids = "omit"``. ``DropWatch`` notices implausible drops: half
of the fleet or more within minutes, as after a relist that returns almost nothing, or a restore of
an old backup. Such counts are sent anyway, and marked as doubtful.
"""

import hmac
import re
from collections import Counter, deque
from dataclasses import replace
from typing import Final
from uuid import UUID

from telemetryd.gather.project import LOCAL_CLUSTER
from telemetryd.gather.texts import OTHER, kubernetes_minor
from telemetryd.model import (
    LOCAL,
    MANAGED,
    NO_GPUS,
    Amounts,
    ClusterDetail,
    ClusterRecord,
    Drop,
    FleetDetail,
    Gpus,
    GroupKey,
    NodeRecord,
    NodeShape,
    RoleCounts,
    Sums,
    Unreadable,
)
from telemetryd.quantity import next_power, up_to

ROLES: Final = ("controlplane", "etcd", "worker", "other")
"""The roles of nodes; ``other`` is a node without any of the three."""

SystemKey = tuple[str, int, int, bool]
"""Architecture, whole cores and MiB of a node, and whether its cluster is the upstream one."""

UNREAD: Final = ClusterRecord(uid="", kubernetes_version="")
"""The record of a cluster that isn't known."""


_NO_ROLE: Final = ("other",)


class NodeSums:
    """Running sums over nodes: those of one cluster, or of all clusters that exist.

    Attributes:
        capacity_cpu_nano: Of those that Rancher adds to the capacity of their cluster.
        withheld: The number of nodes by the field whose text may not leave.
    """

    __slots__ = (
        "capacity_cpu_nano",
        "capacity_memory_nano",
        "cpu_nano",
        "gpus",
        "memory_nano",
        "nodes",
        "roles",
        "unreadable",
        "unreported_cpu",
        "unreported_memory",
        "withheld",
    )

    def __init__(self) -> None:
        self.nodes = self.unreadable = 0
        self.cpu_nano = self.memory_nano = 0
        self.unreported_cpu = self.unreported_memory = 0
        self.capacity_cpu_nano = self.capacity_memory_nano = 0
        self.gpus = NO_GPUS
        self.roles = dict.fromkeys(ROLES, 0)
        self.withheld: Counter[str] = Counter()

    def add(self, node: NodeRecord, step: int) -> None:
        """Count a node (+1), or no longer (-1)."""
        traits = node.traits
        cpu_nano, memory_nano = step * (node.cpu_nano or 0), step * (node.memory_nano or 0)
        self.nodes += step
        self.unreadable += step * (not traits.readable)
        self.cpu_nano += cpu_nano
        self.memory_nano += memory_nano
        self.unreported_cpu += step * (node.cpu_nano is None)
        self.unreported_memory += step * (node.memory_nano is None)
        if traits.in_capacity:
            self.capacity_cpu_nano += cpu_nano
            self.capacity_memory_nano += memory_nano
        if traits.gpus != NO_GPUS:
            self._add_gpus(traits.gpus, step)
        for role in traits.roles or _NO_ROLE:
            self.roles[role] += step
        for name, text in (
            ("architecture", traits.architecture),
            ("operating_system", traits.operating_system),
            ("container_runtime", node.container_runtime),
            ("kernel_version", node.kernel_version),
        ):
            if text == OTHER:
                self.withheld[name] += step

    def add_all(self, other: "NodeSums", step: int) -> None:
        """Count all nodes of other sums (+1), or no longer (-1)."""
        for name in self.__slots__:
            if name not in {"gpus", "roles", "withheld"}:
                setattr(self, name, getattr(self, name) + step * getattr(other, name))
        self._add_gpus(other.gpus, step)
        for role, nodes in other.roles.items():
            self.roles[role] += step * nodes
        for name, nodes in other.withheld.items():
            self.withheld[name] += step * nodes

    def _add_gpus(self, gpus: Gpus, step: int) -> None:
        self.gpus = Gpus(*(own + step * more for own, more in zip(self.gpus, gpus, strict=True)))


class ClusterCount:
    """One cluster and its nodes, which may come before it and stay after it.

    Attributes:
        total: The sums over its nodes.
        systems: Its nodes by what the SCC payload says of them.
        shapes: Its nodes by shape, where shapes are counted.
        key: The group that it belongs to.
        grouped: Its group and its share of the group's sums.
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
        "key",
        "record",
        "shapes",
        "systems",
        "total",
        "upstream",
    )

    def __init__(self, name: str) -> None:
        self.upstream = name == LOCAL_CLUSTER
        self.exists = False
        self.total = NodeSums()
        self.systems: dict[SystemKey, int] = {}
        self.shapes: dict[NodeShape, int] = {}
        self.record = UNREAD
        self.key = self._find_key()
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
        self.key = self._find_key()
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

    def withheld(self) -> tuple[str, ...]:
        """The fields of the cluster itself whose text may not leave."""
        record = self.record
        found = (
            ("kubernetes_version", record.kubernetes_version),
            ("provider", record.traits.provider),
            ("driver", record.traits.driver),
        )
        return tuple(name for name, text in found if text == OTHER)

    def sums(self) -> Sums:
        """The sums over its nodes, and of its own status."""
        total = self.total
        capacity, requested = self.record.capacity, self.record.requested
        pods = capacity.pods if capacity is not None else None
        return Sums(
            1,
            total.nodes,
            total.unreadable,
            total.cpu_nano,
            total.memory_nano,
            total.unreported_cpu,
            total.unreported_memory,
            *total.gpus,
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
        record, total = self.record, self.total
        if record.traits.deleting:
            return False
        if record.node_count not in {None, total.nodes}:
            return True
        if record.capacity is None:
            return False
        return record.capacity.cpu_nano not in {None, total.capacity_cpu_nano} or (
            record.capacity.memory_nano not in {None, total.capacity_memory_nano}
        )

    def _find_key(self) -> GroupKey:
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

    def _sum_up(self) -> ClusterDetail:
        total, record = self.total, self.record
        return ClusterDetail(
            id=self.id,
            upstream=self.upstream,
            kubernetes_version=record.kubernetes_version,
            nodes=total.nodes,
            roles=RoleCounts(**total.roles),
            cpu_nano=total.cpu_nano,
            memory_nano=total.memory_nano,
            unreported_cpu=total.unreported_cpu,
            unreported_memory=total.unreported_memory,
            unreadable_nodes=total.unreadable,
            group=self.key,
            gpus=total.gpus,
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

    Raises:
        ValueError: The install UUID isn't a UUID.
    """
    made = bytearray(hmac.digest(UUID(install_uuid).bytes, uid.encode(), "sha256")[:16])
    made[_VERSION_BYTE] = made[_VERSION_BYTE] & 0x0F | 0x80
    made[_VARIANT_BYTE] = made[_VARIANT_BYTE] & 0x3F | 0x80
    return str(UUID(bytes=bytes(made)))


_NANO: Final = 10**9
_GIB_NANO: Final = 2**30 * _NANO
_MINOR: Final = re.compile(r"v?[0-9]+\.[0-9]+")


def coarsen(detail: FleetDetail) -> FleetDetail:
    """The detail with all numbers of clusters rounded up; its shapes are coarse already.

    Exact sums are as good as an id, because they repeat from one payload to the next. Each number
    becomes the next power of two, and the version of Kubernetes its minor version.
    """
    return replace(detail, clusters=tuple(map(_cluster, detail.clusters)), coarse=True)


def coarse_shape(shape: NodeShape) -> NodeShape:
    """A shape with whole cores and GiB."""
    cpu, memory = shape.cpu_nano, shape.memory_nano
    return replace(
        shape,
        cpu_nano=None if cpu is None else up_to(cpu, _NANO),
        memory_nano=None if memory is None else up_to(memory, _GIB_NANO),
    )


def _cluster(cluster: ClusterDetail) -> ClusterDetail:
    minor = _MINOR.match(cluster.kubernetes_version)
    return replace(
        cluster,
        id="",
        kubernetes_version=minor.group() if minor else cluster.kubernetes_version,
        nodes=next_power(cluster.nodes),
        roles=RoleCounts(*map(next_power, cluster.roles)),
        cpu_nano=_power(cluster.cpu_nano, _NANO),
        memory_nano=_power(cluster.memory_nano, _GIB_NANO),
        unreported_cpu=next_power(cluster.unreported_cpu),
        unreported_memory=next_power(cluster.unreported_memory),
        unreadable_nodes=next_power(cluster.unreadable_nodes),
        gpus=Gpus(*map(next_power, cluster.gpus)),
        node_count=None if cluster.node_count is None else next_power(cluster.node_count),
        capacity=_amounts(cluster.capacity),
        requested=_amounts(cluster.requested),
    )


def _amounts(amounts: Amounts | None) -> Amounts | None:
    if amounts is None:
        return None
    cpu, memory, pods = amounts.cpu_nano, amounts.memory_nano, amounts.pods
    return Amounts(
        cpu_nano=None if cpu is None else _power(cpu, _NANO),
        memory_nano=None if memory is None else _power(memory, _GIB_NANO),
        pods=None if pods is None else next_power(pods),
    )


def _power(amount: int, unit: int) -> int:
    return next_power(-(-amount // unit)) * unit


WINDOW_S: Final = 600.0
"""A drop within this time counts, and any drop between two consecutive looks."""

HOLD_S: Final = 3600.0
"""After this time the fleet is believed to be as small as it is counted."""

LEAST: Final = 4
"""Fewer can disappear from a small fleet at once."""


class DropWatch:
    """Follows the number of ``what`` (``clusters`` or ``nodes``) since the process started."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._seen: deque[tuple[float, int]] = deque()  # falling numbers, and until when they held
        self._fallen: tuple[float, int] | None = None

    @property
    def fallen(self) -> bool:
        """Whether there was a drop at the last look."""
        return self._fallen is not None

    def look(self, now_s: float, number: int) -> Drop | None:
        """The current drop, if any."""
        before = self._peak(now_s, number)
        if self._fallen is None and _is_implausible(before, number):
            self._fallen = (now_s, before)
        if self._fallen is None:
            return None
        since, before = self._fallen
        if now_s - since < HOLD_S and _is_implausible(before, number):
            return Drop(self._what, before, number)
        self._fallen = None
        self._seen = deque([(now_s, number)])
        return None

    def _peak(self, now_s: float, number: int) -> int:
        """The highest number of the window, including this one."""
        seen = self._seen
        if seen:
            seen[-1] = (now_s, seen[-1][1])
        while seen and seen[0][0] < now_s - WINDOW_S:
            seen.popleft()
        while seen and seen[-1][1] <= number:
            seen.pop()
        seen.append((now_s, number))
        return seen[0][1]


def _is_implausible(before: int, now: int) -> bool:
    return before - now >= LEAST and 2 * now <= before
