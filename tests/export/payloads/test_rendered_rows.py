"""Arrays whose rows are rendered once: the same text, at the cost of what changed."""

from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetryd.errors import PermanentError, Reason
from telemetryd.export.payloads.payload import canonical_bytes
from telemetryd.export.payloads.rendered_rows import RenderedRows
from telemetryd.export.payloads.scc import scc_renderer
from telemetryd.model import Delivery, SystemRow
from tests.export.doubles import EPOCH_S, render_scc, snapshot
from tests.support.counting import calls_of


class Pair(msgspec.Struct, frozen=True):
    """A row: a key and how often it counts."""

    key: int
    count: int


class Written:
    """Writes rows, and counts them."""

    def __init__(self) -> None:
        self.rows: Counter[Pair] = Counter()
        self.render = RenderedRows(self._write, Pair, lambda row: (row.key, row.count))

    def _write(self, row: Pair) -> dict[str, int]:
        self.rows[row] += 1
        return {"count": row.count, "key": row.key}


def text_of(fragment: orjson.Fragment) -> bytes:
    return orjson.dumps(fragment)


pairs = st.builds(Pair, st.integers(0, 400), st.integers(0, 3))
arrays = st.lists(pairs, max_size=30).map(tuple)
sorted_arrays = st.lists(pairs, max_size=400).map(lambda rows: tuple(sorted(rows, key=order)))


def order(row: Pair) -> tuple[int, int]:
    return row.key, row.count


@given(st.lists(arrays | sorted_arrays, max_size=6))
def test_rows_of_any_order_are_rendered_as_if_they_were_the_first(
    arrays: list[tuple[Pair, ...]],
) -> None:
    written = Written()
    for rows in arrays:
        expected = [{"count": row.count, "key": row.key} for row in sorted(rows, key=order)]
        assert text_of(written.render(rows)) == canonical_bytes({"": expected})[4:-1]


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=600, unique=True), st.randoms())
def test_only_rows_that_are_new_are_written(keys: list[int], rng: Random) -> None:
    written = Written()
    rows = {key: Pair(key, 1) for key in sorted(keys)}
    written.render(tuple(rows.values()))
    for _ in range(5):
        written.rows.clear()
        before = set(rows.values())
        for key in rng.sample(sorted(rows), min(3, len(rows))):
            rows[key] = Pair(key, rows[key].count + 1)
        if len(rows) > 1:
            del rows[rng.choice(sorted(rows))]
        rows[max(keys) + 1 + len(written.rows)] = Pair(max(keys) + 1 + len(written.rows), 1)
        rows = dict(sorted(rows.items()))
        written.render(tuple(rows.values()))
        assert written.rows == Counter(set(rows.values()) - before)


def test_a_row_that_does_not_fit_its_schema_is_refused_and_those_before_stay() -> None:
    written = Written()
    good = (Pair(1, 1), Pair(2, 1))
    text = text_of(written.render(good))
    for _ in range(2):
        with pytest.raises(PermanentError, match="doesn't fit its schema") as caught:
            written.render((Pair(1, 1), Pair(2, 1.5)))  # type: ignore[arg-type]
        assert caught.value.reason is Reason.INTERNAL
    written.rows.clear()
    assert text_of(written.render(good)) == text
    assert not written.rows


def machines(rows: int) -> tuple[SystemRow, ...]:
    return tuple(
        SystemRow("amd64", 4, 16_000 + row, upstream=False, count=1) for row in range(rows)
    )


def test_a_payload_costs_the_same_calls_with_ten_times_the_rows() -> None:
    def calls(rows: int) -> int:
        renderer = scc_renderer()
        first = replace(snapshot(), systems=machines(rows))
        renderer(first, Delivery(EPOCH_S))
        changed = list(first.systems)
        changed[rows // 2] = replace(changed[rows // 2], count=2)
        second = replace(first, systems=tuple(changed))
        return calls_of(lambda: renderer(second, Delivery(EPOCH_S)))

    few, many = calls(300), calls(3000)
    assert 0 < many <= 1.5 * few


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 3)), max_size=8), st.randoms())
def test_a_renderer_with_a_past_gives_the_bytes_of_a_fresh_one(
    changes: list[tuple[int, int]], rng: Random
) -> None:
    renderer = scc_renderer()
    rows = {row.memory_mib: row for row in machines(40)}
    for step, count in changes:
        memory = 16_000 + step
        if memory in rows and count == 3:
            del rows[memory]
        else:
            rows[memory] = SystemRow("amd64", 4, memory, upstream=False, count=count)
        held: Any = sorted(rows.values())
        if rng.random() < 0.2:
            rng.shuffle(held)
        facts = replace(snapshot(), systems=tuple(held))
        assert renderer(facts, Delivery(EPOCH_S)) == render_scc(facts, EPOCH_S)
