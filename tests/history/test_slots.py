"""Slots: joined in order they are what the moments were, and hold no more time than they have."""

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetryd.history.slots import (
    DAY_S,
    HOUR_S,
    MINUTE_S,
    Cell,
    Gap,
    Moment,
    Slot,
    join,
    parents_of,
    piece,
    pieces,
    spans,
)

values = st.dictionaries(st.sampled_from(("nodes.all", "clusters.all")), st.integers(1, 10**6))
moments = st.builds(Moment, values, st.booleans(), st.sampled_from(("", "v2.14.0", "v2.15.0")))
held = st.lists(st.tuples(moments, st.integers(0, 20)), min_size=1, max_size=20)


@given(held)
def test_minute_joined_of_pieces_is_what_a_recount_says(parts: list[tuple[Moment, int]]) -> None:
    parts = [(moment, min(seconds, 60 // len(parts))) for moment, seconds in parts]
    slot = join(MINUTE_S, 0, (piece(MINUTE_S, 0, seconds, moment) for moment, seconds in parts))
    complete = [(moment, seconds) for moment, seconds in parts if moment.complete]
    assert slot.known_s == sum(seconds for _, seconds in parts)
    assert slot.complete_s == sum(seconds for _, seconds in complete)
    assert slot.complete == bool(complete)
    for name in ("nodes.all", "clusters.all", "gpus.amd"):
        cell = slot.cell(name)
        assert cell.high == max(moment.values.get(name, 0) for moment, _ in parts)
        counts = [moment.values.get(name, 0) for moment, _ in complete]
        if counts:
            assert (cell.low, cell.first, cell.last) == (min(counts), counts[0], counts[-1])
            if seconds := sum(seconds for _, seconds in complete):
                area = sum(moment.values.get(name, 0) * held for moment, held in complete)
                assert cell.mean == pytest.approx(float(Fraction(area, seconds)))
        else:
            assert cell[1:] == (None, None, None, None)


def test_incomplete_moment_raises_the_peak_and_nothing_else() -> None:
    full = piece(MINUTE_S, 0, 20.0, Moment({"nodes.all": 10}, complete=True))
    partial = piece(MINUTE_S, 0, 30.0, Moment({"nodes.all": 40}, complete=False))
    assert join(MINUTE_S, 0, (full, partial)) == Slot(
        MINUTE_S,
        0,
        known_s=50.0,
        complete_s=20.0,
        complete=True,
        gaps={Gap.INCOMPLETE: 30.0},
        cells={"nodes.all": Cell(40, 10, 10, 10, 10.0)},
    )


def test_series_that_comes_and_goes_was_zero_meanwhile() -> None:
    without = piece(MINUTE_S, 0, 30.0, Moment({}, complete=True))
    with_it = piece(MINUTE_S, 0, 30.0, Moment({"nodes.provider.k3s": 4}, complete=True))
    for order in ((without, with_it), (with_it, without)):
        cell = join(MINUTE_S, 0, order).cell("nodes.provider.k3s")
        assert (cell.high, cell.low, cell.mean) == (4, 0, 2.0)
        assert {cell.first, cell.last} == {0, 4}


def test_slot_that_is_visited_twice_has_no_more_seconds_than_it_is_long() -> None:
    visit = piece(MINUTE_S, 0, 60.0, Moment({"nodes.all": 10}, complete=True))
    again = piece(MINUTE_S, 0, 60.0, Moment({"nodes.all": 20}, complete=True))
    slot = join(MINUTE_S, 0, (visit, again))
    assert (slot.known_s, slot.complete_s) == (60.0, 60.0)
    assert slot.cell("nodes.all") == Cell(20, 10, 10, 20, 15.0)


@given(st.integers(0, 10 * DAY_S), st.floats(0.001, 40 * DAY_S))
def test_spans_cover_a_gap_once_with_the_largest_slots(begin: int, length_s: float) -> None:
    end = begin + length_s
    found = list(spans(begin, end))
    assert sum(seconds for _, _, seconds in found) == pytest.approx(length_s)
    for (size_s, start, _), (_, later, _) in pairwise(found):
        assert start < later
        assert later == start + size_s
    assert len(found) <= length_s / DAY_S + 2 * (23 + 60) + 2
    assert all(seconds == size_s for size_s, _, seconds in found if size_s > MINUTE_S)


@given(st.floats(0, 10 * DAY_S), st.floats(0.001, 3 * HOUR_S))
def test_pieces_cover_a_time_once(begin: float, length_s: float) -> None:
    found = list(pieces(begin, begin + length_s, MINUTE_S))
    assert sum(seconds for _, seconds in found) == pytest.approx(length_s, abs=1e-6)
    assert [start for start, _ in found] == sorted({start for start, _ in found})


def test_parents_are_the_hours_before_the_days() -> None:
    minutes = [Slot(MINUTE_S, start) for start in (0, 60, HOUR_S, DAY_S)]
    assert list(parents_of([*minutes, Slot(HOUR_S, 2 * DAY_S)])) == [
        (HOUR_S, MINUTE_S, 0),
        (HOUR_S, MINUTE_S, HOUR_S),
        (HOUR_S, MINUTE_S, DAY_S),
        (DAY_S, HOUR_S, 0),
        (DAY_S, HOUR_S, DAY_S),
        (DAY_S, HOUR_S, 2 * DAY_S),
    ]


def test_fuller_record_of_a_slot_wins_and_keeps_the_peak_of_the_other() -> None:
    full = Slot(
        HOUR_S, 0, 3600.0, 3600.0, complete=True, cells={"nodes.all": Cell(9, 8, 8, 9, 8.5)}
    )
    late = Slot(HOUR_S, 0, 60.0, 60.0, complete=True, cells={"nodes.all": Cell(30, 1, 1, 1, 1.0)})
    expected = Cell(30, 8, 8, 9, 8.5)
    assert late.or_fuller(full).cell("nodes.all") == expected
    assert full.or_fuller(late).cell("nodes.all") == expected
    assert late.or_fuller(full).known_s == 3600.0


def test_complete_record_of_a_slot_wins_over_a_longer_one_that_is_not() -> None:
    partial = Slot(HOUR_S, 0, 3600.0, 0.0, cells={"nodes.all": Cell(9)})
    moment = piece(HOUR_S, 0, 0.0, Moment({"nodes.all": 4}, complete=True, version="v2.14.1"))
    for made in (partial.or_fuller(moment), moment.or_fuller(partial)):
        assert (made.complete, made.version) == (True, "v2.14.1")
        assert made.cell("nodes.all") == Cell(9, 4, 4, 4, 4.0)
        assert made.cell("gpus.amd") == Cell(0, 0, 0, 0, 0.0)


def test_of_two_records_that_know_as_much_the_first_one_stays() -> None:
    one = piece(HOUR_S, 0, 60.0, Moment({"nodes.all": 4}, complete=True, version="v1"))
    other = piece(HOUR_S, 0, 60.0, Moment({"nodes.all": 3}, complete=True, version="v2"))
    assert one.or_fuller(other) == one
    assert other.or_fuller(one).version == "v2"
    gap = Slot(HOUR_S, 0, gaps={Gap.DOWN: 60.0})
    assert gap.or_fuller(Slot(HOUR_S, 0)) == Slot(HOUR_S, 0).or_fuller(gap) == gap


def test_what_is_known_later_is_no_gap() -> None:
    gap = Slot(MINUTE_S, 0, gaps={Gap.DOWN: 20.0, Gap.CLOCK: 40.0})
    partial = piece(MINUTE_S, 0, 30.0, Moment({"nodes.all": 4}, complete=False))
    full = piece(MINUTE_S, 0, 45.0, Moment({"nodes.all": 4}, complete=True))
    assert join(MINUTE_S, 0, (gap, partial)).gaps == {
        Gap.DOWN: 20.0,
        Gap.INCOMPLETE: 30.0,
        Gap.CLOCK: 10.0,
    }
    made = join(MINUTE_S, 0, (gap, partial, full))
    assert (made.known_s, made.complete_s, made.gaps) == (60.0, 45.0, {Gap.INCOMPLETE: 15.0})
    assert join(MINUTE_S, 0, (partial, full, gap)).gaps == {Gap.INCOMPLETE: 15.0}
    brief = Slot(MINUTE_S, 0, gaps={Gap.OFF: 0.5})
    assert join(MINUTE_S, 0, (brief,)).gaps == {Gap.OFF: 0.5}


def test_last_version_that_is_known_stays() -> None:
    parts = [
        piece(MINUTE_S, 0, 1.0, Moment({}, complete=True, version=version))
        for version in ("v1", "v2", "")
    ]
    assert join(MINUTE_S, 0, parts).version == "v2"


def test_slot_of_moments_without_length_has_the_last_one_as_its_mean() -> None:
    parts = [piece(MINUTE_S, 0, 0.0, Moment({"nodes.all": n}, complete=True)) for n in (9, 3)]
    slot = join(MINUTE_S, 0, parts)
    assert (slot.known_s, slot.complete_s, slot.complete, slot.known) == (0.0, 0.0, True, True)
    assert slot.cell("nodes.all") == Cell(9, 3, 9, 3, 3.0)


def test_slots_know_nothing_where_there_is_a_gap_alone() -> None:
    assert not Slot(MINUTE_S, 0, gaps={Gap.OFF: 60.0}).known
    assert Slot(MINUTE_S, 0, cells={"nodes.all": Cell(2)}).known
    assert Slot(MINUTE_S, 0, known_s=0.1).known


@pytest.mark.parametrize(("size_s", "start"), [(61, 0), (MINUTE_S, 30), (DAY_S, HOUR_S)])
def test_no_slot_begins_elsewhere(size_s: int, start: int) -> None:
    with pytest.raises(ValueError, match="no slot"):
        Slot(size_s, start)


@pytest.mark.parametrize(
    "part", [Slot(MINUTE_S, DAY_S + HOUR_S), Slot(MINUTE_S, DAY_S - 60), Slot(DAY_S, DAY_S)]
)
def test_part_of_another_time_is_refused(part: Slot) -> None:
    with pytest.raises(ValueError, match="no part"):
        join(HOUR_S, DAY_S, [part])
