"""The line splitter equals splitting the whole, however the stream is cut."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetryd.informer.source import LineSplitter, OversizeLine


def split_whole(data: bytes, limit: int) -> list[bytes | OversizeLine]:
    *whole, _partial = data.split(b"\n")
    return [OversizeLine(line[:limit]) if len(line) > limit else line for line in whole if line]


@given(
    lines=st.lists(st.binary(max_size=30).map(lambda raw: raw.replace(b"\n", b"x")), max_size=20),
    cuts=st.lists(st.integers(0, 700), max_size=30),
    limit=st.integers(1, 25),
    tail=st.binary(max_size=40).map(lambda raw: raw.replace(b"\n", b"x")),
)
def test_any_chunking_equals_splitting_the_whole(
    lines: list[bytes], cuts: list[int], limit: int, tail: bytes
) -> None:
    data = b"".join(line + b"\n" for line in lines) + tail
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    splitter = LineSplitter(limit)
    found: list[bytes | OversizeLine] = []
    for start, end in itertools.pairwise(edges):
        found += splitter.feed(data[start:end])
    assert found == split_whole(data, limit)


def test_line_above_the_limit_is_skipped_and_the_next_one_is_whole() -> None:
    splitter = LineSplitter(10)
    assert splitter.feed(b"a" * 8) == []
    assert splitter.feed(b"a" * 8) == []
    assert splitter.feed(b"aa\nnext\n") == [OversizeLine(b"a" * 10), b"next"]


def test_partial_last_line_is_never_given() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b'{"a":1}\n{"b"') == [b'{"a":1}']
    assert splitter.feed(b"") == []


def test_long_line_in_small_chunks_is_held_once() -> None:
    splitter = LineSplitter(1000)
    for _ in range(100_000):
        assert splitter.feed(b"x" * 100) == []
    assert splitter._tail_bytes <= 1000


def test_limit_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        LineSplitter(0)
