"""Any bytes on the HTTP port, plain and TLS: the daemon answers others, and holds no more."""

import http.client
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given

from tests.fuzz.budget import budget, examples, fuzzing, patient
from tests.fuzz.counts import assert_no_growth
from tests.fuzz.daemon import Probed
from tests.fuzz.http_bytes import SENT, Sent
from tests.support.certificates import Authority

pytestmark = [patient, fuzzing, pytest.mark.filterwarnings("ignore:Generating overly large repr")]

EXAMPLES = 60
_RESET = struct.pack("ii", 1, 0)
_WAIT_S = 0.02
_READ_BYTES = 65536


@dataclass(frozen=True)
class Target:
    """A daemon that speaks plain HTTP, or TLS."""

    daemon: Probed
    context: ssl.SSLContext | None

    def is_alive(self) -> bool:
        """Whether a probe gets its answer, on a connection of its own."""
        port = self.daemon.daemon.port
        client = (
            http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=self.context)
            if self.context
            else http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        )
        try:
            client.request("GET", "/livez")
            answer = client.getresponse()
            return (answer.status, answer.read()) == (200, b"ok\n")
        finally:
            client.close()

    def send(self, sent: Sent) -> bytes:
        """Do as the client does; what came back, which may be cut off."""
        with socket.create_connection(("127.0.0.1", self.daemon.daemon.port), 30) as plain:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.context is None or not sent.covered:
                return _converse(plain, plain, sent)
            with self.context.wrap_socket(plain, server_hostname="127.0.0.1") as covered:
                return _converse(covered, covered, sent)


def _converse(stream: socket.socket, plain: socket.socket, sent: Sent) -> bytes:
    received = b""
    with suppress(OSError):  # the server may hang up at any time
        for piece in sent.pieces():
            stream.sendall(piece)
        if sent.waits:
            stream.settimeout(_WAIT_S)
            with suppress(TimeoutError):
                received = stream.recv(_READ_BYTES)
        stream.settimeout(30)
        match sent.leaves:
            case "eof":
                stream.shutdown(socket.SHUT_WR)
                while chunk := stream.recv(_READ_BYTES):
                    received += chunk
            case "reset":
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    return received


@pytest.fixture(params=["plain", "tls"])
def target(
    request: pytest.FixtureRequest, daemon: Probed, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    folder: Path = tmp_path_factory.mktemp("certificates")
    if request.param == "plain":
        yield Target(daemon, None)
        return
    authority = Authority(folder)
    pair = authority.issue("server")
    daemon.configure(f'tls_cert_file = "{pair.cert}"\ntls_key_file = "{pair.key}"')
    assert daemon.ask("reload").ok
    yield Target(daemon, ssl.create_default_context(cafile=str(authority.ca)))
    daemon.configure()
    assert daemon.ask("reload").ok


def test_bad_request_is_logged_without_what_it_says(target: Target) -> None:
    content = b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer hush\0\r\n" + b"x" * 20_000
    target.send(Sent(content, cuts=[], waits=True, leaves="eof", covered=True))
    assert target.is_alive()
    target.daemon.assert_well()
    log = target.daemon.daemon.whole_log()
    assert '"bad request","status":400' in log
    assert "hush" not in log


def test_any_bytes_leave_the_server_answering_and_as_it_was(target: Target) -> None:
    @budget(EXAMPLES)
    @given(sent=SENT)
    def fuzz(sent: Sent) -> None:
        received = target.send(sent)
        if received and target.context is None:
            assert received.startswith(b"HTTP/1."), received[:200]
        assert b"Traceback" not in received
        assert b"HTTP/1.1 500" not in received
        assert target.is_alive()
        target.daemon.assert_well()

    assert_no_growth(fuzz, examples(EXAMPLES), target.daemon.counts)
