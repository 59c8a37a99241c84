"""Server-side apply over HTTP: what the Secret exporter relies on."""

from typing import Any

import pytest

from tests.demo.client import SECRETS, Api, b64, secret

pytestmark = pytest.mark.anyio

PATH = f"{SECRETS}/s"


def payload(text: str, /, **metadata: Any) -> dict[str, Any]:
    metadata = {"annotations": {"scc.cattle.io/part-of": "telemetry"}, **metadata}
    return secret(type="Opaque", data={"payload": b64(text)}, metadata=metadata)


async def test_apply_creates_and_records_its_fields(api: Api) -> None:
    created = await api.apply(PATH, payload("1"))
    assert created.code == 201
    (entry,) = created.body["metadata"]["managedFields"]
    assert (entry["manager"], entry["operation"]) == ("telemetryd", "Apply")
    assert entry["fieldsV1"] == {
        "f:data": {"f:payload": {}},
        "f:metadata": {"f:annotations": {"f:scc.cattle.io/part-of": {}}},
        "f:type": {},
    }


async def test_equal_apply_keeps_the_revision(api: Api) -> None:
    created = await api.apply(PATH, payload("1"))
    again = await api.apply(PATH, payload("1"))
    assert (again.code, again.body) == (200, created.body)


async def test_apply_with_right_preconditions_updates(api: Api) -> None:
    created = await api.apply(PATH, payload("1"))
    metadata = created.body["metadata"]
    fence = {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
    updated = await api.apply(PATH, payload("2", **fence))
    assert (updated.code, updated.body["data"]["payload"]) == (200, b64("2"))
    assert int(updated.revision) > int(created.revision)


@pytest.mark.parametrize("text", ["1", "2"])
async def test_apply_with_a_stale_revision_is_a_conflict_even_if_equal(api: Api, text: str) -> None:
    await api.apply(PATH, payload("1"))
    answer = await api.apply(PATH, payload(text, resourceVersion="1"))
    assert (answer.code, answer.body["reason"]) == (409, "Conflict")
    assert "causes" not in answer.body["details"]


async def test_stale_revision_alone_does_not_keep_a_deleted_secret_away(api: Api) -> None:
    assert (await api.apply(PATH, payload("1", resourceVersion="5"))).code == 201


async def test_uid_keeps_a_deleted_secret_away(api: Api) -> None:
    answer = await api.apply(PATH, payload("1", resourceVersion="5", uid="x"))
    assert (answer.code, answer.body["reason"]) == (409, "Conflict")
    assert "no existing object was found" in answer.body["message"]


async def test_another_uid_on_an_existing_secret_is_refused(api: Api) -> None:
    await api.apply(PATH, payload("1"))
    assert (await api.apply(PATH, payload("2", uid="x"))).code == 422
    assert (await api.apply(PATH, payload("2", uid="x", resourceVersion="1"))).code == 409


async def test_foreign_change_is_a_field_conflict_before_any_precondition(api: Api) -> None:
    await api.apply(PATH, payload("1"))
    await api.merge(PATH, {"data": {"payload": b64("theirs")}}, fieldManager="rancher")
    answer = await api.apply(PATH, payload("2", resourceVersion="1"))
    assert (answer.code, answer.body["reason"]) == (409, "Conflict")
    assert answer.body["details"]["causes"] == [
        {
            "reason": "FieldManagerConflict",
            "message": 'conflict with "rancher" using v1',
            "field": ".data.payload",
        }
    ]
    forced = await api.apply(PATH, payload("2"), force="true")
    assert (forced.code, forced.body["data"]) == (200, {"payload": b64("2")})


async def test_plain_writer_is_known_by_its_user_agent(api: Api) -> None:
    await api.apply(PATH, payload("1"))
    headers = {"User-Agent": "rancher/v2.15.0 (linux)"}
    theirs = {"data": {"payload": b64("theirs")}}
    content = {"Content-Type": "application/merge-patch+json"}
    await api.request("PATCH", PATH, theirs, headers=headers | content)
    answer = await api.apply(PATH, payload("2"))
    assert 'conflict with "rancher" using v1' in answer.body["message"]


async def test_what_others_added_survives_every_apply(api: Api) -> None:
    await api.apply(PATH, payload("1"))
    theirs = {
        "metadata": {"finalizers": ["x.io/keep"], "labels": {"a": "b"}},
        "data": {"k": b64("v")},
    }
    await api.merge(PATH, theirs, fieldManager="scc-operator")
    updated = await api.apply(PATH, payload("2"))
    metadata = updated.body["metadata"]
    assert (metadata["finalizers"], metadata["labels"]) == (["x.io/keep"], {"a": "b"})
    assert updated.body["data"] == {"k": b64("v"), "payload": b64("2")}


async def test_immutable_or_foreign_type_is_invalid_even_by_force(api: Api) -> None:
    await api.post(SECRETS, secret(data={"payload": b64("1")}, immutable=True))
    answer = await api.apply(PATH, payload("2"), force="true")
    assert (answer.code, answer.body["reason"]) == (422, "Invalid")
    answer = await api.apply(PATH, {**payload("1"), "type": "x.io/y"}, force="true")
    assert "type: Invalid value" in answer.body["message"]


@pytest.mark.parametrize(
    ("body", "manager", "code", "text"),
    [
        ({"metadata": {"name": "s"}}, "m", 400, "the object must be a Secret of v1"),
        (secret("t"), "m", 400, "does not match the name on the URL"),
        (b"a: b", "m", 400, "error decoding YAML"),
        (b"[]", "m", 400, "error decoding YAML"),
    ],
)
async def test_unfit_configuration_is_refused(
    api: Api, body: Any, manager: str, code: int, text: str
) -> None:
    answer = await api.apply(PATH, body, manager)
    assert answer.code == code
    assert text in answer.body["message"]


async def test_dry_run_is_refused_rather_than_carried_out(api: Api) -> None:
    answer = await api.apply(PATH, payload("1"), dryRun="All")
    assert (answer.code, answer.body["reason"]) == (400, "BadRequest")
    assert (await api.get(PATH)).code == 404


async def test_other_patch_types_are_unsupported(api: Api) -> None:
    headers = {"Content-Type": "application/json-patch+json"}
    answer = await api.request("PATCH", PATH, [], headers=headers)
    assert (answer.code, answer.body["reason"]) == (415, "UnsupportedMediaType")
