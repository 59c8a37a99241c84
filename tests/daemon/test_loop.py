"""The daemon's own loop: lookups, and memory that is given back."""

import asyncio
import socket
import ssl
import subprocess
import sys
import threading
import tracemalloc
from asyncio import sslproto
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from telemetryd.daemon.loop import MOST_LOOKUPS, PromptLoop
from tests.support.certificates import Authority, server_side

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
