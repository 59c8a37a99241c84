"""The first version of the fleet document, ``format = "fleet-v1"``: kept until 2.0.

It has no split by kind of cluster, and calls itself complete where everything could be read.
"""

from functools import partial
from typing import Annotated, Any, Final, Literal

import msgspec

from telemetryd.export.payloads.fleet import (
    cluster_order,
    core_cluster,
    core_facts,
    core_shape,
    core_totals,
    fleet_renderer,
)
from telemetryd.export.payloads.fleet_document import (
    DocumentCore,
    TotalsCore,
    validate_fleet,
)
from telemetryd.export.payloads.fleet_rows import ClusterCore, ShapeCore
from telemetryd.export.payloads.payload import DocumentRenderer, fields_of, json_schema, sent
from telemetryd.model import FleetDetail, Snapshot

SCHEMA_ID: Final = "urn:telemetryd:payload:fleet:1"


class FleetDocumentV1(DocumentCore, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole document."""

    schema_version: Annotated[Literal[1], sent("Version of this document", "a constant")]
    clusters: list[ClusterCore]
    node_shapes: list[ShapeCore]
    totals: TotalsCore


FIELDS: Final = fields_of(FleetDocumentV1)
"""All that leaves in this document."""

_DECODER = msgspec.json.Decoder(FleetDocumentV1)


def fleet_v1_schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of the fleet payload, version 1."""
    return json_schema(FleetDocumentV1, schema_id=SCHEMA_ID, title="telemetryd fleet payload")


def render_facts(snapshot: Snapshot, detail: FleetDetail) -> dict[str, Any]:
    """The fleet document without its delivery; every array sorted, so that facts decide bytes."""
    return {
        **core_facts(snapshot),
        "schema_version": 1,
        "clusters": [core_cluster(each) for each in sorted(detail.clusters, key=cluster_order)],
        "node_shapes": _shapes(detail),
        "totals": core_totals(snapshot.totals, coarse=detail.coarse),
    }


def _shapes(detail: FleetDetail) -> list[dict[str, Any]]:
    """Rows of shapes; those that differ only in keys of later versions are one."""
    rows: dict[bytes, dict[str, Any]] = {}
    for counted in detail.shapes:
        row = core_shape(counted)
        key = msgspec.json.encode({**row, "nodes": 0}, order="sorted")
        if (known := rows.get(key)) is not None:
            row["nodes"] += known["nodes"]
        rows[key] = row
    return sorted(rows.values(), key=_order)


def _order(row: dict[str, Any]) -> tuple[Any, ...]:
    return (
        row["architecture"],
        row["operating_system"],
        row["container_runtime"],
        row["kernel_version"],
        row["roles"],
        -1 if row["cpu_millis"] is None else row["cpu_millis"],
        -1 if row["memory_bytes"] is None else row["memory_bytes"],
    )


def fleet_v1_renderer() -> DocumentRenderer:
    """Makes fleet payloads of version 1."""
    return fleet_renderer(render_facts, partial(validate_fleet, decoder=_DECODER))
