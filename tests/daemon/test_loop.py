"""Lookups of the daemon's own loop."""

import socket
import subprocess
import sys
import time

import anyio
import pytest

from telemetryd.daemon.loop import PromptLoop

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
socket.getaddrinfo = lambda *arguments: time.sleep(30)
async def main():
    with anyio.move_on_after(0.1):
        await anyio.getaddrinfo("api.example.com", 443)
anyio.run(main, backend_options={"loop_factory": PromptLoop})
"""
    begin = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)
    assert time.monotonic() - begin < 5
