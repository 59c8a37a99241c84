"""Who wrote a status last, by what the API server records and by content."""

import json
from typing import Any

import msgspec
import pytest

from telemetryd.gather.lastwriter import MAX_OWNERS_BYTES, UNNAMED, other_controller
from telemetryd.gather.requests import OWN_CONDITIONS
from telemetryd.model import ConditionRecord, OtherController

EARLY, LATE = "2026-09-21T14:13:20Z", "2026-09-21T14:13:21Z"
DONE: Any = {"f:conditions": {'k:{"type":"Done"}': {"f:status": {}}}}
ALL: Any = {"f:conditions": {}}
READY: Any = {"f:conditions": {".": {}, 'k:{"type":"Ready"}': {".": {}}}}
SYNCED: Any = {"f:lastSyncTS": {}}


def entry(manager: str, time: str, status: Any, subresource: str = "status") -> dict[str, Any]:
    fields = {"f:status": status}
    return {
        "manager": manager,
        "operation": "Update",
        "subresource": subresource,
        "time": time,
        "fieldsV1": fields,
    }


def other(*entries: Any, conditions: tuple[ConditionRecord, ...] = ()) -> OtherController | None:
    managed = msgspec.Raw(json.dumps(entries).encode())
    return other_controller(managed, conditions, OWN_CONDITIONS)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], None),
        ([entry("telemetryd", LATE, DONE)], None),
        ([entry("rancher", EARLY, DONE)], ("rancher", EARLY)),
        ([entry("rancher", EARLY, ALL)], ("rancher", EARLY)),
        ([entry("rancher", EARLY, SYNCED)], ("rancher", EARLY)),
        ([entry("rancher", EARLY, DONE), entry("telemetryd", LATE, SYNCED)], None),
        ([entry("rancher", LATE, DONE), entry("telemetryd", EARLY, SYNCED)], ("rancher", LATE)),
        ([entry("rancher", LATE, DONE), entry("telemetryd", LATE, DONE)], ("rancher", LATE)),
        ([entry("rancher", EARLY, SYNCED), entry("telemetryd", LATE, DONE)], ("rancher", EARLY)),
        ([entry("a", EARLY, DONE), entry("b", LATE, DONE)], ("b", LATE)),
        ([entry("rancher", LATE, READY), entry("telemetryd", EARLY, DONE)], None),
        ([entry("rancher", LATE, {"f:theirs": {}}), entry("telemetryd", EARLY, DONE)], None),
        ([entry("author", LATE, DONE, "")], None),
        ([{"manager": "rancher", "subresource": "status", "fieldsV1": None}], None),
        (
            [{"manager": None, "subresource": "status", "fieldsV1": {"f:status": DONE}}],
            (UNNAMED, ""),
        ),
        (["text"], None),
    ],
)
def test_last_writer_is_told_by_the_owners_of_the_status(
    entries: list[Any], expected: tuple[str, str] | None
) -> None:
    assert other(*entries) == (OtherController(*expected) if expected else None)


@pytest.mark.parametrize(
    ("transition", "expected"), [("", OtherController(UNNAMED, LATE)), (EARLY, None)]
)
def test_without_owners_the_content_tells(
    transition: str, expected: OtherController | None
) -> None:
    ours = ConditionRecord("Progressing", "False", "", "", EARLY, EARLY)
    done = ConditionRecord("Done", "True", "", "", LATE, transition)
    assert other(conditions=(ours, done)) == expected
    reset = msgspec.Raw(b"[{}]")
    assert other_controller(reset, (ours, done), OWN_CONDITIONS) == expected


def test_owners_that_are_too_many_are_read_as_none() -> None:
    many = [entry("rancher", LATE, DONE)] * (MAX_OWNERS_BYTES // 100)
    assert other(*many) is None
