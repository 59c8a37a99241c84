"""A year of a fleet, with outages, opt-outs, peaks and clock steps: its report is as recounted."""

from datetime import UTC, datetime
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest

from telemetryd.history.entitlement import PRESETS, Entitlement
from telemetryd.history.recorder import Recorder
from telemetryd.history.report import DAY, MONTH, Report, make_report
from telemetryd.history.slots import DAY_S, HOUR_S, Gap, Moment, Slot
from telemetryd.history.sqlite import SqliteStore, open_store
from tests.history.replay import SERIES, Count, Life, recount

INSTALLATION = "7f2c7d1e-0d9d-4c3f-8a0e-0d3b0b6f0f11"
OTHER = "8f2c7d1e-0d9d-4c3f-8a0e-0d3b0b6f0f11"
PROVIDER = "clusters.provider.k3s"
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
        pytest.param(40, 1, marks=pytest.mark.timeout(600)),
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


DOWN, OFF = "down", "off"


class Seen(NamedTuple):
    """What held in a second; why nothing is known is a word."""

    nodes: int
    clusters: int
    complete: bool
    version: str


class Tape:
    """A fleet by the second, and what a recorder makes of it; nothing of ours counts on it.

    Attributes:
        seconds: What held in each.
    """

    def __init__(self, store: SqliteStore, installation: str, rng: Random) -> None:
        self.seconds: list[Seen | str] = []
        self._store = store
        self._installation = installation
        self._rng = rng
        self._state: Seen | str = Seen(5, 0, True, "v2.13.0")
        self._down_s = 0
        self._begin()

    @property
    def now(self) -> float:
        return START.timestamp() + len(self.seconds)

    def _begin(self) -> None:
        self._recorder = Recorder(now=lambda: self.now, clock=lambda: 7.0 + len(self.seconds))
        until = self._store.known_until(self._installation)
        if until is not None:
            self._recorder.resume(until)
        self._tell()

    def _tell(self) -> None:
        if self._state == OFF:
            self._recorder.lose(Gap.OFF)
        else:
            assert isinstance(self._state, Seen)
            nodes, clusters, complete, version = self._state
            values = {SERIES: nodes, PROVIDER: clusters}
            shown = {name: value for name, value in values.items() if value}
            self._recorder.see(Moment(shown, complete, version))

    def go(self) -> None:
        """One second."""
        if self._down_s:
            self._down_s -= 1
            if not self._down_s:
                self._begin()
        if not self._down_s:
            self._happen()
        if not self._down_s and self.now % 60 == 0:
            self._tell()
            self._store.write(self._installation, self._recorder.take())
        self.seconds.append(DOWN if self._down_s else self._state)

    def _happen(self) -> None:
        rng, state = self._rng, self._state
        seen = Seen(5, 0, True, "v2.14.0") if isinstance(state, str) else state
        match rng.randrange(1200):
            case 0:
                self._state = seen._replace(nodes=rng.randrange(30))
            case 1:
                self._state = seen._replace(clusters=rng.choice((0, 0, 3)))
            case 2:
                more = rng.randrange(9)
                self._state = seen._replace(nodes=seen.nodes + more, complete=not seen.complete)
            case 3:
                version = rng.choice(("v2.13.0", "v2.14.1"))
                self._state = seen._replace(complete=True, version=version)
            case 4:
                self._state = OFF
            case 5:
                over = min(len(self.seconds), int(self.now % 60) or 60)
                self.seconds[len(self.seconds) - over :] = [DOWN] * over
                self._down_s = rng.choice((3, 20, 70, 4000))
                return
            case _:
                return
        self._tell()


def recounted(seconds: list[Seen | str], index: int) -> tuple[object, ...]:
    """Seconds known and complete, gaps, version, and of one series what a cell has."""
    known = [each for each in seconds if not isinstance(each, str)]
    complete = [each for each in known if each[2]]
    counts = [int(each[index]) for each in complete]
    lost = {Gap.OFF: seconds.count(OFF), Gap.DOWN: seconds.count(DOWN)}
    lost[Gap.INCOMPLETE] = len(known) - len(complete)
    cell = (
        (min(counts), counts[0], counts[-1], pytest.approx(sum(counts) / len(counts)))
        if counts
        else (None, None, None, None)
    )
    return (
        (len(known), len(complete), {gap: each for gap, each in lost.items() if each}),
        known[-1][3] if known else "",
        (max((each[index] for each in known), default=0), *cell),
    )


@pytest.mark.parametrize("seed", [4, 5])
def test_hours_of_two_installations_are_what_their_seconds_were(tmp_path: Path, seed: int) -> None:
    store = open_store(tmp_path, now=lambda: 0.0)
    rng = Random(seed)
    tapes = {name: Tape(store, name, rng) for name in (INSTALLATION, OTHER)}
    for _ in range(30 * HOUR_S):
        for tape in tapes.values():
            tape.go()
    for name, tape in tapes.items():
        while tape.seconds[-1] == DOWN or len(tape.seconds) % 60 != 1:
            tape.go()  # until a minute is written
        for size_s in (HOUR_S, DAY_S):
            slots = store.read(name, size_s, 0, 2**40)
            assert all(later.start - slot.start == size_s for slot, later in pairwise(slots))
            for slot in slots:
                begin = int(slot.start - START.timestamp())
                over = min(begin + size_s, len(tape.seconds) - 1)
                seconds = tape.seconds[max(0, begin) : over]
                for index, series in enumerate((SERIES, PROVIDER)):
                    found = (
                        (slot.known_s, slot.complete_s, dict(slot.gaps)),
                        slot.version,
                        tuple(slot.cell(series)),
                    )
                    assert found == recounted(seconds, index), (name, size_s, begin)
