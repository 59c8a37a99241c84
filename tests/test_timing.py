"""Schedules never drift, never burst, and stay in their bounds, whatever the dice say."""

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetryd.timing import (
    RETRY_AFTER_CAP_S,
    Grid,
    Retry,
    Schedule,
    retry_budget_s,
    retry_delay_s,
    splay_s,
)

SECONDS = st.floats(min_value=0.0, max_value=1e6, allow_nan=False)
INTERVALS = st.floats(min_value=0.5, max_value=1e5, allow_nan=False)
SEEDS = st.integers(0, 2**32).map(Random)


@given(st.integers(0, 10_000), st.floats(0.001, 60), st.floats(0.001, 600), SEEDS)
def test_backoff_stays_below_its_doubled_base_and_its_cap(
    failures: int, base_s: float, cap_s: float, rng: Random
) -> None:
    delay_s = Retry(base_s, cap_s, rng, failures=failures).failed(0.0)
    assert 0 <= delay_s <= min(cap_s, base_s * 2.0 ** min(failures, 900))


def test_first_retries_do_not_bunch() -> None:
    """Ten thousand daemons whose receiver fails at one moment come back evenly over a second."""
    rng = Random(1)
    tenths = [int(Retry(1, 30, rng).failed(0.0) * 10) for _ in range(10_000)]
    assert {tenth: tenths.count(tenth) for tenth in range(10)} == pytest.approx(
        dict.fromkeys(range(10), 1000), rel=0.15
    )
    assert len({Retry(1, 30, rng).failed(0.0) for _ in range(1000)}) == 1000


def test_backoff_grows_to_its_cap_on_average() -> None:
    rng = Random(1)
    means = [
        sum(Retry(1, 30, rng, failures=n).failed(0.0) for _ in range(2000)) / 2000
        for n in (0, 2, 4, 8)
    ]
    assert means == pytest.approx([0.5, 2, 8, 15], rel=0.1)


def test_retry_counts_failures_until_a_success() -> None:
    retry = Retry(2.0, 5.0, Random(1), jitter=0.0)
    assert [retry.failed(100.0) for _ in range(3)] == [2.0, 4.0, 5.0]
    assert (retry.failures, retry.due_s) == (3, 105.0)
    retry.succeeded()
    assert (retry.failures, retry.due_s) == (0, float("-inf"))
    assert retry.failed(0.0, retry_after_s=60.0) >= 60.0


@given(SECONDS, SECONDS, st.floats(-1e6, 1e6))
def test_retry_budget_ends_the_run_before_its_next_slot(
    budget_s: float, timeout_s: float, to_next_slot_s: float
) -> None:
    allowed_s = retry_budget_s(
        budget_s=budget_s, to_next_slot_s=to_next_slot_s, timeout_s=timeout_s
    )
    assert 0 <= allowed_s <= budget_s
    assert allowed_s == 0 or allowed_s + timeout_s <= to_next_slot_s + 1e-6


@given(st.floats(0.5, 60), st.none() | st.floats(-10, 1e9), SEEDS)
def test_retry_after_is_never_undercut_but_capped(
    delay_s: float, asked_s: float | None, rng: Random
) -> None:
    pause_s = retry_delay_s(delay_s, asked_s, rng)
    assert pause_s >= delay_s
    assert pause_s >= min(asked_s or 0.0, RETRY_AFTER_CAP_S)
    assert pause_s <= max(delay_s, 1.1 * RETRY_AFTER_CAP_S)
    if asked_s is None:
        assert pause_s == delay_s


def test_retry_after_that_is_no_number_leaves_the_backoff() -> None:
    assert retry_delay_s(3.0, float("nan"), Random(0)) == 3.0


@given(st.text(), st.text(), INTERVALS, SECONDS)
def test_splay_is_stable_and_within_its_bound(
    installation_id: str, name: str, interval_s: float, splay_max_s: float
) -> None:
    offset_s = splay_s(installation_id, name, interval_s=interval_s, splay_max_s=splay_max_s)
    again_s = splay_s(installation_id, name, interval_s=interval_s, splay_max_s=splay_max_s)
    assert offset_s == again_s
    assert 0 <= offset_s <= min(interval_s, splay_max_s)


def test_splay_spreads_installations() -> None:
    offsets = [
        splay_s(f"installation-{n}", "scc", interval_s=600, splay_max_s=300) for n in range(1000)
    ]
    per_minute = [sum(60 * m <= offset < 60 * (m + 1) for offset in offsets) for m in range(5)]
    assert min(per_minute) > 150


@given(st.floats(0, 1e7), INTERVALS, st.floats(0, 1e7))
def test_grid_finds_the_first_slot_not_before_a_time(
    anchor_s: float, interval_s: float, time_s: float
) -> None:
    grid = Grid(anchor_s, interval_s)
    index = grid.first_at_or_after(time_s)
    assert grid.slot_s(index) >= time_s
    assert index == 0 or grid.slot_s(index - 1) < time_s


@pytest.mark.parametrize("interval_s", [0.0, -1.0, float("nan"), float("inf")])
def test_grid_without_a_real_interval_is_refused(interval_s: float) -> None:
    with pytest.raises(ValueError, match="interval_s"):
        Grid(0.0, interval_s)


@given(
    INTERVALS,
    st.floats(0, 1),
    st.floats(0, 0.5),
    st.lists(st.floats(0, 4), min_size=1, max_size=60),
    SEEDS,
)
def test_schedule_never_drifts_nor_bursts(
    interval_s: float, splay: float, jitter: float, durations: list[float], rng: Random
) -> None:
    """Runs of any length (in intervals): each starts on a slot of one grid, none is doubled."""
    anchor_s = 1000.0 + splay * interval_s
    schedule = Schedule(Grid(anchor_s, interval_s), first_s=1000.0, jitter=jitter, rng=rng)
    starts: list[float] = []
    skipped = 0
    now_s = 1000.0
    for duration in durations:
        now_s = max(now_s, schedule.due_s)
        starts.append(now_s)
        skipped += schedule.begin(now_s)
        now_s += duration * interval_s
        skipped += schedule.finish(now_s)
        assert schedule.due_s >= now_s - jitter * interval_s
    for start_s in starts[1:]:
        slots = (start_s - anchor_s) / interval_s
        off_s = (slots - round(slots)) * interval_s if not jitter else 0.0
        assert abs(off_s) < 1e-6 * max(1.0, start_s)
    gaps = [later - earlier for earlier, later in pairwise(starts)]
    assert all(gap >= 0.5 * interval_s * (1 - 1e-6) for gap in gaps)
    # Every slot up to the next due one was run for, stood in for by the first run, or counted.
    slots_so_far = round((schedule.next_slot_s - anchor_s) / interval_s)
    assert skipped <= slots_so_far <= skipped + len(starts)


def test_schedule_skips_missed_slots_and_counts_them() -> None:
    schedule = Schedule(Grid(0.0, 10.0), first_s=0.0, rng=Random(0))
    assert schedule.begin(0.0) == 0
    assert schedule.finish(1.0) == 0
    assert schedule.due_s == 10.0
    assert schedule.begin(10.0) == 0
    assert schedule.finish(47.0) == 3
    assert schedule.due_s == 50.0


def test_schedule_that_begins_late_counts_what_went_by() -> None:
    schedule = Schedule(Grid(0.0, 10.0), first_s=0.0, rng=Random(0))
    schedule.begin(0.0)
    schedule.finish(1.0)
    assert schedule.begin(35.0) == 2
    assert schedule.next_slot_s == 40.0


def test_run_by_hand_leaves_the_slots_alone() -> None:
    schedule = Schedule(Grid(0.0, 10.0), first_s=0.0, rng=Random(0))
    schedule.begin(0.0)
    schedule.finish(1.0)
    assert schedule.begin(4.0) == 0
    assert schedule.finish(5.0) == 0
    assert schedule.due_s == 10.0


def test_retry_after_parks_off_the_grid_and_the_grid_stays() -> None:
    schedule = Schedule(Grid(0.0, 10.0), first_s=0.0, rng=Random(0))
    schedule.begin(0.0)
    assert schedule.finish(1.0, not_before_s=33.0) == 3
    assert schedule.due_s == 33.0
    schedule.begin(33.0)
    schedule.finish(34.0)
    assert schedule.due_s == 40.0


def test_resume_brings_the_run_forward_once_and_stands_in_for_a_near_slot() -> None:
    schedule = Schedule(Grid(0.0, 600.0), first_s=0.0, rng=Random(0))
    schedule.begin(0.0)
    schedule.finish(1.0)
    assert schedule.resume(500.0, suspended_s=1900.0) == 3
    assert 500.0 <= schedule.due_s <= 530.0
    schedule.begin(schedule.due_s)
    schedule.finish(schedule.due_s + 1)
    assert schedule.due_s == 1200.0


def test_resume_never_puts_a_run_off() -> None:
    schedule = Schedule(Grid(0.0, 60.0), first_s=0.0, rng=Random(0))
    schedule.begin(0.0)
    schedule.finish(1.0)
    schedule.resume(60.0, suspended_s=30.0)
    assert schedule.due_s == 60.0


def test_resume_takes_the_time_slept_off_a_retry_after() -> None:
    schedule = Schedule(Grid(0.0, 10.0), first_s=0.0, rng=Random(0))
    schedule.begin(0.0)
    schedule.finish(1.0, not_before_s=500.0)
    schedule.resume(20.0, suspended_s=100.0)
    assert schedule.due_s == 400.0


@given(INTERVALS, INTERVALS, st.floats(0, 0.5), st.floats(0, 3), st.floats(-0.9, 0.9), SEEDS)
def test_change_of_interval_comes_soon_enough_and_never_in_a_burst(
    interval_s: float, new_s: float, jitter: float, wait: float, shift: float, rng: Random
) -> None:
    """However long (in intervals) after a run it comes, in time or late."""
    schedule = Schedule(Grid(500.0, interval_s), first_s=500.0, jitter=jitter, rng=rng)
    for _ in range(3):
        began_s = schedule.due_s
        schedule.begin(began_s)
        schedule.finish(began_s)
    now_s = began_s + wait * interval_s
    schedule.change_interval(new_s, now_s=now_s, shift_s=shift * new_s)
    first_s = schedule.next_slot_s
    earliest_s = max(now_s, began_s + new_s / 2)
    assert earliest_s <= first_s <= earliest_s + new_s * (1 + 1e-6)
    for n in range(5):
        assert schedule.next_slot_s == pytest.approx(first_s + n * new_s)
        assert 0 <= schedule.due_s - schedule.next_slot_s <= jitter * new_s * (1 + 1e-6) + 1e-6
        assert schedule.begin(schedule.due_s) == 0
        assert schedule.finish(schedule.due_s) == 0


@pytest.mark.parametrize(
    ("new_interval_s", "now_s", "next_s"),
    [
        (10.0, 95.0, 100.0),  # on the slots after the last run's
        (10.0, 61.0, 70.0),
        (90.0, 61.0, 150.0),
        (3600.0, 119.0, 3660.0),
        (60.0, 119.0, 120.0),
        (1.0, 110.25, 111.0),
    ],
)
def test_new_slots_are_counted_from_the_last_run(
    new_interval_s: float, now_s: float, next_s: float
) -> None:
    schedule = Schedule(Grid(0.0, 60.0), first_s=0.0, rng=Random(0))
    for at_s in (0.0, 60.0):
        schedule.begin(at_s)
        schedule.finish(at_s)
    schedule.change_interval(new_interval_s, now_s=now_s)
    assert schedule.due_s == next_s
    schedule.begin(next_s)
    schedule.finish(next_s)
    assert schedule.due_s == next_s + new_interval_s


def test_change_of_interval_leaves_a_run_off_the_grid_where_it_is() -> None:
    schedule = Schedule(Grid(20.0, 60.0), first_s=7.0, rng=Random(0))
    schedule.change_interval(10.0, now_s=3.0)
    assert schedule.due_s == 7.0
    schedule.begin(7.0)
    schedule.finish(7.0, not_before_s=100.0)
    schedule.change_interval(30.0, now_s=8.0)
    assert schedule.due_s == 100.0
    assert schedule.next_slot_s >= 100.0


def test_change_of_interval_within_a_run_counts_only_what_goes_by_afterwards() -> None:
    schedule = Schedule(Grid(0.0, 60.0), first_s=0.0, rng=Random(0))
    schedule.begin(0.0)
    schedule.change_interval(10.0, now_s=5.0)
    assert schedule.finish(31.0) == 3
    assert schedule.due_s == 40.0
