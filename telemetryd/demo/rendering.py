"""Objects as Rancher keeps them, in shape and size: a few facts in, a whole object out.

Pure functions: the same facts give the same object. What there is to render is ``fleet``'s.
Shapes follow ``management.cattle.io/v3`` of Rancher 2.15; nodes come to 5 to 8 KB, as real ones do.
"""

from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from telemetryd.demo.catalogue import IMAGES, PRIVATE_MARK, FeatureRow, Shape
from telemetryd.demo.objects import JsonObject, fields_of, render_owner, timestamp
from telemetryd.quantity import NANO, parse_capacity

LOCAL = "local"
SYSTEM_PROJECT_LABEL = "authz.management.cattle.io/system-project"
PROJECT_LABEL = "field.cattle.io/projectId"


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """A cluster; its name is the namespace of its nodes, ``local`` the one that hosts Rancher."""

    name: str
    uid: str
    number: int
    kubernetes_version: str
    created: datetime


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """A node."""

    name: str
    cluster: str
    uid: str
    number: int
    shape: Shape
    etcd: bool
    control_plane: bool
    worker: bool
    kubernetes_version: str
    created: datetime
    heartbeat: datetime
    cordoned: bool = False


def render_cluster(facts: ClusterFacts, nodes: list[NodeFacts]) -> JsonObject:
    """A management cluster; its capacity is the sum that Rancher's status shows."""
    local = facts.name == LOCAL
    provider = "k3s" if "k3s" in facts.kubernetes_version else "rke2"
    created = timestamp(facts.created)
    spec = {
        "agentImageOverride": "",
        "displayName": LOCAL if local else f"{PRIVATE_MARK}-{facts.number:04d}",
        "description": f"{PRIVATE_MARK} workloads",
        "enableNetworkPolicy": False,
        "fleetWorkspaceName": "fleet-local" if local else "fleet-default",
        "internal": local,
        "windowsPreferedCluster": False,
    }
    status = {
        "agentImage": "rancher/rancher-agent:v2.15.0",
        "apiEndpoint": f"https://10.43.{facts.number % 256}.1:6443",
        "caCert": sha256(facts.uid.encode()).hexdigest() * 8,
        "capacity": _cluster_capacity(nodes),
        "conditions": [
            {"type": kind, "status": "True", "lastUpdateTime": created}
            for kind in ("Ready", "Connected", "GlobalAdminsSynced", "SystemProjectCreated")
        ],
        "driver": provider,
        "nodeCount": len(nodes),
        "provider": provider,
        "requested": {
            "cpu": f"{1350 * len(nodes)}m",
            "memory": f"{1738 * len(nodes)}Mi",
            "pods": str(21 * len(nodes)),
        },
        "version": {
            "gitVersion": facts.kubernetes_version,
            "major": "1",
            "minor": facts.kubernetes_version.split(".")[1],
            "platform": "linux/amd64",
        },
    }
    return _object(
        "Cluster", facts.name, facts.uid, facts.created, {"spec": spec, "status": status}
    )


def _cluster_capacity(nodes: list[NodeFacts]) -> JsonObject:
    """The sum over its nodes, without those that are cordoned."""
    shapes = [node.shape for node in nodes if not node.cordoned]
    return {
        "cpu": f"{sum(parse_capacity(shape.cpu) for shape in shapes) // 10**6}m",
        "memory": str(sum(parse_capacity(shape.memory) for shape in shapes) // NANO),
        "pods": str(110 * len(shapes)),
    }


def render_node(facts: NodeFacts) -> JsonObject:
    """A management node: what Rancher copies from the downstream cluster, and its own view."""
    hostname = f"{facts.cluster}-{facts.number:04d}.{PRIVATE_MARK}.example"
    labels = _node_labels(facts, hostname)
    address = f"10.{facts.number // 65536 % 256}.{facts.number // 256 % 256}.{facts.number % 256}"
    spec = {
        "controlPlane": facts.control_plane,
        "etcd": facts.etcd,
        "worker": facts.worker,
        "displayName": hostname,
        "imported": True,
        "internalNodeSpec": {
            "podCIDR": f"10.42.{facts.number % 256}.0/24",
            "podCIDRs": [f"10.42.{facts.number % 256}.0/24"],
            "providerID": f"rke2://{hostname}",
            **({"unschedulable": True} if facts.cordoned else {}),
        },
        "requestedHostname": hostname,
    }
    status = {
        "conditions": [
            {"type": kind, "status": "True", "lastUpdateTime": timestamp(facts.created)}
            for kind in ("Initialized", "Registered", "Provisioned", "Saved", "Updated")
        ],
        "internalNodeStatus": _node_status(facts, address, hostname),
        "nodeAnnotations": _node_annotations(address, hostname),
        "nodeLabels": labels,
        "nodeName": hostname,
        "requested": {"cpu": "1350m", "memory": "1738Mi", "pods": "21"},
    }
    node = _object("Node", facts.name, facts.uid, facts.created, {"spec": spec, "status": status})
    metadata = node["metadata"]
    metadata["namespace"] = facts.cluster
    metadata["generateName"] = "machine-"
    metadata["labels"] = {
        "cattle.io/creator": "norman",
        "management.cattle.io/nodename": hostname,
        **{key: value for key, value in labels.items() if "kubernetes.io" in key},
    }
    metadata["annotations"] = {
        "field.cattle.io/publicEndpoints": "[]",
        "management.cattle.io/pod-limits": '{"cpu":"2100m","memory":"2488Mi"}',
        "management.cattle.io/pod-requests": '{"cpu":"1350m","memory":"1738Mi","pods":"21"}',
    }
    owned = fields_of({key: node[key] for key in ("metadata", "spec")})
    owner = render_owner(node["apiVersion"], "rancher", "Update", owned, facts.created)
    metadata["managedFields"] = [owner]
    return node


def render_setting(name: str, uid: str, created: datetime, value: str) -> JsonObject:
    """A setting; values from the environment are copied into ``value`` with that source."""
    source = "env" if name.startswith("server-version") else "db"
    fields = {
        "value": value,
        "default": "dev" if name == "server-version" else "",
        "customized": source == "db" and bool(value),
        "source": source if value else "default",
    }
    return _object("Setting", name, uid, created, fields)


def render_feature(
    row: FeatureRow, uid: str, created: datetime, *, value: bool | None
) -> JsonObject:
    """A feature flag; a value of None follows the default."""
    status = {
        "default": row.default,
        "description": f"The {row.name} feature",
        "dynamic": row.dynamic,
        "lockedValue": None,
        "prime": row.prime,
    }
    return _object("Feature", row.name, uid, created, {"spec": {"value": value}, "status": status})


def render_project(name: str, uid: str, created: datetime, display_name: str) -> JsonObject:
    """A project of the local cluster; the one called System carries the label that marks it."""
    spec = {"clusterName": LOCAL, "displayName": display_name, "description": PRIVATE_MARK}
    project = _object("Project", name, uid, created, {"spec": spec})
    project["metadata"]["namespace"] = LOCAL
    if display_name == "System":
        project["metadata"]["labels"] = {SYSTEM_PROJECT_LABEL: "true"}
    return project


def render_namespace(name: str, uid: str, created: datetime, *, project: str = "") -> JsonObject:
    """A namespace, in a project where one is named."""
    metadata: JsonObject = {
        "name": name,
        "uid": uid,
        "creationTimestamp": timestamp(created),
        "labels": {"kubernetes.io/metadata.name": name},
    }
    if project:
        metadata["labels"][PROJECT_LABEL] = project
        metadata["annotations"] = {PROJECT_LABEL: f"{LOCAL}:{project}"}
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": metadata,
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    }


def render_secret_request(uid: str, created: datetime) -> JsonObject:
    """The request as scc-operator makes it."""
    return {
        "apiVersion": "telemetry.cattle.io/v1",
        "kind": "SecretRequest",
        "metadata": {
            "name": "rancher-scc-metrics",
            "uid": uid,
            "creationTimestamp": timestamp(created),
            "generation": 1,
            "labels": {"app.kubernetes.io/managed-by": "rancher-scc-operator"},
            "finalizers": ["scc.cattle.io/scc-metrics-request"],
        },
        "spec": {
            "secretType": "scc",
            "targetSecretRef": {"name": "rancher-scc-metrics", "namespace": "cattle-scc-system"},
        },
    }


def _object(kind: str, name: str, uid: str, created: datetime, fields: JsonObject) -> JsonObject:
    metadata = {"name": name, "uid": uid, "creationTimestamp": timestamp(created), "generation": 1}
    return {
        "apiVersion": "management.cattle.io/v3",
        "kind": kind,
        "metadata": metadata,
        **fields,
    }


def _node_labels(facts: NodeFacts, hostname: str) -> dict[str, str]:
    shape = facts.shape
    labels = {
        "beta.kubernetes.io/arch": shape.architecture,
        "beta.kubernetes.io/os": shape.operating_system,
        "kubernetes.io/arch": shape.architecture,
        "kubernetes.io/hostname": hostname,
        "kubernetes.io/os": shape.operating_system,
        "node.kubernetes.io/instance-type": "rke2",
        "plan.upgrade.cattle.io/system-agent-upgrader": facts.uid.replace("-", ""),
        "rke.cattle.io/machine": facts.uid,
        f"{PRIVATE_MARK}.example/rack": f"r{facts.number % 40:02d}",
    }
    roles = {
        "control-plane": facts.control_plane,
        "etcd": facts.etcd,
        "worker": facts.worker,
    }
    return labels | {
        f"node-role.kubernetes.io/{role}": "true" for role, held in roles.items() if held
    }


def _node_annotations(address: str, hostname: str) -> dict[str, str]:
    return {
        "csi.volume.kubernetes.io/nodeid": f'{{"driver.longhorn.io":"{hostname}"}}',
        "etcd.rke2.cattle.io/node-address": address,
        "node.alpha.kubernetes.io/ttl": "0",
        "projectcalico.org/IPv4Address": f"{address}/16",
        "rke2.io/hostname": hostname,
        "rke2.io/internal-ip": address,
        "rke2.io/node-args": f'["agent","--node-name","{hostname}","--token","{PRIVATE_MARK}"]',
        "volumes.kubernetes.io/controller-managed-attach-detach": "true",
    }


def _node_status(facts: NodeFacts, address: str, hostname: str) -> JsonObject:
    shape = facts.shape
    capacity = {
        "cpu": shape.cpu,
        "ephemeral-storage": "103080888Ki",
        "hugepages-2Mi": "0",
        "memory": shape.memory,
        "pods": "110",
    }
    conditions = (
        ("NetworkUnavailable", "False", "FlannelIsUp"),
        ("MemoryPressure", "False", "KubeletHasSufficientMemory"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID"),
        ("Ready", "True", "KubeletReady"),
    )
    return {
        "addresses": [
            {"address": address, "type": "InternalIP"},
            {"address": hostname, "type": "Hostname"},
        ],
        "allocatable": capacity | {"ephemeral-storage": "100277089Ki"},
        "capacity": capacity,
        "conditions": [
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": f"kubelet on {hostname}: {reason}",
                "lastHeartbeatTime": timestamp(facts.heartbeat),
                "lastTransitionTime": timestamp(facts.created),
            }
            for kind, status, reason in conditions
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        "images": _images(facts.number),
        "nodeInfo": {
            "architecture": shape.architecture,
            "bootID": facts.uid,
            "containerRuntimeVersion": shape.runtime,
            "kernelVersion": shape.kernel,
            "kubeProxyVersion": facts.kubernetes_version,
            "kubeletVersion": facts.kubernetes_version,
            "machineID": facts.uid.replace("-", ""),
            "operatingSystem": shape.operating_system,
            "osImage": shape.os_image,
            "systemUUID": facts.uid,
        },
    }


def _images(number: int) -> list[JsonObject]:
    """Seven to eleven images, each by digest and by tag, one of them private."""
    count = 6 + number % 5
    chosen = [IMAGES[(number + index) % len(IMAGES)] for index in range(count)]
    private = f"registry.{PRIVATE_MARK}.example/shop/backend:{number % 90}"
    return [
        {
            "names": [f"{name.rpartition(':')[0]}@sha256:{_digest(name)}", name],
            "sizeBytes": 10_000_000 + int(_digest(name)[:6], 16),
        }
        for name in (private, *chosen)
    ]


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()
