"""Builders of objects as Rancher and Kubernetes store them, in their real shape and size.

Every field that must never leave holds `SENTINEL-<field>`, so that one search through whatever
left finds a leak of any of them. Names and namespaces are the caller's and must not leave either:
give them a prefix of your own to search for, such as `sentinel-`.
"""

from collections.abc import Collection, Mapping
from typing import Literal
from uuid import NAMESPACE_URL, uuid5

from tests.apiserver.admin import Object, Objects

SENTINEL = "SENTINEL"

_MANAGEMENT = "management.cattle.io/v3"
_TIME = "2026-07-01T08:30:00Z"
_IMAGES = 10

Role = Literal["controlplane", "etcd", "worker"]


def rancher_node(
    cluster: str,
    name: str,
    *,
    cpu: str | None = "4",
    memory: str | None = "16384256Ki",
    arch: str = "amd64",
    roles: tuple[Role, ...] = ("worker",),
    operating_system: str = "linux",
    runtime: str = "containerd://2.0.5",
    kernel: str = "6.4.0-150600.23-default",
    sentinel: str = SENTINEL,
) -> Object:
    """Returns a node of `management.cattle.io/v3`, about 7 KB as JSON.

    Args:
        cluster: The cluster's name, which is the node's namespace.
        name: The object's name, such as `machine-4xk2p`.
        cpu: The capacity as reported; None leaves it out.
        memory: The capacity as reported; None leaves it out.
        arch: The architecture by its Go name.
        roles: Any of the three; none of them is a node of no role.
        operating_system: As in nodeInfo.
        runtime: The container runtime and its version.
        kernel: The kernel version.
        sentinel: The start of every string that must never leave.
    """
    labels = _node_labels(arch, operating_system, sentinel)
    annotations = _node_annotations(sentinel)
    return {
        "apiVersion": _MANAGEMENT,
        "kind": "Node",
        "metadata": {
            "name": name,
            "namespace": cluster,
            "labels": {
                "cattle.io/creator": "norman",
                "management.cattle.io/nodename": f"{sentinel}-label-nodename",
            },
            "annotations": {
                "lifecycle.cattle.io/create.node-controller": f"{sentinel}-annotation",
                "field.cattle.io/description": f"{sentinel}-annotation-description",
            },
            "finalizers": [],
            "managedFields": [_managed_fields(labels)],
        },
        "spec": {
            "controlPlane": "controlplane" in roles,
            "etcd": "etcd" in roles,
            "worker": "worker" in roles,
            "displayName": f"{sentinel}-display-name",
            "description": f"{sentinel}-description",
            "requestedHostname": f"{sentinel}-requested-hostname",
            "imported": True,
            "customConfig": {
                "address": f"{sentinel}-custom-address-192.0.2.17",
                "internalAddress": f"{sentinel}-custom-internal-address-10.42.0.17",
                "dockerSocket": f"{sentinel}-custom-socket",
                "sshKey": f"{sentinel}-custom-ssh-key",
                "user": f"{sentinel}-custom-user",
                "label": {f"{sentinel}-custom-label": f"{sentinel}-custom-label-value"},
                "taints": [f"{sentinel}-custom-taint=true:NoSchedule"],
            },
            "internalNodeSpec": {
                "podCIDR": f"{sentinel}-pod-cidr-10.42.3.0/24",
                "podCIDRs": [f"{sentinel}-pod-cidr-10.42.3.0/24"],
                "providerID": f"{sentinel}-provider-id://eu-central-1a/i-0abc",
                "taints": [{"key": f"{sentinel}-taint", "value": "true", "effect": "NoSchedule"}],
            },
            "metadataUpdate": {"annotations": {}, "labels": {}},
        },
        "status": {
            "nodeName": f"{sentinel}-node-name",
            "nodeLabels": labels,
            "nodeAnnotations": annotations,
            "nodeConfig": {"sshUser": f"{sentinel}-ssh-user", "address": f"{sentinel}-ssh-address"},
            "rkeNode": {"hostnameOverride": f"{sentinel}-rke-hostname"},
            "limits": {"cpu": "1250m", "memory": "1864Mi"},
            "requested": {"cpu": "1770m", "memory": "904Mi", "pods": "21"},
            "conditions": _conditions(("Initialized", "Provisioned", "Updated", "Registered")),
            "internalNodeStatus": _node_status(
                capacity=_capacity(cpu, memory),
                arch=arch,
                operating_system=operating_system,
                runtime=runtime,
                kernel=kernel,
                sentinel=sentinel,
            ),
        },
    }


def core_node(
    name: str,
    *,
    cpu: str | None = "4",
    memory: str | None = "16384256Ki",
    arch: str = "amd64",
    roles: tuple[Role, ...] = ("worker",),
    operating_system: str = "linux",
    runtime: str = "containerd://2.0.5",
    kernel: str = "6.4.0-150600.23-default",
    sentinel: str = SENTINEL,
) -> Object:
    """Returns a node of plain Kubernetes, about 5 KB as JSON; arguments as of `rancher_node`.

    Roles are the labels that RKE2 and kubeadm set (`node-role.kubernetes.io/control-plane`).
    """
    role_labels: Mapping[Role, str] = {
        "controlplane": "control-plane",
        "etcd": "etcd",
        "worker": "worker",
    }
    labels = _node_labels(arch, operating_system, sentinel)
    labels |= {f"node-role.kubernetes.io/{role_labels[role]}": "true" for role in roles}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels, "annotations": _node_annotations(sentinel)},
        "spec": {"providerID": f"{sentinel}-provider-id://eu-central-1a/i-0abc"},
        "status": _node_status(
            capacity=_capacity(cpu, memory),
            arch=arch,
            operating_system=operating_system,
            runtime=runtime,
            kernel=kernel,
            sentinel=sentinel,
        ),
    }


def rancher_cluster(
    name: str,
    *,
    node_count: int | None = 3,
    kubernetes_version: str = "v1.33.4+rke2r1",
    sentinel: str = SENTINEL,
) -> Object:
    """Returns a cluster of `management.cattle.io/v3`; `local` is the one Rancher runs in.

    Args:
        name: The object's name.
        node_count: As Rancher counts its nodes; None where it has not counted them yet.
        kubernetes_version: The version of its API server.
        sentinel: The start of every string that must never leave.
    """
    counted = (
        {}
        if node_count is None
        else {
            "nodeCount": node_count,
            "linuxWorkerCount": node_count,
            "capacity": {
                "cpu": str(4 * node_count),
                "memory": f"{16384256 * node_count}Ki",
                "pods": str(110 * node_count),
            },
            "allocatable": {"cpu": str(4 * node_count), "pods": str(110 * node_count)},
        }
    )
    return {
        "apiVersion": _MANAGEMENT,
        "kind": "Cluster",
        "metadata": {
            "name": name,
            "labels": {"example.com/team": f"{sentinel}-label-team"},
            "annotations": {"field.cattle.io/creatorId": f"{sentinel}-annotation-creator"},
        },
        "spec": {
            "displayName": f"{sentinel}-display-name",
            "description": f"{sentinel}-description",
            "internal": name == "local",
            "fleetWorkspaceName": f"{sentinel}-fleet-workspace",
            "localClusterAuthEndpoint": {"enabled": False, "fqdn": f"{sentinel}-fqdn"},
            "agentEnvVars": [{"name": f"{sentinel}-env", "value": f"{sentinel}-env-value"}],
        },
        "status": {
            "driver": "rke2",
            "provider": "rke2",
            **counted,
            "requested": {"cpu": "4150m", "memory": "2692Mi", "pods": "39"},
            "version": {
                "gitVersion": kubernetes_version,
                "gitCommit": "a3e5a7cc2b0d5f8e9c1d",
                "platform": "linux/amd64",
                "goVersion": "go1.24.6",
            },
            "apiEndpoint": f"https://{sentinel}-api-endpoint.example.com:6443",
            "caCert": f"{sentinel}-ca-cert",
            "serviceAccountTokenSecret": f"{sentinel}-service-account-token",
            "conditions": _conditions(("Ready", "Connected", "SystemProjectCreated", "Updated")),
        },
    }


def setting(name: str, value: str, *, default: str = "", source: str = "db") -> Object:
    """Returns a Rancher setting; an empty value means that the default counts."""
    return {
        "apiVersion": _MANAGEMENT,
        "kind": "Setting",
        "metadata": {"name": name},
        "value": value,
        "default": default,
        "customized": bool(value) and source == "db",
        "source": source,
    }


def feature(
    name: str,
    *,
    value: bool | None = None,
    default: bool = True,
    locked: bool | None = None,
    prime: bool = False,
    sentinel: str = SENTINEL,
) -> Object:
    """Returns a Rancher feature flag; None is null, as Rancher writes it."""
    return {
        "apiVersion": _MANAGEMENT,
        "kind": "Feature",
        "metadata": {"name": name},
        "spec": {"value": value},
        "status": {
            "default": default,
            "dynamic": False,
            "description": f"{sentinel}-description",
            "lockedValue": locked,
            "prime": prime,
        },
    }


def project(
    name: str, *, cluster: str = "local", system: bool = True, sentinel: str = SENTINEL
) -> Object:
    """Returns a Rancher project in its cluster's namespace; the System project by default."""
    labels = {"authz.management.cattle.io/system-project": "true"} if system else {}
    return {
        "apiVersion": _MANAGEMENT,
        "kind": "Project",
        "metadata": {"name": name, "namespace": cluster, "labels": labels},
        "spec": {
            "displayName": "System" if system else f"{sentinel}-display-name",
            "description": f"{sentinel}-description",
            "clusterName": cluster,
        },
    }


def namespace(name: str, *, project_id: str | None = None, sentinel: str = SENTINEL) -> Object:
    """Returns a namespace, of the project (`p-xxxxx`) where one is given."""
    labels = {"example.com/team": f"{sentinel}-label-team"}
    if project_id is not None:
        labels["field.cattle.io/projectId"] = project_id
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": name,
            "labels": labels,
            "annotations": {"field.cattle.io/description": f"{sentinel}-annotation"},
        },
    }


def _capacity(cpu: str | None, memory: str | None) -> dict[str, str]:
    reported = {"cpu": cpu, "memory": memory, "ephemeral-storage": "101430960Ki", "pods": "110"}
    return {key: value for key, value in reported.items() if value is not None}


def _node_labels(arch: str, operating_system: str, sentinel: str) -> dict[str, str]:
    return {
        "beta.kubernetes.io/arch": arch,
        "beta.kubernetes.io/os": operating_system,
        "kubernetes.io/arch": arch,
        "kubernetes.io/os": operating_system,
        "kubernetes.io/hostname": f"{sentinel}-label-hostname",
        "node.kubernetes.io/instance-type": f"{sentinel}-label-instance-type",
        "topology.kubernetes.io/region": f"{sentinel}-label-region",
        "topology.kubernetes.io/zone": f"{sentinel}-label-zone",
        "plan.upgrade.cattle.io/system-agent-upgrader": "4f3a9c21b7",
        "example.com/cost-centre": f"{sentinel}-label-cost-centre",
    }


def _node_annotations(sentinel: str) -> dict[str, str]:
    return {
        "alpha.kubernetes.io/provided-node-ip": f"{sentinel}-annotation-10.1.2.3",
        "csi.volume.kubernetes.io/nodeid": f'{{"csi.example.com":"{sentinel}-annotation-csi"}}',
        "flannel.alpha.coreos.com/public-ip": f"{sentinel}-annotation-192.0.2.17",
        "rke2.io/node-args": f'["agent","--node-name","{sentinel}-annotation-args"]',
        "rke2.io/node-env": f'{{"RKE2_URL":"https://{sentinel}-annotation-env:9345"}}',
        "volumes.kubernetes.io/controller-managed-attach-detach": "true",
    }


def _conditions(types: Collection[str], message: str = "") -> Objects:
    return [
        {
            "type": kind,
            "status": "True",
            "lastHeartbeatTime": _TIME,
            "lastTransitionTime": _TIME,
            "reason": f"{kind}Reason",
            "message": message,
        }
        for kind in types
    ]


def _node_status(
    *,
    capacity: dict[str, str],
    arch: str,
    operating_system: str,
    runtime: str,
    kernel: str,
    sentinel: str,
) -> Object:
    """Returns the status as the kubelet reports it."""
    pressures = ("MemoryPressure", "DiskPressure", "PIDPressure", "Ready")
    return {
        "addresses": [
            {"type": "InternalIP", "address": f"{sentinel}-address-10.1.2.3"},
            {"type": "ExternalIP", "address": f"{sentinel}-address-192.0.2.17"},
            {"type": "Hostname", "address": f"{sentinel}-address-hostname"},
        ],
        "allocatable": capacity,
        "capacity": capacity,
        "conditions": _conditions(pressures, f"{sentinel}-condition-message"),
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        "images": [_image(number, sentinel) for number in range(_IMAGES)],
        "nodeInfo": {
            "architecture": arch,
            "bootID": f"{sentinel}-boot-id",
            "containerRuntimeVersion": runtime,
            "kernelVersion": kernel,
            "kubeProxyVersion": "v1.33.4+rke2r1",
            "kubeletVersion": "v1.33.4+rke2r1",
            "machineID": f"{sentinel}-machine-id",
            "operatingSystem": operating_system,
            "osImage": f"{sentinel}-os-image SUSE Linux Enterprise Server 15 SP6",
            "systemUUID": f"{sentinel}-system-uuid",
        },
        "volumesAttached": [{"name": f"{sentinel}-volume", "devicePath": "/dev/xvdf"}],
        "volumesInUse": [f"{sentinel}-volume"],
    }


def _image(number: int, sentinel: str) -> Object:
    repository = f"registry.example.com/{sentinel}-image/app-{number}"
    digest = uuid5(NAMESPACE_URL, repository).hex * 2
    return {
        "names": [f"{repository}@sha256:{digest}", f"{repository}:v1.{number}.0"],
        "sizeBytes": 24_117_248 + 1_048_576 * number,
    }


def _managed_fields(labels: Collection[str]) -> Object:
    """Returns an entry as the API server keeps it: keys of owned fields, no values."""
    return {
        "apiVersion": _MANAGEMENT,
        "fieldsType": "FieldsV1",
        "fieldsV1": {
            "f:metadata": {"f:labels": {".": {}, "f:cattle.io/creator": {}}},
            "f:status": {"f:nodeLabels": {f"f:{label}": {} for label in labels}},
        },
        "manager": "rancher",
        "operation": "Update",
        "time": _TIME,
    }
