"""One POST over HTTP: bytes there, an answer back, all of it bounded; shared by what sends so.

What an answer means to a payload is its exporter's affair; when to try again, the manager's.
"""

import gzip
import ssl
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp
import anyio

from telemetryd import __version__
from telemetryd.config.exporters import is_over_tls
from telemetryd.errors import ConfigError, ExportError, PermanentError, Reason, RetryableError
from telemetryd.export.sinks.credentials import read_credentials
from telemetryd.export.sinks.statusline import NotingConnector
from telemetryd.export.turn import StillHangingError, Turn
from telemetryd.kube.fence import Fence, FencedBody, no_fence
from telemetryd.kube.foreign import (
    CONNECT_TIMEOUT_S,
    FOREIGN,
    is_unreadable,
    translate,
)
from telemetryd.kube.proxy import address_of
from telemetryd.kube.responses import parse_http_date, parse_retry_after
from telemetryd.kube.tls import TlsContext, TlsFiles
from telemetryd.limiter import Limiter
from telemetryd.redaction import OURS
from telemetryd.timing import RETRY_AFTER_CAP_S

USER_AGENT: Final = f"telemetryd/{__version__}"


_ZLIB: Final = frozenset({"gzip", "x-gzip", "deflate"})
"""Not asked for, but some receivers and proxies compress all the same."""
_GZIP_OR_ZLIB: Final = 32 + zlib.MAX_WBITS

_OK = range(200, 300)
_REDIRECTS = range(300, 400)
_SERVER_ERRORS = range(500, 600)
_AUTH = frozenset({401, 403})
_TIMEOUTS = frozenset({408, 504})
_THROTTLED = 429
_TOO_LARGE = 413


@dataclass(frozen=True, slots=True)
class Destination:
    """Where to, and with what.

    Attributes:
        url: http or https, without credentials.
        proxy: URL of the proxy on the way, None for none.
        headers_file: Lines ``Name: value``, None for none.
        bearer_token_file: A token, None for none.
        compress: Send gzip.
    """

    url: str
    proxy: str | None = None
    headers_file: str | None = None
    bearer_token_file: str | None = None
    compress: bool = True


@dataclass(frozen=True, slots=True)
class BodyLimit:
    """How much of a success's body is read, and for how long; the status already says what counts.

    Attributes:
        size: In bytes, inflated.
        patience_s: What has come by then is all of it.
        also: Status whose body is wanted too.
    """

    size: int
    patience_s: float
    also: int | None = None


BRIEF: Final = BodyLimit(16 * 1024, 2.0)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        retry_after_s: Seconds the receiver asks for, None where it names none.
        body: Its beginning where it is a success or was wanted, else empty.
        epoch: Header ``Telemetryd-Epoch``, empty without one.
        sequence: Header ``Telemetryd-Sequence``, empty without one.
    """

    status: int
    retry_after_s: float | None
    body: bytes
    epoch: str = ""
    sequence: str = ""

    @property
    def ok(self) -> bool:
        """The receiver has taken what it was sent."""
        return self.status in _OK


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What the files and the body make of a request."""

    credentials: Mapping[str, str]
    body: bytes


class HttpTransport:
    """Sends to one destination, over a connection of its own each time.

    Telemetry leaves once a minute at most: a connection kept for the next would be stale by then.
    Credentials and certificates are read anew for each request, redirects are never followed, and
    neither cookies nor ``.netrc`` count.
    """

    def __init__(
        self,
        destination: Destination,
        *,
        tls_files: TlsFiles | None,
        now: Callable[[], float],
        threads: Limiter,
    ) -> None:
        """Nothing is opened or read yet.

        Args:
            destination: Where to.
            tls_files: What vouches for the receiver and for us; None for plain http.
            now: Unix time in seconds.
            threads: Shared by all such sinks: few read files or compress at a time.
        """
        self._to = destination
        self._now = now
        self._tls: TlsContext | None = None
        if tls_files is not None:
            self._tls = TlsContext(lambda: tls_files, now, recheck_s=0.0)
        self._tls_loaded = False
        self._turn = Turn(threads)

    async def post(
        self,
        body: bytes,
        headers: Mapping[str, str],
        *,
        fence: Fence = no_fence,
        read: BodyLimit = BRIEF,
    ) -> Answer:
        """Send, and where a credential is refused that has changed meanwhile, once more.

        Args:
            body: As it is; it is compressed here.
            headers: ``Content-Type``, and what else goes with this body.
            fence: Called on each attempt as the last thing before bytes leave; what it raises is
                raised here.
            read: How much of a success's body is wanted.

        Raises:
            RetryableError: No answer came, it broke off, or an earlier reading of a file hangs.
            PermanentError: The receiver's certificate isn't trusted, or a file can't be used.
        """
        prepared = await self._prepare(body)
        answer = await self._exchange(prepared, headers, fence, read)
        if answer.status in _AUTH:
            renewed = await self._prepare(body)
            if renewed.credentials != prepared.credentials:
                return await self._exchange(renewed, headers, fence, read)
        return answer

    async def _prepare(self, body: bytes) -> _Prepared:
        try:
            return await self._turn.take(lambda: self._prepare_now(body))
        except StillHangingError as error:
            files = f"{self._to.headers_file or ''} {self._to.bearer_token_file or ''}".strip()
            raise RetryableError(
                Reason.STORAGE, f"an earlier reading of {files} still hangs: look after its disk"
            ) from error

    def _prepare_now(self, body: bytes) -> _Prepared:
        credentials = read_credentials(self._to.headers_file, self._to.bearer_token_file)
        return _Prepared(credentials, gzip.compress(body, mtime=0) if self._to.compress else body)

    async def _exchange(
        self, prepared: _Prepared, headers: Mapping[str, str], fence: Fence, read: BodyLimit
    ) -> Answer:
        context = await self._tls_context()
        connector = NotingConnector()
        proxy, for_proxy = address_of(self._to.proxy)
        outgoing = FencedBody(prepared.body, fence)
        sent = {
            "User-Agent": USER_AGENT,
            "Accept-Encoding": "identity",
            **prepared.credentials,
            **headers,
            **({} if is_over_tls(self._to.url) else for_proxy),
            **({"Content-Encoding": "gzip"} if self._to.compress else {}),
        }
        for secret in (*prepared.credentials.values(), *for_proxy.values()):
            OURS.remember(secret)
        try:
            async with (
                aiohttp.ClientSession(
                    connector=connector,
                    cookie_jar=aiohttp.DummyCookieJar(),
                    timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT_S),
                    auto_decompress=False,  # a small answer may inflate to any size
                    trust_env=False,
                ) as session,
                session.post(
                    self._to.url,
                    data=outgoing,
                    headers=sent,
                    ssl=context if context is not None else True,
                    proxy=proxy,
                    proxy_headers=for_proxy or None,
                    allow_redirects=False,
                ) as response,
            ):
                return await self._read(response, read)
        except FOREIGN as error:
            if outgoing.refused is not None:
                raise outgoing.refused from None
            if connector.status is not None and outgoing.sent and is_unreadable(error):
                return Answer(connector.status, None, b"")
            raise _no_answer(error) from error

    async def _tls_context(self) -> ssl.SSLContext | None:
        if self._tls is None:
            return None
        try:
            if not self._tls_loaded:
                await self._tls.load()
                self._tls_loaded = True
            return await self._tls.current()
        except ConfigError as error:
            raise PermanentError(Reason.AUTH, str(error)) from error

    async def _read(self, response: aiohttp.ClientResponse, limit: BodyLimit) -> Answer:
        headers = response.headers
        sent_at = parse_http_date(headers.get("Date"))
        wanted = (*_OK, limit.also)
        answer = Answer(
            status=response.status,
            retry_after_s=parse_retry_after(
                headers.get("Retry-After"),
                self._now() if sent_at is None else sent_at,
                limit_s=RETRY_AFTER_CAP_S,
            ),
            body=await _read_body(response, limit) if response.status in wanted else b"",
            epoch=headers.get("Telemetryd-Epoch", ""),
            sequence=headers.get("Telemetryd-Sequence", ""),
        )
        response.close()  # the rest of it isn't wanted
        return answer


async def _read_body(response: aiohttp.ClientResponse, limit: BodyLimit) -> bytes:
    """The body as far as it is wanted; one that breaks off before raises as aiohttp does."""
    body = bytearray()
    with anyio.move_on_after(limit.patience_s):
        while len(body) < limit.size and (piece := await response.content.readany()):
            body += piece
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in _ZLIB:
        return bytes(body[: limit.size])
    try:
        return zlib.decompressobj(_GZIP_OR_ZLIB).decompress(body, limit.size)
    except zlib.error:
        return b""


def _no_answer(error: BaseException) -> ExportError:
    said = translate(error, "no answer")
    if isinstance(error, ssl.SSLCertVerificationError | aiohttp.ClientConnectorCertificateError):
        return PermanentError(Reason.CONNECT, f"{said}: fix it there, or give its CA as ca_file")
    reason = Reason.TIMEOUT if isinstance(error, TimeoutError) else Reason.CONNECT
    return RetryableError(reason, str(said))


def is_server_error(status: int) -> bool:
    """Whether the receiver itself failed, so that the same request may succeed later."""
    return status in _SERVER_ERRORS or status in _TIMEOUTS


def oversize(said: str) -> PermanentError:
    """What it means that a receiver takes no body of that size."""
    return PermanentError(
        Reason.OVERSIZE,
        f"{said}, too large: raise the receiver's limit for the size of requests "
        "(max_request_body_size of an OpenTelemetry Collector)",
    )


def refusal(answer: Answer, *, retryable: Callable[[int], bool]) -> ExportError:
    """What an answer that isn't a success means; its body is never told.

    Args:
        answer: The answer.
        retryable: Whether a status may change with another attempt; 429 always may.
    """
    status = answer.status
    said = f"the receiver answers {status}"
    if status == _THROTTLED:
        return RetryableError(
            Reason.THROTTLED, f"{said}: too many requests", retry_after_s=answer.retry_after_s
        )
    if retryable(status):
        reason = Reason.TIMEOUT if status in _TIMEOUTS else Reason.SERVER
        return RetryableError(reason, said, retry_after_s=answer.retry_after_s)
    if status in _AUTH:
        return PermanentError(
            Reason.AUTH,
            f"{said}: look after the credential in bearer_token_file, headers_file or "
            "client_cert_file",
        )
    if status == _TOO_LARGE:
        return oversize(said)
    if status in _REDIRECTS:
        return PermanentError(
            Reason.REJECTED,
            f"{said}, a redirect, which is never followed: give the address it leads to",
        )
    reason = Reason.SERVER if status in _SERVER_ERRORS else Reason.REJECTED
    return PermanentError(reason, f"{said}: look after the address and the receiver's own log")
