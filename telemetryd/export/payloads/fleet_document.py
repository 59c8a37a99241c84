"""The fleet document: its structs *are* its JSON Schema, and declare what leaves in it.

``docs/collected.md`` says what each key means. A change of what is in it, or of what a key
means, is a new ``schema_version`` and a new ``$id``. How it is made of a snapshot is ``fleet``'s.
"""

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from telemetryd.errors import PermanentError, Reason
from telemetryd.export.payloads.fleet_rows import (
    CONNECTED,
    DRIVER,
    MANAGEMENT,
    PROVIDER,
    READY,
    Amount,
    Cluster,
    Count,
    GpuNumbers,
    Installation,
    Label,
    Management,
    NodeShapes,
    RoleNumbers,
    own_number,
)
from telemetryd.export.payloads.payload import (
    FEATURE_FLAGS,
    capacity,
    fields_of,
    json_schema,
    parse_rfc3339,
    sent,
)

SCHEMA_VERSION: Final = 2
SCHEMA_ID: Final = f"urn:telemetryd:payload:fleet:{SCHEMA_VERSION}"


class ClusterSums(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The clusters that are alike in one thing."""

    clusters: Annotated[int, Meta(ge=1), sent("How many such clusters there are", "counted")]
    nodes: Annotated[Count, sent("Their nodes", "counted")]
    cpu_millis: Annotated[Amount, sent("CPU of their nodes, in 1/1000 cores", *capacity("cpu"))]
    memory_bytes: Annotated[Amount, sent("Memory of their nodes, in bytes", *capacity("memory"))]


class KindSums(ClusterSums, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``by_kind[]``."""

    kind: Annotated[
        Literal["local", "managed"],
        sent(
            "The upstream cluster, or all others",
            "name of the cluster",
            "always local: there is one cluster",
        ),
    ]


class ProviderSums(ClusterSums, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``by_provider[]``."""

    provider: Annotated[Label, PROVIDER]


class DriverSums(ClusterSums, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``by_driver[]``."""

    driver: Annotated[Label, DRIVER]


class ManagementSums(ClusterSums, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``by_management[]``."""

    management: Annotated[Management, MANAGEMENT]


class MinorSums(ClusterSums, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``by_kubernetes_minor[]``."""

    minor: Annotated[
        str,
        Meta(pattern=r"^(1\.[0-9]{1,2}|other)$"),
        sent(
            "Minor version of Kubernetes",
            "clusters' status.version.gitVersion",
            "API server's /version",
        ),
    ]


class Entitled(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``entitlement``: managed clusters that are not being deleted."""

    clusters: Annotated[
        Count, sent("Managed clusters that are not being deleted", "counted", "always 0")
    ]
    nodes: Annotated[Count, sent("Their nodes", "counted", "always 0")]
    cpu_millis: Annotated[
        Amount, sent("CPU of their nodes, in 1/1000 cores", capacity("cpu")[0], "always 0")
    ]


class TotalsCore(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Sums over all clusters that every version of the document has."""

    clusters: Annotated[Count, sent("Clusters", "counted")]
    nodes: Annotated[Count, sent("Nodes of all clusters", "counted")]
    orphan_nodes: Annotated[Count, sent("Nodes whose cluster is gone", "counted")]
    roles: RoleNumbers
    cpu_millis: Annotated[Amount, sent("CPU of all nodes, in 1/1000 cores", *capacity("cpu"))]
    memory_bytes: Annotated[Amount, sent("Memory of all nodes, in bytes", *capacity("memory"))]
    unreported_cpu: Annotated[Count, sent("Nodes that report no CPU", "counted")]
    unreported_memory: Annotated[Count, sent("Nodes that report no memory", "counted")]


class FleetTotals(TotalsCore, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``totals``: sums over all clusters."""

    unreadable_nodes: Annotated[Count, sent("Nodes that can't be read", "counted")]
    active_clusters: Annotated[Count, sent("Clusters that are ready", READY, "always 1")]
    deleting_clusters: Annotated[
        Count,
        sent("Clusters that are being deleted", "clusters' metadata.deletionTimestamp", "always 0"),
    ]
    stale_clusters: Annotated[Count, sent("Clusters that can't be reached", CONNECTED, "always 0")]
    stale_nodes: Annotated[Count, sent("Nodes of these clusters", CONNECTED, "always 0")]
    differing_clusters: Annotated[
        Count,
        sent(
            "Clusters whose own status says something else than their nodes add up to",
            "computed",
            "always 0",
        ),
    ]
    gpus: GpuNumbers
    reporting_clusters: Annotated[
        Count,
        own_number(
            "Clusters whose own status says how many pods fit in", "capacity.pods", "always 0"
        ),
    ]
    reported_pods: Annotated[
        Amount, own_number("How many pods fit in them", "capacity.pods", "always 0")
    ]
    requesting_clusters: Annotated[
        Count,
        own_number(
            "Clusters whose own status says what their pods request", "requested", "always 0"
        ),
    ]
    requested_cpu_millis: Annotated[
        Amount,
        own_number("CPU that their pods request, in 1/1000 cores", "requested.cpu", "always 0"),
    ]
    requested_memory_bytes: Annotated[
        Amount,
        own_number("Memory that their pods request, in bytes", "requested.memory", "always 0"),
    ]
    requested_pods: Annotated[Amount, own_number("Their pods", "requested.pods", "always 0")]


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


class DocumentCore(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The keys of every version of the document, in their order."""

    schema_version: int
    telemetryd_version: Annotated[str, sent("Version of telemetryd", "a constant")]
    installation: Installation
    complete: Annotated[
        bool, sent("Whether everything could be read, and nothing contradicts it", "computed")
    ]
    incomplete_reasons: Annotated[
        list[str], sent("Why not: a resource and what is wrong with it", "computed")
    ]
    feature_flags: Annotated[list[str], FEATURE_FLAGS]
    unreadable: list[UnreadableObjects]
    delivery: DeliveryNote

    def __post_init__(self) -> None:
        if self.complete == bool(self.incomplete_reasons):
            raise ValueError("complete and incomplete_reasons contradict each other")


class FleetDocument(DocumentCore, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole document."""

    schema_version: Annotated[Literal[2], sent("Version of this document", "a constant")]
    clusters: list[Cluster]
    node_shapes: list[NodeShapes]
    totals: FleetTotals
    by_kind: list[KindSums]
    by_provider: list[ProviderSums]
    by_driver: list[DriverSums]
    by_management: list[ManagementSums]
    by_kubernetes_minor: list[MinorSums]
    entitlement: Entitled


FIELDS: Final = fields_of(FleetDocument)
"""All that leaves in this document."""

_DECODER = msgspec.json.Decoder(FleetDocument)


def fleet_schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of the fleet payload."""
    return json_schema(FleetDocument, schema_id=SCHEMA_ID, title="telemetryd fleet payload")


def validate_fleet(body: bytes, decoder: msgspec.json.Decoder[Any] = _DECODER) -> str:
    """Check a document against the schema; returns an empty text: every deviation is an error.

    Raises:
        PermanentError: It doesn't fit.
    """
    try:
        decoder.decode(body)
    except msgspec.MsgspecError as exc:
        raise PermanentError(
            Reason.INTERNAL, f"the fleet payload doesn't fit its schema: {exc}"
        ) from exc
    return ""
