"""An API server and every proxy before it, in one: answers whatever arrives and writes it down.

What arrives is recognised by its first byte: TLS, a SOCKS greeting, or HTTP; a CONNECT begins
another layer inside. So one listener stands for any path that a client may take.
"""

import contextlib
import select
import socket
import ssl
import threading
from dataclasses import dataclass, field
from typing import Any, Self

from cryptography import x509
from cryptography.x509.oid import NameOID

_TLS, _SOCKS5 = 0x16, 0x05
_PATIENCE_S = 90.0
_VERSION = (
    b'{"major":"1","minor":"37","gitVersion":"v1.37.2","gitCommit":"","gitTreeState":"clean"}'
)


@dataclass(frozen=True)
class Answers:
    """How the API server behaves.

    Attributes:
        cert: PEM of its certificate and key, with what it sends besides.
        proxy_cert: The same of a proxy that is spoken to by TLS.
        client_ca: PEM of who signs client certificates.
        status: HTTP status of the answer.
        headers: More of its headers.
        wants_certificate: Whether a client without a certificate is turned away.
        max_tls: Name of the newest version of TLS; empty for any.
    """

    cert: str
    proxy_cert: str
    client_ca: str
    status: str = "200 OK"
    headers: tuple[tuple[str, str], ...] = ()
    wants_certificate: bool = False
    max_tls: str = ""


@dataclass
class Recorder:
    """Listens on loopback while its context is open; ``paths`` has a list for each connection."""

    answers: Answers
    paths: list[list[dict[str, Any]]] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(_PATIENCE_S)

    def requests(self) -> list[list[dict[str, Any]]]:
        """The paths that ended at an API server, as far as they were recorded."""
        return [path for path in self.paths if path and "request" in path[-1]]

    def _start(self, run: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            path: list[dict[str, Any]] = []
            self.paths.append(path)
            self._start(self._serve, sock, path)

    def _serve(self, sock: socket.socket, path: list[dict[str, Any]]) -> None:
        sock.settimeout(_PATIENCE_S)
        with contextlib.suppress(OSError, ValueError), contextlib.closing(sock):
            self._layer(sock, path)

    def _layer(self, sock: socket.socket, path: list[dict[str, Any]]) -> None:
        first = sock.recv(1, socket.MSG_PEEK)
        if not first:
            return
        if first[0] == _TLS:
            self._tls(sock, path)
        elif first[0] == _SOCKS5:
            self._socks(sock, path)
        else:
            self._http(sock, path)

    def _tls(self, sock: socket.socket, path: list[dict[str, Any]]) -> None:
        seen: dict[str, Any] = {"tls": None}
        path.append(seen)
        # The first layer may be a proxy's: its name says so.
        context = self._context(self.answers.cert)

        def named(wrapped: ssl.SSLSocket | ssl.SSLObject, name: str | None, _: object) -> None:
            seen["tls"] = name
            if name is not None and "proxy" in name:
                wrapped.context = self._context(self.answers.proxy_cert)

        context.sni_callback = named
        try:
            secure = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=True)
        except (OSError, ValueError):
            seen["failed"] = True
            return
        der = secure.getpeercert(binary_form=True)
        seen["certificate"] = _common_name(der) if der else None
        inner, outer = socket.socketpair()
        inner.settimeout(_PATIENCE_S)
        self._start(_pump, secure, outer)
        with contextlib.closing(inner):
            self._layer(inner, path)

    def _context(self, cert: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert)
        context.load_verify_locations(self.answers.client_ca)
        context.verify_mode = (
            ssl.CERT_REQUIRED if self.answers.wants_certificate else ssl.CERT_OPTIONAL
        )
        if self.answers.max_tls:
            context.maximum_version = ssl.TLSVersion[self.answers.max_tls]
        return context

    def _socks(self, sock: socket.socket, path: list[dict[str, Any]]) -> None:
        """RFC 1928 and 1929: any user is taken, the target is written down."""
        methods = _read(sock, _read(sock, 2)[1])
        if 2 in methods:
            sock.sendall(b"\x05\x02")
            user = _read(sock, _read(sock, 2)[1])
            password = _read(sock, _read(sock, 1)[0])
            sock.sendall(b"\x01\x00")
            who = f"{user.decode()}:{password.decode()}"
        else:
            sock.sendall(b"\x05\x00")
            who = ""
        kind = _read(sock, 4)[3]
        length = {1: 4, 4: 16}.get(kind) or _read(sock, 1)[0]
        host = _read(sock, length)
        port = int.from_bytes(_read(sock, 2))
        name = host.decode() if kind == 3 else host.hex()
        path.append({"socks": f"{name}:{port}", "who": who})
        sock.sendall(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
        self._layer(sock, path)

    def _http(self, sock: socket.socket, path: list[dict[str, Any]]) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            more = sock.recv(1)  # one at a time: what follows a CONNECT isn't ours
            if not more:
                return
            head += more
        line, *fields = head.decode("latin-1").rstrip().split("\r\n")
        headers = [
            (name.strip().lower(), value.strip())
            for name, _, value in (item.partition(":") for item in fields)
        ]
        method, target, _ = line.split(" ", 2)
        known = dict(headers)
        if method == "CONNECT":
            path.append({"connect": target, "who": known.get("proxy-authorization")})
            sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            self._layer(sock, path)
            return
        path.append(
            {
                "request": target,
                "host": known.get("host"),
                "who": known.get("authorization"),
                "proxy": known.get("proxy-authorization"),
                "as": sorted(item for item in headers if item[0].startswith("impersonate-")),
            }
        )
        lines = "".join(f"{name}: {value}\r\n" for name, value in self.answers.headers)
        sock.sendall(
            f"HTTP/1.1 {self.answers.status}\r\nContent-Type: application/json\r\n{lines}"
            f"Connection: close\r\nContent-Length: {len(_VERSION)}\r\n\r\n".encode()
            + _VERSION
        )
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(1024):  # closing before it has read would reset the connection
                pass


def _read(sock: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        more = sock.recv(length - len(data))
        if not more:
            raise OSError("ended early")
        data += more
    return data


def _pump(secure: ssl.SSLSocket, plain: socket.socket) -> None:
    """Carry both ways until one side ends; one thread, for OpenSSL allows no second."""
    with contextlib.suppress(OSError, ValueError), secure, plain:
        while True:
            ready: list[socket.socket] = [secure] if secure.pending() else []
            ready = ready or select.select([secure, plain], [], [], _PATIENCE_S)[0]
            if not ready:
                return
            if secure in ready:
                data = secure.recv(65536)
                if not data:
                    return
                plain.sendall(data)
            if plain in ready:
                data = plain.recv(65536)
                if not data:
                    secure.unwrap()
                    return
                secure.sendall(data)


def _common_name(der: bytes) -> str:
    name = x509.load_der_x509_certificate(der).subject
    return str(name.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
