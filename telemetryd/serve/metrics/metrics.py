"""Answers to scrapes of ``/metrics``, rendered in a worker thread.

Which metrics there are and where their values come from is in ``families``.
"""

import gzip
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TypeVar

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
from telemetryd.serve.metrics.families import FAMILIES
from telemetryd.serve.metrics.family import PREFIX, Family, MetricsFacts, Value
from telemetryd.stats import Histogram

_GZIP_LEVEL = 5  # the last percent of size isn't worth the CPU of a small daemon
_OPENMETRICS = "application/openmetrics-text"
_CONTENT_TYPE_OPENMETRICS = f"{_OPENMETRICS}; version=1.0.0; charset=utf-8"
_MOST_PARTS = 64
"""Of a header."""

MOST_LABEL_CHARS = 512
"""Of a value: the name of an exporter may hold that of a SecretRequest, which has 253."""

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Exposition:
    """The answer to a scrape."""

    body: bytes
    content_type: str
    content_encoding: str


class MetricsRenderer(Collector):
    """Answers scrapes: copies on the event loop's thread, renders in one worker thread."""

    def __init__(self, facts: Callable[[], MetricsFacts]) -> None:
        """Register the metrics.

        ``facts`` is called on the event loop's thread; its counters may be the live ones.
        """
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._facts = facts
        self._shown: MetricsFacts | None = None
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._one_at_a_time = anyio.CapacityLimiter(1)

    def describe(self) -> Iterable[Metric]:
        """The names, so that the registry finds duplicates and answers ``name[]``."""
        return [_to_metric(family, None) for family in FAMILIES]

    def collect(self) -> Iterable[Metric]:
        """The families that have series; called by the registry."""
        if (facts := self._shown) is not None:
            metrics = (_to_metric(family, family.value(facts)) for family in FAMILIES)
            yield from (metric for metric in metrics if metric.samples)

    async def render(
        self, *, accept: str = "", accept_encoding: str = "", names: Sequence[str] = ()
    ) -> Exposition:
        """Render the current values.

        ``names`` are the only metrics to render; empty for all.
        """
        async with self._one_at_a_time:
            facts = freeze(self._facts())
            return await anyio.to_thread.run_sync(
                self._render,
                facts,
                wants_openmetrics(accept),
                wants_gzip(accept_encoding),
                tuple(names),
            )

    def _render(
        self,
        facts: MetricsFacts,
        as_openmetrics: bool,  # noqa: FBT001 - run_sync passes no keywords
        as_gzip: bool,  # noqa: FBT001
        names: tuple[str, ...],
    ) -> Exposition:
        self._shown = facts
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


def freeze(facts: MetricsFacts) -> MetricsFacts:
    """The same with copies of all counters, which their owners don't move."""
    return replace(
        facts,
        informers=tuple((status, _copy(stats)) for status, stats in facts.informers),
        exporters=tuple((status, _copy(stats)) for status, stats in facts.exporters),
        kube=_copy(facts.kube),
        gather=_copy(facts.gather),
        config=_copy(facts.config),
        loop_lag=_copy(facts.loop_lag),
    )


def _copy(stats: S) -> S:
    """A copy of a class of ``telemetryd.stats``; much faster than ``copy.deepcopy``."""
    twin: S = object.__new__(type(stats))
    for name in stats.__slots__:  # type: ignore[attr-defined]
        value = getattr(stats, name)
        kind = type(value)
        if kind is Counter:
            value = dict(value)
        elif kind is list:
            value = value.copy()
        elif kind is dict:
            value = {key: _copy(each) for key, each in value.items()}
        elif kind is Histogram:
            value = _copy(value)
        setattr(twin, name, value)
    return twin


def _to_metric(family: Family, value: Value) -> Metric:
    metric = Metric(PREFIX + family.name, family.help, family.type)
    names = [label.name for label in family.labels]
    _add_samples(metric, family.exposed_name, names, {}, value)
    return metric


def _add_samples(
    metric: Metric, name: str, names: Sequence[str], labels: dict[str, str], value: Value
) -> None:
    """Add the samples of a value that has some labels; ``names`` are all that the family has."""
    if value is None:
        return
    if isinstance(value, int | float):
        metric.add_sample(name, labels, value)
    elif isinstance(value, Histogram):
        _add_histogram(metric, name, labels, value)
    else:
        further = names[len(labels) :]
        for key, part in value.items():
            texts = (key,) if isinstance(key, str) else key
            # A text that can't be encoded or is too long is shown as far as it can be.
            named = {
                label: encodable(text, MOST_LABEL_CHARS)
                for label, text in zip(further, texts, strict=False)
            }
            _add_samples(metric, name, names, {**labels, **named}, part)


def _add_histogram(metric: Metric, name: str, labels: dict[str, str], value: Histogram) -> None:
    """Add the samples of a classic histogram, whose buckets are cumulative."""
    bounds = (*(repr(float(bound)) for bound in value.bounds), "+Inf")
    cumulative = list(accumulate(value.counts))
    for bound, count in zip(bounds, cumulative, strict=True):
        metric.add_sample(name + "_bucket", {**labels, "le": bound}, count)
    metric.add_sample(name + "_count", labels, cumulative[-1])
    metric.add_sample(name + "_sum", labels, value.total)


def wants_openmetrics(accept: str) -> bool:
    """Whether ``Accept`` names OpenMetrics 1 and prefers it to Prometheus text (RFC 9110).

    ``prometheus_client``'s own parser ignores ``q``, fails on a version that isn't a number, and
    echoes the client's version in the answer.
    """
    best, highest = "", 0.0
    for value, parameters, weight in _parts(accept):
        is_ours = value == _OPENMETRICS and parameters.get("version", "1").split(".")[0] == "1"
        if (is_ours or value == "text/plain") and weight > highest:  # the first of equals
            best, highest = value, weight
    return best == _OPENMETRICS


def wants_gzip(accept_encoding: str) -> bool:
    """Whether a gzip body may be sent (RFC 9110): named, or by ``*``, and not with ``q=0``."""
    weights = {value: weight for value, _, weight in _parts(accept_encoding)}
    return weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0))) > 0


def _parts(header: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """The values in a header, with their parameters and weights."""
    for part in header.split(",", _MOST_PARTS)[:_MOST_PARTS]:
        value, *rest = (piece.strip().lower() for piece in part.split(";"))
        if value:
            pairs = (piece.partition("=") for piece in rest)
            parameters = {name.strip(): given.strip().strip('"') for name, _, given in pairs}
            yield value, parameters, _weight(parameters.get("q", "1"))


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        return 0.0
    return weight if 0 <= weight <= 1 else 0.0
