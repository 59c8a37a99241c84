"""How `doctor` sees receivers and proxies, each on a real socket that is well or broken."""

import base64
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import pytest

from telemetryd.doctor.checking import CheckResult, Grade
from telemetryd.doctor.receiver import Receiver, check_receiver
from telemetryd.kube.tls import TlsFiles
from tests.support.certificates import Authority, Pair, server_side, sign
from tests.support.daemon import free_port

pytestmark = pytest.mark.anyio

PASS, WARN, FAIL = Grade.PASS, Grade.WARN, Grade.FAIL
NAME = "receiver.invalid"
"""Known to no DNS server: only a proxy leads there."""


class Server:
    """Accepts connections, each in a thread; ``handle`` gets what comes after a handshake."""

    def __init__(
        self, handle: Callable[[socket.socket], None], tls: ssl.SSLContext | None = None
    ) -> None:
        self._handle, self._tls = handle, tls
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"

    def accept(self) -> None:
        """Until the listener is shut."""
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._start(self._serve, connection)

    def _start(self, run: Callable[..., None], *given: object) -> None:
        thread = threading.Thread(target=run, args=given)
        self._threads.append(thread)
        thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            if self._tls is None:
                self._handle(connection)
            else:
                with self._tls.wrap_socket(connection, server_side=True) as secured:
                    self._handle(secured)

    def __enter__(self) -> Self:
        self._start(self.accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()
        self._listener.close()


class Sink(Server):
    """Keeps what is sent to it."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.received = b""
        super().__init__(self._keep, tls)

    def _keep(self, connection: socket.socket) -> None:
        while piece := connection.recv(4096):
            self.received += piece


async def ask(
    url: str, files: TlsFiles | None = None, environ: Mapping[str, str] | None = None
) -> list[CheckResult]:
    return await check_receiver(Receiver("x", url, files), environ or {}, time.time())


def steps(found: list[CheckResult]) -> list[tuple[Grade, str]]:
    return [(each.grade, each.what.removesuffix(" of exporter x")) for each in found]


async def test_receiver_that_is_well_is_reached_step_by_step_and_gets_no_request(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path)
    with Sink(server_side(authority.issue("well"))) as served:
        found = await ask(served.url, TlsFiles(ca_file=str(authority.ca)))
    assert steps(found) == [(PASS, "connection"), (PASS, "TLS")]
    assert "TLSv1.3, the receiver's certificate is valid for 9d23h more" in found[1].detail
    assert served.received == b""


async def test_receiver_in_clear_is_reached_by_its_name() -> None:
    with Sink() as served:
        found = await ask(served.url.replace("127.0.0.1", "localhost"))
    assert steps(found) == [(PASS, "name"), (PASS, "connection")]
    assert "localhost is 127.0.0.1" in found[0].detail
    assert served.received == b""


async def test_closed_port_fails_and_says_where() -> None:
    port = free_port()
    (found,) = await ask(f"http://127.0.0.1:{port}/v1")
    assert found.grade is FAIL
    assert found.detail == f"127.0.0.1:{port}: connection refused"
    assert "start the receiver" in found.fix


async def test_name_that_dns_does_not_know_fails_and_names_it() -> None:
    (found,) = await ask(f"https://{NAME}/v1", TlsFiles())
    assert (found.grade, found.what) == (FAIL, "name of exporter x")
    assert found.detail.startswith(f"{NAME} isn't known: ")
    assert "DNS server" in found.fix


@pytest.mark.parametrize(
    ("days", "address", "trusted", "shown", "fix"),
    [
        (-1, "127.0.0.1", True, "expired", "renew its certificate"),
        (10, "127.0.0.2", True, "mismatch", "a name that its certificate has"),
        (10, "127.0.0.1", False, "unable to get local issuer certificate", "as ca_file"),
    ],
    ids=["expired", "wrong name", "wrong CA"],
)
async def test_certificate_that_does_not_hold_fails_with_its_fix(
    tmp_path: Path, days: int, address: str, trusted: bool, shown: str, fix: str
) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    pair = authority.issue("served", days=days, address=address)
    ca = authority.ca if trusted else other.ca
    with Sink(server_side(pair)) as served:
        found = await ask(served.url, TlsFiles(ca_file=str(ca)))
    assert steps(found) == [(PASS, "connection"), (FAIL, "TLS")]
    assert shown in found[1].detail
    assert fix in found[1].fix
    assert served.received == b""


async def test_certificate_that_ends_soon_warns(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with Sink(server_side(authority.issue("old", days=1))) as served:
        found = await ask(served.url, TlsFiles(ca_file=str(authority.ca)))
    assert steps(found) == [(PASS, "connection"), (WARN, "TLS")]
    assert "23h more" in found[1].detail


async def test_receiver_that_wants_a_client_certificate_passes_with_it_and_fails_without(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path)
    ours = authority.issue("ours")
    context = server_side(authority.issue("strict"), client_ca=authority.ca)
    with Sink(context) as served:
        without = await ask(served.url, TlsFiles(ca_file=str(authority.ca)))
        files = TlsFiles(str(authority.ca), str(ours.cert), str(ours.key))
        with_it = await ask(served.url, files)
    assert steps(without) == [(PASS, "connection"), (FAIL, "TLS")]
    assert "certificate required" in without[1].detail
    assert "client_cert_file" in without[1].fix
    assert steps(with_it) == [(PASS, "connection"), (PASS, "TLS")]


async def test_port_that_does_not_speak_tls_fails() -> None:
    with Server(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad\r\n\r\n")) as served:
        found = await ask(f"https://127.0.0.1:{served.port}", TlsFiles())
    assert steps(found) == [(PASS, "connection"), (FAIL, "TLS")]
    assert "no TLS with 127.0.0.1" in found[1].detail
    assert "port that serves TLS" in found[1].fix


async def test_receiver_that_never_answers_the_handshake_is_given_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        found = await ask(f"https://127.0.0.1:{silent.getsockname()[1]}", TlsFiles())
    assert steps(found) == [(PASS, "connection"), (FAIL, "TLS")]
    assert found[1].detail == "no answer within 5 s"


class Proxy(Server):
    """Opens a tunnel to ``to`` whatever it is asked for, or gives another answer.

    Attributes:
        asked: The first line of each request.
    """

    def __init__(
        self, to: int = 0, *, status: int = 200, login: str = "", tls: ssl.SSLContext | None = None
    ) -> None:
        self._to, self._status = to, status
        self._login = base64.b64encode(login.encode()).decode()
        self.asked: list[str] = []
        super().__init__(self._answer, tls)

    def _answer(self, connection: socket.socket) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            piece = connection.recv(1)
            if not piece:
                return
            head += piece
        first, *headers = head.decode().split("\r\n")
        self.asked.append(first)
        status = self._status
        if self._login and f"Proxy-Authorization: Basic {self._login}" not in headers:
            status = 407
        connection.sendall(f"HTTP/1.1 {status} Something\r\nX-Any: thing\r\n\r\n".encode())
        if status == 200:
            with socket.create_connection(("127.0.0.1", self._to)) as there:
                back = threading.Thread(target=pump, args=(there, connection))
                back.start()
                pump(connection, there)
                back.join(30)


def pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(4096):
            target.sendall(piece)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextmanager
def behind_a_proxy(folder: Path) -> Iterator[tuple[Sink, TlsFiles]]:
    """A receiver that has the name, and what trusts it."""
    authority = sign("ca", ca=True)
    signed = sign(NAME, authority, names=[f"DNS:{NAME}"])
    ca, cert, key = folder / "ca", folder / "cert", folder / "key"
    ca.write_bytes(authority.pem)
    cert.write_bytes(signed.pem)
    key.write_bytes(signed.key_pem())
    with Sink(server_side(Pair(cert, key))) as served:
        yield served, TlsFiles(ca_file=str(ca))


async def test_proxy_is_asked_for_a_tunnel_and_the_receiver_behind_it_is_verified(
    tmp_path: Path,
) -> None:
    with behind_a_proxy(tmp_path) as (served, files), Proxy(served.port) as proxy:
        found = await ask(f"https://{NAME}/v1", files, {"HTTPS_PROXY": proxy.url})
        untrusted = await ask(f"https://{NAME}/v1", TlsFiles(), {"HTTPS_PROXY": proxy.url})
    assert steps(found) == [(PASS, "proxy"), (PASS, "TLS")]
    assert found[0].detail == f"{proxy.url} opens a tunnel to {NAME}:443"
    assert proxy.asked == [f"CONNECT {NAME}:443 HTTP/1.1"] * 2
    assert steps(untrusted) == [(PASS, "proxy"), (FAIL, "TLS")]
    assert served.received == b""


async def test_proxy_that_needs_a_login_passes_with_it_and_fails_without(tmp_path: Path) -> None:
    with (
        behind_a_proxy(tmp_path) as (served, files),
        Proxy(served.port, login="user:s3cret") as proxy,
    ):
        url = f"https://{NAME}/v1"
        without = await ask(url, files, {"HTTPS_PROXY": proxy.url})
        given = {name: proxy.url.replace("//", f"//user:{name}@") for name in ("s3cret", "wr0ng")}
        wrong = await ask(url, files, {"HTTPS_PROXY": given["wr0ng"]})
        right = await ask(url, files, {"HTTPS_PROXY": given["s3cret"]})
    assert steps(without) == steps(wrong) == [(FAIL, "proxy")]
    assert without[0].detail == f"{proxy.url} asks for a login: 407"
    assert "user and password in $HTTPS_PROXY" in without[0].fix
    assert wrong[0].detail == f"{proxy.url} doesn't take the login: 407"
    assert steps(right) == [(PASS, "proxy"), (PASS, "TLS")]
    shown = "".join(map(str, (*without, *wrong, *right)))
    assert "s3cret" not in shown
    assert "wr0ng" not in shown


async def test_proxy_that_refuses_fails_and_names_the_ways_out() -> None:
    with Proxy(status=403) as proxy:
        (found,) = await ask(f"https://{NAME}:8443/v1", TlsFiles(), {"HTTPS_PROXY": proxy.url})
    assert found.detail == f"{proxy.url} refuses a tunnel to {NAME}:8443: 403"
    assert f"name {NAME} in $NO_PROXY" in found.fix


async def test_proxy_that_is_away_or_none_fails_as_the_proxy() -> None:
    port = free_port()
    environ = {"HTTPS_PROXY": f"http://127.0.0.1:{port}"}
    (away,) = await ask(f"https://{NAME}/v1", TlsFiles(), environ)
    assert (away.grade, away.what) == (FAIL, "proxy of exporter x")
    assert away.detail == f"127.0.0.1:{port}: connection refused"
    assert "$HTTPS_PROXY" in away.fix
    (none,) = await ask(f"https://{NAME}/v1", TlsFiles(), {"HTTPS_PROXY": "socks5://x"})
    assert none.detail.startswith("$HTTPS_PROXY is a SOCKS proxy")


async def test_proxy_that_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environ = {"HTTPS_PROXY": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        (found,) = await ask(f"https://{NAME}/v1", TlsFiles(), environ)
    assert (found.what, found.detail) == ("proxy of exporter x", "no answer within 5 s")


async def test_proxy_over_tls_is_verified_too(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "proxies")
    with behind_a_proxy(tmp_path) as (served, files):
        both = tmp_path / "both"
        both.write_bytes(authority.ca.read_bytes() + (tmp_path / "ca").read_bytes())
        context = server_side(authority.issue("proxy"))
        with Proxy(served.port, tls=context) as proxy:
            environ = {"HTTPS_PROXY": proxy.url}
            well = await ask(f"https://{NAME}/v1", TlsFiles(ca_file=str(both)), environ)
            untrusted = await ask(f"https://{NAME}/v1", files, environ)
    assert steps(well) == [(PASS, "proxy"), (PASS, "TLS")]
    assert steps(untrusted) == [(FAIL, "proxy")]
    assert "isn't trusted" in untrusted[0].detail


async def test_proxy_of_plain_http_is_reached_and_nothing_is_asked_of_it() -> None:
    with Proxy() as proxy:
        (found,) = await ask(f"http://{NAME}/v1", None, {"HTTP_PROXY": proxy.url})
    assert (found.grade, found.what) == (PASS, "proxy of exporter x")
    assert proxy.asked == []
