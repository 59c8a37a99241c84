"""What the `otlp` exporter sends, as a real OpenTelemetry Collector receives and passes it on."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio.to_thread
import pytest
from prometheus_client.parser import text_string_to_metric_families

from telemetryd.config import OtlpExporterConfig
from telemetryd.daemon.exporters import build_otlp
from telemetryd.errors import PermanentError, Reason
from telemetryd.export.exporter import Outcome
from telemetryd.export.payloads.otlp_metrics import OtlpRenderer
from telemetryd.export.sinks.http import OtlpExporter
from telemetryd.model import Delivery, Payload, Snapshot
from tests.collector.process import Collector, Points
from tests.export.sinks.test_otlp import CONTEXT, fleet
from tests.monitoring.conftest import prometheus as prometheus  # noqa: PLC0414 - a fixture
from tests.monitoring.prometheus import Prometheus
from tests.support.certificates import Authority
from tests.support.daemon import Daemon
from tests.support.embedded import FleetServer, serve_fleet

pytestmark = pytest.mark.anyio

TOKEN = "hunter2-hunter2"
UNITS = {
    "telemetryd.fleet.clusters": "{cluster}",
    "telemetryd.fleet.nodes": "{node}",
    "telemetryd.fleet.nodes.by_architecture": "{node}",
    "telemetryd.fleet.nodes.by_role": "{node}",
    "telemetryd.fleet.nodes.orphaned": "{node}",
    "telemetryd.fleet.nodes.unreported": "{node}",
    "telemetryd.fleet.cpu.capacity": "{cpu}",
    "telemetryd.fleet.memory.capacity": "By",
    "telemetryd.fleet.objects.unreadable": "{object}",
    "telemetryd.fleet.complete": "",
}
IN_PROMETHEUS = {
    **{name: name.replace(".", "_") for name in UNITS},
    "telemetryd.fleet.memory.capacity": "telemetryd_fleet_memory_capacity_bytes",
}
"""Prometheus adds units that it has a word for; braces are comments."""


def exporter(url: str, **keys: object) -> OtlpExporter:
    config = OtlpExporterConfig(name="it", endpoint=url, **keys)  # type: ignore[arg-type]
    return build_otlp(config, now=time.time, environ={})


def render(taken: Snapshot) -> Payload:
    return OtlpRenderer()(taken, Delivery(at=time.time(), sequence=7, epoch=0))


def sent(payload: Payload) -> Points:
    """What is in the payload itself."""
    (resource,) = json.loads(payload.body)["resourceMetrics"]
    (scope,) = resource["scopeMetrics"]
    return {
        (
            metric["name"],
            frozenset(
                (each["key"], each["value"]["stringValue"]) for each in point.get("attributes", ())
            ),
        ): float(point.get("asInt", point.get("asDouble")))
        for metric in scope["metrics"]
        for point in metric["gauge"]["dataPoints"]
    }


@pytest.mark.parametrize("over_tls", [False, True], ids=["http", "tls and token"])
@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gzip"])
async def test_names_units_and_values_come_out_as_they_were_sent(
    program: Path, tmp_path: Path, over_tls: bool, compress: bool
) -> None:
    authority = Authority(tmp_path)
    (tmp_path / "token").write_text(TOKEN)
    pair = authority.issue("collector") if over_tls else None
    keys = {"ca_file": str(authority.ca), "bearer_token_file": str(tmp_path / "token")}
    payload = render(fleet())
    expected = sent(payload)
    with Collector(program, tmp_path, pair=pair, token=TOKEN if over_tls else None) as collector:
        sink = exporter(collector.url, compress=compress, **(keys if over_tls else {}))
        assert await sink.export(payload, CONTEXT) is Outcome.WRITTEN
        collector.until(lambda: len(collector.received()[1]) >= len(expected))
        units, points = collector.received()
        exposed = collector.exposed()
    assert units == UNITS
    assert points == expected
    shown: Points = {}
    for family in text_string_to_metric_families(exposed):
        for sample in family.samples:
            labels = {
                key: text
                for key, text in sample.labels.items()
                if not key.startswith("otel_scope_") and key not in {"job", "instance"}
            }
            shown[sample.name, frozenset(labels.items())] = sample.value
    assert shown.pop(("target_info", frozenset()), 1) == 1
    assert {key: number for key, number in shown.items() if key[0] != "target_info"} == {
        (
            IN_PROMETHEUS[name],
            frozenset((key.replace(".", "_"), text) for key, text in attributes),
        ): number
        for (name, attributes), number in expected.items()
    }


async def test_wrong_token_is_said(program: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    (tmp_path / "token").write_text("wrong")
    keys = {"ca_file": str(authority.ca), "bearer_token_file": str(tmp_path / "token")}
    with Collector(program, tmp_path, pair=authority.issue("collector"), token=TOKEN) as collector:
        with pytest.raises(PermanentError, match=r"answers 401: .*bearer_token_file") as raised:
            await exporter(collector.url, **keys).export(render(fleet()), CONTEXT)
        assert raised.value.reason is Reason.AUTH
        (tmp_path / "token").write_text(TOKEN)
        assert await exporter(collector.url, **keys).export(render(fleet()), CONTEXT)


@pytest.mark.parametrize("path", ["/otlp", "/v2"])
async def test_path_that_it_does_not_serve_is_said(
    program: Path, tmp_path: Path, path: str
) -> None:
    with (
        Collector(program, tmp_path) as collector,
        pytest.raises(PermanentError, match=r"answers 404: .*/v1/metrics.*endpoint") as raised,
    ):
        await exporter(collector.url + path).export(render(fleet()), CONTEXT)
    assert raised.value.reason is Reason.REJECTED


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("size", [5_000, pytest.param(20_000, marks=pytest.mark.long)])
async def test_big_fleet_arrives_up_to_the_limit_and_beyond_it_is_said(
    program: Path, tmp_path: Path, compress: bool, size: int
) -> None:
    unreadable = {f"things{number}.example.test": number for number in range(size)}
    totals = replace(fleet().totals, unreadable=unreadable)
    payload = render(replace(fleet(), totals=totals))
    expected = sent(payload)
    for limit, arrives in ((len(payload.body), True), (len(payload.body) - 1, False)):
        folder = tmp_path / str(limit)
        folder.mkdir()
        with Collector(program, folder, max_body_bytes=limit) as collector:
            sink = exporter(collector.url, compress=compress)
            if arrives:
                assert await sink.export(payload, CONTEXT) is Outcome.WRITTEN
                collector.until(lambda it=collector: len(it.received()[1]) >= len(expected))  # type: ignore[misc]
                assert collector.received()[1] == expected
            else:
                with pytest.raises(PermanentError, match="answers 400, too large: raise") as raised:
                    await sink.export(payload, CONTEXT)
                assert raised.value.reason is Reason.OVERSIZE


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FleetServer]:
    with serve_fleet(tmp_path) as served:
        yield served


async def test_prometheus_sees_the_same_fleet_in_the_daemon_and_behind_the_collector(
    program: Path, prometheus: Path, server: FleetServer, tmp_path: Path
) -> None:
    await anyio.to_thread.run_sync(
        partial(_compare_in_prometheus, program, prometheus, server, tmp_path)
    )


def _compare_in_prometheus(
    program: Path, prometheus: Path, server: FleetServer, folder: Path
) -> None:
    with Collector(program, folder) as collector:
        config = (
            '[[exporters]]\nname = "it"\ntype = "otlp"\ninterval = "1s"\nsplay_max = "0s"\n'
            f'max_silence = "5s"\nendpoint = "{collector.url}"\n'
        )
        daemon = Daemon(folder, server.kubeconfig, config)
        try:
            collector.until(lambda: collector.received()[1])
            targets = [
                {"targets": [f"127.0.0.1:{daemon.port}"], "labels": {"from": "daemon"}},
                {"targets": [f"127.0.0.1:{collector.metrics_port}"], "labels": {"from": "otel"}},
            ]
            job = {"job_name": "both", "honor_labels": False}
            with Prometheus(prometheus, folder, "groups: []", job, targets) as scraping:
                for of_daemon, of_collector in (
                    ("telemetryd_fleet_nodes", "telemetryd_fleet_nodes"),
                    ("telemetryd_fleet_memory_bytes", "telemetryd_fleet_memory_capacity_bytes"),
                    ("telemetryd_fleet_cpu_cores", "telemetryd_fleet_cpu_capacity"),
                    ("telemetryd_snapshot_complete", "telemetryd_fleet_complete"),
                ):
                    ask = partial(_equal, scraping, of_daemon, of_collector)
                    scraping.until(f"{of_daemon} is {of_collector}", ask, within_s=60)
        finally:
            ended = daemon.stop()
        assert ended == 0, daemon.log()[-4000:]


def _equal(prometheus: Prometheus, of_daemon: str, of_collector: str) -> bool:
    def value(query: str) -> list[float]:
        return [float(each["value"][1]) for each in prometheus.get("query", query=query)["result"]]

    ours = value(f'{of_daemon}{{from="daemon"}}')
    return bool(ours) and ours == value(f'{of_collector}{{from="otel"}}')
