"""What is collected and what is not, in words for people; tests hold it against the schemas.

What is sent at this moment doesn't belong here: that is ``/payload/``.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Sent:
    """Something that leaves.

    Attributes:
        what: In words.
        keys: Its keys in the payload: ``subscription.arch``, ``managedSystems[].cpu``.
    """

    what: str
    keys: tuple[str, ...]


SENT: Final[dict[str, tuple[Sent, ...]]] = {
    "scc": (
        Sent(
            "Rancher's installation: its UUID, the UUID of its own cluster and, unless [privacy] "
            "omits it, its URL",
            ("subscription.installuuid", "subscription.clusteruuid", "subscription.server_url"),
        ),
        Sent(
            "Product, version and build",
            ("version", "subscription.product", "subscription.version", "subscription.git"),
        ),
        Sent('The word "unknown", where an architecture is expected', ("subscription.arch",)),
        Sent("Names of the feature flags that are on", ("feature_flags[]",)),
        Sent(
            "How many nodes are alike in architecture, CPU cores and memory",
            (
                "managedSystems[].arch",
                "managedSystems[].cpu",
                "managedSystems[].memory",
                "managedSystems[].count",
            ),
        ),
        Sent(
            "How many clusters have the same number of nodes",
            ("managedClusters[].nodes", "managedClusters[].count"),
        ),
        Sent(
            "Which of these are Rancher's own cluster",
            ("managedSystems[].upstream", "managedClusters[].upstream"),
        ),
        Sent("When it was made", ("timestamp",)),
    ),
    "fleet": (
        Sent(
            "The installation: its UUID, the UUID of its own cluster and, unless [privacy] omits "
            "it, Rancher's URL",
            (
                "installation.install_uuid",
                "installation.cluster_uuid",
                "installation.server_url",
            ),
        ),
        Sent(
            "Product, version and build; the version of telemetryd and of the document",
            (
                "installation.product",
                "installation.version",
                "installation.git_hash",
                "telemetryd_version",
                "schema_version",
            ),
        ),
        Sent("Names of the feature flags that are on", ("feature_flags[]",)),
        Sent(
            "Each cluster, under an anonymous id that stays the same unless [privacy] omits it, "
            "and whether it is Rancher's own",
            ("clusters[].id", "clusters[].upstream"),
        ),
        Sent(
            "Of each cluster: Kubernetes version, nodes by role, CPU and memory",
            (
                "clusters[].kubernetes_version",
                "clusters[].nodes",
                "clusters[].roles.controlplane",
                "clusters[].roles.etcd",
                "clusters[].roles.worker",
                "clusters[].roles.other",
                "clusters[].cpu_millis",
                "clusters[].memory_bytes",
                "clusters[].unreported_cpu",
                "clusters[].unreported_memory",
            ),
        ),
        Sent(
            "How many nodes are alike in roles, architecture, operating system, kernel, container "
            "runtime, CPU and memory",
            (
                "node_shapes[].roles[]",
                "node_shapes[].architecture",
                "node_shapes[].operating_system",
                "node_shapes[].container_runtime",
                "node_shapes[].kernel_version",
                "node_shapes[].cpu_millis",
                "node_shapes[].memory_bytes",
                "node_shapes[].nodes",
            ),
        ),
        Sent(
            "The sums of these",
            (
                "totals.clusters",
                "totals.nodes",
                "totals.orphan_nodes",
                "totals.roles.controlplane",
                "totals.roles.etcd",
                "totals.roles.worker",
                "totals.roles.other",
                "totals.cpu_millis",
                "totals.memory_bytes",
                "totals.unreported_cpu",
                "totals.unreported_memory",
            ),
        ),
        Sent(
            "What could not be read, and why the document has gaps",
            (
                "complete",
                "incomplete_reasons[]",
                "unreadable[].resource",
                "unreadable[].objects",
            ),
        ),
        Sent(
            "When it was made, which one of how many it is, and its digest",
            (
                "delivery.timestamp",
                "delivery.sequence",
                "delivery.epoch",
                "delivery.digest",
            ),
        ),
    ),
}
"""By format of the payload, in the order of importance."""

_NAMES: Final = (
    "Names of nodes, clusters, settings and projects: keys of the caches, in memory alone"
)
_PROJECTS: Final = "Which project is the System project, and which namespaces of targets are its"
_REQUESTS: Final = "SecretRequests: what they ask for, and how they are served"
_CERTIFICATE: Final = "Rancher's CA certificate, to know the server by that is asked for its build"

HELD_BACK: Final[dict[str, tuple[str, ...]]] = {
    "scc": (
        _NAMES,
        "Roles, operating system, kernel and container runtime of nodes",
        "Kubernetes versions of clusters",
        _PROJECTS,
        _REQUESTS,
        _CERTIFICATE,
    ),
    "fleet": (_NAMES, _PROJECTS, _REQUESTS, _CERTIFICATE),
}
"""By format, what is read and is no part of the payload."""

NEVER_READ: Final = (
    "Labels and annotations, but for those of the System project and of the roles of nodes",
    "IP addresses and host names of nodes",
    "Pods, workloads, images, volumes and events",
    "ConfigMaps, and any Secret but the one that an exporter writes",
    "Users, groups, tokens and role bindings",
    "Names of projects and namespaces as people see them, and descriptions",
)
"""What is never decoded: no declared type has a field for it."""
