"""Falls of the fleet: what is marked, from when, and until when."""

from hypothesis import given
from hypothesis import strategies as st

from telemetryd.gather.counts import HOLD_S, LEAST, WINDOW_S, DropWatch
from telemetryd.model import Drop


def looks(*seen: tuple[float, int]) -> list[Drop | None]:
    watch = DropWatch("nodes")
    return [watch.look(at, number) for at, number in seen]


def test_a_fleet_that_halves_is_marked_until_it_has_recovered() -> None:
    assert looks((0, 40), (60, 20), (120, 20), (180, 21)) == [
        None,
        Drop("nodes", 40, 20),
        Drop("nodes", 40, 20),
        None,
    ]


def test_a_relist_that_returns_nothing_is_marked() -> None:
    assert looks((0, 4), (1, 0)) == [None, Drop("nodes", 4, 0)]


def test_a_fall_in_steps_within_minutes_is_marked() -> None:
    steps = [(60.0 * number, 100 - 10 * number) for number in range(6)]
    assert looks(*steps)[-2:] == [None, Drop("nodes", 100, 50)]


def test_a_fall_over_hours_is_a_fleet_that_shrinks() -> None:
    steps = [(WINDOW_S * number, 100 - 10 * number) for number in range(6)]
    assert looks(*steps) == [None] * 6


def test_a_fall_between_two_looks_is_marked_however_far_apart_they_are() -> None:
    assert looks((0, 40), (100 * HOLD_S, 10))[-1] == Drop("nodes", 40, 10)


def test_after_an_hour_the_fleet_is_taken_at_its_word() -> None:
    found = looks((0, 40), (60, 10), (60 + HOLD_S - 1, 10), (60 + HOLD_S, 10), (61 + HOLD_S, 5))
    assert found == [None, Drop("nodes", 40, 10), Drop("nodes", 40, 10), None, Drop("nodes", 10, 5)]


def test_a_small_fleet_may_lose_half_of_its_few_nodes() -> None:
    assert looks((0, 6), (1, 3), (2, 0)) == [None, None, Drop("nodes", 6, 0)]
    assert looks((0, LEAST - 1), (1, 0)) == [None, None]


def test_the_first_look_has_nothing_to_compare_with() -> None:
    assert looks((0, 0), (1, 1000), (2, 999)) == [None] * 3


@given(st.lists(st.tuples(st.floats(0, 400), st.integers(0, 40)), max_size=40))
def test_a_mark_says_a_number_of_the_window_at_least_twice_what_is_left(
    changes: list[tuple[float, int]],
) -> None:
    watch, at = DropWatch("nodes"), 0.0
    seen: list[tuple[float, int]] = []
    for gap, number in changes:
        at += gap
        drop = watch.look(at, number)
        if drop is not None:
            assert drop.now == number
            assert drop.before in {before for _, before in seen}
            assert drop.before >= 2 * number
            assert drop.before - number >= LEAST
        elif seen:
            assert not (seen[-1][1] >= 2 * number and seen[-1][1] - number >= LEAST) or any(
                at - since >= HOLD_S for since, _ in seen
            )
        seen.append((at, number))
