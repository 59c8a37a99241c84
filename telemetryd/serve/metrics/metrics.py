"""Exposition of ``/metrics``: one collector over plain counters, rendered in a worker thread.

Which metrics there are stands in ``families``. Nothing here counts: the owners of the counters do,
and ``view`` copies them.
"""

import gzip
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, product
from typing import Final

import anyio
import anyio.to_thread
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from telemetryd.bounds import encodable
from telemetryd.model import (
    NOTHING,
    ExporterState,
    GroupKey,
    Snapshot,
    Sums,
    Switch,
    Totals,
    split,
    total,
)
from telemetryd.serve.metrics.families import (
    EVENT_TYPES,
    FAMILIES,
    PREFIX,
    RELOAD_RESULTS,
    RELOAD_TRIGGERS,
    RUN_RESULTS,
    WATCH_RESULTS,
    WITHHELD_TEXTS,
    Family,
)
from telemetryd.serve.metrics.negotiate import wants_gzip, wants_openmetrics
from telemetryd.serve.metrics.view import (
    ExporterView,
    HistogramView,
    InformerView,
    MetricsSources,
    MetricsView,
    take_view,
)

_NANO = 1_000_000_000
_GZIP_LEVEL = 5  # the last percent of size isn't worth the CPU of a small daemon
_CONTENT_TYPE_OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_RELOADS = dict.fromkeys(product(RELOAD_RESULTS, RELOAD_TRIGGERS), 0)


@dataclass(frozen=True, slots=True)
class Exposition:
    """The answer to a scrape.

    Attributes:
        content_encoding: ``gzip`` or empty.
    """

    body: bytes
    content_type: str
    content_encoding: str


MOST_LABEL_CHARS = 512
"""Of a value: the name of an exporter may hold that of a SecretRequest, which has 253."""


def _named(family: Family, values: Sequence[str]) -> dict[str, str]:
    """The labels of a sample; a value that can't be encoded, or is too long, is shown as it can."""
    return {
        name: encodable(value, MOST_LABEL_CHARS)
        for name, value in zip(family.label_names, values, strict=True)
    }


class _Sheet:
    """The families of one scrape, filled by name; ``labels`` are values in the table's order."""

    def __init__(self) -> None:
        self._families = {family.name: family for family in FAMILIES}
        self._metrics = {
            family.name: Metric(PREFIX + family.name, family.help, family.type)
            for family in FAMILIES
        }

    def metrics(self) -> Iterable[Metric]:
        return self._metrics.values()

    def values_of(self, name: str) -> tuple[str, ...]:
        """Everything that the last label of a family can say; empty where that is open."""
        return self._families[name].labels[-1].values

    def put(self, name: str, labels: Sequence[str], value: float | None) -> None:
        """Add the sample of a gauge, counter or info; None leaves the series out."""
        if value is not None:
            family = self._families[name]
            named = _named(family, labels)
            self._metrics[name].add_sample(family.exposed_name, named, value)

    def put_each(
        self,
        name: str,
        labels: Sequence[str],
        counts: Mapping[str, int],
        *,
        always: Iterable[str] = (),
    ) -> None:
        """Add a sample per value of the last label; those of ``always`` from 0 on."""
        for last, count in {**dict.fromkeys(always, 0), **counts}.items():
            self.put(name, (*labels, last), count)

    def put_histogram(self, name: str, labels: Sequence[str], histogram: HistogramView) -> None:
        """Add the samples of a classic histogram, whose buckets are cumulative."""
        metric, full_name = self._metrics[name], PREFIX + name
        named = _named(self._families[name], labels)
        bounds = (*(repr(float(bound)) for bound in histogram.bounds), "+Inf")
        cumulative = list(accumulate(histogram.counts))
        for bound, count in zip(bounds, cumulative, strict=True):
            metric.add_sample(full_name + "_bucket", {**named, "le": bound}, count)
        metric.add_sample(full_name + "_count", named, cumulative[-1])
        metric.add_sample(full_name + "_sum", named, histogram.total)


class _ViewCollector(Collector):
    """Shows the view it holds; nothing before the first."""

    def __init__(self) -> None:
        self.view: MetricsView | None = None

    def describe(self) -> Iterable[Metric]:
        """The names, so that the registry finds duplicates and answers ``name[]``."""
        return _Sheet().metrics()

    def collect(self) -> Iterable[Metric]:
        """Only families with samples."""
        if self.view is None:
            return ()
        return [metric for metric in _sheet_of(self.view).metrics() if metric.samples]


class MetricsRenderer:
    """Answers scrapes: copies on the event loop's thread, renders in one worker thread."""

    def __init__(self, sources: MetricsSources) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._sources = sources
        self._collector = _ViewCollector()
        self._registry = CollectorRegistry()
        self._registry.register(self._collector)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._one_at_a_time = anyio.CapacityLimiter(1)

    async def render(
        self, *, accept: str = "", accept_encoding: str = "", names: Sequence[str] = ()
    ) -> Exposition:
        """Render what is true now.

        Args:
            accept: The request's header, empty where it has none.
            accept_encoding: Likewise.
            names: Only these metrics (``name[]`` of the query); empty for all.
        """
        async with self._one_at_a_time:
            view = take_view(self._sources)
            return await anyio.to_thread.run_sync(
                self._render,
                view,
                wants_openmetrics(accept),
                wants_gzip(accept_encoding),
                tuple(names),
            )

    def _render(
        self,
        view: MetricsView,
        as_openmetrics: bool,  # noqa: FBT001 - run_sync passes no keywords
        as_gzip: bool,  # noqa: FBT001
        names: tuple[str, ...],
    ) -> Exposition:
        self._collector.view = view
        shown = self._registry.restricted_registry(names) if names else self._registry
        encode: Callable[[Collector], bytes] = (
            openmetrics.generate_latest if as_openmetrics else generate_latest
        )
        body = encode(shown)
        return Exposition(
            body=gzip.compress(body, _GZIP_LEVEL, mtime=0) if as_gzip else body,
            content_type=_CONTENT_TYPE_OPENMETRICS if as_openmetrics else CONTENT_TYPE_PLAIN_0_0_4,
            content_encoding="gzip" if as_gzip else "",
        )


def _sheet_of(view: MetricsView) -> _Sheet:
    sheet = _Sheet()
    build = view.build
    sheet.put("build", (build.version, build.revision, build.python_version), 1)
    for exporter in view.exporters:
        _put_exporter(sheet, exporter, view.taken_at)
    sheet.put("snapshot_generation", (), view.generation)
    sheet.put("snapshot_complete", (), view.snapshot is not None and view.snapshot.complete)
    sheet.put_histogram("snapshot_build_duration_seconds", (), view.build_duration)
    if view.snapshot is not None:
        _put_fleet(sheet, view.snapshot)
    for informer in view.informers:
        _put_informer(sheet, informer)
    for (method, code), count in view.kube_requests.items():
        sheet.put("kube_requests", (method, code), count)
    for method, duration in view.kube_duration.items():
        sheet.put_histogram("kube_request_duration_seconds", (method,), duration)
    for switch in Switch:
        sheet.put("collection_allowed", (switch,), switch not in view.switches.off)
    lease, leading, transitions = view.leader
    sheet.put("leader", (lease,), leading)
    sheet.put("leader_transitions", (lease,), transitions)
    _put_config(sheet, view)
    sheet.put("log_lines_lost", (), view.log_lines_lost)
    sheet.put_histogram("event_loop_lag_seconds", (), view.loop_lag)
    return sheet


def _put_config(sheet: _Sheet, view: MetricsView) -> None:
    config = view.config
    sheet.put("config_last_reload_successful", (), not config.problems)
    sheet.put("config_last_reload_success_timestamp_seconds", (), config.in_force_at)
    sheet.put("config_hash", (), config.hash)
    for labels, count in {**_RELOADS, **view.config_reloads}.items():
        sheet.put("config_reloads", labels, count)


def _put_exporter(sheet: _Sheet, exporter: ExporterView, now: float) -> None:
    status = exporter.status
    labels = (status.name,)
    gauges: dict[str, float | None] = {
        "exporter_enabled": status.enabled,
        "exporter_in_flight": exporter.in_flight,
        "exporter_consecutive_failures": status.consecutive_failures,
        "exporter_interval_seconds": status.interval_s,
        "exporter_last_attempt_timestamp_seconds": status.last_attempt_at,
        "exporter_last_success_timestamp_seconds": status.last_success_at,
        "exporter_last_failure_timestamp_seconds": status.last_failure_at,
        "exporter_next_run_timestamp_seconds": (
            None if status.next_run_in_s is None else now + status.next_run_in_s
        ),
        "exporter_payload_bytes": status.payload_bytes,
        "exporter_spool_bytes": exporter.spool_bytes,
        "exporter_spool_items": exporter.spool_items,
        "payload_schema_valid": status.schema_valid,
    }
    sheet.put("exporter", (status.name, status.type), 1)
    for state in ExporterState:
        sheet.put("exporter_state", (status.name, state), state is status.state)
    for name, value in gauges.items():
        sheet.put(name, labels, value)
    sheet.put_each("exporter_runs", labels, exporter.runs, always=RUN_RESULTS)
    for (result, reason), count in exporter.attempts.items():
        sheet.put("exporter_attempts", (status.name, result, reason), count)
    sheet.put_each("exporter_retries", labels, exporter.retries)
    sheet.put_each("exporter_skipped_ticks", labels, exporter.skipped_ticks)
    sheet.put("exporter_sent_bytes", labels, exporter.sent_bytes)
    sheet.put_each("exporter_spool_dropped", labels, exporter.spool_dropped)
    sheet.put_histogram("exporter_collection_duration_seconds", labels, exporter.collection)
    sheet.put_histogram("exporter_export_duration_seconds", labels, exporter.export)
    sheet.put_histogram("exporter_schedule_delay_seconds", labels, exporter.schedule_delay)


def _put_informer(sheet: _Sheet, informer: InformerView) -> None:
    status = informer.status
    labels = (status.resource,)
    sheet.put("informer_synced", labels, status.synced)
    sheet.put("informer_objects", labels, status.objects)
    sheet.put("informer_last_event_timestamp_seconds", labels, informer.last_event_at)
    sheet.put("informer_last_contact_timestamp_seconds", labels, status.last_contact_at)
    sheet.put_each("informer_decode_errors", labels, informer.decode_errors)
    sheet.put_each("informer_events", labels, informer.events, always=EVENT_TYPES)
    for (result, reason), count in informer.lists.items():
        sheet.put("informer_lists", (status.resource, result, reason), count)
    sheet.put_each("informer_watches", labels, informer.watches, always=WATCH_RESULTS)
    sheet.put_each("informer_watch_terminations", labels, informer.watch_terminations)
    sheet.put_histogram("informer_list_duration_seconds", labels, informer.list_duration)


def _put_fleet(sheet: _Sheet, snapshot: Snapshot) -> None:
    totals = snapshot.totals
    sheet.put("snapshot_timestamp_seconds", (), snapshot.taken_at)
    sheet.put("fleet_clusters", ("local",), totals.local_clusters)
    sheet.put("fleet_clusters", ("managed",), totals.managed_clusters)
    sheet.put("fleet_nodes", (), totals.nodes)
    _put_groups(sheet, totals)
    sheet.put_each("fleet_node_roles", (), totals.roles)
    sheet.put("fleet_cpu_cores", (), totals.cpu_nano / _NANO)
    sheet.put("fleet_memory_bytes", (), totals.memory_nano / _NANO)
    sheet.put("fleet_unreported_nodes", ("cpu",), totals.unreported_cpu)
    sheet.put("fleet_unreported_nodes", ("memory",), totals.unreported_memory)
    sheet.put("fleet_orphan_nodes", (), totals.orphan_nodes)
    for name in WITHHELD_TEXTS:
        sheet.put("fleet_withheld_texts", (name,), totals.withheld.get(name, 0))


_GROUPED: Final[tuple[tuple[str, Callable[[GroupKey], str], Callable[[Sums], float]], ...]] = (
    ("fleet_nodes_by_kind", lambda key: key.kind, lambda sums: sums.nodes),
    ("fleet_cpu_cores_by_kind", lambda key: key.kind, lambda sums: sums.cpu_nano / _NANO),
    ("fleet_clusters_by_provider", lambda key: key.provider, lambda sums: sums.clusters),
    ("fleet_nodes_by_provider", lambda key: key.provider, lambda sums: sums.nodes),
    ("fleet_clusters_by_driver", lambda key: key.driver, lambda sums: sums.clusters),
    ("fleet_clusters_by_management", lambda key: key.management, lambda sums: sums.clusters),
    (
        "fleet_clusters_by_kubernetes_minor",
        lambda key: key.kubernetes_minor,
        lambda sums: sums.clusters,
    ),
)
"""Metrics of parts of the fleet: the part of the key that is their label, and the number."""


def _put_groups(sheet: _Sheet, totals: Totals) -> None:
    """The fleet by kinds of cluster, and how far its numbers can be trusted.

    Values of closed lists are there from 0 on, so that one that vanishes can be alerted on.
    """
    for name, part_of, number in _GROUPED:
        known = dict.fromkeys(sheet.values_of(name), NOTHING)
        for part, sums in {**known, **split(totals.groups, part_of)}.items():
            sheet.put(name, (part,), number(sums))
    everything = totals.everything
    stale = total(totals.groups, lambda key: key.stale)
    dropped = {drop.what for drop in totals.drops}
    gauges: dict[str, float] = {
        "fleet_active_clusters": total(totals.groups, lambda key: key.active).clusters,
        "fleet_deleting_clusters": total(totals.groups, lambda key: key.deleting).clusters,
        "fleet_stale_clusters": stale.clusters,
        "fleet_stale_nodes": stale.nodes,
        "fleet_unreadable_nodes": everything.unreadable_nodes,
        "fleet_differing_clusters": everything.differing_clusters,
        "fleet_pod_capacity": everything.pods,
        "fleet_requested_pods": everything.requested_pods,
        "fleet_requested_cpu_cores": everything.requested_cpu_nano / _NANO,
        "fleet_requested_memory_bytes": everything.requested_memory_nano / _NANO,
    }
    for name, value in gauges.items():
        sheet.put(name, (), value)
    sheet.put_each("fleet_gpus", (), everything.gpus._asdict())
    for what in sheet.values_of("fleet_implausible_drop"):
        sheet.put("fleet_implausible_drop", (what,), what in dropped)
