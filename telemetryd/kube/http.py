"""HTTP by aiohttp: answers with limited heads and bodies, and its errors translated.

aiohttp limits each line of a head and their number, so that what is enough of one allows too much
of both. It has no public place for a protocol of one's own: without its private one, the limit of a
line holds, and no status is noted. Bodies are inflated only if compression was asked for.
"""

import io
import os
import re
import ssl
import zlib
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import aiohttp
import anyio.lowlevel
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError, PayloadEncodingError

from telemetryd.bounds import free_text
from telemetryd.errors import BadResponse, Reason, TooLarge, Unavailable
from telemetryd.kube.responses import ERROR_BODY_BYTES

CONNECT_TIMEOUT_S = 5.0
"""Until a connection is open, TLS and a proxy's tunnel included."""

HTTP_ERRORS = (aiohttp.ClientError, HttpProcessingError, OSError, ValueError, EOFError)
"""Errors that a request, or reading its answer, may raise."""

_TOO_LONG = re.compile(r"Got more than ([0-9]+) bytes")


def translate(error: BaseException, what: str) -> Unavailable:
    """An error of ours. The text of the other is left out: it may quote what was sent."""
    return Unavailable(f"{what}: {_why(error)}", kind=Reason.CONNECT)


def is_unsent(error: BaseException | None) -> bool:
    """Whether a request failed before its first byte left; None where there was no credential."""
    unsent = (aiohttp.ClientConnectorError, aiohttp.ClientConnectorCertificateError)
    return error is None or isinstance(error, (*unsent, aiohttp.ClientHttpProxyError))


def is_unreadable(error: BaseException) -> bool:
    """Whether an answer came that can't be parsed; False for none, or one that broke off."""
    if isinstance(error, aiohttp.ClientHttpProxyError | PayloadEncodingError):
        return False
    return isinstance(error, aiohttp.ClientResponseError | HttpProcessingError)


def _why_unreadable(error: BaseException) -> str:
    said = str(getattr(error, "message", ""))
    if too_long := _TOO_LONG.match(said):
        return f"the answer's headers have more than {too_long[1]} bytes"
    return "the answer isn't valid HTTP"


def _why(error: BaseException) -> str:  # noqa: PLR0911 - one line a case
    if isinstance(error, ssl.SSLCertVerificationError | aiohttp.ClientConnectorCertificateError):
        cause = getattr(error, "certificate_error", error)
        why = free_text(getattr(cause, "verify_message", "") or "not trusted")
        return f"the server's certificate: {why}"
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return f"no connection in {CONNECT_TIMEOUT_S:g} s"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the host name isn't known"
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy says {error.status}"
    cause = getattr(error, "os_error", error)
    if isinstance(cause, ssl.SSLError):
        return f"TLS {(cause.reason or 'failed').lower().replace('_', ' ')}"
    if is_unreadable(error):
        return _why_unreadable(error)
    if isinstance(error, aiohttp.ClientPayloadError | HttpProcessingError):
        return "the answer broke off"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the server hung up"
    number = cause.errno if isinstance(cause, OSError) else None
    return os.strerror(number).lower() if number and number > 0 else type(error).__name__


MAX_HEAD_BYTES: Final = 1024 * 1024
"""Of a status line with all headers, as Go's ``http.Transport`` takes them by default. What one
read of the socket brings may come on top."""

_FINAL: Final = 200
"""Answers below are interim ones: their heads count with that of the final answer."""
_SHORTEST_LINE_BYTES: Final = 4
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])[ \r\n]")
_STATUS_WITHIN_BYTES: Final = 64 * 1024
"""A status line is searched in so many bytes; only interim answers can come before it."""


class LimitedHandler(ResponseHandler):
    """Feeds aiohttp's parser, and counts the bytes until it has a head.

    Attributes:
        received: Called when the parser has been fed, and when the connection is lost.
    """

    _head_bytes: int | None = None
    received: Callable[[], None] | None = None

    def set_response_params(self, **params: Any) -> None:
        """Expect an answer; called for each request, and for the tunnel of a proxy."""
        self._head_bytes = 0
        limits = dict.fromkeys(("max_line_size", "max_field_size"), MAX_HEAD_BYTES)
        most_lines = MAX_HEAD_BYTES // _SHORTEST_LINE_BYTES
        super().set_response_params(**{**params, **limits, "max_headers": most_lines})

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Take what the parser has made of a head."""
        if data[0].code >= _FINAL:
            self._head_bytes = None
        super().feed_data(data, size)

    def data_received(self, data: bytes) -> None:
        """Take bytes from the socket."""
        if self._head_bytes is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes is not None and self._head_bytes > MAX_HEAD_BYTES:
            self._head_bytes = None
            self.set_exception(HttpProcessingError(message=f"Got more than {MAX_HEAD_BYTES} bytes"))
            self.abort()
        if self.received is not None:
            self.received()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection has ended."""
        super().connection_lost(exc)
        if self.received is not None:
            self.received()


class LimitedConnector(aiohttp.TCPConnector):
    """Opens connections whose answers have limited heads."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory = self._handle  # type: ignore[assignment]

    def _handle(self) -> LimitedHandler:
        return LimitedHandler(self._loop)


class _StatusHandler(LimitedHandler):
    """Keeps the status line of the answer, before aiohttp's parser sees it."""

    status: int | None = None
    _seen: bytes = b""

    def data_received(self, data: bytes) -> None:
        if self.status is None and len(self._seen) < _STATUS_WITHIN_BYTES:
            self._note(data)
        super().data_received(data)

    def _note(self, data: bytes) -> None:
        self._seen += data
        while line := _STATUS_LINE.match(self._seen):
            status = int(line[1])
            if status >= _FINAL:
                self.status, self._seen = status, b""
                return
            _, ended, rest = self._seen.partition(b"\r\n\r\n")
            if not ended:
                return
            self._seen = rest


class StatusConnector(LimitedConnector):
    """Opens one connection, and keeps the status line of its answer.

    A receiver that answers 2xx has taken what it was sent, even where the rest of its answer can't
    be parsed. Where nothing is kept, such an answer is a failed attempt.
    """

    def __init__(self) -> None:
        super().__init__(limit=1, force_close=True)
        self._handlers: list[_StatusHandler] = []

    @property
    def status(self) -> int | None:
        """Of the final answer; of a proxy's where there is no tunnel through it yet."""
        return self._handlers[-1].status if self._handlers else None

    def _handle(self) -> _StatusHandler:
        handler = _StatusHandler(self._loop)
        self._handlers.append(handler)
        return handler


_PIECE_BYTES = 512 * 1024
"""Inflated at once: about 1 ms."""

_GZIP = 16 + zlib.MAX_WBITS


class Body:
    """The body of one answer, in pieces of bounded size."""

    def __init__(self, response: aiohttp.ClientResponse, what: str, *, gzip: bool) -> None:
        """Read nothing yet.

        Raises:
            BadResponse: It has an encoding that wasn't asked for.
        """
        self._content = response.content
        self._what = what
        self._inflater: zlib._Decompress | None = None
        self._holds_back = False
        self._ready: deque[bytes] = deque()
        encoding = response.headers.get("Content-Encoding", "").strip().lower()
        if encoding == "gzip" and gzip:
            self._inflater = zlib.decompressobj(_GZIP)
        elif encoding not in {"", "identity"}:
            message = f"{what}: a Content-Encoding that wasn't asked for"
            raise BadResponse(message, status=response.status)

    async def piece(self) -> bytes:
        """The next bytes, empty at the end.

        Raises:
            BadResponse: It isn't gzip though it says so.
            Unavailable: It breaks off.
        """
        while not self._ready:
            # It is kept before anything else is awaited, so that a deadline drops none of it.
            packed = await self._content.readany() if self._is_used_up() else None
            if self._inflater is None:
                return packed or b""
            self._inflate(self._inflater, packed)
        if self._inflater is not None:
            await anyio.lowlevel.checkpoint()
        return self._ready.popleft()

    def _is_used_up(self) -> bool:
        inflater = self._inflater
        return inflater is None or not (inflater.unconsumed_tail or self._holds_back)

    def _inflate(self, inflater: "zlib._Decompress", packed: bytes | None) -> None:
        try:
            piece = inflater.decompress(
                inflater.unconsumed_tail if packed is None else packed, _PIECE_BYTES
            )
        except zlib.error as error:
            raise BadResponse(f"{self._what}: broken gzip") from error
        self._holds_back = len(piece) == _PIECE_BYTES
        if inflater.unused_data:
            raise BadResponse(f"{self._what}: something follows the gzip")
        if piece:
            self._ready.append(piece)
        elif packed == b"":
            if not inflater.eof:
                raise Unavailable(f"{self._what}: the answer broke off", kind=Reason.CONNECT)
            self._ready.append(b"")


async def read_whole(
    response: aiohttp.ClientResponse, what: str, max_bytes: int, *, gzip: bool
) -> bytes:
    """The whole body of a success.

    Raises:
        TooLarge: It is longer than that.
        BadResponse: Its encoding isn't what was asked for.
        Unavailable: It breaks off.
    """
    # BytesIO grows in place and returns its content without a copy.
    whole = io.BytesIO()
    body = Body(response, what, gzip=gzip)
    while piece := await body.piece():
        if whole.tell() + len(piece) > max_bytes:
            response.close()
            raise TooLarge(f"{what}: more than {max_bytes} bytes", status=response.status)
        whole.write(piece)
    return whole.getvalue()


async def read_head(response: aiohttp.ClientResponse, what: str, *, gzip: bool) -> bytes:
    """The beginning of an error's body, empty where it can't be read."""
    head = bytearray()
    try:
        body = Body(response, what, gzip=gzip)
        while len(head) < ERROR_BODY_BYTES and (piece := await body.piece()):
            head += piece
    except (BadResponse, Unavailable, *HTTP_ERRORS):
        return b""
    return bytes(head[:ERROR_BODY_BYTES])
