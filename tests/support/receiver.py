"""HTTP receivers on real sockets, for payloads that are sent to a test.

`receiving` is on the test's event loop, and answers byte for byte as the test says.
`receiving_in_threads` is for tests without a loop, and asks a function what to answer.
"""

import asyncio
import gzip
import ssl
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Writer = asyncio.StreamWriter
Answer = Callable[["Request", Writer], Awaitable[None]]


@dataclass(frozen=True)
class Request:
    """One request, as it came.

    Attributes:
        headers: By name in lower case.
        body: Decompressed.
        at_s: By the monotonic clock.
    """

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    at_s: float

    @property
    def key(self) -> str:
        return self.headers["idempotency-key"]

    @property
    def sequence(self) -> int:
        return int(self.headers["telemetryd-sequence"])

    @property
    def epoch(self) -> int:
        return int(self.headers["telemetryd-epoch"])


def status(code: int, *headers: str, body: bytes = b"") -> Answer:
    """A whole answer with this status."""

    async def answer(_request: Request, writer: Writer) -> None:
        lines = [f"HTTP/1.1 {code} Something", f"Content-Length: {len(body)}", *headers]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        await writer.drain()

    return answer


WELL = status(200)


def raw(content: bytes) -> Answer:
    """These bytes, and the end."""

    async def answer(_request: Request, writer: Writer) -> None:
        writer.write(content)
        await writer.drain()

    return answer


def reset_after(content: bytes) -> Answer:
    """These bytes, and then a reset."""

    async def answer(_request: Request, writer: Writer) -> None:
        writer.write(content)
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.transport.abort()

    return answer


async def hang(_request: Request, _writer: Writer) -> None:
    """No answer at all."""
    await asyncio.sleep(3600)


async def endless(_request: Request, writer: Writer) -> None:
    """A success whose body never ends."""
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not writer.transport.is_closing():
        writer.write(b"400\r\n" + b"x" * 0x400 + b"\r\n")
        await writer.drain()


@dataclass
class Receiver:
    """Answers by its script, and once that is over with ``default``."""

    script: deque[Answer] = field(default_factory=deque)
    default: Answer = WELL
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    tls: bool = False

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/v1/payloads"

    async def handle(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        self.connections += 1
        try:
            request = await read_request(reader)
            self.requests.append(request)
            answer = self.script.popleft() if self.script else self.default
            await answer(request, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            with suppress(OSError):
                writer.close()


async def read_request(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
    else:
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    if headers.get("content-encoding") == "gzip":
        body = gzip.decompress(body)
    return Request(method, target, headers, body, time.monotonic())


@asynccontextmanager
async def receiving(
    *script: Answer, default: Answer | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Receiver]:
    """Receive until the block is left."""
    receiver = Receiver(deque(script), default or WELL, tls=tls is not None)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: Writer) -> None:
        task = asyncio.get_running_loop().create_task(receiver.handle(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True)
class Verdict:
    """What a request is answered, without a body."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def receiving_in_threads(take: Callable[[Request], Verdict]) -> Iterator[str]:
    """Receive until the block is left; the URL, without a trailing slash.

    Args:
        take: Called for each POST, in a thread of its own.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            at_s = time.monotonic()
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers["content-length"]))
            if headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            verdict = take(Request("POST", self.path, headers, body, at_s))
            self.send_response(verdict.status)
            for name, value in verdict.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Whoever takes it keeps a record."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
