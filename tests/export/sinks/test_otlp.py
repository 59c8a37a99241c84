"""The otlp sink and its metrics, held against OpenTelemetry's own messages."""

import gzip
import json
import zlib
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsPartialSuccess,
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric, NumberDataPoint

from telemetryd import __version__
from telemetryd.config import OtlpExporterConfig
from telemetryd.config.exporters import metrics_url
from telemetryd.daemon.exporters import build_otlp
from telemetryd.errors import PermanentError, Reason, RetryableError
from telemetryd.export.exporter import ExportContext, Outcome
from telemetryd.export.payloads.otlp_metrics import OtlpRenderer
from telemetryd.export.sinks.http import OtlpExporter, rejected_points
from telemetryd.model import Delivery, Snapshot, SystemRow, Totals
from tests.export.doubles import CLUSTER_UUID, INSTALL_UUID, snapshot
from tests.support.receiver import receiving, status

pytestmark = pytest.mark.anyio

AT = 1_790_000_000.123
CONTEXT = ExportContext("it", 1, 0, INSTALL_UUID, 7, AT)
GIB = 1 << 30


def fleet() -> Snapshot:
    return replace(
        snapshot(),
        systems=(
            SystemRow("amd64", 4, 16384, upstream=False, count=3),
            SystemRow("amd64", 8, 16384, upstream=True, count=1),
            SystemRow("arm64", 4, 8192, upstream=False, count=2),
        ),
        totals=Totals(
            local_clusters=1,
            managed_clusters=2,
            nodes=6,
            orphan_nodes=1,
            roles={"controlplane": 2, "etcd": 2, "worker": 4, "other": 0},
            cpu_nano=24_500_000_000,
            memory_nano=100 * GIB * 10**9,
            unreported_cpu=1,
            unreadable={"nodes.management.cattle.io": 2},
        ),
    )


def render(taken: Snapshot, at: float = AT) -> bytes:
    return OtlpRenderer()(taken, Delivery(at=at, sequence=7, epoch=0)).body


def parse(body: bytes) -> ExportMetricsServiceRequest:
    """Strictly: unknown keys and wrong types are errors."""
    return json_format.Parse(body, ExportMetricsServiceRequest())


def attributes(holder: Any) -> dict[str, str]:
    return {each.key: each.value.string_value for each in holder.attributes}


def value(point: NumberDataPoint) -> float:
    return point.as_int if point.WhichOneof("value") == "as_int" else point.as_double


def shown(metric: Metric) -> dict[str, float]:
    return {
        ",".join(attributes(point).values()): value(point) for point in metric.gauge.data_points
    }


def test_fleet_is_what_the_official_messages_read() -> None:
    (resource,) = parse(render(fleet())).resource_metrics
    (scope,) = resource.scope_metrics
    assert attributes(resource.resource) == {
        "service.name": "telemetryd",
        "service.version": __version__,
        "service.instance.id": INSTALL_UUID,
        "k8s.cluster.uid": CLUSTER_UUID,
        "telemetryd.product.name": "rancher-prime",
        "telemetryd.product.version": "v2.15.0",
    }
    assert (scope.scope.name, scope.scope.version) == ("telemetryd", __version__)
    assert {
        metric.name.removeprefix("telemetryd.fleet."): shown(metric) for metric in scope.metrics
    } == {
        "clusters": {"local": 1, "managed": 2},
        "nodes": {"": 6},
        "nodes.by_architecture": {"amd64": 4, "arm64": 2},
        "nodes.by_role": {"controlplane": 2, "etcd": 2, "other": 0, "worker": 4},
        "nodes.orphaned": {"": 1},
        "nodes.unreported": {"cpu": 1, "memory": 0},
        "cpu.capacity": {"": 24.5},
        "memory.capacity": {"": 100 * GIB},
        "objects.unreadable": {"nodes.management.cattle.io": 2},
        "complete": {"": 1},
    }
    for metric in scope.metrics:
        assert bool(metric.unit) is (metric.name != "telemetryd.fleet.complete")
        assert metric.description
        for point in metric.gauge.data_points:
            assert point.time_unix_nano == 1_790_000_000_123_000_000
    assert {key for metric in scope.metrics for point in metric.gauge.data_points
            for key in attributes(point)} == {
        "host.arch",
        "telemetryd.cluster.kind",
        "telemetryd.node.resource",
        "telemetryd.node.role",
        "telemetryd.resource",
    }  # fmt: skip


def test_integers_of_64_bits_are_text_and_keys_are_in_camel_case() -> None:
    document = json.loads(render(fleet()))
    points = [
        point
        for metric in document["resourceMetrics"][0]["scopeMetrics"][0]["metrics"]
        for point in metric["gauge"]["dataPoints"]
    ]
    assert points
    for point in points:
        assert isinstance(point["timeUnixNano"], str)
        assert isinstance(point.get("asInt", ""), str)
        assert set(point) <= {"attributes", "timeUnixNano", "asInt", "asDouble"}


def test_time_is_no_part_of_the_digest_and_everything_else_is() -> None:
    render = OtlpRenderer()
    first = render(fleet(), Delivery(at=AT, sequence=1, epoch=0))
    later = render(fleet(), Delivery(at=AT + 9, sequence=2, epoch=3))
    assert first.digest == later.digest
    assert first.body != later.body
    other = replace(fleet(), complete=False)
    assert render(other, Delivery(at=AT, sequence=1, epoch=0)).digest != first.digest


def test_no_url_and_no_name_is_among_the_metrics() -> None:
    assert b"rancher.example.com" not in render(fleet())


@given(nano=st.integers(0, 10**400), count=st.integers(0, 10**30))
def test_amounts_of_any_size_are_valid(nano: int, count: int) -> None:
    taken = replace(
        fleet(), totals=replace(fleet().totals, cpu_nano=nano, memory_nano=nano, nodes=count)
    )
    parse(render(taken))


def exporter(url: str) -> OtlpExporter:
    config = OtlpExporterConfig(name="it", endpoint=url)
    return build_otlp(config, now=lambda: AT, environ={})


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://c:4318", "http://c:4318/v1/metrics"),
        ("https://c:4318/", "https://c:4318/v1/metrics"),
        ("https://c/otlp/v1/metrics", "https://c/otlp/v1/metrics"),
        ("https://c/otlp", "https://c/otlp/v1/metrics"),
        ("https://c/otlp//", "https://c/otlp/v1/metrics"),
        ("http://c:9090/api/v1/otlp", "http://c:9090/api/v1/otlp/v1/metrics"),
        ("https://c/v1/metrics/", "https://c/v1/metrics"),
        ("https://c/my-v1/metrics", "https://c/my-v1/metrics/v1/metrics"),
        ("https://[::1]:4318", "https://[::1]:4318/v1/metrics"),
    ],
)
def test_metrics_path_is_added_unless_the_endpoint_ends_so(endpoint: str, url: str) -> None:
    assert metrics_url(endpoint) == url


async def test_metrics_are_posted_as_json() -> None:
    payload = OtlpRenderer()(fleet(), Delivery(at=AT, sequence=7, epoch=0))
    async with receiving() as receiver:
        base = receiver.url.removesuffix("/v1/payloads")
        assert await exporter(base).export(payload, CONTEXT) is Outcome.WRITTEN
    (request,) = receiver.requests
    assert request.target == "/v1/metrics"
    assert request.headers["content-type"] == "application/json"
    assert parse(request.body).resource_metrics


@pytest.mark.parametrize("code", [429, 502, 503, 504])
async def test_what_the_specification_lets_be_retried_is(code: int) -> None:
    payload = OtlpRenderer()(fleet(), Delivery(at=AT, sequence=7, epoch=0))
    async with receiving(status(code, "Retry-After: 7")) as receiver:
        with pytest.raises(RetryableError) as raised:
            await exporter(receiver.url).export(payload, CONTEXT)
    assert raised.value.retry_after_s == 7


@pytest.mark.parametrize("code", [400, 401, 404, 408, 413, 500, 501, 505, 302])
async def test_what_the_specification_forbids_to_retry_is_not(code: int) -> None:
    payload = OtlpRenderer()(fleet(), Delivery(at=AT, sequence=7, epoch=0))
    async with receiving(status(code)) as receiver:
        with pytest.raises(PermanentError):
            await exporter(receiver.url).export(payload, CONTEXT)


@pytest.mark.parametrize("form", [str, int])
async def test_rejected_points_are_reported_by_their_number_alone(form: type) -> None:
    payload = OtlpRenderer()(fleet(), Delivery(at=AT, sequence=7, epoch=0))
    answer = {"partialSuccess": {"rejectedDataPoints": form(3), "errorMessage": "hunter2"}}
    async with receiving(status(200, body=json.dumps(answer).encode())) as receiver:
        with pytest.raises(PermanentError, match="has rejected 3 data points") as raised:
            await exporter(receiver.url).export(payload, CONTEXT)
    assert raised.value.reason is Reason.REJECTED
    assert "hunter2" not in str(raised.value)


@given(count=st.integers(0, 2**63 - 1), message=st.text(max_size=20))
def test_partial_success_is_read_as_the_official_messages_write_it(
    count: int, message: str
) -> None:
    partial = ExportMetricsPartialSuccess(rejected_data_points=count, error_message=message)
    response = ExportMetricsServiceResponse(partial_success=partial)
    assert rejected_points(json_format.MessageToJson(response).encode()) == count


@given(body=st.binary(max_size=60) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.dictionaries(
        st.sampled_from(["partialSuccess", "rejectedDataPoints"]), inner
    ) | st.lists(inner, max_size=2),
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_answer_that_makes_no_sense_is_a_success(body: bytes) -> None:
    assert rejected_points(body) >= 0


@pytest.mark.parametrize("encoding", ["", "gzip", "deflate"])
@pytest.mark.parametrize("first", ["message", "count"])
@pytest.mark.parametrize("size", [20_000, 3_000_000])
async def test_rejected_points_are_read_whatever_the_size_of_the_message(
    size: int, first: str, encoding: str
) -> None:
    message = ("errorMessage", "no such point, " * (size // 15))
    count = ("rejectedDataPoints", "7")
    partial = dict([message, count] if first == "message" else [count, message])
    body = json.dumps({"partialSuccess": partial}).encode()
    if encoding:
        body = gzip.compress(body) if encoding == "gzip" else zlib.compress(body)
    headers = [f"Content-Encoding: {encoding}"] if encoding else []
    payload = OtlpRenderer()(fleet(), Delivery(at=AT, sequence=7, epoch=0))
    async with receiving(status(200, *headers, body=body)) as receiver:
        with pytest.raises(PermanentError, match="rejected 7 data points"):
            await exporter(receiver.url).export(payload, CONTEXT)
