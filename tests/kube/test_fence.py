"""A fence in front of writes, against a server that sees on its socket what has arrived."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from telemetryd.errors import NotLeading, Unavailable
from telemetryd.kube.client import KubeClient
from telemetryd.stats import KubeStats
from tests.informer.scripted import kubeconfig

pytestmark = pytest.mark.anyio

LARGE = b"x" * (1 << 20)


class Wire:
    """A server that keeps every byte, and answers 200 once a request is whole."""

    def __init__(self) -> None:
        self.bytes = bytearray()
        self.connections = 0
        self.open = 0
        self.statuses: list[int] = []
        self.port = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while True:
                head = await self._read(reader.readuntil(b"\r\n\r\n"))
                length = next(
                    (
                        int(line.partition(b":")[2])
                        for line in head.split(b"\r\n")
                        if line.lower().startswith(b"content-length")
                    ),
                    0,
                )
                while length:
                    length -= len(await self._read(reader.read(min(length, 65536)), or_raise=True))
                status = self.statuses.pop(0) if self.statuses else 200
                writer.write(
                    b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\n"
                    b"Content-Length: 2\r\n\r\n{}" % status
                )
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def _read(self, reading: Awaitable[bytes], *, or_raise: bool = False) -> bytes:
        piece = await reading
        if or_raise and not piece:
            raise asyncio.IncompleteReadError(b"", 1)
        self.bytes += piece
        return piece


@asynccontextmanager
async def wired() -> AsyncIterator[Wire]:
    wire = Wire()
    server = await asyncio.start_server(wire.handle, "127.0.0.1", 0)
    wire.port = server.sockets[0].getsockname()[1]
    async with server:
        yield wire
    with anyio.fail_after(30):
        while wire.open:
            await anyio.sleep(0.01)
    await anyio.sleep(0.05)  # for the transports to close


@asynccontextmanager
async def connected(folder: Path, wire: Wire, stats: KubeStats) -> AsyncIterator[KubeClient]:
    token = folder / "token"
    token.write_text("one")
    config = kubeconfig(
        folder / "config", f"http://127.0.0.1:{wire.port}", user={"tokenFile": str(token)}
    )
    async with KubeClient.connect(config, stats, environ={}) as client:
        yield client


class Fence:
    """Lets this many writes through, then refuses."""

    def __init__(self, passes: int) -> None:
        self.passes = passes
        self.asked = 0
        self.at: Callable[[], None] = lambda: None

    def __call__(self) -> None:
        self.at()
        self.asked += 1
        if self.asked > self.passes:
            raise NotLeading("the term is over")


@pytest.mark.parametrize("body", [None, b"{}", LARGE], ids=["none", "small", "large"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_refused_write_sends_no_byte_and_is_no_error_of_the_client(
    tmp_path: Path, method: str, body: bytes | None
) -> None:
    stats = KubeStats()
    async with wired() as wire, connected(tmp_path, wire, stats) as client:
        fence = Fence(0)
        for _ in range(2):
            with pytest.raises(NotLeading, match="the term is over"):
                await client.requests(fence=fence).request(method, "/x", body=body, timeout_s=5.0)
        assert (fence.asked, bytes(wire.bytes)) == (2, b"")
        assert not stats.requests
        with anyio.fail_after(30):
            while wire.open:
                await anyio.sleep(0.01)
        assert await client.request(method, "/x", body=body, timeout_s=5.0) == b"{}"


async def test_fence_is_asked_with_the_connection_there_and_nothing_sent(tmp_path: Path) -> None:
    async with wired() as wire, connected(tmp_path, wire, KubeStats()) as client:
        fence = Fence(1)
        seen: list[int] = []
        fence.at = lambda: seen.append(len(wire.bytes))
        handle = client.requests(fence=fence)
        assert await handle.request("PATCH", "/x", body=b"{}", timeout_s=5.0) == b"{}"
        assert (seen, fence.asked) == ([0], 1)
        assert await handle.request("GET", "/x", timeout_s=5.0) == b"{}"
        assert fence.asked == 1, "a read needs no fence"


async def test_write_refused_half_way_is_never_whole_and_its_connection_closes(
    tmp_path: Path,
) -> None:
    async with wired() as wire, connected(tmp_path, wire, KubeStats()) as client:
        with pytest.raises(NotLeading):
            await client.requests(fence=Fence(3)).request("PUT", "/x", body=LARGE, timeout_s=5.0)
        with anyio.fail_after(30):
            while wire.open:
                await anyio.sleep(0.01)
        assert len(wire.bytes) < len(LARGE)
        assert await client.request("GET", "/x", timeout_s=5.0) == b"{}"
        assert wire.connections == 2


async def test_attempt_after_a_401_asks_the_fence_again(tmp_path: Path) -> None:
    async with wired() as wire, connected(tmp_path, wire, KubeStats()) as client:
        wire.statuses = [401]
        fence = Fence(1)

        def renew() -> None:
            (tmp_path / "token").write_text("two")

        fence.at = renew
        with pytest.raises(NotLeading):
            await client.requests(fence=fence).request("PATCH", "/x", body=b"{}", timeout_s=5.0)
        assert fence.asked == 2
        assert wire.bytes.count(b"PATCH") == 1


async def test_fence_comes_after_a_tls_handshake_that_takes_its_time(tmp_path: Path) -> None:
    """Without TLS on the other side the handshake never ends, and no fence is ever asked."""
    hold = anyio.Event()

    async def hang(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await hold.wait()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    config = kubeconfig(
        tmp_path / "config",
        f"https://127.0.0.1:{port}",
        cluster={"insecure-skip-tls-verify": True},
    )
    fence = Fence(9)
    async with server, KubeClient.connect(config, KubeStats(), environ={}) as client:
        with pytest.raises(Unavailable):
            await client.requests(fence=fence).request("PATCH", "/x", body=b"{}", timeout_s=0.5)
        hold.set()
        await anyio.sleep(0.05)
    assert fence.asked == 0
