"""The fleet payload: our own document, with what the SCC payload has no room for.

What the document holds is ``fleet_document``'s; every one is held against that before it is handed
out. Sinks decide where the bytes go.
"""

from typing import Any, Final

from telemetryd import __version__
from telemetryd.errors import PermanentError, Reason
from telemetryd.export.payloads.fleet_document import MAX_AMOUNT, SCHEMA_VERSION, validate_fleet
from telemetryd.export.payloads.payload import (
    CONTENT_TYPE,
    Spliced,
    document_digest,
    render_rfc3339,
)
from telemetryd.model import (
    ClusterDetail,
    Delivery,
    FleetDetail,
    Payload,
    RoleCounts,
    ShapeDetail,
    Snapshot,
    Totals,
)

_NANO_PER_MILLI: Final = 10**6
_NANO: Final = 10**9
_GIB: Final = 2**30
_DELIVERY: Final = "delivery"


class FleetRenderer:
    """Makes fleet payloads, with a memory of the last snapshot: only ``delivery`` is made anew.

    One of these serves any number of exporters.
    """

    __slots__ = ("_digest", "_document", "_snapshot")

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._document = Spliced({}, _DELIVERY)
        self._digest = ""

    def __call__(self, snapshot: Snapshot, delivery: Delivery) -> Payload:
        """The payload of the snapshot, so delivered.

        Raises:
            PermanentError: The snapshot makes a document that doesn't fit the schema, or was made
                without the detail.
        """
        if snapshot is not self._snapshot:
            self._remember(snapshot, delivery)
        return Payload(
            body=self._body(delivery),
            content_type=CONTENT_TYPE,
            digest=self._digest,
            revision=snapshot.revision,
            schema_valid=True,
            schema_error="",
        )

    def _body(self, delivery: Delivery) -> bytes:
        return self._document.body(
            {
                "timestamp": render_rfc3339(delivery.at),
                "sequence": delivery.sequence,
                "epoch": delivery.epoch,
                "digest": self._digest,
            }
        )

    def _remember(self, snapshot: Snapshot, delivery: Delivery) -> None:
        if snapshot.detail is None:
            raise PermanentError(
                Reason.INTERNAL, "the snapshot was made without what the fleet payload needs"
            )
        self._snapshot = None
        facts = render_facts(snapshot, snapshot.detail)
        self._digest = document_digest(facts)
        self._document = Spliced(facts, _DELIVERY)
        validate_fleet(self._body(delivery))
        self._snapshot = snapshot


def render_facts(snapshot: Snapshot, detail: FleetDetail) -> dict[str, Any]:
    """The fleet document without its delivery; every array sorted, so that facts decide bytes."""
    identity = snapshot.identity
    return {
        "schema_version": SCHEMA_VERSION,
        "telemetryd_version": __version__,
        "installation": {
            "install_uuid": identity.install_uuid,
            "cluster_uuid": identity.cluster_uuid,
            "product": identity.product,
            "version": identity.version,
            "git_hash": identity.git_hash,
            "server_url": identity.server_url,
        },
        "complete": snapshot.complete,
        "incomplete_reasons": sorted(snapshot.incomplete_reasons),
        "feature_flags": sorted(set(snapshot.features)),
        "clusters": [_cluster(cluster) for cluster in sorted(detail.clusters, key=_cluster_order)],
        "node_shapes": [_shape(shape) for shape in sorted(detail.shapes, key=_shape_order)],
        "totals": _totals(snapshot.totals, coarse=detail.coarse),
        "unreadable": [
            {"resource": resource, "objects": number}
            for resource, number in sorted(snapshot.totals.unreadable.items())
        ],
    }


def _cluster_order(cluster: ClusterDetail) -> tuple[Any, ...]:
    """The upstream cluster, then by id; by all else where no ids are sent."""
    return (
        not cluster.upstream,
        cluster.id,
        cluster.nodes,
        cluster.cpu_nano,
        cluster.memory_nano,
        cluster.kubernetes_version,
        cluster.roles,
        cluster.unreported_cpu,
        cluster.unreported_memory,
    )


def _shape_order(counted: ShapeDetail) -> tuple[Any, ...]:
    shape = counted.shape
    return (
        shape.architecture,
        shape.operating_system,
        shape.container_runtime,
        shape.kernel_version,
        shape.roles,
        -1 if shape.cpu_nano is None else shape.cpu_nano,
        -1 if shape.memory_nano is None else shape.memory_nano,
    )


def _cluster(cluster: ClusterDetail) -> dict[str, Any]:
    row = {
        "upstream": cluster.upstream,
        "kubernetes_version": cluster.kubernetes_version,
        "nodes": cluster.nodes,
        "roles": dict(zip(RoleCounts._fields, cluster.roles, strict=True)),
        "cpu_millis": _millis(cluster.cpu_nano),
        "memory_bytes": _whole(cluster.memory_nano),
        "unreported_cpu": cluster.unreported_cpu,
        "unreported_memory": cluster.unreported_memory,
    }
    if cluster.id:
        row["id"] = cluster.id
    return row


def _shape(counted: ShapeDetail) -> dict[str, Any]:
    shape = counted.shape
    return {
        "roles": list(shape.roles),
        "architecture": shape.architecture,
        "operating_system": shape.operating_system,
        "container_runtime": shape.container_runtime,
        "kernel_version": shape.kernel_version,
        "cpu_millis": None if shape.cpu_nano is None else _millis(shape.cpu_nano),
        "memory_bytes": None if shape.memory_nano is None else _whole(shape.memory_nano),
        "nodes": counted.nodes,
    }


def _totals(totals: Totals, *, coarse: bool) -> dict[str, Any]:
    cpu_unit, memory_unit = (_NANO, _GIB * _NANO) if coarse else (1, 1)
    return {
        "clusters": totals.local_clusters + totals.managed_clusters,
        "nodes": totals.nodes,
        "orphan_nodes": totals.orphan_nodes,
        "roles": totals.roles,
        "cpu_millis": _millis(-(-totals.cpu_nano // cpu_unit) * cpu_unit),
        "memory_bytes": _whole(-(-totals.memory_nano // memory_unit) * memory_unit),
        "unreported_cpu": totals.unreported_cpu,
        "unreported_memory": totals.unreported_memory,
    }


def _millis(nano: int) -> int:
    """Whole 1e-3 cores of an amount in 1e-9 cores, rounded up and capped."""
    return min(-(-nano // _NANO_PER_MILLI), MAX_AMOUNT)


def _whole(nano: int) -> int:
    """Whole bytes of an amount in 1e-9 bytes, rounded up and capped."""
    return min(-(-nano // _NANO), MAX_AMOUNT)
