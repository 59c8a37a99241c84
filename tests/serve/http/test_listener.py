"""Connections beyond the limit: which one gives way, and that a newcomer is always answered."""

import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import anyio
import pytest
from anyio.abc import SocketStream

from telemetryd.serve.http.connection import ConnectionLimits
from telemetryd.serve.http.server import MOST_ANSWERS, MOST_WAITING
from tests.serve.facts import big_status
from tests.serve.guarded import connect, guarded, tls
from tests.serve.http.test_server import (
    Served,
    read_to_end,
    request,
    running,
)
from tests.support.certificates import Authority, Pair

pytestmark = pytest.mark.anyio

LONG_S = 3600.0
HALF = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Half: "


async def answered(stream: SocketStream, path: str = "/livez") -> bool:
    """Whether one more request on this connection is answered."""
    try:
        await stream.send(request(path))
        return (await stream.receive()).startswith(b"HTTP/1.1 200 ")
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return False


@asynccontextmanager
async def many(served: Served, number: int, send: bytes = b"") -> AsyncIterator[list[SocketStream]]:
    """So many connections, each with these bytes sent."""
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(await served.connect()) for _ in range(number)]
        for stream in streams:
            await stream.send(send or b"\r\n")
        yield streams


async def test_newcomer_takes_the_place_of_the_connection_that_was_served_first() -> None:
    async with (
        running(limits=ConnectionLimits(connections=3, grace_s=LONG_S)) as served,
        many(served, 3) as streams,
    ):
        for stream in reversed(streams):
            assert await answered(stream)
        assert (await served.ask("/livez")).status == 200
        assert await read_to_end(streams[2]) == b""
        assert await answered(streams[1])
        assert await answered(streams[0])


async def test_newcomer_takes_the_place_of_one_whose_grace_is_over() -> None:
    limits = ConnectionLimits(connections=3, grace_s=0.05)
    async with running(limits=limits) as served, many(served, 3, HALF) as streams:
        assert (await served.ask("/livez")).status == 200
        assert await read_to_end(streams[0]) == b""


async def test_newcomers_wait_while_all_are_within_their_grace() -> None:
    async with (
        running(limits=ConnectionLimits(connections=2, grace_s=LONG_S)) as served,
        many(served, 2) as streams,
        await served.connect() as newcomer,
    ):
        await newcomer.send(request("/livez"))
        with anyio.move_on_after(0.3) as waited:
            await newcomer.receive()
        assert waited.cancelled_caught
        assert await answered(streams[0]), "it keeps its place"
        assert (await newcomer.receive()).startswith(b"HTTP/1.1 200 ")
        assert await read_to_end(streams[0]) == b""
        assert await answered(streams[1])


async def test_address_with_most_connections_loses_one_not_the_address_with_few() -> None:
    async with (
        running(limits=ConnectionLimits(connections=4, grace_s=0.05)) as served,
        await served.connect(local_host="127.0.0.2") as other,
        many(served, 3) as streams,
    ):
        assert await answered(other)
        for stream in streams:
            assert await answered(stream)
        for _ in range(5):
            assert (await served.ask("/livez")).status == 200
        assert await answered(other)
        assert await read_to_end(streams[0]) == b""


@pytest.mark.parametrize("number", [24, pytest.param(60, marks=pytest.mark.long)])
async def test_probes_are_answered_while_slow_and_busy_clients_of_their_address_come_back(
    number: int,
) -> None:
    limits = ConnectionLimits(connections=16, grace_s=0.05)
    counts = {"slow": 0, "busy": 0}

    async def attack(kind: str) -> None:
        while True:
            try:
                async with await served.connect() as stream:
                    while True:
                        await stream.send(HALF if kind == "slow" else request("/livez"))
                        await stream.receive()
                        counts[kind] += 1
            except (anyio.EndOfStream, OSError, anyio.BrokenResourceError):
                counts[kind] += 1

    async with running(limits=limits) as served, anyio.create_task_group() as attackers:
        for _ in range(number):
            attackers.start_soon(attack, "slow")
            attackers.start_soon(attack, "busy")
        for _ in range(10):
            with anyio.fail_after(30):
                assert (await served.ask("/livez")).status == 200
        attackers.cancel_scope.cancel()
    assert min(counts.values()) > 0


async def test_handshakes_that_never_finish_count_and_give_way(
    authority: Authority, pair: Pair
) -> None:
    limits = ConnectionLimits(connections=4, grace_s=0.05)
    async with (
        guarded(authority, tls(pair), limits=limits) as served,
        AsyncExitStack() as stack,
    ):
        held = [await stack.enter_async_context(connect(served.port)) for _ in range(12)]
        for each in held:
            await each.stream.send(b"\x16\x03\x01")
        context: ssl.SSLContext = served.trusting()
        with anyio.fail_after(30):
            assert (await served.get("/livez", context)).status == 200
        assert await held[0].end() == b""


@asynccontextmanager
async def deaf_clients(
    limits: ConnectionLimits | None = None,
) -> AsyncIterator[tuple[Served, list[SocketStream]]]:
    """As many clients as may be answered at a time, none of which reads its answer."""
    async with running(limits=limits) as served:
        served.status = partial(big_status, 8_000_000)
        async with many(served, MOST_ANSWERS, request("/status.json")) as deaf:
            for stream in deaf:
                assert (await stream.receive()).startswith(b"HTTP/1.1 200 ")
            yield served, deaf


async def test_health_is_answered_while_other_pages_are_waited_for() -> None:
    more = 5
    async with (
        deaf_clients() as (served, deaf),
        many(served, MOST_WAITING + more, request("/metrics")) as waiting,
    ):
        answers: list[bytes] = []
        turned_away = anyio.Event()

        async def read(stream: SocketStream) -> None:
            answers.append((await stream.receive())[:13])
            if len(answers) == more:
                turned_away.set()

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for stream in waiting:
                    tasks.start_soon(read, stream)
                await turned_away.wait()
                assert (await served.ask("/livez")).status == 200
                assert (await served.ask("/readyz")).status == 200
                assert (await served.ask("/nothing")).status == 404
                assert answers == [b"HTTP/1.1 503 "] * more
                for stream in deaf:
                    await stream.aclose()
        assert answers[more:] == [b"HTTP/1.1 200 "] * MOST_WAITING


async def test_client_that_leaves_during_its_answer_makes_room_for_the_next() -> None:
    async with deaf_clients() as (served, deaf):
        for stream in deaf:
            await stream.aclose()
        for _ in range(2 * MOST_ANSWERS):
            assert (await served.ask("/metrics")).status == 200


async def test_clients_that_do_not_read_keep_no_scrape_out() -> None:
    limits = ConnectionLimits(answer_timeout_s=LONG_S)
    async with deaf_clients(limits) as (served, deaf):
        with anyio.fail_after(60):
            assert (await served.ask("/metrics")).status == 200
        assert len(deaf) == MOST_ANSWERS
