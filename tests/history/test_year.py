"""A year of a fleet, with outages, opt-outs, peaks and clock steps: its report is as recounted."""

from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from random import Random

import pytest

from telemetryd.history.entitlement import PRESETS, Entitlement
from telemetryd.history.report import DAY, MONTH, Report, make_report
from telemetryd.history.slots import DAY_S, HOUR_S, Slot
from telemetryd.history.sqlite import open_store
from tests.history.replay import Count, Life, recount

INSTALLATION = "7f2c7d1e-0d9d-4c3f-8a0e-0d3b0b6f0f11"
START = datetime(2027, 10, 31, 21, 0, tzinfo=UTC)
RULES = (PRESETS["aws-csp"], PRESETS["payg-monthly"], Entitlement(limit=3, per_license=10))


STEPS = (7200, -7200, 3, -61)


def live(life: Life, rng: Random, days: int, steps: tuple[int, ...] = STEPS) -> None:
    """So many days: growth, a peak a day, and now and then something that goes wrong."""
    nodes = 12
    life.show(nodes)
    end = life.steady + days * DAY_S
    while life.steady < end:
        life.pass_time(rng.randrange(2, 30) * 600)
        nodes = max(0, nodes + rng.choice((-1, 0, 0, 0, 1)))
        life.show(nodes)
        match rng.randrange(24):
            case 0:
                life.show(nodes + 40)
                life.pass_time(30)
                life.show(nodes)
            case 1:
                life.kill(rng.choice((20, 4000, 90_000)))
                life.pass_time(7)
                life.show(nodes)
            case 2:
                life.switch_off()
                life.pass_time(rng.randrange(600, 60_000))
                life.show(nodes)
            case 3:
                life.show(nodes // 2, complete=False)
                life.pass_time(rng.randrange(60, 8000))
                life.show(nodes)
            case 4:
                life.set_clock(rng.choice(steps))


def expected(rule: Entitlement, counted: dict[int, Count], begin: int, end: int) -> Fraction | None:
    """The figure of a period, by the recount alone."""
    hours = [counted[start] for start in sorted(counted) if begin <= start < end]
    match rule.method:
        case "peak":
            counts = [hour.high for hour in hours]
            figure = Fraction(max(counts)) if counts else None
        case "current":
            lasts = [hour.last for hour in hours if hour.last is not None]
            figure = Fraction(lasts[-1]) if lasts else None
        case _:
            firsts = [hour.first for hour in hours if hour.first is not None]
            figure = Fraction(sum(firsts), len(firsts)) if firsts else None
    return None if figure is None else max(figure, Fraction(rule.minimum))


def check(report: Report, rule: Entitlement, counted: dict[int, Count]) -> None:
    known = {int(each.begin.timestamp()): each for each in report.periods}
    assert len(known) == len(report.periods)
    for period in report.periods:
        begin, end = int(period.begin.timestamp()), int(period.end.timestamp())
        hours = [counted[start] for start in counted if begin <= start < end]
        assert period.figure == expected(rule, counted, begin, end), period.begin
        assert float(period.hours.known) == pytest.approx(sum(h.known_s for h in hours) / HOUR_S)
        assert float(period.hours.complete) == pytest.approx(
            sum(h.complete_s for h in hours) / HOUR_S
        )
        assert period.hours.known <= period.hours.total
        if period.peak is not None:
            assert period.peak.value == max(hour.high for hour in hours)
        area = sum((hour.mean or 0.0) * hour.complete_s for hour in hours)
        if period.mean is not None:
            seconds = sum(hour.complete_s for hour in hours)
            assert float(period.mean) == pytest.approx(area / seconds)


@pytest.mark.parametrize(
    ("days", "seed"),
    [
        (40, 1),
        pytest.param(366, 2, marks=[pytest.mark.slow, pytest.mark.timeout(1200)]),
    ],
)
def test_report_of_a_life_is_what_a_recount_of_its_log_says(days: int, seed: int) -> None:
    folder = Path("/dev/shm") / f"telemetryd-year-{seed}"
    folder.mkdir(exist_ok=True)
    try:
        store = open_store(folder, now=lambda: 0.0)
        batch: list[Slot] = []

        def write(slots: list[Slot]) -> None:
            batch.extend(slots)
            if len(batch) >= 240:
                flush()

        def flush() -> None:
            store.write(INSTALLATION, batch)
            batch.clear()

        life = Life(START.timestamp(), write)
        live(life, Random(seed), days)
        life.pass_time(60 - life.wall % 60)
        flush()
        counted = recount(life.log)
        end = datetime.fromtimestamp(life.wall + DAY_S, UTC)
        for rule in RULES:
            for by in (MONTH, DAY):
                report = make_report(
                    store,
                    rule,
                    installation=INSTALLATION,
                    instance="",
                    begin=None,
                    end=end,
                    by=by,
                )
                check(report, rule, counted)
        store.close()
    finally:
        for each in folder.iterdir():
            each.unlink()
        folder.rmdir()
