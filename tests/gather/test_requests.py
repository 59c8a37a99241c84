"""SecretRequests to records: only the spec and our own conditions, whatever else is there."""

from typing import Any

import msgspec
import pytest

from telemetryd.errors import UnreadableObject
from telemetryd.gather.requests import SECRET_REQUESTS, RequestObject, project_request
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
