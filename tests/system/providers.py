"""A fleet of all providers, as Rancher stores them, and what it adds up to.

What is expected of a cluster is written beside it, by hand; the sums are made here, by means of
their own. Every text that must not leave begins with ``sentinel`` or ``SENTINEL``.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from tests.apiserver.admin import Object

_API = "management.cattle.io/v3"
GOING = "2026-07-01T08:30:00Z"
GIB = 2**30


@dataclass(frozen=True)
class Node:
    """Nodes alike.

    Attributes:
        gpus: By resource name.
        bad: A field and what it holds, for which the node can't be read.
        counted: Whether Rancher adds it to its cluster's own capacity.
    """

    count: int
    cpu: str = "4"
    memory: str = "16Gi"
    roles: tuple[str, ...] = ("worker",)
    gpus: tuple[tuple[str, str], ...] = ()
    arch: str = "amd64"
    bad: tuple[str, Any] | None = None
    counted: bool = True


@dataclass(frozen=True)
class Cluster:
    """A cluster as Rancher has it, and what is expected of it.

    Attributes:
        status: Of its status, what the sums don't give.
        own: Of its status's ``nodeCount`` and ``capacity``, what differs from its nodes.
        differs: Whether the payload must say that it differs.
    """

    name: str
    provider: str
    management: str
    minor: str
    nodes: tuple[Node, ...] = ()
    spec: Object = field(default_factory=dict)
    status: Object = field(default_factory=dict)
    annotations: Object = field(default_factory=dict)
    labels: Object = field(default_factory=dict)
    driver: str = "other"
    active: bool = True
    stale: bool = False
    deleting: bool = False
    readable: bool = True
    own: Object = field(default_factory=dict)
    differs: bool = False
    requested: tuple[int, int, int] | None = (1500, 2, 30)

    @property
    def kind(self) -> str:
        return "local" if self.name == "local" else "managed"

    def size(self) -> int:
        return sum(each.count for each in self.nodes)


def _version(text: str) -> Object:
    return {"version": {"gitVersion": text}}


_PROVISIONED = {"provisioning.cattle.io/administrated": "true"}
_SERVERS = ("controlplane", "etcd")

CLUSTERS = (
    Cluster(
        "local",
        *("k3s", "local", "1.33"),
        nodes=(Node(3, roles=(*_SERVERS, "worker")),),
        spec={"internal": True},
        status={"provider": "k3s", "driver": "k3s", **_version("v1.33.4+k3s1")},
        driver="k3s",
    ),
    Cluster(
        "sentinel-rke2",
        *("rke2", "provisioned", "1.33"),
        nodes=(
            Node(3, roles=_SERVERS, counted=False),
            Node(2, "8", "32Gi", gpus=(("nvidia.com/gpu", "2"),)),
            Node(1, "7920m", "31.5Gi", arch="arm64"),
        ),
        spec={"rke2Config": {}, "fleetWorkspaceName": "sentinel-workspace"},
        status={"provider": "rke2", "driver": "rke2", **_version("v1.33.4+rke2r1")},
        annotations=_PROVISIONED,
        driver="rke2",
    ),
    Cluster(
        "sentinel-rke2-going",
        *("rke2", "provisioned", "1.32"),
        nodes=(Node(2, "16", "64Gi"),),
        status={"provider": "rke2", "driver": "rke2", **_version("v1.32.9+rke2r1")},
        annotations=_PROVISIONED,
        driver="rke2",
        active=False,
        deleting=True,
    ),
    Cluster(
        "sentinel-k3s",
        *("k3s", "provisioned", "1.31"),
        nodes=(Node(1, "2", "4Gi", ("etcd", "controlplane", "worker"), arch="arm64"),),
        status={"provider": "k3s", "driver": "k3s", **_version("v1.31.14+k3s1")},
        annotations=_PROVISIONED,
        driver="k3s",
    ),
    Cluster(
        "sentinel-k3s-imported",
        *("k3s", "imported", "1.30"),
        nodes=(Node(2, "2", "4Gi"),),
        spec={"k3sConfig": {}},
        status={"provider": "k3s", "driver": "k3s", **_version("v1.30.8+k3s1")},
        driver="k3s",
        stale=True,
        active=False,
    ),
    Cluster(
        "sentinel-imported",
        *("imported", "imported", "1.32"),
        nodes=(Node(4, gpus=(("gpu.intel.com/i915", "1"), ("example.com/gpu", "3"))),),
        spec={"imported": True, "displayName": "SENTINEL-display-name"},
        status={"driver": "imported", **_version("v1.32.4")},
        driver="imported",
    ),
    Cluster(
        "sentinel-eks",
        *("eks", "hosted", "1.31"),
        nodes=(Node(3, "8", "32Gi", gpus=(("amd.com/gpu", "1"),)),),
        spec={"eksConfig": {"imported": False, "amazonCredentialSecret": "SENTINEL-secret"}},
        status={"provider": "eks", "driver": "EKS", **_version("v1.31.13-eks-7f9249a")},
        driver="eks",
    ),
    Cluster(
        "sentinel-eks-imported",
        *("eks", "imported", "1.31"),
        nodes=(Node(1, "8", "32Gi"),),
        spec={"eksConfig": {"imported": True, "displayName": "SENTINEL-eks"}},
        status={"provider": "eks", "driver": "EKS", **_version("v1.31.13-eks-7f9249a")},
        driver="eks",
    ),
    Cluster(
        "sentinel-eks-unseen",
        *("eks", "hosted", "1.31"),
        spec={"eksConfig": {"imported": False}},
        status={"provider": "eks", "driver": "EKS", **_version("v1.31.13-eks-7f9249a")},
        driver="eks",
        own={"nodeCount": 3, "capacity": {"cpu": "12", "memory": "48Gi", "pods": "330"}},
        differs=True,
    ),
    Cluster(
        "sentinel-gke",
        *("gke", "hosted", "1.32"),
        nodes=(Node(2, "3920m", "12885540Ki"),),
        spec={"gkeConfig": {"imported": False, "projectID": "SENTINEL-project"}},
        status={"provider": "gke", "driver": "GKE", **_version("v1.32.9-gke.1239000")},
        driver="gke",
    ),
    Cluster(
        "sentinel-aks",
        *("aks", "hosted", "1.32"),
        nodes=(Node(2, "3860m", "12600000Ki"),),
        spec={"aksConfig": {"imported": False, "resourceGroup": "SENTINEL-group"}},
        status={"provider": "aks", "driver": "AKS", **_version("v1.32.7")},
        driver="aks",
    ),
    Cluster(
        "sentinel-harvester",
        *("harvester", "imported", "1.33"),
        nodes=(Node(3, "64", "512Gi", (*_SERVERS, "worker")),),
        status={"provider": "harvester", "driver": "imported", **_version("v1.33.4+rke2r1")},
        labels={"provider.cattle.io": "harvester"},
        driver="imported",
    ),
    Cluster(
        "sentinel-unknown",
        *("other", "imported", "other"),
        nodes=(Node(1, "1", "1Gi", ()),),
        status={
            "provider": "SENTINEL-provider",
            "driver": "SENTINEL-driver",
            **_version("SENTINEL-version"),
        },
    ),
    Cluster(
        "sentinel-empty",
        *("rke2", "provisioned", "other"),
        status={"provider": "rke2", "driver": "rke2"},
        annotations=_PROVISIONED,
        driver="rke2",
        active=False,
        requested=None,
    ),
    Cluster(
        "sentinel-unreadable-nodes",
        *("rke2", "imported", "1.33"),
        nodes=(
            Node(2),
            Node(1, bad=("spec", {"etcd": "SENTINEL-true"})),
            Node(1, bad=("status", "SENTINEL-status")),
        ),
        status={"provider": "rke2", "driver": "rke2", **_version("v1.33.4+rke2r1")},
        driver="rke2",
        # Rancher could not have added up what it can't read itself.
        own={"nodeCount": 4, "capacity": {"cpu": "8", "memory": "32Gi"}},
    ),
    Cluster(
        "sentinel-unreadable",
        *("other", "other", "other"),
        nodes=(Node(2),),
        active=False,
        readable=False,
        requested=None,
    ),
)
ORPHANS = (("sentinel-gone", 2), ("sentinel-gone-too", 1))
"""Namespaces of clusters that are gone, and how many nodes are left in them."""


def cluster_manifest(cluster: Cluster) -> Object:
    """The object as Rancher stores it."""
    metadata: Object = {
        "name": cluster.name,
        "annotations": {"field.cattle.io/creatorId": "SENTINEL-creator", **cluster.annotations},
        "labels": {"team": "SENTINEL-team", **cluster.labels},
    }
    if cluster.deleting:
        metadata |= {"finalizers": ["controller.cattle.io/test"], "deletionTimestamp": GOING}
    ready: Object = {"type": "Ready", "status": "True" if cluster.active else "False"}
    if cluster.stale:
        ready |= {"status": "Unknown", "reason": "Disconnected", "message": "SENTINEL-message"}
    conditions = [
        ready,
        {"type": "Connected", "status": "False" if cluster.stale else "True"},
    ]
    status: Any = {"conditions": conditions, **_own_numbers(cluster), **cluster.status}
    if not cluster.readable:
        status = ["SENTINEL-status"]
    return {
        "apiVersion": _API,
        "kind": "Cluster",
        "metadata": metadata,
        "spec": cluster.spec,
        "status": status,
    }


def _own_numbers(cluster: Cluster) -> Object:
    counted = [each for each in cluster.nodes if each.counted]
    own: Object = {
        "nodeCount": cluster.size(),
        "capacity": {
            "cpu": f"{sum(each.count * _millis(each) for each in counted)}m",
            "memory": str(sum(each.count * _bytes(each) for each in counted)),
            "pods": str(110 * sum(each.count for each in counted)),
        },
    }
    if cluster.requested is not None:
        cpu, gib, pods = cluster.requested
        own["requested"] = {"cpu": f"{cpu}m", "memory": f"{gib}Gi", "pods": str(pods)}
    return {**own, **cluster.own}


def own_pods(cluster: Cluster) -> int | None:
    """How many pods fit in, by its own status; None where that can't be read or doesn't say."""
    pods = _own_numbers(cluster)["capacity"].get("pods")
    return int(pods) if pods is not None and cluster.readable else None


def node_manifests(namespace: str, nodes: tuple[Node, ...]) -> list[Object]:
    """The objects of its nodes."""
    made: list[Object] = []
    for node in nodes:
        for _ in range(node.count):
            made.append(_node_manifest(namespace, f"sentinel-m-{len(made)}", node))
    return made


def _node_manifest(namespace: str, name: str, node: Node) -> Object:
    taints = [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]
    manifest: Object = {
        "apiVersion": _API,
        "kind": "Node",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "controlPlane": "controlplane" in node.roles,
            "etcd": "etcd" in node.roles,
            "worker": "worker" in node.roles,
            "internalNodeSpec": {
                "podCIDR": "SENTINEL-10.42.0.0/24",
                **({} if node.counted else {"taints": taints}),
            },
        },
        "status": {
            "nodeName": f"SENTINEL-{name}",
            "internalNodeStatus": {
                "capacity": {
                    "cpu": node.cpu,
                    "memory": node.memory,
                    "pods": "110",
                    **dict(node.gpus),
                },
                "nodeInfo": {
                    "architecture": node.arch,
                    "operatingSystem": "linux",
                    "containerRuntimeVersion": "containerd://2.0.5",
                    "kernelVersion": "6.4.0-150600.23-default",
                },
            },
        },
    }
    if node.bad is not None:
        manifest[node.bad[0]] = node.bad[1]
    return manifest


def _millis(node: Node) -> int:
    text = node.cpu
    return int(text[:-1]) if text.endswith("m") else int(text) * 1000


def _bytes(node: Node) -> int:
    unit = {"Ki": 2**10, "Gi": GIB}[node.memory[-2:]]
    exact = Fraction(node.memory[:-2]) * unit
    assert exact.denominator == 1
    return int(exact)


def recount(part: Callable[[Cluster], bool] = lambda _: True) -> Counter[str]:
    """Sums over the clusters of this part of the fleet."""
    found: Counter[str] = Counter()
    for cluster in filter(part, CLUSTERS):
        found["clusters"] += 1
        found["differing"] += cluster.differs
        for node in cluster.nodes:
            found["nodes"] += node.count
            if node.bad is not None:
                found.update(dict.fromkeys(("unreadable", "role other"), node.count))
                continue
            found["cpu_millis"] += node.count * _millis(node)
            found["memory_bytes"] += node.count * _bytes(node)
            for role in node.roles or ("other",):
                found[f"role {role}"] += node.count
            for resource, number in node.gpus:
                found[f"gpus {_VENDORS.get(resource, 'other')}"] += node.count * int(number)
    return found


_VENDORS = {"nvidia.com/gpu": "nvidia", "amd.com/gpu": "amd", "gpu.intel.com/i915": "intel"}


def by(key: Callable[[Cluster], str]) -> dict[str, Counter[str]]:
    """The sums by a part of what clusters are."""
    return {
        value: recount(lambda cluster, value=value: key(cluster) == value)  # type: ignore[misc]
        for value in sorted({key(each) for each in CLUSTERS})
    }
