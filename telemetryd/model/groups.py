"""The fleet by kind of cluster: sums that metrics, page and payloads are made of.

A group is all clusters that are alike in every trait, so that each split of the fleet is a sum of
groups. How groups are counted is ``gather.aggregate``'s.
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
    """Sums over clusters and their nodes; all are exact.

    Attributes:
        nodes: Nodes of these clusters, those that can't be read included.
        unreadable_nodes: How many of them can't be read.
        cpu_nano: CPU capacity of the nodes in 1e-9 cores.
        memory_nano: Memory capacity of the nodes in 1e-9 bytes.
        unreported_cpu: Nodes that report no CPU capacity that can be parsed.
        unreported_memory: Nodes that report no memory capacity that can be parsed.
        gpus_nvidia: GPUs of the nodes, by vendor; so the other three.
        counted_clusters: Clusters whose own status has a number of nodes to compare.
        differing_clusters: Clusters whose own status has another number of nodes, or another
            capacity, than their nodes add up to.
        sized_clusters: Clusters whose own status says how many pods fit in.
        pods: How many pods fit in these clusters, by their own status.
        requesting_clusters: Clusters whose own status says what their pods request.
        requested_cpu_nano: CPU that pods request, in 1e-9 cores, by their own status.
        requested_memory_nano: Memory that pods request, in 1e-9 bytes.
        requested_pods: Pods, by their own status.
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
    """The first without the second, which is part of it."""
    return Sums(*map(operator.sub, one, other))


@dataclass(frozen=True, slots=True, order=True)
class GroupKey:
    """What clusters of one group have in common.

    Attributes:
        kind: ``local`` or ``managed``.
        provider: Distribution, of a closed list, else ``other``; so the driver.
        management: ``local``, ``provisioned``, ``hosted``, ``imported``, else ``other``.
        kubernetes_minor: ``1.33``, else ``other``.
        active: See ``ClusterTraits``; so the other two.
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
"""Of a managed cluster that can't be read."""


@dataclass(frozen=True, slots=True)
class ClusterGroup:
    """Clusters alike in all of the key, at least one."""

    key: GroupKey
    sums: Sums


def total(
    groups: Iterable[ClusterGroup], where: Callable[[GroupKey], bool] = lambda _: True
) -> Sums:
    """The sums over all groups whose key is wanted."""
    found = NOTHING
    for group in groups:
        if where(group.key):
            found = plus(found, group.sums)
    return found


def split(groups: Iterable[ClusterGroup], by: Callable[[GroupKey], K]) -> dict[K, Sums]:
    """The sums by one part of the key, sorted; only parts that a cluster has."""
    found: dict[K, Sums] = {}
    for group in groups:
        part = by(group.key)
        found[part] = plus(found.get(part, NOTHING), group.sums)
    return dict(sorted(found.items()))


def is_entitled(key: GroupKey) -> bool:
    """Clusters that count for an entitlement: managed, and not being deleted.

    As Rancher's own metric of nodes has it, which leaves out clusters that are being deleted
    (``pkg/metrics/node.go``); the SCC payload has them, as Rancher's telemetry does.
    """
    return key.kind == MANAGED and not key.deleting


@dataclass(frozen=True, slots=True)
class Drop:
    """A fall that real fleets don't have: at least half of it, within minutes.

    Attributes:
        what: ``clusters`` or ``nodes``.
        before: The highest number of the minutes before.
        now: The number that is left.
    """

    what: str
    before: int
    now: int
