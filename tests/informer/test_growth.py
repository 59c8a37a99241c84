"""What an informer costs in memory, operations and wake-ups as a fleet grows tenfold.

The fleet is one of equal nodes, or the benchmark's real one, in which no two are alike. The figures
themselves belong to benchmarks; what stands here holds on any machine.
"""

import gc
import json
import math
import random
import sys
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import islice
from typing import Any, Self

import anyio
import anyio.lowlevel
import msgspec
import pytest

from benchmarks.realfleet import RealFleet
from telemetryd.errors import Reason, Unavailable
from telemetryd.gather.project import NODES, NodeObject
from telemetryd.informer.informer import Informer
from telemetryd.informer.resource import Resource
from telemetryd.informer.source import KubeSource, LineSplitter
from telemetryd.informer.store import SLICE_OBJECTS
from telemetryd.kube.stream import ByteStream
from telemetryd.model import NodeRecord
from telemetryd.stats import InformerStats
from tests.apiserver.fixtures import rancher_node
from tests.support.virtualtime import VirtualTimeLoop
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio

FEW = 100
MANY = 10 * FEW
CHUNK_NODES = 50
PAGE_SIZE = 50
BYTES_A_NODE = 400
"""Of growth, everything included: the key, the UID, the record and its place in the store."""

_NUMBER = b"@@@@@@"


def _template() -> bytes:
    node = rancher_node("c-m-" + _NUMBER.decode(), "machine-" + _NUMBER.decode())
    node["metadata"] |= {"uid": f"3f3b4a53-9d5f-4d9d-a3b4-000000{_NUMBER.decode()}"}
    node["metadata"]["resourceVersion"] = "1000"
    return json.dumps(node).encode()


NODE = _template()


def node(number: int) -> bytes:
    """A node of its own, of the size of a real one."""
    return NODE.replace(_NUMBER, b"%06d" % number)


@lru_cache(1)
def real_nodes() -> tuple[bytes, ...]:
    """As many as there are at most, each another machine; mixed, so that each chunk is as large."""
    objects = RealFleet(MANY).objects()
    nodes = (o for o in objects if o.plural == "nodes" and o.namespace != "local")
    version = b'"metadata":{"resourceVersion":"1000",'
    bodies = [o.body.replace(b'"metadata":{', version, 1) for o in islice(nodes, MANY)]
    return tuple(random.Random(1).sample(bodies, MANY))


@pytest.fixture(params=[False, True], ids=["alike", "real"])
def real(request: pytest.FixtureRequest) -> bool:
    """Nodes are those of the real fleet."""
    return bool(request.param)


def line(kind: bytes, body: bytes) -> bytes:
    return b'{"type":"%b","object":%b}\n' % (kind, body)


END = line(
    b"BOOKMARK",
    b'{"metadata":{"resourceVersion":"1000","annotations":{"k8s.io/initial-events-end":"true"}}}',
)


class Fleet(KubeSource):
    """A source of so many nodes, made as they are asked for; a stream or a watch goes on with news.

    Attributes:
        chunks: How often something was read of a stream.
        looks: How often something was looked for that a stream misses.
        watches: How many watches were opened, those that go on from a list left out.
    """

    def __init__(self, nodes: int, *, real: bool) -> None:
        self.nodes = nodes
        self.chunks = 0
        self.looks = self.watches = 0
        self.node = real_nodes().__getitem__ if real else node
        self._news: list[bytes] = []
        self._told = anyio.Event()

    def tell(self, chunk: bytes) -> None:
        self._news.append(chunk)
        self._told.set()

    async def list_page(self, *, limit: int | None, continue_token: str, timeout_s: float) -> bytes:
        await anyio.lowlevel.checkpoint()
        start = int(continue_token or 0)
        end = min(start + (limit or self.nodes), self.nodes)
        token = b"%d" % end if end < self.nodes else b""
        head = b'{"kind":"NodeList","metadata":{"resourceVersion":"1000","continue":"%b"},"items":['
        return head % token + b",".join(self.node(number) for number in range(start, end)) + b"]}"

    @asynccontextmanager
    async def watch(
        self, resource_version: str, *, server_timeout_s: int, open_timeout_s: float
    ) -> AsyncIterator["Chunks"]:
        self.watches += 1
        yield Chunks(self, iter(()))

    @asynccontextmanager
    async def stream_list(
        self, *, server_timeout_s: int, open_timeout_s: float
    ) -> AsyncIterator["Chunks"]:
        yield Chunks(self, self._objects())

    def _objects(self) -> Iterator[bytes]:
        for start in range(0, self.nodes, CHUNK_NODES):
            numbers = range(start, min(start + CHUNK_NODES, self.nodes))
            yield b"".join(line(b"ADDED", self.node(number)) for number in numbers)
        yield END

    @asynccontextmanager
    async def look(
        self, resource_version: str, *, server_timeout_s: int, open_timeout_s: float
    ) -> AsyncIterator["Chunks"]:
        self.looks += 1
        yield Chunks(self, iter(()), lasts_s=server_timeout_s)

    async def knows_streams(self, *, timeout_s: float) -> bool:
        return True

    async def served(self, *, timeout_s: float) -> bool:
        return True

    async def next_news(self) -> bytes:
        while not self._news:
            self._told = anyio.Event()
            await self._told.wait()
        return self._news.pop(0)


class Chunks(ByteStream):
    """One stream."""

    def __init__(self, fleet: Fleet, first: Iterator[bytes], *, lasts_s: float = math.inf) -> None:
        self._fleet = fleet
        self._first = first
        self._is_look = lasts_s < math.inf
        self._ends_at_s = anyio.current_time() + lasts_s

    async def read(self, timeout_s: float) -> bytes:
        await anyio.lowlevel.checkpoint()
        if self._is_look:
            left_s = self._ends_at_s - anyio.current_time()
            await anyio.sleep(min(timeout_s, left_s))
            return b""
        chunk = next(self._first, None)
        if chunk is None:
            try:
                with anyio.fail_after(timeout_s):
                    chunk = await self._fleet.next_news()
            except TimeoutError:
                raise Unavailable("no news", kind=Reason.TIMEOUT) from None
        self._fleet.chunks += 1
        return chunk


class Held:
    """An informer of such a fleet."""

    def __init__(
        self,
        nodes: int,
        streamed: bool,
        *,
        real: bool = False,
        resource: Resource[NodeObject, NodeRecord] | None = None,
    ) -> None:
        self.fleet = Fleet(nodes, real=real)
        resource = resource or NODES
        self.stats = InformerStats(resource.id)
        self.informer = Informer(
            resource,
            self.fleet,
            now=anyio.current_time,
            rng=random.Random(1),
            stats=self.stats,
            page_size=PAGE_SIZE,
            streamed=streamed,
        )
        self.reader = self.informer.reader
        self.wakeups = 0
        self.reader.on_change(self._wake)

    def _wake(self) -> None:
        self.wakeups += 1

    async def relist(self) -> None:
        """Makes it list again, as when its history is gone."""
        before = sum(self.stats.lists.values())
        self.fleet.tell(line(b"ERROR", b'{"kind":"Status","code":410}'))
        await until_async(lambda: sum(self.stats.lists.values()) > before)


@asynccontextmanager
async def holding(nodes: int, streamed: bool, **options: Any) -> AsyncIterator[Held]:
    """One that has synced, and runs until the block is left."""
    held = Held(nodes, streamed, **options)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(held.informer.run)
        await until_async(lambda: held.reader.synced)
        assert len(held.reader) == nodes
        yield held
        tasks.cancel_scope.cancel()


async def held_bytes(nodes: int, streamed: bool, real: bool) -> int:
    """What is allocated for a fleet that has synced."""
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        async with holding(nodes, streamed, real=real):
            gc.collect()
            return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


async def test_a_node_costs_a_few_hundred_bytes_however_many_there_are(
    streamed: bool, real: bool
) -> None:
    await held_bytes(10, streamed, real)  # what is allocated once
    few = min([await held_bytes(FEW, streamed, real) for _ in range(2)])
    many = min([await held_bytes(MANY, streamed, real) for _ in range(2)])
    assert (many - few) / (MANY - FEW) <= BYTES_A_NODE
    assert few <= len(NODE) * CHUNK_NODES + FEW * BYTES_A_NODE


async def relist_bytes(nodes: int, streamed: bool, real: bool) -> int:
    """What is allocated at most for a list of what is held already, above what is held."""
    async with holding(nodes, streamed, real=real) as held:
        gc.collect()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            await held.relist()
            return tracemalloc.get_traced_memory()[1] - before
        finally:
            tracemalloc.stop()


async def test_list_of_an_unchanged_fleet_is_no_second_copy_of_it(
    streamed: bool, real: bool
) -> None:
    few = min([await relist_bytes(FEW, streamed, real) for _ in range(2)])
    many = min([await relist_bytes(MANY, streamed, real) for _ in range(2)])
    # A key and its place in a dict of references.
    assert (many - few) / (MANY - FEW) <= 250
    # A page or chunk, its lines, and what this source takes to make them.
    assert few <= 6 * len(NODE) * CHUNK_NODES


class Calls:
    """Counts calls of functions, of Python and of C, while it is entered."""

    def __init__(self) -> None:
        self.total = 0
        self.named: Counter[str] = Counter()
        self.decodes: Counter[object] = Counter()

    def _note(self, _frame: object, event: str, argument: Any) -> None:
        if event == "call":
            self.total += 1
        elif event == "c_call":
            self.total += 1
            self.named[argument.__name__] += 1
            if isinstance(getattr(argument, "__self__", None), msgspec.json.Decoder):
                self.decodes[argument.__self__.type] += 1

    def __enter__(self) -> Self:
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)


async def counted(nodes: int, streamed: bool, real: bool = False) -> Calls:
    """What it takes to sync."""
    real_nodes()
    calls = Calls()
    with calls:
        async with holding(nodes, streamed, real=real):
            pass
    return calls


async def test_a_node_costs_as_many_operations_in_a_fleet_ten_times_as_large(
    streamed: bool, real: bool
) -> None:
    few, many = await counted(FEW, streamed, real), await counted(MANY, streamed, real)
    assert many.total <= 11 * few.total
    assert many.total / MANY <= (160 if real else 80)


async def relist_calls(nodes: int, streamed: bool) -> int:
    """Calls for a list of different nodes that are held already."""
    async with holding(nodes, streamed, real=True) as held:
        await held.relist()
        with Calls() as calls:
            await held.relist()
        return calls.total


async def test_list_of_what_is_held_costs_a_node_as_much_in_a_fleet_ten_times_as_large(
    streamed: bool,
) -> None:
    few, many = await relist_calls(FEW, streamed), await relist_calls(MANY, streamed)
    assert many <= 11 * few


async def heartbeat_calls(nodes: int, streamed: bool) -> int:
    """Calls for a chunk of heartbeats of different nodes, which change no record."""
    async with holding(nodes, streamed, real=True) as held:
        beats = [line(b"MODIFIED", held.fleet.node(number)) for number in range(FEW)]
        with Calls() as calls:
            held.fleet.tell(b"".join(beats))
            await until_async(partial(applied, held, FEW))
        return calls.total


async def test_update_costs_as_many_operations_in_a_fleet_ten_times_as_large(
    streamed: bool,
) -> None:
    few, many = await heartbeat_calls(FEW, streamed), await heartbeat_calls(MANY, streamed)
    assert many <= 1.5 * few  # what is kept of capacities is enough for the small fleet


async def test_each_object_is_decoded_once_and_nothing_of_it_is_logged_or_timed(
    streamed: bool,
) -> None:
    calls = await counted(MANY, streamed)
    # Of a stream, type and object are decoded in one pass over the line; its end looks like one.
    of_objects = [count for kind, count in calls.decodes.items() if NodeObject in decoded_by(kind)]
    assert of_objects == [MANY + streamed]
    others = sum(calls.decodes.values()) - MANY
    # All nodes have one capacity, which is decoded once, or was by another test.
    assert others <= (2 if streamed else MANY / PAGE_SIZE) + 2
    for costly in ("isEnabledFor", "strftime", "time", "perf_counter", "acquire"):
        assert calls.named[costly] <= MANY / 10, costly


def decoded_by(kind: Any) -> list[object]:
    """A type that is decoded, and those of its members."""
    is_struct = isinstance(kind, type) and issubclass(kind, msgspec.Struct)
    return [kind, *(field.type for field in (msgspec.structs.fields(kind) if is_struct else ()))]


@pytest.mark.parametrize("nodes", [FEW, MANY])
async def test_events_of_a_chunk_cost_one_wake_up_however_many_they_are(
    streamed: bool, real: bool, nodes: int
) -> None:
    async with holding(nodes, streamed, real=real) as held:
        for size in (1, 10, FEW):
            wakeups, chunks = held.wakeups, held.fleet.chunks
            modified = held.stats.events["modified"] + 3 * size
            for chunk in range(3):
                bodies = map(held.fleet.node, range(size))
                changed = (replace_cpu(body) if chunk % 2 else body for body in bodies)
                held.fleet.tell(b"".join(line(b"MODIFIED", body) for body in changed))
            await until_async(partial(applied, held, modified))
            assert held.fleet.chunks - chunks == 3
            assert held.wakeups - wakeups <= 3


async def test_heartbeats_wake_no_reader_and_cost_the_same_each_in_a_burst_ten_times_as_large(
    streamed: bool,
) -> None:
    async with holding(MANY, streamed) as held:
        wakeups = held.wakeups
        totals = []
        for size in (FEW, MANY):
            modified = held.stats.events["modified"] + size
            burst = b"".join(line(b"MODIFIED", node(number)) for number in range(size))
            with Calls() as calls:
                held.fleet.tell(burst)
                await until_async(partial(applied, held, modified))
            totals.append(calls.total)
            # One pass over the line makes all of an event.
            assert sum(calls.decodes.values()) == size
        assert held.wakeups == wakeups
        few, many = totals
        assert many <= 11 * few
        assert many / MANY <= 80


def applied(held: Held, events: int) -> bool:
    """Whether so many changes have been applied."""
    return held.stats.events["modified"] == events


def replace_cpu(body: bytes) -> bytes:
    """The same node with another CPU capacity."""
    document = json.loads(body)
    document["status"]["internalNodeStatus"]["capacity"]["cpu"] = "64"
    return json.dumps(document).encode()


async def test_loop_has_its_turn_every_few_hundred_objects(streamed: bool) -> None:
    plain = NODES
    projected = 0

    def project(key: str, decoded: NodeObject) -> NodeRecord:
        nonlocal projected
        projected += 1
        return plain.project(key, decoded)

    held = Held(MANY, streamed, resource=replace(plain, project=project))
    most = 0
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(held.informer.run)
        while not held.reader.synced:
            before = projected
            await anyio.lowlevel.checkpoint()
            most = max(most, projected - before)
        tasks.cancel_scope.cancel()
    assert projected == MANY
    assert 0 < most <= SLICE_OBJECTS


BOOKMARK = line(b"BOOKMARK", b'{"metadata":{"resourceVersion":"1000"}}')
BOOKMARK_S = 61.0
"""Between two bookmarks of a watch: an API server looks once a second who had none for a minute."""


@dataclass(frozen=True, slots=True)
class Rest:
    """An hour in which nothing changes.

    Attributes:
        waits: How often the loop has waited: each is a wake-up.
        looks: How often something was looked for that a stream misses.
        watches: How many watches were opened.
        bookmarks: How many have come.
    """

    waits: int
    looks: int
    watches: int
    bookmarks: int


def rest(nodes: int, streamed: bool, *, marked: bool, streams: int = 1) -> Rest:
    """What it takes to hold so many fleets of so many nodes, of a server that sends bookmarks."""
    loop = VirtualTimeLoop()

    async def send_bookmarks(held: Held) -> None:
        while True:
            await anyio.sleep(BOOKMARK_S)
            held.fleet.tell(BOOKMARK)

    async def hold() -> Rest:
        async with anyio.create_task_group() as senders:
            async with AsyncExitStack() as holders:
                all_held = []
                for _ in range(streams):
                    held = await holders.enter_async_context(holding(nodes, streamed, real=True))
                    all_held.append(held)
                    if marked:
                        senders.start_soon(send_bookmarks, held)
                    await anyio.sleep(0.7)
                await anyio.sleep(2 * BOOKMARK_S)
                begun = counted_so_far(all_held)
                await anyio.sleep(3600 - 5 * BOOKMARK_S)  # no regular list comes before its end
                ended = counted_so_far(all_held)
            senders.cancel_scope.cancel()
        return Rest(*(after - before for before, after in zip(begun, ended, strict=True)))

    def counted_so_far(all_held: list[Held]) -> tuple[int, int, int, int]:
        return (
            loop.jumps,
            sum(held.fleet.looks for held in all_held),
            sum(held.fleet.watches for held in all_held),
            sum(held.stats.events["bookmark"] for held in all_held),
        )

    return anyio.run(hold, backend_options={"loop_factory": lambda: loop})


@pytest.mark.parametrize("marked", [False, True], ids=["no bookmarks", "bookmarks"])
def test_informer_at_rest_wakes_up_as_seldom_in_a_fleet_ten_times_as_large(
    streamed: bool, marked: bool
) -> None:
    few, many = rest(FEW, streamed, marked=marked), rest(MANY, streamed, marked=marked)
    assert few == many
    assert few.waits <= 3600 / 20  # once while a watch is silent, and its end
    # A look and another watch in a minute and a half, or a look for each second bookmark.
    assert few.looks <= 3600 / (2 * BOOKMARK_S if marked else 90) + 1
    assert few.watches <= (1 if marked else 3600 / 90)


def test_looks_at_many_silent_streams_share_their_wake_ups(streamed: bool) -> None:
    many = rest(10, streamed, marked=True, streams=10)
    assert many.bookmarks >= 500
    assert many.looks >= 250
    assert many.waits - many.bookmarks <= 3600 / 20


@pytest.mark.parametrize("pieces", [10, 100, 1000])
def test_line_in_many_pieces_is_joined_once(pieces: int) -> None:
    splitter = LineSplitter()
    piece = b"x" * 1000
    calls = Calls()
    with calls:
        for _ in range(pieces):
            assert splitter.feed(piece) == []
        (whole,) = splitter.feed(b"\n")
    assert whole == piece * pieces
    assert calls.named["join"] == 1
    assert calls.total <= 10 * pieces + 20


@pytest.mark.parametrize("lines", [100, 1000])
def test_each_line_of_a_chunk_is_searched_for_once(lines: int) -> None:
    chunk = b"".join(b'{"n":%d}\n' % n for n in range(lines))
    calls = Calls()
    with calls:
        assert len(LineSplitter().feed(chunk)) == lines
    assert calls.named["find"] == lines + 1
    assert calls.total <= 3 * lines + 20
