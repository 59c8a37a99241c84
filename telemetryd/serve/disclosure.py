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
            "Rancher's installation: its UUID, the UUID of its own cluster and its URL",
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
}
"""By format of the payload, in the order of importance."""

HELD_BACK: Final[dict[str, tuple[str, ...]]] = {
    "scc": (
        "Names of nodes, clusters, settings and projects: keys of the caches, in memory alone",
        "Roles, operating system, kernel and container runtime of nodes",
        "Kubernetes versions of clusters",
        "Whether a project is the System project",
        "Rancher's CA certificate, to know the server by that is asked for its build",
    ),
}
"""By format, what is read and is no part of the payload."""

NEVER_READ: Final = (
    "Labels and annotations, but for the one label that marks the System project",
    "IP addresses and host names of nodes",
    "Pods, workloads, images, volumes and events",
    "ConfigMaps, and any Secret but the one that an exporter writes",
    "Users, groups, tokens and role bindings",
    "Names of projects and namespaces as people see them, and descriptions",
)
"""What is never decoded: no declared type has a field for it."""
