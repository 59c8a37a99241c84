"""The document that a benchmark leaves: every sample, and what it was measured on.

How the figures are judged is ``goals``'s, how they are shown ``report``'s and ``plot``'s.
"""

from pathlib import Path
from typing import Final

import msgspec

from benchmarks.figures import Spread, summarise

TELEMETRYD: Final = "telemetryd"
PAGES: Final = "telemetryd, pages"
CLIENT_GO: Final = "client-go"
KUBERNETES_ASYNCIO: Final = "kubernetes_asyncio"
LIGHTKUBE: Final = "lightkube"
DROPPED: Final = "pages fetched and dropped"
DROPPED_STREAM: Final = "stream read and dropped"
DROPPED_PROTOBUF: Final = "protobuf stream read and dropped"
CLIENT_GO_OLD: Final = "client-go, older"
KUBE_STATE_METRICS: Final = "kube-state-metrics"

UNIFORM: Final = "uniform"
REAL: Final = "real"
CORE: Final = "core"
"""Names of fleets."""


class Section(msgspec.Struct, frozen=True):
    """All that was measured on one fleet.

    Attributes:
        fleet: Its name.
        server: In words, with its version.
        nodes: Objects of each kind follow from it; likewise ``clusters``.
        json_bytes: Of all nodes together.
        holders: Samples of each figure (in seconds or bytes), by holder.
    """

    fleet: str
    server: str
    nodes: int
    clusters: int
    json_bytes: int
    holders: dict[str, dict[str, list[float]]]

    def spread(self, holder: str, figure: str) -> Spread | None:
        """Median, least and most of a figure; None where it wasn't measured."""
        samples = self.holders.get(holder, {}).get(figure)
        return summarise(samples) if samples else None


class Results(msgspec.Struct, frozen=True):
    """One run of the benchmark.

    Attributes:
        taken_at: RFC 3339.
        machine: What it ran on, by name.
        versions: Of everything that took part.
        sections: One for each fleet.
        inside: What ``inprocess`` measured, by fleet and number of nodes.
        history: What ``history`` measured.
        busy: A loop kept one core busy all the while.
    """

    taken_at: str
    machine: dict[str, str]
    versions: dict[str, str]
    sections: list[Section]
    inside: dict[str, dict[int, dict[str, float]]]
    history: dict[str, float] = {}
    busy: bool = False

    def ordered(self, fleet: str = "") -> list[Section]:
        """The sections of that fleet or of all, the smallest first."""
        chosen = (section for section in self.sections if fleet in {"", section.fleet})
        return sorted(chosen, key=lambda section: section.nodes)

    def near(self, fleet: str, nodes: int) -> Section | None:
        """The section of about so many nodes of that fleet; the local cluster's come on top."""
        return next((s for s in self.ordered(fleet) if nodes <= s.nodes < nodes * 1.1), None)


def save(results: Results, path: Path) -> None:
    """Write the document, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(".new")
    written.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1))
    written.rename(path)


def load(path: Path) -> Results:
    """Read a document."""
    return msgspec.json.decode(path.read_bytes(), type=Results)
