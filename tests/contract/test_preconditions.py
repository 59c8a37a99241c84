"""The uid and the resourceVersion as preconditions of apply, replace, patch and delete.

What telemetryd's fencing rests on: a write that carries both never makes a deleted Secret again and
never overwrites what it hasn't read; one with the resourceVersion alone does make it again.
"""

import pytest

from tests.apiserver.admin import Admin, Object
from tests.contract.objects import (
    REQUESTS,
    SETTINGS,
    absent,
    b64,
    causes,
    refused,
    revision,
    secret,
    secrets_in,
    setting,
)
from tests.contract.servers import REAL

STRANGER = "00000000-0000-4000-8000-000000000000"

MODIFIED = "the object has been modified; please apply your changes to the latest version"


class Scene:
    """A Secret that the manager ``us`` applied twice: each precondition may be stale or wrong."""

    def __init__(self, api: Admin, namespace: str) -> None:
        self.api = api
        self.path = f"{secrets_in(namespace)}/s"
        self.old = api.apply(self.path, self.config("1"), manager="us")
        self.live = api.apply(self.path, self.config("2"), manager="us")
        self._revisions = {
            "live": str(revision(self.live)),
            "stale": str(revision(self.old)),
            "future": str(revision(self.live) + 1_000_000),
        }
        self._uids = {"live": self.live["metadata"]["uid"], "wrong": STRANGER}

    def config(self, payload: str, **metadata: str) -> Object:
        return secret(metadata=metadata, data={"payload": b64(payload)})

    def apply(
        self, payload: str, uid: str = "", version: str = "", *, force: bool = False
    ) -> Object:
        """Apply under these preconditions; an empty one is left out."""
        metadata = {}
        if uid:
            metadata["uid"] = self._uids[uid]
        if version:
            metadata["resourceVersion"] = self._revisions[version]
        config = self.config(payload, **metadata)
        return self.api.apply(self.path, config, manager="us", force=force)

    def unchanged(self) -> bool:
        return self.api.get(self.path) == self.live


@pytest.fixture
def scene(api: Admin, namespace: str) -> Scene:
    return Scene(api, namespace)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    ("uid", "version"), [("", ""), ("live", ""), ("", "live"), ("live", "live")]
)
def test_preconditions_that_hold_let_an_apply_pass(
    scene: Scene, uid: str, version: str, force: bool
) -> None:
    written = scene.apply("3", uid, version, force=force)
    assert written["data"] == {"payload": b64("3")}
    assert written["metadata"]["uid"] == scene.live["metadata"]["uid"]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("payload", ["2", "3"], ids=["equal", "changed"])
@pytest.mark.parametrize("version", ["stale", "future"])
@pytest.mark.parametrize("uid", ["", "live", "wrong"])
def test_another_revision_is_a_conflict_without_a_cause(
    scene: Scene, uid: str, version: str, payload: str, force: bool
) -> None:
    with refused(409, "Conflict", MODIFIED) as status:
        scene.apply(payload, uid, version, force=force)
    assert status["details"] == {"name": "s", "kind": "secrets"}
    assert scene.unchanged()


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("payload", ["2", "3"], ids=["equal", "changed"])
@pytest.mark.parametrize("version", ["", "live"])
def test_another_uid_is_invalid(scene: Scene, version: str, payload: str, force: bool) -> None:
    with refused(422, "Invalid", "field is immutable") as status:
        scene.apply(payload, "wrong", version, force=force)
    assert causes(status) == {("FieldValueInvalid", "metadata.uid")}
    assert scene.unchanged()


@pytest.mark.parametrize("version", ["", "stale", "live"])
@pytest.mark.parametrize("uid", ["", "live", "wrong"])
def test_field_of_another_manager_is_reported_before_any_precondition(
    scene: Scene, uid: str, version: str
) -> None:
    scene.live = scene.api.patch(scene.path, {"data": {"payload": b64("foreign")}})
    with refused(409, "Conflict", "Apply failed with 1 conflict") as status:
        scene.apply("3", uid, version)
    assert causes(status) == {("FieldManagerConflict", ".data.payload")}
    assert scene.unchanged()


def test_force_overrules_the_manager_but_no_precondition(scene: Scene) -> None:
    scene.live = scene.api.patch(scene.path, {"data": {"payload": b64("foreign")}})
    with refused(409, "Conflict", MODIFIED):
        scene.apply("3", "live", "stale", force=True)
    with refused(422, "Invalid"):
        scene.apply("3", "wrong", force=True)
    assert scene.unchanged()
    assert scene.apply("3", "live", force=True)["data"] == {"payload": b64("3")}


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("version", ["", "live"])
def test_uid_keeps_a_deleted_secret_from_being_made_again(
    scene: Scene, version: str, force: bool
) -> None:
    scene.api.delete(scene.path)
    with refused(409, "Conflict", "uid mismatch") as status:
        scene.apply("3", "live", version, force=force)
    assert "causes" not in status["details"]
    assert absent(scene.api, scene.path)


@pytest.mark.parametrize("version", ["live", "stale"])
def test_revision_alone_makes_a_deleted_secret_again(scene: Scene, version: str) -> None:
    scene.api.delete(scene.path)
    made = scene.apply("3", "", version)
    assert made["metadata"]["uid"] != scene.live["metadata"]["uid"]
    assert made["data"] == {"payload": b64("3")}


def test_uid_of_the_predecessor_is_refused_by_the_successor(scene: Scene) -> None:
    scene.api.delete(scene.path)
    scene.live = scene.api.apply(scene.path, scene.config("other"), manager="us")
    with refused(422, "Invalid") as status:
        scene.apply("3", "live")
    assert causes(status) == {("FieldValueInvalid", "metadata.uid")}
    with refused(409, "Conflict", MODIFIED):
        scene.apply("3", "live", "live")
    assert scene.unchanged()


def test_creation_that_comes_second_is_a_field_conflict_unless_equal(
    api: Admin, namespace: str
) -> None:
    path = f"{secrets_in(namespace)}/s"
    theirs = api.create(secrets_in(namespace), secret(data={"payload": b64("theirs")}))
    with refused(409, "Conflict") as status:
        api.apply(path, secret(data={"payload": b64("ours")}), manager="us")
    assert causes(status) == {("FieldManagerConflict", ".data.payload")}
    assert api.get(path) == theirs
    equal = api.apply(path, secret(data={"payload": b64("theirs")}), manager="us")
    assert equal["data"] == theirs["data"]


@REAL
def test_stale_replacement_is_a_conflict(scene: Scene) -> None:
    with refused(409, "Conflict", MODIFIED) as status:
        scene.api.put(scene.path, scene.old)
    assert status["details"] == {"name": "s", "kind": "secrets"}
    with refused(409, "Conflict", "UID in precondition"):
        scene.api.put(scene.path, scene.config("3", uid=STRANGER))
    assert scene.unchanged()
    without = scene.api.put(scene.path, scene.config("4"))
    assert without["data"] == {"payload": b64("4")}


def test_stale_merge_patch_is_a_conflict(scene: Scene) -> None:
    stale = scene.old["metadata"]["resourceVersion"]
    change = {"labels": {"a": "b"}}
    with refused(409, "Conflict", MODIFIED):
        scene.api.patch(scene.path, {"metadata": {**change, "resourceVersion": stale}})
    with refused(422, "Invalid") as status:
        scene.api.patch(scene.path, {"metadata": {**change, "uid": STRANGER}})
    assert causes(status) == {("FieldValueInvalid", "metadata.uid")}
    assert scene.unchanged()


@REAL
def test_custom_resource_is_never_replaced_without_a_revision(
    api: Admin, name: str, setting_path: str
) -> None:
    made = api.create(SETTINGS, setting(name, "1"))
    with refused(422, "Invalid", "must be specified for an update") as status:
        api.put(setting_path, setting(name, "2"))
    assert causes(status) == {("FieldValueInvalid", "metadata.resourceVersion")}
    changed = api.put(setting_path, made | {"value": "2"})
    with refused(409, "Conflict", MODIFIED) as status:
        api.put(setting_path, made | {"value": "3"})
    assert status["details"]["group"] == "management.cattle.io"
    assert api.get(setting_path) == changed


def test_delete_is_held_to_its_preconditions(scene: Scene) -> None:
    for name, wrong in (("uid", STRANGER), ("resourceVersion", "1")):
        with refused(409, "Conflict", "in the precondition") as status:
            scene.api.delete(scene.path, {"preconditions": {name: wrong}})
        assert status["details"] == {"name": "s", "kind": "Secret"}
    assert scene.unchanged()
    metadata = scene.live["metadata"]
    right = {name: metadata[name] for name in ("uid", "resourceVersion")}
    answer = scene.api.delete(scene.path, {"preconditions": right})
    assert (answer["kind"], answer["status"]) == ("Status", "Success")
    assert answer["details"] == {"name": "s", "kind": "secrets", "uid": metadata["uid"]}
    assert absent(scene.api, scene.path)


def test_apply_of_nothing_gives_up_all_that_the_manager_alone_has(scene: Scene) -> None:
    """What a Secret is left by: its own bare object, which then goes by its preconditions."""
    metadata = scene.live["metadata"]
    read = {name: metadata[name] for name in ("uid", "resourceVersion")}
    nothing = secret(metadata=read)
    left = scene.api.apply(scene.path, nothing, manager="us")
    assert left["type"] == "Opaque"
    assert "data" not in left
    assert "managedFields" not in left["metadata"]
    with refused(409, "Conflict", "in the precondition"):
        scene.api.delete(scene.path, {"preconditions": read})
    read["resourceVersion"] = left["metadata"]["resourceVersion"]
    scene.api.delete(scene.path, {"preconditions": read})
    assert absent(scene.api, scene.path)


def test_apply_of_nothing_leaves_what_others_have(scene: Scene) -> None:
    theirs = {"metadata": {"finalizers": ["example.com/theirs"], "labels": {"a": "b"}}}
    live = scene.api.patch(scene.path, theirs | {"data": {"theirs": b64("1")}})
    read = {name: live["metadata"][name] for name in ("uid", "resourceVersion")}
    left = scene.api.apply(scene.path, secret(metadata=read), manager="us")
    assert left["data"] == {"theirs": b64("1")}
    assert left["metadata"]["finalizers"] == ["example.com/theirs"]
    assert left["metadata"]["labels"] == {"a": "b"}
    scene.api.patch(scene.path, {"metadata": {"finalizers": None}})


def test_status_patch_is_held_to_its_revision_alone_and_replaces_lists_whole(
    api: Admin, name: str
) -> None:
    path = f"{REQUESTS}/{name}"
    kind = {"apiVersion": "telemetry.cattle.io/v1", "kind": "SecretRequest"}
    made = api.create(REQUESTS, {**kind, "metadata": {"name": name}, "spec": {"secretType": "scc"}})
    read = {key: made["metadata"][key] for key in ("uid", "resourceVersion")}
    one, two = {"type": "Ready", "status": "True"}, {"type": "Done", "status": "True"}
    written = api.patch(
        f"{path}/status", {"metadata": read, "status": {"conditions": [one], "lastSyncTS": "x"}}
    )
    assert written["status"] == {"conditions": [one], "lastSyncTS": "x"}
    read["resourceVersion"] = written["metadata"]["resourceVersion"]
    unheeded = {**read, "uid": STRANGER}
    again = api.patch(f"{path}/status", {"metadata": unheeded, "status": {"conditions": [two]}})
    assert again["metadata"]["uid"] == read["uid"]
    assert again["status"] == {"conditions": [two], "lastSyncTS": "x"}
    with refused(409, "Conflict", MODIFIED):
        api.patch(f"{path}/status", {"metadata": read, "status": {"conditions": []}})
    api.delete(path)
