"""Rows of the fleet document: clusters, and nodes that are alike.

``fleet_document`` says what the whole document holds.
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from telemetryd.export.payloads.payload import (
    CLUSTER_UUID,
    GIT_HASH,
    INSTALL_UUID,
    PRODUCT,
    SERVER_URL,
    VERSION,
    capacity,
    is_uuid,
    node_info,
    sent,
)

MAX_AMOUNT: Final = 2**63 - 1
"""A larger sum is sent as this number: a larger integer is more than most JSON parsers take."""

_ID_PATTERN: Final = "^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"

Count = Annotated[int, Meta(ge=0)]
Amount = Annotated[int, Meta(ge=0, le=MAX_AMOUNT)]
Label = Annotated[str, Meta(max_length=256)]
UuidText = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]


class Installation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``installation``: who sends."""

    install_uuid: Annotated[UuidText, INSTALL_UUID]
    cluster_uuid: Annotated[UuidText, CLUSTER_UUID]
    product: Annotated[str, PRODUCT]
    version: Annotated[str, VERSION]
    git_hash: Annotated[str, GIT_HASH]
    server_url: Annotated[str, SERVER_URL]

    def __post_init__(self) -> None:
        for key in ("install_uuid", "cluster_uuid"):
            if not is_uuid(getattr(self, key)):
                raise ValueError(f"{key} isn't a UUID")


def _role(role: str, spec: str, label: str) -> Meta:
    return sent(
        f"Nodes with the role {role}", f"nodes' spec.{spec}", f"nodes' label of the role {label}"
    )


class RoleNumbers(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``roles``: nodes per role."""

    controlplane: Annotated[Count, _role("controlplane", "controlPlane", "control-plane")]
    etcd: Annotated[Count, _role("etcd", "etcd", "etcd")]
    worker: Annotated[Count, _role("worker", "worker", "worker")]
    other: Annotated[Count, sent("Nodes with none of these roles", "counted")]


class ClusterCore(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A cluster, in every version of the document."""

    id: (
        Annotated[
            str,
            Meta(
                pattern=_ID_PATTERN,
                description="Pseudonymous: who knows the cluster's UID can compute it",
            ),
            sent(
                "Pseudonymous id of a cluster: who knows the cluster's UID can compute it",
                "HMAC of the cluster's metadata.uid, keyed with the install UUID",
                "HMAC of the UID of the namespace kube-system, keyed with the install UUID; both "
                "are in the payload, which resolves it",
                privacy="cluster_ids",
                keeps_key=False,
            ),
        ]
        | UnsetType
    ) = UNSET
    upstream: Annotated[
        bool,
        sent(
            "It is the upstream cluster",
            "the cluster local, which hosts Rancher",
            "always true: there is one cluster",
        ),
    ]
    kubernetes_version: Annotated[
        Label,
        sent(
            "Its Kubernetes version",
            "clusters' status.version.gitVersion",
            "API server's /version",
        ),
    ]
    nodes: Annotated[Count, sent("Its nodes, those that can't be read included", "counted")]
    roles: RoleNumbers
    cpu_millis: Annotated[Amount, sent("CPU of its nodes, in 1/1000 cores", *capacity("cpu"))]
    memory_bytes: Annotated[Amount, sent("Memory of its nodes, in bytes", *capacity("memory"))]
    unreported_cpu: Annotated[Count, sent("Its nodes that report no CPU", "counted")]
    unreported_memory: Annotated[Count, sent("Its nodes that report no memory", "counted")]


class GpuNumbers(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``gpus``: GPUs by vendor."""

    nvidia: Annotated[Count, sent("GPUs of NVIDIA", *capacity("nvidia.com/gpu"))]
    amd: Annotated[Count, sent("GPUs of AMD", *capacity("amd.com/gpu"))]
    intel: Annotated[
        Count, sent("GPUs of Intel", *capacity("gpu.intel.com/i915 and gpu.intel.com/xe"))
    ]
    other: Annotated[Count, sent("GPUs of other vendors", *capacity("*/gpu"))]


def own_number(what: str, key: str, kubernetes: str = "") -> Meta:
    """A number that the Cluster object itself holds."""
    return sent(what, f"clusters' status.{key}", kubernetes)


class OwnNumbers(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``reported``: what the cluster's own status says; null where it says nothing."""

    nodes: Annotated[Count | None, own_number("Its nodes, by its own status", "nodeCount")]
    cpu_millis: Annotated[
        Amount | None, own_number("Its CPU, by its own status, in 1/1000 cores", "capacity.cpu")
    ]
    memory_bytes: Annotated[
        Amount | None, own_number("Its memory, by its own status, in bytes", "capacity.memory")
    ]
    pods: Annotated[
        Amount | None, own_number("How many pods fit in it, by its own status", "capacity.pods")
    ]


class Requested(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``requested``: what pods request, by the cluster's own status; null where it says nothing."""

    cpu_millis: Annotated[
        Amount | None, own_number("CPU that its pods request, in 1/1000 cores", "requested.cpu")
    ]
    memory_bytes: Annotated[
        Amount | None, own_number("Memory that its pods request, in bytes", "requested.memory")
    ]
    pods: Annotated[Amount | None, own_number("Its pods", "requested.pods")]


READY: Final = "clusters' condition Ready"
CONNECTED: Final = "clusters' conditions Connected and Ready"

PROVIDER: Final = sent(
    "Distribution of Kubernetes, of a closed list",
    "clusters' status.provider, label provider.cattle.io, status.driver or status.version",
    "API server's /version",
)
DRIVER: Final = sent(
    "Name of its driver, of a closed list", "clusters' status.driver", "always local"
)
MANAGEMENT: Final = sent(
    "Whether it is local, or was provisioned, hosted or imported",
    "clusters' annotation provisioning.cattle.io/administrated, "
    "spec.aksConfig, aliConfig, eksConfig, gkeConfig, genericEngineConfig, and status.driver",
    "always local",
)

Management = Literal["local", "provisioned", "hosted", "imported", "other"]


class Cluster(ClusterCore, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``clusters[]``: one cluster."""

    provider: Annotated[Label, PROVIDER]
    driver: Annotated[Label, DRIVER]
    management: Annotated[Management, MANAGEMENT]
    active: Annotated[bool, sent("It is ready", READY, "always true")]
    deleting: Annotated[
        bool, sent("It is being deleted", "clusters' metadata.deletionTimestamp", "always false")
    ]
    stale: Annotated[
        bool,
        sent(
            "It can't be reached, so that its nodes are those seen last",
            CONNECTED,
            "always false",
        ),
    ]
    unreadable_nodes: Annotated[Count, sent("Its nodes that can't be read", "counted")]
    gpus: GpuNumbers
    reported: OwnNumbers
    requested: Requested
    differs: Annotated[
        bool,
        sent(
            "Its own status says something else than its nodes add up to",
            "computed",
            "always false",
        ),
    ]


class ShapeCore(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Nodes that are alike, in every version of the document."""

    roles: Annotated[
        list[Literal["controlplane", "etcd", "worker"]],
        sent(
            "Roles of nodes that are alike in all of this",
            "nodes' spec.controlPlane, spec.etcd and spec.worker",
            "nodes' labels of roles",
        ),
    ]
    architecture: Annotated[Label, sent("Their architecture", *node_info("architecture"))]
    operating_system: Annotated[
        Label, sent("Their operating system", *node_info("operatingSystem"))
    ]
    container_runtime: Annotated[
        Label, sent("Their container runtime", *node_info("containerRuntimeVersion"))
    ]
    kernel_version: Annotated[Label, sent("Their kernel", *node_info("kernelVersion"))]
    cpu_millis: Annotated[
        Amount | None, sent("CPU of one of them, in 1/1000 cores", *capacity("cpu"))
    ]
    memory_bytes: Annotated[
        Amount | None, sent("Memory of one of them, in bytes", *capacity("memory"))
    ]
    nodes: Annotated[int, Meta(ge=1), sent("How many of them there are", "counted")]


class NodeShapes(ShapeCore, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``node_shapes[]``: nodes alike in everything but their names."""

    gpus: GpuNumbers
    readable: Annotated[bool, sent("Whether they can be read", "computed")]
