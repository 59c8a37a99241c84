"""The text of a scrape, made with prometheus_client.

Imported at the first scrape, in the thread that renders: until then no daemon needs the library.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate

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

_CONTENT_TYPE_OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

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
        """The families that have series; called by the registry."""
        if (facts := self._shown) is not None:
            metrics = (_to_metric(family, family.value(facts)) for family in FAMILIES)
            yield from (metric for metric in metrics if metric.samples)

    def render(
        self, facts: MetricsFacts, names: Sequence[str], *, as_openmetrics: bool
    ) -> tuple[bytes, str]:
        """The text and its content type; ``names`` are the only metrics, empty for all."""
        self._shown = facts
        shown = self._registry.restricted_registry(names) if names else self._registry
        encode: Callable[[Collector], bytes] = (
            openmetrics.generate_latest if as_openmetrics else generate_latest
        )
        try:
            return encode(shown), (
                _CONTENT_TYPE_OPENMETRICS if as_openmetrics else CONTENT_TYPE_PLAIN_0_0_4
            )
        finally:
            self._shown = None  # a copy of every counter


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
