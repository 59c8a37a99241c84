"""Who owns what after which write, and server-side apply over HTTP as the exporters rely on it."""

from typing import Any

import pytest

from tests.apiserver.double.apply import Manager, Write, apply_config, update_owners
from tests.apiserver.double.client import SECRETS as SECRETS_PATH
from tests.apiserver.double.client import Api, b64, secret
from tests.apiserver.double.resources import CLUSTERS, SECRETS, ServedResource
from tests.apiserver.double.status import ApiError

pytestmark = pytest.mark.anyio

NOW, LATER = "2026-11-01T12:00:00Z", "2026-11-01T12:00:05Z"


def by(
    name: str,
    operation: Any = "Apply",
    *,
    force: bool = False,
    time: str = NOW,
    resource: ServedResource = SECRETS,
) -> Write:
    return Write(resource, Manager(name, operation), time, force)


def owned(obj: dict[str, Any], name: str, operation: Any = "Apply") -> set[str]:
    def paths(node: dict[str, Any], path: str) -> set[str]:
        below = (paths(child, f"{path}.{key.removeprefix('f:')}") for key, child in node.items())
        return set().union(*below) if node else {path}

    return {
        path
        for entry in obj["metadata"].get("managedFields", [])
        if (entry["manager"], entry["operation"]) == (name, operation)
        for path in paths(entry["fieldsV1"], "")
    }


def payload(text: str, **metadata: Any) -> dict[str, Any]:
    return secret(data={"payload": text}, metadata=metadata)


def cluster(**spec: Any) -> dict[str, Any]:
    kind = {"apiVersion": "management.cattle.io/v3", "kind": "Cluster"}
    return {**kind, "metadata": {"name": "c"}, **({"spec": spec} if spec else {})}


def test_first_apply_owns_what_it_names() -> None:
    obj = apply_config(None, payload("1", labels={"a": "b"}), by("us"))
    assert owned(obj, "us") == {".data.payload", ".metadata.labels.a"}


def test_equal_apply_changes_nothing_at_all() -> None:
    obj = apply_config(None, payload("1"), by("us"))
    assert apply_config(obj, payload("1"), by("us", time=LATER)) == obj


def test_apply_keeps_what_others_added() -> None:
    obj = apply_config(None, payload("1"), by("us"))
    extended = {**obj, "data": {"payload": "1", "more": "m"}}
    obj = update_owners(obj, extended, by("them", "Update"))
    obj = apply_config(obj, payload("2"), by("us"))
    assert obj["data"] == {"payload": "2", "more": "m"}
    assert owned(obj, "them", "Update") == {".data.more"}


def test_change_by_another_manager_is_a_conflict_that_names_it() -> None:
    obj = apply_config(None, payload("1"), by("us"))
    obj = update_owners(obj, {**obj, "data": {"payload": "x"}}, by("rancher", "Update"))
    with pytest.raises(ApiError) as refused:
        apply_config(obj, payload("2"), by("us"))
    assert refused.value.code == 409
    assert refused.value.status["details"]["causes"] == [
        {
            "reason": "FieldManagerConflict",
            "message": 'conflict with "rancher" using v1',
            "field": ".data.payload",
        }
    ]
    assert str(refused.value) == (
        'Apply failed with 1 conflict: conflict with "rancher" using v1: .data.payload'
    )


def test_several_conflicts_are_all_named() -> None:
    obj = apply_config(None, payload("1"), by("b"))
    obj = apply_config(obj, secret(data={"two": "2"}), by("a"))
    with pytest.raises(ApiError) as refused:
        apply_config(obj, secret(data={"payload": "x", "two": "y"}), by("c"))
    assert str(refused.value) == (
        'Apply failed with 2 conflicts: conflict with "a": .data.two,'
        ' conflict with "b": .data.payload'
    )


def test_force_takes_the_field_over() -> None:
    obj = apply_config(None, payload("1"), by("them"))
    obj = apply_config(obj, payload("2"), by("us", force=True))
    assert obj["data"]["payload"] == "2"
    assert owned(obj, "us") == {".data.payload"}
    assert owned(obj, "them") == set()


def test_same_value_is_shared_without_a_conflict() -> None:
    obj = apply_config(None, payload("1"), by("them"))
    obj = apply_config(obj, payload("1"), by("us"))
    assert owned(obj, "us") == owned(obj, "them") == {".data.payload"}


def test_field_no_longer_applied_goes_with_its_only_owner() -> None:
    obj = apply_config(None, payload("1", labels={"a": "b"}), by("us"))
    obj = apply_config(obj, payload("1"), by("us"))
    assert obj["metadata"]["labels"] == {}
    assert obj["data"] == {"payload": "1"}


@pytest.mark.parametrize("operation", ["Apply", "Update"])
def test_field_no_longer_applied_stays_with_another_owner(operation: str) -> None:
    obj = apply_config(None, payload("1"), by("us"))
    if operation == "Apply":
        obj = apply_config(obj, payload("1"), by("them"))
    else:
        obj = update_owners(obj, {**obj, "data": {"payload": "2"}}, by("them", "Update"))
        obj = apply_config(obj, payload("2"), by("us"))
    obj = apply_config(obj, secret(), by("us"))
    assert obj["data"]
    assert owned(obj, "us") == set()


def test_object_without_owners_belongs_to_before_first_apply() -> None:
    with pytest.raises(ApiError, match="before-first-apply"):
        apply_config(payload("1"), payload("2"), by("us"))


def test_update_of_an_object_without_owners_gives_it_none() -> None:
    new = update_owners(payload("1"), payload("2"), by("them", "Update"))
    assert "managedFields" not in new["metadata"]


def test_update_by_the_same_name_is_another_manager() -> None:
    obj = apply_config(None, payload("1"), by("us"))
    obj = update_owners(obj, {**obj, "data": {"payload": "x"}}, by("us", "Update"))
    with pytest.raises(ApiError, match='conflict with "us" using v1'):
        apply_config(obj, payload("2"), by("us"))


def test_entries_are_sorted_appliers_first_and_by_age() -> None:
    obj = update_owners(None, payload("1"), by("z", "Update"))
    obj = apply_config(obj, secret(data={"b": "2"}), by("b", time=LATER))
    obj = apply_config(obj, secret(data={"a": "2"}), by("a", time=LATER))
    entries = [(entry["manager"], entry["time"]) for entry in obj["metadata"]["managedFields"]]
    assert entries == [("a", LATER), ("b", LATER), ("z", NOW)]


def test_maps_of_a_custom_resource_are_granular_and_lists_atomic() -> None:
    us = by("us", resource=CLUSTERS)
    obj = apply_config(None, cluster(a={"b": 1}, l=[1, 2]), us)
    obj = apply_config(obj, cluster(a={"c": 2}), by("them", resource=CLUSTERS))
    assert obj["spec"] == {"a": {"b": 1, "c": 2}, "l": [1, 2]}
    with pytest.raises(ApiError, match=r"\.spec\.l"):
        apply_config(obj, cluster(l=[1]), by("them", resource=CLUSTERS))
    obj = apply_config(obj, cluster(), us)
    assert obj["spec"] == {"a": {"c": 2}}


PATH = f"{SECRETS_PATH}/s"


def sent(text: str, /, **metadata: Any) -> dict[str, Any]:
    metadata = {"annotations": {"scc.cattle.io/part-of": "telemetry"}, **metadata}
    return secret(type="Opaque", data={"payload": b64(text)}, metadata=metadata)


async def test_apply_creates_and_records_its_fields(api: Api) -> None:
    created = await api.apply(PATH, sent("1"))
    assert created.code == 201
    (entry,) = created.body["metadata"]["managedFields"]
    assert (entry["manager"], entry["operation"]) == ("telemetryd", "Apply")
    assert entry["fieldsV1"] == {
        "f:data": {"f:payload": {}},
        "f:metadata": {"f:annotations": {"f:scc.cattle.io/part-of": {}}},
        "f:type": {},
    }


async def test_equal_apply_keeps_the_revision(api: Api) -> None:
    created = await api.apply(PATH, sent("1"))
    again = await api.apply(PATH, sent("1"))
    assert (again.code, again.body) == (200, created.body)


async def test_apply_with_right_preconditions_updates(api: Api) -> None:
    created = await api.apply(PATH, sent("1"))
    metadata = created.body["metadata"]
    fence = {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
    updated = await api.apply(PATH, sent("2", **fence))
    assert (updated.code, updated.body["data"]["payload"]) == (200, b64("2"))
    assert int(updated.revision) > int(created.revision)


@pytest.mark.parametrize("text", ["1", "2"])
async def test_apply_with_a_stale_revision_is_a_conflict_even_if_equal(api: Api, text: str) -> None:
    await api.apply(PATH, sent("1"))
    answer = await api.apply(PATH, sent(text, resourceVersion="1"))
    assert (answer.code, answer.body["reason"]) == (409, "Conflict")
    assert "causes" not in answer.body["details"]


async def test_stale_revision_alone_does_not_keep_a_deleted_secret_away(api: Api) -> None:
    assert (await api.apply(PATH, sent("1", resourceVersion="5"))).code == 201


async def test_uid_keeps_a_deleted_secret_away(api: Api) -> None:
    answer = await api.apply(PATH, sent("1", resourceVersion="5", uid="x"))
    assert (answer.code, answer.body["reason"]) == (409, "Conflict")
    assert "no existing object was found" in answer.body["message"]


async def test_another_uid_on_an_existing_secret_is_refused(api: Api) -> None:
    await api.apply(PATH, sent("1"))
    assert (await api.apply(PATH, sent("2", uid="x"))).code == 422
    assert (await api.apply(PATH, sent("2", uid="x", resourceVersion="1"))).code == 409


async def test_foreign_change_is_a_field_conflict_before_any_precondition(api: Api) -> None:
    await api.apply(PATH, sent("1"))
    await api.merge(PATH, {"data": {"payload": b64("theirs")}}, fieldManager="rancher")
    answer = await api.apply(PATH, sent("2", resourceVersion="1"))
    assert (answer.code, answer.body["reason"]) == (409, "Conflict")
    assert answer.body["details"]["causes"] == [
        {
            "reason": "FieldManagerConflict",
            "message": 'conflict with "rancher" using v1',
            "field": ".data.payload",
        }
    ]
    forced = await api.apply(PATH, sent("2"), force="true")
    assert (forced.code, forced.body["data"]) == (200, {"payload": b64("2")})


async def test_plain_writer_is_known_by_its_user_agent(api: Api) -> None:
    await api.apply(PATH, sent("1"))
    headers = {"User-Agent": "rancher/v2.15.0 (linux)"}
    theirs = {"data": {"payload": b64("theirs")}}
    content = {"Content-Type": "application/merge-patch+json"}
    await api.request("PATCH", PATH, theirs, headers=headers | content)
    answer = await api.apply(PATH, sent("2"))
    assert 'conflict with "rancher" using v1' in answer.body["message"]


async def test_what_others_added_survives_every_apply(api: Api) -> None:
    await api.apply(PATH, sent("1"))
    theirs = {
        "metadata": {"finalizers": ["x.io/keep"], "labels": {"a": "b"}},
        "data": {"k": b64("v")},
    }
    await api.merge(PATH, theirs, fieldManager="scc-operator")
    updated = await api.apply(PATH, sent("2"))
    metadata = updated.body["metadata"]
    assert (metadata["finalizers"], metadata["labels"]) == (["x.io/keep"], {"a": "b"})
    assert updated.body["data"] == {"k": b64("v"), "payload": b64("2")}


async def test_immutable_or_foreign_type_is_invalid_even_by_force(api: Api) -> None:
    await api.post(SECRETS_PATH, secret(data={"payload": b64("1")}, immutable=True))
    answer = await api.apply(PATH, sent("2"), force="true")
    assert (answer.code, answer.body["reason"]) == (422, "Invalid")
    answer = await api.apply(PATH, {**sent("1"), "type": "x.io/y"}, force="true")
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
    answer = await api.apply(PATH, sent("1"), dryRun="All")
    assert (answer.code, answer.body["reason"]) == (400, "BadRequest")
    assert (await api.get(PATH)).code == 404


async def test_other_patch_types_are_unsupported(api: Api) -> None:
    headers = {"Content-Type": "application/json-patch+json"}
    answer = await api.request("PATCH", PATH, [], headers=headers)
    assert (answer.code, answer.body["reason"]) == (415, "UnsupportedMediaType")
