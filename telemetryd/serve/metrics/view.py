"""The numbers behind ``/metrics``: where they are, and a frozen copy of them.

The copy is made on the event loop's thread, which alone moves the counters; it is read on
another. Names of metrics don't belong here.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from telemetryd.logs import lines_lost
from telemetryd.model import ConfigStatus, ExporterStatus, InformerStatus, Snapshot, Switches
from telemetryd.stats import (
    ConfigStats,
    ExporterStats,
    GatherStats,
    Histogram,
    InformerStats,
    KubeStats,
)


@dataclass(frozen=True, slots=True)
class BuildInfo:
    """What runs: versions of telemetryd and Python, commit or empty."""

    version: str
    revision: str
    python_version: str


@dataclass(frozen=True, slots=True)
class MetricsSources:
    """Where the numbers are; filled by the daemon, called on the event loop's thread.

    Attributes:
        now: Unix time in seconds.
        informers: Status and counters of every informer.
        exporters: Status and counters of every registered exporter.
        snapshot: The fleet now, None while nothing is ready; doesn't raise.
        loop_lag: Seconds by which the event loop's timers come late.
        switches: Which of them are off.
        leader: Name of the Lease, whether this replica leads, and how often that has changed.
        log_lines_lost: Lines of the log that could not be written.
    """

    build: BuildInfo
    now: Callable[[], float]
    informers: Callable[[], Iterable[tuple[InformerStatus, InformerStats]]]
    kube: KubeStats
    gather: GatherStats
    snapshot: Callable[[], Snapshot | None]
    exporters: Callable[[], Iterable[tuple[ExporterStatus, ExporterStats]]]
    config: ConfigStats
    loop_lag: Histogram
    switches: Callable[[], Switches] = Switches
    leader: Callable[[], tuple[str, bool, int]] = lambda: ("telemetryd", True, 0)
    log_lines_lost: Callable[[], int] = lines_lost


@dataclass(frozen=True, slots=True)
class HistogramView:
    """A copy of ``stats.Histogram``: upper bounds, counts per bucket, sum of the values."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


@dataclass(frozen=True, slots=True)
class InformerView:
    """A copy of one informer's status and ``stats.InformerStats``."""

    status: InformerStatus
    events: Mapping[str, int]
    lists: Mapping[tuple[str, str], int]
    watches: Mapping[str, int]
    watch_terminations: Mapping[str, int]
    decode_errors: Mapping[str, int]
    list_duration: HistogramView
    last_event_at: float | None


@dataclass(frozen=True, slots=True)
class ExporterView:
    """A copy of one exporter's status and ``stats.ExporterStats``."""

    status: ExporterStatus
    runs: Mapping[str, int]
    attempts: Mapping[tuple[str, str], int]
    retries: Mapping[str, int]
    skipped_ticks: Mapping[str, int]
    collection: HistogramView
    export: HistogramView
    schedule_delay: HistogramView
    sent_bytes: int
    in_flight: int
    spool_items: int
    spool_bytes: int
    spool_dropped: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class MetricsView:
    """Everything one scrape shows, as it was at ``taken_at`` (Unix seconds)."""

    taken_at: float
    build: BuildInfo
    informers: tuple[InformerView, ...]
    kube_requests: Mapping[tuple[str, str], int]
    kube_duration: Mapping[str, HistogramView]
    snapshot: Snapshot | None
    generation: int
    build_duration: HistogramView
    exporters: tuple[ExporterView, ...]
    config: ConfigStatus
    config_reloads: Mapping[tuple[str, str], int]
    loop_lag: HistogramView
    switches: Switches
    leader: tuple[str, bool, int]
    log_lines_lost: int


def take_view(sources: MetricsSources) -> MetricsView:
    """Copy the numbers; call it on the event loop's thread."""
    return MetricsView(
        taken_at=sources.now(),
        build=sources.build,
        informers=tuple(_informer(status, stats) for status, stats in sources.informers()),
        kube_requests=dict(sources.kube.requests),
        kube_duration={
            method: _histogram(duration) for method, duration in sources.kube.duration.items()
        },
        snapshot=sources.snapshot(),
        generation=sources.gather.generation,
        build_duration=_histogram(sources.gather.build_duration),
        exporters=tuple(_exporter(status, stats) for status, stats in sources.exporters()),
        config=sources.config.status,
        config_reloads=dict(sources.config.reloads),
        loop_lag=_histogram(sources.loop_lag),
        switches=sources.switches(),
        leader=sources.leader(),
        log_lines_lost=sources.log_lines_lost(),
    )


def _histogram(histogram: Histogram) -> HistogramView:
    return HistogramView(histogram.bounds, tuple(histogram.counts), histogram.total)


def _informer(status: InformerStatus, stats: InformerStats) -> InformerView:
    return InformerView(
        status=status,
        events=dict(stats.events),
        lists=dict(stats.lists),
        watches=dict(stats.watches),
        watch_terminations=dict(stats.watch_terminations),
        decode_errors=dict(stats.decode_errors),
        list_duration=_histogram(stats.list_duration),
        last_event_at=stats.last_event_at,
    )


def _exporter(status: ExporterStatus, stats: ExporterStats) -> ExporterView:
    return ExporterView(
        status=status,
        runs=dict(stats.runs),
        attempts=dict(stats.attempts),
        retries=dict(stats.retries),
        skipped_ticks=dict(stats.skipped_ticks),
        collection=_histogram(stats.collection),
        export=_histogram(stats.export),
        schedule_delay=_histogram(stats.schedule_delay),
        sent_bytes=stats.sent_bytes,
        in_flight=stats.in_flight,
        spool_items=stats.spool_items,
        spool_bytes=stats.spool_bytes,
        spool_dropped=dict(stats.spool_dropped),
    )
