"""Server-side apply of Secrets: who owns what, who may change it, and what stays."""

import pytest

from tests.apiserver.admin import Admin, Object
from tests.contract.objects import (
    absent,
    b64,
    causes,
    owners,
    refused,
    revision,
    secret,
    secrets_in,
    setting,
)
from tests.contract.servers import REAL

CONFLICT = "FieldManagerConflict"


@pytest.fixture
def path(namespace: str) -> str:
    """The Secret under test; it doesn't exist yet."""
    return f"{secrets_in(namespace)}/s"


def ours(payload: str = "1", **notes: str) -> Object:
    """What the manager ``us`` applies in these tests."""
    annotations = {"example.com/note": "n", **notes}
    return secret(
        metadata={"annotations": annotations}, type="Opaque", data={"payload": b64(payload)}
    )


def payload(text: str) -> Object:
    """A configuration of the payload alone."""
    return secret(data={"payload": b64(text)})


def test_apply_creates_what_it_names_and_owns_just_that(api: Admin, path: str) -> None:
    made = api.apply(path, ours(), manager="us")
    assert made == api.get(path)
    assert (made["kind"], made["apiVersion"], made["type"]) == ("Secret", "v1", "Opaque")
    assert made["data"] == {"payload": b64("1")}
    metadata = made["metadata"]
    assert metadata["annotations"] == {"example.com/note": "n"}
    assert metadata["uid"]
    assert set(metadata) == {
        "annotations",
        "creationTimestamp",
        "managedFields",
        "name",
        "namespace",
        "resourceVersion",
        "uid",
    } | ({"selfLink"} & set(metadata))
    (entry,) = metadata["managedFields"]
    assert (entry["manager"], entry["operation"], entry["apiVersion"], entry["fieldsType"]) == (
        "us",
        "Apply",
        "v1",
        "FieldsV1",
    )
    assert entry["fieldsV1"] == {
        "f:data": {"f:payload": {}},
        "f:metadata": {"f:annotations": {"f:example.com/note": {}}},
        "f:type": {},
    }


def test_equal_apply_moves_nothing(api: Admin, path: str) -> None:
    made = api.apply(path, ours(), manager="us")
    assert api.apply(path, ours(), manager="us") == made
    assert api.apply(path, ours(), manager="us", force=True) == made
    precondition = {"uid": made["metadata"]["uid"], "resourceVersion": str(revision(made))}
    again = ours()
    again["metadata"] |= precondition
    assert api.apply(path, again, manager="us") == made
    assert api.get(path) == made


def test_change_moves_the_revision_and_keeps_the_identity(api: Admin, path: str) -> None:
    made = api.apply(path, ours(), manager="us")
    changed = api.apply(path, ours("2"), manager="us")
    assert changed["data"] == {"payload": b64("2")}
    assert revision(changed) > revision(made)
    assert changed["metadata"]["uid"] == made["metadata"]["uid"]
    assert owners(changed) == owners(made)


def test_all_that_is_foreign_survives_an_apply(api: Admin, path: str) -> None:
    api.apply(path, ours(), manager="us")
    foreign = {
        "labels": {"team": "a"},
        "annotations": {"other": "b"},
        "finalizers": ["example.com/hold"],
    }
    api.patch(path, {"metadata": foreign, "data": {"other": b64("c")}})
    changed = api.apply(path, ours("2"), manager="us")
    assert changed["data"] == {"payload": b64("2"), "other": b64("c")}
    assert changed["metadata"]["labels"] == {"team": "a"}
    assert changed["metadata"]["annotations"] == {"example.com/note": "n", "other": "b"}
    assert changed["metadata"]["finalizers"] == ["example.com/hold"]
    theirs = owners(changed)["tests-admin", "Update"]
    assert theirs["f:data"] == {"f:other": {}}
    assert set(theirs["f:metadata"]) == {"f:annotations", "f:finalizers", "f:labels"}


def test_field_of_another_applier_is_a_conflict_that_names_it(api: Admin, path: str) -> None:
    made = api.apply(path, ours(), manager="us")
    with refused(409, "Conflict", "Apply failed with 1 conflict") as status:
        api.apply(path, payload("theirs"), manager="them")
    assert status["details"]["causes"] == [
        {"reason": CONFLICT, "message": 'conflict with "us"', "field": ".data.payload"}
    ]
    assert api.get(path) == made


@REAL
def test_field_of_a_plain_writer_is_a_conflict_that_names_it(api: Admin, path: str) -> None:
    made = api.apply(path, ours(), manager="us")
    taken = api.put(f"{path}?fieldManager=rancher", made | {"data": {"payload": b64("theirs")}})
    with refused(409, "Conflict") as status:
        api.apply(path, ours("2"), manager="us")
    assert status["details"]["causes"] == [
        {
            "reason": CONFLICT,
            "message": 'conflict with "rancher" using v1',
            "field": ".data.payload",
        }
    ]
    assert api.get(path) == taken


def test_every_conflict_has_its_cause(api: Admin, path: str) -> None:
    api.apply(path, ours(), manager="us")
    api.patch(path, {"data": {"other": b64("o")}})
    theirs = secret(
        metadata={"annotations": {"example.com/note": "x"}},
        data={"payload": b64("x"), "other": b64("x")},
    )
    with refused(409, "Conflict", "Apply failed with 3 conflicts") as status:
        api.apply(path, theirs, manager="them")
    assert causes(status) == {
        (CONFLICT, ".data.other"),
        (CONFLICT, ".data.payload"),
        (CONFLICT, ".metadata.annotations.example.com/note"),
    }
    assert {cause["message"] for cause in status["details"]["causes"]} == {
        'conflict with "us"',
        'conflict with "tests-admin" using v1',
    }


def test_force_takes_the_field_and_leaves_the_rest_with_its_owner(api: Admin, path: str) -> None:
    api.apply(path, ours(), manager="us")
    forced = api.apply(path, payload("theirs"), manager="them", force=True)
    assert forced["data"] == {"payload": b64("theirs")}
    assert owners(forced) == {
        ("us", "Apply"): {
            "f:metadata": {"f:annotations": {"f:example.com/note": {}}},
            "f:type": {},
        },
        ("them", "Apply"): {"f:data": {"f:payload": {}}},
    }
    with refused(409, "Conflict"):
        api.apply(path, ours("2"), manager="us")


@REAL
def test_same_value_is_shared_and_then_neither_may_change_it_alone(api: Admin, path: str) -> None:
    made = api.apply(path, ours(), manager="us")
    shared = api.apply(path, payload("1"), manager="them")
    assert shared["data"] == made["data"]
    assert owners(shared)["us", "Apply"] == owners(made)["us", "Apply"]
    assert owners(shared)["them", "Apply"] == {"f:data": {"f:payload": {}}}
    for manager in ("us", "them"):
        with refused(409, "Conflict"):
            api.apply(path, payload("2"), manager=manager)


@REAL
def test_field_given_up_goes_with_its_only_owner(api: Admin, path: str) -> None:
    api.apply(path, ours(other="o"), manager="us")
    less = api.apply(path, secret(type="Opaque"), manager="us")
    assert "data" not in less
    assert "annotations" not in less["metadata"]
    assert owners(less) == {("us", "Apply"): {"f:type": {}}}
    nothing = api.apply(path, secret(), manager="us")
    assert nothing["type"] == "Opaque"
    assert owners(nothing) == {}


@REAL
def test_field_given_up_stays_with_another_owner(api: Admin, path: str) -> None:
    api.apply(path, ours(), manager="us")
    api.apply(path, payload("1"), manager="them")
    api.patch(path, {"metadata": {"annotations": {"example.com/note": "changed"}}})
    less = api.apply(path, secret(), manager="us")
    assert less["data"] == {"payload": b64("1")}
    assert less["metadata"]["annotations"] == {"example.com/note": "changed"}
    assert ("us", "Apply") not in owners(less)


@REAL
def test_finalizers_are_owned_one_by_one(api: Admin, path: str) -> None:
    api.create(path.rpartition("/")[0], secret(metadata={"finalizers": ["example.com/a"]}))
    both = api.apply(path, secret(metadata={"finalizers": ["example.com/b"]}), manager="us")
    assert both["metadata"]["finalizers"] == ["example.com/a", "example.com/b"]
    back = api.apply(path, secret(), manager="us")
    assert back["metadata"]["finalizers"] == ["example.com/a"]


@REAL
def test_null_claims_the_map_and_removes_nothing(api: Admin, path: str) -> None:
    made = api.apply(path, ours(), manager="us")
    same = api.apply(path, secret(metadata={"annotations": None}, data=None), manager="them")
    assert same["data"] == made["data"]
    assert same["metadata"]["annotations"] == made["metadata"]["annotations"]
    theirs: Object = {"f:data": {}, "f:metadata": {"f:annotations": {}}}
    assert owners(same) == owners(made) | {("them", "Apply"): theirs}


@REAL
def test_secret_that_exists_is_joined_without_a_conflict_on_what_it_lacks(
    api: Admin, path: str
) -> None:
    api.create(path.rpartition("/")[0], secret(data={"other": b64("o")}))
    joined = api.apply(path, ours(), manager="us")
    assert joined["data"] == {"payload": b64("1"), "other": b64("o")}
    assert set(owners(joined)) == {("us", "Apply"), ("tests-admin", "Update")}


@REAL
def test_type_never_changes_not_even_by_force(api: Admin, namespace: str) -> None:
    path = f"{secrets_in(namespace)}/typed"
    made = api.create(secrets_in(namespace), secret("typed", type="example.com/other"))
    wanted = secret("typed", type="Opaque", data={"payload": b64("1")})
    with refused(409, "Conflict") as status:
        api.apply(path, wanted, manager="us")
    assert causes(status) == {(CONFLICT, ".type")}
    with refused(422, "Invalid", "field is immutable") as status:
        api.apply(path, wanted, manager="us", force=True)
    assert causes(status) == {("FieldValueInvalid", "type")}
    assert api.get(path) == made


@REAL
@pytest.mark.parametrize("force", [False, True])
def test_immutable_secret_takes_notes_and_nothing_else(api: Admin, path: str, force: bool) -> None:
    made = api.apply(path, ours() | {"immutable": True}, manager="us")
    for change, fields in (
        (ours("2") | {"immutable": True}, {"data"}),
        (ours(), {"immutable"}),
        (ours("2") | {"immutable": False}, {"data", "immutable"}),
    ):
        with refused(422, "Invalid", "field is immutable when `immutable` is set") as status:
            api.apply(path, change, manager="us", force=force)
        assert causes(status) == {("FieldValueForbidden", field) for field in fields}
    assert api.get(path) == made
    noted = api.apply(path, ours(more="m") | {"immutable": True}, manager="us", force=force)
    assert noted["metadata"]["annotations"] == {"example.com/note": "n", "more": "m"}


@REAL
def test_secret_that_would_be_too_large_with_what_it_holds_is_invalid(
    api: Admin, path: str
) -> None:
    collection = path.rpartition("/")[0]
    whole = 1 << 20
    api.create(collection, secret(data={"other": b64("x" * (whole - 10))}))
    with refused(422, "Invalid") as status:
        api.apply(path, payload("y" * 11), manager="us")
    assert causes(status) == {("FieldValueTooLong", "data")}
    fits = api.apply(path, payload("y" * 10), manager="us")
    assert len(fits["data"]["payload"]) == 16
    with refused(422, "Invalid") as status:
        api.apply(f"{collection}/t", secret("t", data={"a": b64("x" * (whole + 1))}), manager="us")
    assert causes(status) == {("FieldValueTooLong", "data")}
    assert absent(api, f"{collection}/t")


@pytest.mark.parametrize(
    ("config", "code", "reason"),
    [
        (secret("another"), 400, "BadRequest"),
        (secret() | {"apiVersion": "v2"}, 400, "BadRequest"),
        (secret(metadata={"namespace": "default"}), 400, "BadRequest"),
        (secret(metadata={"managedFields": []}), 400, "BadRequest"),
        ({"apiVersion": "v1", "metadata": {"name": "s"}}, 400, "BadRequest"),
        (secret() | {"unknown": 1}, 500, ""),
        (secret(metadata={"finalizers": ["bad"]}), 422, "Invalid"),
    ],
    ids=["name", "version", "namespace", "managed", "kind", "field", "finalizer"],
)
@REAL
@pytest.mark.parametrize("exists", [False, True])
def test_unfit_configuration_is_refused(
    api: Admin, path: str, config: Object, code: int, reason: str, exists: bool
) -> None:
    if exists:
        api.apply(path, ours(), manager="us")
    with refused(code, reason):
        api.apply(path, config, manager="us")
    assert absent(api, path) is not exists


@REAL
def test_apply_needs_a_manager_and_other_patches_take_no_force(api: Admin, path: str) -> None:
    with refused(422, "Invalid") as status:
        api.apply(path, ours(), manager="")
    assert causes(status) == {("FieldValueRequired", "fieldManager")}
    api.apply(path, ours(), manager="us")
    with refused(422, "Invalid") as status:
        api.patch(f"{path}?force=true", {})
    assert causes(status) == {("FieldValueForbidden", "force")}


@REAL
def test_maps_of_a_custom_resource_are_granular_and_owned_themselves(
    api: Admin, name: str, setting_path: str
) -> None:
    path = setting_path
    api.apply(path, setting(name, "1") | {"spec": {"a": {"b": 1}, "l": [1]}}, manager="us")
    api.patch(path, {"spec": {"a": {"c": 2}}})
    made = api.apply(path, setting(name, "2") | {"spec": {"a": {"b": 1}, "l": [2]}}, manager="us")
    assert made["spec"] == {"a": {"b": 1, "c": 2}, "l": [2]}
    assert owners(made) == {
        ("us", "Apply"): {
            "f:spec": {".": {}, "f:a": {".": {}, "f:b": {}}, "f:l": {}},
            "f:value": {},
        },
        ("tests-admin", "Update"): {"f:spec": {"f:a": {"f:c": {}}}},
    }
    with refused(409, "Conflict") as status:
        api.apply(path, setting(name, "2") | {"spec": {"a": {"c": 3}}}, manager="them")
    assert causes(status) == {(CONFLICT, ".spec.a.c")}
