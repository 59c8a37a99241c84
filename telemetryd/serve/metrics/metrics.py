"""Answers to scrapes of ``/metrics``, rendered in a worker thread.

Which metrics there are and where their values come from is in ``families``; ``exposition`` makes
their text.
"""

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeVar

import anyio
import anyio.to_thread

from telemetryd.serve.metrics.family import MetricsFacts
from telemetryd.stats import Histogram

if TYPE_CHECKING:
    from telemetryd.serve.metrics.exposition import Exposer

_GZIP: Final = 16 + zlib.MAX_WBITS
"""The format, without a time."""
_GZIP_LEVEL = 5  # the last percent of size isn't worth the CPU of a small daemon
_OPENMETRICS = "application/openmetrics-text"
_CONTENT_TYPES: Final = (
    "text/plain; version=0.0.4; charset=utf-8",
    f"{_OPENMETRICS}; version=1.0.0; charset=utf-8",
)
"""Of Prometheus text and of OpenMetrics."""
_MOST_PARTS = 64
"""Of a header."""

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Exposition:
    """The answer to a scrape."""

    body: bytes
    content_type: str
    content_encoding: str


class MetricsRenderer:
    """Answers scrapes: copies on the event loop's thread, renders in one worker thread."""

    def __init__(self, facts: Callable[[], MetricsFacts]) -> None:
        """Nothing is imported or registered before the first scrape.

        ``facts`` is called on the event loop's thread; its counters may be the live ones.
        """
        self._facts = facts
        self._exposer: Exposer | None = None
        self._one_at_a_time = anyio.CapacityLimiter(1)

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
        from telemetryd.serve.metrics.exposition import Exposer  # noqa: PLC0415 - at the first scrape

        self._exposer = self._exposer or Exposer()
        parts = self._exposer.render(facts, names, as_openmetrics=as_openmetrics)
        if as_gzip:
            parts = _compressed(parts)
        return Exposition(
            body=b"".join(parts),
            content_type=_CONTENT_TYPES[as_openmetrics],
            content_encoding="gzip" if as_gzip else "",
        )


def _compressed(parts: Iterable[bytes]) -> Iterator[bytes]:
    squeezer = zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP)
    yield from map(squeezer.compress, parts)
    yield squeezer.flush()


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
