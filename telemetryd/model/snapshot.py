"""The fleet at one moment, and payloads. Nothing here has the name of a node or a cluster."""

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
    """The sender; Rancher's InitInfo.

    Attributes:
        install_uuid: UUID of the installation, in lower case.
        cluster_uuid: UID of the namespace kube-system of its own cluster.
        server_url: URL of Rancher; empty without one, or where ``[privacy]`` omits it.
        version: Raw product version (``v2.15.0``).
        git_hash: Build commit, or ``unknown``.
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
    """Nodes with equal values in the SCC payload.

    Attributes:
        architecture: Such as ``amd64``; empty if the nodes can't be read.
        cpu_cores: Whole cores of each node, rounded up; 0 if not reported.
        memory_mib: Whole MiB of each node, rounded up; 0 if not reported.
        upstream: Nodes of the cluster that hosts Rancher itself.
        count: The number of nodes.
    """

    architecture: str
    cpu_cores: int
    memory_mib: int
    upstream: bool
    count: int


@dataclass(frozen=True, slots=True, order=True)
class ClusterRow:
    """Clusters with the same number of nodes; the upstream one has its own row.

    Attributes:
        upstream: The cluster that hosts Rancher itself.
        nodes: Of each of these clusters.
        count: The number of clusters.
    """

    upstream: bool
    nodes: int
    count: int


@dataclass(frozen=True, slots=True)
class Totals:
    """Fleet sums. Nodes whose cluster is gone count only in ``orphan_nodes``.

    Attributes:
        local_clusters: 1 with the cluster that hosts Rancher, otherwise 0.
        managed_clusters: All others.
        nodes: Including orphans and those that can't be read.
        roles: Nodes per role (``controlplane``, ``etcd``, ``worker``, ``other``); all four present.
        cpu_nano: Sum over nodes in 1e-9 cores.
        memory_nano: Sum over nodes in 1e-9 bytes.
        unreported_cpu: Nodes without a CPU capacity that can be read.
        unreported_memory: Nodes without a memory capacity that can be read.
        unreadable: Objects that could not be read, by resource; only those above 0.
        withheld: Objects and answers whose text may not leave, by field; only those above 0.
        groups: Sums over clusters with equal provider, driver, version and condition; sorted.
        drops: Current drops, at most one each of clusters and nodes.
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
    """Nodes per role; a node counts in each of its roles, or as ``other``."""

    controlplane: int
    etcd: int
    worker: int
    other: int


@dataclass(frozen=True, slots=True)
class ClusterDetail:
    """One cluster in the fleet payload.

    Attributes:
        id: Pseudonymous, and stable within the installation; empty if it has none.
        upstream: The cluster that hosts Rancher itself.
        unreadable_nodes: Nodes that can't be read; ``nodes`` includes them.
        differs: Its own status differs from the sums of its nodes.
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
    """The number of nodes with one shape, in clusters that exist."""

    shape: NodeShape
    nodes: int


@dataclass(frozen=True, slots=True)
class FleetDetail:
    """What the fleet payload has beyond rows and totals; the order costs or saves time alone.

    Attributes:
        coarse: Numbers are rounded, so that they don't identify a cluster.
    """

    clusters: tuple[ClusterDetail, ...]
    shapes: tuple[ShapeDetail, ...]
    coarse: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The fleet at one moment; immutable, the same object until something changes.

    Attributes:
        revision: Rises by one with each change of content.
        taken_at: Unix time in seconds of that change.
        complete: Everything was read and every informer is in contact.
        incomplete_reasons: Why it isn't complete, sorted; empty if it is.
        identity: The sender.
        features: Names of the feature flags that are on, sorted.
        systems: Nodes by what the SCC payload says of them, sorted.
        clusters: Clusters by their number of nodes, sorted.
        totals: Sums over the fleet.
        doubts: Why complete numbers may be wrong: clusters whose own status differs, or a drop.
            The SCC payload is sent anyway.
        detail: None if no exporter needs it.
        omitted: Names of the ``[privacy]`` keys that omitted something.
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
    """Makes snapshots: the gatherer, or the collector around it."""

    def snapshot(self) -> Snapshot:
        """The fleet now.

        Raises:
            NotReady: An informer or a part of the identity is missing.
        """

    async def wait_ready(self) -> None:
        """Return once ``snapshot()`` would not raise NotReady."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """When and how a payload is sent.

    Attributes:
        at: Unix time in seconds.
        sequence: Rises with each payload of an exporter.
        epoch: Of leadership; rises with each term.
    """

    at: float
    sequence: int = 0
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Payload:
    """What is sent.

    Attributes:
        body: Canonical bytes: equal for equal facts, except for the timestamp.
        content_type: MIME type of the body.
        digest: SHA-256 in hex over the body without timestamp and delivery.
        revision: Of the snapshot it was made from.
        schema_valid: It fits its JSON Schema.
        schema_error: The first mismatch; empty if it fits.
    """

    body: bytes
    content_type: str
    digest: str
    revision: int
    schema_valid: bool
    schema_error: str
