"""The write verbs over HTTP: preconditions, validation, finalizers, namespaces, subresources."""

import pytest

from tests.apiserver.double.apiserver import ApiServer
from tests.apiserver.double.client import SECRETS, SETTINGS, Answer, Api, b64, secret, setting

pytestmark = pytest.mark.anyio

NAMESPACES = "/api/v1/namespaces"
REQUESTS = "/apis/telemetry.cattle.io/v1/secretrequests"


def refused(answer: Answer, code: int, reason: str, text: str) -> None:
    assert (answer.code, answer.body["kind"]) == (code, "Status"), answer.body
    assert (answer.body["reason"], answer.body["code"]) == (reason, code)
    assert text in answer.body["message"]


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
