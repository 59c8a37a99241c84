"""WATCH over HTTP: events, bookmarks, streaming lists, and how watches end."""

from typing import Any

import aiohttp
import anyio
import pytest

from tests.apiserver.double.apiserver import ApiServer
from tests.apiserver.double.client import SECRETS, SETTINGS, Api, new_server, secret, setting

pytestmark = pytest.mark.anyio

SETTING_ID = "settings.management.cattle.io"
STREAM = {
    "sendInitialEvents": "true",
    "resourceVersionMatch": "NotOlderThan",
    "allowWatchBookmarks": "true",
}


def put(server: ApiServer, *names: str, **metadata: Any) -> str:
    for name in names:
        server.put_object(setting(name, **metadata))
    return str(server.revision)


async def until_no_watches(server: ApiServer) -> None:
    with anyio.fail_after(30):
        while server.open_watches:
            await anyio.sleep(0.01)


async def test_watch_tells_what_happens_after_its_revision(api: Api, server: ApiServer) -> None:
    then = put(server, "a", "b")
    server.put_object(setting("a", "2"))
    async with api.watch(SETTINGS, resourceVersion=then) as watch:
        server.delete_object(SETTING_ID, "b")
        put(server, "c")
        assert await watch.take(3) == [("MODIFIED", "a"), ("DELETED", "b"), ("ADDED", "c")]


async def test_deleted_object_carries_the_revision_of_its_deletion(
    api: Api, server: ApiServer
) -> None:
    then = put(server, "a")
    server.delete_object(SETTING_ID, "a")
    async with api.watch(SETTINGS, resourceVersion=then) as watch:
        event = await watch.next()
    assert event is not None
    assert event["object"]["metadata"]["resourceVersion"] == str(server.revision)


@pytest.mark.parametrize("params", [{}, {"resourceVersion": "0"}])
async def test_watch_without_a_revision_begins_with_what_is_there(
    api: Api, server: ApiServer, params: dict[str, str]
) -> None:
    put(server, "a", "b")
    async with api.watch(SETTINGS, **params) as watch:
        put(server, "c")
        assert await watch.take(3) == [("ADDED", "a"), ("ADDED", "b"), ("ADDED", "c")]


async def test_built_in_object_carries_its_type_in_events(api: Api, server: ApiServer) -> None:
    server.put_object(secret(metadata={"namespace": "default"}))
    server.put_object(secret(metadata={"namespace": "kube-system"}))
    async with api.watch(SECRETS, timeoutSeconds="1") as watch:
        (event,) = await watch.rest()
    assert (event["object"]["kind"], event["object"]["apiVersion"]) == ("Secret", "v1")


async def test_watch_of_one_name_has_its_changes_alone(api: Api, server: ApiServer) -> None:
    then = put(server, "a")
    put(server, "b")
    server.put_object(setting("b", "2"))
    put(server, "c")
    server.delete_object(SETTING_ID, "b")
    async with api.watch(
        SETTINGS, resourceVersion=then, fieldSelector="metadata.name=b", timeoutSeconds="1"
    ) as watch:
        events = await watch.rest()
    assert [event["type"] for event in events] == ["ADDED", "MODIFIED", "DELETED"]
    assert {event["object"]["metadata"]["name"] for event in events} == {"b"}
    # What is deleted is shown as it was, under the revision at which it went.
    assert events[2]["object"]["value"] == "2"
    assert int(events[2]["object"]["metadata"]["resourceVersion"]) == server.revision


async def test_revision_from_before_compaction_is_an_error_event_in_a_good_response(
    api: Api, server: ApiServer
) -> None:
    then = put(server, "a")
    put(server, "b")
    server.compact()
    async with api.watch(SETTINGS, resourceVersion=then) as watch:
        (event,) = await watch.rest()
    assert event["type"] == "ERROR"
    assert (event["object"]["code"], event["object"]["reason"]) == (410, "Expired")
    assert event["object"]["message"].startswith("too old resource version")


async def test_watch_that_has_seen_everything_survives_compaction(
    api: Api, server: ApiServer
) -> None:
    then = put(server, "a")
    async with api.watch(SETTINGS, resourceVersion=then) as watch:
        put(server, "b")
        assert await watch.take(1) == [("ADDED", "b")]
        server.compact()
        put(server, "c")
        assert await watch.take(1) == [("ADDED", "c")]


async def test_revision_in_the_future_is_waited_for_in_silence(api: Api, server: ApiServer) -> None:
    then = put(server, "a")
    async with api.watch(SETTINGS, resourceVersion=str(int(then) + 1)) as watch:
        put(server, "unseen", "seen")
        assert await watch.take(1) == [("ADDED", "seen")]


async def test_streaming_list_ends_with_an_annotated_bookmark(api: Api, server: ApiServer) -> None:
    revision = put(server, "a", "b")
    async with api.watch(SETTINGS, **STREAM) as watch:
        assert await watch.take(2) == [("ADDED", "a"), ("ADDED", "b")]
        end = await watch.next()
        assert end is not None
        assert (end["type"], end["object"]["kind"]) == ("BOOKMARK", "Setting")
        assert end["object"]["metadata"] == {
            "resourceVersion": revision,
            "annotations": {"k8s.io/initial-events-end": "true"},
        }
        put(server, "c")
        assert await watch.take(1) == [("ADDED", "c")]


async def test_streaming_list_may_be_left_without_its_end() -> None:
    server = new_server(list_end=False)
    put(server, "a")
    async with (
        server.serve() as endpoint,
        aiohttp.ClientSession() as session,
        Api(session, endpoint.url).watch(SETTINGS, **STREAM) as watch,
    ):
        assert await watch.take(1) == [("ADDED", "a")]
        put(server, "b")
        assert await watch.take(1) == [("ADDED", "b")]


async def test_streaming_list_of_nothing_is_just_its_end(api: Api) -> None:
    async with api.watch(SETTINGS, **STREAM) as watch:
        assert await watch.take(1) == [("BOOKMARK", "")]


async def test_stream_from_the_future_is_an_error_event(api: Api) -> None:
    answer = await api.get(SETTINGS, watch="true", **STREAM, resourceVersion="999")
    assert (answer.code, answer.body["type"]) == (200, "ERROR")
    assert answer.body["object"]["code"] == 504
    assert "Too large resource version: 999" in answer.body["object"]["message"]


async def test_server_without_streaming_lists_refuses_them() -> None:
    server = new_server(watch_list=False)
    async with server.serve() as endpoint, aiohttp.ClientSession() as session:
        answer = await Api(session, endpoint.url).get(SETTINGS, watch="1", **STREAM)
    assert answer.code == 422
    assert "WatchList feature gate" in answer.body["message"]


async def test_bookmarks_come_regularly_and_move_an_idle_watch_on() -> None:
    server = new_server(bookmark_interval_s=0.05)
    then = put(server, "a")
    async with server.serve() as endpoint, aiohttp.ClientSession() as session:
        api = Api(session, endpoint.url)
        async with api.watch(SETTINGS, resourceVersion=then, allowWatchBookmarks="true") as watch:
            server.put_object(secret(metadata={"namespace": "default"}))
            with anyio.fail_after(30):
                while (event := await watch.next()) is not None:
                    assert event["type"] == "BOOKMARK"
                    if event["object"]["metadata"]["resourceVersion"] == str(server.revision):
                        break


async def test_last_bookmark_comes_two_seconds_before_the_end(api: Api, server: ApiServer) -> None:
    then = put(server, "a")
    started = anyio.current_time()
    async with api.watch(
        SETTINGS, resourceVersion=then, allowWatchBookmarks="true", timeoutSeconds="3"
    ) as watch:
        assert await watch.take(1) == [("BOOKMARK", "")]
        assert anyio.current_time() - started > 0.9
        assert await watch.rest() == []
        assert anyio.current_time() - started > 2.9


async def test_no_bookmarks_without_asking() -> None:
    server = new_server(bookmark_interval_s=0.01)
    params = {"resourceVersion": "5", "timeoutSeconds": "1"}
    async with (
        server.serve() as endpoint,
        aiohttp.ClientSession() as session,
        Api(session, endpoint.url).watch(SETTINGS, **params) as watch,
    ):
        assert await watch.rest() == []


async def test_dropped_watch_ends_without_a_word(api: Api, server: ApiServer) -> None:
    async with api.watch(SETTINGS) as watch:
        assert server.open_watches == 1
        server.drop_watches()
        assert await watch.rest() == []
    assert server.open_watches == 0


async def test_slow_watch_is_dropped_without_an_error_event() -> None:
    server = new_server(history_events=10)
    async with server.serve() as endpoint, aiohttp.ClientSession(read_bufsize=1024) as session:
        api = Api(session, endpoint.url)
        async with api.watch(SETTINGS) as watch:
            # Far more than sockets buffer: the server can't write while the client doesn't read.
            for _ in range(60):
                server.put_object(setting("a", "x" * 500_000))
                await anyio.sleep(0.001)
            events = await watch.rest()
    assert events
    assert len(events) < 60
    assert {event["type"] for event in events} <= {"ADDED", "MODIFIED"}


async def test_client_that_leaves_is_forgotten(api: Api, server: ApiServer) -> None:
    async with api.watch(SETTINGS):
        assert server.open_watches == 1
    await until_no_watches(server)


async def test_removed_resource_ends_its_watches_after_the_deletions(
    api: Api, server: ApiServer
) -> None:
    then = put(server, "a")
    async with (
        api.watch(SETTINGS, resourceVersion=then) as watch,
        api.watch("/api/v1/namespaces", resourceVersion=then) as other,
    ):
        server.remove_resource(SETTING_ID)
        assert [event["type"] for event in await watch.rest()] in (["DELETED"], [])
        assert (await api.get(SETTINGS)).body == "404 page not found\n"
        assert "settings" not in str((await api.get("/apis/management.cattle.io/v3")).body)
        server.restore_resource(SETTING_ID)
        assert (await api.get(SETTINGS)).names == []
        assert server.open_watches == 1
        server.drop_watches()
        assert await other.rest() == []
    async with api.watch(SETTINGS, resourceVersion=then) as late:
        (event,) = await late.rest()
    assert event["object"]["code"] == 410
