"""The first version of the fleet payload: what it was, whatever the second one tells."""

import json
from dataclasses import replace
from typing import Any

from hypothesis import given
from jsonschema import Draft202012Validator

from telemetryd.export.payloads.fleet_v1 import fleet_v1_renderer, fleet_v1_schema
from telemetryd.model import Amounts, FleetDetail, Gpus, ShapeDetail, Snapshot, Totals
from tests.export.payloads.test_fleet import (
    DELIVERY,
    EKS,
    NO_ROLES,
    a_cluster,
    a_shape,
    facts_with,
    snapshots,
)

SCHEMA = fleet_v1_schema()
VALIDATOR = Draft202012Validator(SCHEMA, format_checker=Draft202012Validator.FORMAT_CHECKER)
CLUSTER_KEYS = {
    "cpu_millis",
    "id",
    "kubernetes_version",
    "memory_bytes",
    "nodes",
    "roles",
    "unreported_cpu",
    "unreported_memory",
    "upstream",
}
SHAPE_KEYS = {
    "architecture",
    "container_runtime",
    "cpu_millis",
    "kernel_version",
    "memory_bytes",
    "nodes",
    "operating_system",
    "roles",
}
TOTAL_KEYS = {
    "clusters",
    "cpu_millis",
    "memory_bytes",
    "nodes",
    "orphan_nodes",
    "roles",
    "unreported_cpu",
    "unreported_memory",
}
KEYS = {
    "clusters",
    "complete",
    "delivery",
    "feature_flags",
    "incomplete_reasons",
    "installation",
    "node_shapes",
    "schema_version",
    "telemetryd_version",
    "totals",
    "unreadable",
}


def document_of(facts: Snapshot) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(fleet_v1_renderer()(facts, DELIVERY).body)
    VALIDATOR.validate(document)
    return document


def test_it_has_the_keys_of_the_first_version_and_no_other() -> None:
    cluster = a_cluster(
        group=EKS,
        gpus=Gpus(nvidia=8),
        node_count=3,
        capacity=Amounts(1, 2, 3),
        requested=Amounts(1, 2, 3),
        differs=True,
    )
    detail = FleetDetail((cluster,), (ShapeDetail(a_shape(gpus=Gpus(amd=1)), 1),))
    facts = facts_with(detail=detail, doubts=("clusters: 1 differs",))
    document = document_of(facts)
    assert SCHEMA["$id"] == "urn:telemetryd:payload:fleet:1"
    assert set(document) == KEYS
    assert document["schema_version"] == 1
    assert set(document["clusters"][0]) == CLUSTER_KEYS
    assert set(document["node_shapes"][0]) == SHAPE_KEYS
    assert set(document["totals"]) == TOTAL_KEYS
    assert (document["complete"], document["incomplete_reasons"]) == (True, [])


def test_shapes_that_differ_in_what_it_does_not_tell_are_one_row() -> None:
    detail = FleetDetail(
        (),
        (
            ShapeDetail(a_shape(), 2),
            ShapeDetail(a_shape(gpus=Gpus(nvidia=1)), 3),
            ShapeDetail(a_shape(kernel_version="6.5.0"), 1),
        ),
    )
    rows = document_of(facts_with(detail=detail, totals=Totals(roles=NO_ROLES._asdict())))
    assert [row["nodes"] for row in rows["node_shapes"]] == [5, 1]


@given(snapshots())
def test_every_payload_fits_its_schema_and_hangs_on_no_order(facts: Snapshot) -> None:
    detail = facts.detail
    assert detail is not None
    turned = replace(
        facts, detail=replace(detail, clusters=detail.clusters[::-1], shapes=detail.shapes[::-1])
    )
    assert document_of(facts) == document_of(turned)
