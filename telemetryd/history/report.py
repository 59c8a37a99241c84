"""What was used over time, by the rule of the entitlement: for each month or day in UTC.

The figures come from the slots of hours, in which nothing is interpolated. By a digest two parties
see that they hold the same hours: it proves equality, not truth.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from hashlib import sha256
from json import JSONEncoder
from typing import Final, Protocol

from telemetryd.history.entitlement import Entitlement
from telemetryd.history.slots import DAY_S, HOUR_S, Cell, Gap, Slot, slot_start

DAY: Final = "day"
MONTH: Final = "month"
PLACES: Final = 3
"""Decimal places of means and of figures that aren't whole."""
PROVIDERS: Final = "clusters.provider."
KUBERNETES: Final = "clusters.kubernetes."

_to_lines = JSONEncoder(separators=(",", ":")).encode


class SlotReader(Protocol):
    """A store: of a SQLite file or of PostgreSQL."""

    def read(
        self, installation: str, size_s: int, begin: float, end: float, *, series: str = ""
    ) -> Sequence[Slot]:
        """The slots of a size that begin in [begin, end), in the order of time.

        With ``series`` they have the cells of that one alone.
        """


@dataclass(frozen=True, slots=True)
class Peak:
    """The highest count, and the beginning of the hour that had it first."""

    value: Fraction
    at: datetime


@dataclass(frozen=True, slots=True)
class Hours:
    """Of a period, in hours; up to now where it hasn't ended.

    Attributes:
        known: Hours of which there is a count, complete or not.
        complete: Hours of which there is a complete one.
        gaps: Hours without one, by reason; what no daemon saw has none.
    """

    total: Fraction
    known: Fraction
    complete: Fraction
    gaps: dict[Gap, Fraction]


@dataclass(frozen=True, slots=True)
class Period:
    """A month or a day.

    Attributes:
        begin: Its first moment.
        end: The moment after its last.
        figure: By the rule, in its units; None where nothing is known.
        licenses: For the figure, rounded up; None without one.
        mean: Of complete counts, weighted by time.
        versions: Of the product, in the order of their appearance.
        providers: The highest number of clusters of each provider in an hour.
        digest: SHA-256 over rule, installation and the hours counted.
    """

    begin: datetime
    end: datetime
    figure: Fraction | None
    licenses: int | None
    peak: Peak | None
    mean: Fraction | None
    hours: Hours
    versions: tuple[str, ...]
    providers: dict[str, int]
    kubernetes: dict[str, int]
    digest: str


@dataclass(frozen=True, slots=True)
class Report:
    """Usage over time.

    Attributes:
        installation: Install UUID.
        instance: Whose record it is; empty for a store that replicas share.
        since: The beginning of the first hour that the store holds, None for none.
    """

    installation: str
    instance: str
    since: datetime | None
    made: datetime
    by: str
    rule: Entitlement
    periods: tuple[Period, ...]


def make_report(
    store: SlotReader,
    rule: Entitlement,
    *,
    installation: str,
    instance: str,
    begin: datetime | None,
    end: datetime,
    by: str,
) -> Report:
    """Count the hours from ``begin`` (by default the first one known) to ``end``.

    ``end`` is at most now: time to come isn't missing.
    """
    lower = begin.timestamp() if begin else 0
    hours = store.read(installation, HOUR_S, lower, end.timestamp(), series=rule.series)
    first = next((slot for slot in hours if slot.known), None)
    since = _moment(first.start) if first is not None else None
    start = begin or since
    periods: list[Period] = []
    if start is not None:
        # Providers and versions of Kubernetes by days, which have the peaks of their hours.
        since_day = slot_start(start.timestamp(), DAY_S)
        days = store.read(installation, DAY_S, since_day, end.timestamp())
        periods += (
            make_period(
                rule,
                installation,
                span,
                slots_inside(hours, span),
                slots_inside(days, span),
                until=end,
            )
            for span in calendar(start, end, by)
        )
    return Report(installation, instance, since, end, by, rule, tuple(periods))


def slots_inside(slots: Sequence[Slot], span: tuple[datetime, datetime]) -> Sequence[Slot]:
    """Those that begin within, of slots in the order of time."""
    first, after = (bisect_left(slots, at.timestamp(), key=lambda slot: slot.start) for at in span)
    return slots[first:after]


def number(value: Fraction) -> int | float:
    """Whole where it is whole, otherwise with three decimal places."""
    return int(value) if value.denominator == 1 else round(float(value), PLACES)


def month_of(at: datetime) -> datetime:
    """The beginning of its month in UTC."""
    return at.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def calendar(begin: datetime, end: datetime, by: str) -> Iterator[tuple[datetime, datetime]]:
    """The days or months in UTC from the one with ``begin`` to the one before ``end``, whole."""
    begin = begin.astimezone(UTC)
    lower = begin.replace(hour=0, minute=0, second=0, microsecond=0)
    if by == MONTH:
        lower = lower.replace(day=1)
    while lower < end:
        if by == DAY:
            upper = lower + timedelta(days=1)
        else:
            upper = (lower + timedelta(days=31)).replace(day=1)
        yield lower, upper
        lower = upper


def make_period(
    rule: Entitlement,
    installation: str,
    span: tuple[datetime, datetime],
    hours: Sequence[Slot],
    days: Sequence[Slot],
    *,
    until: datetime,
) -> Period:
    """One period of a report.

    Args:
        rule: What is counted.
        installation: Install UUID.
        span: Its first moment, and the moment after its last.
        hours: Of the period, with the cells of the rule's series.
        days: Of the period, with the cells of all series.
        until: To when it is counted, where that is earlier.
    """
    series = rule.series
    known = [(slot, slot.cell(series)) for slot in hours if slot.known]
    figure = rule.figure(hours)
    return Period(
        *span,
        figure,
        None if figure is None else rule.licenses(figure),
        _peak(rule, known),
        _mean(rule, known),
        _hours(span[0], min(span[1], until), hours),
        tuple(dict.fromkeys(slot.version for slot in hours if slot.version)),
        _highest(days, PROVIDERS),
        _highest(days, KUBERNETES),
        _digest(rule, installation, known),
    )


def _peak(rule: Entitlement, known: Sequence[tuple[Slot, Cell]]) -> Peak | None:
    if not known:
        return None
    slot, cell = max(known, key=lambda each: (each[1].high, -each[0].start))
    return Peak(rule.units(Fraction(cell.high)), _moment(slot.start))


def _mean(rule: Entitlement, known: Iterable[tuple[Slot, Cell]]) -> Fraction | None:
    """Exact. Sums are of integers: a fraction for each hour takes ten times as long."""
    areas: Counter[int] = Counter()
    complete_s: Counter[float] = Counter()
    for slot, cell in known:
        if cell.mean is not None:
            mean, of_mean = cell.mean.as_integer_ratio()
            seconds, of_seconds = slot.complete_s.as_integer_ratio()
            areas[of_mean * of_seconds] += mean * seconds
            complete_s[slot.complete_s] += 1
    seconds_in_all = _sum(complete_s)
    if not seconds_in_all:
        return None
    area = sum((Fraction(part, whole) for whole, part in areas.items()), Fraction(0))
    return rule.units(area / seconds_in_all)


def _hours(begin: datetime, until: datetime, hours: Sequence[Slot]) -> Hours:
    def total(seconds: Iterable[float]) -> Fraction:
        return _sum(Counter(seconds)) / HOUR_S

    gaps = {gap: total(slot.gaps[gap] for slot in hours if gap in slot.gaps) for gap in Gap}
    return Hours(
        Fraction((until - begin).total_seconds()) / HOUR_S,
        total(slot.known_s for slot in hours),
        total(slot.complete_s for slot in hours),
        {gap: lost for gap, lost in gaps.items() if lost},
    )


def _sum(values: Counter[float]) -> Fraction:
    """Exact; most values are the same: a whole hour."""
    return sum((Fraction(value) * times for value, times in values.items()), Fraction(0))


def _highest(days: Iterable[Slot], prefix: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for slot in days:
        for name, cell in slot.cells.items():
            if name.startswith(prefix):
                value = name.removeprefix(prefix)
                found[value] = max(found.get(value, 0), cell.high)
    return {value: found[value] for value in sorted(found) if found[value]}


def _digest(rule: Entitlement, installation: str, known: Iterable[tuple[Slot, Cell]]) -> str:
    """Over JSON lines: the rule's terms, then each hour that has a count."""
    terms = [installation, rule.unit, rule.scope, rule.method, rule.minimum, rule.per_license]
    counts = [
        [
            slot.start,
            round(slot.known_s, PLACES),
            round(slot.complete_s, PLACES),
            cell.high,
            cell.low,
            cell.first,
            cell.last,
            None if cell.mean is None else round(cell.mean, PLACES),
        ]
        for slot, cell in known
    ]
    # Numbers alone: what ends a line is nowhere within one.
    lines = _to_lines(counts)[1:-1].replace("],[", "]\n[")
    text = _to_lines(terms) + "\n" + (lines + "\n" if lines else "")
    return sha256(text.encode()).hexdigest()


def _moment(at: float) -> datetime:
    return datetime.fromtimestamp(slot_start(at, 1), UTC)
