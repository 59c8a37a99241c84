"""A fleet's past to serve: slots in memory, as a store would give them, of each state."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import anyio
import anyio.lowlevel

from telemetryd.errors import HistoryError
from telemetryd.history.entitlement import PRESETS, Entitlement
from telemetryd.history.slots import DAY_S, HOUR_S, MINUTE_S, Cell, Gap, Slot, join, slot_start
from telemetryd.model import HistoryStatus, Switch, Switches
from telemetryd.serve.page.facts import HistoryFacts
from tests.serve.facts import INSTALL_UUID, NOW
from tests.serve.states import HOSTILE

BEGAN = int(datetime(2026, 1, 5, 9, tzinfo=UTC).timestamp())
"""In the oldest of the 13 months before ``NOW``."""
KEPT = HistoryStatus(enabled=True, samples=12, last_sample_at=NOW - 4, licenses=16, limit=15)
RULE = replace(PRESETS["aws-csp"], limit=15)
FACTS = HistoryFacts(
    NOW, KEPT, RULE, INSTALL_UUID, "rancher-1", "SQLite, /var/lib/telemetryd/history.db"
)
UNKNOWN = HistoryFacts(NOW, HistoryStatus(enabled=True), Entitlement())
OUTAGES = {
    (5300, 5420): Gap.DOWN,
    (6800, 6830): Gap.OFF,
    (7000, 7003): Gap.CLOCK,
    (8985, 8990): Gap.DOWN,
}
"""Hours since ``BEGAN`` that aren't known, and why."""
IN_PART = range(8800, 8806)
"""Hours since ``BEGAN`` in which not everything was read."""


@dataclass
class Past:
    """What a store would hold; ``reads`` has size, begin and end of each read.

    Attributes:
        trouble: Why it can't be read.
        hangs: It never answers.
    """

    facts: HistoryFacts = UNKNOWN
    slots: dict[int, list[Slot]] = field(default_factory=dict)
    trouble: str = ""
    hangs: bool = False
    reads: list[tuple[int, float, float]] = field(default_factory=list)

    async def read(self, size_s: int, begin: float, end: float, series: str) -> Sequence[Slot]:
        self.reads.append((size_s, begin, end))
        await anyio.lowlevel.checkpoint()
        if self.hangs:
            await anyio.sleep_forever()
        if self.trouble:
            raise HistoryError(self.trouble)
        return [
            replace(
                slot,
                cells={name: cell for name, cell in slot.cells.items() if series in ("", name)},
            )
            for slot in self.slots.get(size_s, ())
            if begin <= slot.start < end
        ]


def nodes_at(hour: int) -> int:
    """A fleet that grows, breathes by day and shrinks once."""
    shrunk = 40 if hour > 4000 else 0
    return round(180 + hour / 55 - shrunk + 6 * math.sin(hour / 24 * math.tau))


def hours(first: int, last: int) -> Iterator[Slot]:
    """Hours since ``BEGAN``, from the first to before the last."""
    for number in range(first, last):
        start = BEGAN + number * HOUR_S
        gap = next((why for (begin, end), why in OUTAGES.items() if begin <= number < end), None)
        if gap is not None:
            yield Slot(HOUR_S, start, gaps={gap: float(HOUR_S)})
            continue
        nodes = nodes_at(number)
        high = nodes + (90 if number % 2000 == 1234 else number % 3)
        whole = Cell(high, nodes, nodes, nodes, nodes + 0.25)
        cell = Cell(high) if number in IN_PART else whole
        yield Slot(
            HOUR_S,
            start,
            float(HOUR_S),
            0.0 if number in IN_PART else float(HOUR_S),
            number not in IN_PART,
            {Gap.INCOMPLETE: float(HOUR_S)} if number in IN_PART else {},
            "v2.15.0",
            {
                "nodes.entitled": cell,
                "nodes.all": cell._replace(high=cell.high + 3),
                "clusters.provider.rke2": Cell(19, 19, 19, 19, 19.0),
                "clusters.provider.eks": Cell(2, 2, 2, 2, 2.0),
                "clusters.kubernetes.1.33": Cell(21, 21, 21, 21, 21.0),
            },
        )


def past_of(first: int, facts: HistoryFacts, until: float = NOW) -> Past:
    """Hours from the first to a time, their days, and the minutes of the last two days."""
    of_hours = list(hours(first, math.ceil((until - BEGAN) / HOUR_S)))
    by_day: dict[int, list[Slot]] = {}
    for slot in of_hours:
        by_day.setdefault(slot_start(slot.start, DAY_S), []).append(slot)
    of_days = [join(DAY_S, start, parts) for start, parts in by_day.items()]
    of_minutes = [
        replace(
            slot,
            size_s=MINUTE_S,
            start=slot.start + minute * MINUTE_S,
            known_s=slot.known_s / 60,
            complete_s=slot.complete_s / 60,
            gaps={gap: seconds / 60 for gap, seconds in slot.gaps.items()},
        )
        for slot in of_hours[-48:]
        for minute in range(60)
        if slot.start + minute * MINUTE_S < until - MINUTE_S
    ]
    return Past(facts, {HOUR_S: of_hours, DAY_S: of_days, MINUTE_S: of_minutes})


_NOW_HOUR = int((NOW - BEGAN) // HOUR_S)
_TROUBLE = "history: database or disk is full"

PASTS = {
    "nothing known": Past(replace(FACTS, status=HistoryStatus(enabled=True), installation="")),
    "a day": past_of(
        _NOW_HOUR - 20,
        replace(FACTS, rule=Entitlement(), status=replace(KEPT, licenses=None, limit=None)),
    ),
    "13 months": past_of(0, FACTS),
    "off": Past(
        replace(
            FACTS,
            status=replace(KEPT, licenses=None),
            off=Switches(frozenset({Switch.DO_NOT_TRACK})).detail,
        )
    ),
    "unwritable": past_of(
        _NOW_HOUR - 700,
        replace(FACTS, rule=replace(RULE, limit=40), status=replace(KEPT, trouble=_TROUBLE)),
        NOW - 3 * HOUR_S,
    ),
    "unreadable": replace(past_of(0, FACTS), trouble="history: disk I/O error"),
    "hostile": past_of(
        _NOW_HOUR - 20,
        replace(
            FACTS,
            instance=HOSTILE,
            store=f"SQLite, /{HOSTILE}",
            status=replace(KEPT, trouble=HOSTILE),
        ),
    ),
}
"""By name; ``hostile`` has in its texts what could be mistaken for a part of the page."""
