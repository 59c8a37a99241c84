"""When informers ask, on virtual time: requests stay bounded, and what heals is seen in time."""

import itertools
import logging
import math
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetryd.errors import (
    BadResponse,
    Forbidden,
    Gone,
    Invalid,
    KubeError,
    NotFound,
    Reason,
    Throttled,
    Unavailable,
)
from telemetryd.informer.informer import Informer
from telemetryd.informer.source import KubeSource
from telemetryd.kube.stream import ByteStream
from telemetryd.stats import InformerStats
from tests.informer.samples import (
    THINGS,
    Json,
    Thing,
    ThingRecord,
    bookmark,
    event,
    list_end,
    listing,
    record,
    thing,
)
from tests.support.sampling import examples
from tests.support.virtualtime import VirtualTimeLoop

pytestmark = pytest.mark.anyio

FAULTS: dict[str, KubeError] = {
    "refused": Unavailable("refused", kind=Reason.CONNECT),
    "gone": Gone("410", status=410),
    "internal": Unavailable("500", kind=Reason.SERVER, status=500),
    "starting": Unavailable("503", kind=Reason.SERVER, status=503, retry_after_s=60.0),
    "denied": Forbidden("403", status=403),
    "throttled": Throttled("429", retry_after_s=600.0),
    "html": BadResponse("html"),
    "missing": NotFound("404", status=404),
}


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return ("asyncio", {"loop_factory": VirtualTimeLoop})


class FakeStream(ByteStream):
    """A watch that brings what the server's log holds beyond a version, a list before it or not."""

    def __init__(
        self,
        server: "FakeServer",
        after: int,
        first: bytes = b"",
        *,
        lasts_s: float = math.inf,
    ) -> None:
        self._server = server
        self._ends_at_s = anyio.current_time() + lasts_s
        self.is_look = lasts_s < math.inf
        self._after = after
        self._first = first
        self._fault = server.fault
        self.cut_off = False
        server.opened.append(self)

    async def read(self, timeout_s: float) -> bytes:
        deadline_s = anyio.current_time() + timeout_s
        while anyio.current_time() < deadline_s:
            if self.cut_off:
                await anyio.sleep(deadline_s - anyio.current_time())
                break
            lost = self._server.fault in FAULTS and self._server.only != "look"
            if self._server.fault != self._fault and lost:
                raise FAULTS["refused"]
            if self._fault == "short" or self._server.fault == "short":
                return b""
            if self._fault == "malformed":
                return b"{]\n"
            if self._first and self._fault != "silent":
                first, self._first = self._first, b""
                return first
            news = self._news()
            if not news and anyio.current_time() >= self._ends_at_s:
                return b""
            if news and self._fault != "silent":
                self._after = news[-1][0]
                return b"".join(line for _, line in news)
            await anyio.sleep(min(1.0, deadline_s - anyio.current_time()))
        raise Unavailable("silent", kind=Reason.TIMEOUT)

    def _news(self) -> list[tuple[int, bytes]]:
        if self._server.held_back and not self.is_look:
            return []
        news = [(v, line) for v, line in self._server.log if v > self._after]
        return [(v, line) for v, line in news if not (self.is_look and b"BOOKMARK" in line)]


class FakeServer(KubeSource):
    """An API server in memory, with one fault at a time; a ``KubeSource``."""

    def __init__(self) -> None:
        self.fault = ""
        self.only: str | None = None
        self.streamed = False
        self.streams = "served"
        self.knows = True
        self.served_at_all = True
        self.version = 1
        self.objects: dict[str, Json] = {}
        self.log: list[tuple[int, bytes]] = []
        self.asked: list[tuple[float, str]] = []
        self.opened: list[FakeStream] = []
        self.dead_connections = 0
        self.held_back = False

    def put(self, name: str, size: int) -> None:
        self.version += 1
        self.objects[name] = thing(name, size, version=self.version)
        self.log.append((self.version, event("MODIFIED", self.objects[name])))

    def delete(self, name: str) -> None:
        self.version += 1
        body = self.objects.pop(name) | {}
        body["metadata"] = body["metadata"] | {"resourceVersion": str(self.version)}
        self.log.append((self.version, event("DELETED", body)))

    def mark(self) -> None:
        """Streams bring a bookmark."""
        self.version += 1
        self.log.append((self.version, bookmark(self.version)))

    def cut_off(self, *, looks: bool = True) -> None:
        """A proxy passes on nothing more of the streams that are open, looks included or not."""
        for stream in self.opened:
            stream.cut_off = looks or not stream.is_look

    def set_back(self, version: int) -> None:
        """As where its etcd was restored from a backup: no watch hears of it."""
        gone = [body for v, body in self.log if v > version]
        self.log = self.log[: len(self.log) - len(gone)]
        self.version = version
        self.objects = {
            name: body
            for name, body in self.objects.items()
            if int(body["metadata"]["resourceVersion"]) <= version
        }

    def times(self, verb: str) -> list[float]:
        """When lists, as a page or a stream, or something else were asked for."""
        verbs = {"list", "stream"} if verb == "list" else {verb}
        return [at_s for at_s, asked in self.asked if asked in verbs]

    def _ask(self, verb: str) -> None:
        self.asked.append((anyio.current_time(), verb))
        is_watch = verb == "stream" and self.only == "watch"
        if self.fault in FAULTS and (self.only in {None, verb} or is_watch):
            raise FAULTS[self.fault]

    async def list_page(self, *, limit: int | None, continue_token: str, timeout_s: float) -> bytes:
        self._ask("probe" if limit == 1 else "list")
        if self.fault == "hang":
            await anyio.sleep(timeout_s)
            raise Unavailable("hung", kind=Reason.TIMEOUT)
        if self.fault == "malformed":
            return b"{]"
        if continue_token and self.fault == "expired pages":
            raise FAULTS["gone"]
        start = int(continue_token or 0)
        end = start + (limit or len(self.objects) + 1)
        names = sorted(self.objects)
        token = str(end) if end < len(names) else ""
        return listing([self.objects[name] for name in names[start:end]], self.version, token)

    @asynccontextmanager
    async def watch(
        self, resource_version: str, *, server_timeout_s: int, open_timeout_s: float
    ) -> AsyncIterator[FakeStream]:
        self._ask("watch")
        # One that hangs answers what waits once it goes on; what holds headers back, with the
        # first event.
        deadline_s = anyio.current_time() + open_timeout_s
        after = int(resource_version)
        while self.fault == "hang" or (
            self.fault == "holds back" and not any(v > after for v, _ in self.log)
        ):
            if anyio.current_time() >= deadline_s:
                raise Unavailable("hung", kind=Reason.TIMEOUT)
            await anyio.sleep(min(1.0, deadline_s - anyio.current_time()))
        yield FakeStream(self, int(resource_version))

    @asynccontextmanager
    async def stream_list(
        self, *, server_timeout_s: int, open_timeout_s: float
    ) -> AsyncIterator[FakeStream]:
        self._ask("stream")
        if self.streams == "refused":
            raise Invalid("422", status=422)
        if self.fault == "hang":
            await anyio.sleep(open_timeout_s)
            raise Unavailable("hung", kind=Reason.TIMEOUT)
        first = b"".join(event("ADDED", self.objects[name]) for name in sorted(self.objects))
        if self.streams == "served":
            first += list_end(self.version)
        yield FakeStream(self, self.version, first)

    @asynccontextmanager
    async def look(
        self, resource_version: str, *, server_timeout_s: int, open_timeout_s: float
    ) -> AsyncIterator[FakeStream]:
        self._ask("look")
        self.dead_connections -= 1
        if self.fault == "hang" or self.dead_connections >= 0:
            await anyio.sleep(open_timeout_s)
            raise Unavailable("hung", kind=Reason.TIMEOUT)
        yield FakeStream(self, int(resource_version), lasts_s=server_timeout_s)

    async def knows_streams(self, *, timeout_s: float) -> bool:
        if self.fault in {"gone", "missing"}:  # of a resource, not of the version
            self.asked.append((anyio.current_time(), "version"))
        else:
            self._ask("version")
        return self.knows

    async def served(self, *, timeout_s: float) -> bool:
        self.asked.append((anyio.current_time(), "discovery"))
        return self.served_at_all


class Run:
    """An informer over the fake server."""

    def __init__(self, server: FakeServer, seed: int = 1) -> None:
        self.server = server
        self.stats = InformerStats(THINGS.id)
        self.informer: Informer[Thing, ThingRecord] = Informer(
            THINGS,
            server,
            now=anyio.current_time,
            rng=random.Random(seed),
            stats=self.stats,
            page_size=2,
            streamed=server.streamed,
        )
        self.reader = self.informer.reader

    @property
    def held(self) -> dict[str, Any]:
        return {key: self.reader.get(key) for key in self.reader.keys()}  # noqa: SIM118

    def expected(self) -> dict[str, ThingRecord]:
        objects = self.server.objects.items()
        return {f"ns/{name}": record(name, body["spec"]["size"]) for name, body in objects}


@asynccontextmanager
async def running(server: FakeServer, seed: int = 1) -> AsyncIterator[Run]:
    run = Run(server, seed)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run.informer.run)
        yield run
        tasks.cancel_scope.cancel()


def most_within(times: list[float], window_s: float) -> int:
    return max((sum(start <= at < start + window_s for at in times) for start in times), default=0)


async def test_watch_that_closes_at_once_100_times_is_asked_for_once_a_second_at_most(
    streamed: bool,
) -> None:
    server = FakeServer()
    server.streamed = streamed
    server.fault = "short"
    async with running(server) as run:
        while len(server.times("watch")) < 100:
            await anyio.sleep(1.0)
        assert most_within(server.times("watch"), 1.0) == 1
        assert len(server.times("list")) <= 100
        # Two streams that end too soon, and then pages.
        assert most_within(server.times("list"), 29.0) <= (3 if streamed else 2)
        assert "end as soon as they begin" in run.reader.status().last_error
        server.fault = ""
        await anyio.sleep(31.5)
        assert run.reader.status().last_error == ""


async def test_idle_watch_is_opened_again_every_90_s_and_is_no_trouble(streamed: bool) -> None:
    server = FakeServer()
    server.streamed = streamed
    async with running(server) as run:
        await anyio.sleep(1000.0)
        times = server.times("watch")
        gaps = [round(b - a, 3) for a, b in itertools.pairwise(times)]
        assert set(gaps) == {90.0}
        # The stream of the list was the first watch.
        assert run.stats.watch_terminations == {"idle": len(gaps) + streamed}
        assert run.stats.lists == {("success", "initial"): 1}
        assert run.reader.status().last_error == ""


@pytest.mark.parametrize(
    ("late_s", "dead"), [(0.0, 0), (8.0, 0), (16.0, 0), (22.0, 0), (8.0, 1), (0.0, 2)]
)
async def test_stream_that_brings_nothing_of_a_change_is_given_up_within_45_s(
    streamed: bool, late_s: float, dead: int
) -> None:
    """The change comes so long after a proxy has stopped to pass on what the stream brings.

    It has stopped for some idle connections, too, which are tried first.
    """
    server = FakeServer()
    server.streamed = streamed
    async with running(server) as run:
        await anyio.sleep(100.0)
        server.put("a", 1)
        await anyio.sleep(1.0)
        assert run.held == run.expected()
        server.cut_off()
        server.dead_connections = dead
        cut_off_s = anyio.current_time()
        await anyio.sleep(late_s)
        server.put("b", 2)
        while run.held != run.expected():
            await anyio.sleep(0.1)
        assert anyio.current_time() - cut_off_s <= 45.0
        assert run.stats.watch_terminations["idle"] == 2
        assert run.stats.lists == {("success", "initial"): 1}
        assert run.reader.status().last_error == ""


@pytest.mark.parametrize("looks", [True, False], ids=["looks too", "stream alone"])
@pytest.mark.parametrize("period_s", [60.0, 62.0, math.inf], ids=["60", "62", "no bookmarks"])
async def test_stream_that_is_cut_off_at_any_moment_between_bookmarks_is_given_up_within_45_s(
    streamed: bool, period_s: float, looks: bool
) -> None:
    """It misses a change from that moment on; a look that is open is as dead, or isn't."""
    for after_s in range(0, 130, 3):
        server = FakeServer()
        server.streamed = streamed
        async with running(server, after_s) as run:
            bookmarks = 3 + int(after_s // period_s)
            if period_s < math.inf:
                for _ in range(bookmarks):
                    await anyio.sleep(period_s)
                    server.mark()
            await anyio.sleep(after_s % period_s + 0.5)
            idle = run.stats.watch_terminations["idle"]
            server.cut_off(looks=looks)
            cut_off_s = anyio.current_time()
            server.put("b", 2)
            while run.held != run.expected():
                await anyio.sleep(0.1)
            assert anyio.current_time() - cut_off_s <= 45.0, after_s
            assert run.stats.watch_terminations == {"idle": idle + 1}
            assert run.stats.lists == {("success", "initial"): 1}


@pytest.mark.parametrize("changes", [0, 10], ids=["bookmarks", "bookmarks have stopped"])
async def test_change_just_after_another_is_missed_for_45_s_at_most(
    streamed: bool, changes: int
) -> None:
    """The stream brings one change during a look, and is cut off before the next."""
    for after_s in range(0, 130, 3):
        server = FakeServer()
        server.streamed = streamed
        async with running(server, after_s) as run:
            for _ in range(3):
                await anyio.sleep(61.0)
                server.mark()
            for number in range(changes):
                await anyio.sleep(25.0)
                server.put("b", 10 + number)
            await anyio.sleep(after_s % 61 + 0.5)
            server.put("a", 1)
            while run.held != run.expected():
                await anyio.sleep(0.1)
            server.cut_off()
            cut_off_s = anyio.current_time()
            server.put("b", 2)
            while run.held != run.expected():
                await anyio.sleep(0.1)
            assert anyio.current_time() - cut_off_s <= 45.0, after_s


async def test_stream_that_is_dead_while_nothing_changes_is_opened_again_within_100_s(
    streamed: bool,
) -> None:
    server = FakeServer()
    server.streamed = streamed
    async with running(server) as run:
        for _ in range(4):
            await anyio.sleep(61.0)
            server.mark()
        before = len(server.times("watch"))
        server.cut_off(looks=False)
        await anyio.sleep(100.0)
        assert len(server.times("watch")) == before + 1
        assert run.stats.watch_terminations == {"idle": 1}


async def test_healthy_stream_is_looked_at_once_in_two_bookmarks_and_never_given_up(
    streamed: bool,
) -> None:
    server = FakeServer()
    server.streamed = streamed
    async with running(server) as run:
        for number in range(50):
            await anyio.sleep(31.0)
            # A change that comes during a look is on its way, not missed.
            if number % 3 == 0 and server.times("look"):
                server.put("a", number)
            await anyio.sleep(29.0)
            server.mark()
        assert not run.stats.watch_terminations
        assert len(server.times("watch")) == 1 - streamed
        looks = server.times("look")
        assert len(looks) > 15
        assert most_within(looks, 59.9) == 1
        assert most_within(looks[1:], 86.9) == 1  # from the first bookmark on


@pytest.mark.parametrize("late_s", [3.0, 5.5])
async def test_stream_that_is_slower_than_a_look_has_four_seconds(
    streamed: bool, late_s: float
) -> None:
    server = FakeServer()
    server.streamed = streamed
    async with running(server) as run:
        while not server.times("look"):
            await anyio.sleep(1.0)
        await anyio.sleep(5.0)
        server.held_back = True
        server.put("a", 1)
        await anyio.sleep(late_s)
        server.held_back = False
        await anyio.sleep(2.0)
        assert run.held == run.expected()
        assert run.stats.watch_terminations["idle"] == (late_s > 4.0)


async def test_burst_of_changes_ends_a_look_and_not_the_stream(streamed: bool) -> None:
    server = FakeServer()
    server.streamed = streamed
    async with running(server) as run:
        while not server.times("look"):
            await anyio.sleep(1.0)
        for number in range(150):
            server.put(f"a{number}", number)
        await anyio.sleep(10.0)
        assert run.held == run.expected()
        assert not run.stats.watch_terminations
        # The next one comes after half a minute of silence, so the first is over.
        await anyio.sleep(26.0)
        assert len(server.times("look")) == 2


async def test_an_hour_without_a_change_costs_less_than_a_request_a_minute(streamed: bool) -> None:
    server = FakeServer()
    server.streamed = streamed
    async with running(server):
        await anyio.sleep(10.0)
        for _ in range(59):
            await anyio.sleep(61.0)
            server.mark()
        # One for two bookmarks, and one before the first of them.
        assert len(server.times("look")) <= 31
        assert len(server.asked) <= 40  # regular lists included


@pytest.mark.parametrize("fault", ["refused", "hang", "internal", "denied", "gone", "html"])
async def test_look_that_fails_gives_nothing_up(fault: str) -> None:
    server = FakeServer()
    server.only = "look"
    async with running(server) as run:
        await anyio.sleep(10.0)
        if fault == "hang":
            server.only = None
        server.fault = fault
        await anyio.sleep(60.0)
        # One that isn't answered is made again, for its connection may be dead as well.
        assert len(server.times("look")) == (3 if fault == "hang" else 1)
        assert not run.stats.watch_terminations
        assert run.reader.status().last_error == ""


async def test_list_as_a_stream_goes_on_as_the_watch() -> None:
    server = FakeServer()
    server.streamed = True
    for name in "abcde":
        server.put(name, 1)
    async with running(server) as run:
        await anyio.sleep(1.0)
        assert run.held == run.expected()
        server.put("f", 2)
        server.delete("a")
        await anyio.sleep(2.0)
        assert run.held == run.expected()
        assert [verb for _, verb in server.asked] == ["version", "stream"]
        assert run.stats.lists == {("success", "initial"): 1}
        assert run.stats.watches == {"success": 1}
        assert run.reader.status().list_method == "stream"


@pytest.mark.parametrize(
    ("streams", "knows", "in_pages_by_s", "asked", "reason"),
    [
        ("refused", True, 0.5, 1, "fallback"),
        ("endless", True, 30.5, 1, "fallback"),
        ("endless", False, 0.5, 0, "initial"),
    ],
)
async def test_stream_that_is_refused_or_never_ends_is_replaced_by_pages_and_not_tried_for_hours(
    streams: str,
    knows: bool,
    in_pages_by_s: float,
    asked: int,
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    server = FakeServer()
    server.streamed, server.streams, server.knows = True, streams, knows
    for name in "abc":
        server.put(name, 1)
    async with running(server) as run:
        await anyio.sleep(in_pages_by_s)
        assert run.held == run.expected()
        assert run.stats.lists == {("success", reason): 1}
        shown = run.reader.status()
        assert (shown.list_method, shown.last_error, shown.synced) == ("pages", "", True)
        await anyio.sleep(5.0 * 3600.0)
        assert len(server.times("stream")) == asked
        assert len(server.times("version")) == 1
        assert run.stats.lists["success", "resync"] >= 4
        server.streams, server.knows = "served", True
        await anyio.sleep(2.5 * 3600.0)
        assert len(server.times("stream")) >= asked + 1
        assert run.reader.status().list_method == "stream"
        assert run.stats.lists["success", reason] == 1
    assert [r.levelname for r in caplog.records if "no streamed lists" in r.message] == ["INFO"]
    assert not [r for r in caplog.records if r.levelno > logging.INFO]


async def test_streams_that_break_twice_cost_one_list_in_pages_and_are_tried_again() -> None:
    server = FakeServer()
    server.streamed = True
    server.put("a", 1)
    server.fault, server.only = "starting", "stream"
    async with running(server) as run:
        await anyio.sleep(70.0)
        assert run.held == run.expected()
        assert len(server.times("stream")) == 2
        assert run.stats.lists["success", "fallback"] == 1
        server.fault = ""
        await anyio.sleep(3960.5)
        assert run.reader.status().list_method == "stream"


async def test_list_after_a_regression_and_in_the_place_of_watches_comes_in_pages() -> None:
    server = FakeServer()
    server.streamed = True
    server.put("a", 1)
    backup = server.version
    server.put("b", 1)
    async with running(server) as run:
        await anyio.sleep(10.0)
        server.fault = "refused"
        await anyio.sleep(5.0)
        server.set_back(backup)
        server.fault = ""
        await anyio.sleep(60.0)
        assert run.held == run.expected()
        assert run.stats.lists["success", "regression"] == 1
        assert run.reader.status().list_method == "pages"
        server.fault, server.only = "throttled", "watch"
        await anyio.sleep(300.0)
        assert run.stats.lists["success", "fallback"] >= 3
        assert len(server.times("stream")) == 1


async def test_list_is_made_every_hour_for_caution(streamed: bool) -> None:
    server = FakeServer()
    server.streamed = streamed
    async with running(server) as run:
        await anyio.sleep(4 * 3600.0 + 600)
        times = server.times("list")
        assert all(3240 <= b - a <= 3960.5 for a, b in itertools.pairwise(times))
        assert run.stats.lists["success", "resync"] == len(times) - 1 >= 3


@pytest.mark.parametrize("fault", [*FAULTS, "hang", "malformed", "short", "silent"])
async def test_fault_of_ten_minutes_is_bounded_and_healed_within_a_minute(
    fault: str, streamed: bool
) -> None:
    server = FakeServer()
    server.streamed = streamed
    for name in "abcde":
        server.put(name, 1)
    async with running(server) as run:
        await anyio.sleep(200.0)
        before = len(server.asked)
        server.fault = fault
        await anyio.sleep(600.0)
        asked = len(server.asked) - before
        assert asked < 120
        assert fault == "silent" or run.held == run.expected()
        server.put("f", 2)
        server.delete("a")
        server.fault = ""
        limit_s = 91.0 if fault == "silent" else 60.0
        await anyio.sleep(limit_s)
        assert run.held == run.expected()
        assert run.reader.status().last_error == ""


async def test_continue_tokens_that_always_expire_stop_nothing() -> None:
    server = FakeServer()
    server.fault = "expired pages"
    for name in "abcde":
        server.put(name, 1)
    async with running(server) as run:
        await anyio.sleep(1.0)
        assert run.held == run.expected()
        assert len(server.times("list")) == 3


async def test_list_is_made_every_half_minute_while_watches_are_refused(streamed: bool) -> None:
    server = FakeServer()
    server.streamed = streamed
    server.fault, server.only = "starting", "watch"
    async with running(server) as run:
        await anyio.sleep(3600.0)
        times = server.times("list")
        assert 100 <= len(times) <= 125
        assert len(server.asked) < 300
        server.put("new", 1)
        await anyio.sleep(31.0)
        assert run.held == run.expected()
        assert run.reader.status().last_error == "503"
        contact = run.reader.status().last_contact_at
        assert contact is not None
        assert anyio.current_time() - contact <= 31.0
        assert run.stats.lists["success", "fallback"] > 100
        server.fault = ""
        await anyio.sleep(32.0)
        assert run.reader.status().last_error == ""


async def test_outage_ends_with_a_watch_and_no_list(streamed: bool) -> None:
    server = FakeServer()
    server.streamed = streamed
    async with running(server) as run:
        await anyio.sleep(10.0)
        server.fault = "refused"
        await anyio.sleep(595.0)
        server.put("new", 1)
        server.fault = ""
        await anyio.sleep(60.0)
        assert run.held == run.expected()
        assert len(server.times("list")) == 1


@pytest.mark.parametrize("fault", ["refused", "starting"])
@pytest.mark.parametrize("outage_s", [0.5, 5.0, 300.0])
async def test_server_set_back_during_an_outage_is_believed_after_one_list(
    fault: str, outage_s: float, streamed: bool
) -> None:
    server = FakeServer()
    server.streamed = streamed
    server.put("old", 1)
    backup = server.version
    for name in "abcde":
        server.put(name, 1)
    async with running(server) as run:
        await anyio.sleep(200.0)
        server.fault = fault
        await anyio.sleep(outage_s)
        server.set_back(backup)
        server.fault = ""
        asked = len(server.asked)
        await anyio.sleep(60.0)
        assert run.held == run.expected() == {"ns/old": record("old")}
        assert run.stats.lists == {("success", "initial"): 1, ("success", "regression"): 1}
        assert len(server.asked) - asked <= 6
        server.put("new", 2)
        await anyio.sleep(2.0)
        assert run.held == run.expected()


async def test_server_set_back_while_its_lists_fail_is_believed_once_they_work(
    streamed: bool,
) -> None:
    server = FakeServer()
    server.streamed = streamed
    server.put("old", 1)
    backup = server.version
    server.put("new", 1)
    async with running(server) as run:
        await anyio.sleep(10.0)
        server.fault = "refused"
        await anyio.sleep(20.0)
        server.set_back(backup)
        server.fault, server.only = "denied", "probe"
        await anyio.sleep(600.0)
        assert len(server.asked) < 80
        assert server.times("list")[1:] == []
        server.fault = ""
        await anyio.sleep(60.0)
        assert run.held == run.expected() == {"ns/old": record("old")}


async def test_watch_whose_answer_is_held_back_is_no_trouble_and_never_stale() -> None:
    server = FakeServer()
    server.fault = "holds back"
    async with running(server) as run:
        oldest_s = 0.0
        for _ in range(1800):
            await anyio.sleep(1.0)
            contact = run.reader.status().last_contact_at
            assert contact is not None
            oldest_s = max(oldest_s, anyio.current_time() - contact)
        assert oldest_s < 92.0
        assert run.reader.status().last_error == ""
        assert run.stats.watches == {}
        assert run.stats.watch_terminations["idle"] == len(server.times("watch")) - 1
        assert 4 <= len(server.times("list")) <= 6
        assert {key[0] for key in run.stats.lists} == {"success"}
        server.put("new", 1)
        await anyio.sleep(1.0)
        assert run.held == run.expected()


async def test_server_that_does_not_answer_watches_nor_lists_becomes_stale(streamed: bool) -> None:
    server = FakeServer()
    server.streamed = streamed
    async with running(server) as run:
        await anyio.sleep(10.0)
        server.fault = "hang"
        await anyio.sleep(600.0)
        contact = run.reader.status().last_contact_at
        assert contact is not None
        assert contact < 100.0
        assert run.reader.status().last_error == "hung"


class LoopingServer(FakeServer):
    """Once it is asked to, its pages never end."""

    pages: Callable[[int], bytes] | None = None
    sent = 0

    async def list_page(self, *, limit: int | None, continue_token: str, timeout_s: float) -> bytes:
        if self.pages is None:
            return await super().list_page(
                limit=limit, continue_token=continue_token, timeout_s=timeout_s
            )
        self._ask("list")
        await anyio.sleep(0.4)
        self.sent += 1
        return self.pages(self.sent)


LOOPS: dict[str, Callable[[int], bytes]] = {
    "the same token": lambda n: listing([thing(f"n{n}")], 9, "A"),
    "tokens in turn": lambda n: listing([thing(f"n{n}")], 9, "AB"[n % 2]),
    "ever new tokens": lambda n: listing([thing(f"n{n}")], 9, f"t{n}"),
    "the same objects": lambda n: listing([thing("a"), thing("b")], 9, f"t{n}"),
    "no objects": lambda n: listing([], 9, f"t{n}"),
    "nameless objects": lambda n: listing([{"kind": "Thing"}], 9, f"t{n}"),
    "a huge token": lambda n: listing([thing(f"n{n}")], 9, f"{n}" * 10_000),
}


@pytest.mark.parametrize("pages", LOOPS.values(), ids=[name.replace(" ", "-") for name in LOOPS])
async def test_pages_without_end_are_given_up_reported_and_do_not_look_fresh(
    pages: Callable[[int], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    server = LoopingServer()
    for name in "ab":
        server.put(name, 1)
    async with running(server) as run:
        await anyio.sleep(5.0)
        server.pages = pages
        server.fault = "gone"
        server.only = "watch"
        await anyio.sleep(1500.0)
        assert run.held == run.expected()
        assert run.stats.lists["error", "expired"] >= 3
        assert run.reader.status().last_error.startswith("list: ")
        assert [r.levelname for r in caplog.records if "reason=list: " in r.message] == ["WARNING"]
        contact = run.reader.status().last_contact_at
        assert contact is not None
        assert contact < 400.0
        server.pages = None
        server.fault = ""
        await anyio.sleep(60.0)
        assert run.reader.status().last_error == ""


async def test_list_above_the_cap_of_objects_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("telemetryd.informer.lists.MAX_LISTED_OBJECTS", 4)
    server = FakeServer()
    for name in "abcd":
        server.put(name, 1)
    async with running(server) as run:
        await anyio.sleep(5.0)
        assert run.reader.synced
        server.put("e", 1)
        await anyio.sleep(3700.0)
        assert "more than 4 objects" in run.reader.status().last_error


async def test_watch_that_adds_objects_without_end_is_stopped_at_the_cap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("telemetryd.informer.apply.MAX_LISTED_OBJECTS", 4)
    server = FakeServer()
    async with running(server) as run:
        await anyio.sleep(5.0)
        for n in range(20):
            server.put(f"n{n}", 1)
        await anyio.sleep(1.0)
        assert len(run.held) == 4


async def test_denied_watch_costs_a_list_every_30_s(streamed: bool) -> None:
    server = FakeServer()
    server.streamed = streamed
    server.fault, server.only = "denied", "watch"
    async with running(server) as run:
        await anyio.sleep(300.0)
        assert 9 <= len(server.times("list")) <= 11
        server.put("new", 1)
        await anyio.sleep(31.0)
        assert run.held == run.expected()
        assert run.reader.status().last_error == "403"


async def test_absent_resource_is_asked_for_at_most_every_30_s_and_found_in_time(
    streamed: bool,
) -> None:
    server = FakeServer()
    server.streamed = streamed
    server.fault, server.served_at_all = "missing", False
    async with running(server) as run:
        await anyio.sleep(3600.0)
        assert run.reader.status().absent
        assert len(server.asked) < 200
        server.fault, server.served_at_all = "", True
        server.put("new", 1)
        await anyio.sleep(30.5)
        assert run.held == run.expected()
        assert not run.reader.status().absent


async def test_absence_is_believed_after_a_second_look(streamed: bool) -> None:
    server = FakeServer()
    server.streamed = streamed
    server.put("a", 1)
    async with running(server) as run:
        await anyio.sleep(10.0)
        server.fault, server.served_at_all = "missing", False
        await anyio.sleep(1.0)
        assert run.held == run.expected()
        await anyio.sleep(20.0)
        assert run.held == {}


async def test_many_replicas_do_not_come_back_together() -> None:
    servers = [FakeServer() for _ in range(10)]
    async with anyio.create_task_group() as tasks:
        for seed, server in enumerate(servers):
            run = Run(server, seed)
            server.fault = "refused"
            tasks.start_soon(run.informer.run)
        await anyio.sleep(600.0)
        late = [at_s for server in servers for at_s in server.times("list") if at_s > 300.0]
        assert most_within(late, 1.0) <= 4
        tasks.cancel_scope.cancel()


class ForgetfulServer(FakeServer):
    """One whose history can be lost: watches from before get 410."""

    def __init__(self) -> None:
        super().__init__()
        self.oldest = 0

    @asynccontextmanager
    async def watch(
        self, resource_version: str, *, server_timeout_s: int, open_timeout_s: float
    ) -> AsyncIterator[FakeStream]:
        opened = super().watch(
            resource_version, server_timeout_s=server_timeout_s, open_timeout_s=open_timeout_s
        )
        async with opened as stream:
            if int(resource_version) < self.oldest:
                raise FAULTS["gone"]
            yield stream


@pytest.mark.parametrize(("history_lost", "each_asks_at_most"), [(False, 2), (True, 6)])
async def test_return_after_ten_minutes_meets_no_stampede_of_ten_replicas(
    history_lost: bool, each_asks_at_most: int
) -> None:
    """Five informers a replica, which ask an API server that comes back for all at one moment."""
    servers = [ForgetfulServer() for _ in range(10 * 5)]
    async with anyio.create_task_group() as tasks:
        for seed, server in enumerate(servers):
            for name in "abc":  # two pages
                server.put(name, 1)
            tasks.start_soon(Run(server, seed).informer.run)
        await anyio.sleep(60.0)
        for server in servers:
            server.fault = "refused"
        await anyio.sleep(600.0)
        back_s = anyio.current_time()
        for server in servers:
            server.fault = ""
            server.put("d", 1)
            server.oldest = server.version if history_lost else 0
        await anyio.sleep(30.0)
        asks = [at_s for server in servers for at_s, _ in server.asked if at_s >= back_s]
        lists = [at_s for server in servers for at_s in server.times("list") if at_s >= back_s]
        assert len(asks) <= each_asks_at_most * len(servers)
        assert most_within(asks, 1.0) <= 0.3 * len(asks)
        assert most_within(lists, 1.0) <= 0.3 * len(lists)
        assert bool(lists) is history_lost
        assert all(server.times("watch")[-1] >= back_s for server in servers), "each is back"
        tasks.cancel_scope.cancel()


STEPS = st.lists(
    st.tuples(
        st.sampled_from([*FAULTS, "hang", "malformed", "short", "expired pages", ""]),
        st.sampled_from([None, "list", "watch"]),
        st.floats(0.1, 120.0),
        st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 3)), max_size=3),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=examples(60))
@given(
    STEPS, st.integers(0, 1000), st.booleans(), st.sampled_from(["served", "refused", "endless"])
)
async def test_after_any_faults_all_is_right_within_a_minute(
    steps: list[tuple[str, str | None, float, list[tuple[str, int]]]],
    seed: int,
    streamed: bool,
    streams: str,
) -> None:
    """R0: whatever happened, 60 s after the last fault the cache is the server's, list by list."""
    server = FakeServer()
    server.streamed, server.streams = streamed, streams
    async with running(server, seed) as run:
        replayed: dict[str, Any] = {}
        run.reader.subscribe(
            lambda delta: (
                replayed.update({delta.key: delta.new})
                if delta.new
                else replayed.__delitem__(delta.key)
            )
        )
        for fault, only, seconds, changes in steps:
            server.fault, server.only = fault, only
            for name, size in changes:
                if size:
                    server.put(name, size)
                elif name in server.objects:
                    server.delete(name)
            await anyio.sleep(seconds)
        server.fault = ""
        asked = len(server.asked)
        await anyio.sleep(60.0)
        assert run.held == run.expected() == replayed
        assert run.reader.status().last_error == ""
        assert len(server.asked) - asked < 15
