"""The record of each kind of object, and the delta of a change."""

import re
from dataclasses import dataclass
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVar

import msgspec

from telemetryd.errors import UnreadableReason


class Record(msgspec.Struct, frozen=True, gc=False):
    """What a store holds of one object."""

    @property
    def uid(self) -> str:
        """``metadata.uid``; a change of it under one key is a delete and an add."""
        raise NotImplementedError


class IdRecord(Record, frozen=True, gc=False):
    """A record that holds its UID as it is."""

    uid: str


R = TypeVar("R", bound=Record)
R_co = TypeVar("R_co", bound=Record, covariant=True)


class Unreadable(IdRecord, frozen=True, gc=False):
    """The record of an object that can't be read: only its key and UID are known."""

    reason: UnreadableReason


class Gpus(NamedTuple):
    """GPUs by vendor, as the vendors' device plug-ins report them in a node's capacity."""

    nvidia: int = 0
    amd: int = 0
    intel: int = 0
    other: int = 0


NO_GPUS: Final = Gpus()


class NodeTraits(msgspec.Struct, frozen=True, gc=False):
    """Kind of a node; interned, so that nodes alike share one.

    Attributes:
        roles: Sorted subset of ``controlplane``, ``etcd``, ``worker``; empty counts as ``other``.
        cpu_nano: CPU capacity in 1e-9 cores; None if not reported or not parseable.
        in_capacity: Rancher adds the node to the capacity of its cluster: not a cordoned node, nor
            one of the control plane that takes no other work.
        readable: False only in the traits of all nodes that can't be read.
    """

    architecture: str
    operating_system: str
    roles: tuple[str, ...]
    cpu_nano: int | None = None
    gpus: Gpus = NO_GPUS
    in_capacity: bool = True
    readable: bool = True


UNREADABLE_TRAITS: Final = NodeTraits("", "", (), readable=False)
"""The traits of all nodes that can't be read."""


@dataclass(frozen=True, slots=True)
class NodeShape:
    """A node as the fleet payload has it: all but its name and its cluster."""

    architecture: str
    operating_system: str
    container_runtime: str
    kernel_version: str
    roles: tuple[str, ...]
    cpu_nano: int | None
    memory_nano: int | None
    gpus: Gpus = NO_GPUS
    readable: bool = True

    @property
    def order(self) -> tuple[Any, ...]:
        """What shapes are sorted by: unreported amounts come first."""
        return (
            self.architecture,
            self.operating_system,
            self.container_runtime,
            self.kernel_version,
            self.roles,
            -1 if self.cpu_nano is None else self.cpu_nano,
            -1 if self.memory_nano is None else self.memory_nano,
            self.gpus,
            self.readable,
        )


Own: TypeAlias = int | tuple[str, int | None]
"""What no two nodes have in common: the UID, and the memory capacity in 1e-9 bytes.

It is one number where they are as the API server and the kubelet write them: from the lowest bit
on, 128 bits of the UID, and one more than the KiB, or 0 where they aren't known. That takes 48
bytes, where the text and a number of its own take 144.
"""

_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_UID_BITS: Final = 128
_UID_MASK: Final = 2**_UID_BITS - 1
_NANO_KIB: Final = 2**10 * 10**9
_MOST_KIB: Final = 2**51


def own_of(uid: str, memory_nano: int | None) -> Own:
    """Both in one; equal only for equal ones."""
    if _UUID.fullmatch(uid):
        if memory_nano is None:
            return int(uid.replace("-", "_"), 16)
        kib, rest = divmod(memory_nano, _NANO_KIB)
        if not rest and 0 <= kib < _MOST_KIB:
            return (kib + 1) << _UID_BITS | int(uid.replace("-", "_"), 16)
    return uid, memory_nano


class NodeRecord(Record, frozen=True, gc=False):
    """One node. Two are rarely alike in all of it, so its parts are shared and not the whole.

    Its cluster is the namespace in its key.
    """

    own: Own
    traits: NodeTraits
    container_runtime: str = ""
    kernel_version: str = ""

    @property
    def uid(self) -> str:
        """As of every record."""
        if isinstance(self.own, tuple):
            return self.own[0]
        digits = f"{self.own & _UID_MASK:032x}"
        return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))

    @property
    def cpu_nano(self) -> int | None:
        """CPU capacity in 1e-9 cores; None if not reported or not parseable."""
        return self.traits.cpu_nano

    @property
    def memory_nano(self) -> int | None:
        """Memory capacity in 1e-9 bytes, in the same way."""
        if isinstance(self.own, tuple):
            return self.own[1]
        kib = (self.own >> _UID_BITS) - 1
        return kib * _NANO_KIB if kib >= 0 else None

    @property
    def shape(self) -> NodeShape:
        """What the fleet payload says of it."""
        traits = self.traits
        return NodeShape(
            architecture=traits.architecture,
            operating_system=traits.operating_system,
            container_runtime=self.container_runtime,
            kernel_version=self.kernel_version,
            roles=traits.roles,
            cpu_nano=traits.cpu_nano,
            memory_nano=self.memory_nano,
            gpus=traits.gpus,
            readable=traits.readable,
        )


@dataclass(frozen=True, slots=True)
class ClusterTraits:
    """Kind and condition of a cluster; interned, so that equal clusters share one.

    Attributes:
        provider: Distribution of a closed list, otherwise ``other``; empty if it has none.
        driver: Rancher's driver, in the same way.
        management: ``local``, ``provisioned``, ``hosted`` or ``imported``; ``other`` if the cluster
            can't be read.
        stale: By its conditions Rancher can't reach it: its nodes are those last seen.
    """

    provider: str = ""
    driver: str = ""
    management: str = "other"
    active: bool = False
    deleting: bool = False
    stale: bool = False


UNKNOWN_TRAITS: Final = ClusterTraits()
"""The traits of a cluster that can't be read."""


class Amounts(msgspec.Struct, frozen=True, gc=False):
    """``status.capacity`` or ``status.requested`` of a cluster; None for a missing amount."""

    cpu_nano: int | None = None
    memory_nano: int | None = None
    pods: int | None = None


class ClusterRecord(IdRecord, frozen=True, gc=False):
    """One cluster.

    Attributes:
        kubernetes_version: ``status.version.gitVersion`` or empty.
        node_count: ``status.nodeCount``; None if Rancher hasn't counted its nodes.
        capacity: ``status.capacity``; None if Rancher hasn't computed it.
        requested: The requests of its pods; None if missing.
    """

    kubernetes_version: str
    traits: ClusterTraits = UNKNOWN_TRAITS
    node_count: int | None = None
    capacity: Amounts | None = None
    requested: Amounts | None = None


class SettingRecord(IdRecord, frozen=True, gc=False):
    """One Rancher setting; ``value`` is the effective one, empty for settings never read."""

    value: str


class FeatureRecord(IdRecord, frozen=True, gc=False):
    """One Rancher feature flag, as ``spec`` and ``status`` hold it."""

    value: bool | None
    default: bool
    locked: bool | None
    prime: bool


class ProjectRecord(IdRecord, frozen=True, gc=False):
    """One Rancher project.

    Attributes:
        system: It has the label that marks the System project.
        created_at: Of one with that label, as the object has it.
    """

    system: bool
    created_at: str = ""


class NamespaceRecord(IdRecord, frozen=True, gc=False):
    """One namespace: only the UID of kube-system is needed."""


class ConditionRecord(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """One condition of a SecretRequest; times as in the object, empty if missing."""

    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""
    last_update_time: str = ""
    last_transition_time: str = ""


class OtherController(msgspec.Struct, frozen=True, gc=False):
    """A controller other than telemetryd that wrote a status last.

    Attributes:
        at: When, RFC 3339; empty if unknown.
    """

    manager: str
    at: str


class SecretRequestRecord(IdRecord, frozen=True, gc=False):
    """One SecretRequest.

    It has no resource version and no annotation: a change of only these makes no delta.

    Attributes:
        spec_error: Why the spec can't be read; empty if it can.
        conditions: Those that are ours (``Progressing``, ``Done``, ``Failure``), by type.
        other: The controller that wrote the status last; None if that is telemetryd, or none.
    """

    created_at: str
    deleting: bool
    spec_error: str
    secret_type: str
    has_target: bool
    namespace: str
    secret: str
    conditions: tuple[ConditionRecord, ...]
    other: OtherController | None = None


@dataclass(frozen=True, slots=True)
class Delta(Generic[R_co]):
    """One change of a store, which is already applied.

    Attributes:
        key: ``namespace/name``, or ``name`` for cluster-scoped objects.
    """

    key: str
    old: R_co | Unreadable | None
    new: R_co | Unreadable | None
