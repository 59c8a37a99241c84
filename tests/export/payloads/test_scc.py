"""The SCC payload: upstream's tables, its consumer's demands, its schema, and canonical bytes."""

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
from jsonschema.exceptions import ValidationError

from telemetryd.api.testing.samples import IDENTITY
from telemetryd.errors import PermanentError, Reason
from telemetryd.export.payloads.payload import CONTENT_TYPE, parse_digest, parse_rfc3339
from telemetryd.export.payloads.scc import (
    normalise_version,
    product_version,
    render_offline_request,
    scc_renderer,
    scc_schema,
    validate_scc,
)
from telemetryd.model import ClusterRow, Delivery, Identity, Payload, Snapshot, SystemRow, Totals
from tests.export.doubles import EPOCH_S, render_scc, snapshot
from tests.gather.consumer import UPSTREAM_SCHEMA
from tests.system.offlinerequest import RELEASES, read_offline_request

VALIDATOR = Draft202012Validator(scc_schema(), format_checker=Draft202012Validator.FORMAT_CHECKER)

# The table of the SCC schema: path, type, required, constraints.
TABLE: list[tuple[str, str, bool, dict[str, Any]]] = [
    ("version", "string", True, {"pattern": r"^\d+\.\d+\.\d+$"}),
    ("subscription", "object", True, {"additionalProperties": False}),
    ("subscription.installuuid", "string", True, {"format": "uuid"}),
    ("subscription.clusteruuid", "string", True, {"format": "uuid"}),
    ("subscription.product", "string", True, {}),
    ("subscription.version", "string", True, {}),
    ("subscription.arch", "string", True, {}),
    ("subscription.git", "string", True, {}),
    ("subscription.server_url", "string", True, {}),
    ("feature_flags", "array", False, {"items": {"type": "string"}}),
    ("managedSystems", "array", True, {}),
    ("managedSystems.arch", "string", True, {}),
    ("managedSystems.cpu", "integer", True, {"minimum": 0}),
    ("managedSystems.memory", "integer", True, {"minimum": 0}),
    ("managedSystems.count", "integer", True, {"minimum": 1, "default": 1}),
    ("managedSystems.upstream", "boolean", False, {}),
    ("managedClusters", "array", True, {}),
    ("managedClusters.count", "integer", True, {"minimum": 1}),
    ("managedClusters.nodes", "integer", True, {"minimum": 0}),
    ("managedClusters.upstream", "boolean", False, {"default": False}),
    ("timestamp", "string", True, {"format": "date-time"}),
]

counts = st.integers(1, 10**6)
systems = st.builds(
    SystemRow,
    architecture=st.text(max_size=8),
    cpu_cores=st.integers(0, 10**6),
    memory_mib=st.integers(0, 2**40),
    upstream=st.booleans(),
    count=counts,
)
clusters = st.builds(ClusterRow, upstream=st.booleans(), nodes=st.integers(0, 10**5), count=counts)
versions = st.one_of(
    st.sampled_from(["v2.15.0", "2.6.0-rc1", "dev", "v2.12-abc-head", "", "1.2.3\n", "٣.٣.٣"]),
    st.text(max_size=12),
)
identities = st.builds(
    Identity,
    install_uuid=st.uuids().map(str),
    cluster_uuid=st.uuids().map(str),
    server_url=st.text(max_size=20),
    version=versions,
    git_hash=st.sampled_from(["", "unknown", "59bd052e"]),
    product=st.just("rancher-prime"),
)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    return Snapshot(
        revision=draw(st.integers(0, 100)),
        taken_at=EPOCH_S,
        complete=True,
        incomplete_reasons=(),
        identity=draw(identities),
        features=tuple(draw(st.lists(st.text(max_size=10), max_size=5))),
        systems=tuple(draw(st.lists(systems, max_size=8))),
        clusters=tuple(draw(st.lists(clusters, max_size=8))),
        totals=Totals(),
    )


def property_at(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The schema at a path and that of its parent; arrays of objects are looked through."""
    parent: dict[str, Any] = {}
    node = scc_schema()
    for key in path.split("."):
        parent = node.get("items", node)
        node = parent["properties"][key]
    return parent, node


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("2.6.0", "2.6.0"),
        ("2.6.0-alpha.4", "2.6.0"),
        ("2.6.0-alpha4", "2.6.0"),
        ("v2.6.0-rc.1", "2.6.0"),
        ("v2.6.0-rc1", "2.6.0"),
        ("2.6.0+build.1", "2.6.0"),
        ("not-a-version", "not-a-version"),
        ("v1.30.5-gke.1014003", "1.30.5"),
        ("v1.31.2-eks-94953ac", "1.31.2"),
        ("v1.33.4+k3s1", "1.33.4"),
        ("dev", "dev"),
        ("v2.12-abc-head", "v2.12-abc-head"),
        ("vv2.6.0", "vv2.6.0"),
        ("", ""),
    ],
)
def test_version_is_normalised_as_upstream_does(raw: str, expected: str) -> None:
    assert normalise_version(raw) == expected


@pytest.mark.parametrize(("path", "type_", "required", "constraints"), TABLE)
def test_schema_says_what_the_table_says(
    path: str, type_: str, required: bool, constraints: dict[str, Any]
) -> None:
    parent, node = property_at(path)
    name = path.rsplit(".", 1)[-1]
    assert node["type"] == type_
    assert (name in parent["required"]) is required
    published = {key: value for key, value in node.items() if key not in {"type", "description"}}
    if type_ in {"array", "object"}:
        for key in ("properties", "required"):
            published.pop(key, None)
        if "properties" in published.get("items", {}):
            assert published.pop("items")["type"] == "object"
    assert published == constraints


def test_schema_knows_no_more_than_the_table() -> None:
    schema = scc_schema()
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == "https://github.com/rancher/rancher/pkg/telemetry/scc-payload"
    assert (schema["type"], schema["additionalProperties"]) == ("object", False)
    names = [path for path, *_ in TABLE if "." not in path]
    assert sorted(schema["properties"]) == sorted(names)
    for name in ("managedSystems", "managedClusters"):
        assert "additionalProperties" not in schema["properties"][name]["items"]


def without_prose(node: Any, *, is_names: bool = False) -> Any:
    """A schema without its texts, and without what it would mean anyway."""
    if isinstance(node, list):
        return sorted(map(without_prose, node))
    if not isinstance(node, dict):
        return node
    return {
        key: without_prose(value, is_names=key == "properties")
        for key, value in node.items()
        if is_names
        or (key not in {"description", "title"} and (key, value) != ("additionalProperties", True))
    }


def test_schema_demands_what_upstreams_does() -> None:
    assert without_prose(scc_schema()) == without_prose(UPSTREAM_SCHEMA)


def test_schema_describes_the_two_uuids_the_right_way_round() -> None:
    texts = [property_at(f"subscription.{key}")[1] for key in ("installuuid", "clusteruuid")]
    assert "InstallUUID setting" in texts[0]["description"]
    assert "kube-system" in texts[1]["description"]


def test_payload_of_upstreams_fleet_has_upstreams_rows() -> None:
    facts = replace(
        snapshot(),
        systems=(
            SystemRow("amd64", 6, 4096, upstream=False, count=3),
            SystemRow("amd64", 25, 9216, upstream=False, count=2),
            SystemRow("amd64", 99, 131072, upstream=False, count=2),
            SystemRow("amd64", 3, 19456, upstream=False, count=1),
            SystemRow("arm64", 6, 4096, upstream=False, count=1),
            SystemRow("arm64", 99, 131072, upstream=False, count=1),
            SystemRow("arm64", 25, 9216, upstream=False, count=1),
        ),
        clusters=(
            ClusterRow(upstream=True, nodes=0, count=1),
            ClusterRow(upstream=False, nodes=2, count=1),
            ClusterRow(upstream=False, nodes=3, count=3),
        ),
    )
    document = json.loads(render_scc(facts, EPOCH_S).body)
    assert document == {
        "version": "2.15.0",
        "subscription": {
            "installuuid": IDENTITY.install_uuid,
            "clusteruuid": IDENTITY.cluster_uuid,
            "product": "rancher-prime",
            "version": "v2.15.0",
            "arch": "unknown",
            "git": "59bd052e",
            "server_url": "https://rancher.example.com",
        },
        "managedSystems": [
            {"arch": "amd64", "cpu": 3, "memory": 19456, "count": 1},
            {"arch": "amd64", "cpu": 6, "memory": 4096, "count": 3},
            {"arch": "amd64", "cpu": 25, "memory": 9216, "count": 2},
            {"arch": "amd64", "cpu": 99, "memory": 131072, "count": 2},
            {"arch": "arm64", "cpu": 6, "memory": 4096, "count": 1},
            {"arch": "arm64", "cpu": 25, "memory": 9216, "count": 1},
            {"arch": "arm64", "cpu": 99, "memory": 131072, "count": 1},
        ],
        "managedClusters": [
            {"count": 1, "nodes": 0, "upstream": True},
            {"count": 1, "nodes": 2},
            {"count": 3, "nodes": 3},
        ],
        "timestamp": "2026-09-21T14:13:20Z",
    }


def test_upstream_system_is_marked_and_features_are_sorted() -> None:
    facts = replace(
        snapshot(),
        features=("turtles", "fleet"),
        systems=(SystemRow("amd64", 4, 8192, upstream=True, count=1),),
    )
    document = json.loads(render_scc(facts, EPOCH_S).body)
    assert document["feature_flags"] == ["fleet", "turtles"]
    assert document["managedSystems"][0]["upstream"] is True


def test_empty_fleet_has_empty_arrays_and_no_feature_flags() -> None:
    facts = replace(snapshot(), systems=())
    body = render_scc(facts, EPOCH_S).body
    assert b'"managedClusters":[],"managedSystems":[]' in body
    assert b"feature_flags" not in body


@given(snapshots(), st.floats(0, 4e9))
def test_every_payload_fits_its_schema_but_for_a_raw_version(facts: Snapshot, now_s: float) -> None:
    payload = render_scc(facts, now_s)
    document = json.loads(payload.body)
    errors = [list(error.absolute_path) for error in VALIDATOR.iter_errors(document)]
    assert errors == ([] if payload.schema_valid else [["version"]])
    assert payload.schema_valid is (payload.schema_error == "")
    if not payload.schema_valid:
        assert document["version"] == facts.identity.version
    assert payload.body == orjson.dumps(document, option=orjson.OPT_SORT_KEYS)


@given(snapshots(), st.integers(0, 2**32), st.floats(0, 4e9))
def test_equal_facts_in_any_order_give_equal_bytes(
    facts: Snapshot, seed: int, now_s: float
) -> None:
    rng = Random(seed)

    def shuffled(rows: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(rng.sample(rows, len(rows)))

    other = replace(
        facts,
        features=shuffled(facts.features),
        systems=shuffled(facts.systems),
        clusters=shuffled(facts.clusters),
    )
    assert render_scc(other, now_s) == render_scc(facts, now_s)


@given(snapshots(), st.floats(0, 4e9), st.floats(0, 4e9))
def test_digest_is_that_of_the_document_without_its_timestamp(
    facts: Snapshot, now_s: float, later_s: float
) -> None:
    payload = render_scc(facts, now_s)
    document = json.loads(payload.body)
    assert parse_rfc3339(document.pop("timestamp")) == int(now_s)
    canonical = json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=False
    ).encode()
    assert payload.digest == sha256(orjson.dumps(orjson.loads(canonical))).hexdigest()
    assert render_scc(facts, later_s).digest == payload.digest
    assert parse_digest(payload.body) == (payload.digest, float(int(now_s)))


def test_digest_tells_any_two_facts_apart() -> None:
    digests = {
        render_scc(facts, EPOCH_S).digest
        for facts in (
            snapshot(),
            snapshot(nodes=2),
            replace(snapshot(), features=("fleet",)),
            replace(snapshot(), identity=replace(IDENTITY, git_hash="unknown")),
            replace(snapshot(), identity=replace(IDENTITY, version="v2.15.1")),
        )
    }
    assert len(digests) == 5


def test_renderer_remembers_the_snapshot_and_moves_the_timestamp_alone() -> None:
    renderer, facts = scc_renderer(), snapshot()
    now, later = Delivery(EPOCH_S), Delivery(EPOCH_S + 60, 7, 3)
    first, second = renderer(facts, now), renderer(facts, later)
    assert first == render_scc(facts, EPOCH_S)
    assert second == render_scc(facts, EPOCH_S + 60)
    changed = snapshot(2, nodes=5)
    assert renderer(changed, now) == render_scc(changed, EPOCH_S)


def test_renderer_that_refused_a_snapshot_refuses_it_again() -> None:
    renderer = scc_renderer()
    facts = replace(snapshot(), identity=replace(IDENTITY, install_uuid="not-a-uuid"))
    for _ in range(2):
        with pytest.raises(PermanentError, match="installuuid isn't a UUID"):
            renderer(facts, Delivery(EPOCH_S))


def test_version_that_cannot_be_normalised_is_sent_raw_and_reported() -> None:
    facts = replace(snapshot(), identity=replace(IDENTITY, version="dev"))
    payload = render_scc(facts, EPOCH_S)
    assert json.loads(payload.body)["version"] == "dev"
    assert not payload.schema_valid
    assert payload.schema_error == r"version 'dev' doesn't match ^\d+\.\d+\.\d+$"


@pytest.mark.parametrize(
    "facts",
    [
        replace(
            snapshot(), identity=replace(IDENTITY, cluster_uuid="8d6f8b1e5a0b4f3c9a4f0d6b1f5f0a11")
        ),
        replace(snapshot(), identity=replace(IDENTITY, version="dev", install_uuid="")),
        replace(snapshot(), systems=(SystemRow("amd64", -1, 1, upstream=False, count=1),)),
        replace(snapshot(), systems=(SystemRow("amd64", 1, 1, upstream=False, count=0),)),
        replace(snapshot(), systems=(SystemRow("amd64", 1, 2**70, upstream=False, count=1),)),
        replace(snapshot(), identity=replace(IDENTITY, git_hash=None)),  # type: ignore[arg-type]
        replace(snapshot(), identity=replace(IDENTITY, product="\ud800")),
    ],
    ids=["uuid", "uuid-and-version", "cpu", "count", "too-large", "git", "surrogate"],
)
def test_any_other_mismatch_is_never_handed_out(facts: Snapshot) -> None:
    with pytest.raises(PermanentError) as caught:
        render_scc(facts, EPOCH_S)
    assert caught.value.reason is Reason.INTERNAL


def new_metrics_wrapper(data: dict[str, bytes]) -> dict[str, Any]:
    """What scc-operator does with the Secret's data, down to where it panics."""
    document = json.loads(data["payload"])
    subscription = document["subscription"]
    texts = [document["version"]]
    texts += [subscription[key] for key in ("installuuid", "product", "version", "arch", "git")]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("panic: interface conversion")
    return document  # type: ignore[no-any-return]


@given(snapshots())
def test_consumer_never_panics_on_a_payload(facts: Snapshot) -> None:
    document = new_metrics_wrapper({"payload": render_scc(facts, EPOCH_S).body})
    assert document["subscription"]["installuuid"] == facts.identity.install_uuid


def test_consumers_own_cases_hold_for_its_port() -> None:
    """Upstream's TestHasMetricsSecret_And_FetchMetricsSecret: minimal, no key, no JSON."""
    minimal = {
        "version": "1.9.0",
        "subscription": {
            "installuuid": "1",
            "product": "rancher",
            "version": "1.9.0",
            "arch": "unknown",
            "git": "deadbeef",
        },
    }
    assert new_metrics_wrapper({"payload": json.dumps(minimal).encode()}) == minimal
    with pytest.raises(ValidationError):
        VALIDATOR.validate(minimal)
    with pytest.raises(PermanentError):
        validate_scc(json.dumps(minimal).encode())
    with pytest.raises(KeyError):
        new_metrics_wrapper({})
    with pytest.raises(json.JSONDecodeError):
        new_metrics_wrapper({"payload": b"not json"})


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"{", b"\xff", b'{"version":7}'])
def test_bytes_that_are_no_document_are_never_valid(body: bytes) -> None:
    with pytest.raises(PermanentError):
        validate_scc(body)


@pytest.mark.parametrize(("raw", "expected"), RELEASES.items())
def test_version_of_the_product_is_the_one_that_scc_operator_names(raw: str, expected: str) -> None:
    assert product_version(normalise_version(raw)) == expected


@pytest.mark.parametrize(
    "version", ["02.12.1", "2.012.1", "2.12", "2.12.1.4", "", "v2.12.1", "٢.1.1"]
)
def test_version_that_is_no_release_is_other(version: str) -> None:
    assert product_version(version) == "other"


def test_payload_is_in_it_as_it_is() -> None:
    subscription = {"product": "rancher-prime", "version": "v2.15.0", "arch": "unknown"}
    document = {"version": "2.15.0", "subscription": subscription, "text": "ü<&>\u2028/+"}
    body = json.dumps(document, ensure_ascii=False).encode()
    printed = render_offline_request(
        Payload(body, CONTENT_TYPE, "digest", 1, schema_valid=True, schema_error="")
    ).decode()
    assert read_offline_request(f"{printed}\n") == {
        "product": {"identifier": "rancher-prime", "version": "2.15.0", "arch": "unknown"},
        "system_information": document,
    }
