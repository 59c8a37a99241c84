"""Streams whose bytes are handed out as they come, on real sockets; timers and wake-ups counted."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web

from telemetryd.errors import Gone, Reason, Unavailable
from telemetryd.informer.source import LineFeed, Lines
from telemetryd.kube import stream as streams
from telemetryd.kube.client import KubeClient
from telemetryd.kube.stream import ByteStream
from telemetryd.stats import KubeStats
from tests.informer.scripted import Scripted, kubeconfig, serve, stream
from tests.support.virtualtime import VirtualTimeLoop
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts the timers that are set."""

    timers = 0

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *arguments: Any, **options: Any
    ) -> asyncio.TimerHandle:
        self.timers += 1
        return super().call_at(when, callback, *arguments, **options)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": CountingLoop}


class Pieces:
    """Takes pieces, and says no to those after a number of them."""

    def __init__(self, most: int = 10_000) -> None:
        self.all = b""
        self.count = 0
        self._most = most

    def __call__(self, piece: bytes) -> bool:
        self.all += piece
        self.count += 1
        return self.count < self._most


class Script:
    """A stream that brings what a test says, when it says it."""

    def __init__(self) -> None:
        self.response: web.StreamResponse | None = None
        self._over = anyio.Event()

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        self.response = response
        await self._over.wait()
        return response

    async def say(self, data: bytes) -> None:
        assert self.response is not None
        await self.response.write(data)

    def end(self) -> None:
        self._over.set()


@asynccontextmanager
async def opened(folder: Path, script: Callable[..., Any]) -> AsyncIterator[ByteStream]:
    async with serve(Scripted()) as server:
        server.others["/x"] = script
        config = kubeconfig(folder / "config", server.url)
        async with (
            KubeClient.connect(config, KubeStats(), environ={}) as client,
            client.stream("/x", {}, open_timeout_s=5.0) as body,
        ):
            yield body


async def test_pieces_are_handed_out_without_a_wake_up_or_a_timer_each(tmp_path: Path) -> None:
    script, pieces, returns = Script(), Pieces(), 0
    loop = asyncio.get_running_loop()
    assert isinstance(loop, CountingLoop)

    async def follow() -> None:
        nonlocal returns
        while await body.follow(300.0, pieces):
            returns += 1

    async with opened(tmp_path, script) as body, anyio.create_task_group() as tasks:
        await script.say(b"first\n")
        tasks.start_soon(follow)
        await until_async(lambda: pieces.all == b"first\n")
        set_before, said = loop.timers, b"first\n"
        for number in range(200):
            await script.say(b"%d\n" % number)
            said += b"%d\n" % number
            await asyncio.sleep(0)
        while pieces.all != said:
            await asyncio.sleep(0)
        # One timer at most for what the kernel gathers in 20 ms, and none for the deadline.
        assert loop.timers - set_before <= pieces.count / 2 + 1
        assert returns == 0
        script.end()
    assert returns == 0


async def test_piece_that_is_refused_is_the_last_and_the_rest_comes_next(tmp_path: Path) -> None:
    script = Script()
    async with opened(tmp_path, script) as body:
        await script.say(b"one\n")
        assert await body.follow(5.0, Pieces(1))
        await script.say(b"two\n")
        later = Pieces(1)
        assert await body.follow(5.0, later)
        assert later.all == b"two\n"


async def test_silence_is_a_timeout_and_what_comes_after_it_is_not_lost(tmp_path: Path) -> None:
    script, pieces = Script(), Pieces(1)
    async with opened(tmp_path, script) as body:
        with pytest.raises(Unavailable) as caught:
            await body.follow(0.01, pieces)
        assert (caught.value.kind, caught.value.status) == (Reason.TIMEOUT, None)
        await script.say(b"late\n")
        assert await body.follow(5.0, pieces)
        assert pieces.all == b"late\n"


async def test_end_and_break_differ(tmp_path: Path) -> None:
    pieces = Pieces()
    async with opened(tmp_path, stream(b"one\n")) as body:
        while await body.follow(5.0, pieces):
            pass
        assert pieces.all == b"one\n"
    async with opened(tmp_path, stream(b"one\n", b"tw", then="reset")) as body:
        with pytest.raises(Unavailable) as caught:
            await body.follow(5.0, pieces)
        assert caught.value.kind is Reason.CONNECT


async def test_stream_that_is_ended_here_has_ended(tmp_path: Path) -> None:
    script, pieces = Script(), Pieces()
    async with opened(tmp_path, script) as body:
        asyncio.get_running_loop().call_later(0.01, body.end)
        assert not await body.follow(300.0, pieces)
        assert not await body.follow(300.0, pieces)


async def test_what_is_raised_while_a_piece_is_taken_is_raised_where_it_is_awaited(
    tmp_path: Path,
) -> None:
    def refuse(_piece: bytes) -> bool:
        raise Gone("410", status=410)

    script = Script()
    async with opened(tmp_path, script) as body:
        await script.say(b"one\n")
        with pytest.raises(Gone):
            await body.follow(5.0, refuse)


async def test_lines_are_in_order_when_more_came_than_the_buffer_takes(tmp_path: Path) -> None:
    """A buffer that was full lets the connection go on while it is emptied."""
    script = Script()
    taken: list[bytes] = []
    line = b"x" * 65_000
    async with opened(tmp_path, script) as body, anyio.create_task_group() as tasks:
        tasks.start_soon(script.say, b"".join(b"%04d%b\n" % (n, line) for n in range(60)))
        await anyio.sleep(0.2)
        feed = LineFeed(body)

        def take(lines: Lines) -> Lines | None:
            taken.extend(bytes(each)[:4] for each in lines if isinstance(each, bytes))
            return [] if len(taken) == 60 else None

        assert await feed.read(30.0, take) == []
    assert taken == [b"%04d" % n for n in range(60)]


def test_busy_stream_wakes_for_much_or_after_a_moment_and_a_quiet_one_at_once() -> None:
    def least(end: socket.socket) -> int:
        return end.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)

    class Transport(asyncio.Transport):
        def get_extra_info(self, name: str, default: object = None) -> object:
            assert name == "socket"
            return near

    async def walk() -> None:
        pace = streams._Pace(Transport())
        for _ in range(3):
            pace.note()
            assert least(near) == 1
            await asyncio.sleep(1.0)
        pace.note()
        pace.note()
        assert least(near) == streams._HELD_BYTES
        await asyncio.sleep(streams._HOLD_S / 2)
        pace.note()  # so much had come
        await asyncio.sleep(streams._HOLD_S)
        assert least(near) == 1
        pace.note()
        pace.note()
        near.close()
        await asyncio.sleep(1.0)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        with near:
            anyio.run(walk, backend_options={"loop_factory": VirtualTimeLoop})
