"""SecretRequests to records: only the spec and our own conditions, whatever else is there."""

import json
from typing import Any

import msgspec
import pytest

from telemetryd.errors import UnreadableObject
from telemetryd.gather.requests import (
    MAX_OWNERS_BYTES,
    SECRET_REQUESTS,
    UNNAMED,
    RequestObject,
    other_controller,
    project_request,
)
from telemetryd.model import ConditionRecord, OtherController, SecretRequestRecord
from tests.system.scc import scc_request


def record(obj: Any) -> SecretRequestRecord:
    decoded = msgspec.json.decode(msgspec.json.encode(obj), type=RequestObject)
    return project_request("r", decoded)


def request(**fields: Any) -> dict[str, Any]:
    obj = scc_request("r")
    obj["metadata"]["uid"] = "u-1"
    return {**obj, **fields}


def test_operators_request_is_read() -> None:
    found = record(request(status={"conditions": [{"type": "Done", "status": "True"}]}))
    assert found == SecretRequestRecord(
        uid="u-1",
        created_at="",
        deleting=False,
        spec_error="",
        secret_type="scc",
        has_target=True,
        namespace="cattle-scc-system",
        secret="rancher-scc-metrics",
        conditions=(ConditionRecord("Done", "True"),),
        other=OtherController("another controller", ""),
    )


def test_edit_of_metadata_makes_the_same_record() -> None:
    edited = request()
    edited["metadata"] |= {"annotations": {"a": "1"}, "resourceVersion": "7", "labels": {}}
    assert record(edited) == record(request())


@pytest.mark.parametrize("spec", [5, [], "x", {"secretType": 5}, {"targetSecretRef": "x"}])
def test_spec_of_a_wrong_type_makes_it_invalid_not_unreadable(spec: Any) -> None:
    found = record(request(spec=spec))
    assert found.spec_error
    assert not found.has_target


@pytest.mark.parametrize("spec", [None, {}, {"secretType": None, "targetSecretRef": None}])
def test_spec_that_is_missing_is_empty(spec: Any) -> None:
    found = record(request(spec=spec))
    assert (found.spec_error, found.secret_type, found.has_target) == ("", "", False)


@pytest.mark.parametrize("status", [5, {"conditions": {}}, {"conditions": [{"type": 1}]}, None])
def test_status_that_others_broke_is_none(status: Any) -> None:
    assert record(request(status=status)).conditions == ()


def test_request_without_uid_is_unreadable() -> None:
    with pytest.raises(UnreadableObject):
        record(scc_request("r"))


def test_resource_is_cluster_scoped() -> None:
    assert SECRET_REQUESTS.id == "secretrequests.telemetry.cattle.io"
    assert SECRET_REQUESTS.path == "/apis/telemetry.cattle.io/v1/secretrequests"


def test_conditions_of_any_length_are_bounded_and_their_number_too() -> None:
    huge = "x\u202e" * 10**5
    condition = dict.fromkeys(
        ("status", "reason", "message", "lastUpdateTime", "lastTransitionTime"), huge
    )
    found = record(request(status={"conditions": [{"type": "Done", **condition}]}))
    assert len(repr(found)) < 5000
    many = [{"type": f"t{number}"} for number in range(1001)]
    assert record(request(status={"conditions": [*many, {"type": "Done"}]})).conditions == ()


def test_spec_of_any_length_is_bounded_and_stays_wrong() -> None:
    target = {"name": "n" * 4000, "namespace": "\n" * 4000}
    found = record(request(spec={"secretType": "scc" + " " * 4000, "targetSecretRef": target}))
    assert len(repr(found)) < 5000
    assert found.secret_type != "scc"
    assert set(found.namespace) == {"?"}
    assert found.spec_error == ""


@pytest.mark.parametrize("key", ["secretType", "note"])
def test_spec_too_long_to_be_one_is_not_read(key: str) -> None:
    found = record(request(spec={"secretType": "scc", key: "x" * 10**6}))
    assert found.spec_error.endswith(" bytes, 16384 at most")
    assert found.secret_type == ""


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
    return other_controller(managed, conditions)


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
def test_last_writer_is_reported_by_the_owners_of_the_status(
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
    assert other_controller(reset, (ours, done)) == expected


def test_owners_that_are_too_many_are_read_as_none() -> None:
    many = [entry("rancher", LATE, DONE)] * (MAX_OWNERS_BYTES // 100)
    assert other(*many) is None
