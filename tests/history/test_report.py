"""Reports: the worked examples of the public rules, calendar months in UTC, gaps that stay gaps."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction

import pytest

from telemetryd.history.entitlement import PRESETS, Entitlement
from telemetryd.history.report import DAY, MONTH, Peak, Period, Report, calendar, make_report
from telemetryd.history.slots import DAY_S, HOUR_S, Cell, Gap, Slot, join, slot_start

INSTALLATION = "7f2c7d1e-0d9d-4c3f-8a0e-0d3b0b6f0f11"
SERIES = "nodes.entitled"


class Hours:
    """Hours in memory, by their number from a beginning."""

    def __init__(self, begin: datetime) -> None:
        self.begin = int(begin.timestamp())
        self.slots: list[Slot] = []
        self.cells_read = 0

    def add(self, number: int, nodes: int | None, **more: int) -> None:
        """So many more hours with so many nodes; None where they aren't known."""
        for _ in range(number):
            start = self.begin + len(self.slots) * HOUR_S
            if nodes is None:
                self.slots.append(Slot(HOUR_S, start, gaps={Gap.DOWN: float(HOUR_S)}))
            else:
                cell = Cell(nodes, nodes, nodes, nodes, float(nodes))
                cells = {SERIES: cell} if nodes else {}
                cells |= {name.replace("__", "."): Cell(high) for name, high in more.items()}
                self.slots.append(
                    Slot(HOUR_S, start, 3600.0, 3600.0, complete=True, version="v2", cells=cells)
                )

    def read(
        self, installation: str, size_s: int, begin: float, end: float, *, series: str = ""
    ) -> Sequence[Slot]:
        assert installation == INSTALLATION
        found = self.slots
        if size_s == DAY_S:
            days: dict[int, list[Slot]] = {}
            for slot in self.slots:
                days.setdefault(slot_start(slot.start, DAY_S), []).append(slot)
            found = [join(DAY_S, start, parts) for start, parts in days.items()]
        read = [
            replace(
                slot, cells={name: slot.cells[name] for name in slot.cells if series in ("", name)}
            )
            for slot in found
            if begin <= slot.start < end
        ]
        self.cells_read += sum(len(slot.cells) for slot in read)
        return read

    def report(
        self, rule: Entitlement, *, by: str = MONTH, begin: datetime | None = None
    ) -> Report:
        end = datetime.fromtimestamp(self.begin + len(self.slots) * HOUR_S, UTC)
        return make_report(
            self, rule, installation=INSTALLATION, instance="", begin=begin, end=end, by=by
        )


def counted(period: Period) -> tuple[float, float, float]:
    hours = period.hours
    return float(hours.total), float(hours.known), float(hours.complete)


def utc(year: int, month: int, day: int, hour: int = 0) -> datetime:
    return datetime(year, month, day, hour, tzinfo=UTC)


def test_unknown_hours_of_a_month_are_neither_zero_nor_estimated() -> None:
    hours = Hours(utc(2026, 9, 1))
    hours.add(400, 10)
    hours.add(200, 16)
    hours.add(120, None)
    (month,) = hours.report(PRESETS["payg-monthly"]).periods
    assert [month.figure, month.licenses, month.mean] == [12, 12, 12]
    assert counted(month) == (720, 600, 600)
    assert month.hours.gaps == {Gap.DOWN: 120}
    assert month.peak == Peak(Fraction(16), utc(2026, 9, 17, 16))


def test_peak_of_half_an_hour_is_the_peak_and_in_the_mean() -> None:
    hours = Hours(utc(2026, 9, 1))
    hours.add(3, 10)
    hours.slots[1] = replace(hours.slots[1], cells={SERIES: Cell(40, 10, 10, 10, 25.0)})
    (month,) = hours.report(Entitlement()).periods
    assert [month.figure, month.mean] == [40, 15]
    assert month.peak is not None
    assert month.peak.at == utc(2026, 9, 1, 1)
    (month,) = hours.report(PRESETS["payg-monthly"]).periods
    assert month.figure == 10


@pytest.mark.parametrize(
    ("begin", "hours_of_month"),
    [(utc(2028, 2, 1), 696), (utc(2026, 2, 1), 672), (utc(2026, 10, 1), 744)],
)
def test_months_have_the_hours_of_the_calendar(begin: datetime, hours_of_month: int) -> None:
    hours = Hours(begin)
    hours.add(hours_of_month + 5, 7)
    first, second = hours.report(Entitlement()).periods
    assert counted(first) == (hours_of_month, hours_of_month, hours_of_month)
    assert second.hours.total == 5
    assert second.begin == first.end


def test_time_to_come_is_not_missing_and_time_before_the_first_hour_is() -> None:
    hours = Hours(utc(2026, 9, 30, 12))
    hours.add(24, 3)
    before, now = hours.report(Entitlement()).periods
    assert counted(before) == (720, 12, 12)
    assert counted(now) == (12, 12, 12)


def test_month_of_which_nothing_is_known_is_there_without_figures() -> None:
    hours = Hours(utc(2026, 8, 31))
    hours.add(24, 3)
    hours.add(24 * 30, None)
    hours.add(24, 4)
    august, september, october = hours.report(PRESETS["aws-csp"]).periods
    assert (august.licenses, october.licenses) == (1, 1)
    assert (september.figure, september.licenses, september.peak, september.mean) == (None,) * 4
    assert september.hours.known == 0


def test_days_follow_one_another() -> None:
    hours = Hours(utc(2028, 2, 28, 23))
    hours.add(26, 3)
    days = hours.report(Entitlement(), by=DAY).periods
    assert {each.begin: counted(each)[1] for each in days} == {
        utc(2028, 2, 28): 1,
        utc(2028, 2, 29): 24,
        utc(2028, 3, 1): 1,
    }


def test_calendar_takes_a_beginning_of_any_zone_as_its_moment() -> None:
    begin = datetime(2026, 1, 1, 0, 30, tzinfo=timezone(timedelta(hours=2)))
    assert next(calendar(begin, utc(2026, 1, 2), MONTH)) == (utc(2025, 12, 1), utc(2026, 1, 1))


def test_versions_and_providers_are_listed() -> None:
    hours = Hours(utc(2026, 9, 1))
    hours.add(2, 3, clusters__provider__rke2=2)
    hours.add(2, 3, clusters__provider__rke2=1, clusters__provider__k3s=1)
    hours.slots[3] = replace(hours.slots[3], version="v3")
    (month,) = hours.report(Entitlement()).periods
    assert month.versions == ("v2", "v3")
    assert month.providers == {"k3s": 1, "rke2": 2}


@pytest.mark.parametrize("days", [30, 300])
def test_report_reads_an_hour_of_one_series_and_a_day_of_all(days: int) -> None:
    hours = Hours(utc(2026, 1, 1))
    hours.add(days * 24, 3, **{f"nodes__provider__{number}": 1 for number in range(39)})
    hours.report(PRESETS["payg-monthly"])
    assert hours.cells_read == days * (24 + 40)


CHANGES: dict[str, Callable[[Slot], Slot]] = {
    "count": lambda slot: replace(slot, cells={SERIES: Cell(8, 7, 7, 7, 7.0)}),
    "seconds": lambda slot: replace(slot, known_s=3599.0),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_digest_is_equal_for_equal_hours_alone(name: str) -> None:
    one, other = Hours(utc(2026, 9, 1)), Hours(utc(2026, 9, 1))
    one.add(24, 7)
    other.add(24, 7)
    (first,) = one.report(Entitlement()).periods
    (second,) = other.report(Entitlement(limit=3)).periods
    assert first.digest == second.digest
    (ruled,) = other.report(Entitlement(method="current")).periods
    other.slots[5] = CHANGES[name](other.slots[5])
    (changed,) = other.report(Entitlement()).periods
    assert len({first.digest, ruled.digest, changed.digest}) == 3


def test_nothing_known_is_a_report_without_periods() -> None:
    report = Hours(utc(2026, 9, 1)).report(Entitlement())
    assert (report.since, report.periods) == (None, ())


def test_mean_is_exact_over_hours_that_are_not_full() -> None:
    hours = Hours(utc(2026, 9, 1))
    hours.add(2, 3)
    half = replace(
        hours.slots[1], complete_s=1800.0, known_s=1800.0, cells={SERIES: Cell(6, 6, 6, 6, 6.0)}
    )
    hours.slots[1] = half
    (month,) = hours.report(Entitlement()).periods
    assert month.mean == Fraction(3 * 3600 + 6 * 1800, 5400)
