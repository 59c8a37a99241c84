"""The iterative scanner finds what a parser finds, and never needs a stack."""

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetryd.informer.scan import ScanError, Walker


def members(data: bytes, *, partial: bool = False) -> Iterator[tuple[str, bytes]]:
    walker = Walker(data, partial=partial)
    for name in walker.members():
        yield name, data[walker.skip()]
    if not partial:
        walker.end()


def elements(data: bytes) -> Iterator[bytes]:
    walker = Walker(data)
    for _ in walker.elements():
        yield data[walker.skip()]
    walker.end()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), JSON, max_size=6), st.sampled_from([None, 1]), st.booleans())
def test_members_equal_those_a_parser_finds(
    document: dict[str, object], indent: int | None, ascii_only: bool
) -> None:
    data = json.dumps(document, indent=indent, ensure_ascii=ascii_only).encode(
        errors="surrogatepass"
    )
    if any("\ud800" <= char <= "\udfff" for char in str(document)):
        return
    assert {name: json.loads(raw) for name, raw in members(data)} == document


@given(st.lists(JSON, max_size=6))
def test_elements_equal_those_a_parser_finds(document: list[object]) -> None:
    assert [json.loads(raw) for raw in elements(json.dumps(document).encode())] == document


@given(st.binary(max_size=60) | st.text(alphabet='{}[]",:\\ ab1', max_size=60).map(str.encode))
def test_garbage_raises_nothing_but_a_scan_error(data: bytes) -> None:
    for scan in (members, elements):
        try:
            list(scan(data))
        except ScanError:
            continue
    list_of_partial = []
    try:
        list_of_partial = list(members(data, partial=True))
    except ScanError:
        assert not data.lstrip().startswith(b"{") or b"," in data or b":" in data
    assert isinstance(list_of_partial, list)


def test_nesting_of_any_depth_is_passed_over() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    assert dict(members(b'{"a":' + deep + b',"b":1}'))["b"] == b"1"


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{", b'{"a"}', b'{"a":1,}', b'{"a":1 "b":2}', b'{"a":"x}', b"{} x", b'{"a":[}'],
)
def test_broken_object_is_refused(data: bytes) -> None:
    with pytest.raises(ScanError):
        list(members(data))


@pytest.mark.parametrize("data", [b"", b"{}", b"[", b"[1,]", b"[1 2]", b"[] x", b'["'])
def test_broken_array_is_refused(data: bytes) -> None:
    with pytest.raises(ScanError):
        list(elements(data))


def test_object_that_breaks_off_gives_its_beginning() -> None:
    data = b'{"type":"ADDED","object":{"metadata":{"name":"a","uid":"u'
    parts = dict(members(data, partial=True))
    assert parts["type"] == b'"ADDED"'
    meta = dict(members(parts["object"], partial=True))["metadata"]
    assert dict(members(meta, partial=True)) == {"name": b'"a"', "uid": b'"u'}


def test_string_without_end_costs_linear_time() -> None:
    data = b'{"a":"' + b'\\"' * 500_000
    assert next(iter(members(data, partial=True)))[0] == "a"
    with pytest.raises(ScanError):
        list(members(data))


@given(st.dictionaries(st.sampled_from("abc"), JSON, max_size=3))
def test_what_no_one_walks_through_is_skipped(document: dict[str, object]) -> None:
    data = json.dumps(document).encode()
    walker = Walker(data)
    assert list(walker.members()) == list(document)
    walker.end()


def test_values_are_walked_through_at_any_depth_in_one_go() -> None:
    data = b' {"a": [ {"b": [[1], {"c": "]"}]}, 2 ] , "d": {}}'
    walker = Walker(data)
    found: list[object] = []
    for name in walker.members():
        if name == "a":
            for _ in walker.elements():
                if walker.opens(b"{"):
                    found += [data[walker.skip()] for _ in walker.members()]
        found.append(name)
    walker.end()
    assert found == [b'[[1], {"c": "]"}]', "a", "d"]


def test_scan_asks_whether_to_go_on_and_stops_where_it_is_reported_to() -> None:
    class Stopped(Exception):
        pass

    asked = []

    def stop() -> None:
        asked.append(1)
        if len(asked) == 3:
            raise Stopped

    for data in (b'{"a":[' + b"[]," * 100_000 + b"0]}", b"[" + b"0," * 100_000 + b"0]"):
        asked.clear()
        walker = Walker(data, check=stop)
        with pytest.raises(Stopped):
            list(walker.members() if data[0] == ord("{") else walker.elements())
