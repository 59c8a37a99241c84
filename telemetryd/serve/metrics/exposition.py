"""The text of a scrape, made with prometheus_client.

Imported at the first scrape, in the thread that renders: until then no daemon needs the library.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, islice

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from telemetryd.bounds import encodable
from telemetryd.serve.metrics.families import FAMILIES
from telemetryd.serve.metrics.family import PREFIX, Family, MetricsFacts, Value
from telemetryd.stats import Histogram

_EOF = b"# EOF\n"
"""The end of OpenMetrics, and of no line of a metric."""

_HEAD_LINES = 2
"""Help and type of a metric; none of ours has a unit."""
_PART_VALUES = 100
"""Of the first label of a metric: what is made of them at a time."""

MOST_LABEL_CHARS = 512
"""Of a value: the name of an exporter may hold that of a SecretRequest, which has 253."""


class Exposer(Collector):
    """Makes the text of all families, and of the process; for one thread at a time."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._shown: MetricsFacts | None = None
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def describe(self) -> Iterable[Metric]:
        """The names, so that the registry finds duplicates and answers ``name[]``."""
        return [_to_metric(family, None) for family in FAMILIES]

    def collect(self) -> Iterable[Metric]:
        """The families that have series, large ones in parts; called by the registry."""
        if (facts := self._shown) is not None:
            for family in FAMILIES:
                parts = (_to_metric(family, part) for part in _parts(family.value(facts)))
                yield from (metric for metric in parts if metric.samples)

    def render(
        self, facts: MetricsFacts, names: Sequence[str], *, as_openmetrics: bool
    ) -> Iterator[bytes]:
        """The text, a part of a metric at a time; ``names`` are the only metrics, empty for all.

        That of a thousand exporters has megabytes, and takes several times as much while it is
        made, which Python's allocator would not give back.
        """
        self._shown = facts
        shown = self._registry.restricted_registry(names) if names else self._registry
        encode = openmetrics.generate_latest if as_openmetrics else generate_latest
        begun = ""
        try:
            for metric in shown.collect():
                text = encode(_Alone(metric)).removesuffix(_EOF)
                yield text if metric.name != begun else text.split(b"\n", _HEAD_LINES)[_HEAD_LINES]
                begun = metric.name
        finally:
            self._shown = None  # a copy of every counter
        if as_openmetrics:
            yield _EOF


class _Alone(Collector):
    """A metric, as prometheus_client takes metrics to write them down."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        """That metric."""
        yield self._metric


def _parts(value: Value) -> Iterator[Value]:
    """The value, a mapping of many labels in parts."""
    if not isinstance(value, Mapping) or len(value) <= _PART_VALUES:
        yield value
        return
    items = iter(value.items())
    while part := dict(islice(items, _PART_VALUES)):
        yield part


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
