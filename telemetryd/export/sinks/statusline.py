"""The status line of an answer, also where the rest of the answer can't be parsed.

A receiver that answers 2xx has taken what it was sent, whatever follows that line.
"""

import re
from typing import Final

from telemetryd.kube.heads import HeadConnector, HeadHandler

_LINE: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])[ \r\n]")
_INTERIM: Final = range(100, 200)
_MOST_BYTES: Final = 64 * 1024
"""A status line is looked for in so many bytes; only interim answers can come before it."""


class _NotingHandler(HeadHandler):
    """Feeds aiohttp's parser, and notes the status first."""

    status: int | None = None
    _seen: bytes = b""

    def data_received(self, data: bytes) -> None:
        if self.status is None and len(self._seen) < _MOST_BYTES:
            self._note(data)
        super().data_received(data)

    def _note(self, data: bytes) -> None:
        self._seen += data
        while line := _LINE.match(self._seen):
            status = int(line[1])
            if status not in _INTERIM:
                self.status, self._seen = status, b""
                return
            _, ended, rest = self._seen.partition(b"\r\n\r\n")
            if not ended:
                return
            self._seen = rest


class NotingConnector(HeadConnector):
    """Opens one connection, and knows the status line of what is answered over it.

    aiohttp has no public place for a protocol of one's own. Without its private one nothing is
    noted, and such an answer is a failed attempt.
    """

    def __init__(self) -> None:
        super().__init__(limit=1, force_close=True)
        self._handlers: list[_NotingHandler] = []

    @property
    def status(self) -> int | None:
        """Of the final answer; of a proxy's where there is no tunnel through it yet."""
        return self._handlers[-1].status if self._handlers else None

    def _handle(self) -> _NotingHandler:
        handler = _NotingHandler(self._loop)
        self._handlers.append(handler)
        return handler
