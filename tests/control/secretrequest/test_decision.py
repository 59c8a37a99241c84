"""Conditions: what Rancher writes in each situation, and nothing without a change."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetryd.bounds import CONDITION_CHARS
from telemetryd.control.secretrequest.decision import (
    MESSAGE_HOLD_S,
    Conditions,
    Rejected,
    Seen,
    Served,
    Verdict,
    Waiting,
    render_conditions,
    settle,
)
from telemetryd.export.payloads.payload import render_rfc3339
from telemetryd.gather.requests import OWN_CONDITIONS, RequestCondition, own_conditions
from tests.support.sampling import examples

NOW = 1_790_000_000.0
VERDICTS: list[Verdict] = [
    Seen(),
    Waiting("waiting"),
    Rejected("wrong"),
    Rejected("wrong too"),
    Served(well=None),
    Served(well=True),
    Served(well=False, reason="forbidden", message="grant it"),
    Served(well=False, reason="field_conflict", message="another"),
]
verdicts = st.sampled_from(VERDICTS)


def after(*verdicts: Verdict, every_s: float = 60.0) -> Conditions:
    held: Conditions = {}
    for number, verdict in enumerate(verdicts):
        held = settle(held, verdict, now_s=NOW + number * every_s)
    return held


def statuses(held: Conditions) -> dict[str, str]:
    return {kind: condition.status for kind, condition in held.items()}


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (Seen(), {"Progressing": "True"}),
        (Waiting("w"), {"Progressing": "True"}),
        (Rejected("m"), {"Progressing": "False", "Done": "True", "Failure": "True"}),
        (Served(well=None), {"Progressing": "False", "Done": "True"}),
        (Served(well=True), {"Progressing": "False", "Done": "True"}),
        (
            Served(well=False, reason="immutable", message="m"),
            {"Progressing": "False", "Done": "True", "Failure": "True"},
        ),
    ],
)
def test_each_situation_has_the_conditions_of_the_reference(
    verdict: Verdict, expected: dict[str, str]
) -> None:
    assert statuses(after(Seen(), verdict)) == expected


def test_invalid_request_has_upstreams_reason_and_the_fix_as_its_message() -> None:
    failure = after(Seen(), Rejected("fix it"))["Failure"]
    assert failure.reason == "Secret Request is in an invalid state"
    assert failure.message == "fix it"


@given(st.lists(verdicts), verdicts)
def test_same_verdict_again_changes_nothing(before: list[Verdict], verdict: Verdict) -> None:
    held = after(*before, verdict)
    assert settle(held, verdict, now_s=NOW + 10_000) == held


@given(st.lists(verdicts))
def test_reason_and_message_go_with_the_fix(before: list[Verdict]) -> None:
    held = after(*before, Served(well=True))
    assert statuses(held) == {"Progressing": "False", "Done": "True"}
    assert all(not (each.reason or each.message) for each in held.values())


@given(st.lists(verdicts, min_size=1))
def test_transition_time_moves_with_the_status_alone(sequence: list[Verdict]) -> None:
    held: Conditions = {}
    for number, verdict in enumerate(sequence):
        now = render_rfc3339(NOW + number)
        old, held = held, settle(held, verdict, now_s=NOW + number)
        for kind, condition in held.items():
            moved = kind not in old or old[kind].status != condition.status
            assert (condition.last_transition_time == now) or not moved
            if not moved:
                assert condition.last_transition_time == old[kind].last_transition_time
            if kind not in old or old[kind] != condition:
                assert condition.last_update_time == now


def test_failure_of_the_export_stays_while_nothing_better_is_known() -> None:
    failing = Served(well=False, reason="forbidden", message="grant it")
    assert "Failure" in after(failing, Served(well=None))
    assert "Failure" not in after(Rejected("m"), Served(well=None))
    assert "Failure" not in after(failing, Served(well=None), Served(well=True))


def test_message_that_changes_with_every_attempt_is_replaced_seldom() -> None:
    def failing(number: int) -> Served:
        return Served(well=False, reason="oversize", message=f"{number} bytes")

    held: Conditions = {}
    writes = 0
    for number in range(100):
        old, held = held, settle(held, failing(number), now_s=NOW + 10 * number)
        writes += old != held
    assert writes == 1 + 990 // MESSAGE_HOLD_S


foreign = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
)
entries = st.lists(
    foreign
    | st.fixed_dictionaries({"type": st.sampled_from([*OWN_CONDITIONS, "Ready"]), "x": foreign}),
    max_size=6,
)


@settings(max_examples=examples(50))
@given(entries, st.lists(verdicts, min_size=1))
def test_what_others_have_in_the_list_keeps_its_place(
    existing: list[Any], sequence: list[Verdict]
) -> None:
    own = after(*sequence)
    rendered = render_conditions(existing, own)
    assert list(_foreign(rendered)) == list(_foreign(existing))
    kinds = [
        each["type"] for each in rendered if isinstance(each, dict) and each.get("type") in own
    ]
    assert sorted(kinds) == sorted(own), "each of ours once"


def _foreign(listed: list[Any]) -> Iterator[Any]:
    for entry in listed:
        kind = entry.get("type") if isinstance(entry, dict) else None
        if kind not in OWN_CONDITIONS:
            yield entry


def test_condition_has_the_shape_that_rancher_writes() -> None:
    rendered = render_conditions([], after(Seen(), Rejected("fix it")))
    assert [set(each) for each in rendered] == [
        {"type", "status", "lastUpdateTime", "lastTransitionTime"},
        {"type", "status", "lastUpdateTime", "lastTransitionTime"},
        {"type", "status", "lastUpdateTime", "lastTransitionTime", "reason", "message"},
    ]


def test_message_of_any_length_is_bounded_and_written_once() -> None:
    invalid = Rejected("x\n" * 10**6)
    held = settle({}, invalid, now_s=1_800_000_000)
    assert len(held["Failure"].message) == CONDITION_CHARS + 1
    written = msgspec.convert(render_conditions([], held), list[RequestCondition])
    read = {each.type: each for each in own_conditions(written)}
    assert settle(read, invalid, now_s=1_800_000_100) == read
