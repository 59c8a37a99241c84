"""The fleet at one moment, and what is made of it to be sent.

Nothing here names a node or a cluster.
"""

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from telemetryd.model.groups import (
    UNKNOWN_GROUP,
    ClusterGroup,
    Drop,
    GroupKey,
    Sums,
    is_entitled,
    total,
)
from telemetryd.model.records import (
    NO_GPUS,
    Amounts,
    Gpus,
    NodeShape,
)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who sends: what Rancher calls InitInfo.

    Attributes:
        version: Raw product version (``v2.15.0``).
        git_hash: Build commit, ``unknown`` where it isn't known.
        product: ``rancher-prime``, ``rancher`` or ``kubernetes``, unless configured.
    """

    install_uuid: str
    cluster_uuid: str
    server_url: str
    version: str
    git_hash: str
    product: str


@dataclass(frozen=True, slots=True, order=True)
class SystemRow:
    """Nodes alike in what the SCC payload tells of them.

    Attributes:
        cpu_cores: Whole cores, rounded up; 0 where not reported.
        memory_mib: Whole MiB, rounded up; 0 where not reported.
        upstream: Nodes of the cluster that hosts Rancher itself.
    """

    architecture: str
    cpu_cores: int
    memory_mib: int
    upstream: bool
    count: int


@dataclass(frozen=True, slots=True, order=True)
class ClusterRow:
    """Clusters with the same number of nodes; the upstream one stands alone."""

    upstream: bool
    nodes: int
    count: int


@dataclass(frozen=True, slots=True)
class Totals:
    """Fleet sums. Nodes whose cluster is gone count only in ``orphan_nodes``.

    Attributes:
        roles: Nodes per role (``controlplane``, ``etcd``, ``worker``, ``other``); all four present.
        cpu_nano: Sum over nodes in 1e-9 cores.
        memory_nano: Sum over nodes in 1e-9 bytes.
        unreadable: Objects that could not be read, by resource; only those above 0.
        withheld: Objects and answers whose text may not leave, by field; only those above 0.
        groups: All clusters that exist, in groups of those alike in every trait; sorted.
        drops: What has just fallen by half or more; at most one each of clusters and nodes.
    """

    local_clusters: int = 0
    managed_clusters: int = 0
    nodes: int = 0
    orphan_nodes: int = 0
    roles: dict[str, int] = field(default_factory=dict)
    cpu_nano: int = 0
    memory_nano: int = 0
    unreported_cpu: int = 0
    unreported_memory: int = 0
    unreadable: dict[str, int] = field(default_factory=dict)
    withheld: dict[str, int] = field(default_factory=dict)
    groups: tuple[ClusterGroup, ...] = ()
    drops: tuple[Drop, ...] = ()

    @property
    def everything(self) -> Sums:
        """The sums over all clusters that exist."""
        return total(self.groups)

    @property
    def entitled(self) -> Sums:
        """The sums over managed clusters that are not being deleted."""
        return total(self.groups, is_entitled)


class RoleCounts(NamedTuple):
    """Nodes per role; a node counts in each of its roles, and without any as ``other``."""

    controlplane: int
    etcd: int
    worker: int
    other: int


@dataclass(frozen=True, slots=True)
class ClusterDetail:
    """One cluster as far as the fleet payload tells of it.

    Attributes:
        id: Pseudonymous, and stable within the installation; empty where there is none.
        upstream: The cluster that hosts Rancher itself.
        kubernetes_version: Empty where it isn't known.
        cpu_nano: Sum over its nodes in 1e-9 cores.
        memory_nano: Sum over its nodes in 1e-9 bytes.
        unreported_cpu: Nodes that report no CPU capacity that can be parsed.
        unreported_memory: Likewise memory.
        group: What kind of cluster it is, and how it is.
        unreadable_nodes: Nodes that can't be read; ``nodes`` includes them.
        node_count: By its own status; None where that has none.
        capacity: Its own ``status.capacity``; None where it has none.
        requested: What its pods request; None where its status doesn't say.
        differs: Its own status and its nodes don't agree.
    """

    id: str
    upstream: bool
    kubernetes_version: str
    nodes: int
    roles: RoleCounts
    cpu_nano: int
    memory_nano: int
    unreported_cpu: int
    unreported_memory: int
    group: GroupKey = UNKNOWN_GROUP
    unreadable_nodes: int = 0
    gpus: Gpus = NO_GPUS
    node_count: int | None = None
    capacity: Amounts | None = None
    requested: Amounts | None = None
    differs: bool = False


@dataclass(frozen=True, slots=True)
class ShapeDetail:
    """How many nodes, of clusters that exist, have one shape."""

    shape: NodeShape
    nodes: int


@dataclass(frozen=True, slots=True)
class FleetDetail:
    """What the fleet payload tells beyond rows and totals; in no order, and without any name.

    Attributes:
        coarse: Numbers are rounded, so that no cluster is recognised by them.
    """

    clusters: tuple[ClusterDetail, ...]
    shapes: tuple[ShapeDetail, ...]
    coarse: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The fleet at one moment; immutable, the same object until something changes.

    Attributes:
        revision: Rises by one with each change of content.
        taken_at: Unix time in seconds.
        complete: All was read and every informer is in contact.
        incomplete_reasons: Why not, sorted, each one line.
        doubts: Why the numbers, which were all read, may not be the fleet's: clusters whose own
            status says something else, a drop. The SCC payload is sent all the same.
        features: Names of the enabled features, sorted.
        systems: Sorted rows.
        clusters: Sorted rows.
        detail: None where nobody has asked for it.
        omitted: Names of the ``[privacy]`` keys that omitted something from it.
    """

    revision: int
    taken_at: float
    complete: bool
    incomplete_reasons: tuple[str, ...]
    identity: Identity
    features: tuple[str, ...]
    systems: tuple[SystemRow, ...]
    clusters: tuple[ClusterRow, ...]
    totals: Totals
    detail: FleetDetail | None = None
    omitted: frozenset[str] = frozenset()
    doubts: tuple[str, ...] = ()


class SnapshotSource(Protocol):
    """Where snapshots come from: the gatherer, or anything that stands in for it."""

    def snapshot(self) -> Snapshot:
        """The fleet now.

        Raises:
            NotReady: An informer or a part of the identity is still waited for.
        """

    async def wait_ready(self) -> None:
        """Return once ``snapshot()`` would not raise NotReady."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """When and how a payload is sent: what of it is no fact of the fleet.

    Attributes:
        at: Unix time in seconds.
        sequence: Rises strictly from one payload of an exporter to the next.
        epoch: Leadership epoch; it rises with each term, and never falls.
    """

    at: float
    sequence: int = 0
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Payload:
    """What is sent.

    Attributes:
        body: Canonical bytes: the same for the same facts but for the timestamp.
        content_type: MIME type.
        digest: SHA-256 in hex over the body without timestamp and delivery.
        revision: Of the snapshot it was made from.
        schema_valid: It fits its JSON Schema.
        schema_error: The first mismatch, empty where there is none.
    """

    body: bytes
    content_type: str
    digest: str
    revision: int
    schema_valid: bool
    schema_error: str
