"""Charts: thinned without losing an extreme, gaps drawn as gaps."""

import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from telemetryd.history.charts import (
    NO_RECORD,
    Point,
    ceiling,
    chart,
    points_of,
    sparkline,
    thinned,
)
from telemetryd.history.entitlement import Entitlement
from telemetryd.history.slots import HOUR_S, Cell, Gap, Slot

BEGIN = datetime(2026, 9, 1, tzinfo=UTC)


def points(values: list[int | None]) -> list[Point]:
    found = []
    for number, value in enumerate(values):
        at = BEGIN + timedelta(hours=number)
        why = "" if value is not None else "down"
        low, high = (None, None) if value is None else (float(value), float(value + 1))
        found.append(Point(at, at + timedelta(hours=1), low, high, low, why))
    return found


@given(st.lists(st.none() | st.integers(0, 1000), min_size=1, max_size=200), st.integers(1, 50))
def test_thinned_points_cover_the_same_time_and_keep_the_extremes(
    values: list[int | None], most: int
) -> None:
    every = points(values)
    few = thinned(every, most)
    assert len(few) <= most
    assert (few[0].begin, few[-1].end) == (every[0].begin, every[-1].end)
    assert all(one.end == other.begin for one, other in pairwise(few))
    for kept in few:
        inside = [each for each in every if kept.begin <= each.begin < kept.end]
        assert kept.high == max((e.high for e in inside if e.high is not None), default=None)
        assert kept.low == min((e.low for e in inside if e.low is not None), default=None)
        assert (kept.high is None) == (kept.why == "down")


def test_gap_is_a_bar_with_its_reason_and_no_line_crosses_it() -> None:
    drawn = chart("nodes", points([5, 5, None, None, 7, 7]))
    (gap,) = re.findall(
        r'<rect class="gap" x="([\d.]+)%" .*?width="([\d.]+)%"><title>(.*?)</', drawn
    )
    assert gap == ("33.33", "33.33", "not known: down")
    lines = re.findall(r'<polyline class="mean" points="(.*?)"', drawn)
    across = [[float(corner.split(",")[0]) for corner in line.split(" ")] for line in lines]
    assert across == [[0.0, 333.3], [666.7, 1000.0]]


def test_line_of_a_fleet_that_stays_the_same_has_two_corners() -> None:
    drawn = chart("nodes", points([5] * 700))
    assert len(drawn) < 4000


@given(st.floats(0, 1e9))
def test_scale_holds_every_value_and_its_four_lines_are_round(value: float) -> None:
    top = ceiling(value)
    assert value <= top <= max(4.0, 2.5 * value)
    assert (top / 4).is_integer()
    assert len(f"{top / 4:.0f}".rstrip("0")) <= 2


def test_title_is_escaped() -> None:
    assert 'aria-label="&lt;b&gt; &quot;x&quot;"' in chart('<b> "x"', points([1]))


def test_sparkline_is_hidden_from_screen_readers_and_begins_at_zero() -> None:
    drawn = sparkline(points([0, 10]))
    assert 'aria-hidden="true"' in drawn
    heights = [float(y) for y in re.findall(r",([\d.]+)", drawn.partition("polyline")[2])]
    assert max(heights) == 180.0


def test_points_say_why_nothing_is_known() -> None:
    start = int(BEGIN.timestamp())
    cells = {"nodes.entitled": Cell(3, 2, 2, 3, 2.5)}
    slots = [
        Slot(HOUR_S, start, 3600.0, 3600.0, complete=True, cells=cells),
        Slot(HOUR_S, start + HOUR_S, gaps={Gap.OFF: 3000.0, Gap.CLOCK: 600.0}),
    ]
    found = points_of(slots, Entitlement(), BEGIN, BEGIN + timedelta(hours=3), HOUR_S)
    assert [(each.low, each.mean, each.high) for each in found] == [
        (2.0, 2.5, 3.0), (None,) * 3, (None,) * 3,
    ]  # fmt: skip
    assert [each.why for each in found] == [
        "", "collection was off, the clock was set ahead", NO_RECORD,
    ]  # fmt: skip
