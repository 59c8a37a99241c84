"""Plain writes: whose the fields become, what holds an object back, what a path may change."""

from functools import partial
from typing import Any

import pytest

from tests.apiserver.admin import Admin, Object
from tests.contract.objects import (
    NAMESPACES,
    REQUESTS,
    SETTINGS,
    absent,
    b64,
    causes,
    node,
    nodes_in,
    owners,
    refused,
    revision,
    secret,
    secrets_in,
    setting,
)
from tests.contract.servers import REAL

ADMIN = ("tests-admin", "Update")
HOLD = "example.com/hold"


@pytest.fixture
def path(namespace: str) -> str:
    """The Secret under test; it doesn't exist yet."""
    return f"{secrets_in(namespace)}/s"


@pytest.fixture
def applied(api: Admin, path: str) -> Object:
    """It, applied by the manager ``us``."""
    notes = {"example.com/a": "1", "example.com/b": "1"}
    config = secret(metadata={"annotations": notes}, type="Opaque", data={"payload": b64("1")})
    return api.apply(path, config, manager="us")


def replace(api: Admin, path: str, **fields: Any) -> Object:
    """A plain Update by the manager ``rancher`` of what was just read."""
    return api.put(f"{path}?fieldManager=rancher", api.get(path) | fields)


@REAL
def test_created_secret_belongs_to_its_writer_by_the_user_agent(api: Admin, path: str) -> None:
    made = api.create(path.rpartition("/")[0], secret(data={"a": b64("1")}))
    assert owners(made) == {ADMIN: {"f:data": {".": {}, "f:a": {}}, "f:type": {}}}


@REAL
@pytest.mark.parametrize("keep", [True, False], ids=["with-owners", "without-owners"])
def test_update_takes_what_it_changes_from_its_owner(
    api: Admin, path: str, applied: Object, keep: bool
) -> None:
    metadata = api.get(path)["metadata"]
    if not keep:
        del metadata["managedFields"]
    taken = replace(api, path, data={"payload": b64("2")}, metadata=metadata)
    assert owners(taken) == {
        ("us", "Apply"): {
            "f:metadata": {
                "f:annotations": {"f:example.com/a": {}, "f:example.com/b": {}},
            },
            "f:type": {},
        },
        ("rancher", "Update"): {"f:data": {"f:payload": {}}},
    }


@REAL
def test_update_that_removes_a_field_leaves_it_to_no_one(
    api: Admin, path: str, applied: Object
) -> None:
    metadata = applied["metadata"] | {"annotations": {"example.com/c": "1"}}
    taken = replace(api, path, data={}, metadata=metadata)
    assert "data" not in taken
    assert owners(taken) == {
        ("us", "Apply"): {"f:type": {}},
        ("rancher", "Update"): {"f:metadata": {"f:annotations": {"f:example.com/c": {}}}},
    }
    healed = api.apply(path, secret(data={"payload": b64("2")}), manager="us")
    assert healed["data"] == {"payload": b64("2")}


@REAL
def test_update_without_effect_moves_nothing(api: Admin, path: str, applied: Object) -> None:
    assert replace(api, path) == applied
    assert api.patch(path, {"data": {"payload": b64("1")}}) == applied
    assert api.patch(path, {"data": {"absent": None}}) == applied
    assert api.get(path) == applied


@REAL
@pytest.mark.parametrize("none", [[], [{}]], ids=["empty", "empty-entry"])
def test_owners_are_cleared_on_demand_and_before_first_apply_has_it_all(
    api: Admin, path: str, applied: Object, none: list[Any]
) -> None:
    cleared = replace(api, path, metadata=applied["metadata"] | {"managedFields": none})
    assert owners(cleared) == {}
    assert owners(api.patch(path, {"data": {"more": b64("1")}})) == {}
    with refused(409, "Conflict") as status:
        api.apply(path, secret(data={"payload": b64("2")}), manager="us")
    assert [cause["message"] for cause in status["details"]["causes"]] == [
        'conflict with "before-first-apply" using v1'
    ]
    forced = api.apply(path, secret(data={"payload": b64("2")}), manager="us", force=True)
    assert owners(forced)["us", "Apply"] == {"f:data": {"f:payload": {}}}
    assert ("before-first-apply", "Update") in owners(forced)


def test_merge_patch_removes_by_null_and_replaces_lists(
    api: Admin, name: str, setting_path: str
) -> None:
    api.create(SETTINGS, setting(name, "1") | {"spec": {"a": {"b": 1, "c": 2}, "l": [1, 2]}})
    patched = api.patch(setting_path, {"value": None, "spec": {"a": {"b": None}, "l": [3]}})
    assert "value" not in patched
    assert patched["spec"] == {"a": {"c": 2}, "l": [3]}


@pytest.mark.parametrize("custom", [False, True], ids=["built-in", "custom"])
def test_finalizer_holds_a_deleted_object_until_it_is_gone(
    api: Admin, namespace: str, custom: bool
) -> None:
    collection = nodes_in(namespace) if custom else secrets_in(namespace)
    held = node(namespace, "s") if custom else secret()
    held["metadata"]["finalizers"] = [HOLD, "example.com/more"]
    made = api.create(collection, held)
    path = f"{collection}/s"
    marked = api.delete(path)
    assert marked["metadata"]["deletionTimestamp"]
    assert marked["metadata"]["deletionGracePeriodSeconds"] == 0
    assert revision(marked) > revision(made)
    assert api.delete(path) == marked == api.get(path)
    with refused(422, "Invalid", "no new finalizers can be added") as status:
        api.patch(path, {"metadata": {"finalizers": [HOLD, "example.com/new"]}})
    assert causes(status) == {("FieldValueForbidden", "metadata.finalizers")}
    still = api.patch(path, {"metadata": {"finalizers": [HOLD], "labels": {"a": "b"}}})
    assert still["metadata"]["deletionTimestamp"] == marked["metadata"]["deletionTimestamp"]
    last = api.patch(path, {"metadata": {"finalizers": []}})
    assert "finalizers" not in last["metadata"]
    assert revision(last) == revision(still)  # this state is never stored
    assert absent(api, path)


def test_secret_on_its_way_out_can_be_applied_to(api: Admin, path: str) -> None:
    collection = path.rpartition("/")[0]
    api.create(collection, secret(metadata={"finalizers": [HOLD]}))
    marked = api.delete(path)
    changed = api.apply(path, secret(data={"payload": b64("1")}), manager="us")
    assert changed["metadata"]["deletionTimestamp"] == marked["metadata"]["deletionTimestamp"]
    api.patch(path, {"metadata": {"finalizers": None}})
    assert absent(api, path)


def test_deletion_tells_what_is_gone(api: Admin, path: str, applied: Object) -> None:
    gone = api.delete(path)
    assert (gone["kind"], gone["status"]) == ("Status", "Success")
    uid = applied["metadata"]["uid"]
    assert gone["details"] == {"name": "s", "kind": "secrets", "uid": uid}


def test_terminating_namespace_takes_changes_but_nothing_new(
    api: Admin, namespace: str, path: str, applied: Object
) -> None:
    terminating = api.delete(f"{NAMESPACES}/{namespace}")
    assert terminating["status"]["phase"] == "Terminating"
    assert terminating["metadata"]["deletionTimestamp"]
    new = secret("new")
    for write in (
        partial(api.create, secrets_in(namespace), new),
        partial(api.apply, f"{secrets_in(namespace)}/new", new, manager="us"),
    ):
        with refused(403, "Forbidden", "because it is being terminated") as status:
            write()
        assert causes(status) == {("NamespaceTerminating", "metadata.namespace")}
        assert status["details"]["name"] == "new"
    changed = api.apply(path, secret(data={"payload": b64("2")}), manager="us")
    assert changed["data"] == {"payload": b64("2")}
    api.delete(path)
    assert absent(api, path)


@REAL
def test_namespace_goes_once_it_is_finalized(api: Admin, namespace: str) -> None:
    path = f"{NAMESPACES}/{namespace}"
    active = api.get(path)
    assert (active["spec"], active["status"]) == (
        {"finalizers": ["kubernetes"]},
        {"phase": "Active"},
    )
    marked = api.delete(path)
    api.put(f"{path}/finalize", marked | {"spec": {"finalizers": []}})
    assert absent(api, path)


def test_namespaces_of_the_system_can_not_be_deleted(api: Admin) -> None:
    with refused(403, "Forbidden", "this namespace may not be deleted"):
        api.delete(f"{NAMESPACES}/kube-system")


def test_generation_of_a_custom_resource_counts_changes_of_more_than_metadata(
    api: Admin, name: str, setting_path: str
) -> None:
    path = setting_path

    def generation(answer: Object) -> int:
        return int(answer["metadata"]["generation"])

    held = setting(name, "1")
    held["metadata"]["finalizers"] = [HOLD]
    assert generation(api.create(SETTINGS, held)) == 1
    assert generation(api.patch(path, {"value": "1"})) == 1
    assert generation(api.patch(path, {"metadata": {"labels": {"a": "b"}}})) == 1
    assert generation(api.patch(path, {"value": "2"})) == 2
    assert generation(api.patch(path, {"metadata": {"generation": 9}, "value": "3"})) == 3
    assert generation(api.apply(path, setting(name, "4"), manager="us", force=True)) == 4
    assert generation(api.delete(path)) == 5
    api.patch(path, {"metadata": {"finalizers": None}})


def test_status_is_written_through_its_own_path_alone(api: Admin, name: str) -> None:
    path = f"{REQUESTS}/{name}"
    made = api.create(
        REQUESTS,
        {
            "apiVersion": "telemetry.cattle.io/v1",
            "kind": "SecretRequest",
            "metadata": {"name": name},
            "spec": {"target": "a"},
            "status": {"ignored": True},
        },
    )
    assert "status" not in made
    change = {"spec": {"target": "b"}, "status": {"done": True}}
    written = api.patch(f"{path}/status", change | {"metadata": {"labels": {"a": "b"}}})
    assert (written["spec"], written["status"]) == ({"target": "a"}, {"done": True})
    assert "labels" not in written["metadata"]
    assert written["metadata"]["generation"] == 1
    changed = api.patch(path, change | {"status": {"done": False}})
    assert (changed["spec"], changed["status"]) == ({"target": "b"}, {"done": True})
    assert changed["metadata"]["generation"] == 2
    stale = {"metadata": {"resourceVersion": written["metadata"]["resourceVersion"]}}
    with refused(409, "Conflict", "the object has been modified"):
        api.patch(f"{path}/status", stale | {"status": {"done": False}})
    fresh = {"metadata": {"resourceVersion": changed["metadata"]["resourceVersion"]}}
    again = api.patch(f"{path}/status", fresh | {"status": {"done": False}})
    assert again["status"] == {"done": False}
    assert api.patch(f"{path}/status", {"status": {"done": False}}) == again
    assert api.get(f"{path}/status") == api.get(path) == again
    api.delete(path)
