"""Moments become minutes on clocks that step, sleep and end; a recount of the log agrees."""

from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest

from telemetryd.history.recorder import EARLIEST_S, HOLD_S, LATEST_S, LONGEST_GAP_S, Recorder
from telemetryd.history.slots import DAY_S, HOUR_S, MINUTE_S, Gap, Moment, Slot
from telemetryd.history.sqlite import SqliteStore, open_store
from tests.history.replay import SERIES, Life, recount

INSTALLATION = "7f2c7d1e-0d9d-4c3f-8a0e-0d3b0b6f0f11"
START = datetime(2028, 2, 28, 22, 0, tzinfo=UTC).timestamp()


class Clocks:
    """A wall clock and a steady one."""

    def __init__(self, wall: float = START) -> None:
        self.wall, self.steady = wall, 50.0
        self.recorder = Recorder(now=lambda: self.wall, clock=lambda: self.steady)

    def go(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds

    def see(self, nodes: int, *, complete: bool = True) -> None:
        self.recorder.see(Moment({SERIES: nodes}, complete))


def by_start(slots: list[Slot]) -> dict[tuple[int, int], Slot]:
    found = {(slot.size_s, int(slot.start - START)): slot for slot in slots}
    assert len(found) == len(slots)
    return found


def test_minute_is_taken_when_it_is_over() -> None:
    clocks = Clocks()
    clocks.see(10)
    clocks.go(59)
    assert clocks.recorder.take() == []
    clocks.go(1)
    (slot,) = clocks.recorder.take()
    assert (slot.start, slot.known_s, slot.cell(SERIES).mean) == (START, 60.0, 10.0)
    clocks.go(20)
    (rest,) = clocks.recorder.take(all_of_it=True)
    assert (rest.start, rest.known_s) == (START + 60, 20.0)


def test_peak_between_two_looks_counts() -> None:
    clocks = Clocks()
    clocks.see(10)
    clocks.go(10)
    clocks.see(500)
    clocks.go(30)
    clocks.see(11)
    clocks.go(20)
    (slot,) = clocks.recorder.take()
    cell = slot.cell(SERIES)
    assert (cell.high, cell.low, cell.first, cell.last) == (500, 10, 10, 11)
    assert cell.mean == pytest.approx((10 * 10 + 500 * 30 + 11 * 20) / 60)


def test_sleep_of_the_machine_is_a_gap() -> None:
    clocks = Clocks()
    clocks.see(10)
    clocks.go(HOUR_S)
    slots = clocks.recorder.take()
    assert sum(slot.known_s for slot in slots) == HOLD_S
    assert sum(slot.gaps.get(Gap.DOWN, 0) for slot in slots) == HOUR_S - HOLD_S


def test_clock_that_is_set_ahead_leaves_a_gap_of_its_own() -> None:
    clocks = Clocks()
    clocks.see(10)
    clocks.go(30)
    clocks.wall += 2 * HOUR_S
    clocks.see(10)
    clocks.go(30)
    slots = clocks.recorder.take(all_of_it=True)
    assert sum(slot.known_s for slot in slots) == 60
    assert sum(slot.gaps.get(Gap.CLOCK, 0) for slot in slots) == 2 * HOUR_S
    assert by_start(slots)[HOUR_S, HOUR_S].gaps == {Gap.CLOCK: HOUR_S}


def test_clock_that_is_set_back_visits_its_slots_again() -> None:
    clocks = Clocks(START + 120)
    clocks.see(10)
    clocks.go(60)
    first = clocks.recorder.take()
    clocks.wall -= 60
    clocks.see(30)
    clocks.go(60)
    again = clocks.recorder.take()
    assert [slot.start for slot in (*first, *again)] == [START + 120] * 2
    assert again[-1].cell(SERIES).high == 30


def test_clock_that_is_set_far_ahead_leaves_ten_years_at_most() -> None:
    clocks = Clocks(EARLIEST_S)
    clocks.see(10)
    clocks.go(1)
    clocks.wall = LATEST_S - 1
    slots = clocks.recorder.take(all_of_it=True)
    assert sum(slot.gaps.get(Gap.CLOCK, 0) for slot in slots) == LONGEST_GAP_S
    assert len(slots) < LONGEST_GAP_S / DAY_S + 200


@pytest.mark.parametrize("wrong", [-1e9, 0.0, EARLIEST_S - 300, LATEST_S, 2e11, 1e18])
def test_nothing_is_counted_by_a_clock_that_cannot_be_right(wrong: float) -> None:
    clocks = Clocks(wrong)
    clocks.see(10)
    clocks.go(200)
    clocks.see(500)
    assert clocks.recorder.take(all_of_it=True) == []
    assert clocks.recorder.steady_s == 0
    clocks.wall = START
    clocks.see(20)
    clocks.go(60)
    (slot,) = clocks.recorder.take()
    assert (slot.start, slot.known_s, slot.cell(SERIES).high) == (START, 60.0, 20)
    assert clocks.recorder.steady_s == 60


def test_clock_that_is_right_only_later_leaves_a_gap_since_the_last_process() -> None:
    clocks = Clocks(100.0)
    clocks.recorder.lose(Gap.DOWN)
    clocks.recorder.resume(START - 120)
    clocks.go(30)
    clocks.wall = START
    clocks.see(7)
    clocks.go(60)
    slots = clocks.recorder.take()
    assert [slot.gaps for slot in slots] == [{Gap.CLOCK: 60.0}, {Gap.CLOCK: 60.0}, {}]
    assert slots[-1].known_s == 60.0


def test_clock_that_fails_for_a_while_leaves_a_gap_of_that_while() -> None:
    clocks = Clocks()
    clocks.see(7)
    clocks.go(60)
    clocks.wall = 5.0
    clocks.see(70)
    clocks.go(120)
    clocks.see(7)
    clocks.wall = START + 180
    clocks.see(7)
    clocks.go(60)
    slots = clocks.recorder.take()
    assert [(slot.known_s, slot.gaps.get(Gap.CLOCK, 0.0)) for slot in slots] == [
        (60.0, 0.0),
        (0.0, 60.0),
        (0.0, 60.0),
        (60.0, 0.0),
    ]
    assert max(slot.cell(SERIES).high for slot in slots) == 7


def test_first_look_may_come_before_the_store_says_how_far_it_reaches() -> None:
    clocks = Clocks()
    clocks.recorder.lose(Gap.DOWN)
    clocks.go(20)
    clocks.recorder.resume(START - 30)
    clocks.see(7)
    clocks.go(40)
    before, after = sorted(clocks.recorder.take(), key=lambda slot: slot.start)
    assert (before.gaps, after.gaps, after.known_s) == ({Gap.DOWN: 30.0}, {Gap.DOWN: 20.0}, 40.0)


def test_month_without_collection_is_one_gap_in_memory() -> None:
    clocks = Clocks()
    for _ in range(30 * 24 * 60):
        clocks.recorder.lose(Gap.OFF)
        clocks.go(60)
    clocks.see(7)
    slots = clocks.recorder.take(all_of_it=True)
    assert sum(slot.gaps.get(Gap.OFF, 0.0) for slot in slots) == 30 * DAY_S
    assert len(slots) < 30 + 2 * 24 + 2


@pytest.mark.parametrize(
    ("step_s", "left_s", "gap_s"),
    [(0.9, 90.0, 0.0), (2.0, 90.0, 0.0), (2.25, 30.0, 2.25), (-9.0, 30.0, 0.0)],
)
def test_clock_is_steady_since_its_last_step(step_s: float, left_s: float, gap_s: float) -> None:
    clocks = Clocks()
    clocks.see(7)
    clocks.go(60)
    clocks.wall += step_s
    clocks.see(7)
    clocks.go(30)
    assert clocks.recorder.steady_s == left_s
    slots = clocks.recorder.take(all_of_it=True)
    assert sum(slot.gaps.get(Gap.CLOCK, 0.0) for slot in slots) == gap_s


def test_leap_second_that_is_smeared_is_no_gap() -> None:
    clocks = Clocks()
    for _ in range(24 * 60):
        clocks.see(7)
        clocks.wall += 60 + 1 / (24 * 60)
        clocks.steady += 60
    slots = clocks.recorder.take(all_of_it=True)
    assert sum(sum(slot.gaps.values()) for slot in slots) == 0
    assert sum(slot.known_s for slot in slots) == pytest.approx(DAY_S)


def test_time_before_the_start_is_down_and_time_off_is_off() -> None:
    clocks = Clocks()
    clocks.recorder.resume(START - 90)
    clocks.go(30)
    clocks.recorder.lose(Gap.OFF)
    clocks.go(HOUR_S)
    clocks.see(3)
    clocks.go(30)
    slots = clocks.recorder.take(all_of_it=True)
    lost = {gap: sum(slot.gaps.get(gap, 0) for slot in slots) for gap in Gap}
    assert lost[Gap.DOWN] == 120
    assert lost[Gap.OFF] == HOUR_S
    assert sum(slot.known_s for slot in slots) == 30


@pytest.fixture
def store(tmp_path: Path) -> SqliteStore:
    return open_store(tmp_path, now=lambda: START)


def compare(store: SqliteStore, life: Life) -> None:
    hours = {slot.start: slot for slot in store.read(INSTALLATION, HOUR_S, 0, 2**40)}
    counted = recount(life.log)
    assert {start for start, slot in hours.items() if slot.known} == set(counted)
    for start, count in counted.items():
        slot, cell = hours[start], hours[start].cell(SERIES)
        assert (cell.high, cell.low, cell.first, cell.last) == count[:4], start
        if count.mean is not None:
            assert cell.mean == pytest.approx(count.mean), start
        assert slot.known_s == pytest.approx(count.known_s), start
        assert slot.complete_s == pytest.approx(count.complete_s), start
        assert (
            slot.known_s + sum(slot.gaps.get(gap, 0.0) for gap in Gap if gap is not Gap.INCOMPLETE)
            <= HOUR_S + 1e-6
        )


@pytest.mark.parametrize("seed", range(3))
def test_days_of_a_fleet_are_what_a_recount_of_their_log_says(
    store: SqliteStore, seed: int
) -> None:
    rng = Random(seed)
    life = Life(START, lambda slots: store.write(INSTALLATION, slots))
    life.show(rng.randrange(1, 50))
    for _ in range(40):
        match rng.randrange(9):
            case 0:
                life.kill(rng.choice((5, 700, 9000)))
                life.pass_time(rng.randrange(1, 30))
                life.show(rng.randrange(50))
            case 1:
                life.switch_off()
                life.pass_time(rng.randrange(1, 4000))
                life.show(rng.randrange(50))
            case 2:
                life.set_clock(rng.choice((7200, 90, 3700)))
            case 3:
                life.show(rng.randrange(80), complete=False)
            case _:
                life.show(rng.randrange(50))
        life.pass_time(rng.choice((30, 45, 600, 2500, 3700)))
    life.pass_time(60 - life.wall % 60)
    compare(store, life)


def test_hour_that_a_clock_visits_again_is_one_hour(store: SqliteStore) -> None:
    life = Life(START, lambda slots: store.write(INSTALLATION, slots))
    life.show(10)
    life.pass_time(3 * HOUR_S)
    life.set_clock(-2 * HOUR_S)
    life.show(20)
    life.pass_time(2 * HOUR_S)
    hours = store.read(INSTALLATION, HOUR_S, START, START + 3 * HOUR_S)
    assert [slot.start - START for slot in hours] == [0, HOUR_S, 2 * HOUR_S]
    assert [slot.known_s for slot in hours] == [HOUR_S] * 3
    assert [slot.cell(SERIES)[:4] for slot in hours] == [
        (10, 10, 10, 10),
        (20, 10, 10, 20),
        (20, 10, 10, 20),
    ]


def test_days_are_made_of_their_hours(store: SqliteStore) -> None:
    life = Life(START, lambda slots: store.write(INSTALLATION, slots))
    for nodes in (5, 9, 4):
        life.show(nodes)
        life.pass_time(10 * HOUR_S)
    days = store.read(INSTALLATION, DAY_S, 0, 2**40)
    assert [datetime.fromtimestamp(slot.start, UTC).day for slot in days] == [28, 29, 1]
    assert sum(slot.known_s for slot in days) == 30 * HOUR_S
    assert [slot.cell(SERIES).high for slot in days] == [5, 9, 4]
    assert len(store.read(INSTALLATION, MINUTE_S, 0, 2**40)) == 30 * 60
