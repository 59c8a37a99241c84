"""The demo's API server: what the daemon reads and writes there."""

from collections.abc import AsyncIterator
from random import Random
from typing import Any

import aiohttp
import pytest

from telemetryd.demo.apiserver import serve
from telemetryd.demo.objects import MOST_CHANGES, ObjectStore
from tests.apiserver.double.client import SECRETS, SETTINGS, Api, b64, fixed_now, secret, setting

pytestmark = pytest.mark.anyio

TOKEN = "demo"
REQUEST = "/apis/telemetry.cattle.io/v1/secretrequests/asked"


@pytest.fixture
def store() -> ObjectStore:
    store = ObjectStore(now=fixed_now, rng=Random(7))
    store.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}})
    return store


@pytest.fixture
async def api(anyio_backend: str, store: ObjectStore) -> AsyncIterator[Api]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with serve(store, TOKEN) as url, aiohttp.ClientSession(headers=headers) as session:
        yield Api(session, url)


def owners(obj: dict[str, Any]) -> dict[str, Any]:
    return {each["manager"]: each["fieldsV1"] for each in obj["metadata"]["managedFields"]}


async def test_documents_say_what_is_served(api: Api) -> None:
    assert (await api.get("/version")).body["gitVersion"].startswith("v1.")
    assert (await api.get("/rancherversion")).body["Version"].startswith("v2.")
    groups = (await api.get("/apis")).body["groups"]
    assert [each["name"] for each in groups] == ["management.cattle.io", "telemetry.cattle.io"]
    found = (await api.get("/apis/management.cattle.io/v3")).body["resources"]
    assert {"clusters", "nodes", "settings", "features", "projects"} <= {e["name"] for e in found}
    assert (await api.get("/apis/management.cattle.io/v9")).code == 404
    assert (await api.get("/apis/management.cattle.io/v3/tokens")).code == 404


async def test_request_without_the_token_is_refused_but_for_the_versions(api: Api) -> None:
    async with aiohttp.ClientSession() as session:
        stranger = Api(session, api.url)
        assert (await stranger.get(SETTINGS)).code == 401
        assert (await stranger.get("/rancherversion")).code == 200


async def test_list_comes_in_pages_of_one_revision(api: Api, store: ObjectStore) -> None:
    for name in "cab":
        store.put(setting(name))
    first = await api.get(SETTINGS, limit="2")
    store.put(setting("late"))
    token = first.body["metadata"]["continue"]
    second = await api.get(SETTINGS, limit="2", **{"continue": token})
    assert (first.names, second.names) == (["a", "b"], ["c", "late"])
    assert first.revision == second.revision
    assert "continue" not in second.body["metadata"]


async def test_list_is_of_one_namespace_or_one_name_where_that_is_asked(
    api: Api, store: ObjectStore
) -> None:
    store.put(secret("here", metadata={"namespace": "default"}))
    store.put(secret("there", metadata={"namespace": "other"}))
    store.put(setting("one"))
    store.put(setting("two"))
    assert (await api.get(SECRETS)).names == ["here"]
    assert (await api.get("/api/v1/secrets")).names == ["here", "there"]
    assert (await api.get(SETTINGS, fieldSelector="metadata.name=two")).names == ["two"]
    assert (await api.get(SETTINGS, fieldSelector="value=x")).code == 400


async def test_watch_with_initial_events_ends_the_list_and_goes_on(
    api: Api, store: ObjectStore
) -> None:
    store.put(setting("before"))
    options = {"sendInitialEvents": "true", "allowWatchBookmarks": "true"}
    async with api.watch(SETTINGS, **options) as watch:
        assert await watch.take(1) == [("ADDED", "before")]
        bookmark = await watch.next()
        assert bookmark is not None
        assert bookmark["object"]["metadata"]["annotations"] == {
            "k8s.io/initial-events-end": "true"
        }
        store.put(setting("after"))
        store.put(setting("before", "changed"))
        store.put(secret("else", metadata={"namespace": "default"}))
        store.remove(setting("after"))
        assert await watch.take(3) == [
            ("ADDED", "after"),
            ("MODIFIED", "before"),
            ("DELETED", "after"),
        ]


async def test_watch_goes_on_after_a_revision_and_ends_at_its_timeout(
    api: Api, store: ObjectStore
) -> None:
    store.put(setting("seen"))
    revision = str(store.revision)
    store.put(setting("unseen"))
    async with api.watch(SETTINGS, resourceVersion=revision, timeoutSeconds="1") as watch:
        assert [each["object"]["metadata"]["name"] for each in await watch.rest()] == ["unseen"]


async def test_watch_from_before_what_is_kept_has_expired(api: Api, store: ObjectStore) -> None:
    revision = str(store.revision)
    for number in range(MOST_CHANGES + 1):
        store.put(setting(f"s{number}"))
    async with api.watch(SETTINGS, resourceVersion=revision) as watch:
        (event,) = await watch.rest()
    assert (event["type"], event["object"]["code"]) == ("ERROR", 410)


async def test_apply_owns_its_fields_and_takes_away_what_it_no_longer_says(api: Api) -> None:
    path = f"{SECRETS}/s"
    config = secret(metadata={"annotations": {"a": "1"}}, data={"payload": b64("x")})
    config["metadata"]["namespace"] = "default"
    made = await api.apply(path, config)
    assert owners(made.body)["telemetryd"] == {
        "f:metadata": {"f:annotations": {"f:a": {}}},
        "f:data": {"f:payload": {}},
    }
    again = await api.apply(path, config)
    assert again.revision == made.revision
    await api.merge(path, {"metadata": {"annotations": {"theirs": "2"}}, "data": {"own": b64("y")}})
    bare = secret(metadata={"namespace": "default"})
    kept = (await api.apply(path, bare)).body
    assert kept["data"] == {"own": b64("y")}
    assert kept["metadata"]["annotations"] == {"theirs": "2"}
    assert owners(kept) == {}


async def test_two_appliers_each_own_what_they_said(api: Api) -> None:
    path = f"{SECRETS}/s"
    config = secret(metadata={"namespace": "default"}, data={"payload": b64("x")})
    await api.apply(path, config)
    both = await api.apply(path, config, "someone")
    assert set(owners(both.body)) == {"telemetryd", "someone"}


async def test_apply_into_a_missing_namespace_is_refused(api: Api) -> None:
    config = secret(metadata={"namespace": "nowhere"})
    assert (await api.apply("/api/v1/namespaces/nowhere/secrets/s", config)).code == 404


async def test_writes_require_the_state_that_they_name(api: Api, store: ObjectStore) -> None:
    store.put(secret(metadata={"namespace": "default"}))
    path, old = f"{SECRETS}/s", {"resourceVersion": "1"}
    assert (await api.merge(path, {"metadata": old})).code == 409
    assert (await api.delete(path, {"preconditions": {"uid": "another"}})).code == 409
    config = secret(metadata={"namespace": "default", **old})
    assert (await api.apply(path, config)).code == 409
    assert (await api.apply(f"{SECRETS}/new", secret("new", metadata={"uid": "u"}))).code == 409
    now = (await api.get(path)).body["metadata"]
    wanted = {"preconditions": {"uid": now["uid"], "resourceVersion": now["resourceVersion"]}}
    assert (await api.delete(path, wanted)).code == 200
    assert (await api.get(path)).code == 404


async def test_patch_of_a_status_changes_nothing_else(api: Api, store: ObjectStore) -> None:
    request = {"apiVersion": "telemetry.cattle.io/v1", "kind": "SecretRequest"}
    store.put({**request, "metadata": {"name": "asked"}, "spec": {"secretType": "scc"}})
    patch = {"status": {"lastSyncTS": "now", "conditions": []}, "spec": {"secretType": "other"}}
    patched = await api.merge(f"{REQUEST}/status", patch)
    assert patched.body["status"] == patch["status"]
    assert patched.body["spec"] == {"secretType": "scc"}
    without = await api.merge(f"{REQUEST}/status", {"status": {"lastSyncTS": None}})
    assert without.body["status"] == {"conditions": []}


async def test_what_the_demo_cannot_do_is_refused(api: Api, store: ObjectStore) -> None:
    store.put(secret(metadata={"namespace": "default"}))
    path = f"{SECRETS}/s"
    assert (await api.merge(path, {}, dryRun="All")).code == 400
    assert (await api.post(SECRETS, secret("t"))).code == 405
    assert (await api.request("PATCH", path, {})).code == 415
    headers = {"Content-Type": "application/merge-patch+json"}
    assert (await api.request("PATCH", path, b"no json", headers=headers)).code == 400
