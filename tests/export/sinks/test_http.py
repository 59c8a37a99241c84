"""The http sink against a receiver on a real socket: what it sends, and what it never does."""

import asyncio
import gzip
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from telemetryd.config import HttpExporterConfig
from telemetryd.daemon.exporters import build_http
from telemetryd.errors import (
    ConfigError,
    ExportError,
    NotLeading,
    PermanentError,
    Reason,
    RetryableError,
)
from telemetryd.export.exporter import ExportContext, Outcome
from telemetryd.export.sinks.credentials import OWN_HEADERS, parse_headers
from telemetryd.export.sinks.http import HttpExporter
from telemetryd.export.sinks.transport import BRIEF, USER_AGENT
from telemetryd.kube.tls import Origin, TlsFiles, build_context
from telemetryd.model import Payload
from tests.support.certificates import Authority, server_side
from tests.support.receiver import Request, Writer, endless, raw, receiving, status
from tests.support.sampling import examples

pytestmark = pytest.mark.anyio

PAYLOAD = Payload(
    body=b'{"a":1}' * 100,
    content_type="application/json",
    digest="ab" * 32,
    revision=1,
    schema_valid=True,
    schema_error="",
)
CONTEXT = ExportContext(
    name="it",
    attempt=1,
    epoch=4,
    installation_id="8d6f8b1e-5a0b-4f3c-9a4f-0d6b1f5f0a11",
    sequence=1_790_000_000_123,
    collected_at=1_790_000_000.0,
)


def exporter(url: str, environ: dict[str, str] | None = None, **keys: Any) -> HttpExporter:
    config = HttpExporterConfig(name="it", url=url, **keys)
    return build_http(config, now=lambda: 1_790_000_000.0, environ=environ or {})


async def test_request_tells_what_it_carries() -> None:
    async with receiving() as receiver:
        assert await exporter(receiver.url).export(PAYLOAD, CONTEXT) is Outcome.WRITTEN
    (request,) = receiver.requests
    assert (request.method, request.target, request.body) == ("POST", "/v1/payloads", PAYLOAD.body)
    assert request.headers["content-length"] == str(len(gzip.compress(PAYLOAD.body, mtime=0)))
    shown = {
        name: value
        for name, value in request.headers.items()
        if name not in {"host", "content-length", "accept"}
    }
    assert shown == {
        "accept-encoding": "identity",
        "connection": "close",
        "content-encoding": "gzip",
        "content-type": "application/json",
        "idempotency-key": "8d6f8b1e-5a0b-4f3c-9a4f-0d6b1f5f0a11:1790000000123",
        "telemetryd-collected-at": "2026-09-21T14:13:20Z",
        "telemetryd-digest": f"sha256:{PAYLOAD.digest}",
        "telemetryd-epoch": "4",
        "telemetryd-sequence": "1790000000123",
        "user-agent": USER_AGENT,
    }


async def test_uncompressed_body_is_sent_as_it_is() -> None:
    async with receiving() as receiver:
        await exporter(receiver.url, compress=False).export(PAYLOAD, CONTEXT)
    (request,) = receiver.requests
    assert "content-encoding" not in request.headers
    assert request.headers["content-length"] == str(len(PAYLOAD.body))


async def test_credentials_are_read_at_each_use(tmp_path: Path) -> None:
    token, headers = tmp_path / "token", tmp_path / "headers"
    async with receiving() as receiver:
        sink = exporter(receiver.url, bearer_token_file=str(token), headers_file=str(headers))
        with pytest.raises(PermanentError, match="headers_file: the file can't be read") as raised:
            await sink.export(PAYLOAD, CONTEXT)
        assert raised.value.reason is Reason.AUTH
        headers.write_text("# tenant\r\nX-Tenant: blue green\r\n\nX-Empty:\n")
        token.write_text(" \n")
        with pytest.raises(PermanentError, match=f"bearer_token_file {token} is empty"):
            await sink.export(PAYLOAD, CONTEXT)
        token.write_text("one\n")
        await sink.export(PAYLOAD, CONTEXT)
        token.write_text("two")
        await sink.export(PAYLOAD, CONTEXT)
    sent = [request.headers["authorization"] for request in receiver.requests]
    assert sent == ["Bearer one", "Bearer two"]
    assert receiver.requests[0].headers["x-tenant"] == "blue green"
    assert receiver.requests[0].headers["x-empty"] == ""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("hunter2", "line 2 isn't"),
        ("X-A hunter2: b", "line 2 isn't"),
        (": hunter2", "line 2 isn't"),
        ("X-A: hunter2\x00", "line 2 isn't"),
        ("X-A: hunter2\rX-B: b", "line 2 isn't"),
        ("X-A: hünter2", "line 2 isn't"),
        ("Host: hunter2", "line 2 sets Host, which telemetryd sets itself"),
        ("content-LENGTH: 7", "which telemetryd sets itself"),
        ("Telemetryd-Sequence: 7", "which telemetryd sets itself"),
        ("x-ok: hunter2", "line 2 sets x-ok a second time"),
    ],
)
def test_headers_file_with_a_bad_line_is_refused_without_showing_it(
    line: str, message: str
) -> None:
    with pytest.raises(PermanentError, match=message) as raised:
        parse_headers(f"X-Ok: fine\n{line}\n", "headers_file /h")
    assert "hunter2" not in str(raised.value)


@given(text=st.text())
def test_headers_of_any_text_are_plain_lines_or_refused(text: str) -> None:
    try:
        headers = parse_headers(text, "headers_file /h")
    except PermanentError:
        return
    for name, value in headers.items():
        assert (name + value).isascii()
        assert name.lower() not in OWN_HEADERS
        assert not any(char in name + value for char in "\r\n\0")


async def test_authorization_in_both_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hunter2")
    (tmp_path / "headers").write_text("authorization: Basic hunter2\n")
    sink = exporter(
        "http://127.0.0.1:1",
        bearer_token_file=str(tmp_path / "token"),
        headers_file=str(tmp_path / "headers"),
    )
    with pytest.raises(PermanentError, match="has Authorization too") as raised:
        await sink.export(PAYLOAD, CONTEXT)
    assert "hunter2" not in str(raised.value)


async def test_redirect_is_followed_nowhere() -> None:
    async with receiving() as other, receiving(status(307, f"Location: {other.url}")) as receiver:
        with pytest.raises(PermanentError, match="answers 307, a redirect"):
            await exporter(receiver.url).export(PAYLOAD, CONTEXT)
    assert (len(receiver.requests), other.connections) == (1, 0)


async def test_endless_answer_is_cut_off_and_its_connection_closed() -> None:
    ended = anyio.Event()

    async def answer(request: Request, writer: Writer) -> None:
        with suppress(OSError):
            await endless(request, writer)
        ended.set()

    async with receiving(answer) as receiver:
        assert await exporter(receiver.url).export(PAYLOAD, CONTEXT) is Outcome.WRITTEN
        with anyio.fail_after(30):
            await ended.wait()


async def test_answer_whose_body_never_comes_is_a_delivery() -> None:
    async def answer(_request: Request, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        await asyncio.sleep(3600)

    async with receiving(answer) as receiver:
        with anyio.fail_after(30):
            assert await exporter(receiver.url).export(PAYLOAD, CONTEXT) is Outcome.WRITTEN


async def test_answer_that_inflates_is_left_as_it_is() -> None:
    bomb = gzip.compress(bytes(50_000_000))
    answer = status(200, "Content-Encoding: gzip", body=bomb)
    async with receiving(answer) as receiver:
        assert await exporter(receiver.url).export(PAYLOAD, CONTEXT) is Outcome.WRITTEN
    assert len(bomb) > BRIEF.size


async def test_no_one_there_is_worth_another_attempt() -> None:
    async with receiving() as receiver:
        pass
    with pytest.raises(RetryableError, match="refused") as raised:
        await exporter(receiver.url).export(PAYLOAD, CONTEXT)
    assert raised.value.reason is Reason.CONNECT


async def test_certificates_are_read_again_when_their_files_change(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    server, client = authority.issue("server"), authority.issue("client")
    ca = tmp_path / "trusted.pem"
    ca.write_bytes(other.ca.read_bytes())
    tls = server_side(server, client_ca=authority.ca)
    cert, key = tmp_path / "mine.crt", tmp_path / "mine.key"
    async with receiving(tls=tls) as receiver:
        sink = exporter(
            receiver.url,
            ca_file=str(ca),
            client_cert_file=str(cert),
            client_key_file=str(key),
        )
        with pytest.raises(PermanentError, match="client_cert_file: client certificate") as raised:
            await sink.export(PAYLOAD, CONTEXT)
        assert raised.value.reason is Reason.AUTH
        stranger = other.issue("stranger")
        cert.write_bytes(stranger.cert.read_bytes())
        key.write_bytes(stranger.key.read_bytes())
        with pytest.raises(PermanentError, match="certificate in certificate chain"):
            await sink.export(PAYLOAD, CONTEXT)
        ca.write_bytes(authority.ca.read_bytes())
        with pytest.raises(RetryableError):
            await sink.export(PAYLOAD, CONTEXT)
        cert.write_bytes(client.cert.read_bytes())
        key.write_bytes(client.key.read_bytes())
        assert await sink.export(PAYLOAD, CONTEXT) is Outcome.WRITTEN
        ca.write_text("half a file")
        assert await sink.export(PAYLOAD, CONTEXT) is Outcome.WRITTEN
    assert len(receiver.requests) == 2


async def test_ca_that_cannot_be_used_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exporter it: ca_file: CA can't be"):
        exporter("https://127.0.0.1:1", ca_file=f"{tmp_path}/missing")


async def test_proxy_of_the_environment_counts_and_netrc_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine receiver.example login me password hunter2\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    async with receiving() as proxy:
        environ = {"HTTP_PROXY": f"http://user:pass@127.0.0.1:{proxy.port}"}
        await exporter("http://receiver.example/in", environ).export(PAYLOAD, CONTEXT)
        assert proxy.requests[0].target == "http://receiver.example/in"
        assert "authorization" not in proxy.requests[0].headers
        assert proxy.requests[0].headers["proxy-authorization"].startswith("Basic ")
        excepted = exporter(proxy.url, {**environ, "NO_PROXY": "127.0.0.0/8"})
        await excepted.export(PAYLOAD, CONTEXT)
        assert proxy.requests[1].target == "/v1/payloads"
    with pytest.raises(ConfigError, match="HTTP_PROXY"):
        exporter("http://receiver.example/in", {"HTTP_PROXY": "ftp://nowhere"})


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_nothing_stays_open_between_exports() -> None:
    async with receiving(default=status(200, "Connection: keep-alive")) as receiver:
        sink = exporter(receiver.url)
        await sink.export(PAYLOAD, CONTEXT)
        before = open_files()
        for _ in range(20):
            await sink.export(PAYLOAD, CONTEXT)
        with anyio.fail_after(30):
            while open_files() > before:
                await anyio.sleep(0.01)
        await sink.aclose()


LINES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                b"HTTP/1.1 200 OK",
                b"HTTP/1.1 429 Slow",
                b"HTTP/1.1 99999 What",
                b"HTTP/1.1 100 Continue",
                b"HTTP/9.9 200 OK",
                b"HTTP/1.1 200",
                b"Content-Length: 5",
                b"Content-Length: -5",
                b"Content-Length: 5, 6",
                b"Content-Length: 999999999999999999999999",
                b"Transfer-Encoding: chunked",
                b"Transfer-Encoding: gzip, chunked",
                b"Content-Encoding: gzip",
                b"Content-Encoding: \xff\xfe",
                b"Content-Type: \x00",
                b"Set-Cookie: \x01=\x02; Expires=never",
                b"Retry-After: 99999999999999999999999999999999",
                b"Retry-After: Mon, 99 Foo 0000 99:99:99 GMT",
                b"Retry-After: \xd9\xa3",
                b"Date: Thu, 01 Jan 99999 00:00:00 +9999",
                b"Location: http://[",
                b"Upgrade: websocket",
                b"",
                b"5\r\nhello\r\n0\r\n",
                b"ZZ",
                b"x" * 9000,
            ]
        ),
        st.binary(max_size=40),
    ),
    max_size=12,
)


@settings(max_examples=examples(120), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=LINES, well_begun=st.booleans())
def test_no_answer_raises_anything_but_what_an_exporter_may(
    lines: list[bytes], well_begun: bool
) -> None:
    content = b"\r\n".join([b"HTTP/1.1 200 OK", *lines] if well_begun else lines)
    anyio.run(export_to, raw(content))


async def export_to(answer: Callable[[Request, Writer], Any]) -> None:
    async with receiving(answer) as receiver:
        said = ""
        with anyio.fail_after(30):
            try:
                await exporter(receiver.url).export(PAYLOAD, CONTEXT)
            except ExportError as error:
                said = str(error)
        assert said.isprintable()


def test_tls_below_1_2_is_refused(tmp_path: Path) -> None:
    origin = Origin("it")
    files = TlsFiles(
        ca_file=str(Authority(tmp_path).ca),
        cert_file=None,
        key_file=None,
        verify=True,
        ca_origin=origin,
        cert_origin=origin,
    )
    context = build_context(files)
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)


LONG = b"X-Long: " + b"a" * 2_000_000 + b"\r\n"
MANY = b"".join(b"X-%d: %s\r\n" % (number, b"a" * 1_000) for number in range(2_000))
UNREADABLE = {
    "long line": b"HTTP/1.1 %d Something\r\n" + LONG + b"Content-Length: 0\r\n\r\n",
    "many lines": b"HTTP/1.1 %d Something\r\n" + MANY + b"Content-Length: 0\r\n\r\n",
    "body of none": b"HTTP/1.1 %d Something\r\nContent-Length: 2\r\n\r\nok and more",
    "no header": b"HTTP/1.1 %d Something\r\n\x00bad\r\n\r\n",
    "two lengths": b"HTTP/1.1 %d Something\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "bad chunk": b"HTTP/1.1 %d Something\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "after an interim": b"HTTP/1.1 103 Hints\r\nLink: a\r\n\r\nHTTP/1.1 %d Something\r\n" + LONG,
}


@pytest.mark.parametrize("what", UNREADABLE)
@pytest.mark.parametrize("code", [200, 204])
async def test_success_whose_rest_cannot_be_parsed_is_a_delivery(what: str, code: int) -> None:
    async with receiving(raw(UNREADABLE[what] % code)) as receiver:
        assert await exporter(receiver.url).export(PAYLOAD, CONTEXT) is Outcome.WRITTEN
    assert len(receiver.requests) == 1


async def test_success_with_headers_of_usual_size_is_read_whole() -> None:
    headers = [f"X-{number}: {'a' * 40}" for number in range(200)]
    async with receiving(status(200, *headers, f"X-Long: {'a' * 9_000}")) as receiver:
        assert await exporter(receiver.url).export(PAYLOAD, CONTEXT) is Outcome.WRITTEN


@pytest.mark.parametrize(
    ("code", "reason"), [(503, Reason.SERVER), (400, Reason.REJECTED), (429, Reason.THROTTLED)]
)
async def test_refusal_whose_rest_cannot_be_parsed_counts_by_its_status(
    code: int, reason: Reason
) -> None:
    async with receiving(raw(UNREADABLE["long line"] % code)) as receiver:
        with pytest.raises(ExportError, match=f"answers {code}") as caught:
            await exporter(receiver.url).export(PAYLOAD, CONTEXT)
    assert caught.value.reason is reason


async def test_answer_without_a_status_line_is_no_delivery() -> None:
    async with receiving(raw(b"SSH-2.0-server\r\n\r\n")) as receiver:
        with pytest.raises(RetryableError, match="isn't valid HTTP"):
            await exporter(receiver.url).export(PAYLOAD, CONTEXT)


async def test_success_of_a_proxy_is_no_delivery() -> None:
    """The proxy's own answer to CONNECT says 200, and what follows can't be parsed."""
    async with receiving(raw(UNREADABLE["long line"] % 200)) as proxy:
        environ = {"HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}"}
        with pytest.raises(RetryableError, match="more than"):
            await exporter("https://receiver.invalid/", environ).export(PAYLOAD, CONTEXT)


async def test_fence_is_called_last_on_each_attempt(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("one")
    calls: list[int] = []

    async with receiving(status(401)) as receiver:

        def fence() -> None:
            calls.append(len(receiver.requests))
            token.write_text("two")
            if len(calls) == 2:
                raise NotLeading("the term is over")

        context = replace(CONTEXT, fence=fence)
        with pytest.raises(NotLeading, match="the term is over"):
            await exporter(receiver.url, bearer_token_file=str(token)).export(PAYLOAD, context)
        assert receiver.connections == 2, "it was there when the fence refused"
    assert calls == [0, 1]
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    ("head", "rest"),
    [
        (b"Transfer-Encoding: chunked\r\n\r\n", b"zz\r\nand more"),
        (b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", b"zz\r\nand more"),
        (b"Content-Length: 2\r\n\r\n", b"ok and more"),
        (b"X-Half: a", b"a" * 2_000_000),
    ],
)
async def test_success_that_comes_in_pieces_that_cannot_be_parsed_is_a_delivery(
    head: bytes, rest: bytes
) -> None:
    async def in_pieces(_request: Request, writer: Writer) -> None:
        for piece in (b"HTTP/1.1 ", b"200 OK\r\n", head, rest):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.05)

    async with receiving(in_pieces) as receiver:
        assert await exporter(receiver.url).export(PAYLOAD, CONTEXT) is Outcome.WRITTEN
