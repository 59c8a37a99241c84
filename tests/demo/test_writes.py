"""The write verbs over HTTP: preconditions, validation, finalizers, namespaces, subresources."""

from typing import Any

import pytest

from telemetryd.demo.apiserver import ApiServer
from telemetryd.demo.writes import merge_json
from tests.demo.client import SECRETS, SETTINGS, Answer, Api, b64, secret, setting

pytestmark = pytest.mark.anyio

LEASES = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
NAMESPACES = "/api/v1/namespaces"
REQUESTS = "/apis/telemetry.cattle.io/v1/secretrequests"


def refused(answer: Answer, code: int, reason: str, text: str) -> None:
    assert (answer.code, answer.body["kind"]) == (code, "Status"), answer.body
    assert (answer.body["reason"], answer.body["code"]) == (reason, code)
    assert text in answer.body["message"]


def lease(name: str = "l", /, **spec: Any) -> dict[str, Any]:
    kind = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
    return {**kind, "metadata": {"name": name, **spec.pop("metadata", {})}, "spec": spec}


@pytest.mark.parametrize(
    ("value", "patch", "expected"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": None}}, {"a": {"c": 2}}),
        ({"a": [1]}, {"a": {"b": None, "c": 1}}, {"a": {"c": 1}}),
        ({"a": "b"}, ["c"], ["c"]),
    ],
)
async def test_merge_patch_follows_rfc_7396(value: Any, patch: Any, expected: Any) -> None:
    assert merge_json(value, patch) == expected


async def test_created_secret_has_what_the_server_sets(api: Api) -> None:
    created = await api.post(SECRETS, secret(stringData={"a": "b"}, unknown=1))
    assert created.code == 201
    assert (created.body["type"], created.body["data"]) == ("Opaque", {"a": b64("b")})
    assert not {"stringData", "unknown"} & set(created.body)
    metadata = created.body["metadata"]
    assert (metadata["namespace"], metadata["creationTimestamp"]) == (
        "default",
        "2026-11-01T12:00:00Z",
    )
    assert metadata["uid"]
    assert (await api.get(f"{SECRETS}/s")).body == created.body


async def test_second_create_is_already_exists(api: Api) -> None:
    await api.post(SECRETS, secret())
    refused(await api.post(SECRETS, secret()), 409, "AlreadyExists", 'secrets "s" already exists')


async def test_missing_object_is_named_in_full(api: Api) -> None:
    answer = await api.get(f"{SETTINGS}/x")
    refused(answer, 404, "NotFound", 'settings.management.cattle.io "x" not found')
    assert answer.body["details"] == {
        "name": "x",
        "group": "management.cattle.io",
        "kind": "settings",
    }


async def test_create_in_a_missing_namespace_names_the_namespace(api: Api) -> None:
    answer = await api.post("/api/v1/namespaces/x/secrets", secret())
    refused(answer, 404, "NotFound", 'namespaces "x" not found')


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        (secret("A_b"), 422, "a lowercase RFC 1123 subdomain"),
        (secret(""), 422, "name or generateName is required"),
        (secret(data={"x/y": ""}), 422, "a valid config key"),
        (secret(data={"x": "***"}), 400, "illegal base64 data"),
        (secret(data={"x": b64("x" * ((1 << 20) + 1))}), 422, "Too long"),
        (secret(metadata={"finalizers": ["plain"]}), 422, "neither a standard finalizer"),
        (secret(metadata={"namespace": "other"}), 400, "does not match the namespace sent"),
        ({**secret(), "kind": "ConfigMap"}, 400, "cannot be handled as a Secret"),
        ({**secret(), "apiVersion": "v2"}, 400, "does not match the expected API version"),
        ([], 400, "couldn't get version/kind"),
        (b"{", 400, "couldn't get version/kind"),
        ({"kind": "Secret", "metadata": 1}, 400, "metadata"),
    ],
)
async def test_bad_secret_is_refused(api: Api, body: Any, code: int, text: str) -> None:
    answer = await api.post(SECRETS, body)
    assert answer.code == code
    assert text in answer.body["message"]


async def test_body_above_three_mebibytes_is_too_large(api: Api) -> None:
    answer = await api.post(SECRETS, secret(data={"x": "x" * (3 << 20)}))
    refused(answer, 413, "RequestEntityTooLarge", "limit is 3145728")


async def test_custom_resource_of_another_kind_is_invalid(api: Api) -> None:
    answer = await api.post(SETTINGS, {**setting("a"), "kind": "Node"})
    refused(answer, 422, "Invalid", 'kind: Invalid value: "Node": must be Setting')


async def test_create_with_a_revision_is_refused(api: Api) -> None:
    answer = await api.post(SECRETS, secret(metadata={"resourceVersion": "5"}))
    assert (answer.code, "should not be set" in answer.body["message"]) == (500, True)


async def test_put_with_a_stale_revision_is_a_conflict(api: Api) -> None:
    await api.post(SECRETS, secret())
    stale = secret(metadata={"resourceVersion": "1"}, data={"a": b64("1")})
    answer = await api.put(f"{SECRETS}/s", stale)
    refused(answer, 409, "Conflict", "the object has been modified; please apply your changes")
    assert answer.body["details"] == {"name": "s", "kind": "secrets"}


async def test_put_with_the_current_revision_replaces(api: Api) -> None:
    created = await api.post(SECRETS, secret(data={"a": b64("1")}))
    current = secret(metadata={"resourceVersion": created.revision}, data={"b": b64("2")})
    answer = await api.put(f"{SECRETS}/s", current)
    assert (answer.code, answer.body["data"]) == (200, {"b": b64("2")})
    assert answer.body["metadata"]["uid"] == created.body["metadata"]["uid"]


async def test_put_with_another_uid_is_a_conflict(api: Api) -> None:
    await api.post(SECRETS, secret())
    answer = await api.put(f"{SECRETS}/s", secret(metadata={"uid": "x"}))
    refused(answer, 409, "Conflict", "Precondition failed: UID in precondition: x")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (secret("t"), "the name of the object (t) does not match the name on the URL (s)"),
        (secret(metadata={"namespace": "q"}), "the namespace of the object (q) does not match"),
        (secret(""), "was undeterminable"),
        (secret(metadata={"resourceVersion": "x"}), "invalid syntax"),
    ],
)
async def test_put_of_something_else_is_refused(api: Api, body: Any, text: str) -> None:
    await api.post(SECRETS, secret())
    answer = await api.put(f"{SECRETS}/s", body)
    assert answer.code in {400, 500}
    assert text in answer.body["message"]


async def test_put_of_a_custom_resource_needs_a_revision(api: Api) -> None:
    await api.post(SETTINGS, setting("a"))
    answer = await api.put(f"{SETTINGS}/a", setting("a", "x"))
    refused(answer, 422, "Invalid", "metadata.resourceVersion: Invalid value: 0x0")


async def test_put_creates_leases_but_not_secrets(api: Api) -> None:
    assert (await api.put(f"{SECRETS}/s", secret())).code == 404
    # A revision alone doesn't keep a deleted lease from coming back; a UID does.
    stale = lease(metadata={"resourceVersion": "5"}, holderIdentity="a")
    assert (await api.put(f"{LEASES}/l", stale)).code == 201
    gone = lease("m", metadata={"uid": "5"}, holderIdentity="a")
    refused(await api.put(f"{LEASES}/m", gone), 409, "Conflict", "UID in object meta: ")


async def test_lease_times_are_micro_times_in_utc(api: Api) -> None:
    times = {"acquireTime": None, "renewTime": "2026-01-01T00:00:00.123456+01:00"}
    created = await api.post(LEASES, lease(**times))
    assert created.body["spec"] == {"renewTime": "2025-12-31T23:00:00.123456Z"}
    answer = await api.post(LEASES, lease("m", renewTime="2026-01-01T00:00:00Z"))
    refused(answer, 400, "BadRequest", "parsing time")


async def test_bad_lease_numbers_are_refused(api: Api) -> None:
    answer = await api.post(LEASES, lease(leaseDurationSeconds=0, leaseTransitions=-1))
    refused(answer, 422, "Invalid", "spec.leaseDurationSeconds: Invalid value: 0")
    assert len(answer.body["details"]["causes"]) == 2
    refused(await api.post(LEASES, lease(leaseDurationSeconds=1.5)), 400, "BadRequest", "Integer")


async def test_merge_patch_without_effect_keeps_the_revision(api: Api) -> None:
    created = await api.post(SECRETS, secret(data={"a": b64("1")}))
    same = await api.merge(f"{SECRETS}/s", {"data": {"a": b64("1")}}, fieldManager="other")
    assert same.body == created.body


async def test_merge_patch_guards_revision_uid_and_name(api: Api) -> None:
    await api.post(SECRETS, secret())
    path = f"{SECRETS}/s"
    stale = {"metadata": {"resourceVersion": "1", "uid": "x"}}
    refused(await api.merge(path, stale), 409, "Conflict", "has been modified")
    answer = await api.merge(path, {"metadata": {"uid": "x"}})
    refused(answer, 422, "Invalid", 'metadata.uid: Invalid value: "x": field is immutable')
    refused(await api.merge(path, {"metadata": {"name": "t"}}), 400, "BadRequest", "URL")
    refused(await api.merge(path, []), 422, "Invalid", "patch")
    refused(await api.merge(path, {}, force="true"), 422, "Invalid", "non-apply patch")
    assert (await api.merge(path, b"{")).code == 500
    assert (await api.merge(f"{SECRETS}/missing", {})).code == 404


async def test_secret_type_never_changes(api: Api) -> None:
    await api.post(SECRETS, secret())
    answer = await api.merge(f"{SECRETS}/s", {"type": "x.io/y"})
    refused(answer, 422, "Invalid", 'type: Invalid value: "x.io/y": field is immutable')


async def test_immutable_secret_takes_labels_and_nothing_else(api: Api) -> None:
    await api.post(SECRETS, secret(data={"a": b64("1")}, immutable=True))
    path, text = f"{SECRETS}/s", "field is immutable when `immutable` is set"
    refused(
        await api.merge(path, {"data": {"a": b64("2")}}), 422, "Invalid", f"data: Forbidden: {text}"
    )
    refused(await api.merge(path, {"immutable": None}), 422, "Invalid", text)
    assert (await api.merge(path, {"metadata": {"labels": {"a": "b"}}})).code == 200


async def test_delete_answers_with_what_is_gone(api: Api) -> None:
    created = await api.post(SECRETS, secret())
    answer = await api.delete(f"{SECRETS}/s")
    assert (answer.code, answer.body["status"]) == (200, "Success")
    assert answer.body["details"]["uid"] == created.body["metadata"]["uid"]
    assert (await api.delete(f"{SECRETS}/s")).code == 404


@pytest.mark.parametrize(
    ("precondition", "text"),
    [({"uid": "x"}, "the UID in the precondition"), ({"resourceVersion": "1"}, "ResourceVersion")],
)
async def test_delete_with_a_wrong_precondition_is_a_conflict(
    api: Api, precondition: dict[str, str], text: str
) -> None:
    await api.post(SECRETS, secret())
    answer = await api.delete(f"{SECRETS}/s", {"preconditions": precondition})
    refused(answer, 409, "Conflict", text)


async def test_finalizers_hold_a_deleted_object_until_the_last_is_gone(api: Api) -> None:
    path = f"{SECRETS}/s"
    await api.post(SECRETS, secret(metadata={"finalizers": ["x.io/a", "x.io/b"]}))
    deleted = await api.delete(path)
    assert deleted.body["metadata"]["deletionTimestamp"] == "2026-11-01T12:00:00Z"
    assert (await api.delete(path)).revision == deleted.revision
    more = {"metadata": {"finalizers": ["x.io/a", "x.io/b", "x.io/c"]}}
    refused(await api.merge(path, more), 422, "Invalid", "no new finalizers can be added")
    assert (await api.merge(path, {"metadata": {"finalizers": ["x.io/b"]}})).code == 200
    last = await api.merge(path, {"metadata": {"finalizers": None}})
    assert (last.code, "finalizers" in last.body["metadata"]) == (200, False)
    assert (await api.get(path)).code == 404


async def test_terminating_namespace_takes_no_new_content(api: Api) -> None:
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "t"}}
    await api.post(NAMESPACES, namespace)
    inside = "/api/v1/namespaces/t/secrets"
    await api.post(inside, secret("old"))
    assert (await api.delete(f"{NAMESPACES}/t")).body["status"]["phase"] == "Terminating"
    for answer in (await api.post(inside, secret()), await api.apply(f"{inside}/s", secret())):
        refused(answer, 403, "Forbidden", "because it is being terminated")
        assert answer.body["details"]["causes"] == [
            {
                "reason": "NamespaceTerminating",
                "message": "namespace t is being terminated",
                "field": "metadata.namespace",
            }
        ]
    assert (await api.merge(f"{inside}/old", {"data": {"a": b64("1")}})).code == 200


async def test_namespace_goes_once_it_is_finalized(api: Api) -> None:
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "t"}}
    created = await api.post(NAMESPACES, namespace)
    assert (created.body["spec"], created.body["status"]) == (
        {"finalizers": ["kubernetes"]},
        {"phase": "Active"},
    )
    await api.delete(f"{NAMESPACES}/t")
    assert (await api.put(f"{NAMESPACES}/t/finalize", {**namespace, "spec": {}})).code == 200
    assert (await api.get(f"{NAMESPACES}/t")).code == 404
    assert (await api.put(f"{NAMESPACES}/t/finalize", namespace)).code == 404


async def test_kube_system_can_not_be_deleted(api: Api) -> None:
    answer = await api.delete(f"{NAMESPACES}/kube-system")
    refused(answer, 403, "Forbidden", "this namespace may not be deleted")


async def test_status_is_written_through_its_own_path_alone(api: Api) -> None:
    request = {
        "apiVersion": "telemetry.cattle.io/v1",
        "kind": "SecretRequest",
        "metadata": {"name": "r"},
        "spec": {"secretType": "scc"},
    }
    created = await api.post(REQUESTS, {**request, "status": {"a": 1}})
    assert "status" not in created.body
    change = {"metadata": {"labels": {"a": "b"}}, "spec": {"secretType": "x"}, "status": {"b": 2}}
    answer = await api.merge(f"{REQUESTS}/r/status", change)
    assert (answer.body["spec"], answer.body["status"]) == ({"secretType": "scc"}, {"b": 2})
    assert "labels" not in answer.body["metadata"]
    main = await api.merge(f"{REQUESTS}/r", {"spec": {"k": "v"}, "status": None})
    assert (main.body["spec"]["k"], main.body["status"]) == ("v", {"b": 2})
    stale = {"metadata": {"resourceVersion": "1"}, "status": {"b": 3}}
    refused(await api.merge(f"{REQUESTS}/r/status", stale), 409, "Conflict", "modified")
    assert (await api.get(f"{REQUESTS}/r/status")).body == main.body
    assert (
        await api.apply(f"{REQUESTS}/none/status", {**request, "metadata": {"name": "none"}})
    ).code == 404


async def test_nodes_keep_the_status_they_are_created_with(api: Api) -> None:
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "n"},
        "status": {"capacity": {"cpu": "4"}},
    }
    assert (await api.post("/api/v1/nodes", node)).body["status"] == node["status"]
    changed = await api.merge("/api/v1/nodes/n", {"status": {"capacity": {"cpu": "8"}}})
    assert changed.body["status"] == node["status"]


async def test_seeded_object_is_stored_as_it_is(api: Api, server: ApiServer) -> None:
    server.put_object(setting("a", "1", uid="u1"))
    server.put_object(setting("a", "2"))
    stored = server.get_object("settings.management.cattle.io", "a")
    assert (stored["metadata"]["uid"], stored["value"]) == ("u1", "2")
    assert server.count_objects("settings.management.cattle.io") == 1
    server.delete_object("settings.management.cattle.io", "a")
    assert (await api.get(f"{SETTINGS}/a")).code == 404
    with pytest.raises(KeyError):
        server.delete_object("settings.management.cattle.io", "a")
    with pytest.raises(LookupError):
        server.put_object({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}})
    with pytest.raises(LookupError):
        server.count_objects("pods")
