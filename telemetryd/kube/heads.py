"""How much of an answer's head is read: as a whole as much as client-go reads, by line or in many.

aiohttp limits each line and their number, so that what is enough of one allows too much of both. It
has no public place for a protocol of one's own: without its private one, the limit of a line holds.
"""

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


class HeadHandler(ResponseHandler):
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


class HeadConnector(aiohttp.TCPConnector):
    """Opens connections whose answers may have such heads."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory = self._handle  # type: ignore[assignment]

    def _handle(self) -> HeadHandler:
        return HeadHandler(self._loop)
