"""A bad object costs itself alone and keeps its key; what isn't a list never passes for one."""

import contextlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from telemetryd.errors import BadResponse, UnreadableReason
from telemetryd.informer.decode import (
    Event,
    Item,
    ObjectDecoder,
    Page,
    decode_bookmark,
    parse_event,
    parse_page,
    scan_event,
    scan_page,
)
from telemetryd.informer.scan import LenientMeta, ObjectIdentity, ScanNeeded, scan_identity
from telemetryd.model import Unreadable
from tests.informer.samples import (
    DEEP,
    THINGS,
    ThingRecord,
    deep_thing,
    event,
    listing,
    record,
    status,
    thing,
)


def decode(raw: bytes) -> Item[ThingRecord]:
    try:
        return ObjectDecoder(THINGS).decode(raw)
    except ScanNeeded:
        return ObjectDecoder(THINGS).decode(raw, scan_identity(raw))


def decode_page(body: bytes) -> Page:
    try:
        return parse_page(body, THINGS)
    except ScanNeeded:
        return scan_page(body, THINGS)


def decode_event(line: bytes) -> Event:
    try:
        return parse_event(line)
    except ScanNeeded:
        return scan_event(line)[0]


def changed(**changes: Any) -> bytes:
    body = thing("a")
    for path, value in changes.items():
        *parents, last = path.split("__")
        target = body
        for parent in parents:
            target = target[parent]
        if value is ...:
            del target[last]
        else:
            target[last] = value
    return json.dumps(body).encode()


def test_object_becomes_its_record() -> None:
    item = decode(changed())
    assert item == Item("ns/a", "1", record("a"))


@pytest.mark.parametrize(
    ("raw", "key", "uid", "reason"),
    [
        (changed(spec__size="x"), "ns/a", "uid-a", UnreadableReason.TYPE),
        (changed(spec=[]), "ns/a", "uid-a", UnreadableReason.TYPE),
        (changed(spec__size=666), "ns/a", "uid-a", UnreadableReason.TYPE),
        (changed(metadata__uid=7), "ns/a", "", UnreadableReason.TYPE),
        (changed(metadata__resourceVersion=7), "ns/a", "uid-a", UnreadableReason.TYPE),
        (changed(metadata__resourceVersion=None), "ns/a", "uid-a", UnreadableReason.MISSING),
        (changed(metadata__resourceVersion=...), "ns/a", "uid-a", UnreadableReason.MISSING),
        (changed(metadata__uid=...), "ns/a", "", UnreadableReason.MISSING),
        (changed(metadata__uid=""), "ns/a", "", UnreadableReason.MISSING),
        (changed(metadata__name=...), None, "uid-a", UnreadableReason.MISSING),
        (changed(metadata__name=None), None, "uid-a", UnreadableReason.MISSING),
        (changed(metadata__namespace=...), None, "uid-a", UnreadableReason.MISSING),
        (changed(metadata__name=5), None, "uid-a", UnreadableReason.TYPE),
        (changed(metadata=...), None, "", UnreadableReason.MISSING),
        (changed(metadata="x"), None, "", UnreadableReason.TYPE),
        (changed(metadata=None), None, "", UnreadableReason.MISSING),
        (b"[]", None, "", UnreadableReason.TYPE),
        (b"null", None, "", UnreadableReason.TYPE),
        (b"7", None, "", UnreadableReason.TYPE),
        (deep_thing("a"), "ns/a", "uid-a", UnreadableReason.MALFORMED),
        (
            changed()[:-1]
            + b',"metadata":{"x":'
            + DEEP.encode()
            + b',"namespace":"ns","name":"b"}}',
            "ns/b",
            "",
            UnreadableReason.MALFORMED,
        ),
    ],
)
def test_bad_object_is_unreadable_and_keeps_its_key(
    raw: bytes, key: str | None, uid: str, reason: UnreadableReason
) -> None:
    item = decode(raw)
    assert (item.key, item.value, item.suspect) == (key, Unreadable(uid, reason), False)


@pytest.mark.parametrize(
    "raw",
    [
        changed()[:-1] + b',"x":NaN}',
        changed().replace(b"uid-a", b"uid-\xff"),
        changed()[:-1],
    ],
)
def test_broken_json_is_suspect_and_keeps_its_key(raw: bytes) -> None:
    item = decode(raw)
    assert item.suspect
    assert item.key == "ns/a"
    assert isinstance(item.value, Unreadable)
    assert item.value.reason is UnreadableReason.MALFORMED


def test_object_of_another_kind_is_refused() -> None:
    for raw in (changed(kind="Table"), changed(kind="Table", spec=[])):
        with pytest.raises(BadResponse, match="another kind"):
            decode(raw)


def test_object_without_kind_passes_as_in_lists_of_core_objects() -> None:
    assert decode(changed(kind=..., apiVersion=...)).value == record("a")


def test_cluster_scoped_key_is_the_name() -> None:
    decoder = ObjectDecoder(replace(THINGS, namespaced=False))
    assert decoder.decode(changed()).key == "a"


def test_page_gives_version_token_and_items() -> None:
    page = decode_page(listing([thing("a"), thing("b")], 7, "more"))
    assert (page.resource_version, page.continue_token) == ("7", "more")
    assert [decode(bytes(raw)).key for raw in page.items] == ["ns/a", "ns/b"]


def test_list_without_objects_may_say_null() -> None:
    assert list(decode_page(listing([], 7, items=None)).items) == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"<html>",
        listing([])[:-1],
        listing([thing("a")])[:-3],
        listing([]) + b"x",
        listing([], kind="Table"),
        listing([], kind="OtherList"),
        listing([], apiVersion="example.io/v2"),
        listing([], kind=None),
        listing([], metadata=None),
        listing([], metadata={}),
        listing([], metadata={"resourceVersion": ""}),
        listing([], metadata={"resourceVersion": None}),
        listing([], metadata={"resourceVersion": 7}),
        listing([], metadata=[]),
        listing([], items={}),
        json.dumps(
            {
                "kind": "ThingList",
                "apiVersion": "example.io/v1",
                "metadata": {"resourceVersion": "1"},
            }
        ).encode(),
        json.dumps(status(500)).encode(),
    ],
)
def test_what_is_no_list_is_refused(body: bytes) -> None:
    with pytest.raises(BadResponse):
        decode_page(body)


@pytest.mark.parametrize(
    "bad",
    [deep_thing("bad"), changed(metadata__name="bad")[:-1] + b',"x":NaN}'],
)
def test_page_with_an_object_that_stops_the_parser_loses_that_object_alone(bad: bytes) -> None:
    body = listing([thing("a"), "HERE", thing("b")]).replace(b'"HERE"', bad)
    page = decode_page(body)
    items = [decode(bytes(raw)) for raw in page.items]
    assert [item.key for item in items] == ["ns/a", "ns/bad", "ns/b"]
    assert [isinstance(item.value, Unreadable) for item in items] == [False, True, False]
    assert page.resource_version == "1"
    assert page.identities is not None
    assert [who.metadata.name for who in page.identities if who.metadata] == ["a", "bad", "b"]


def test_object_whose_identity_is_known_is_not_scanned_again() -> None:
    known = ObjectIdentity("Thing", LenientMeta("else", "ns", "uid-else", "7"))
    item = ObjectDecoder(THINGS).decode(deep_thing("a"), known)
    assert (item.key, item.value) == (
        "ns/else",
        Unreadable("uid-else", UnreadableReason.MALFORMED),
    )


@pytest.mark.parametrize("raw", [b"[]", changed(metadata="x"), changed(metadata__name=5)])
def test_wrong_types_need_no_scan(raw: bytes) -> None:
    assert ObjectDecoder(THINGS).decode(raw).key is None
    with pytest.raises(BadResponse):
        ObjectDecoder(THINGS).decode(changed(kind="Other", metadata="x"))


def test_identity_of_what_is_deleted_is_found_in_json_that_needs_a_scan_too() -> None:
    decoder = ObjectDecoder(THINGS)
    with pytest.raises(ScanNeeded):
        decoder.identify_deleted(deep_thing("a"))
    known = scan_identity(deep_thing("a"))
    assert decoder.identify_deleted(deep_thing("a"), known).key == "ns/a"


@pytest.mark.parametrize("value", [b"0,", b"{},"])
def test_page_of_millions_of_tiny_values_is_refused_before_they_are_objects(
    value: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetryd.informer.decode._MAX_PAGE_ITEMS", 10_000)
    tiny = listing(["HERE"]).replace(b'"HERE"', value * (5_000_000 // len(value)) + b"0")
    with pytest.raises(ScanNeeded):
        parse_page(tiny, THINGS)
    with pytest.raises(BadResponse, match="too many values"):
        scan_page(tiny, THINGS)


def test_page_with_an_object_of_millions_of_values_is_taken() -> None:
    large = thing("a", 3) | {"filler": [0] * 2_000_000}
    page = decode_page(listing([large, thing("b")]))
    assert [decode(bytes(raw)).value for raw in page.items] == [record("a", 3), record("b")]


def test_deep_event_keeps_type_and_key() -> None:
    line = b'{"type":"MODIFIED","object":' + deep_thing("a", 9) + b"}"
    found = decode_event(line)
    item = decode(bytes(found.object))
    assert (found.type, item.key, item.resource_version) == ("MODIFIED", "ns/a", "9")
    assert item.value == Unreadable("uid-a", UnreadableReason.MALFORMED)


def test_event_of_unknown_type_may_lack_an_object() -> None:
    assert decode_event(b'{"type":"NEW"}').type == "NEW"


@pytest.mark.parametrize("line", [b"", b"x", b"[]", b'{"type":7}', b"{}", b'{"type":"ADDED","obj'])
def test_line_that_is_no_event_is_refused(line: bytes) -> None:
    with pytest.raises(BadResponse):
        decode_event(line)


def test_bookmark_without_a_version_is_refused() -> None:
    for raw in (b"{}", b'{"metadata":{}}', b'{"metadata":{"resourceVersion":null}}', b"null"):
        with pytest.raises(BadResponse):
            decode_bookmark(raw)


def test_head_of_an_oversize_event_gives_its_key() -> None:
    line = event("MODIFIED", thing("a", version=9))
    kind, item = ObjectDecoder(THINGS).identify_head(line[:-40])
    assert (kind, item.key, item.resource_version) == ("MODIFIED", "ns/a", "9")
    assert item.value == Unreadable("uid-a", UnreadableReason.OVERSIZE)
    for garbage in (b"", b"x", b"{", line[:20]):
        assert ObjectDecoder(THINGS).identify_head(garbage)[1].key is None


WILD = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["metadata", "name", "namespace", "uid", "resourceVersion", "spec", "size", "kind"]
            ),
            children,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@example(b'{"metadata": [], "name": Infinity}')
@given(WILD.map(json.dumps).map(str.encode) | st.binary(max_size=80))
def test_any_object_is_an_item_or_of_another_kind(raw: bytes) -> None:
    try:
        item = decode(raw)
    except BadResponse:
        return
    assert isinstance(item.value, Unreadable | ThingRecord)


@given(
    st.binary(max_size=80)
    | st.tuples(st.integers(0, 400), st.binary(max_size=4)).map(
        lambda cut: listing([thing("a")])[: cut[0]] + cut[1] + listing([thing("a")])[cut[0] + 1 :]
    )
)
def test_any_page_or_line_is_decoded_or_refused(raw: bytes) -> None:
    try:
        for item in decode_page(raw).items:
            decode(bytes(item))
    except BadResponse:
        pass
    with contextlib.suppress(BadResponse):
        decode(bytes(decode_event(raw).object))
