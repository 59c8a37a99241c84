"""The exposition against the reference's table, two parsers and promtool."""

import gc
import gzip
import os
import shutil
import subprocess
import threading
import tracemalloc
from dataclasses import replace

import anyio
import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families

from telemetryd.model import ExporterState, Switch, Switches
from telemetryd.serve.metrics.families import FAMILIES
from telemetryd.serve.metrics.metrics import MetricsRenderer, freeze
from telemetryd.stats import ExporterStats, InformerStats
from tests.serve.facts import (
    CONFIG_HASH,
    NODES,
    NOW,
    SNAPSHOT,
    Facts,
    busy_exporter_stats,
    busy_facts,
    exporter_status,
    informer_status,
    new_exporter_status,
)

pytestmark = pytest.mark.anyio

OPENMETRICS = "application/openmetrics-text"

# name as exposed, type and labels of the reference (operations, 5.1) and of the contract's fleet
REFERENCE = """
build_info info version, revision, python_version
exporter_info info exporter, type
exporter_state gauge exporter, state
exporter_enabled gauge exporter
exporter_in_flight gauge exporter
exporter_consecutive_failures gauge exporter
exporter_interval_seconds gauge exporter
exporter_last_attempt_timestamp_seconds gauge exporter
exporter_last_success_timestamp_seconds gauge exporter
exporter_last_failure_timestamp_seconds gauge exporter
exporter_next_run_timestamp_seconds gauge exporter
exporter_runs_total counter exporter, result
exporter_attempts_total counter exporter, result, reason
exporter_retries_total counter exporter, reason
exporter_skipped_ticks_total counter exporter, reason
exporter_collection_duration_seconds histogram exporter
exporter_export_duration_seconds histogram exporter
exporter_schedule_delay_seconds histogram exporter
exporter_payload_bytes gauge exporter
exporter_spool_bytes gauge exporter
exporter_spool_items gauge exporter
exporter_sent_bytes_total counter exporter
exporter_spool_dropped_total counter exporter, reason
snapshot_generation gauge
snapshot_timestamp_seconds gauge
snapshot_build_duration_seconds histogram
snapshot_complete gauge
payload_schema_valid gauge exporter
informer_synced gauge resource
informer_objects gauge resource
informer_last_event_timestamp_seconds gauge resource
informer_last_contact_timestamp_seconds gauge resource
informer_decode_errors_total counter resource, reason
informer_events_total counter resource, type
informer_lists_total counter resource, result, reason
informer_watches_total counter resource, result
informer_watch_terminations_total counter resource, reason
informer_list_duration_seconds histogram resource
kube_requests_total counter method, code
kube_request_duration_seconds histogram method
entitlement_used gauge
entitlement_limit gauge
history_samples_total counter
history_last_sample_timestamp_seconds gauge
history_lost_slots_total counter
history_writable gauge
collection_allowed gauge by
leader gauge name
leader_transitions_total counter name
config_last_reload_successful gauge
config_last_reload_success_timestamp_seconds gauge
config_hash gauge
config_reloads_total counter result, trigger
event_loop_lag_seconds histogram
log_lines_lost_total counter
fleet_clusters gauge kind
fleet_nodes gauge
fleet_node_roles gauge role
fleet_cpu_cores gauge
fleet_memory_bytes gauge
fleet_unreported_nodes gauge resource
fleet_orphan_nodes gauge
fleet_withheld_texts gauge field
fleet_nodes_by_kind gauge kind
fleet_cpu_cores_by_kind gauge kind
fleet_clusters_by_provider gauge provider
fleet_nodes_by_provider gauge provider
fleet_clusters_by_driver gauge driver
fleet_clusters_by_management gauge management
fleet_clusters_by_kubernetes_minor gauge minor
fleet_gpus gauge vendor
fleet_active_clusters gauge
fleet_deleting_clusters gauge
fleet_stale_clusters gauge
fleet_stale_nodes gauge
fleet_unreadable_nodes gauge
fleet_differing_clusters gauge
fleet_implausible_drop gauge what
fleet_pod_capacity gauge
fleet_requested_pods gauge
fleet_requested_cpu_cores gauge
fleet_requested_memory_bytes gauge
"""


def parse_text(text: str) -> list[Metric]:
    return list(text_string_to_metric_families(text))


def parse_openmetrics(text: str) -> list[Metric]:
    return list(openmetrics_parser.text_string_to_metric_families(text))  # type: ignore[no-untyped-call]


async def scrape(renderer: MetricsRenderer, accept: str = "", *names: str) -> str:
    return (await renderer.render(accept=accept, names=names)).body.decode()


async def samples(facts: Facts) -> dict[str, float]:
    """``name{label="value"}`` to value of everything of ours."""
    families = parse_text(await scrape(facts.renderer()))
    return {
        sample.name.removeprefix("telemetryd_")
        + ",".join(f"[{name}={value}]" for name, value in sorted(sample.labels.items())): (
            sample.value
        )
        for family in families
        for sample in family.samples
        if sample.name.startswith("telemetryd_")
    }


def ours(families: list[Metric]) -> list[Metric]:
    return [family for family in families if family.name.startswith("telemetryd_")]


def shape_of(family: Metric) -> tuple[str, str, frozenset[str]]:
    """Exposed name, type and labels of a family parsed from OpenMetrics."""
    suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
    labels = {frozenset(sample.labels) - {"le"} for sample in family.samples}
    assert len(labels) == 1, f"{family.name} has samples with different labels"
    return family.name + suffix, family.type, labels.pop()


async def test_names_types_and_labels_are_the_references() -> None:
    expected = set()
    for line in REFERENCE.strip().splitlines():
        name, kind, *labels = line.replace(",", "").split()
        expected.add((f"telemetryd_{name}", kind, frozenset(labels)))
    families = ours(parse_openmetrics(await scrape(busy_facts().renderer(), OPENMETRICS)))
    assert {shape_of(family) for family in families} == expected
    assert len(FAMILIES) == len(expected)


async def test_text_and_openmetrics_hold_the_same_samples() -> None:
    renderer = busy_facts().renderer()
    as_text, as_openmetrics = (
        {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
            if sample.name.startswith("telemetryd_")
        }
        for families in (
            parse_text(await scrape(renderer)),
            parse_openmetrics(await scrape(renderer, OPENMETRICS)),
        )
    )
    assert as_text == as_openmetrics
    assert not any("_created" in name for name, _ in as_text)


async def test_promtool_finds_nothing_to_say() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        assert os.environ.get("CI") != "true", "promtool belongs to CI: Debian package prometheus"
        pytest.skip("promtool isn't installed (Debian package prometheus)")
    for facts in (
        busy_facts(),
        Facts(),
        Facts(exporters=[(new_exporter_status(), ExporterStats())]),
    ):
        body = (await facts.renderer().render()).body
        checked = subprocess.run(
            [promtool, "check", "metrics"], input=body, capture_output=True, check=False
        )
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


async def test_process_and_python_metrics_are_there() -> None:
    text = await scrape(Facts().renderer())
    for name in ("process_cpu_seconds_total", "process_resident_memory_bytes", "python_info",
                 "python_gc_collections_total"):  # fmt: skip
        assert f"\n{name}" in text or text.startswith(name)


async def test_values_are_those_of_the_counters() -> None:
    found = await samples(busy_facts())
    assert found["exporter_state[exporter=scc],[state=idle]"] == 1
    assert found["exporter_state[exporter=scc],[state=failed]"] == 0
    assert found["exporter_next_run_timestamp_seconds[exporter=scc]"] == NOW + 40
    assert found["exporter_last_failure_timestamp_seconds[exporter=scc]"] == NOW - 90
    assert found["exporter_attempts_total[exporter=scc],[reason=timeout],[result=failure]"] == 2
    assert found["exporter_runs_total[exporter=scc],[result=success]"] == 3
    assert found["exporter_sent_bytes_total[exporter=scc]"] == 9876
    assert found["exporter_export_duration_seconds_bucket[exporter=scc],[le=0.005]"] == 1
    assert found["exporter_export_duration_seconds_bucket[exporter=scc],[le=60.0]"] == 1
    assert found["exporter_export_duration_seconds_bucket[exporter=scc],[le=+Inf]"] == 2
    assert found["exporter_export_duration_seconds_count[exporter=scc]"] == 2
    buckets = [key for key in found if key.startswith("exporter_") and "_bucket[" in key]
    assert len(buckets) == 3 * 10, "for one exporter"
    assert found["exporter_export_duration_seconds_sum[exporter=scc]"] == pytest.approx(120.002)
    assert found[f"informer_events_total[resource={NODES}],[type=added]"] == 305
    assert found[f"informer_events_total[resource={NODES}],[type=deleted]"] == 0
    assert found[f"informer_decode_errors_total[reason=type],[resource={NODES}]"] == 1
    assert found["kube_requests_total[code=error],[method=GET]"] == 1
    assert found["snapshot_generation"] == 7
    assert found["snapshot_complete"] == 1
    assert found["snapshot_timestamp_seconds"] == NOW - 5
    assert found["fleet_clusters[kind=managed]"] == 20
    assert found["fleet_node_roles[role=other]"] == 3
    assert found["fleet_cpu_cores"] == 1212.5
    assert found["fleet_memory_bytes"] == 4848 * 2**30
    assert found["fleet_unreported_nodes[resource=memory]"] == 5
    assert found["fleet_orphan_nodes"] == 2


async def test_new_exporter_shows_results_and_states_as_zero_and_no_times() -> None:
    found = await samples(Facts(exporters=[(new_exporter_status(), ExporterStats())]))
    results = {name: value for name, value in found.items() if name.startswith("exporter_runs")}
    assert len(results) == 5
    assert set(results.values()) == {0}
    states = {name: value for name, value in found.items() if name.startswith("exporter_state")}
    assert len(states) == len(ExporterState)
    assert sum(states.values()) == 1
    assert not any("timestamp" in name for name in found if name.startswith("exporter"))
    assert not any("reason" in name for name in found if name.startswith("exporter"))
    assert not any("payload" in name for name in found)


async def test_before_the_first_snapshot_there_is_no_fleet() -> None:
    found = await samples(Facts())
    assert found["snapshot_complete"] == 0
    assert not any(name.startswith("fleet") for name in found)


async def test_unsynced_informer_shows_results_and_no_times() -> None:
    status = informer_status(synced=False, objects=0, last_contact_at=None)
    found = await samples(Facts(informers=[(status, InformerStats(NODES))]))
    assert found[f"informer_synced[resource={NODES}]"] == 0
    assert found[f"informer_watches_total[resource={NODES}],[result=error]"] == 0
    assert not any("timestamp" in name for name in found if name.startswith("informer"))


async def test_every_switch_is_shown_and_is_1_unless_it_is_off() -> None:
    found = await samples(Facts(switches=Switches(frozenset({Switch.SETTING}))))
    shown = {name: value for name, value in found.items() if name.startswith("collection_allowed")}
    assert shown == {
        f"collection_allowed[by={each}]": each is not Switch.SETTING for each in Switch
    }


async def test_config_counts_as_accepted_before_the_first_reload() -> None:
    found = await samples(Facts())
    assert found["config_last_reload_successful"] == 1
    assert found["config_last_reload_success_timestamp_seconds"] == NOW - 3600
    assert found["config_hash"] == CONFIG_HASH
    reloads = [value for name, value in found.items() if name.startswith("config_reloads_total")]
    assert reloads == [0] * 6


async def test_rejected_config_shows_and_leaves_the_time_of_the_last_accepted() -> None:
    facts = Facts()
    facts.config.status = replace(
        facts.config.status, reloaded_at=NOW, problems=("c.toml: exporters: is a table",)
    )
    facts.config.reloads["failure", "signal"] += 1
    found = await samples(facts)
    assert found["config_last_reload_successful"] == 0
    assert found["config_last_reload_success_timestamp_seconds"] == NOW - 3600
    assert found["config_reloads_total[result=failure],[trigger=signal]"] == 1
    assert found["config_reloads_total[result=success],[trigger=signal]"] == 0


@pytest.mark.parametrize("state", list(ExporterState))
async def test_call_in_flight_is_shown_whatever_the_state(state: ExporterState) -> None:
    stats = ExporterStats(in_flight=1)
    found = await samples(Facts(exporters=[(exporter_status(state=state), stats)]))
    assert found["exporter_in_flight[exporter=scc]"] == 1
    assert found[f"exporter_state[exporter=scc],[state={state}]"] == 1


async def test_series_go_with_their_exporter() -> None:
    facts = busy_facts()
    renderer = facts.renderer()
    assert 'exporter="scc"' in await scrape(renderer)
    facts.exporters.clear()
    assert 'exporter="scc"' not in await scrape(renderer)


async def test_names_restrict_what_is_shown() -> None:
    text = await scrape(busy_facts().renderer(), "", "telemetryd_fleet_nodes", "no_such_metric")
    assert [line for line in text.splitlines() if not line.startswith("#")] == [
        "telemetryd_fleet_nodes 303.0"
    ]


async def test_gzip_holds_the_same_text() -> None:
    renderer = busy_facts().renderer()
    plain = await renderer.render(names=("telemetryd_fleet_nodes",))
    zipped = await renderer.render(names=("telemetryd_fleet_nodes",), accept_encoding="gzip")
    assert (plain.content_encoding, zipped.content_encoding) == ("", "gzip")
    assert gzip.decompress(zipped.body) == plain.body


async def test_label_values_are_escaped() -> None:
    name = 'a"b\\c\nd'
    found = await samples(Facts(exporters=[(exporter_status(name=name), ExporterStats())]))
    assert f"exporter_enabled[exporter={name}]" in found


async def test_frozen_facts_arent_moved_by_the_counters() -> None:
    facts = busy_facts()
    frozen = freeze(facts.metrics())
    _, stats = facts.exporters[0]
    stats.runs.update(success=1)
    stats.export.observe(1)
    facts.loop_lag.observe(1)
    facts.kube.requests["GET", "200"] += 1
    facts.kube.duration["GET"].observe(1)
    facts.gather.generation += 1
    facts.config.reloads["failure", "signal"] += 1
    _, kept = frozen.exporters[0]
    assert kept.runs["success"] == 3
    assert sum(kept.export.counts) == 2
    assert sum(frozen.loop_lag.counts) == 1
    assert frozen.kube.requests["GET", "200"] == 5
    assert sum(frozen.kube.duration["GET"].counts) == 1
    assert frozen.gather.generation == 7
    assert not frozen.config.reloads


async def test_rendering_keeps_to_one_worker_thread_and_off_the_loops() -> None:
    facts = busy_facts()
    renderer = facts.renderer()
    threads: set[int] = set()
    at_a_time = most = 0
    plain = renderer._render

    def watched(*args: object) -> object:
        nonlocal at_a_time, most
        at_a_time += 1
        most = max(most, at_a_time)
        threads.add(threading.get_ident())
        result = plain(*args)  # type: ignore[arg-type]
        at_a_time -= 1
        return result

    renderer._render = watched  # type: ignore[assignment, method-assign]
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(renderer.render)
    assert most == 1
    assert threading.get_ident() not in threads


async def test_lines_grow_by_the_same_number_with_each_exporter() -> None:
    async def lines(exporters: int) -> int:
        facts = busy_facts()
        stats = busy_facts().exporters[0][1]
        facts.exporters = [(exporter_status(name=f"e{index}"), stats) for index in range(exporters)]
        return len((await scrape(facts.renderer())).splitlines())

    one, two, fifty = [await lines(count) for count in (1, 2, 50)]
    each = two - one
    assert fifty == one + 49 * each
    assert each <= 100  # 50 exporters stay under 5000 lines, about 40 ms of the worker thread


async def test_incomplete_snapshot_is_shown_as_such() -> None:
    found = await samples(Facts(snapshot=replace(SNAPSHOT, complete=False)))
    assert found["snapshot_complete"] == 0
    assert found["fleet_nodes"] == 303


def crowd(count: int) -> Facts:
    """Facts with so many exporters, each with all its series."""
    return Facts(
        exporters=[
            (exporter_status(name=f"e{number}"), busy_exporter_stats()) for number in range(count)
        ]
    )


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
async def test_metrics_of_many_exporters_are_whole_and_begin_once(accept: str) -> None:
    few, many = (
        await scrape(crowd(1).renderer(), accept),
        await scrape(crowd(250).renderer(), accept),
    )
    heads = [[line for line in text.splitlines() if line.startswith("#")] for text in (few, many)]
    assert heads[0] == heads[1]
    for family in ours((parse_openmetrics if accept else parse_text)(many)):
        shown = [sample.labels.get("exporter") for sample in family.samples]
        if "exporter" in family.samples[0].labels:
            assert list(dict.fromkeys(shown)) == [f"e{number}" for number in range(250)]


async def test_scrape_of_many_exporters_takes_little_more_than_the_copy_of_their_counters() -> None:
    """By the allocator's count: as one text, what is compressed would take five times as much."""
    renderer = crowd(1_000).renderer()
    await renderer.render(accept_encoding="gzip")  # with all that is imported for it
    gc.collect()
    tracemalloc.start()
    try:
        await renderer.render(accept_encoding="gzip")
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 5_000_000
