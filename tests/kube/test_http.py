"""Bodies over a real socket: bounded, held once, inflated only where asked; errors in our words."""

import asyncio
import errno
import gzip
import json
import socket
import ssl
import threading
import time
import tracemalloc
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong, PayloadEncodingError

from telemetryd.errors import BadResponse, KubeError, Reason, TooLarge, Unavailable
from telemetryd.kube.client import KubeClient
from telemetryd.kube.http import is_unreadable, is_unsent, translate
from telemetryd.stats import KubeStats
from tests.informer.samples import status
from tests.informer.scripted import Responder, answer, kubeconfig, serve
from tests.kube.test_client import connected, failure, get

KEY: Any = ConnectionKey("api.example.test", 443, True, True, None, None, None)
NOTHING: Any = None
SENTINEL = "SENTINEL-hunter2"


def tls_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, SENTINEL)
    error.reason = reason
    return error


def untrusted() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, SENTINEL)
    error.verify_message = "certificate has expired"
    return error


def connecting(error: OSError) -> aiohttp.ClientConnectorError:
    return aiohttp.ClientConnectorError(KEY, error)


PROXY = aiohttp.ClientHttpProxyError(NOTHING, (), status=407, message=SENTINEL)
CERTIFICATE = aiohttp.ClientConnectorCertificateError(KEY, untrusted())
CASES: list[tuple[BaseException, str, bool, bool]] = [
    (CERTIFICATE, "the server's certificate: certificate has expired", True, False),
    (untrusted(), "the server's certificate: certificate has expired", False, False),
    (aiohttp.ConnectionTimeoutError(SENTINEL), "no connection in 5 s", False, False),
    (
        aiohttp.ClientConnectorDNSError(KEY, OSError(-2, SENTINEL)),
        "the host name isn't known",
        True,
        False,
    ),
    (PROXY, "the proxy says 407", True, False),
    (
        aiohttp.ClientConnectorSSLError(KEY, tls_error("WRONG_VERSION_NUMBER")),
        "TLS wrong version number",
        True,
        False,
    ),
    (
        LineTooLong(SENTINEL, "8190", "9000"),
        "the answer's headers have more than 8190 bytes",
        False,
        True,
    ),
    (BadHttpMessage(SENTINEL), "the answer isn't valid HTTP", False, True),
    (PayloadEncodingError(SENTINEL), "the answer broke off", False, False),
    (aiohttp.ClientPayloadError(SENTINEL), "the answer broke off", False, False),
    (aiohttp.ServerDisconnectedError(SENTINEL), "the server hung up", False, False),
    (
        connecting(ConnectionRefusedError(errno.ECONNREFUSED, SENTINEL)),
        "connection refused",
        True,
        False,
    ),
    (ConnectionResetError(errno.ECONNRESET, SENTINEL), "connection reset by peer", False, False),
    (ValueError(SENTINEL), "ValueError", False, False),
]


@pytest.mark.parametrize(
    ("error", "why", "unsent", "unreadable"), CASES, ids=[type(case[0]).__name__ for case in CASES]
)
def test_error_is_said_without_its_own_text(
    error: BaseException, why: str, unsent: bool, unreadable: bool
) -> None:
    said = translate(error, "GET /version")
    assert type(said) is Unavailable
    assert said.kind is Reason.CONNECT
    assert str(said) == f"GET /version: {why}"
    assert is_unsent(error) is unsent
    assert is_unreadable(error) is unreadable


def test_headers_that_are_too_long_are_said_with_the_limit() -> None:
    error = aiohttp.ClientResponseError(
        NOTHING, (), status=400, message="Got more than 16384 bytes when reading: b'SENTINEL'"
    )
    assert str(translate(error, "it")) == "it: the answer's headers have more than 16384 bytes"


def test_request_that_found_no_credential_was_not_sent() -> None:
    assert is_unsent(None)


def encoded(body: bytes, encoding: str = "gzip") -> Responder:
    return answer(body, Content_Encoding=encoding)


@pytest.mark.anyio
async def test_encoding_that_was_not_asked_for_is_refused_unread(tmp_path: Path) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    async with serve() as server, connected(tmp_path, server) as client:
        server.others["/x"] = encoded(bomb)
        tracemalloc.start()
        error = await failure(client)
        with pytest.raises(BadResponse):
            async with client.stream("/x", {}, open_timeout_s=5.0):
                pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert isinstance(error, BadResponse)
        assert "Content-Encoding" in str(error)
        assert peak < 5_000_000
        server.others["/x"] = encoded(b"{}", "identity")
        assert await get(client) == b"{}"


@pytest.mark.anyio
async def test_gzip_is_inflated_up_to_the_limit_and_no_further(tmp_path: Path) -> None:
    body = b'{"a":1}' * 300_000
    async with serve() as server, connected(tmp_path, server, compression=True) as client:
        server.others["/x"] = encoded(gzip.compress(body))
        assert await get(client) == body
        server.others["/x"] = encoded(gzip.compress(b" " * 50_000_000))
        tracemalloc.start()
        error = await failure(client, max_bytes=2_000_000)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert isinstance(error, TooLarge)
        assert peak < 10_000_000


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (gzip.compress(b'{"a":1}' * 1000)[:-9], Unavailable),
        (b"", Unavailable),
        (b"not gzip", BadResponse),
        (gzip.compress(b"{}") + b"more", BadResponse),
    ],
    ids=["truncated", "empty", "no-gzip", "goes-on"],
)
@pytest.mark.anyio
async def test_gzip_that_is_broken_is_no_answer(
    tmp_path: Path, body: bytes, kind: type[KubeError]
) -> None:
    async with serve() as server, connected(tmp_path, server, compression=True) as client:
        server.others["/x"] = encoded(body)
        assert type(await failure(client)) is kind
        server.others["/x"] = encoded(b"{}", "deflate")
        assert type(await failure(client)) is BadResponse


@pytest.mark.anyio
async def test_gzip_of_a_stream_comes_as_it_is_sent_and_in_pieces(tmp_path: Path) -> None:
    packer = zlib.compressobj(wbits=31)
    first = packer.compress(b"one\n") + packer.flush(zlib.Z_SYNC_FLUSH)
    second = packer.compress(b"x" * 5_000_000) + packer.flush(zlib.Z_SYNC_FLUSH)

    async def respond(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "application/json", "Content-Encoding": "gzip"}
        )
        await response.prepare(request)
        await response.write(first)
        await go_on.wait()
        await response.write(second)
        await anyio.sleep_forever()
        return response

    go_on = anyio.Event()
    async with serve() as server, connected(tmp_path, server, compression=True) as client:
        server.others["/x"] = respond
        async with client.stream("/x", {}, open_timeout_s=5.0) as body:
            assert await body.read(5.0) == b"one\n"
            go_on.set()
            pieces: list[int] = []
            while sum(pieces) < 5_000_000:
                pieces.append(len(await body.read(5.0)))
            assert max(pieces) <= 512 * 1024


@pytest.mark.anyio
async def test_error_whose_body_cannot_be_read_is_still_its_error(tmp_path: Path) -> None:
    body = gzip.compress(json.dumps(status(503, "", "text")).encode())
    async with serve() as server:
        server.others["/x"] = answer(body, 503, Content_Encoding="gzip")
        for compression, says in ((False, "503"), (True, "503 text")):
            async with connected(tmp_path, server, compression=compression) as client:
                assert str(await failure(client)) == f"GET /x: {says}"


@pytest.mark.anyio
async def test_body_is_held_once(tmp_path: Path) -> None:
    async def large(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for _ in range(300):
            await response.write(b" " * 100_000)
        return response

    async with serve() as server, connected(tmp_path, server) as client:
        server.others["/x"] = large
        tracemalloc.start()
        assert len(await get(client, max_bytes=40_000_000)) == 30_000_000
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 45_000_000


@pytest.mark.parametrize("is_gzip", [False, True], ids=["plain", "gzip"])
@pytest.mark.anyio
async def test_event_that_comes_as_the_deadline_passes_is_not_lost(
    tmp_path: Path, is_gzip: bool
) -> None:
    """The loop is held up while the event comes and the deadline of the read passes."""
    packer = zlib.compressobj(wbits=31)

    def packed(line: bytes) -> bytes:
        return packer.compress(line) + packer.flush(zlib.Z_SYNC_FLUSH) if is_gzip else line

    gates = [threading.Event() for _ in range(3)]

    def talk(listening: socket.socket) -> None:
        peer, _ = listening.accept()
        with peer:
            peer.recv(65536)
            encoding = b"Content-Encoding: gzip\r\n" if is_gzip else b""
            peer.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                b"Transfer-Encoding: chunked\r\n" + encoding + b"\r\n"
            )
            for number, gate in enumerate(gates):
                assert gate.wait(30)
                data = packed(b"%d\n" % number)
                peer.sendall(b"%x\r\n%b\r\n" % (len(data), data))
            peer.sendall(b"0\r\n\r\n")
            with suppress(ConnectionResetError):  # the client drops a stream that it leaves
                peer.recv(1)

    def hold_up() -> None:
        time.sleep(0.1)
        gates[1].set()
        time.sleep(0.3)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=talk, args=(listening,))
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        config = kubeconfig(tmp_path / "config", url)
        object.__setattr__(config, "compression", is_gzip)
        received = b""
        async with (
            KubeClient.connect(config, KubeStats(), environ={}) as client,
            client.stream("/x", {}, open_timeout_s=30) as stream,
        ):
            gates[0].set()
            received += await stream.read(30)
            asyncio.get_running_loop().call_later(0.1, hold_up)
            with suppress(Unavailable):  # not in time
                received += await stream.read(0.3)
            gates[2].set()
            while not received.endswith(b"2\n"):
                received += await stream.read(30)
        thread.join(30)
    assert received == b"0\n1\n2\n"
