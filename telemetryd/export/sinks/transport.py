"""One POST over HTTP, bounded in size and time, for the sinks http and otlp."""

import gzip
import ssl
import zlib
from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass, field
from typing import Final

import aiohttp
import anyio

from telemetryd import __version__
from telemetryd.config.exporters import is_over_tls
from telemetryd.errors import ConfigError, ExportError, PermanentError, Reason, RetryableError
from telemetryd.export.sinks.credentials import read_credentials
from telemetryd.export.threads import StillHangingError, WorkerThread
from telemetryd.kube.address import ProxyAddress, address_of
from telemetryd.kube.http import (
    CONNECT_TIMEOUT_S,
    HTTP_ERRORS,
    StatusConnector,
    is_unreadable,
    translate,
)
from telemetryd.kube.requests import Fence, FencedBody, no_fence
from telemetryd.kube.responses import parse_http_date, parse_retry_after
from telemetryd.kube.tls import TlsContext, TlsFiles
from telemetryd.limiter import Limiter
from telemetryd.redaction import OURS
from telemetryd.timing import RETRY_AFTER_CAP_S

USER_AGENT: Final = f"telemetryd/{__version__}"

_ZLIB: Final = frozenset({"gzip", "x-gzip", "deflate"})
"""Not asked for, but some receivers and proxies compress anyway."""
_GZIP_OR_ZLIB: Final = 32 + zlib.MAX_WBITS

_OK = range(200, 300)
_REDIRECTS = range(300, 400)
_SERVER_ERRORS = range(500, 600)
_AUTH = frozenset({401, 403})
_TIMEOUTS = frozenset({408, 504})
_THROTTLED = 429
_TOO_LARGE = 413


@dataclass(frozen=True, slots=True)
class BodyLimit:
    """How much of a success's body is read. The status alone decides, so the body may be cut off.

    Attributes:
        size: In bytes, inflated.
        patience_s: Seconds after which the body is taken as it is.
        also: Another status whose body is read.
    """

    size: int
    patience_s: float
    also: int | None = None


BRIEF: Final = BodyLimit(16 * 1024, 2.0)


@dataclass(frozen=True, slots=True)
class ReceiverAnswer:
    """The answer of a receiver.

    Attributes:
        status: HTTP status.
        retry_after_s: Seconds for which the receiver asks to be left alone, None for none.
        body: Its beginning for a success or a status that ``BodyLimit`` names, else empty.
        epoch: Header ``Telemetryd-Epoch``, empty for none.
        sequence: Header ``Telemetryd-Sequence``, empty for none.
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
    """A request's headers from files, and its body as it is sent."""

    credentials: Mapping[str, str]
    body: bytes


@dataclass(slots=True, eq=False, repr=False, kw_only=True)
class HttpTransport:
    """Sends to one destination, over a connection of its own each time.

    Telemetry is sent once a minute at most: a connection kept for the next would be stale by then.
    Credentials and certificates are read for each request, redirects are never followed, and
    cookies and ``.netrc`` are ignored.

    Attributes:
        url: http or https, without credentials.
        proxy: URL of the proxy on the way, None for none.
        headers_file: Lines ``Name: value``; None for none.
        bearer_token_file: A token, sent as ``Authorization: Bearer``; None for none.
        compress: Send gzip.
        tls_files: CA and client certificate; None for plain http.
        now: Unix time in seconds.
        threads: Limits how many sinks read files or compress at a time.
    """

    url: str
    proxy: InitVar[str | None] = None
    headers_file: str | None = None
    bearer_token_file: str | None = None
    compress: bool = True
    tls_files: InitVar[TlsFiles | None]
    now: Callable[[], float]
    threads: InitVar[Limiter]
    _proxy: ProxyAddress = field(init=False)
    _tls: TlsContext | None = field(default=None, init=False)
    _tls_loaded: bool = field(default=False, init=False)
    _thread: WorkerThread = field(init=False)

    def __post_init__(
        self, proxy: str | None, tls_files: TlsFiles | None, threads: Limiter
    ) -> None:
        self._proxy = address_of(proxy)
        self._thread = WorkerThread(threads)
        if tls_files is not None:
            self._tls = TlsContext(lambda: tls_files, self.now, recheck_s=0.0)

    async def post(
        self,
        body: bytes,
        headers: Mapping[str, str],
        *,
        fence: Fence = no_fence,
        read: BodyLimit = BRIEF,
    ) -> ReceiverAnswer:
        """Send; if the receiver refuses a credential that has changed meanwhile, send once more.

        Args:
            body: As it is; gzip is done here.
            headers: Those of this request; they replace those of the files.
            fence: Called on each attempt as the last thing before bytes leave; its exceptions are
                raised here.
            read: How much of the answer's body is wanted.

        Returns:
            The answer, whatever its status.

        Raises:
            RetryableError: No answer came, it broke off, or an earlier read of a file hangs.
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
            return await self._thread.run(lambda: self._prepare_now(body))
        except StillHangingError as error:
            files = f"{self.headers_file or ''} {self.bearer_token_file or ''}".strip()
            raise RetryableError(
                Reason.STORAGE, f"an earlier read of {files} still hangs: check its disk"
            ) from error

    def _prepare_now(self, body: bytes) -> _Prepared:
        credentials = read_credentials(self.headers_file, self.bearer_token_file)
        return _Prepared(credentials, gzip.compress(body, mtime=0) if self.compress else body)

    async def _exchange(
        self, prepared: _Prepared, headers: Mapping[str, str], fence: Fence, read: BodyLimit
    ) -> ReceiverAnswer:
        context = await self._tls_context()
        connector = StatusConnector()
        outgoing = FencedBody(prepared.body, fence)
        sent = {
            "User-Agent": USER_AGENT,
            "Accept-Encoding": "identity",
            **prepared.credentials,
            **headers,
            **({} if is_over_tls(self.url) else self._proxy.headers),
            **({"Content-Encoding": "gzip"} if self.compress else {}),
        }
        for secret in (*prepared.credentials.values(), *self._proxy.headers.values()):
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
                    self.url,
                    data=outgoing,
                    headers=sent,
                    ssl=context if context is not None else True,
                    proxy=self._proxy.url,
                    proxy_headers=self._proxy.headers or None,
                    allow_redirects=False,
                ) as response,
            ):
                return await self._read(response, read)
        except HTTP_ERRORS as error:
            if outgoing.refused is not None:
                raise outgoing.refused from None
            if connector.status is not None and outgoing.sent and is_unreadable(error):
                return ReceiverAnswer(connector.status, None, b"")
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

    async def _read(self, response: aiohttp.ClientResponse, limit: BodyLimit) -> ReceiverAnswer:
        headers = response.headers
        sent_at = parse_http_date(headers.get("Date"))
        wanted = (*_OK, limit.also)
        answer = ReceiverAnswer(
            status=response.status,
            retry_after_s=parse_retry_after(
                headers.get("Retry-After"),
                self.now() if sent_at is None else sent_at,
                limit_s=RETRY_AFTER_CAP_S,
            ),
            body=await _read_body(response, limit) if response.status in wanted else b"",
            epoch=headers.get("Telemetryd-Epoch", ""),
            sequence=headers.get("Telemetryd-Sequence", ""),
        )
        response.close()  # the rest isn't wanted
        return answer


async def _read_body(response: aiohttp.ClientResponse, limit: BodyLimit) -> bytes:
    """The body up to its limit; where it breaks off before, aiohttp's error is raised."""
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
    """The error where a receiver refuses the size of a body."""
    return PermanentError(
        Reason.OVERSIZE,
        f"{said}, too large: raise the receiver's limit for the size of requests "
        "(max_request_body_size of an OpenTelemetry Collector)",
    )


def refusal(answer: ReceiverAnswer, *, retryable: Callable[[int], bool]) -> ExportError:
    """The error for an answer that isn't a success; it never quotes the body.

    Another attempt may succeed after a ``retryable`` status, and always after 429.
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
            f"{said}: check the credential in bearer_token_file, headers_file or client_cert_file",
        )
    if status == _TOO_LARGE:
        return oversize(said)
    if status in _REDIRECTS:
        return PermanentError(
            Reason.REJECTED,
            f"{said}, a redirect, which is never followed: give the address it leads to",
        )
    reason = Reason.SERVER if status in _SERVER_ERRORS else Reason.REJECTED
    return PermanentError(reason, f"{said}: check the address and the receiver's own log")
