"""The Status bodies by which clients tell one refusal from the other."""

from contextlib import closing
from functools import partial
from typing import Any

import pytest

from tests.apiserver.admin import Admin, AdminError, Object
from tests.contract.objects import (
    NAMESPACES,
    SETTINGS,
    about,
    absent,
    b64,
    causes,
    refused,
    secret,
    secrets_in,
    setting,
)
from tests.contract.servers import REAL, Server


def test_unknown_token_is_unauthorized_everywhere(server: Server) -> None:
    with closing(Admin(server.url, "wrong", server.ca_file)) as stranger:
        for path in (NAMESPACES, "/api", "/version", "/absent"):
            with refused(401, "Unauthorized", "Unauthorized") as status:
                stranger.get(path)
            assert "details" not in status


@REAL
def test_request_without_a_token_is_forbidden_in_words_that_name_what_it_wanted(
    server: Server, namespace: str
) -> None:
    with closing(Admin(server.url, "", server.ca_file)) as anonymous:
        assert anonymous.get("/version")["major"] == "1"
        with refused(403, "Forbidden", 'User "system:anonymous" cannot list resource') as status:
            anonymous.get(secrets_in(namespace))
        assert f'in the namespace "{namespace}"' in status["message"]
        assert status["details"] == {"kind": "secrets"}
        with refused(403, "Forbidden", 'cannot get resource "settings" in API group') as status:
            anonymous.get(f"{SETTINGS}/a")
        assert status["message"].endswith("at the cluster scope")
        with refused(403, "Forbidden", f'in the namespace "{namespace}"') as status:
            anonymous.get(f"{NAMESPACES}/{namespace}")
        with refused(403, "Forbidden", 'cannot get path "/apis"') as status:
            anonymous.get("/apis")
        assert status["details"] == {}


def test_missing_object_is_named_with_its_group_and_kind(api: Admin, namespace: str) -> None:
    with refused(404, "NotFound", 'secrets "x" not found') as status:
        api.get(f"{secrets_in(namespace)}/x")
    assert status["details"] == {"name": "x", "kind": "secrets"}
    with refused(404, "NotFound", 'settings.management.cattle.io "x" not found') as status:
        api.get(f"{SETTINGS}/x")
    assert status["details"] == {
        "name": "x",
        "group": "management.cattle.io",
        "kind": "settings",
    }


@REAL
@pytest.mark.parametrize("verb", ["get", "put", "patch", "delete"])
def test_every_verb_misses_an_object_alike(api: Admin, namespace: str, verb: str) -> None:
    path = f"{secrets_in(namespace)}/x"
    arguments: list[Any] = [secret("x")] if verb in {"put", "patch"} else []
    with refused(404, "NotFound", 'secrets "x" not found') as status:
        getattr(api, verb)(path, *arguments)
    assert status["details"] == {"name": "x", "kind": "secrets"}


def test_missing_namespace_is_what_a_write_names(api: Admin) -> None:
    path = secrets_in("no-such-namespace")
    for write in (
        partial(api.create, path, secret()),
        partial(api.apply, f"{path}/s", secret(), manager="m"),
    ):
        with refused(404, "NotFound", 'namespaces "no-such-namespace" not found') as status:
            write()
        assert status["details"] == {"name": "no-such-namespace", "kind": "namespaces"}
    with refused(404, "NotFound", 'secrets "s" not found') as status:
        api.get(f"{path}/s")


def test_second_creation_of_a_name_already_exists(
    api: Admin, namespace: str, name: str, setting_path: str
) -> None:
    api.create(secrets_in(namespace), secret())
    with refused(409, "AlreadyExists", 'secrets "s" already exists') as status:
        api.create(secrets_in(namespace), secret())
    assert status["details"] == {"name": "s", "kind": "secrets"}
    api.create(SETTINGS, setting(name))
    with refused(409, "AlreadyExists") as status:
        api.create(SETTINGS, setting(name))
    assert status["details"] == {
        "name": name,
        "group": "management.cattle.io",
        "kind": "settings",
    }


@REAL
@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (secret("Not_a_name"), ("FieldValueInvalid", "metadata.name")),
        ({"data": {}}, ("FieldValueRequired", "metadata.name")),
        (secret(data={"a b": ""}), ("FieldValueInvalid", "data[a b]")),
        (secret(metadata={"finalizers": ["bad"]}), ("FieldValueInvalid", "metadata.finalizers[0]")),
        (secret(data={"a": b64("x" * ((1 << 20) + 1))}), ("FieldValueTooLong", "data")),
    ],
    ids=["name", "nameless", "key", "finalizer", "oversize"],
)
def test_invalid_content_is_named_field_by_field(
    api: Admin, namespace: str, body: Object, cause: tuple[str, str]
) -> None:
    with refused(422, "Invalid", "Secret ") as status:
        api.create(secrets_in(namespace), body)
    assert causes(status) == {cause}
    name = body.get("metadata", {}).get("name")
    assert about(status) == {"kind": "Secret"} | ({"name": name} if name else {})


@REAL
@pytest.mark.parametrize(
    "body",
    [
        secret() | {"kind": "ConfigMap"},
        secret() | {"apiVersion": "v2"},
        secret(metadata={"namespace": "default"}),
        secret(data={"a": "%%"}),
    ],
    ids=["kind", "version", "namespace", "base64"],
)
def test_body_that_does_not_fit_its_path_is_a_bad_request(
    api: Admin, namespace: str, body: Object
) -> None:
    with refused(400, "BadRequest"):
        api.create(secrets_in(namespace), body)
    assert absent(api, f"{secrets_in(namespace)}/s")


@REAL
def test_built_in_kinds_may_leave_their_type_out_and_custom_ones_not(
    api: Admin, namespace: str, name: str
) -> None:
    created = api.create(secrets_in(namespace), {"metadata": {"name": "s"}})
    assert (created["kind"], created["apiVersion"], created["type"]) == ("Secret", "v1", "Opaque")
    with refused(400, "BadRequest", "Object 'Kind' is missing"):
        api.create(SETTINGS, {"apiVersion": "management.cattle.io/v3", "metadata": {"name": name}})
    assert absent(api, f"{SETTINGS}/{name}")


def test_text_that_is_no_json_is_a_bad_request(api: Admin, namespace: str) -> None:
    with pytest.raises(AdminError) as caught:
        api.create_raw(secrets_in(namespace), b"{nope")
    assert (caught.value.status, caught.value.body["reason"]) == (400, "BadRequest")


def test_body_over_three_mebibytes_is_too_large(api: Admin, namespace: str) -> None:
    huge = secret(data={"a": b64("x" * (3 << 20))})
    with refused(413, "RequestEntityTooLarge"):
        api.create(secrets_in(namespace), huge)
    with refused(413, "RequestEntityTooLarge"):
        api.apply(f"{secrets_in(namespace)}/s", huge, manager="m")


@pytest.mark.parametrize(("method", "named"), [("PUT", False), ("POST", True)])
def test_verb_that_a_path_does_not_take_is_not_allowed(
    api: Admin, namespace: str, method: str, named: bool
) -> None:
    path = secrets_in(namespace) + ("/s" if named else "")
    with refused(405, "MethodNotAllowed") as status:
        api.request(method, path, body=secret())
    assert status["details"] == {}


def test_patch_of_an_unknown_kind_is_unsupported(api: Admin, namespace: str) -> None:
    api.create(secrets_in(namespace), secret())
    with refused(415, "UnsupportedMediaType"):
        api.request("PATCH", f"{secrets_in(namespace)}/s", body={})
