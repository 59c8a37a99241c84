"""Which format a client accepts: parses ``Accept`` and ``Accept-Encoding``.

``prometheus_client``'s own parser ignores ``q``, fails on a version that isn't a number, and echoes
the client's version in the answer.
"""

from collections.abc import Iterator
from dataclasses import dataclass

_OPENMETRICS = "application/openmetrics-text"
_TEXT = "text/plain"
_MOST_PARTS = 64


@dataclass(frozen=True, slots=True)
class _Part:
    value: str
    parameters: dict[str, str]
    weight: float


def wants_openmetrics(accept: str) -> bool:
    """Whether ``Accept`` names OpenMetrics 1 and prefers it to Prometheus text (RFC 9110)."""
    offers = [
        part
        for part in _parts(accept)
        if part.weight > 0
        and (
            part.value == _TEXT
            or (
                part.value == _OPENMETRICS
                and part.parameters.get("version", "1").split(".")[0] == "1"
            )
        )
    ]
    best = max(offers, key=lambda part: part.weight, default=None)  # the first of equals
    return best is not None and best.value == _OPENMETRICS


def wants_gzip(accept_encoding: str) -> bool:
    """Whether a gzip body may be sent (RFC 9110): named, or by ``*``, and not with ``q=0``."""
    weights = {part.value: part.weight for part in _parts(accept_encoding)}
    return weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0))) > 0


def _parts(header: str) -> Iterator[_Part]:
    for part in header.split(",", _MOST_PARTS)[:_MOST_PARTS]:
        value, *rest = (piece.strip().lower() for piece in part.split(";"))
        if value:
            pairs = (piece.partition("=") for piece in rest)
            parameters = {name.strip(): given.strip().strip('"') for name, _, given in pairs}
            yield _Part(value, parameters, _weight(parameters.get("q", "1")))


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        return 0.0
    return weight if 0 <= weight <= 1 else 0.0
