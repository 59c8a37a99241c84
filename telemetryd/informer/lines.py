"""A stream as lines: one JSON document each, as a watch sends them. ``apply`` decodes them."""

from dataclasses import dataclass

from telemetryd.kube.body import ByteStream

DEFAULT_MAX_LINE_BYTES = 8 * 1024 * 1024
"""etcd takes 1.5 MiB a request by default and API servers 3 MiB; an event adds a few bytes."""

_HEAD_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class OversizeLine:
    """A line above the limit that was skipped.

    Attributes:
        head: Its first bytes, in which the object's key may be found.
    """

    head: bytes


class LineSplitter:
    """Splits a stream; every byte is read once and copied at most twice.

    A line above ``max_line_bytes`` is skipped to its newline. An incomplete line at the end of the
    stream is never returned.
    """

    __slots__ = ("_head", "_head_bytes", "_max_line_bytes", "_tail", "_tail_bytes")

    def __init__(self, max_line_bytes: int = DEFAULT_MAX_LINE_BYTES) -> None:
        if max_line_bytes < 1:
            raise ValueError("max_line_bytes must be at least 1")
        self._max_line_bytes = max_line_bytes
        self._head_bytes = min(_HEAD_BYTES, max_line_bytes)
        self._tail: list[bytes] = []
        self._tail_bytes = 0
        self._head: bytes | None = None

    def feed(self, chunk: bytes) -> list[bytes | OversizeLine]:
        """The lines that end in this chunk, without newline and without empty ones."""
        end = chunk.rfind(b"\n")
        if end < 0:
            self._keep(chunk)
            return []
        lines: list[bytes | OversizeLine] = []
        first_end = chunk.find(b"\n")
        self._keep(chunk[:first_end])
        if self._head is not None:
            lines.append(OversizeLine(self._head))
        elif self._tail_bytes:
            lines.append(b"".join(self._tail))
        if end > first_end:
            for line in chunk[first_end + 1 : end].split(b"\n"):
                if len(line) > self._max_line_bytes:
                    lines.append(OversizeLine(line[: self._head_bytes]))
                elif line:
                    lines.append(line)
        self._head = None
        self._tail = []
        self._tail_bytes = 0
        self._keep(chunk[end + 1 :])
        return lines

    def _keep(self, piece: bytes) -> None:
        if self._head is not None or not piece:
            return
        self._tail.append(piece)
        self._tail_bytes += len(piece)
        if self._tail_bytes > self._max_line_bytes:
            self._head = b"".join(self._tail)[: self._head_bytes]
            self._tail = []
            self._tail_bytes = 0


class LineFeed:
    """The lines of one stream, a batch for each chunk that is read."""

    def __init__(self, stream: ByteStream) -> None:
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
        """Return these first at the next read."""
        self._first = lines
