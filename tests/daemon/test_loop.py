"""The daemon's own loop: lookups, and memory that is given back."""

import asyncio
import logging
import socket
import ssl
import subprocess
import sys
import threading
import time
import tracemalloc
from asyncio import sslproto
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetryd.daemon.filewatch import FileWatch
from telemetryd.daemon.loop import (
    BLOCKED_S,
    LAG_S,
    MOST_LOOKUPS,
    TRIM_S,
    Heartbeat,
    PromptLoop,
    trim_heap,
)
from telemetryd.daemon.notify import Notifier, Supervision
from telemetryd.stats import Histogram
from telemetryd.timing import TICK_S
from tests.daemon.test_reload import Bench, secret
from tests.support.certificates import Authority, server_side
from tests.support.virtualtime import VirtualTimeLoop

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "asyncio", {"loop_factory": PromptLoop}


async def test_lookup_gives_what_the_socket_module_s_does() -> None:
    expected = socket.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
    assert await anyio.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM) == expected


async def test_failed_lookup_raises_what_the_socket_module_s_does() -> None:
    with pytest.raises(socket.gaierror):
        await anyio.getaddrinfo("no address", 80, flags=socket.AI_NUMERICHOST)


async def test_cancelled_lookup_is_left_alone() -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await anyio.getaddrinfo("localhost", 80)
    assert scope.cancelled_caught


def test_lookup_without_an_answer_doesn_t_hold_up_the_end() -> None:
    """The name server that doesn't answer is a stand-in: there is none to be had here."""
    code = """
import socket, time, anyio
from telemetryd.daemon.loop import PromptLoop
socket.getaddrinfo = lambda *arguments: time.sleep(3600)
async def main():
    with anyio.move_on_after(0.1):
        await anyio.getaddrinfo("api.example.com", 443)
anyio.run(main, backend_options={"loop_factory": PromptLoop})
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.fixture
def name_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """One that doesn't answer before the event is set: a stand-in, for there is none to be had."""
    answers = threading.Event()
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 443))]

    def look_up(*_: object) -> list[object]:
        assert answers.wait(60)
        return list(found)

    monkeypatch.setattr("telemetryd.daemon.loop.socket.getaddrinfo", look_up)
    yield answers
    answers.set()


def lookups() -> int:
    return sum(thread.name == "lookup" for thread in threading.enumerate())


async def test_lookups_of_one_name_that_hang_share_a_thread(name_server: threading.Event) -> None:
    for _ in range(20):
        with anyio.move_on_after(0.001) as scope:
            await anyio.getaddrinfo("api.example.com", 443)
        assert scope.cancelled_caught
    assert lookups() == 1
    found: list[object] = []

    async def ask() -> None:
        found.append(await anyio.getaddrinfo("api.example.com", 443))

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(ask)
        await anyio.sleep(0.01)
        assert lookups() == 1
        name_server.set()
    assert len(found) == 20


async def test_lookups_of_too_many_names_that_hang_fail_at_once(
    name_server: threading.Event,
) -> None:
    for number in range(MOST_LOOKUPS):
        with anyio.move_on_after(0.001):
            await anyio.getaddrinfo(f"{number}.example.com", 443)
    assert lookups() == MOST_LOOKUPS
    with pytest.raises(socket.gaierror, match=f"{MOST_LOOKUPS} lookups of other names hang"):
        await anyio.getaddrinfo("one.more.example.com", 443)
    assert lookups() == MOST_LOOKUPS
    name_server.set()
    with anyio.fail_after(30):
        while lookups():
            await anyio.sleep(0.005)
    assert await anyio.getaddrinfo("one.more.example.com", 443)


def test_regular_looks_of_an_idle_daemon_share_their_wake_ups(tmp_path: Path) -> None:
    """A manager is there that wants to know the status, and a watchdog that bites after 30 s."""
    minutes = 10

    async def idle() -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        notifier = Notifier(str(tmp_path / "unheard"), 10.0)
        supervision = Supervision(notifier, summary=lambda: "all is well", alive=lambda: True)
        beat = Heartbeat()
        async with anyio.create_task_group() as group:
            group.start_soon(beat.run)
            group.start_soon(trim_heap)
            group.start_soon(supervision.run)
            group.start_soon(FileWatch(Bench.make(tmp_path, secret("a")).reloader).run)
            await anyio.sleep(TICK_S + 1)
            before = loop.jumps
            await anyio.sleep(minutes * 60)
            jumps = loop.jumps - before
            assert beat.alive
            group.cancel_scope.cancel()
        return jumps

    jumps = anyio.run(idle, backend_options={"loop_factory": VirtualTimeLoop})
    assert jumps <= minutes * 60 / TICK_S + 2
    assert not TRIM_S % TICK_S


def plain_lag(turns: list[tuple[float, float]]) -> list[float]:
    """What a timer each half second would have measured, while the loop was at work so."""
    due, lag = LAG_S, []
    for begun, ended in turns:
        while due <= ended:
            fired = due if due < begun else ended
            lag.append(fired - due)
            due = fired + LAG_S
    return lag


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), max_size=20))
def test_lag_without_a_timer_is_that_of_a_timer(steps: list[tuple[int, int]]) -> None:
    turns, now = [], 0.0
    for rest, work in steps:
        turns.append((now + rest / 8, now + (rest + work) / 8))
        now = turns[-1][1]
    beat, expected = Heartbeat(), Histogram()
    beat._due_s = LAG_S
    for turn in turns:
        beat.worked(*turn)
    for late in plain_lag(turns):
        expected.observe(late)
    assert (beat.lag.counts, beat.lag.total) == (expected.counts, expected.total)


async def test_turn_that_blocks_is_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "telemetryd.daemon.loop")
    beat = Heartbeat()
    async with anyio.create_task_group() as group:
        group.start_soon(beat.run)
        await anyio.sleep(0.01)
        time.sleep(BLOCKED_S + LAG_S)  # what must not happen
        await anyio.sleep(0.01)
        group.cancel_scope.cancel()
    assert "event loop was blocked" in caplog.text
    assert beat.lag.total >= BLOCKED_S


TRIMMING = """
import anyio
from telemetryd.daemon import loop

def resident_mib():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20

async def main():
    loop.TRIM_S = 0.01
    blocks = [bytes(2_000) for _ in range(30_000)]
    blocks = blocks[::300]
    full = resident_mib()
    async with anyio.create_task_group() as group:
        group.start_soon(loop.trim_heap)
        while resident_mib() > full - 40:
            await anyio.sleep(0.01)
        group.cancel_scope.cancel()
    print("given back", len(blocks))

anyio.run(main)
"""


def test_freed_memory_is_given_back_below_what_is_in_use() -> None:
    run = subprocess.run(
        [sys.executable, "-c", TRIMMING], capture_output=True, text=True, timeout=90, check=True
    )
    assert run.stdout == "given back 100\n"


async def test_connection_over_tls_takes_no_buffer_that_it_does_not_fill(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    content = bytes(range(256)) * 8_192  # several times the buffer

    async def give(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(content)
        await writer.drain()
        writer.close()

    ours = server_side(authority.issue("server"))
    server = await asyncio.start_server(give, "127.0.0.1", 0, ssl=ours)
    trusting = ssl.create_default_context(cafile=authority.ca)
    tracemalloc.start()
    try:
        async with server:
            port = server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
            held = tracemalloc.take_snapshot().filter_traces(
                [tracemalloc.Filter(inclusive=True, filename_pattern=sslproto.__file__)]
            )
            assert max(each.size for each in held.traces) < 16 * 1024
            assert await reader.read(-1) == content
            writer.close()
            await writer.wait_closed()
    finally:
        tracemalloc.stop()


THREADS = """
import sys, threading

if sys.argv[1:] == ["one"]:
    from telemetryd.daemon.loop import use_one_heap
    use_one_heap()
kept, met = [], threading.Barrier(5)

def take():
    kept.append([bytes(1000) for _ in range(100)])
    met.wait()
    met.wait()

for _ in range(4):
    threading.Thread(target=take).start()
met.wait()
with open("/proc/self/maps") as maps:
    reserved = [line.split()[0].split("-") for line in maps if line.split()[1] == "---p"]
print(sum(int(end, 16) - int(begin, 16) > 60 << 20 for begin, end in reserved))
met.wait()
"""
"""How many threads of four have a heap of their own, for which glibc reserves 64 MiB each."""


@pytest.mark.parametrize(("asked", "heaps"), [((), 4), (("one",), 0)])
def test_threads_share_one_heap(asked: tuple[str, ...], heaps: int) -> None:
    command = [sys.executable, "-c", THREADS, *asked]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) == heaps
