import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.figures import (
    Goal,
    Spread,
    bucket_bound,
    per_object,
    quantile,
    ratio,
    summarise,
)

SOME = st.lists(st.floats(0, 1e9), min_size=1, max_size=30)


def test_runs_are_summarised_by_median_least_and_most() -> None:
    assert summarise([3.0, 1.0, 8.0, 2.0, 4.0]) == Spread(3.0, 1.0, 8.0, 5)
    assert summarise([1.0, 2.0]) == Spread(1.5, 1.0, 2.0, 2)


def test_no_runs_are_no_summary() -> None:
    with pytest.raises(ValueError, match="no runs"):
        summarise([])


def test_ratio_is_of_the_medians() -> None:
    assert ratio(summarise([1, 2, 9]), summarise([4, 8, 100])) == 0.25


@pytest.mark.parametrize("theirs", [None, Spread(0.0, 0.0, 0.0, 1)])
def test_ratio_to_nothing_is_none(theirs: Spread | None) -> None:
    assert ratio(summarise([1.0]), theirs) is None
    assert ratio(None, summarise([1.0])) is None


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [(0.44, "met"), (0.45, "met"), (0.451, "not met"), (None, "not measured")],
)
def test_goal_is_met_up_to_its_limit(measured: float | None, verdict: str) -> None:
    assert Goal("cold sync", 0.45, measured, "x").verdict == verdict


def test_each_further_object_adds_the_slope() -> None:
    assert per_object(60e6, 62.7e6, fewer=1_000, more=10_000) == pytest.approx(300)
    with pytest.raises(ValueError, match="not more"):
        per_object(1, 2, fewer=5, more=5)


def test_quantile_is_one_of_the_values() -> None:
    values = [float(number) for number in range(1, 101)]
    assert quantile(values, 0.99) == 99
    assert quantile(values, 0.5) == 50
    assert quantile(values, 1) == 100
    assert quantile([7.0], 0.01) == 7


@given(SOME, st.floats(0.01, 1))
def test_quantile_leaves_so_many_at_or_below(values: list[float], part: float) -> None:
    found = quantile(values, part)
    at_or_below = sum(value <= found for value in values)
    below = sum(value < found for value in values)
    assert at_or_below >= part * len(values) - 1e-9
    assert below < part * len(values) + 1e-9


@pytest.mark.parametrize(("values", "part"), [([], 0.5), ([1.0], 0.0), ([1.0], 1.1)])
def test_quantile_of_nothing_is_refused(values: list[float], part: float) -> None:
    with pytest.raises(ValueError, match="quantile"):
        quantile(values, part)


def test_bucket_bound_is_where_the_part_ends() -> None:
    histogram = [(0.01, 90.0), (0.05, 99.0), (0.1, 99.0), (math.inf, 100.0)]
    assert bucket_bound(histogram, 0.9) == 0.01
    assert bucket_bound(histogram, 0.99) == 0.05
    assert bucket_bound(histogram, 0.995) == math.inf


def test_empty_histogram_has_no_bound() -> None:
    assert bucket_bound([], 0.99) is None
    assert bucket_bound([(0.01, 0.0), (math.inf, 0.0)], 0.99) is None
