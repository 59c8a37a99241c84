"""Whether an exporter's receiver can be reached: its name, TCP, the proxy on the way, and TLS.

A connection is opened as the exporter opens it, and closed. No request is sent through it, and no
credential leaves but the login of the proxy.
"""

import asyncio
import ipaddress
import os
import re
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final
from urllib.parse import urlsplit

import anyio
from anyio.abc import ByteStream
from anyio.streams.tls import TLSAttribute, TLSStream

from telemetryd.bounds import causes_of, free_text
from telemetryd.config.exporters import is_over_tls
from telemetryd.doctor.checking import CheckResult, fail, passed
from telemetryd.doctor.local import judge_validity
from telemetryd.errors import ConfigError
from telemetryd.kube.address import ProxyAddress, address_of, proxy_for
from telemetryd.kube.http import CONNECT_TIMEOUT_S
from telemetryd.kube.pem import Validity
from telemetryd.kube.tls import TlsFiles, build_context
from telemetryd.sharedread import SharedRead

HANDSHAKE_ALERT_S: Final = 0.5
"""A receiver that doesn't take our certificate says so after the handshake, from TLS 1.3 on."""

_MOST_HEAD_BYTES: Final = 64 * 1024
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])\b")
_OK: Final = 200
_LOGIN_REQUIRED: Final = 407
_MOST_ADDRESSES: Final = 4
_ENDED: Final = (OSError, anyio.EndOfStream, anyio.BrokenResourceError)
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Receiver:
    """Where an exporter sends, and what it shows and trusts there.

    Attributes:
        exporter: Its name.
        tls_files: None for plain http.
    """

    exporter: str
    url: str
    tls_files: TlsFiles | None

    @property
    def host(self) -> str:
        """A name or an address."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """Of the URL, or that of its scheme."""
        parts = urlsplit(self.url)
        return parts.port or _PORTS[parts.scheme]

    @property
    def place(self) -> str:
        """Host and port, as a proxy is asked for them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class _Stopped(Exception):
    """A step failed, and is noted."""


@dataclass(slots=True, eq=False)
class _Way:
    """The steps on the way to a receiver, and what came of each so far.

    Attributes:
        environ: Names the proxy.
        now_s: Unix time in seconds.
        what: The step that is being made.
        fix: What helps where it fails.
    """

    receiver: Receiver
    environ: Mapping[str, str]
    now_s: float
    findings: list[CheckResult] = field(default_factory=list)
    what: str = ""
    fix: str = ""

    @property
    def proxy_variable(self) -> str:
        return f"${urlsplit(self.receiver.url).scheme.upper()}_PROXY"

    def begin(self, what: str, fix: str) -> None:
        self.what, self.fix = f"{what} of exporter {self.receiver.exporter}", fix

    def passed(self, detail: str) -> None:
        self.findings.append(passed(self.what, detail))

    def stop(self, detail: str, fix: str = "") -> _Stopped:
        """Note that the step failed; raise what it returns."""
        self.findings.append(fail(self.what, detail, fix or self.fix))
        return _Stopped(detail)


async def check_receiver(
    receiver: Receiver, environ: Mapping[str, str], now_s: float
) -> list[CheckResult]:
    """What each step came to, up to the first that failed.

    All of them together may take as long as they may when a payload is sent.
    """
    way = _Way(receiver, environ, now_s)
    with suppress(_Stopped):
        try:
            with anyio.fail_after(CONNECT_TIMEOUT_S):
                await _go(way)
        except TimeoutError:
            raise way.stop(f"no answer within {CONNECT_TIMEOUT_S:g} s") from None
    return way.findings


async def _go(way: _Way) -> None:
    receiver = way.receiver
    way.begin("proxy", f"fix {way.proxy_variable}, or name {receiver.host} in $NO_PROXY")
    try:
        proxy = address_of(proxy_for(receiver.url, way.environ))
    except ConfigError as error:
        problem = error.problems[0]
        raise way.stop(f"{problem.where} {problem.message}", f"fix {problem.where}") from error
    context = await _context_of(way)
    if proxy.url is None:
        await _look_up(way, receiver.host, receiver.port)
        fix = "start the receiver, or fix the URL, the firewall or the NetworkPolicy in between"
        way.begin("connection", fix)
        stream = await _connect(way, receiver.host, receiver.port)
        way.passed(f"{receiver.place} takes connections")
    else:
        stream = await _reach_proxy(way, proxy, context)
    try:
        if context is not None:
            await _shake_hands(way, stream, context)
    finally:
        await anyio.aclose_forcefully(stream)


async def _context_of(way: _Way) -> ssl.SSLContext | None:
    files = way.receiver.tls_files
    if files is None:
        return None
    build = partial(build_context, files)
    try:
        return await SharedRead[ssl.SSLContext]("doctor").take(build)
    except ConfigError as error:  # the file has a line of its own, which says why
        way.begin("TLS", "fix the certificates first")
        raise way.stop("not possible with these certificates") from error


async def _look_up(way: _Way, host: str, port: int) -> None:
    """See whether the name is known; nothing for an address."""
    with suppress(ValueError):
        ipaddress.ip_address(host.partition("%")[0])
        return
    way.begin("name", "fix the URL, or the DNS server that this machine asks")
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = free_text(getattr(error, "strerror", "") or "it can't be one")
        raise way.stop(f"{host} isn't known: {why}") from error
    addresses = sorted({str(each[4][0]) for each in found})
    way.passed(f"{host} is {', '.join(addresses[:_MOST_ADDRESSES])}")


async def _connect(way: _Way, host: str, port: int) -> ByteStream:
    try:
        return await anyio.connect_tcp(host, port)
    except (OSError, UnicodeError) as error:
        shown = f"[{host}]" if ":" in host else host
        raise way.stop(f"{shown}:{port}: {_why_unreached(error)}") from error


def _why_unreached(error: Exception) -> str:
    if isinstance(error, socket.gaierror | UnicodeError):
        return "the host name isn't known"
    causes = (cause for cause in causes_of(error.__cause__ or error) if isinstance(cause, OSError))
    number = next((cause.errno for cause in causes if cause.errno), None)
    return os.strerror(number).lower() if number else "no address takes connections"


async def _reach_proxy(
    way: _Way, proxy: ProxyAddress, context: ssl.SSLContext | None
) -> ByteStream:
    """A connection to the proxy; for https, with a tunnel to the receiver."""
    parts = urlsplit(proxy.url or "")
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    shown = f"{parts.scheme}://{parts.netloc}"
    stream = await _connect(way, host, port)
    try:
        if is_over_tls(shown):
            trust = context or ssl.create_default_context()
            stream = await _start_tls(way, stream, trust, host)
        if context is None:
            way.passed(f"{shown} takes connections; a payload shows whether it forwards")
        else:
            await _open_tunnel(way, stream, proxy, shown)
    except BaseException:
        await anyio.aclose_forcefully(stream)
        raise
    return stream


async def _open_tunnel(way: _Way, stream: ByteStream, proxy: ProxyAddress, shown: str) -> None:
    place = way.receiver.place
    status = await _ask_for_tunnel(stream, place, proxy.headers)
    if status == _OK:
        way.passed(f"{shown} opens a tunnel to {place}")
        return
    if not status:
        raise way.stop(f"{shown} doesn't answer as an HTTP proxy does")
    if status == _LOGIN_REQUIRED:
        said = "doesn't take the login" if proxy.headers else "asks for a login"
        netloc = urlsplit(shown).netloc
        fix = f"give user and password in {way.proxy_variable}, as http://USER:PASSWORD@{netloc}"
        raise way.stop(f"{shown} {said}: {status}", fix)
    fix = f"let the proxy connect to {place}, or name {way.receiver.host} in $NO_PROXY"
    raise way.stop(f"{shown} refuses a tunnel to {place}: {status}", fix)


async def _ask_for_tunnel(stream: ByteStream, place: str, headers: Mapping[str, str]) -> int:
    """The status of the proxy's answer; 0 for none."""
    lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    head = b""
    with suppress(*_ENDED):
        await stream.send("\r\n".join([*lines, "", ""]).encode("latin-1"))
        # Not a byte more than the head: what follows belongs to TLS.
        while not head.endswith(b"\r\n\r\n") and len(head) < _MOST_HEAD_BYTES:
            head += await stream.receive(1)
    found = _STATUS.match(head)
    return int(found[1]) if found else 0


async def _shake_hands(way: _Way, stream: ByteStream, context: ssl.SSLContext) -> None:
    way.begin("TLS", "give the URL of a port that serves TLS, or see what is in between")
    secured = await _start_tls(way, stream, context, way.receiver.host)
    try:
        with anyio.move_on_after(HANDSHAKE_ALERT_S):
            await secured.receive(1)
    except ssl.SSLError as error:
        fix = "give a certificate that it trusts as client_cert_file"
        raise way.stop(f"the receiver refuses the client: {_why(error)}", fix) from error
    except _ENDED as error:
        fix = "read the receiver's log: it may want a certificate, as client_cert_file"
        raise way.stop("the receiver hangs up after the handshake", fix) from error
    certificate = secured.extra(TLSAttribute.peer_certificate) or {}  # noqa: S610 - no Django
    begins, ends = (
        float(ssl.cert_time_to_seconds(str(certificate[key]))) for key in ("notBefore", "notAfter")
    )
    version = secured.extra(TLSAttribute.tls_version)  # noqa: S610 - no Django
    subject = f"{version}, the receiver's certificate"
    way.findings += judge_validity(way.what, subject, Validity(begins, ends), way.now_s)


async def _start_tls(
    way: _Way, stream: ByteStream, context: ssl.SSLContext, host: str
) -> TLSStream:
    try:
        return await TLSStream.wrap(stream, hostname=host, ssl_context=context)
    except ssl.SSLCertVerificationError as error:
        why = free_text(error.verify_message).rstrip(".")
        fix = "fix its certificate, or give the CA that signs it as ca_file"
        if "expired" in why:
            fix = "renew its certificate"
        elif "mismatch" in why:
            fix = "give the URL a name that its certificate has, or fix its certificate"
        raise way.stop(f"the certificate of {host} isn't trusted: {why}", fix) from error
    except ssl.SSLError as error:
        raise way.stop(f"no TLS with {host}: {_why(error)}") from error
    except (*_ENDED, UnicodeError) as error:
        raise way.stop(f"no TLS with {host}: it hangs up") from error


def _why(error: ssl.SSLError) -> str:
    return (error.reason or "failed").lower().replace("_", " ")
