"""One client's connection: limits, deadlines and plain error answers on top of aiohttp's protocol.

aiohttp ends idle connections, but no request whose headers never end and no answer that is never
read, and it limits each header line but not their sum.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import cast

from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response, StreamResponse
from aiohttp.web_server import Server

log = logging.getLogger(__name__)

MOST_HEADERS = 64
LONGEST_LINE_BYTES = 8190
_END_OF_HEAD = b"\r\n\r\n"
_FAREWELL_S = 1.0
_READ_BYTES = 4096
"""At a time: a client can't keep the event loop busy for long, or use much memory."""

HEADERS = {
    "Server": "telemetryd",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Of every answer."""

_HEAD_TOO_LARGE = "\r\n".join((
    "HTTP/1.1 431 Request Header Fields Too Large",
    *(f"{name}: {value}" for name, value in HEADERS.items()),
    "Content-Type: text/plain; charset=utf-8",
    "Content-Length: 32",
    "Connection: close",
    "",
    "request header fields too large\n",
)).encode()  # fmt: skip


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits on each client.

    Attributes:
        request_timeout_s: From the first byte of a connection or a request until its headers are
            read and it is authorized.
        making_timeout_s: From then until the answer is rendered: a thousand exporters have
            megabytes of metrics.
        answer_timeout_s: For the client to read the answer.
        keep_alive_s: For an idle connection: longer than the usual scrape interval of a minute.
        head_bytes: For a request line and its headers together.
        connections: From all clients, handshakes included. One more replaces one of the address
            with the most.
        grace_s: No connection is dropped for another one before its first answer or the end of
            this time, which begins again after the handshake.
    """

    request_timeout_s: float = 10.0
    making_timeout_s: float = 60.0
    answer_timeout_s: float = 30.0
    keep_alive_s: float = 120.0
    head_bytes: int = 16_384
    connections: int = 128
    grace_s: float = 0.25


def answer(status: int, body: bytes, content_type: str) -> Response:
    """An answer with the common headers."""
    return Response(status=status, body=body, headers={**HEADERS, "Content-Type": content_type})


def answer_text(status: int, text: str) -> Response:
    """An answer in plain text."""
    return answer(status, text.encode(errors="backslashreplace"), "text/plain; charset=utf-8")


class ClientConnection(RequestHandler, asyncio.BufferedProtocol):
    """aiohttp's protocol with limits and a deadline for each request and each answer.

    While a request is answered, nothing is read: no body and no next request.

    Attributes:
        peer: The client's address, without its port.
        carrier: The TCP connection, also before TLS is established.
        served: Requests answered.
        sending_since_s: When sending the answer began, None while none is being sent.
        since_s: When it was accepted or its handshake was complete, by the event loop's clock.
        since_round: The round of accepting at that time.
    """

    def __init__(
        self,
        server: Server,
        peer: str,
        limits: ConnectionLimits,
        *,
        is_current: Callable[[], bool],
        changed: Callable[["ClientConnection"], None],
    ) -> None:
        """Serve one client.

        ``is_current`` says whether the security rules are still those of its beginning;
        ``changed`` is called when it was served or is lost.
        """
        loop = asyncio.get_running_loop()
        super().__init__(
            server,
            loop=loop,
            logger=log,
            access_log=None,  # type: ignore[arg-type]  # aiohttp's way to say: none
            keepalive_timeout=limits.keep_alive_s,
            lingering_time=0,  # don't wait for a request's body
            max_line_size=LONGEST_LINE_BYTES,
            max_field_size=LONGEST_LINE_BYTES,
            max_headers=MOST_HEADERS,
            read_bufsize=_READ_BYTES,
            auto_decompress=False,
        )
        self.peer = peer
        self.carrier: asyncio.Transport | None = None
        self.served = 0
        self.sending_since_s: float | None = None
        self.since_s = loop.time()
        self.since_round = 0
        self.is_lost = False
        self._is_current = is_current
        self._changed = changed
        self._stream: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._timer = loop
        self._limits = limits
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._is_idle = False
        self._head_bytes = 0
        self._seen = b""
        self._kept = b""
        self._when_answered: Callable[[], None] | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether there is no whole request to answer."""
        return not self._request_in_progress

    @property
    def is_served(self) -> bool:
        """Whether it was served before, and has nothing to answer or send now."""
        if self._request_in_progress or not (self.served > 0 or self._close):
            return False
        return not any(
            each.get_write_buffer_size() for each in (self._stream, self.carrier) if each
        )

    @property
    def has_slot(self) -> bool:
        """Whether it has one of the slots for answers."""
        return self._when_answered is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the first request's deadline, unless the rules changed during the handshake."""
        self._stream = cast("asyncio.Transport", transport)
        self.carrier = self.carrier or self._stream
        self.since_s = self._timer.time()
        if not self._is_current():
            self._stream.abort()
            return
        self._expect(self._limits.request_timeout_s)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the deadline."""
        self._disarm()
        self._answered()
        self._stream = None
        super().connection_lost(exc)
        self.lose()

    def lose(self) -> None:
        """Report that it is lost, established or not."""
        self.is_lost = True
        self.carrier = None
        if self._stream is None:
            self._parser = None  # refers to this connection: a cycle until garbage collection
        self._changed(self)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - never more
        """The buffer to read into."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Process what was read."""
        self._take(bytes(self._buffer[:nbytes]))

    def _take(self, data: bytes) -> None:
        """Give aiohttp one request's head, and keep what follows until that is answered."""
        stream = self._stream
        if stream is None or self._close:
            return
        if data and self._is_idle:
            self._is_idle = False
            self._expect(self._limits.request_timeout_s)
        while data:
            seen = self._seen + data
            end = seen.find(_END_OF_HEAD)
            size = len(data) if end < 0 else end + len(_END_OF_HEAD) - len(self._seen)
            self._seen = seen[1 - len(_END_OF_HEAD) :] if end < 0 else b""
            self._head_bytes += size
            if self._head_bytes > self._limits.head_bytes:
                self._refuse_head(stream)
                return
            before = self._request_count
            self.data_received(data[:size])
            data = data[size:]
            if self._request_count != before:
                self._head_bytes = 0
                self._kept = data
                stream.pause_reading()
                return

    def _refuse_head(self, stream: asyncio.Transport) -> None:
        """Answer 431 and stop reading: closing now, with unread data, would discard the answer."""
        self.close()
        self.served += 1
        stream.pause_reading()
        stream.write(_HEAD_TOO_LARGE)
        self._expect(_FAREWELL_S)

    def expect_answer(self) -> None:
        """The request is authorized: start the deadline for rendering its answer."""
        self._expect(self._limits.making_timeout_s)

    def when_answered(self, call: Callable[[], None]) -> None:
        """Call once the answer is sent or can't be sent."""
        self._when_answered = call

    async def finish_response(
        self, request: BaseRequest, resp: StreamResponse, start_time: float | None
    ) -> tuple[StreamResponse, bool]:
        """Send the answer within its deadline; after it the connection may idle."""
        self._expect(self._limits.answer_timeout_s)
        self.sending_since_s = self._timer.time()
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._answered()
            self._idle()

    def _answered(self) -> None:
        self.sending_since_s = None
        call, self._when_answered = self._when_answered, None
        if call is not None:
            call()

    def _idle(self) -> None:
        """Wait for the next request; a connection that doesn't close in time is aborted."""
        self.served += 1
        stream = self._stream
        if stream is None:
            return
        self._is_idle = True
        self._expect(self._limits.keep_alive_s + self._limits.request_timeout_s)
        kept, self._kept = self._kept, b""
        self._take(kept)
        if not self._messages and not stream.is_closing():
            stream.resume_reading()
        self._changed(self)

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - quotes the request
    ) -> StreamResponse:
        """Answer one plain line, and log nothing of the request.

        Raises:
            ConnectionError: A part of another answer is sent already.
        """
        level = logging.ERROR if status == HTTPStatus.INTERNAL_SERVER_ERROR else logging.DEBUG
        # aiohttp's errors quote header lines, which may have a token.
        log.log(level, "bad request status=%d error=%s", status, type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is already on its way")
        response = answer_text(status, f"{HTTPStatus(status).phrase.lower()}\n")
        response.force_close()
        return response

    def log_exception(self, *_args: object, **details: object) -> None:
        """Log that aiohttp failed, without the request."""
        log.error("connection failed error=%s", type(details.get("exc_info")).__name__)

    def end(self) -> None:
        """Close the connection: at once where it is idle, else after the answer."""
        if self.is_waiting:
            self.force_close()
        else:
            self.close()

    def abort(self) -> None:
        """Drop the connection without sending the rest."""
        if self.carrier is not None:
            self.carrier.abort()

    def _expect(self, within_s: float) -> None:
        self._disarm()
        if self._stream is not None:
            self._deadline = self._timer.call_later(within_s, self.abort)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
