"""One client's connection: deadlines and plain error answers over aiohttp's protocol.

aiohttp ends idle connections, but neither a request whose headers never end nor an answer that is
never read. What is answered doesn't belong here.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import cast

from aiohttp import web

log = logging.getLogger(__name__)

_MOST_HEADERS = 64
_LONGEST_LINE_BYTES = 8190

HEADERS = {
    "Server": "telemetryd",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Of every answer: what is shown here is for its reader only, and never a page that runs."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may take.

    Attributes:
        request_timeout_s: From the first byte of a connection or a request until its headers are
            in and it is let in.
        making_timeout_s: From then until an answer is made. That time is ours, not the client's: a
            thousand exporters have megabytes of metrics.
        answer_timeout_s: For the client to take the answer.
        keep_alive_s: Of an idle connection: longer than the usual scrape interval of a minute.
        connections: At a time, of all clients, handshakes included; one more takes the place of the
            one that has waited longest without a request, and is dropped where none waits.
    """

    request_timeout_s: float = 10.0
    making_timeout_s: float = 60.0
    answer_timeout_s: float = 30.0
    keep_alive_s: float = 120.0
    connections: int = 512


def answer(status: int, body: bytes, content_type: str) -> web.Response:
    """An answer with the headers that every answer has."""
    return web.Response(status=status, body=body, headers={**HEADERS, "Content-Type": content_type})


def answer_text(status: int, text: str) -> web.Response:
    """An answer in plain text."""
    return answer(status, text.encode(errors="backslashreplace"), "text/plain; charset=utf-8")


class Connection(web.RequestHandler):
    """aiohttp's protocol with a deadline for each request and each answer.

    Attributes:
        waiting_since_s: When it was made or last answered, by the event loop's clock.
    """

    def __init__(
        self,
        manager: web.Server,
        is_current: Callable[[], bool],
        *,
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
    ) -> None:
        """Serve one client.

        Args:
            manager: All connections.
            is_current: Whether what was asked of the client when it connected still is.
            loop: The event loop.
            limits: What a client may take.
        """
        super().__init__(
            manager,
            loop=loop,
            logger=log,
            access_log=None,  # type: ignore[arg-type]  # aiohttp's way to say: none
            keepalive_timeout=limits.keep_alive_s,
            lingering_time=0,  # a body that nobody asked for isn't waited for
            max_line_size=_LONGEST_LINE_BYTES,
            max_field_size=_LONGEST_LINE_BYTES,
            max_headers=_MOST_HEADERS,
        )
        self._is_current = is_current
        self._stream: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._timer = loop
        self._limits = limits
        self.waiting_since_s = loop.time()

    @property
    def is_open(self) -> bool:
        """Whether it isn't being closed."""
        return self._stream is not None and not self._stream.is_closing()

    @property
    def is_waiting(self) -> bool:
        """Whether no whole request is in, or all are answered."""
        return self._current_request is None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the first request's deadline, unless what is asked changed during a handshake."""
        self._stream = cast("asyncio.Transport", transport)
        if not self._is_current():
            self._stream.abort()
            return
        self._expect(self._limits.request_timeout_s)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the deadline."""
        self._disarm()
        self._stream = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Start the deadline of a further request with its first bytes."""
        if data and self._deadline is None:
            self._expect(self._limits.request_timeout_s)
        super().data_received(data)

    def expect_answer(self) -> None:
        """The request was let in: start the deadline for making its answer."""
        self._expect(self._limits.making_timeout_s)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the answer within its deadline; after it the connection may idle."""
        self._expect(self._limits.answer_timeout_s)
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._disarm()
            self.waiting_since_s = self._timer.time()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - says what was sent
    ) -> web.StreamResponse:
        """One plain line instead of what went wrong.

        Raises:
            ConnectionError: A part of another answer is sent already.
        """
        level = logging.ERROR if status == HTTPStatus.INTERNAL_SERVER_ERROR else logging.DEBUG
        # Its message quotes what was sent: any length of it, credentials too.
        log.log(level, "bad request status=%d error=%s", status, type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is already on its way")
        response = answer_text(status, f"{HTTPStatus(status).phrase.lower()}\n")
        response.force_close()
        return response

    def end(self) -> None:
        """Close the connection: at once where it is idle, else with the answer under way."""
        if self.is_waiting:
            self.force_close()
        else:
            self.close()

    def abort(self) -> None:
        """Drop the connection without sending what is left."""
        if self._stream is not None:
            self._stream.abort()

    def _expect(self, within_s: float) -> None:
        self._disarm()
        self._deadline = self._timer.call_later(within_s, self.abort)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
