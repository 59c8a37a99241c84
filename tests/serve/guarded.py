"""A server with measures in force, and clients of it over real TLS."""

import re
import shutil
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import anyio
from anyio import aclose_forcefully
from anyio.abc import ByteStream
from anyio.streams.tls import TLSAttribute, TLSStream

from telemetryd.config import ServerConfig
from telemetryd.serve.http.connection import ConnectionLimits
from telemetryd.serve.http.reviews import Reviews
from telemetryd.serve.http.security import Security
from telemetryd.serve.http.server import serve
from tests.serve.facts import Facts, busy_facts
from tests.serve.http.test_server import Served
from tests.support.certificates import Authority, Pair
from tests.support.waiting import until_async

LOOK_S = 0.02
WHERE = "c.toml"


@dataclass
class Reply:
    """An answer, read whole."""

    status: int
    headers: dict[str, str]
    text: str


class Client:
    """Keeps its connection for as long as the server does."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def get(self, path: str, token: str | None = None, method: str = "GET") -> Reply:
        """Ask for a path, with a bearer token where one is given."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        async with self._session.request(method, self._url + path, headers=headers) as response:
            text = await response.text()
            named = {name.lower(): value for name, value in response.headers.items()}
            return Reply(response.status, named, text)


@dataclass
class Guarded:
    """A running server, and what its certificates are made with.

    Attributes:
        authority: Vouches for the server.
    """

    authority: Authority
    security: Security
    facts: Facts = field(default_factory=busy_facts)
    port: int = 0

    def trusting(self, pair: Pair | None = None) -> ssl.SSLContext:
        """A client's context, with a certificate of its own where one is given."""
        return client_side(self.authority.ca, pair)

    @asynccontextmanager
    async def client(self, context: ssl.SSLContext | None = None) -> AsyncIterator[Client]:
        """A client over TLS, or over plain HTTP without a context."""
        connector = aiohttp.TCPConnector(ssl=context) if context else aiohttp.TCPConnector()
        scheme = "https" if context else "http"
        timeout = aiohttp.ClientTimeout(total=10)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            yield Client(session, f"{scheme}://127.0.0.1:{self.port}")

    async def get(
        self,
        path: str,
        context: ssl.SSLContext | None = None,
        token: str | None = None,
        method: str = "GET",
    ) -> Reply:
        """Ask on a connection of its own."""
        async with self.client(context) as client:
            return await client.get(path, token, method)

    async def change(self, config: ServerConfig) -> None:
        """As a reload does."""
        self.security.apply(await self.security.prepare(config, WHERE))


def client_side(ca: Path, pair: Pair | None = None) -> ssl.SSLContext:
    """A client's context; with a pair it shows that certificate."""
    context = ssl.create_default_context(cafile=str(ca))
    if pair:
        context.load_cert_chain(pair.cert, pair.key)
    return context


@asynccontextmanager
async def guarded(
    authority: Authority,
    config: ServerConfig,
    *,
    reviews: Reviews | None = None,
    now: Callable[[], float] = time.time,
    limits: ConnectionLimits | None = None,
    host: str = "127.0.0.1",
) -> AsyncIterator[Guarded]:
    """A server with these measures from its start."""
    security = Security(reviews, now, look_s=LOOK_S)
    served = Guarded(authority, security)
    await served.change(config)
    endpoints = Served(served.facts).endpoints()
    async with serve(
        host, 0, endpoints, security=security, limits=limits or ConnectionLimits()
    ) as listening:
        served.port = listening.port
        yield served


class Held:
    """One connection that is kept, over TLS or plain."""

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream

    async def ask(self, path: str = "/status.json") -> int:
        """The status of an answer, which is read to its end."""
        await self.stream.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        received = b""
        with anyio.fail_after(30):
            while b"\r\n\r\n" not in received:
                received += await self.stream.receive()
            head, _, body = received.partition(b"\r\n\r\n")
            (length,) = re.findall(rb"(?i)content-length: (\d+)", head)
            while len(body) < int(length):
                body += await self.stream.receive()
        return int(head.split()[1])

    async def end(self) -> bytes:
        """What else comes until the server ends the connection."""
        received = b""
        with anyio.fail_after(30):
            while True:
                try:
                    received += await self.stream.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    return received


@asynccontextmanager
async def connect(port: int, context: ssl.SSLContext | None = None) -> AsyncIterator[Held]:
    """A connection of one's own."""
    stream: ByteStream = await anyio.connect_tcp("127.0.0.1", port)
    if context:
        stream = await TLSStream.wrap(
            stream, hostname="127.0.0.1", ssl_context=context, standard_compatible=False
        )
    try:
        yield Held(stream)
    finally:
        await aclose_forcefully(stream)


def tls(pair: Pair, *, client_ca: Path | None = None, tokens: bool = False) -> ServerConfig:
    """``[server]`` with this certificate, and what it asks of clients."""
    return ServerConfig(
        tls_cert_file=str(pair.cert),
        tls_key_file=str(pair.key),
        client_ca_file=str(client_ca) if client_ca else None,
        kubernetes_auth=tokens,
    )


class SecretVolume:
    """A folder as the kubelet mounts a Secret: files are links through ``..data``, which swaps."""

    def __init__(self, folder: Path, pair: Pair) -> None:
        self.folder = folder
        self._versions = 0
        folder.mkdir()
        self.swap(pair)
        for name in ("tls.crt", "tls.key"):
            (folder / name).symlink_to(f"..data/{name}")
        self.pair = Pair(folder / "tls.crt", folder / "tls.key")

    def swap(self, pair: Pair) -> None:
        """Put another version in place, at one moment; the one before goes."""
        self._versions += 1
        version = self.folder / f"..version-{self._versions}"
        version.mkdir()
        (version / "tls.crt").write_bytes(pair.cert.read_bytes())
        (version / "tls.key").write_bytes(pair.key.read_bytes())
        link = self.folder / "..data_tmp"
        link.symlink_to(version.name)
        link.rename(self.folder / "..data")
        before = self.folder / f"..version-{self._versions - 1}"
        if before.exists():
            shutil.rmtree(before)


async def shown_certificate(port: int) -> bytes:
    """What the server shows to whoever begins a handshake now, in DER."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    async with connect(port, context) as held:
        shown = held.stream.extra(TLSAttribute.peer_certificate_binary)
    assert shown is not None
    return shown


def der(pair: Pair) -> bytes:
    """The certificate of a pair as it is shown."""
    return ssl.PEM_cert_to_DER_cert(pair.cert.read_text())


async def until_shown(port: int, pair: Pair, *, within_s: float = 30.0) -> None:
    """Returns once the server shows this certificate."""

    async def is_shown() -> bool:
        return await shown_certificate(port) == der(pair)

    await until_async(is_shown, "the certificate", deadline_s=within_s)
