"""What a metric is: its name, type, labels and help, and the function that gives its values."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from telemetryd.model import ExporterStatus, HistoryStatus, InformerStatus, Snapshot, Switches
from telemetryd.stats import (
    ConfigStats,
    ExporterStats,
    GatherStats,
    Histogram,
    InformerStats,
    KubeStats,
)

PREFIX = "telemetryd_"


@dataclass(frozen=True, slots=True)
class MetricsFacts:
    """What the daemon knows of itself at a scrape.

    Attributes:
        build: Version of telemetryd, its commit or empty, and version of Python.
        now: Unix time in seconds.
        informers: Status and counters of every informer.
        exporters: Status and counters of every registered exporter.
        snapshot: The fleet, None while there is none.
        loop_lag: Seconds by which the event loop's timers are late.
        leader: Name of the Lease, whether this replica leads, and how often that has changed.
        history: What is kept of the fleet's past.
        log_lines_lost: Log lines that could not be written.
    """

    build: tuple[str, str, str]
    now: float
    informers: tuple[tuple[InformerStatus, InformerStats], ...]
    exporters: tuple[tuple[ExporterStatus, ExporterStats], ...]
    snapshot: Snapshot | None
    kube: KubeStats
    gather: GatherStats
    config: ConfigStats
    loop_lag: Histogram
    switches: Switches
    leader: tuple[str, bool, int]
    history: HistoryStatus
    log_lines_lost: int


MetricType: TypeAlias = Literal["counter", "gauge", "histogram", "info"]
Value: TypeAlias = "float | Histogram | Mapping[Any, Value] | None"
"""A number or a histogram, None for no series, or such values by the next label of the family.

A key is the value of one label, or a tuple of the values of several.
"""


@dataclass(frozen=True, slots=True)
class Label:
    """A label of a family.

    Attributes:
        about: What its values mean.
        values: All possible values; empty where any text is possible.
    """

    name: str
    about: str = ""
    values: tuple[str, ...] = ()

    def zeros(self) -> dict[str, int]:
        """Each value with 0: its series is there before anything is counted."""
        return dict.fromkeys(self.values, 0)


@dataclass(frozen=True, slots=True)
class Family:
    """One metric; the name is without prefix and suffix of its type.

    Attributes:
        value: Called in a worker thread with facts that no longer change.
        appears: When it has series; empty where it always has.
    """

    type: MetricType
    name: str
    help: str
    value: Callable[[MetricsFacts], Value]
    labels: tuple[Label, ...] = ()
    appears: str = ""

    @property
    def exposed_name(self) -> str:
        """The name in a query: with prefix, and the suffix of its type."""
        suffix = {"counter": "_total", "info": "_info"}.get(self.type, "")
        return PREFIX + self.name + suffix
