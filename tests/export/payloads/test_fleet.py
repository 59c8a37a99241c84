"""The fleet payload: its schema, its sums, its bounds, and canonical bytes."""

import json
from dataclasses import replace
from hashlib import sha256
from random import Random
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from telemetryd import __version__
from telemetryd.api.testing.samples import IDENTITY
from telemetryd.config import FORMATS
from telemetryd.errors import PermanentError, Reason
from telemetryd.export.exporter import ExportContext, Outcome
from telemetryd.export.payloads.fleet import fleet_renderer
from telemetryd.export.payloads.fleet_document import fleet_schema, validate_fleet
from telemetryd.export.payloads.fleet_rows import MAX_AMOUNT
from telemetryd.export.payloads.formats import PAYLOAD_FORMATS
from telemetryd.export.payloads.payload import parse_digest
from telemetryd.export.sinks.file import FileExporter
from telemetryd.export.threads import shared_threads
from telemetryd.model import (
    UNKNOWN_GROUP,
    Amounts,
    ClusterDetail,
    ClusterGroup,
    Delivery,
    FleetDetail,
    Gpus,
    GroupKey,
    Identity,
    NodeShape,
    Payload,
    RoleCounts,
    ShapeDetail,
    Snapshot,
    Sums,
    Totals,
)
from tests.export.doubles import EPOCH_S, snapshot

SCHEMA = fleet_schema()
VALIDATOR = Draft202012Validator(SCHEMA, format_checker=Draft202012Validator.FORMAT_CHECKER)
DELIVERY = Delivery(EPOCH_S, sequence=1_790_000_000_000, epoch=3)
SOME_ID = "8d6f8b1e-5a0b-8f3c-9a4f-0d6b1f5f0a11"
OTHER_ID = "1b2f6b4e-90ab-8f8e-b1c7-2f1e2a3b4c5d"
NO_ROLES = RoleCounts(0, 0, 0, 0)
EKS = GroupKey("managed", "eks", "eks", "hosted", "1.31", active=False, deleting=False, stale=True)
LOCAL_GROUP = GroupKey(
    "local", "k3s", "local", "local", "1.33", active=True, deleting=False, stale=False
)
CORE_NANO = 10**9
GIB_NANO = 2**30 * 10**9

counts = st.integers(0, 10**6)
amounts = st.one_of(st.integers(0, 10**18), st.integers(0, 2**100))
labels = st.text(max_size=256)
role_counts = st.builds(RoleCounts, counts, counts, counts, counts)
gpus = st.sampled_from([Gpus(), Gpus(1, 2, 3, 4)])
own_amounts = st.sampled_from([None, Amounts(1, None, 2**70), Amounts(10**30, 10**30, 110)])
groups = st.sampled_from([EKS, LOCAL_GROUP, UNKNOWN_GROUP])
sums = st.builds(
    lambda clusters, nodes, cpu_nano, pods: Sums(clusters, nodes, cpu_nano=cpu_nano, pods=pods),
    st.integers(1, 9),
    counts,
    amounts,
    amounts,
)
clusters = st.builds(
    ClusterDetail,
    id=st.sampled_from(["", SOME_ID, OTHER_ID]),
    upstream=st.booleans(),
    kubernetes_version=labels,
    nodes=counts,
    roles=role_counts,
    cpu_nano=amounts,
    memory_nano=amounts,
    unreported_cpu=counts,
    unreported_memory=counts,
    group=groups,
    gpus=gpus,
    node_count=st.sampled_from([None, 0, 2**70]),
    capacity=own_amounts,
    requested=own_amounts,
)
shapes = st.builds(
    NodeShape,
    architecture=labels,
    operating_system=labels,
    container_runtime=labels,
    kernel_version=labels,
    roles=st.sampled_from([(), ("etcd",), ("controlplane", "etcd", "worker")]),
    cpu_nano=st.none() | amounts,
    memory_nano=st.none() | amounts,
    gpus=gpus,
)
details = st.builds(
    FleetDetail,
    clusters=st.lists(clusters, max_size=5).map(tuple),
    shapes=st.lists(
        st.builds(ShapeDetail, shape=shapes, nodes=st.integers(1, 10**6)),
        max_size=5,
        unique_by=lambda counted: counted.shape,
    ).map(tuple),
    coarse=st.booleans(),
)
identities = st.builds(
    Identity,
    install_uuid=st.uuids().map(str),
    cluster_uuid=st.uuids().map(str),
    server_url=st.text(max_size=20),
    version=st.text(max_size=12),
    git_hash=st.sampled_from(["", "unknown", "59bd052e"]),
    product=st.sampled_from(["rancher-prime", "kubernetes"]),
)
totals = st.builds(
    Totals,
    local_clusters=st.integers(0, 1),
    managed_clusters=counts,
    nodes=counts,
    orphan_nodes=counts,
    roles=role_counts.map(lambda roles: roles._asdict()),
    cpu_nano=amounts,
    memory_nano=amounts,
    unreported_cpu=counts,
    unreported_memory=counts,
    unreadable=st.dictionaries(st.text(max_size=12), st.integers(1, 99), max_size=3),
    groups=st.lists(
        st.builds(ClusterGroup, groups, sums), max_size=3, unique_by=lambda group: group.key
    ).map(tuple),
)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    reasons = tuple(draw(st.lists(st.text(max_size=20), max_size=3)))
    return Snapshot(
        revision=draw(st.integers(0, 100)),
        taken_at=EPOCH_S,
        complete=not reasons,
        incomplete_reasons=reasons,
        identity=draw(identities),
        features=tuple(draw(st.lists(st.text(max_size=10), max_size=5))),
        systems=(),
        clusters=(),
        totals=draw(totals),
        detail=draw(details),
        doubts=tuple(draw(st.lists(st.text(max_size=20), max_size=2))),
    )


deliveries = st.builds(
    Delivery, at=st.floats(0, 4e9), sequence=st.integers(0, 2**53), epoch=st.integers(0, 2**31)
)


def facts_with(**changes: Any) -> Snapshot:
    """A small fleet with an empty detail, and what the test gives it."""
    given = {
        "detail": FleetDetail((), ()),
        "totals": Totals(roles=NO_ROLES._asdict()),
        **changes,
    }
    return replace(snapshot(), **given)


def a_cluster(**changes: Any) -> ClusterDetail:
    made = ClusterDetail(SOME_ID, False, "v1.33.1", 2, RoleCounts(1, 1, 1, 0), 0, 0, 0, 0)
    return replace(made, **changes)


def a_shape(**changes: Any) -> NodeShape:
    made = NodeShape("amd64", "linux", "containerd://2.0.5", "6.4.0", ("worker",), 0, 0)
    return replace(made, **changes)


def render(facts: Snapshot, delivery: Delivery = DELIVERY) -> Payload:
    return fleet_renderer()(facts, delivery)


def document_of(facts: Snapshot) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(render(facts).body)
    VALIDATOR.validate(document)
    return document


def test_formats_are_those_of_the_configuration() -> None:
    assert tuple(PAYLOAD_FORMATS) == FORMATS


def test_schema_is_versioned_and_leaves_no_room_for_more() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert SCHEMA["$id"] == "urn:telemetryd:payload:fleet:2"
    assert SCHEMA["properties"]["schema_version"] == {"enum": [2]}

    def objects(node: Any) -> list[dict[str, Any]]:
        if isinstance(node, list):
            return [found for item in node for found in objects(item)]
        if not isinstance(node, dict):
            return []
        own = [node] if node.get("type") == "object" else []
        return own + [found for item in node.values() for found in objects(item)]

    found = objects(SCHEMA)
    assert len(found) == 20
    for each in found:
        assert each["additionalProperties"] is False
        assert set(each["properties"]) - set(each["required"]) <= {"id"}


def test_a_small_fleet_reads_as_documented() -> None:
    facts = facts_with(
        features=("turtles", "fleet"),
        detail=FleetDetail(
            clusters=(
                a_cluster(
                    cpu_nano=3 * CORE_NANO // 2,
                    memory_nano=GIB_NANO,
                    unreported_cpu=1,
                    unreadable_nodes=1,
                    group=EKS,
                    gpus=Gpus(nvidia=8, other=1),
                    node_count=3,
                    capacity=Amounts(12 * CORE_NANO, None, 330),
                    requested=Amounts(CORE_NANO // 3, 1, 7),
                    differs=True,
                ),
                a_cluster(id=OTHER_ID, upstream=True, nodes=0, roles=NO_ROLES, group=LOCAL_GROUP),
            ),
            shapes=(
                ShapeDetail(
                    a_shape(
                        roles=("etcd", "worker"),
                        cpu_nano=CORE_NANO,
                        memory_nano=None,
                        gpus=Gpus(nvidia=4),
                    ),
                    2,
                ),
            ),
        ),
        totals=Totals(
            local_clusters=1,
            managed_clusters=1,
            nodes=2,
            orphan_nodes=4,
            roles={"controlplane": 1, "etcd": 1, "worker": 1, "other": 0},
            cpu_nano=3 * CORE_NANO // 2,
            memory_nano=GIB_NANO,
            unreported_cpu=1,
            unreadable={"nodes": 3, "clusters": 1},
            groups=(
                ClusterGroup(LOCAL_GROUP, Sums(clusters=1)),
                ClusterGroup(
                    EKS,
                    Sums(
                        clusters=1,
                        nodes=2,
                        unreadable_nodes=1,
                        cpu_nano=3 * CORE_NANO // 2,
                        memory_nano=GIB_NANO,
                        gpus_nvidia=8,
                        gpus_other=1,
                        differing_clusters=1,
                        sized_clusters=1,
                        pods=330,
                        requesting_clusters=1,
                        requested_cpu_nano=CORE_NANO // 3,
                        requested_memory_nano=1,
                        requested_pods=7,
                    ),
                ),
            ),
        ),
        complete=False,
        incomplete_reasons=("nodes: 3 unreadable", "clusters: 1 unreadable"),
        doubts=("clusters: 1 differs",),
    )
    part = {"clusters": 1, "nodes": 2, "cpu_millis": 1500, "memory_bytes": 2**30}
    no_part = {"clusters": 1, "nodes": 0, "cpu_millis": 0, "memory_bytes": 0}
    no_gpus = {"nvidia": 0, "amd": 0, "intel": 0, "other": 0}
    digest = render(facts).digest
    assert document_of(facts) == {
        "schema_version": 2,
        "telemetryd_version": __version__,
        "installation": {
            "install_uuid": IDENTITY.install_uuid,
            "cluster_uuid": IDENTITY.cluster_uuid,
            "product": "rancher-prime",
            "version": "v2.15.0",
            "git_hash": "59bd052e",
            "server_url": "https://rancher.example.com",
        },
        "complete": False,
        "incomplete_reasons": [
            "clusters: 1 differs",
            "clusters: 1 unreadable",
            "nodes: 3 unreadable",
        ],
        "feature_flags": ["fleet", "turtles"],
        "clusters": [
            {
                "id": OTHER_ID,
                "upstream": True,
                "kubernetes_version": "v1.33.1",
                "nodes": 0,
                "roles": {"controlplane": 0, "etcd": 0, "worker": 0, "other": 0},
                "cpu_millis": 0,
                "memory_bytes": 0,
                "unreported_cpu": 0,
                "unreported_memory": 0,
                "provider": "k3s",
                "driver": "local",
                "management": "local",
                "active": True,
                "deleting": False,
                "stale": False,
                "unreadable_nodes": 0,
                "gpus": no_gpus,
                "reported": dict.fromkeys(("nodes", "cpu_millis", "memory_bytes", "pods")),
                "requested": dict.fromkeys(("cpu_millis", "memory_bytes", "pods")),
                "differs": False,
            },
            {
                "id": SOME_ID,
                "upstream": False,
                "kubernetes_version": "v1.33.1",
                "nodes": 2,
                "roles": {"controlplane": 1, "etcd": 1, "worker": 1, "other": 0},
                "cpu_millis": 1500,
                "memory_bytes": 2**30,
                "unreported_cpu": 1,
                "unreported_memory": 0,
                "provider": "eks",
                "driver": "eks",
                "management": "hosted",
                "active": False,
                "deleting": False,
                "stale": True,
                "unreadable_nodes": 1,
                "gpus": {**no_gpus, "nvidia": 8, "other": 1},
                "reported": {
                    "nodes": 3,
                    "cpu_millis": 12_000,
                    "memory_bytes": None,
                    "pods": 330,
                },
                "requested": {"cpu_millis": 334, "memory_bytes": 1, "pods": 7},
                "differs": True,
            },
        ],
        "node_shapes": [
            {
                "roles": ["etcd", "worker"],
                "architecture": "amd64",
                "operating_system": "linux",
                "container_runtime": "containerd://2.0.5",
                "kernel_version": "6.4.0",
                "cpu_millis": 1000,
                "memory_bytes": None,
                "nodes": 2,
                "gpus": {**no_gpus, "nvidia": 4},
                "readable": True,
            }
        ],
        "totals": {
            "clusters": 2,
            "nodes": 2,
            "orphan_nodes": 4,
            "roles": {"controlplane": 1, "etcd": 1, "worker": 1, "other": 0},
            "cpu_millis": 1500,
            "memory_bytes": 2**30,
            "unreported_cpu": 1,
            "unreported_memory": 0,
            "unreadable_nodes": 1,
            "active_clusters": 1,
            "deleting_clusters": 0,
            "stale_clusters": 1,
            "stale_nodes": 2,
            "differing_clusters": 1,
            "gpus": {**no_gpus, "nvidia": 8, "other": 1},
            "reporting_clusters": 1,
            "reported_pods": 330,
            "requesting_clusters": 1,
            "requested_cpu_millis": 334,
            "requested_memory_bytes": 1,
            "requested_pods": 7,
        },
        "by_kind": [{"kind": "local", **no_part}, {"kind": "managed", **part}],
        "by_provider": [{"provider": "eks", **part}, {"provider": "k3s", **no_part}],
        "by_driver": [{"driver": "eks", **part}, {"driver": "local", **no_part}],
        "by_management": [{"management": "hosted", **part}, {"management": "local", **no_part}],
        "by_kubernetes_minor": [{"minor": "1.31", **part}, {"minor": "1.33", **no_part}],
        "entitlement": {"clusters": 1, "nodes": 2, "cpu_millis": 1500},
        "unreadable": [
            {"resource": "clusters", "objects": 1},
            {"resource": "nodes", "objects": 3},
        ],
        "delivery": {
            "timestamp": "2026-09-21T14:13:20Z",
            "sequence": 1_790_000_000_000,
            "epoch": 3,
            "digest": digest,
        },
    }


def test_an_empty_fleet_has_empty_arrays() -> None:
    document = document_of(facts_with())
    parts = [key for key in document if key.startswith("by_")]
    assert len(parts) == 5
    listed = ("clusters", "node_shapes", "feature_flags", "incomplete_reasons", "unreadable")
    for key in (*listed, *parts):
        assert document[key] == []
    assert document["complete"] is True


@pytest.mark.parametrize(
    ("nano", "millis"), [(0, 0), (1, 1), (10**6, 1), (10**6 + 1, 2), (10**30, MAX_AMOUNT)]
)
def test_cpu_is_whole_millicores_rounded_up_once_and_capped(nano: int, millis: int) -> None:
    detail = FleetDetail((a_cluster(cpu_nano=nano),), (ShapeDetail(a_shape(cpu_nano=nano), 1),))
    document = document_of(
        facts_with(detail=detail, totals=Totals(roles=NO_ROLES._asdict(), cpu_nano=nano))
    )
    shown = (document["clusters"][0], document["node_shapes"][0], document["totals"])
    assert [each["cpu_millis"] for each in shown] == [millis] * 3


@pytest.mark.parametrize(
    ("nano", "whole"), [(0, 0), (1, 1), (10**9, 1), (10**9 + 1, 2), (10**40, MAX_AMOUNT)]
)
def test_memory_is_whole_bytes_rounded_up_once_and_capped(nano: int, whole: int) -> None:
    detail = FleetDetail(
        (a_cluster(memory_nano=nano),), (ShapeDetail(a_shape(memory_nano=nano), 1),)
    )
    document = document_of(
        facts_with(detail=detail, totals=Totals(roles=NO_ROLES._asdict(), memory_nano=nano))
    )
    shown = (document["clusters"][0], document["node_shapes"][0], document["totals"])
    assert [each["memory_bytes"] for each in shown] == [whole] * 3


def test_without_ids_the_key_is_left_out_and_rows_are_sorted_by_content() -> None:
    sizes = (7, 3, 11, 3)
    detail = FleetDetail(tuple(a_cluster(id="", nodes=size) for size in sizes), ())
    document = document_of(facts_with(detail=detail))
    assert [row["nodes"] for row in document["clusters"]] == [3, 3, 7, 11]
    assert not any("id" in row for row in document["clusters"])


@given(snapshots(), deliveries)
def test_every_payload_fits_its_schema_and_is_canonical(
    facts: Snapshot, delivery: Delivery
) -> None:
    payload = render(facts, delivery)
    document = json.loads(payload.body)
    VALIDATOR.validate(document)
    validate_fleet(payload.body)
    assert payload.body == orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
    assert payload.schema_valid
    assert payload.schema_error == ""
    shown = document.pop("delivery")
    assert payload.digest == sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest()
    assert (shown["sequence"], shown["epoch"]) == (delivery.sequence, delivery.epoch)
    assert shown["digest"] == payload.digest
    assert parse_digest(payload.body) == (payload.digest, float(int(delivery.at)))


@given(snapshots(), st.integers(0, 2**32), deliveries, deliveries)
def test_equal_facts_in_any_order_give_equal_bytes_but_for_the_delivery(
    facts: Snapshot, seed: int, delivery: Delivery, other_delivery: Delivery
) -> None:
    rng = Random(seed)

    def shuffled(rows: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(rng.sample(rows, len(rows)))

    detail = facts.detail
    assert detail is not None
    unreadable = dict(shuffled(tuple(facts.totals.unreadable.items())))
    other = replace(
        facts,
        features=shuffled(facts.features),
        incomplete_reasons=shuffled(facts.incomplete_reasons),
        doubts=shuffled(facts.doubts),
        totals=replace(facts.totals, unreadable=unreadable, groups=shuffled(facts.totals.groups)),
        detail=replace(detail, clusters=shuffled(detail.clusters), shapes=shuffled(detail.shapes)),
    )
    assert render(other, delivery) == render(facts, delivery)
    later = render(other, other_delivery)
    assert later.digest == render(facts, delivery).digest
    documents = [json.loads(render(each, delivery).body) for each in (facts, other)]
    documents.append(json.loads(later.body))
    for document in documents:
        del document["delivery"]
    assert documents[0] == documents[1] == documents[2]


def test_renderer_remembers_the_snapshot_and_makes_the_delivery_again() -> None:
    renderer, facts = fleet_renderer(), facts_with()
    later = Delivery(EPOCH_S + 60, 9, 4)
    assert renderer(facts, DELIVERY) == render(facts, DELIVERY)
    assert renderer(facts, later) == render(facts, later)
    changed = facts_with(features=("fleet",))
    assert renderer(changed, later) == render(changed, later)
    assert renderer(changed, later).digest != renderer(facts, later).digest


def test_doubts_make_the_document_incomplete() -> None:
    document = document_of(facts_with(doubts=("nodes: fell from 40 to 3 within minutes",)))
    assert document["complete"] is False
    assert document["incomplete_reasons"] == ["nodes: fell from 40 to 3 within minutes"]


def test_without_ids_the_parts_keep_the_order_of_magnitude_alone() -> None:
    groups = (
        ClusterGroup(EKS, Sums(clusters=1, nodes=5, cpu_nano=17 * CORE_NANO, pods=330)),
        ClusterGroup(LOCAL_GROUP, Sums(clusters=1, nodes=3, memory_nano=5 * GIB_NANO)),
    )
    totals = Totals(roles=NO_ROLES._asdict(), groups=groups)
    document = document_of(facts_with(detail=FleetDetail((), (), coarse=True), totals=totals))
    (eks, k3s) = document["by_provider"]
    assert (eks["clusters"], eks["nodes"], eks["cpu_millis"]) == (1, 8, 32_000)
    assert (k3s["nodes"], k3s["memory_bytes"]) == (4, 8 * 2**30)
    assert document["entitlement"] == {"clusters": 1, "nodes": 8, "cpu_millis": 32_000}
    assert document["totals"]["reported_pods"] == 512


def test_incompleteness_is_a_fact_of_the_digest() -> None:
    stale = facts_with(complete=False, incomplete_reasons=("nodes: no contact for 120 s",))
    assert render(stale).digest != render(facts_with()).digest


@pytest.mark.parametrize(
    "facts",
    [
        snapshot(),
        facts_with(identity=replace(IDENTITY, install_uuid="")),
        facts_with(identity=replace(IDENTITY, product="\ud800")),
        facts_with(complete=True, incomplete_reasons=("nodes: 1 unreadable",)),
        facts_with(complete=False),
        facts_with(detail=FleetDetail((a_cluster(id="c-m-7x2kq5zt"),), ())),
        facts_with(detail=FleetDetail((a_cluster(id=IDENTITY.cluster_uuid),), ())),
        facts_with(detail=FleetDetail((a_cluster(kubernetes_version="v" * 257),), ())),
        facts_with(detail=FleetDetail((a_cluster(nodes=-1),), ())),
        facts_with(detail=FleetDetail((), (ShapeDetail(a_shape(kernel_version="k" * 257), 1),))),
        facts_with(detail=FleetDetail((), (ShapeDetail(a_shape(roles=("master",)), 1),))),
        facts_with(detail=FleetDetail((), (ShapeDetail(a_shape(), 0),))),
        facts_with(totals=Totals()),
    ],
    ids=[
        "no-detail", "uuid", "surrogate", "complete", "incomplete", "name-as-id", "uid-as-id",
        "version", "nodes", "kernel", "role", "count", "roles",
    ],
)  # fmt: skip
def test_what_does_not_fit_the_schema_is_never_handed_out(facts: Snapshot) -> None:
    renderer = fleet_renderer()
    for _ in range(2):
        with pytest.raises(PermanentError) as caught:
            renderer(facts, DELIVERY)
        assert caught.value.reason is Reason.INTERNAL


@pytest.mark.anyio
async def test_an_unchanged_fleet_is_not_written_again_and_an_altered_one_is(
    tmp_path: Any,
) -> None:
    now_s = EPOCH_S
    exporter = FileExporter(
        name="fleet",
        directory=str(tmp_path),
        keep=9,
        max_bytes=None,
        compress=False,
        max_silence_s=3600,
        now=lambda: now_s,
        threads=shared_threads(),
    )
    renderer, facts = fleet_renderer(), facts_with()

    async def export() -> Outcome:
        sequence = int(now_s * 1000)
        return await exporter.export(
            renderer(facts, Delivery(now_s, sequence, 1)), ExportContext("fleet", 1, 1)
        )

    latest = tmp_path / "latest"
    outcomes = [await export()]
    now_s += 60
    outcomes.append(await export())
    assert outcomes == [Outcome.WRITTEN, Outcome.UNCHANGED]
    original = latest.read_bytes()
    for old, new in ((b"v2.15.0", b"v2.15.1"), (b'"digest":"', b'"digest":"0'), (b"}", b"")):
        latest.write_bytes(original.replace(old, new))
        now_s += 1
        assert await export() is Outcome.WRITTEN
        assert await export() is Outcome.UNCHANGED
    now_s += 3600
    assert await export() is Outcome.WRITTEN
