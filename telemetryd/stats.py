"""Plain integer counters that their owners move and ``serve.metrics`` reads at scrape.

Nothing here knows Prometheus. Each counter has one owner, all on the event loop's thread;
the scrape copies them on that thread before it renders elsewhere.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from telemetryd.model import ConfigStatus

DURATION_BUCKETS_S = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
"""Upper bounds in seconds: from a memoised snapshot to the longest attempt in practice. Each is a
series for every exporter, three times."""


class Histogram:
    """Counts of observations per bucket, as a classic Prometheus histogram wants them."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = DURATION_BUCKETS_S) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value, in the unit of the bounds, once or so many times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times


@dataclass(slots=True)
class KubeStats:
    """Requests to the API server, kept by the client.

    Attributes:
        requests: By (HTTP method, status code as text; ``error`` where there was no answer).
        duration: Seconds to the end of the answer, or of its headers for a watch; by method.
    """

    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    duration: dict[str, Histogram] = field(default_factory=dict)


@dataclass(slots=True)
class InformerStats:
    """What one informer did.

    Attributes:
        events: By type ``added``, ``modified``, ``deleted``, ``bookmark``, ``error``, ``unknown``.
        lists: By (result ``success`` or ``error``, reason ``initial``, ``expired``, ``error``,
            ``resync``, ``regression``, ``fallback``).
        watches: By result ``success`` or ``error``.
        watch_terminations: By reason ``timeout``, ``idle``, ``closed``, ``short``, ``expired``,
            ``error``.
        decode_errors: By reason: ``malformed``, ``type``, ``missing``, ``oversize``.
        list_duration: Seconds of whole lists, all pages.
        list_method: How the last whole list came, ``stream`` or ``pages``; empty before the first.
        last_event_at: Unix time in seconds of the last event, None before the first.
        last_contact_at: Unix time in seconds of the last event, bookmark, page or accepted watch.
        last_contact_boot_s: The same as seconds since the machine booted.
    """

    resource: str
    events: Counter[str] = field(default_factory=Counter)
    lists: Counter[tuple[str, str]] = field(default_factory=Counter)
    watches: Counter[str] = field(default_factory=Counter)
    watch_terminations: Counter[str] = field(default_factory=Counter)
    decode_errors: Counter[str] = field(default_factory=Counter)
    list_duration: Histogram = field(default_factory=Histogram)
    list_method: str = ""
    last_event_at: float | None = None
    last_contact_at: float | None = None
    last_contact_boot_s: float | None = None


@dataclass(slots=True)
class GatherStats:
    """What the gatherer did: seconds to build a snapshot, and the number of the last one."""

    build_duration: Histogram = field(default_factory=Histogram)
    generation: int = 0


@dataclass(slots=True)
class ExporterStats:
    """What one exporter did, kept by the manager.

    Attributes:
        runs: By result: ``success``, ``unchanged``, ``failure``, ``skipped``, ``superseded``.
        attempts: By (result ``success`` or ``failure``, reason or empty).
        retries: By reason of the attempt before.
        skipped_ticks: Slots that passed without a run, by reason ``overrun``, ``suspend``,
            ``retry_after``, ``not_ready``, ``held``.
        collection: Seconds to take the snapshot and render the payload.
        export: Seconds of the exporter's own work per attempt.
        schedule_delay: Seconds between a slot and the start of its run.
        in_flight: 1 while a call of the sink runs, one that ignores its cancellation included.
        spool_items: 1 while a payload that isn't delivered is kept on disk.
        spool_bytes: Its size there.
        spool_dropped: Pending payloads that were lost or dropped, by reason: ``storage`` (it could
            not be written), ``corrupt`` (it could not be read back), ``destination`` or ``format``
            (the exporter has another one now) or ``privacy`` (``[privacy]`` is stricter now).
    """

    runs: Counter[str] = field(default_factory=Counter)
    attempts: Counter[tuple[str, str]] = field(default_factory=Counter)
    retries: Counter[str] = field(default_factory=Counter)
    skipped_ticks: Counter[str] = field(default_factory=Counter)
    collection: Histogram = field(default_factory=Histogram)
    export: Histogram = field(default_factory=Histogram)
    schedule_delay: Histogram = field(default_factory=Histogram)
    sent_bytes: int = 0
    in_flight: int = 0
    spool_items: int = 0
    spool_bytes: int = 0
    spool_dropped: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class ConfigStats:
    """What became of reloads, kept by the reloader.

    Attributes:
        status: The configuration in force, and the last reload.
        reloads: By (result ``success`` or ``failure``, trigger ``signal``, ``control``, ``file``).
    """

    status: ConfigStatus
    reloads: Counter[tuple[str, str]] = field(default_factory=Counter)


@dataclass(slots=True)
class LeaderStats:
    """What became of leader election: how often this replica began or ceased to lead."""

    transitions: int = 0
