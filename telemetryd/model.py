"""Frozen nouns that cross modules: records, deltas, the snapshot, payloads and statuses.

No behaviour beyond what follows from the fields, and nothing that knows where they came from.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, NamedTuple, Protocol, TypeVar

import msgspec

from telemetryd.errors import UnreadableReason


class Record(Protocol):
    """What a store holds of one object."""

    @property
    def uid(self) -> str:
        """``metadata.uid``; a change of it under one key is a delete and an add."""


R = TypeVar("R", bound=Record)
R_co = TypeVar("R_co", bound=Record, covariant=True)


class Unreadable(msgspec.Struct, frozen=True, gc=False):
    """Stands in for an object that could not be read: its key is kept, its content isn't known."""

    uid: str
    reason: UnreadableReason


@dataclass(frozen=True, slots=True)
class NodeShape:
    """Everything a node is but its name; interned, so that equal nodes share one.

    Attributes:
        cpu_nano: CPU capacity in 1e-9 cores, None where not reported or not parseable.
        memory_nano: Memory capacity in 1e-9 bytes, None likewise.
        roles: Sorted subset of ``controlplane``, ``etcd``, ``worker``; empty counts as ``other``.
    """

    architecture: str
    operating_system: str
    container_runtime: str
    kernel_version: str
    roles: tuple[str, ...]
    cpu_nano: int | None
    memory_nano: int | None


class NodeRecord(msgspec.Struct, frozen=True, gc=False):
    """One node: the identity of the object and the shape it shares with its likes."""

    uid: str
    cluster: str
    shape: NodeShape


class ClusterRecord(msgspec.Struct, frozen=True, gc=False):
    """One cluster; ``kubernetes_version`` is ``status.version.gitVersion`` or empty."""

    uid: str
    kubernetes_version: str


class SettingRecord(msgspec.Struct, frozen=True, gc=False):
    """One Rancher setting; ``value`` is the effective one, empty for settings never read."""

    uid: str
    value: str


class FeatureRecord(msgspec.Struct, frozen=True, gc=False):
    """One Rancher feature flag, as ``spec`` and ``status`` hold it."""

    uid: str
    value: bool | None
    default: bool
    locked: bool | None
    prime: bool


class ProjectRecord(msgspec.Struct, frozen=True, gc=False):
    """One Rancher project; ``system`` by the label that marks the System project."""

    uid: str
    system: bool


class NamespaceRecord(msgspec.Struct, frozen=True, gc=False):
    """One namespace: its UID is what is wanted of kube-system."""

    uid: str


@dataclass(frozen=True, slots=True)
class Delta(Generic[R_co]):
    """One change of a store, after it has been applied.

    Attributes:
        key: ``namespace/name``, or ``name`` for cluster-scoped objects.
        old: What was held, None for an add.
        new: What is held now, None for a delete.
    """

    key: str
    old: R_co | Unreadable | None
    new: R_co | Unreadable | None


@dataclass(frozen=True, slots=True)
class InformerStatus:
    """What one informer shows of itself.

    Attributes:
        resource: ``plural.group``, or the plural alone for the core group.
        synced: The first list is fully processed, or the resource is confirmed absent.
        absent: The API server doesn't serve the resource.
        objects: Objects held.
        unreadable: Of these, how many could not be read.
        resource_version: The last one applied; None before the first list.
        last_contact_at: Unix time in seconds of the last event, bookmark, page or accepted watch.
        last_error: What stands in the way now, empty while all is well.
    """

    resource: str
    synced: bool
    absent: bool
    objects: int
    unreadable: int
    resource_version: str | None
    last_contact_at: float | None
    last_error: str


@dataclass(frozen=True, slots=True)
class Identity:
    """Who sends: what Rancher calls InitInfo.

    Attributes:
        version: Raw product version (``v2.15.0``).
        git_hash: Build commit, ``unknown`` where it isn't known.
        product: ``rancher-prime`` unless configured.
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
        id: Anonymous, and stable within the installation; empty where there is none.
        upstream: The cluster that hosts Rancher itself.
        kubernetes_version: Empty where it isn't known.
        cpu_nano: Sum over its nodes in 1e-9 cores.
        memory_nano: Sum over its nodes in 1e-9 bytes.
        unreported_cpu: Nodes that report no CPU capacity that can be parsed.
        unreported_memory: Likewise memory.
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


@dataclass(frozen=True, slots=True)
class ShapeDetail:
    """How many nodes, of clusters that exist, have one shape."""

    shape: NodeShape
    nodes: int


@dataclass(frozen=True, slots=True)
class FleetDetail:
    """What the fleet payload tells beyond rows and totals; in no order, and without any name."""

    clusters: tuple[ClusterDetail, ...]
    shapes: tuple[ShapeDetail, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The fleet at one moment; immutable, the same object until something changes.

    Attributes:
        revision: Rises by one with each change of content.
        taken_at: Unix time in seconds.
        complete: All was read and every informer is in contact.
        incomplete_reasons: Why not, sorted, each one line.
        features: Names of the enabled features, sorted.
        systems: Sorted rows.
        clusters: Sorted rows.
        detail: None where nobody has asked for it.
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
        epoch: Leadership epoch (``leaseTransitions``), 0 without leader election.
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


class ExporterState(StrEnum):
    """The closed list of states an exporter can be in."""

    DISABLED = "disabled"
    WAITING = "waiting"
    STANDBY = "standby"
    IDLE = "idle"
    RUNNING = "running"
    BACKOFF = "backoff"
    FAILED = "failed"
    CONFLICT = "conflict"
    STOPPED = "stopped"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class ExporterStatus:
    """What the manager shows of one exporter. Times are Unix seconds, None until the first.

    Attributes:
        detail: What is waited for, or who else writes; empty otherwise.
        last_error: Of the last failed attempt, kept until the next success.
        last_error_reason: One of the closed list, empty where there is none.
        next_run_in_s: Seconds to the next slot, None where none is planned.
        payload_bytes: Size of the last payload, None before the first.
    """

    name: str
    type: str
    enabled: bool
    state: ExporterState
    detail: str
    interval_s: float
    consecutive_failures: int
    last_attempt_at: float | None
    last_success_at: float | None
    last_failure_at: float | None
    last_error: str
    last_error_reason: str
    next_run_in_s: float | None
    payload_bytes: int | None
    digest: str
    schema_valid: bool | None


@dataclass(frozen=True, slots=True)
class ConfigStatus:
    """The configuration in force, and the last attempt to put another in its place.

    Attributes:
        where: The file it came from, ``defaults`` where there was none.
        hash: 48 bits over its effective values.
        in_force_at: Unix time in seconds when it was last read and accepted, at the start or since.
        reloaded_at: Likewise, when a reload last ended, well or not; None before the first.
        problems: Why that one was rejected, a line each; empty where it wasn't.
    """

    where: str
    hash: int
    in_force_at: float
    reloaded_at: float | None = None
    problems: tuple[str, ...] = ()
