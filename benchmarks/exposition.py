"""Reads what the daemon shows of itself: GET, and the Prometheus text format."""

import http.client
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_TIMEOUT_S = 30.0
_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Exposition:
    """All samples of one scrape.

    Attributes:
        samples: (name, labels, value) in the order they came.
    """

    samples: tuple[tuple[str, Mapping[str, str], float], ...]

    def select(self, name: str, **labels: str) -> Iterator[tuple[Mapping[str, str], float]]:
        """The samples of this name that have these labels, among others."""
        for sample, its_labels, value in self.samples:
            if sample == name and labels.items() <= its_labels.items():
                yield its_labels, value

    def value(self, name: str, **labels: str) -> float:
        """Their sum; 0 where there is none."""
        return sum(value for _, value in self.select(name, **labels))

    def cumulative(self, name: str, **labels: str) -> list[tuple[float, float]]:
        """(upper bound, observations up to it) of a histogram, summed over other labels."""
        sums: dict[float, float] = {}
        for its_labels, value in self.select(f"{name}_bucket", **labels):
            bound = math.inf if its_labels["le"] == "+Inf" else float(its_labels["le"])
            sums[bound] = sums.get(bound, 0.0) + value
        return sorted(sums.items())


def parse(text: str) -> Exposition:
    """The samples of a text exposition."""
    found = (_SAMPLE.fullmatch(line) for line in text.splitlines() if not line.startswith("#"))
    return Exposition(
        tuple(
            (match[1], dict(_LABEL.findall(match[2] or "")), float(match[3]))
            for match in found
            if match is not None
        )
    )


def fetch(port: int, path: str) -> str:
    """The body of a GET on loopback.

    Raises:
        OSError: There was no answer, or none that says 200.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read().decode()
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK:
        raise OSError(f"GET {path}: {response.status} {body[:200]}")
    return body
