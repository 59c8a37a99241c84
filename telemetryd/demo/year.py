"""A year that never was: how the demo's fleet might have grown, for its history.

Every slot has the mark ``made up`` in its version, so that a report of it can't be taken for a real
one. What the daemon of the demo sees itself comes after it.
"""

import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Final

from telemetryd.history.slots import DAY_S, HOUR_S, Cell, Gap, Slot, join, slot_start
from telemetryd.history.sqlite import open_store

MADE_UP: Final = "made up"
DAYS: Final = 365
_BEGAN_AT: Final = 0.4
"""Of the nodes and clusters at the end."""
_OUTAGE: Final = range(150 * 24 + 7, 151 * 24 + 20)
"""Hours, counted from the beginning, in which no daemon ran."""
_INCOMPLETE: Final = range(230 * 24, 230 * 24 + 9)
_VERSIONS: Final = ((0, "v2.13.4"), (120, "v2.14.1"), (290, "v2.15.0"))
"""From which day on."""


def write_year(
    folder: Path, installation: str, *, clusters: int, nodes: int, now: float, seed: int
) -> None:
    """Make a store and fill it, in one transaction; blocks for about half a second.

    Args:
        folder: The state folder of the demo, before its daemon runs.
        installation: The demo's install UUID.
        clusters: Managed clusters at the end of the year, which is the beginning of this hour.
        nodes: Their nodes.
        now: Unix time in seconds.
        seed: Of what is drawn.

    Raises:
        HistoryError: It can't be written.
    """
    hours = list(_hours(clusters, nodes, slot_start(now, HOUR_S), Random(seed)))
    with closing(open_store(folder, now=lambda: now)) as store:
        store.merge((installation, slot) for slot in (*hours, *_days(hours)))


def _hours(clusters: int, nodes: int, end: int, rng: Random) -> Iterator[Slot]:
    count = DAYS * 24
    burst = 0
    for number in range(count):
        start = end - (count - number) * HOUR_S
        if number in _OUTAGE:
            yield Slot(HOUR_S, start, gaps={Gap.DOWN: float(HOUR_S)})
            continue
        share = _BEGAN_AT + (1 - _BEGAN_AT) * (number / count) ** 1.3
        # More by day than by night, and now and then some nodes for a job.
        swing = 1 + 0.03 * math.sin(2 * math.pi * number / 24)
        burst = rng.randint(2, 8) * (nodes // 50) if rng.random() < 1 / 500 else burst * 3 // 4
        managed = round(nodes * share * swing)
        yield _hour(start, number, round(clusters * share), managed, managed + burst)


def _hour(start: int, number: int, clusters: int, low: int, high: int) -> Slot:
    complete = number not in _INCOMPLETE
    newer = round(clusters * min(1.0, number / (DAYS * 24)))
    values = {
        "clusters.entitled": (clusters, clusters),
        "clusters.all": (clusters + 1, clusters + 1),
        "nodes.entitled": (low, high),
        "nodes.all": (low + 3, high + 3),
        "clusters.provider.rke2": (clusters - clusters // 3, clusters - clusters // 3),
        "clusters.provider.k3s": (clusters // 3, clusters // 3),
        "clusters.kubernetes.1.33": (clusters - newer, clusters - newer),
        "clusters.kubernetes.1.34": (newer, newer),
    }
    cells = {
        name: Cell(most, least, least, least, (least + most) / 2) if complete else Cell(most)
        for name, (least, most) in values.items()
    }
    version = next(name for day, name in reversed(_VERSIONS) if number >= day * 24)
    whole = float(HOUR_S)
    return Slot(
        HOUR_S,
        start,
        whole,
        whole if complete else 0.0,
        complete,
        {} if complete else {Gap.INCOMPLETE: whole},
        f"{version} ({MADE_UP})",
        cells,
    )


def _days(hours: list[Slot]) -> Iterator[Slot]:
    by_day: dict[int, list[Slot]] = {}
    for hour in hours:
        by_day.setdefault(slot_start(hour.start, DAY_S), []).append(hour)
    for start, parts in by_day.items():
        yield join(DAY_S, start, parts)
