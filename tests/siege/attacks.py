"""The attackers, in a process of their own: `python -m tests.siege.attacks TARGET KIND=COUNT...`.

Each attacker is one connection that comes back some seconds after the server has ended it. They go
on until stdin closes, and then leave their counts on stdout, as JSON.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import logging
import os
import random
import resource
import ssl
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Final

import anyio

from tests.siege.probes import Server

RETRY_S: Final = (5.0, 15.0)
"""How soon an attacker whose connection was ended comes back, at random between these."""
PAUSE_S: Final = (0.5, 1.5)
"""Between an answer and the next request of a busy attacker."""
RAMP_S: Final = 5.0
"""All of them come within this time."""

HEADER_LINES: Final = 61
_LINE_BYTES = 8100
_TRICKLE_S = 1.0
_CONNECT_TIMEOUT_S = 30.0
_NICENESS: Final = 10
_DISBAND_S = 120.0
_BUSY_PATHS = (
    "/metrics", "/metrics", "/", "/status.json", "/livez", "/readyz?verbose",
    "/history", "/history.json", "/history.csv",
)  # fmt: skip


@dataclass(slots=True)
class Target:
    """Who is attacked, and what came of it.

    Attributes:
        source: The attackers' own address.
        context: For TLS; None for plain HTTP.
        control: The control socket's path, empty where there is none.
        counts: By kind and outcome.
    """

    host: str
    port: int
    source: str
    context: ssl.SSLContext | None = None
    control: str = ""
    counts: Counter[str] = field(default_factory=Counter)

    async def connect(
        self, *, tls: bool = True
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection from the attackers' address, after its handshake if it is of TLS."""
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            return await asyncio.open_connection(
                self.host,
                self.port,
                ssl=self.context if tls else None,
                local_addr=(self.source, 0),
            )


ATTACKERS: Final = "127.0.0.2"
"""Their address; every process of loopback may have one of its own."""
KINDS: Final = {
    "slow": 400,
    "handshakes": 200,
    "busy": 600,
    "headers": 100,
    "garbage": 20,
    "control": 20,
}
"""600 slow ones, of which a third does not even finish its handshake, and 600 busy ones."""


Attack = Callable[[Target], Awaitable[None]]


async def _slow(target: Target) -> None:
    """A request that comes byte by byte and never ends."""
    reader, writer = await target.connect()
    await _trickle(
        target, "slow", reader, writer, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: "
    )


async def _handshakes(target: Target) -> None:
    """The first bytes of a TLS handshake, and no more; on plain HTTP nothing at all."""
    reader, writer = await target.connect(tls=False)
    if target.context is not None:
        writer.write(b"\x16\x03\x01\x02\x00\x01")
    await _hold(target, "handshakes", reader, writer)


async def _headers(target: Target) -> None:
    """61 header lines of 8 kB, without an end."""
    reader, writer = await target.connect()
    writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n")
    for number in range(HEADER_LINES):
        writer.write(b"X-%02d: " % number + b"a" * _LINE_BYTES + b"\r\n")
    await _hold(target, "headers", reader, writer)


async def _busy(target: Target) -> None:
    """Requests with made-up tokens on a connection that is kept."""
    reader, writer = await target.connect()
    try:
        while True:
            path = random.choice(_BUSY_PATHS)
            writer.write(
                f"GET {path} HTTP/1.1\r\nHost: localhost\r\n"
                f"Authorization: Bearer {_made_up()}\r\n\r\n".encode()
            )
            target.counts[f"busy answered {await read_answer(reader)}"] += 1
            await asyncio.sleep(random.uniform(*PAUSE_S))
    finally:
        _drop(writer)


async def _garbage(target: Target) -> None:
    """Random bytes, within TLS or in its place."""
    _, writer = await target.connect(tls=random.random() < 0.5)
    try:
        for _ in range(20):
            writer.write(os.urandom(random.randrange(1, 5_000)))
            await writer.drain()
            await asyncio.sleep(random.uniform(0.05, 0.5))
            target.counts["garbage sent"] += 1
    finally:
        _drop(writer)
    await asyncio.sleep(0.5)


async def _control(target: Target) -> None:
    """Random bytes to the control socket, with lines or without."""
    async with asyncio.timeout(_CONNECT_TIMEOUT_S):
        _, writer = await asyncio.open_unix_connection(target.control)
    try:
        for _ in range(20):
            line = os.urandom(random.randrange(1, 40_000))
            writer.write(line if random.random() < 0.5 else line.replace(b"\n", b" ") + b"\n")
            await writer.drain()
            target.counts["control sent"] += 1
            await asyncio.sleep(random.uniform(0.05, 0.5))
    finally:
        _drop(writer)


ATTACKS: Final[dict[str, Attack]] = {
    "slow": _slow,
    "handshakes": _handshakes,
    "headers": _headers,
    "busy": _busy,
    "garbage": _garbage,
    "control": _control,
}


async def _trickle(
    target: Target,
    kind: str,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    text: bytes,
) -> None:
    """Sends the text byte by byte, then more of the same letter."""
    position = 0
    try:
        while not reader.at_eof():
            writer.write(text[position : position + 1] or b"a")
            position += 1
            await writer.drain()
            target.counts[f"{kind} sent"] += 1
            await asyncio.sleep(_TRICKLE_S)
    finally:
        _drop(writer)


async def _hold(
    target: Target, kind: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Keeps the connection until the server ends it."""
    try:
        await writer.drain()
        target.counts[f"{kind} held"] += 1
        while await reader.read(65_536):
            pass
    finally:
        _drop(writer)


async def read_answer(reader: asyncio.StreamReader) -> int:
    """The status of an answer, which is read to its end."""
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    headers = {
        name.lower(): value.strip()
        for name, _, value in (line.partition(b":") for line in head.split(b"\r\n"))
    }
    if headers.get(b"transfer-encoding") == b"chunked":
        while size := int(await reader.readuntil(b"\r\n"), 16):
            await reader.readexactly(size + 2)
        await reader.readuntil(b"\r\n")
    else:
        await reader.readexactly(int(headers.get(b"content-length", 0)))
    return status


def _made_up() -> str:
    """A token that no one issued: like a JWT, like others, or far too long."""
    shape = random.randrange(3)
    if shape == 0:
        parts = (base64.urlsafe_b64encode(os.urandom(size)).decode() for size in (30, 300, 64))
        return ".".join(part.rstrip("=") for part in parts)
    return os.urandom(16 if shape == 1 else 3_000).hex()


def _drop(writer: asyncio.StreamWriter) -> None:
    """Ends the connection without a farewell, as attackers do."""
    writer.transport.abort()


async def _attack_again_and_again(kind: str, target: Target) -> None:
    await asyncio.sleep(random.uniform(0, RAMP_S))
    while True:
        try:
            target.counts[f"{kind} begun"] += 1
            await ATTACKS[kind](target)
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            target.counts[f"{kind} ended by {type(error).__name__}"] += 1
        else:
            target.counts[f"{kind} ended"] += 1
        await asyncio.sleep(random.uniform(*RETRY_S))


async def _run(target: Target, numbers: dict[str, int]) -> None:
    # A connection that the server resets, be it in a handshake, is no news.
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    async with anyio.create_task_group() as group:
        for kind, number in numbers.items():
            for _ in range(number):
                group.start_soon(_attack_again_and_again, kind, target)
        await anyio.to_thread.run_sync(sys.stdin.read)
        group.cancel_scope.cancel()


class Attackers:
    """The process of the attackers, and in the end what they did."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}


@contextlib.contextmanager
def attacking(
    server: Server, numbers: Mapping[str, int], *, control: Path | None = None
) -> Iterator[Attackers]:
    """Attackers in a process of their own, until left.

    Raises:
        RuntimeError: They did not attack until then.
    """
    command = [sys.executable, "-m", "tests.siege.attacks", "--port", str(server.port)]
    command += ["--source", ATTACKERS]
    if server.context is not None:
        command.append("--tls")
    if control is not None:
        command += ["--control", str(control)]
    command += [f"{kind}={number}" for kind, number in numbers.items()]
    attackers = Attackers()
    with Popen(command, stdin=PIPE, stdout=PIPE, text=True) as process:
        try:
            yield attackers
            ended = process.poll()
            said, _ = process.communicate(timeout=_DISBAND_S)
        finally:
            process.kill()
    if ended is not None:
        raise RuntimeError(f"the attackers ended too early, with {ended}")
    attackers.counts = json.loads(said)


def _give_way() -> None:
    """Take what the daemon leaves of the machine's cores: real attackers have their own.

    Where the kernel shares time out by sessions, niceness within one says nothing to others.
    """
    os.nice(_NICENESS)
    group = Path("/proc/self/autogroup")
    if group.exists():
        os.setsid()
        group.write_text(str(_NICENESS))


def _counted(text: str) -> tuple[str, int]:
    kind, _, number = text.partition("=")
    if kind not in ATTACKS or not number.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: KIND=COUNT, of {', '.join(ATTACKS)}")
    return kind, int(number)


def main(arguments: list[str]) -> int:
    """Attacks until stdin closes; prints the counts."""
    parser = argparse.ArgumentParser(prog="tests.siege.attacks", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--source", default="127.0.0.2", help="the attackers' own address")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--control", default="", help="path of the control socket")
    parser.add_argument("numbers", nargs="+", type=_counted, metavar="KIND=COUNT")
    given = parser.parse_args(arguments)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    context = None
    if given.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    target = Target(given.host, given.port, given.source, context, given.control)
    _give_way()
    anyio.run(_run, target, dict(given.numbers))
    sys.stdout.write(json.dumps(target.counts) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
