"""Counts as sorted rows: what sorting all of them gives, at the cost of those that changed."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetryd.gather.rows import CountedRows
from tests.support.counting import lines_of

Row = tuple[int, int]

changes = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 3)), max_size=30)


def counted(order: Any = None) -> CountedRows[int, Row]:
    return CountedRows(lambda key, number: (key, number), order)


@pytest.mark.parametrize("order", [None, lambda key: -key])
@given(rounds=st.lists(changes, max_size=6))
def test_rows_are_those_that_sorting_all_would_give(order: Any, rounds: list[Any]) -> None:
    rows, held = counted(order), Counter[int]()
    for each in rounds:
        for key, drawn in each:
            step = -held[key] if drawn == 3 else drawn
            if step:
                rows.add(key, step)
                held[key] += step
        expected = sorted(((key, number) for key, number in held.items() if number), key=first)
        if order is not None:
            expected.reverse()
        assert rows.rows() == tuple(expected)
        assert len(rows) == len(expected)


def first(row: Row) -> int:
    return row[0]


@given(st.sets(st.integers(0, 1000), min_size=1, max_size=200), st.data())
def test_rows_that_did_not_change_are_the_same_objects(keys: set[int], data: st.DataObject) -> None:
    rows = counted()
    for key in keys:
        rows.add(key, 1)
    before = rows.rows()
    assert rows.rows() is before
    changed = data.draw(st.sampled_from(sorted(keys)))
    rows.add(changed, 1)
    after = rows.rows()
    assert [row for row in after if row[0] == changed] == [(changed, 2)]
    assert all(old is new for old, new in zip(before, after, strict=True) if old[0] != changed)
    rows.add(changed, -1)
    assert rows.rows() == before


parts = st.dictionaries(st.integers(0, 9), st.integers(1, 4), max_size=8)


@given(st.lists(st.tuples(parts, st.booleans(), st.booleans()), max_size=6))
def test_parts_count_while_they_are_there(
    given_parts: list[tuple[dict[int, int], bool, bool]],
) -> None:
    rows, total = counted(), Counter[int]()
    for wanted, counts_before, counts_after in given_parts:
        part: dict[int, int] = {}
        for key, number in wanted.items():
            for _ in range(number + 1):
                rows.add_to(part, key, 1, counts=counts_before)
            rows.add_to(part, key, -1, counts=counts_before)
        assert part == wanted
        if counts_before is not counts_after:
            rows.add_part(part, 1 if counts_after else -1)
        if counts_after:
            total.update(wanted)
    assert dict(rows.rows()) == {key: number for key, number in total.items() if number}


@pytest.mark.parametrize("counts", [True, False])
def test_keys_of_parts_that_count_are_shared(counts: bool) -> None:
    rows: CountedRows[tuple[str, int], Any] = CountedRows(lambda key, number: (key, number))
    parts: list[dict[tuple[str, int], int]] = [{} for _ in range(50)]
    for number, part in enumerate(parts):
        rows.add_to(part, ("amd64", 7000 + number // 50), 1, counts=counts)
        if not counts:
            rows.add_part(part, 1)
    assert len({id(key) for part in parts for key in part}) == 1


def test_a_change_costs_the_same_with_ten_times_the_rows() -> None:
    def lines(number: int) -> int:
        rows = counted()
        for key in range(number):
            rows.add(2 * key, 1)
        rows.rows()

        def change() -> None:
            rows.add(number, 1)
            rows.add(number + 1, 1)
            rows.rows()

        return lines_of(change, "rows.py").total()

    assert 0 < lines(2000) == lines(200)
