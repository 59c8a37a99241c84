"""Informers against a server that misbehaves, on a real socket: rows of the fault matrix."""

import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.abc
import anyio.from_thread
import pytest
from aiohttp import web

from telemetryd.errors import UnreadableReason
from telemetryd.informer.backoff import WatchTiming
from telemetryd.model import Delta, Unreadable
from telemetryd.timing import boot_time_s
from tests.informer.samples import (
    bookmark,
    deep_thing,
    event,
    listing,
    record,
    status,
    thing,
)
from tests.informer.scripted import (
    Responder,
    Scripted,
    answer,
    hang,
    refuse,
    serve,
    stream,
)
from tests.informer.watched import EXPIRED, converge, expected, filled, watching
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio


def listed(server: Scripted, streamed: bool) -> Scripted:
    """The server, whose lists are asked for one way or the other."""
    server.streamed = streamed
    return server


async def test_lists_in_pages_then_watches_from_the_first_pages_version(tmp_path: Path) -> None:
    async with serve(filled(*"abcde")) as server, watching(tmp_path, server) as watched:
        await until_async(lambda: server.queries(watch=True))
        assert watched.held == expected(*"abcde")
        lists = server.queries(watch=False)
        assert lists == [
            {"limit": "2"},
            {"limit": "2", "continue": "10-3"},
            {"limit": "2", "continue": "10-1"},
        ]
        (query,) = server.queries(watch=True)
        assert 300 <= int(query.pop("timeoutSeconds")) <= 600
        assert query == {"watch": "true", "resourceVersion": "10", "allowWatchBookmarks": "true"}
        shown = watched.reader.status()
        assert (shown.synced, shown.absent, shown.last_error) == (True, False, "")
        assert shown.last_contact_at is not None
        assert shown.last_contact_boot_s is not None
        assert 0 <= boot_time_s() - shown.last_contact_boot_s < 60
        assert watched.stats.lists == {("success", "initial"): 1}
        await converge(server, watched)


async def test_version_of_page_1_counts_where_a_later_page_has_another(tmp_path: Path) -> None:
    async with serve() as server:
        server.lists.append(answer(listing([thing("a")], 10, "more")))
        server.lists.append(answer(listing([thing("b")], 12)))
        async with watching(tmp_path, server):
            await until_async(lambda: server.queries(watch=True))
            assert server.queries(watch=True)[0]["resourceVersion"] == "10"


async def test_events_of_one_chunk_are_reported_once_in_order(tmp_path: Path) -> None:
    async with serve(filled("a")) as server:
        chunk = b"".join(
            [event("ADDED", thing(f"n{n}", version=20 + n)) for n in range(5)]
            + [event("MODIFIED", thing("n0", 9, version=30))]
            + [event("DELETED", thing("n1", version=31)), bookmark(40)]
        )
        server.watches.append(stream(chunk, then="hang"))
        async with watching(tmp_path, server) as watched:
            await until_async(lambda: watched.reader.status().resource_version == "40")
            assert watched.wakeups == 2  # synced, and the chunk
            assert watched.held == expected("a", "n2", "n3", "n4") | {"ns/n0": record("n0", 9)}
            counted = {"added": 5, "modified": 1, "deleted": 1, "bookmark": 1}
            assert watched.stats.events == counted
            assert watched.stats.last_event_at is not None


@pytest.mark.parametrize(
    ("responder", "reason"),
    [
        pytest.param(stream(event("ERROR", status(410))), "expired", id="7"),
        pytest.param(refuse(410), "expired", id="8"),
        pytest.param(stream(event("ERROR", status(500, "", "PrevKv=nil"))), "error", id="10"),
        pytest.param(refuse(500), "error", id="10-http"),
        pytest.param(stream(event("ERROR", {})), "error", id="11"),
        pytest.param(stream(event("ERROR", {"kind": "Status", "code": None})), "error", id="11b"),
        pytest.param(stream(b'{"type":"ERROR"}\n'), "error", id="11c"),
        pytest.param(
            refuse(504, "Timeout", "Too large resource version: 9, current: 8"), "error", id="13"
        ),
        pytest.param(
            stream(event("ERROR", status(504, causes=[{"reason": "ResourceVersionTooLarge"}]))),
            "error",
            id="13-stream",
        ),
        pytest.param(stream(bookmark(4)), "regression", id="5-bookmark"),
        pytest.param(stream(event("MODIFIED", thing("a", version=4))), "regression", id="5-event"),
    ],
)
async def test_what_only_a_list_fixes_leads_to_one(
    tmp_path: Path, responder: Responder, reason: str
) -> None:
    async with serve(filled(*"abc")) as server:
        server.watches.append(responder)
        async with watching(tmp_path, server) as watched:
            await until_async(lambda: watched.relists(reason))
            await until_async(lambda: len(server.queries(watch=True)) == 2)
            assert watched.relists(reason) == 1
            assert all("resourceVersion" not in query for query in server.queries(watch=False))
            assert watched.held == expected(*"abc")
            await converge(server, watched)
            assert sum(watched.stats.lists.values()) == 2


@pytest.mark.parametrize(
    "responder",
    [
        pytest.param(refuse(429, Retry_After="0"), id="12"),
        pytest.param(refuse(429, Retry_After="soon"), id="12-garbage"),
        pytest.param(refuse(429, "TooManyRequests", "storage is (re)initializing"), id="12-crd"),
        pytest.param(stream(event("ERROR", status(429))), id="12-stream"),
        pytest.param(refuse(503), id="503"),
        pytest.param(refuse(401), id="401"),
        pytest.param(answer(b"<html>", 200, "text/html"), id="29"),
        pytest.param(stream(event("ADDED", thing("z"))[:50], then="reset"), id="22"),
        pytest.param(stream(event("ADDED", thing("z"))[:50]), id="23"),
        pytest.param(stream(event("NEW", thing("z")), b'{"type":"ODD"}\n'), id="39"),
        pytest.param(stream(b"{]\n"), id="34"),
        pytest.param(stream(b"\xff\xfe\n"), id="34-utf8"),
        pytest.param(
            stream(event("ADDED", thing("z", version=11)).replace(b'"SENTINEL"', b"NaN")),
            id="34-nan",
        ),
        pytest.param(
            stream(event("ADDED", thing("z", version=11)).replace(b"uid-z", b"\xff")),
            id="34-utf8-object",
        ),
        pytest.param(stream(event("ADDED", thing("z") | {"kind": "Table"})), id="38-event"),
        pytest.param(stream(event("DELETED", {"metadata": {}})), id="delete-of-nobody"),
        pytest.param(stream(b"\r\n\n  \n"), id="blank"),
    ],
)
async def test_what_a_new_watch_fixes_costs_no_list(tmp_path: Path, responder: Responder) -> None:
    async with serve(filled(*"abc")) as server:
        server.watches.append(responder)
        async with watching(tmp_path, server) as watched:
            await until_async(lambda: len(server.queries(watch=True)) == 2)
            assert server.queries(watch=True)[1]["resourceVersion"] == "10"
            assert watched.held == expected(*"abc")
            await converge(server, watched)
            assert watched.stats.lists == {("success", "initial"): 1}


async def test_broken_line_twice_leads_to_a_list(tmp_path: Path) -> None:
    async with serve(filled("a")) as server:
        server.watches += [stream(b"{]\n"), stream(b"{]\n")]
        async with watching(tmp_path, server) as watched:
            await until_async(lambda: watched.relists("error"))
            await converge(server, watched)


async def test_expired_continue_token_gives_one_whole_list_and_nothing_by_halves(
    tmp_path: Path,
) -> None:
    async with serve(filled(*"abcde")) as server:
        server.lists.append(answer(listing([thing("old")], 8, "more")))
        body = status(410, "Expired") | {"metadata": {"continue": "SENTINEL-inconsistent"}}
        server.lists.append(answer(body, 410))
        async with watching(tmp_path, server) as watched:
            await until_async(lambda: watched.reader.synced)
            assert watched.held == expected(*"abcde")
            assert server.queries(watch=False) == [
                {"limit": "2"},
                {"limit": "2", "continue": "more"},
                {},
            ]
            assert all(delta.key != "ns/old" for delta in watched.deltas)


async def test_410_on_every_watch_is_no_hot_loop(tmp_path: Path) -> None:
    async with serve(filled("a")) as server:
        server.watches += [refuse(410)] * 1000
        async with watching(tmp_path, server) as watched:
            await anyio.sleep(0.5)
            assert watched.relists("expired") < 30
            server.watches.clear()
            await converge(server, watched)


async def test_watch_without_bookmarks_is_opened_again_without_a_list(tmp_path: Path) -> None:
    timing = WatchTiming(idle_limit_s=0.05, short_watch_s=0.01)
    async with serve(filled("a")) as server, watching(tmp_path, server, timing=timing) as watched:
        await until_async(lambda: len(server.queries(watch=True)) >= 5)
        assert watched.stats.lists == {("success", "initial"): 1}
        assert watched.stats.watch_terminations["idle"] >= 4
        assert watched.reader.status().last_error == ""
        await converge(server, watched)


async def test_stream_of_single_bytes_without_a_line_is_idle(tmp_path: Path) -> None:
    async def trickle(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for _ in range(1000):
            await response.write(b" ")
            await anyio.sleep(0.01)
        return response

    timing = WatchTiming(idle_limit_s=0.1, short_watch_s=0.01)
    async with serve(filled("a")) as server:
        server.watches.append(trickle)
        async with watching(tmp_path, server, timing=timing) as watched:
            await until_async(lambda: watched.stats.watch_terminations["idle"])
            await converge(server, watched)


@pytest.mark.parametrize(
    "responder",
    [
        pytest.param(answer(b"<html>", 200, "text/html"), id="29"),
        pytest.param(answer(listing([], kind="Table")), id="38"),
        pytest.param(answer(listing([thing("a") | {"kind": "Other"}])), id="38-item"),
        pytest.param(answer(listing([], metadata={})), id="40"),
        pytest.param(answer(listing([], kind=None)), id="40-kind"),
        pytest.param(answer(b"{}"), id="empty"),
        pytest.param(answer(listing([thing("z")])[:-20]), id="truncated"),
        pytest.param(answer(listing([thing("z")], 11).replace(b'"SENTINEL"', b"NaN")), id="34-nan"),
        pytest.param(answer(listing([], 9)), id="older"),
        pytest.param(refuse(403), id="403"),
        pytest.param(refuse(500), id="500"),
        pytest.param(refuse(429, Retry_After="0"), id="429"),
        pytest.param(stream(listing([])[:20], then="reset"), id="reset"),
    ],
)
async def test_list_that_cannot_be_trusted_wipes_nothing(
    tmp_path: Path, responder: Responder
) -> None:
    async with serve(filled(*"abc")) as server, watching(tmp_path, server) as watched:
        await until_async(lambda: server.open)
        server.lists.append(responder)
        await server.inject(EXPIRED)
        await until_async(lambda: sum(watched.stats.lists.values()) >= 3)
        await converge(server, watched)
        assert all(delta.new is not None for delta in watched.deltas)
        assert watched.reader.unreadable == 0
        assert sum(n for (result, _), n in watched.stats.lists.items() if result == "error")


async def test_failing_first_list_is_shown_and_synced_only_with_the_whole(tmp_path: Path) -> None:
    async with serve(filled("a")) as server:
        server.lists += [refuse(403, "Forbidden", "no list for you")] * 1000
        async with watching(tmp_path, server) as watched:
            await until_async(lambda: watched.reader.status().last_error)
            shown = watched.reader.status()
            assert "403 no list for you" in shown.last_error
            assert not shown.synced
            server.lists.clear()
            await converge(server, watched)


@pytest.mark.parametrize("size", [1_400_000, 5 * 1024 * 1024])
async def test_large_object_is_accepted_from_list_and_watch(
    tmp_path: Path, size: int, streamed: bool
) -> None:
    async with serve(listed(filled("a"), streamed)) as server:
        server.objects["big"] = thing("big") | {"filler": "x" * size}
        async with watching(tmp_path, server) as watched:
            await until_async(lambda: len(watched.reader) == 2)
            server.put(thing("big", 5) | {"filler": "y" * size})
            await until_async(lambda: watched.reader.get("ns/big") == record("big", 5))
            await converge(server, watched)
            assert watched.reader.unreadable == 0


async def test_event_above_the_limit_stops_nothing_and_is_counted(tmp_path: Path) -> None:
    async with serve(filled("a", "b")) as server, watching(tmp_path, server) as watched:
        await until_async(lambda: watched.reader.synced)
        server.put(thing("a") | {"filler": "x" * (9 * 1024 * 1024)})
        server.put(thing("b", 8))
        await until_async(lambda: watched.reader.get("ns/b") == record("b", 8))
        assert watched.reader.get("ns/a") == Unreadable("uid-a", UnreadableReason.OVERSIZE)
        assert watched.stats.decode_errors == {"oversize": 1}
        server.delete("a")
        await until_async(lambda: watched.reader.unreadable == 0)
        assert watched.stats.lists == {("success", "initial"): 1}


async def test_events_above_the_limit_are_counted_by_their_type(tmp_path: Path) -> None:
    filler = {"filler": "x" * (9 * 1024 * 1024)}
    async with serve(filled("a", "b")) as server:
        lines = [
            event("ADDED", thing("c", version=11) | filler),
            event("DELETED", thing("b", version=12) | filler),
        ]
        server.watches.append(stream(*lines, then="hang"))
        async with watching(tmp_path, server) as watched:
            await until_async(lambda: "ns/b" not in watched.held and "ns/c" in watched.held)
            assert watched.stats.events == {"added": 1, "deleted": 1}


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(event("ADDED", {"metadata": {"uid": "u"}}), id="added"),
        pytest.param(event("MODIFIED", thing("a") | {"metadata": None}), id="modified"),
        pytest.param(event("DELETED", {"kind": "Thing"}), id="deleted"),
        pytest.param(event("ADDED", {"z": "x" * 9_000_000}), id="oversize"),
        pytest.param(event("BOOKMARK", {"z": "x" * 9_000_000}), id="oversize-bookmark"),
        pytest.param(event("ERROR", {"z": "x" * 9_000_000}), id="oversize-error"),
    ],
)
async def test_event_about_no_one_knows_what_leads_to_a_list(tmp_path: Path, line: bytes) -> None:
    async with serve(filled("a")) as server:
        server.watches += [stream(line, then="hang")] * 2
        async with watching(tmp_path, server) as watched:
            await until_async(lambda: watched.relists("error"))
            assert watched.stats.watch_terminations["error"] == 2
            assert watched.reader.unreadable == 0
            if b"ADDED" in line or b"MODIFIED" in line:
                assert sum(watched.stats.decode_errors.values()) == 2
            await converge(server, watched)


async def test_page_that_is_too_large_is_asked_for_in_smaller_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetryd.informer.source.MAX_PAGE_BYTES", 3000)
    async with serve(filled(*"abcdefg")) as server:
        for name in "cd":
            server.objects[name] |= {"filler": "x" * 1500}
        async with watching(tmp_path, server, page_size=4) as watched:
            await until_async(lambda: watched.reader.synced)
            assert set(watched.held) == set(expected(*"abcdefg"))
            assert watched.stats.lists == {("success", "initial"): 1}
            limits = [query["limit"] for query in server.queries(watch=False)]
            assert limits == ["4", "2", "2", "1", "1", "1", "1", "1"]
            await converge(server, watched)


async def test_server_that_knows_no_pages_is_listed_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetryd.informer.source.MAX_PAGE_BYTES", 1000)
    async with serve(filled(*"abcdefg")) as server:
        whole = answer(listing(server.objects.values(), 10))
        server.lists += [whole] * 4
        async with watching(tmp_path, server) as watched:
            await until_async(lambda: watched.reader.synced)
            assert watched.held == expected(*"abcdefg")
            limits = [query.get("limit") for query in server.queries(watch=False)]
            assert limits == ["2", "1", None]


async def test_watch_whose_headers_are_held_back_is_opened_again_without_a_fuss(
    tmp_path: Path,
) -> None:
    timing = WatchTiming(idle_limit_s=0.1, short_watch_s=0.01)
    async with serve(filled("a")) as server:
        server.watches += [hang] * 3
        async with watching(tmp_path, server, timing=timing) as watched:
            await until_async(lambda: len(server.queries(watch=True)) >= 4)
            assert {query["resourceVersion"] for query in server.queries(watch=True)} == {"10"}
            assert watched.stats.watch_terminations["idle"] >= 3
            assert watched.stats.watches["error"] == 0
            assert watched.reader.status().last_error == ""
            probes = [query for query in server.queries(watch=False) if query["limit"] == "1"]
            assert len(probes) >= 3
            assert watched.stats.lists == {("success", "initial"): 1}
            await converge(server, watched)


async def longest_pause(done: Callable[[], object]) -> float:
    """Share of all work until the condition held for which the event loop was held up at a time.

    Of the processor's time, so that a busy or slow machine makes no difference.
    """
    worst_s, begun_s = 0.0, time.process_time()
    with anyio.fail_after(60.0):
        while not done():
            before_s = time.thread_time()
            await anyio.sleep(0.001)
            worst_s = max(worst_s, time.thread_time() - before_s)
    return worst_s / (time.process_time() - begun_s)


NEST = b'[{"a":[[],"x",[]]},' * 250_000
"""Brackets that open and close again and again, ever deeper: the slowest that there is to scan."""


@pytest.mark.parametrize("way", ["list", "watch"])
async def test_tangled_megabytes_do_not_hold_up_the_loop_and_keep_their_order(
    tmp_path: Path, way: str
) -> None:
    head = json.dumps(thing("bad", version=11))[:-1].encode()
    bad = head + b',"z":' + NEST + b"0" + b"]" * 250_000 + b"}"
    async with serve(filled("a", "b")) as server:
        if way == "list":
            page = listing([thing("a"), "BAD", thing("b")], 11).replace(b'"BAD"', bad)
            server.lists.append(answer(page))
        else:
            lines = [
                b'{"type":"ADDED","object":' + bad + b"}\n",
                event("MODIFIED", thing("bad", 5, version=12)),
                event("DELETED", thing("a", version=13)),
            ]
            server.watches.append(stream(*lines, then="hang"))
        async with watching(tmp_path, server) as watched:
            done = (
                (lambda: watched.reader.unreadable)
                if way == "list"
                else (lambda: "ns/a" not in watched.held and "ns/bad" in watched.held)
            )
            assert await longest_pause(done) < 0.5
            assert watched.stats.decode_errors == {"malformed": 1}
            if way == "watch":
                assert watched.held == expected("b") | {"ns/bad": record("bad", 5)}
                seen = [delta.new for delta in watched.deltas if delta.key == "ns/bad"]
                assert isinstance(seen[0], Unreadable)


async def test_scan_in_a_thread_ends_where_the_informer_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanning, check_cancelled = threading.Event(), anyio.from_thread.check_cancelled

    def never_go_on() -> None:
        scanning.set()
        while True:
            check_cancelled()
            time.sleep(0.001)

    monkeypatch.setattr("anyio.from_thread.check_cancelled", never_go_on)
    line = b'{"type":"ADDED","object":{"z":' + NEST + NEST[: len(NEST) // 2] + b"\n"
    async with serve(filled("a")) as server:
        server.watches.append(stream(line, then="hang"))
        async with watching(tmp_path, server):
            await until_async(scanning.is_set)


BAD: list[tuple[str, Callable[[], bytes], UnreadableReason]] = [
    (
        "type",
        lambda: json.dumps(thing("bad", version=11) | {"spec": []}).encode(),
        UnreadableReason.TYPE,
    ),
    ("deep", lambda: deep_thing("bad", 11), UnreadableReason.MALFORMED),
    (
        "uid",
        lambda: json.dumps(thing("bad", version=11)).replace('"uid-bad"', "null").encode(),
        UnreadableReason.MISSING,
    ),
    ("defect", lambda: json.dumps(thing("bad", 666, version=11)).encode(), UnreadableReason.TYPE),
]


@pytest.mark.parametrize(("_name", "make", "reason"), BAD, ids=[row[0] for row in BAD])
async def test_bad_object_costs_itself_alone_in_list_and_watch(
    tmp_path: Path, _name: str, make: Callable[[], bytes], reason: UnreadableReason
) -> None:
    line = b'{"type":"MODIFIED","object":' + make() + b"}\n"
    async with serve(filled("a", "b")) as server:
        server.lists.append(
            answer(listing([thing("a"), "BAD", thing("b")], 10).replace(b'"BAD"', make()))
        )
        good = event("MODIFIED", thing("bad", 4, version=12))
        server.watches.append(
            stream(line, event("MODIFIED", thing("b", 3, version=11)), then="hang")
        )
        async with watching(tmp_path, server) as watched:
            await until_async(lambda: watched.reader.get("ns/b") == record("b", 3))
            value = watched.reader.get("ns/bad")
            assert isinstance(value, Unreadable)
            assert value.reason is reason
            assert watched.reader.unreadable == 1
            assert watched.stats.decode_errors == {reason: 2}
            assert watched.stats.lists == {("success", "initial"): 1}
            server.watches.append(stream(good, then="hang"))
        assert watched.reader.status().last_error == ""


async def test_unreadable_object_that_is_fixed_gives_a_delta(
    tmp_path: Path, streamed: bool
) -> None:
    async with serve(listed(filled("a"), streamed)) as server:
        server.objects["b"] = thing("b") | {"spec": "x"}
        async with watching(tmp_path, server) as watched:
            await until_async(lambda: watched.reader.unreadable == 1)
            server.put(thing("b", 3))
            await until_async(lambda: watched.reader.unreadable == 0)
            broken = Unreadable("uid-b", UnreadableReason.TYPE)
            assert watched.deltas[-1] == Delta("ns/b", broken, record("b", 3))


async def test_broken_object_that_stays_is_taken_as_unreadable_and_looked_at_again(
    tmp_path: Path,
) -> None:
    body = listing([thing("a"), thing("bad")], 10).replace(b'"uid-bad"', b"NaN")
    async with serve(filled("a", "bad")) as server:
        server.lists += [answer(body)] * 2
        async with watching(tmp_path, server) as watched:
            await until_async(lambda: watched.reader.unreadable == 1)
            assert set(watched.held) == {"ns/a", "ns/bad"}
            assert watched.stats.lists["error", "initial"] == 1
            await until_async(lambda: watched.held == expected("a", "bad"))
            assert watched.relists("resync") == 1


async def test_repeated_and_unknown_events_are_idempotent(tmp_path: Path) -> None:
    async with serve(filled("a")) as server:
        server.watches.append(
            stream(
                event("ADDED", thing("b", version=11)),
                event("ADDED", thing("b", version=11)),
                event("DELETED", thing("never", version=12)),
                event("MODIFIED", thing("new", version=13)),
                event("DELETED", thing("a", version=14)),
                event("DELETED", thing("a", version=14)),
                then="hang",
            )
        )
        async with watching(tmp_path, server) as watched:
            await until_async(lambda: watched.held == expected("b", "new"))
            keys = [delta.key for delta in watched.deltas]
            assert keys == ["ns/a", "ns/b", "ns/new", "ns/a"]


async def test_object_recreated_while_away_is_deleted_and_added(
    tmp_path: Path, streamed: bool
) -> None:
    async with (
        serve(listed(filled("a"), streamed)) as server,
        watching(tmp_path, server) as watched,
    ):
        await until_async(lambda: server.open)
        server.objects["a"] = thing("a", uid="another", version=12)
        server.version = 12
        await server.inject(EXPIRED)
        await until_async(lambda: len(watched.deltas) == 3)
        new = record("a", uid="another")
        assert watched.deltas[1:] == [
            Delta("ns/a", record("a"), None),
            Delta("ns/a", None, new),
        ]


async def test_objects_deleted_while_away_are_deleted(tmp_path: Path, streamed: bool) -> None:
    async with (
        serve(listed(filled(*"abc"), streamed)) as server,
        watching(tmp_path, server) as watched,
    ):
        await until_async(lambda: server.open)
        del server.objects["b"]
        server.version = 12
        await server.inject(EXPIRED)
        await until_async(lambda: watched.held == expected("a", "c"))
        assert watched.deltas[-1] == Delta("ns/b", record("b"), None)


async def test_crd_that_comes_goes_and_comes_again_needs_no_restart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, streamed: bool
) -> None:
    caplog.set_level(logging.INFO)
    async with serve(listed(filled("a"), streamed)) as server:
        server.served = False
        async with watching(tmp_path, server) as watched:
            await until_async(lambda: watched.reader.synced)
            shown = watched.reader.status()
            assert (shown.absent, shown.objects, shown.last_error) == (True, 0, "")
            server.served = True
            await until_async(lambda: watched.held == expected("a"))
            assert not watched.reader.status().absent
            await until_async(lambda: server.open)
            server.served = False
            await server.inject(EXPIRED)
            await until_async(lambda: watched.reader.status().absent)
            assert watched.held == {}
            assert watched.deltas[-1] == Delta("ns/a", record("a"), None)
            server.served = True
            server.events.clear()
            server.objects = {"b": thing("b")}
            server.version = 3
            await converge(server, watched)
            assert watched.reader.synced
    assert [r.message for r in caplog.records].count(
        "resource absent, counts as synced resource=things.example.io"
    ) == 2


@pytest.mark.parametrize(
    "discovery",
    [
        pytest.param([hang], id="hangs"),
        pytest.param([refuse(403)], id="denied"),
        pytest.param([refuse(404), refuse(404)], id="404-everywhere"),
        pytest.param([refuse(404), answer(b"<html>", 200, "text/html")], id="html"),
        pytest.param([refuse(404), answer({"kind": "Other", "groups": []})], id="another-kind"),
        pytest.param([answer({"kind": "Other", "resources": []})], id="another-list"),
        pytest.param([answer(b"{")], id="broken"),
    ],
)
async def test_404_that_discovery_does_not_confirm_gives_nothing_up(
    tmp_path: Path, discovery: list[Responder], streamed: bool
) -> None:
    timing = WatchTiming(
        backoff_base_s=0.01, backoff_cap_s=0.05, short_watch_s=0.03, discovery_timeout_s=0.1
    )
    async with (
        serve(listed(filled(*"ab"), streamed)) as server,
        watching(tmp_path, server, timing=timing) as watched,
    ):
        await until_async(lambda: server.open)
        (server.streams if streamed else server.lists).append(refuse(404))
        server.discoveries += discovery
        await server.inject(EXPIRED)
        await until_async(
            lambda: not server.lists and not server.streams and not server.discoveries
        )
        await converge(server, watched)
        assert all(delta.new is not None for delta in watched.deltas)
        assert not watched.reader.status().absent


async def test_absence_seen_only_once_gives_nothing_up(tmp_path: Path, streamed: bool) -> None:
    async with (
        serve(listed(filled("a"), streamed)) as server,
        watching(tmp_path, server) as watched,
    ):
        await until_async(lambda: server.open)
        (server.streams if streamed else server.lists).append(refuse(404))
        server.discoveries.append(answer({"kind": "APIResourceList", "resources": []}))
        await server.inject(EXPIRED)
        await converge(server, watched)
        assert all(delta.new is not None for delta in watched.deltas)


async def test_denied_watch_leads_to_lists_for_as_long_and_is_shown(tmp_path: Path) -> None:
    async with serve(filled("a")) as server:
        server.watches += [refuse(403, "Forbidden", "no watch for you")] * 1000
        async with watching(tmp_path, server) as watched:
            await until_async(lambda: watched.relists("fallback") >= 3)
            assert "403 no watch for you" in watched.reader.status().last_error
            server.objects["b"] = thing("b")
            await until_async(lambda: watched.held == expected("a", "b"))
            assert len(server.queries(watch=True)) < 30
            server.watches.clear()
            await converge(server, watched)


async def test_access_taken_and_given_back_keeps_the_cache_and_recovers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serve(filled("a")) as server:
        server.watches += [refuse(403)] * 1000
        async with watching(tmp_path, server) as watched:
            await until_async(lambda: watched.reader.synced)
            server.lists += [refuse(403)] * 1000
            await until_async(lambda: watched.stats.lists["error", "fallback"] >= 5)
            assert watched.held == expected("a")
            assert watched.reader.status().last_error
            server.watches.clear()
            server.lists.clear()
            await converge(server, watched)
    failing = [r for r in caplog.records if r.message.startswith("informer failing")]
    assert len(failing) == 1
    assert [r.message for r in caplog.records if "recovered" in r.message]


async def test_server_that_comes_back_is_watched_on_without_a_list(
    tmp_path: Path, streamed: bool
) -> None:
    server = listed(filled("a"), streamed)
    async with anyio.create_task_group() as tasks:
        first = await tasks.start(keep_serving, server)
        async with watching(tmp_path, server) as watched:
            await until_async(lambda: server.open)
            first.cancel()
            await until_async(lambda: "refused" in watched.reader.status().last_error)
            second = await tasks.start(keep_serving, server)
            await converge(server, watched)
            assert watched.stats.lists == {("success", "initial"): 1}
        second.cancel()


async def keep_serving(
    server: Scripted, *, task_status: anyio.abc.TaskStatus[anyio.CancelScope]
) -> None:
    """Serve on the port of the last time until cancelled."""
    port = int(server.url.rsplit(":", 1)[1]) if server.url else 0
    with anyio.CancelScope() as scope:
        async with serve(server, port=port):
            task_status.started(scope)
            await anyio.sleep_forever()


async def test_relist_of_an_unchanged_fleet_tells_no_one(tmp_path: Path, streamed: bool) -> None:
    async with (
        serve(listed(filled(*"abc"), streamed)) as server,
        watching(tmp_path, server) as watched,
    ):
        await until_async(lambda: server.open and watched.reader.synced)
        deltas, wakeups = len(watched.deltas), watched.wakeups
        await server.inject(EXPIRED)
        await until_async(lambda: watched.relists("expired"))
        assert (len(watched.deltas), watched.wakeups) == (deltas, wakeups)


async def test_defect_inside_is_logged_once_with_its_traceback_and_survived(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [ZeroDivisionError("defect")] * 3

    def fail(*_: object) -> None:
        if failures:
            raise failures.pop()

    async with serve(filled("a")) as server, watching(tmp_path, server) as watched:
        await until_async(lambda: watched.reader.synced)
        monkeypatch.setattr("telemetryd.informer.apply.Applier._count_unreadable", fail)
        server.put(thing("b", 3))
        await converge(server, watched)
        assert not failures
    logged = [r for r in caplog.records if r.message.startswith("informer failed")]
    assert len([r for r in logged if r.levelno == logging.ERROR and r.exc_info]) == 1


async def test_nothing_secret_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with serve(filled("a")) as server:
        server.watches += [stream(event("ADDED", thing("b"))[:-9] + b"\n"), refuse(410)]
        async with watching(tmp_path, server) as watched:
            await until_async(lambda: watched.relists("expired"))
            await converge(server, watched)
    assert "SENTINEL" not in caplog.text
