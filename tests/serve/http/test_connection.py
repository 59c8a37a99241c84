"""What one client may send: bounds of a request, and that no word of it is logged."""

import logging
import re
import socket
import ssl
from contextlib import suppress

import anyio
import anyio.to_thread
import pytest

from telemetryd.serve.http.connection import ConnectionLimits
from tests.serve.guarded import connect, guarded, tls
from tests.serve.http.test_server import Served, parse_reply, read_to_end, request, running
from tests.support.certificates import Authority, Pair

pytestmark = pytest.mark.anyio

TOKEN = "viewer.token.s3cret"


async def send(served: Served, *parts: bytes) -> bytes:
    """What is answered to these bytes, sent one after the other, until the connection ends."""
    async with await served.connect() as stream:
        with suppress(anyio.BrokenResourceError):
            for part in parts:
                await stream.send(part)
            await stream.send_eof()
        return await read_to_end(stream)


def headed(size: int) -> bytes:
    """A request whose line and headers have so many bytes."""
    start, end = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n", b"\r\n"
    lines: list[bytes] = []
    while (left := size - len(start) - len(end) - sum(map(len, lines))) > 0:
        length = left if left <= 4000 else 2000
        lines.append(b"X-Pad: " + b"a" * (length - 9) + b"\r\n")
    return b"".join((start, *lines, end))


async def test_headers_may_have_16_kib_together_and_no_more() -> None:
    async with running() as served:
        most = ConnectionLimits().head_bytes
        assert len(headed(most)) == most == 16 * 1024
        assert parse_reply(await send(served, headed(most))).status == 200
        for size in (most + 1, most + 20_000):
            reply = parse_reply(await send(served, *chunks(headed(size), 1000)))
            assert reply.status == 431
            assert reply.text == "request header fields too large\n"
            assert reply.headers["content-length"] == str(len(reply.body))
            assert reply.headers["cache-control"] == "no-store"


def chunks(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


async def test_headers_of_a_further_request_are_bounded_as_those_of_the_first() -> None:
    first = request("/livez")
    async with running() as served:
        most = ConnectionLimits().head_bytes
        fits = b"".join((first, first, headed(most)))
        assert (await send(served, fits)).count(b"HTTP/1.1 200 ") == 3
        beyond = b"".join((first, first, headed(most + 1)))
        received = await send(served, *chunks(beyond, 1000))
        assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200", b"200", b"431"]


async def test_pipelined_requests_are_answered_in_order_without_reading_ahead() -> None:
    async with running() as served, await served.connect() as stream:
        number = 500
        received = b""

        async def read() -> None:
            nonlocal received
            while received.count(b"HTTP/1.1 ") < 2 * number or not received.endswith(b"\n"):
                received += await stream.receive()

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read)
                await stream.send((request("/livez") + request("/nothing")) * number)
        assert [received.count(text) for text in (b"200 OK\r\n", b"404 Not Found\r\n")] == [
            500,
            500,
        ]


@pytest.mark.parametrize("how", ["Content-Length: 100000000000", "Transfer-Encoding: chunked"])
async def test_body_that_never_ends_is_not_read(how: str) -> None:
    async with running() as served:

        def pour() -> tuple[int, bytes]:
            sent = 0
            with socket.create_connection(("127.0.0.1", served.listening.port), timeout=30) as body:
                body.sendall(request("/livez", how, method="POST"))
                try:
                    while sent < 1 << 30:
                        sent += body.send(b"10000\r\n" + b"a" * 65536 + b"\r\n")
                except OSError:
                    pass
                with suppress(OSError):
                    return sent, body.recv(65536)
            return sent, b""

        sent, received = await anyio.to_thread.run_sync(pour)
        assert sent < 64 << 20
        assert not received or received.startswith(b"HTTP/1.1 405 ")
        assert (await served.ask("/livez")).status == 200


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        (request("/livez", method="TRACE"), {405}),
        (b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n\r\n", {400, 404, 405, 421}),
        (b"GET /livez HTTP/2.0\r\nHost: localhost\r\n\r\n", {505}),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 421}),
        (request("/livez", "Upgrade: websocket", "Connection: Upgrade"), {200}),
        (request("/livez", "Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings"), {200}),
        (request("/livez", "Expect: 100-continue", "Content-Length: 5", method="POST"), {405}),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500, {400}),
        (request("/livez", "Content-Encoding: gzip", "Content-Length: 9", method="POST"), {405}),
    ],
)
async def test_other_protocols_and_methods_get_one_plain_answer(
    sent: bytes, statuses: set[int]
) -> None:
    async with running() as served:
        answered = await send(served, sent)
        assert answered.startswith(b"HTTP/1.")
        reply = parse_reply(answered)
        assert reply.status in statuses
        assert reply.text.count("\n") == 1
        assert (await served.ask("/livez")).status == 200


MALFORMED = {
    "control character": f"Authorization: Bearer {TOKEN}\x01",
    "null": f"Authorization: Bearer {TOKEN}\x00",
    "not ascii": f"Authorization: Bearer {TOKEN}\xff\x7f",
    "no name": f": Bearer {TOKEN}",
    "space before the colon": f"Authorization : Bearer {TOKEN}",
    "no colon": f"Authorization Bearer {TOKEN}",
    "folded": f"Authorization: Bearer\r\n {TOKEN}",
    "bare line feed": f"Authorization: Bearer {TOKEN}\nX: y\r",
    "bare carriage return": f"Authorization: Bearer {TOKEN}\ry",
    "too long": f"Authorization: Bearer {TOKEN * 600}",
    "far too long": f"Authorization: Bearer {TOKEN * 2000}",
    "twice": f"Authorization: Bearer {TOKEN}\r\nAuthorization: Bearer {TOKEN}",
    "other scheme": f"Authorization: Basic {TOKEN}",
    "in a length": f"Content-Length: {TOKEN}",
    "in an encoding": f"Transfer-Encoding: {TOKEN}",
    "in an old header": f"Sec-WebSocket-Key1: {TOKEN}",
    "in a host": f"Host: {TOKEN}\r\nHost: {TOKEN}",
}
LINES = {
    "in the method": f"{TOKEN} / HTTP/1.1",
    "in the version": f"GET / {TOKEN}",
    "in the target": f"GET {TOKEN} HTTP/1.1",
    "in a broken URL": f"GET http://[{TOKEN}/ HTTP/1.1",
    "in a broken port": f"GET http://localhost:{TOKEN}/ HTTP/1.1",
    "alone": TOKEN,
}


@pytest.mark.parametrize("name", [*MALFORMED, *LINES])
async def test_malformed_request_leaves_no_word_of_it_in_any_log(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    line = LINES.get(name, "GET /status.json HTTP/1.1")
    header = MALFORMED.get(name, f"Authorization: Bearer {TOKEN}")
    sent = f"{line}\r\nHost: localhost\r\n{header}\r\n\r\n".encode("latin-1")
    async with running() as served:
        received = await send(served, sent)
        received += await send(served, *chunks(sent, 7))
        assert (await served.ask("/livez")).status == 200
    assert TOKEN.encode() not in received
    for record in caplog.records:
        text = logging.Formatter().format(record)
        assert TOKEN[:12] not in text, text


HERE = socket.gethostname()


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:10464",
        "LocalHost.",
        "127.0.0.1",
        "127.0.0.1:1",
        "127.9.8.7",
        "[::1]",
        "[::1]:80",
        HERE,
        f"{HERE.upper()}:10464",
    ],
)
async def test_names_of_this_machine_are_answered_on_loopback(host: str) -> None:
    async with running() as served:
        sent = f"GET /status.json HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        assert parse_reply(await send(served, sent.encode())).status == 200
        sent = f"GET http://{host}/readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        assert parse_reply(await send(served, sent.encode())).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:10464",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.example#localhost",
        "localhost@evil.example",
        "localhost:80@evil.example",
        "192.0.2.1",
        "[2001:db8::1]",
        "2130706433",
        "0.0.0.0",
        "",
        ":10464",
        "localhost:x",
        "[localhost",
        "localhost, evil.example",
    ],
)
async def test_other_host_is_refused_on_loopback_in_one_line(host: str) -> None:
    async with running() as served:
        for path in ("/", "/status.json", "/metrics", "/readyz", "/payload/scc", "/nothing"):
            sent = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            reply = parse_reply(await send(served, sent.encode()))
            assert reply.status in {400, 421}
            assert reply.text.count("\n") == 1
        if host and "," not in host:
            sent = f"GET http://{host}/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            assert parse_reply(await send(served, sent.encode())).status in {400, 421}


async def test_liveness_is_answered_under_every_name() -> None:
    async with running() as served:
        for path in ("/livez", "/healthz"):
            sent = f"GET {path} HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n"
            assert parse_reply(await send(served, sent.encode())).text == "ok\n"


async def test_request_of_http_1_0_needs_no_host() -> None:
    async with running() as served:
        assert parse_reply(await send(served, b"GET /status.json HTTP/1.0\r\n\r\n")).status == 200


async def test_largest_headers_in_one_record_of_tls_are_answered(
    authority: Authority, pair: Pair
) -> None:
    async with (
        guarded(authority, tls(pair)) as served,
        connect(served.port, served.trusting()) as held,
    ):
        await held.stream.send(headed(ConnectionLimits().head_bytes))
        assert parse_reply(await held.end()).status == 200


def hang_up(port: int, context: ssl.SSLContext) -> bytes:
    """Ask often at once, end our side of TCP, and read to the end of the other."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as stream,
    ):
        stream.sendall(request("/livez") * 100)
        stream.recv(1)
        stream.shutdown(socket.SHUT_WR)
        read = b""
        with suppress(ConnectionResetError):
            while chunk := stream.recv(65536):
                read += chunk
        return read


async def test_client_of_tls_that_ends_its_side_is_let_go_and_fills_no_log(
    authority: Authority, pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    hour_s = 3600.0
    limits = ConnectionLimits(request_timeout_s=hour_s, keep_alive_s=hour_s)
    async with guarded(authority, tls(pair), limits=limits) as served:
        for _ in range(20):
            await anyio.to_thread.run_sync(hang_up, served.port, served.trusting())
    assert "SSL connection is closed" not in caplog.text
