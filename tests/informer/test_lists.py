"""Lists as streams, on a real socket: the protocol, its ends, and when pages stand in for it."""

import json
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from aiohttp import web

from telemetryd.errors import UnreadableReason
from telemetryd.model import Unreadable
from tests.informer.samples import (
    Json,
    bookmark,
    deep_thing,
    event,
    list_end,
    record,
    status,
    thing,
)
from tests.informer.scripted import Responder, Scripted, answer, hang, refuse, serve, stream
from tests.informer.watched import EXPIRED, FAST, converge, expected, filled, watching
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio


def streaming(*names: str) -> Scripted:
    """A server that holds these, and is asked for streams."""
    server = filled(*names)
    server.streamed = True
    return server


def added(*bodies: Json) -> bytes:
    return b"".join(event("ADDED", body) for body in bodies)


async def test_list_and_watch_are_one_request(tmp_path: Path) -> None:
    async with serve(streaming(*"abc")) as server, watching(tmp_path, server) as watched:
        await until_async(lambda: watched.reader.synced)
        assert watched.held == expected(*"abc")
        assert watched.wakeups == 1
        await converge(server, watched)
        asked, request = server.requests
        assert asked.path == "/version"
        query = dict(request.query)
        assert 300 <= int(query.pop("timeoutSeconds")) <= 600
        assert query == {
            "watch": "true",
            "sendInitialEvents": "true",
            "resourceVersionMatch": "NotOlderThan",
            "allowWatchBookmarks": "true",
        }
        assert request.headers["Accept-Encoding"] == "identity"
        assert watched.stats.lists == {("success", "initial"): 1}
        assert watched.stats.watches == {"success": 1}
        assert watched.reader.status().list_method == "stream"


async def test_list_of_nothing_is_its_end_alone(tmp_path: Path) -> None:
    async with serve(streaming()) as server, watching(tmp_path, server) as watched:
        await until_async(lambda: watched.reader.synced)
        assert watched.held == {}
        await converge(server, watched)
        assert len(server.streams_asked()) == 1


async def test_what_follows_the_end_in_the_same_chunk_is_the_watch(tmp_path: Path) -> None:
    chunk = added(thing("a"), thing("b")) + list_end(10)
    chunk += event("MODIFIED", thing("a", 7, version=11)) + event("DELETED", thing("b", version=12))
    async with serve(streaming()) as server:
        server.streams.append(stream(chunk[:50], chunk[50:-20], chunk[-20:], then="hang"))
        async with watching(tmp_path, server) as watched:
            await until_async(lambda: watched.reader.status().resource_version == "12")
            assert watched.held == {"ns/a": record("a", 7)}
            assert watched.stats.events == {"modified": 1, "deleted": 1}


async def test_nothing_shows_before_the_end(tmp_path: Path) -> None:
    async with serve(streaming()) as server:
        server.streams.append(stream(added(thing("a")), then="hang"))
        async with watching(tmp_path, server) as watched:
            await until_async(lambda: watched.stats.last_contact_at)
            await anyio.sleep(0.05)
            assert (watched.held, watched.reader.synced) == ({}, False)


async def test_watch_of_a_list_that_ends_is_opened_again_where_it_stopped(tmp_path: Path) -> None:
    async with serve(streaming("a")) as server:
        later = event("MODIFIED", thing("a", 3, version=15))
        server.streams.append(stream(added(thing("a")), list_end(10), later))
        async with watching(tmp_path, server) as watched:
            await until_async(lambda: server.queries(watch=True))
            assert server.queries(watch=True)[0]["resourceVersion"] == "15"
            assert watched.stats.watch_terminations["closed"] == 1
            server.version = 15
            server.objects["a"] = thing("a", 3, version=15)
            await converge(server, watched)


@pytest.mark.parametrize(
    "responder",
    [
        pytest.param(refuse(422, "Invalid", "sendInitialEvents is forbidden"), id="14"),
        pytest.param(refuse(400, "BadRequest"), id="400"),
        pytest.param(refuse(405, "MethodNotAllowed"), id="405"),
        pytest.param(refuse(501), id="501"),
        pytest.param(stream(event("ERROR", status(422))), id="422-stream"),
        pytest.param(stream(added(thing("z")), bookmark(11), then="hang"), id="plain-bookmark"),
        pytest.param(
            stream(added(thing("z")), event("MODIFIED", thing("z")), then="hang"), id="modified"
        ),
        pytest.param(stream(event("DELETED", thing("z")), then="hang"), id="deleted"),
        pytest.param(stream(event("ODD", thing("z")), then="hang"), id="unknown"),
    ],
)
async def test_stream_that_is_not_served_leads_to_pages_and_is_remembered(
    tmp_path: Path, responder: Responder
) -> None:
    async with serve(streaming(*"abc")) as server:
        server.streams.append(responder)
        async with watching(tmp_path, server) as watched:
            await until_async(lambda: server.open)
            assert watched.held == expected(*"abc")
            assert watched.stats.lists == {("success", "fallback"): 1}
            shown = watched.reader.status()
            assert (shown.list_method, shown.last_error) == ("pages", "")
            assert {delta.key for delta in watched.deltas} == set(watched.held)
            await server.inject(EXPIRED)
            await until_async(lambda: watched.relists("expired"))
            await converge(server, watched)
            assert len(server.streams_asked()) == 1


async def test_stream_without_an_end_is_given_up_in_time_and_remembered(tmp_path: Path) -> None:
    timing = replace(FAST, list_timeout_s=0.3)
    async with serve(streaming(*"abc")) as server:
        server.streams.append(stream(added(thing("z")), then="hang"))
        async with watching(tmp_path, server, timing=timing) as watched:
            await until_async(lambda: server.open)
            assert watched.held == expected(*"abc")
            assert watched.stats.lists == {("success", "fallback"): 1}
            await server.inject(EXPIRED)
            await until_async(lambda: watched.relists("expired"))
            assert len(server.streams_asked()) == 1
            await converge(server, watched)


@pytest.mark.parametrize(("minor", "streams"), [("20", 0), ("26+", 0), ("27", 1), ("34+", 1)])
async def test_server_too_old_to_end_a_stream_is_not_asked_for_one(
    tmp_path: Path, minor: str, streams: int
) -> None:
    async with serve(streaming("a")) as server:
        server.others["/version"] = answer({"major": "1", "minor": minor})
        async with watching(tmp_path, server) as watched:
            await until_async(lambda: watched.reader.synced and server.open)
            assert watched.held == expected("a")
            assert watched.stats.lists == {("success", "initial"): 1}
            await server.inject(EXPIRED)
            await until_async(lambda: watched.relists("expired"))
            assert len(server.streams_asked()) == 2 * streams
            asked = [request.path for request in server.requests].count("/version")
            assert asked == 1, "remembered"
            await converge(server, watched)


@pytest.mark.parametrize("version", [refuse(429, Retry_After="0"), refuse(503)])
async def test_version_that_comes_later_is_waited_for(tmp_path: Path, version: Responder) -> None:
    async with serve(streaming("a")) as server:
        versions = deque([version])

        async def version_of(request: web.BaseRequest) -> web.StreamResponse:
            known = answer({"major": "1", "minor": "34"})
            return await (versions.popleft() if versions else known)(request)

        server.others["/version"] = version_of
        async with watching(tmp_path, server) as watched:
            await converge(server, watched)
            assert watched.stats.lists == {("error", "initial"): 1, ("success", "initial"): 1}
            assert watched.reader.status().list_method == "stream"


@pytest.mark.parametrize(
    "version",
    [refuse(403), answer(b"{"), answer({"major": "1", "minor": ""}), answer({"minor": "20"})],
    ids=["denied", "broken", "empty", "half"],
)
async def test_version_that_is_unknown_leaves_the_deadline(
    tmp_path: Path, version: Responder
) -> None:
    timing = replace(FAST, list_timeout_s=0.2)
    async with serve(streaming("a")) as server:
        server.streams.append(stream(then="hang"))
        server.others["/version"] = version
        async with watching(tmp_path, server, timing=timing) as watched:
            await converge(server, watched)
            # A slow machine needs more than one: the deadline is for every list.
            assert watched.stats.lists.pop(("success", "fallback")) == 1
            assert set(watched.stats.lists) <= {("error", "fallback")}


@pytest.mark.parametrize(
    "responder",
    [
        pytest.param(refuse(410, "Expired"), id="410"),
        pytest.param(stream(event("ERROR", status(410))), id="410-stream"),
        pytest.param(refuse(429, Retry_After="0"), id="429"),
        pytest.param(stream(added(thing("z")), event("ERROR", status(429))), id="429-stream"),
        pytest.param(refuse(500), id="500"),
        pytest.param(stream(event("ERROR", {})), id="500-stream"),
        pytest.param(refuse(504, "Timeout", "Too large resource version"), id="504"),
        pytest.param(refuse(401), id="401"),
        pytest.param(stream(added(thing("z"))), id="ends-early"),
        pytest.param(stream(added(thing("z")), then="reset"), id="reset"),
        pytest.param(stream(added(thing("z"))[:-40]), id="ends-within-a-line"),
    ],
)
async def test_stream_that_fails_is_tried_again_and_wipes_nothing(
    tmp_path: Path, responder: Responder
) -> None:
    async with serve(streaming(*"abc")) as server, watching(tmp_path, server) as watched:
        await until_async(lambda: server.open)
        server.streams.append(responder)
        await server.inject(EXPIRED)
        await until_async(lambda: watched.relists("expired"))
        assert watched.reader.status().list_method == "stream"
        assert watched.stats.lists["error", "expired"] == 1
        await converge(server, watched)
        assert all(delta.new is not None for delta in watched.deltas)
        assert server.queries(watch=False) == []
        server.streams += [responder] * 2
        await server.inject(EXPIRED)
        await until_async(lambda: watched.relists("fallback"))
        assert watched.reader.status().list_method == "pages"
        await converge(server, watched, "after")
        await server.inject(EXPIRED)
        await until_async(lambda: watched.relists("expired") == 2)
        assert watched.reader.status().list_method == "stream", "not remembered"


@pytest.mark.parametrize(
    "responder",
    [
        pytest.param(refuse(403, "Forbidden"), id="403"),
        pytest.param(answer(b"<html>", 200, "text/html"), id="html"),
        pytest.param(stream(b"{]\n", then="hang"), id="broken"),
        pytest.param(stream(b"\xff\n", then="hang"), id="utf8"),
        pytest.param(
            stream(added(thing("z")).replace(b'"SENTINEL"', b"NaN"), list_end(10)), id="nan"
        ),
        pytest.param(stream(added(thing("z") | {"kind": "Table"}), then="hang"), id="kind"),
        pytest.param(stream(event("BOOKMARK", {"metadata": {}}), then="hang"), id="no-version"),
        pytest.param(stream(event("ODD", {"z": "x" * 9_000_000}), then="hang"), id="oversize"),
    ],
)
async def test_stream_that_makes_no_sense_or_is_denied_is_listed_in_pages_this_once(
    tmp_path: Path, responder: Responder
) -> None:
    async with serve(streaming(*"abc")) as server:
        server.streams.append(responder)
        async with watching(tmp_path, server) as watched:
            await until_async(lambda: server.open)
            assert watched.held == expected(*"abc")
            assert watched.stats.lists == {("error", "initial"): 1, ("success", "fallback"): 1}
            await converge(server, watched)
            await server.inject(EXPIRED)
            await until_async(lambda: watched.relists("expired"))
            assert watched.reader.status().list_method == "stream"
            await converge(server, watched, "after")


async def test_stream_older_than_what_is_held_is_not_believed_without_pages(
    tmp_path: Path,
) -> None:
    async with serve(streaming(*"abc")) as server, watching(tmp_path, server) as watched:
        await until_async(lambda: server.open)
        server.streams.append(stream(list_end(9), then="hang"))
        await server.inject(EXPIRED)
        await until_async(lambda: watched.relists("regression"))
        assert watched.held == expected(*"abc")
        assert server.queries(watch=False)
        await converge(server, watched)


async def test_server_that_does_not_answer_is_asked_in_pages(tmp_path: Path) -> None:
    timing = replace(FAST, list_timeout_s=0.1)
    async with serve(streaming("a")) as server:
        server.streams.append(hang)
        async with watching(tmp_path, server, timing=timing) as watched:
            await converge(server, watched)
            assert watched.reader.status().list_method == "pages"


BAD: list[tuple[str, Callable[[], bytes], UnreadableReason]] = [
    ("type", lambda: json.dumps(thing("bad") | {"spec": []}).encode(), UnreadableReason.TYPE),
    ("deep", lambda: deep_thing("bad"), UnreadableReason.MALFORMED),
    (
        "uid",
        lambda: json.dumps(thing("bad")).replace('"uid-bad"', "null").encode(),
        UnreadableReason.MISSING,
    ),
    (
        "oversize",
        lambda: json.dumps(thing("bad") | {"z": "x" * 9_000_000}).encode(),
        UnreadableReason.OVERSIZE,
    ),
]


@pytest.mark.parametrize(("_name", "make", "reason"), BAD, ids=[row[0] for row in BAD])
async def test_bad_object_costs_itself_alone(
    tmp_path: Path, _name: str, make: Callable[[], bytes], reason: UnreadableReason
) -> None:
    bad = b'{"type":"ADDED","object":' + make() + b"}\n"
    lines = [added(thing("a")), bad, added(thing("b")), list_end(10)]
    async with serve(streaming("a", "b", "bad")) as server:
        server.streams.append(stream(*lines, then="hang"))
        async with watching(tmp_path, server) as watched:
            await until_async(lambda: watched.reader.synced)
            assert set(watched.held) == {"ns/a", "ns/bad", "ns/b"}
            held = watched.reader.get("ns/bad")
            assert isinstance(held, Unreadable)
            assert held.reason is reason
            assert watched.reader.unreadable == 1
            assert watched.stats.decode_errors == {reason: 1}
            assert watched.reader.status().list_method == "stream"


async def test_object_without_a_key_is_counted(tmp_path: Path) -> None:
    async with serve(streaming()) as server:
        nobody = event("ADDED", {"kind": "Thing"})
        server.streams.append(stream(nobody, added(thing("a")), list_end(10), then="hang"))
        async with watching(tmp_path, server) as watched:
            await until_async(lambda: watched.reader.synced)
            assert watched.held == expected("a")
            assert watched.reader.unreadable == 1


async def test_stream_of_more_objects_than_are_held_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetryd.informer.apply.MAX_LISTED_OBJECTS", 4)
    async with serve(streaming()) as server:
        many = added(*[thing(f"n{n}") for n in range(5)])
        server.streams.append(stream(many, then="hang"))
        async with watching(tmp_path, server) as watched:
            await until_async(lambda: "more than 4 objects" in watched.reader.status().last_error)


async def test_stream_of_ever_more_objects_is_given_up_in_time(tmp_path: Path) -> None:
    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for number in range(1000):
            await response.write(added(thing(f"n{number}")))
            await anyio.sleep(0.01)
        return response

    timing = replace(FAST, full_list_timeout_s=0.3)
    async with serve(streaming("a")) as server:
        server.streams.append(endless)
        async with watching(tmp_path, server, timing=timing) as watched:
            await until_async(lambda: watched.reader.synced)
            assert watched.held == expected("a")
            assert watched.stats.lists == {("error", "initial"): 1, ("success", "fallback"): 1}


async def test_informer_that_is_cancelled_between_list_and_watch_leaves_no_connection(
    tmp_path: Path,
) -> None:
    async with serve(streaming("a")) as server:
        with anyio.CancelScope() as scope:
            async with watching(tmp_path, server) as watched:
                watched.reader.on_change(scope.cancel)
                await anyio.sleep_forever()
        assert watched.reader.synced
        assert watched.stats.watches == {}
        _, request = server.requests
        await until_async(lambda: request.transport is None or request.transport.is_closing())


async def test_informer_that_is_cancelled_in_its_watch_leaves_no_connection(
    tmp_path: Path,
) -> None:
    async with serve(streaming("a")) as server:
        async with watching(tmp_path, server) as watched:
            await until_async(lambda: watched.stats.watches["success"])
            _, request = server.requests
            assert request.transport is not None
        await until_async(lambda: request.transport is None or request.transport.is_closing())
