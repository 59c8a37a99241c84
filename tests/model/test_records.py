"""UID and memory of a node come out of one number as they went in."""

import sys

from hypothesis import given
from hypothesis import strategies as st

from telemetryd.model import UNREADABLE_TRAITS, NodeRecord, own_of

UID = "0d3c4f52-3d0b-4b53-8a44-d0a8c6a6fd1e"
KIB_NANO = 2**10 * 10**9

uuids = st.uuids().map(str)
uids = st.one_of(
    uuids,
    st.sampled_from([UID, "00000000-0000-0000-0000-000000000000"]),
    uuids.map(str.upper),
    uuids.map(lambda uid: uid.replace("-", "_")),
    uuids.map(lambda uid: uid.replace("-", "")),
    uuids.map(lambda uid: f"{uid}\n"),
    st.text(max_size=40),
)
memories = st.one_of(
    st.none(),
    st.integers(0, 2**70),
    st.integers(0, 2**60).map(lambda kib: kib * KIB_NANO),
    st.sampled_from([0, 1, KIB_NANO, (2**51 - 1) * KIB_NANO, 2**51 * KIB_NANO]),
)


def record(uid: str, memory_nano: int | None) -> NodeRecord:
    return NodeRecord(own_of(uid, memory_nano), UNREADABLE_TRAITS)


@given(uids, memories)
def test_any_uid_and_memory_come_out_as_they_went_in(uid: str, memory_nano: int | None) -> None:
    held = record(uid, memory_nano)
    assert (held.uid, held.memory_nano, held.shape.memory_nano) == (uid, memory_nano, memory_nano)


@given(uids, memories, uids, memories)
def test_records_are_equal_only_with_the_same_uid_and_memory(
    uid: str, memory_nano: int | None, other_uid: str, other_nano: int | None
) -> None:
    same = (uid, memory_nano) == (other_uid, other_nano)
    assert (record(uid, memory_nano) == record(other_uid, other_nano)) is same
    assert record(uid, memory_nano) == record(uid, memory_nano)


def test_a_usual_uid_and_memory_take_no_more_than_a_number() -> None:
    for memory_nano in (None, 0, 16384256 * KIB_NANO, 24 * 2**30 * KIB_NANO):
        assert sys.getsizeof(own_of(UID, memory_nano)) <= 48
