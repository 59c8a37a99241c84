"""The fleet by kind of cluster: the sums in metrics, page and payloads.

A group is all clusters with equal traits, so that each split of the fleet is a sum of groups.
"""

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

from telemetryd.model.records import Gpus

LOCAL: Final = "local"
MANAGED: Final = "managed"
KINDS: Final = (LOCAL, MANAGED)
"""The cluster that hosts Rancher, and all others."""

K = TypeVar("K", str, bool)


class Sums(NamedTuple):
    """Exact sums over clusters and their nodes.

    Attributes:
        cpu_nano: CPU capacity of the nodes in 1e-9 cores.
        memory_nano: Memory capacity of the nodes in 1e-9 bytes.
        counted_clusters: Clusters whose own status has a number of nodes or a capacity.
        differing_clusters: Clusters whose own status differs from the sums of their nodes.
        sized_clusters: Clusters whose own status has a capacity of pods.
        requesting_clusters: Clusters whose own status has the requests of their pods.
        requested_cpu_nano: CPU that pods request, in 1e-9 cores, by their own status.
        requested_memory_nano: Memory that pods request, in 1e-9 bytes.
    """

    clusters: int = 0
    nodes: int = 0
    unreadable_nodes: int = 0
    cpu_nano: int = 0
    memory_nano: int = 0
    unreported_cpu: int = 0
    unreported_memory: int = 0
    gpus_nvidia: int = 0
    gpus_amd: int = 0
    gpus_intel: int = 0
    gpus_other: int = 0
    counted_clusters: int = 0
    differing_clusters: int = 0
    sized_clusters: int = 0
    pods: int = 0
    requesting_clusters: int = 0
    requested_cpu_nano: int = 0
    requested_memory_nano: int = 0
    requested_pods: int = 0

    @property
    def gpus(self) -> Gpus:
        """GPUs by vendor."""
        return Gpus(self.gpus_nvidia, self.gpus_amd, self.gpus_intel, self.gpus_other)


NOTHING: Final = Sums()


def plus(one: Sums, other: Sums) -> Sums:
    """The sums of both."""
    return Sums(*map(operator.add, one, other))


def minus(one: Sums, other: Sums) -> Sums:
    """The first without the second, which is a part of it."""
    return Sums(*map(operator.sub, one, other))


@dataclass(frozen=True, slots=True, order=True)
class GroupKey:
    """The common properties of the clusters in a group.

    Attributes:
        kind: ``local`` or ``managed``.
        provider: Distribution of a closed list, otherwise ``other``; so is the driver.
        management: ``local``, ``provisioned``, ``hosted``, ``imported`` or ``other``.
        kubernetes_minor: Such as ``1.33``, otherwise ``other``.
        active: As in ``ClusterTraits``, like the next two.
    """

    kind: str
    provider: str
    driver: str
    management: str
    kubernetes_minor: str
    active: bool
    deleting: bool
    stale: bool


UNKNOWN_GROUP: Final = GroupKey(
    MANAGED, "other", "other", "other", "other", active=False, deleting=False, stale=False
)
"""The group of a managed cluster that can't be read."""


@dataclass(frozen=True, slots=True)
class ClusterGroup:
    """At least one cluster with this key."""

    key: GroupKey
    sums: Sums


def total(
    groups: Iterable[ClusterGroup], where: Callable[[GroupKey], bool] = lambda _: True
) -> Sums:
    """The sums over all groups whose key matches."""
    found = NOTHING
    for group in groups:
        if where(group.key):
            found = plus(found, group.sums)
    return found


def split(groups: Iterable[ClusterGroup], by: Callable[[GroupKey], K]) -> dict[K, Sums]:
    """The sums by one part of the key, sorted; only values that a cluster has."""
    found: dict[K, Sums] = {}
    for group in groups:
        part = by(group.key)
        found[part] = plus(found.get(part, NOTHING), group.sums)
    return dict(sorted(found.items()))


def is_entitled(key: GroupKey) -> bool:
    """Clusters that count for an entitlement: managed, and not being deleted.

    Rancher's own metric of nodes leaves out clusters that are being deleted, too
    (``pkg/metrics/node.go``); its telemetry includes them, and so does the SCC payload.
    """
    return key.kind == MANAGED and not key.deleting


@dataclass(frozen=True, slots=True)
class Drop:
    """An implausible drop: at least half of the fleet, within minutes.

    Attributes:
        before: The highest number of the last minutes.
    """

    what: str
    before: int
    now: int
