"""A stream as batches of lines, which may change hands between two of them.

How chunks become lines is ``lines``'s business, and what a line means ``apply``'s.
"""

from telemetryd.informer.lines import LineSplitter, OversizeLine
from telemetryd.informer.source import Stream


class LineFeed:
    """What one stream brings, a batch of lines for each chunk that is read."""

    def __init__(self, stream: Stream) -> None:
        """Nothing is read yet."""
        self._stream = stream
        self._splitter = LineSplitter()
        self._first: list[bytes | OversizeLine] = []

    async def read(self, timeout_s: float) -> list[bytes | OversizeLine] | None:
        """The lines of the next chunk, often none; None at the end of the stream.

        Raises:
            Unavailable: Nothing came in time (kind TIMEOUT), or the connection broke.
            BadResponse: It can't be decompressed.
        """
        if self._first:
            lines, self._first = self._first, []
            return lines
        chunk = await self._stream.read(timeout_s)
        return self._splitter.feed(chunk) if chunk else None

    def put_back(self, lines: list[bytes | OversizeLine]) -> None:
        """Whoever reads next gets these first."""
        self._first = lines
