"""What was used over time, by the rule of the entitlement: for each month or day in UTC.

The figures come from the slots of hours, in which nothing is interpolated. By a digest two parties
see that they hold the same hours: it proves equality, not truth.
"""

import json
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from hashlib import sha256
from typing import Any, Final, Protocol

from telemetryd.history.entitlement import Entitlement
from telemetryd.history.slots import HOUR_S, Gap, Slot, slot_start

DAY: Final = "day"
MONTH: Final = "month"
PLACES: Final = 3
"""Decimal places of means and of figures that aren't whole."""


class SlotReader(Protocol):
    """A store: of a SQLite file or of PostgreSQL."""

    def read(self, installation: str, size_s: int, begin: float, end: float) -> Sequence[Slot]:
        """The slots of a size that begin in [begin, end), in the order of time."""


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
    hours = store.read(installation, HOUR_S, begin.timestamp() if begin else 0, end.timestamp())
    first = next((slot for slot in hours if slot.known), None)
    since = _moment(first.start) if first is not None else None
    start = begin or since
    periods = []
    if start is not None:
        starts = [slot.start for slot in hours]
        for lower, upper in calendar(start, end, by):
            first_of, after = (bisect_left(starts, at.timestamp()) for at in (lower, upper))
            inside = list(hours[first_of:after])
            digest = _digest(rule, installation, inside)
            periods.append(_period(rule, (lower, upper), min(upper, end), inside, digest))
    return Report(installation, instance, since, end, by, rule, tuple(periods))


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


def _period(
    rule: Entitlement,
    span: tuple[datetime, datetime],
    until: datetime,
    hours: list[Slot],
    digest: str,
) -> Period:
    figure = rule.figure(hours)
    return Period(
        *span,
        figure,
        None if figure is None else rule.licenses(figure),
        _peak(rule, hours),
        _mean(rule, hours),
        _hours(span[0], until, hours),
        tuple(dict.fromkeys(slot.version for slot in hours if slot.version)),
        _highest(hours, "clusters.provider."),
        _highest(hours, "clusters.kubernetes."),
        digest,
    )


def _peak(rule: Entitlement, hours: list[Slot]) -> Peak | None:
    known = [slot for slot in hours if slot.known]
    if not known:
        return None
    highest = max(known, key=lambda slot: (slot.cell(rule.series).high, -slot.start))
    value = rule.units(Fraction(highest.cell(rule.series).high))
    return Peak(value, _moment(highest.start))


def _mean(rule: Entitlement, hours: list[Slot]) -> Fraction | None:
    area, seconds = Fraction(0), Fraction(0)
    for slot in hours:
        mean = slot.cell(rule.series).mean
        if mean is not None:
            area += Fraction(mean) * Fraction(slot.complete_s)
            seconds += Fraction(slot.complete_s)
    return rule.units(area / seconds) if seconds else None


def _hours(begin: datetime, until: datetime, hours: list[Slot]) -> Hours:
    def total(seconds: Iterator[float]) -> Fraction:
        return sum((Fraction(each) for each in seconds), Fraction(0)) / HOUR_S

    gaps = {gap: total(slot.gaps.get(gap, 0.0) for slot in hours) for gap in Gap}
    return Hours(
        Fraction((until - begin).total_seconds()) / HOUR_S,
        total(slot.known_s for slot in hours),
        total(slot.complete_s for slot in hours),
        {gap: lost for gap, lost in gaps.items() if lost},
    )


def _highest(hours: list[Slot], prefix: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for slot in hours:
        for name, cell in slot.cells.items():
            if name.startswith(prefix):
                value = name.removeprefix(prefix)
                found[value] = max(found.get(value, 0), cell.high)
    return {value: found[value] for value in sorted(found) if found[value]}


def _digest(rule: Entitlement, installation: str, hours: list[Slot]) -> str:
    """Over JSON lines: the rule's terms, then each hour that has a count."""
    terms = [installation, rule.unit, rule.scope, rule.method, rule.minimum, rule.per_license]
    lines: list[list[Any]] = [terms]
    for slot in hours:
        if slot.known:
            high, low, first, last, mean = slot.cell(rule.series)
            rounded = None if mean is None else round(mean, PLACES)
            seconds = [round(slot.known_s, PLACES), round(slot.complete_s, PLACES)]
            lines.append([slot.start, *seconds, high, low, first, last, rounded])
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    return sha256(text.encode()).hexdigest()


def _moment(at: float) -> datetime:
    return datetime.fromtimestamp(slot_start(at, 1), UTC)
