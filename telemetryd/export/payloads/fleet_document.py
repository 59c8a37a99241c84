"""The fleet document: its structs *are* its JSON Schema, and declare what leaves in it.

``docs/fleet-payload.md`` says what each key means. A change of what is in it, or of what a key
means, is a new ``schema_version`` and a new ``$id``. How it is made of a snapshot is ``fleet``'s.
"""

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from telemetryd.errors import PermanentError, Reason
from telemetryd.export.payloads import declare
from telemetryd.export.payloads.declare import capacity, fields_of, node_info, sent
from telemetryd.export.payloads.payload import is_uuid, json_schema, parse_rfc3339

SCHEMA_VERSION: Final = 1
SCHEMA_ID: Final = f"urn:telemetryd:payload:fleet:{SCHEMA_VERSION}"

MAX_AMOUNT: Final = 2**63 - 1
"""A larger sum is sent as this number: a larger integer is more than most JSON parsers take."""

_ID_PATTERN: Final = "^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"

Count = Annotated[int, Meta(ge=0)]
Amount = Annotated[int, Meta(ge=0, le=MAX_AMOUNT)]
Label = Annotated[str, Meta(max_length=256)]
UuidText = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]


class Installation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``installation``: who sends."""

    install_uuid: Annotated[UuidText, declare.INSTALL_UUID]
    cluster_uuid: Annotated[UuidText, declare.CLUSTER_UUID]
    product: Annotated[str, declare.PRODUCT]
    version: Annotated[str, declare.VERSION]
    git_hash: Annotated[str, declare.GIT_HASH]
    server_url: Annotated[str, declare.SERVER_URL]

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


class Cluster(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``clusters[]``: one cluster."""

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
    nodes: Annotated[Count, sent("Its nodes", "counted")]
    roles: RoleNumbers
    cpu_millis: Annotated[Amount, sent("CPU of its nodes, in 1/1000 cores", *capacity("cpu"))]
    memory_bytes: Annotated[Amount, sent("Memory of its nodes, in bytes", *capacity("memory"))]
    unreported_cpu: Annotated[Count, sent("Its nodes that report no CPU", "counted")]
    unreported_memory: Annotated[Count, sent("Its nodes that report no memory", "counted")]


class NodeShapes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``node_shapes[]``: nodes alike in everything but their names."""

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


class FleetTotals(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``totals``: sums over all clusters."""

    clusters: Annotated[Count, sent("Clusters", "counted")]
    nodes: Annotated[Count, sent("Nodes of all clusters", "counted")]
    orphan_nodes: Annotated[Count, sent("Nodes whose cluster is gone", "counted")]
    roles: RoleNumbers
    cpu_millis: Annotated[Amount, sent("CPU of all nodes, in 1/1000 cores", *capacity("cpu"))]
    memory_bytes: Annotated[Amount, sent("Memory of all nodes, in bytes", *capacity("memory"))]
    unreported_cpu: Annotated[Count, sent("Nodes that report no CPU", "counted")]
    unreported_memory: Annotated[Count, sent("Nodes that report no memory", "counted")]


class UnreadableObjects(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``unreadable[]``: objects of one resource that could not be read."""

    resource: Annotated[str, sent("A resource with objects that can't be read", "its name")]
    objects: Annotated[int, Meta(ge=1), sent("How many of them can't be read", "counted")]


class DeliveryNote(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``delivery``: when and how this document was sent; no part of the digest."""

    timestamp: Annotated[
        str,
        Meta(extra_json_schema={"format": "date-time"}),
        sent("When the payload was made", "the clock"),
    ]
    sequence: Annotated[Count, sent("Rises with each payload", "counted, from the clock on")]
    epoch: Annotated[Count, sent("Term of the leader", "the Lease; 0 without leader election")]
    digest: Annotated[str, Meta(pattern="^[0-9a-f]{64}$"), sent("SHA-256 of the rest", "computed")]

    def __post_init__(self) -> None:
        if parse_rfc3339(self.timestamp) is None:
            raise ValueError("timestamp isn't an RFC 3339 date-time")


class FleetDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole document."""

    schema_version: Annotated[Literal[1], sent("Version of this document", "a constant")]
    telemetryd_version: Annotated[str, sent("Version of telemetryd", "a constant")]
    installation: Installation
    complete: Annotated[bool, sent("Whether everything could be read", "computed")]
    incomplete_reasons: Annotated[
        list[str], sent("Why not: a resource and what is wrong with it", "computed")
    ]
    feature_flags: Annotated[list[str], declare.FEATURE_FLAGS]
    clusters: list[Cluster]
    node_shapes: list[NodeShapes]
    totals: FleetTotals
    unreadable: list[UnreadableObjects]
    delivery: DeliveryNote

    def __post_init__(self) -> None:
        if self.complete == bool(self.incomplete_reasons):
            raise ValueError("complete and incomplete_reasons contradict each other")


FIELDS: Final = fields_of(FleetDocument)
"""All that leaves in this document."""

_DECODER = msgspec.json.Decoder(FleetDocument)


def fleet_schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of the fleet payload."""
    return json_schema(FleetDocument, schema_id=SCHEMA_ID, title="telemetryd fleet payload")


def validate_fleet(body: bytes) -> None:
    """Hold a document against the schema.

    Raises:
        PermanentError: It doesn't fit.
    """
    try:
        _DECODER.decode(body)
    except msgspec.MsgspecError as exc:
        raise PermanentError(
            Reason.INTERNAL, f"the fleet payload doesn't fit its schema: {exc}"
        ) from exc
