"""Connections whose answers' heads are limited as a whole, as client-go limits them.

aiohttp limits each line and their number, so that what is enough of one allows too much of both. It
has no public place for a protocol of one's own: without its private one, the limit of a line holds,
and no status is noted.
"""

import re
from typing import Any, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

MAX_HEAD_BYTES: Final = 1024 * 1024
"""Of a status line with all headers, as Go's ``http.Transport`` takes them by default. What one
read of the socket brings may come on top."""

_FINAL: Final = 200
"""Answers below are interim ones: their heads count with that of the final answer."""
_SHORTEST_LINE_BYTES: Final = 4
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])[ \r\n]")
_STATUS_WITHIN_BYTES: Final = 64 * 1024
"""A status line is searched in so many bytes; only interim answers can come before it."""


class _LimitedHandler(ResponseHandler):
    """Feeds aiohttp's parser, and counts the bytes until it has a head."""

    _head_bytes: int | None = None

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


class LimitedConnector(aiohttp.TCPConnector):
    """Opens connections whose answers have limited heads."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory = self._handle  # type: ignore[assignment]

    def _handle(self) -> _LimitedHandler:
        return _LimitedHandler(self._loop)


class _StatusHandler(_LimitedHandler):
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
