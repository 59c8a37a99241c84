"""What the rules say of a Lease, and how it is read and written; without I/O."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetryd.control.lease import (
    LeaseRecord,
    LeaseTiming,
    Observed,
    Term,
    observe,
    parse_lease,
    render_lease,
    render_micro_time,
    wait_s,
    whole_seconds,
)
from telemetryd.errors import BadResponse
from telemetryd.redaction import OURS

TIMING = LeaseTiming()


def record(holder: str = "other", version: str = "7", **changes: Any) -> LeaseRecord:
    made = LeaseRecord(holder, 15.0, 3, version, "uid")
    return LeaseRecord(**{**{name: getattr(made, name) for name in made.__slots__}, **changes})


@pytest.mark.parametrize(
    ("duration_s", "renew_deadline_s", "retry_period_s"),
    [(10, 10, 2), (9, 10, 2), (15, 2.4, 2), (15, 10, 0), (15, 10, -1)],
)
def test_timing_that_could_have_two_leaders_is_refused(
    duration_s: float, renew_deadline_s: float, retry_period_s: float
) -> None:
    with pytest.raises(ValueError, match="must exceed"):
        LeaseTiming(duration_s, renew_deadline_s, retry_period_s)


def test_look_that_finds_the_same_leaves_the_term_as_old_as_it_is() -> None:
    first = observe(None, record(), 10.0)
    assert observe(first, record(), 20.0) == first
    assert observe(first, record(version="8"), 20.0).since_s == 20.0
    assert observe(first, None, 20.0) == Observed(None, 20.0)
    assert observe(first, record(uid="another"), 20.0).since_s == 20.0


@given(
    st.one_of(st.none(), st.builds(record, holder=st.sampled_from(["", "me", "other"]))),
    st.floats(0, 1e6),
    st.floats(0, 60),
)
def test_term_of_another_is_waited_out_and_no_other(
    found: LeaseRecord | None, since_s: float, elapsed_s: float
) -> None:
    now_s = since_s + elapsed_s
    left_s = wait_s(Observed(found, since_s), "me", timing=TIMING, now_s=now_s)
    free = found is not None and found.holder in ("", "me")
    over = since_s + TIMING.duration_s - now_s <= 0
    assert (left_s == 0) is (free or over)
    assert 0 <= left_s <= TIMING.duration_s


def test_holder_s_own_duration_counts() -> None:
    seen = Observed(record(duration_s=60.0), 0.0)
    assert wait_s(seen, "me", timing=TIMING, now_s=59.9) > 0
    assert wait_s(seen, "me", timing=TIMING, now_s=60.0) == 0


WILD_SPEC = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {},
        optional={
            "holderIdentity": st.none() | st.text(max_size=5),
            "leaseDurationSeconds": st.none() | st.integers(-(2**31), 2**31 - 1),
            "leaseTransitions": st.none() | st.integers(-(2**31), 2**31 - 1),
            "renewTime": st.none() | st.text(max_size=5),
            "strategy": st.text(max_size=5),
        },
    ),
)


@given(WILD_SPEC)
def test_any_spec_can_be_read_and_written_over(spec: dict[str, Any] | None) -> None:
    metadata = {"name": "a", "uid": "u", "resourceVersion": "1", "labels": {"mine": "yes"}}
    document = {"kind": "Lease", "metadata": metadata, "spec": spec}
    found = parse_lease(json.dumps(document).encode())
    assert found.record.duration_s is None or found.record.duration_s > 0
    assert found.record.transitions >= 0
    written = render_lease(found.document, Term("me", 15, 4, begins=True), 1.5)
    assert written["metadata"] == metadata
    again = parse_lease(json.dumps(written).encode()).record
    assert (again.holder, again.duration_s, again.transitions) == ("me", 15.0, 4)
    if spec and "strategy" in spec:
        assert written["spec"]["strategy"] == spec["strategy"]
    assert written["spec"]["renewTime"] == written["spec"]["acquireTime"]


def test_holder_that_bears_a_credential_of_ours_is_read_without_it() -> None:
    token = "Qm9vZ2llV29vZ2llSG9sZGVy.c2lnbmF0dXJlLW9m"
    OURS.remember(f"Bearer {token}")
    metadata = {"uid": "u", "resourceVersion": "1"}
    document = {"kind": "Lease", "metadata": metadata, "spec": {"holderIdentity": f"a-{token}"}}
    assert parse_lease(json.dumps(document).encode()).record.holder == "a-[redacted]"
    with pytest.raises(BadResponse, match=r"a '\[redacted\]' or has no identity"):
        parse_lease(json.dumps({**document, "kind": token}).encode())


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_other_answer_is_a_bad_response(answer: bytes) -> None:
    with pytest.raises(BadResponse):
        parse_lease(answer)


@pytest.mark.parametrize(
    "document",
    [
        {"kind": "Secret", "metadata": {"uid": "u", "resourceVersion": "1"}},
        {"kind": "Lease", "metadata": {"resourceVersion": "1"}},
        {"kind": "Lease", "metadata": {"uid": "u"}},
        {"kind": "Lease", "metadata": {"uid": "u", "resourceVersion": "1"}, "spec": []},
    ],
)
def test_object_that_is_no_lease_is_a_bad_response(document: dict[str, Any]) -> None:
    with pytest.raises(BadResponse):
        parse_lease(msgspec.json.encode(document))


def test_renewal_keeps_the_time_of_acquisition() -> None:
    begun = render_lease({"kind": "Lease"}, Term("me", 15, 0, begins=True), 10.0)
    renewed = render_lease(begun, Term("me", 15, 0, begins=False), 20.25)
    assert renewed["spec"]["acquireTime"] == "1970-01-01T00:00:10.000000Z"
    assert renewed["spec"]["renewTime"] == "1970-01-01T00:00:20.250000Z"


def test_times_and_durations_are_written_as_the_api_server_takes_them() -> None:
    assert render_micro_time(1_700_000_000.000001) == "2023-11-14T22:13:20.000001Z"
    assert [whole_seconds(value) for value in (0.2, 1.0, 14.2, 15.0)] == [1, 1, 15, 15]
