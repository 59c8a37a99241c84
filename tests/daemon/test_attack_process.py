"""The running daemon under clients that send without end: memory, and probes of their address."""

import http.client
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.daemon.test_security_process import keys, running
from tests.support.certificates import Authority

GROWTH_KIB = 20 * 1024
CONNECTIONS = 200
UNFINISHED = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + b"".join(
    b"X-%02d: " % number + b"a" * 8100 + b"\r\n" for number in range(61)
)
TINY = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + b"".join(
    b"X-%02d: " % number + b"a" * 240 + b"\r\n" for number in range(61)
)
PIPELINED = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000
BODY = (
    b"POST /livez HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    + (b"10000\r\n" + b"a" * 65536 + b"\r\n") * 4
)
CLIENT_HELLO = b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc" + b"\x03\x03" + b"a" * 16_000


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "server-ca")


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Path:
    """No API server listens there."""
    path = tmp_path / "kubeconfig"
    path.write_text(
        "{apiVersion: v1, kind: Config, current-context: x,"
        " contexts: [{name: x, context: {cluster: x, user: x}}],"
        " clusters: [{name: x, cluster: {server: 'http://127.0.0.1:1'}}],"
        " users: [{name: x, user: {token: x}}]}"
    )
    return path


def memory_kib(pid: int, what: str = "VmRSS") -> int:
    found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1])


class Attacker:
    """Opens connections to one port and keeps them."""

    def __init__(self, port: int, context: ssl.SSLContext | None, stack: ExitStack) -> None:
        self._port = port
        self._context = context
        self._stack = stack

    def send(self, data: bytes, *, handshake: bool = True) -> None:
        """Send on a new connection as much as is taken at once."""
        with suppress(OSError):
            stream = socket.create_connection(("127.0.0.1", self._port), timeout=60)
            self._stack.enter_context(stream)
            if self._context is not None and handshake:
                stream = self._context.wrap_socket(stream, server_hostname="127.0.0.1")
                self._stack.enter_context(stream)
            stream.setblocking(False)
            stream.send(data)

    def probe(self) -> int:
        """The status of `/livez` on a new connection from the same address."""
        connection = (
            http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
            if self._context is None
            else http.client.HTTPSConnection(
                "127.0.0.1", self._port, timeout=60, context=self._context
            )
        )
        try:
            connection.request("GET", "/livez")
            return connection.getresponse().status
        finally:
            connection.close()


@contextmanager
def attacked(port: int, context: ssl.SSLContext | None) -> Iterator[Attacker]:
    with ExitStack() as stack:
        yield Attacker(port, context, stack)


@pytest.mark.parametrize("scheme", ["http", pytest.param("https", marks=pytest.mark.long)])
def test_memory_stays_and_probes_are_answered_while_clients_send_without_end(
    scheme: str, tmp_path: Path, kubeconfig: Path, authority: Authority
) -> None:
    context: ssl.SSLContext | None = None
    server = ""
    if scheme == "https":
        server = keys(authority.issue("server"))
        context = ssl.create_default_context(cafile=str(authority.ca))
    with running(tmp_path, kubeconfig, server, fresh=True) as daemon:
        with attacked(daemon.port, context) as usual:
            for _ in range(20):
                assert usual.probe() == 200
        before = memory_kib(daemon.process.pid)
        for data in (UNFINISHED, TINY, PIPELINED, BODY, CLIENT_HELLO):
            with attacked(daemon.port, context) as attacker:
                for number in range(CONNECTIONS):
                    attacker.send(data, handshake=data is not CLIENT_HELLO)
                    if number % 50 == 49:
                        assert attacker.probe() == 200
        assert memory_kib(daemon.process.pid, "VmHWM") < before + GROWTH_KIB
