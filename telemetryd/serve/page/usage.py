"""What the pages show of the fleet's past, read from the store at most once a minute.

Each read is at most a month of hours, so that what writes the store gets its turn in between.
"""

import math
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final, TypeAlias, TypeVar

import anyio
import anyio.to_thread

from telemetryd.errors import HistoryError
from telemetryd.history.charts import NO_RECORD, REASONS, Point, points_of, thinned
from telemetryd.history.entitlement import Entitlement
from telemetryd.history.report import (
    MONTH,
    Period,
    Report,
    calendar,
    make_period,
    month_of,
    slots_inside,
)
from telemetryd.history.slots import DAY_S, HOUR_S, MINUTE_S, Gap, Slot, slot_start
from telemetryd.serve.page.facts import HistoryFacts

T = TypeVar("T")

ReadSlots: TypeAlias = Callable[[int, float, float, str], Awaitable[Sequence[Slot]]]
"""Size in seconds, begin, end and series: the slots that begin in [begin, end), with its cells.

An empty series stands for all of them.

Raises HistoryError where the store can't be read.
"""

MONTHS_BEFORE: Final = 12
"""Shown before the month that is not over."""
READ_TIMEOUT_S: Final = 5.0
"""Those who wait for a store that hangs keep others from an answer."""
PATIENCE_S: Final = 1.0
"""The front page waits less."""
SPARK_POINTS: Final = 160
_SPARK_S: Final = 30 * DAY_S
_DAYS_READ: Final = 1440 * DAY_S
_YEARS_KEPT: Final = 10
"""``history.keep_daily`` may be no longer."""
_WRITTEN_WITHIN: Final = 2
"""The newest slots are not missing but not written yet: so many are left out of a chart."""


@dataclass(frozen=True, slots=True)
class Missed:
    """Seconds of a reason why something is not known, or only in part."""

    seconds: float
    why: str
    in_part: bool


@dataclass(frozen=True, slots=True)
class Stretch:
    """A line of a table: what is known of an hour, a day or a month."""

    begin: datetime
    low: float | None
    mean: float | None
    high: float | None
    missed: tuple[Missed, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """What is drawn of some time, and the same in fewer lines.

    Attributes:
        name: A fragment: ``day``.
        points: Bounded in number.
        each: What a line of the table is: ``hour``.
        missed: In the whole of the time.
    """

    name: str
    heading: str
    points: tuple[Point, ...]
    each: str
    table: tuple[Stretch, ...]
    missed: tuple[Missed, ...]


@dataclass(frozen=True, slots=True)
class Usage:
    """What is shown.

    Attributes:
        report: By month; None where nothing is known.
        since: The beginning of the first hour known.
        trouble: Why the store can't be read, empty where it can.
    """

    report: Report | None = None
    since: datetime | None = None
    charts: tuple[Chart, ...] = ()
    trouble: str = ""


class UsageReader:
    """Reads what is shown, once for all who ask in a minute."""

    def __init__(self, facts: Callable[[], HistoryFacts], read: ReadSlots) -> None:
        """Nothing is read before someone asks."""
        self._facts = facts
        self._read = read
        self._lock = anyio.Lock()
        self._one_at_a_time = anyio.CapacityLimiter(1)
        self._usage: tuple[tuple[object, ...], Usage] = (), Usage()
        self._nodes: tuple[tuple[object, ...], tuple[Point, ...]] = (), ()
        self._over: tuple[tuple[object, ...], _Over] = (), _Over()

    async def usage(self) -> Usage:
        """What is known by the rule of the entitlement; while that is read, what was before."""
        facts = self._facts()
        key = _key(facts)
        former, usage = self._usage
        if former == key or (self._lock.locked() and former[1:] == key[1:]):
            return usage
        async with self._lock:
            if self._usage[0] != key:
                self._usage = key, await self._make(facts)
            return self._usage[1]

    async def nodes(self) -> tuple[Point, ...]:
        """All nodes in the last 30 days; what was known before where the store takes too long."""
        facts = self._facts()
        key = _key(facts)
        if self._nodes[0] != key:
            self._nodes = key, self._nodes[1] if self._nodes[0][1:] == key[1:] else ()
            with anyio.move_on_after(PATIENCE_S):
                self._nodes = key, await self._read_nodes(facts)
        return self._nodes[1]

    async def _read_nodes(self, facts: HistoryFacts) -> tuple[Point, ...]:
        if not _is_kept(facts):
            return ()
        rule = Entitlement(scope="all")
        try:
            hours = await self._read(HOUR_S, facts.now - _SPARK_S, facts.now, rule.series)
        except HistoryError:
            return ()
        if not any(slot.known for slot in hours):
            return ()
        begin, now = _moment(facts.now - _SPARK_S), _moment(facts.now)
        points = await self._in_thread(partial(_points, hours, rule, begin, now, HOUR_S))
        return tuple(thinned(points, SPARK_POINTS))

    async def _make(self, facts: HistoryFacts) -> Usage:
        if not _is_kept(facts):
            return Usage()
        try:
            with anyio.fail_after(READ_TIMEOUT_S):
                return await self._read_all(facts)
        except TimeoutError:
            return Usage(trouble=f"the store takes longer than {READ_TIMEOUT_S:g} s")
        except HistoryError as error:
            return Usage(trouble=str(error))

    async def _read_all(self, facts: HistoryFacts) -> Usage:
        """Read it part by part.

        Raises:
            HistoryError: The store can't be read.
        """
        now = _moment(facts.now)
        over = await self._of_this_hour(facts)
        since = over.since
        if since is None:
            return Usage()
        first = month_of(now)
        for _ in range(MONTHS_BEFORE):
            first = month_of(first - timedelta(days=1))
        months = await self._months(facts, over.months, max(first, since), now)
        periods = tuple(period for period, _ in months)
        report = Report(facts.installation, facts.instance, since, now, MONTH, facts.rule, periods)
        year = await self._slots(facts, DAY_S, first, now)
        charts = (
            await self._chart(facts, "day", "Last 24 hours", (MINUTE_S, HOUR_S), 1),
            await self._chart(facts, "month", "Last 30 days", (HOUR_S, DAY_S), 30),
            Chart(
                "year",
                f"Last {MONTHS_BEFORE + 1} months",
                tuple(
                    thinned(await self._in_thread(partial(_points, year, facts.rule, first, now)))
                ),
                "month",
                tuple(stretch for _, stretch in months),
                _missed(year, facts.now - first.timestamp()),
            ),
        )
        return Usage(report, since, charts)

    async def _of_this_hour(self, facts: HistoryFacts) -> "_Over":
        """What was found out in this hour, if the beginning of it all is still there."""
        key = (facts.now // HOUR_S, *_key(facts)[1:])
        since = self._over[1].since
        if self._over[0] != key or since is None or not await self._is_known(facts, since):
            self._over = key, _Over(await self._find_beginning(facts))
        return self._over[1]

    async def _is_known(self, facts: HistoryFacts, at: datetime) -> bool:
        day = slot_start(at.timestamp(), DAY_S)
        found = await self._read(DAY_S, day, day + DAY_S, facts.rule.series)
        return any(slot.known for slot in found)

    async def _months(
        self,
        facts: HistoryFacts,
        over: dict[datetime, tuple[Period, Stretch]],
        first: datetime,
        now: datetime,
    ) -> list[tuple[Period, Stretch]]:
        """Each month; those that are over are counted again after an hour."""
        spans = [*calendar(first, now, MONTH)]
        unread = next((lower for lower, _ in spans if lower not in over), now)
        days = await self._read(DAY_S, unread.timestamp(), now.timestamp(), "")
        months = []
        for lower, upper in spans:
            month = over.get(lower)
            if month is None:
                end = min(upper, now)
                hours = await self._slots(facts, HOUR_S, lower, end)
                count = partial(_month, facts, (lower, upper), end, hours, days)
                month = await self._in_thread(count)
            if upper <= now:
                over[lower] = month
            months.append(month)
        return months

    async def _chart(
        self, facts: HistoryFacts, name: str, heading: str, sizes: tuple[int, int], days: int
    ) -> Chart:
        size_s, line_s = sizes
        end = _moment(facts.now)
        begin = end - timedelta(days=days)
        slots = await self._slots(facts, size_s, begin, end)

        def draw() -> Chart:
            points = thinned(_points(slots, facts.rule, begin, end, size_s))
            return Chart(
                name,
                heading,
                tuple(points),
                "hour" if line_s == HOUR_S else "day",
                tuple(_lines(facts.rule, slots, begin, end, line_s)),
                _missed(slots, (end - begin).total_seconds()),
            )

        return await self._in_thread(draw)

    async def _find_beginning(self, facts: HistoryFacts) -> datetime | None:
        """The first hour known, however long ago."""
        series, begin = facts.rule.series, facts.now - _YEARS_KEPT * 366 * DAY_S
        while begin < facts.now:
            until = min(begin + _DAYS_READ, facts.now)
            for day in await self._read(DAY_S, begin, until, series):
                if day.known:
                    hours = await self._read(HOUR_S, day.start, day.start + DAY_S, series)
                    known = (slot.start for slot in hours if slot.known)
                    return _moment(next(known, day.start))
            begin = until
        return None

    async def _slots(
        self, facts: HistoryFacts, size_s: int, begin: datetime, end: datetime
    ) -> Sequence[Slot]:
        start = begin.timestamp() // size_s * size_s
        return await self._read(size_s, start, end.timestamp(), facts.rule.series)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(call, limiter=self._one_at_a_time)


@dataclass(slots=True)
class _Over:
    """What is found out once an hour: the first hour known, and the months that are over."""

    since: datetime | None = None
    months: dict[datetime, tuple[Period, Stretch]] = field(default_factory=dict)


def _key(facts: HistoryFacts) -> tuple[object, ...]:
    """The minute, and what else decides about what is shown."""
    return facts.now // MINUTE_S, facts.rule, facts.installation, facts.off


def _is_kept(facts: HistoryFacts) -> bool:
    return bool(facts.installation) and not facts.off


def _month(
    facts: HistoryFacts,
    span: tuple[datetime, datetime],
    end: datetime,
    hours: Sequence[Slot],
    days: Sequence[Slot],
) -> tuple[Period, Stretch]:
    inside = slots_inside(days, span)
    period = make_period(facts.rule, facts.installation, span, hours, inside, until=end)
    return period, _stretch(facts.rule, span[0], hours, (end - span[0]).total_seconds())


def _points(
    slots: Sequence[Slot], rule: Entitlement, begin: datetime, end: datetime, size_s: int = DAY_S
) -> list[Point]:
    """Up to the newest slot, where that is as new as it can be."""
    written = _moment(slots[-1].start + size_s) if slots else end
    is_new = written < end <= written + timedelta(seconds=_WRITTEN_WITHIN * size_s)
    return points_of(slots, rule, begin, written if is_new else end, size_s)


def _lines(
    rule: Entitlement, slots: Sequence[Slot], begin: datetime, end: datetime, size_s: int
) -> list[Stretch]:
    """A line for each larger slot that begins in the time."""
    lines = []
    first = math.ceil(begin.timestamp() / size_s) * size_s
    for start in range(first, math.ceil(end.timestamp()), size_s):
        lower, upper = (
            bisect_left(slots, at, key=lambda slot: slot.start) for at in (start, start + size_s)
        )
        inside = slots[lower:upper]
        seconds = min(size_s, end.timestamp() - start)
        lines.append(_stretch(rule, _moment(start), inside, seconds))
    return lines


def _stretch(rule: Entitlement, begin: datetime, slots: Sequence[Slot], seconds: float) -> Stretch:
    known = [(slot.complete_s, slot.cell(rule.series)) for slot in slots if slot.known]
    lows = [cell.low for _, cell in known if cell.low is not None]
    weighted = [(each_s, cell.mean) for each_s, cell in known if cell.mean is not None]
    complete_s = math.fsum(each_s for each_s, _ in weighted)
    mean = math.fsum(each_s * mean for each_s, mean in weighted) / (complete_s or 1.0)

    def in_units(value: float | None) -> float | None:
        return None if value is None else rule.shown(value)

    return Stretch(
        begin,
        in_units(min(lows, default=None)),
        in_units(mean) if complete_s else None,
        in_units(max((cell.high for _, cell in known), default=None)),
        _missed(slots, seconds),
    )


def _missed(slots: Sequence[Slot], seconds: float) -> tuple[Missed, ...]:
    """What is missing in a time of so many seconds, the longest first."""
    lost = {gap: math.fsum(slot.gaps.get(gap, 0.0) for slot in slots) for gap in Gap}
    found = [
        Missed(lost_s, REASONS[gap], in_part=gap is Gap.INCOMPLETE)
        for gap, lost_s in lost.items()
        if lost_s >= 1
    ]
    recorded_s = math.fsum(slot.known_s for slot in slots)
    recorded_s += math.fsum(each.seconds for each in found if not each.in_part)
    if seconds - recorded_s > _WRITTEN_WITHIN * MINUTE_S:
        found.append(Missed(seconds - recorded_s, NO_RECORD, in_part=False))
    return tuple(sorted(found, key=lambda each: -each.seconds))


def _moment(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)
