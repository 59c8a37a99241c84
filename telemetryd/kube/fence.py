"""The fence of a write: called as the last thing before bytes leave, and before each piece of them.

Credential, TLS context and connection are ready by then, so nothing slow comes between the two.
"""

from collections.abc import Callable
from typing import Final, TypeAlias

import anyio.lowlevel
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload

Fence: TypeAlias = Callable[[], None]
"""Raises NotLeading where the write must not leave."""

_PIECE_BYTES: Final = 64 * 1024
"""Written at once; other tasks run in between."""


def no_fence() -> None:
    """Let everything through."""


class FencedBody(Payload):
    """The body of a request, which may be empty; the fence is called before each write of it.

    aiohttp holds back a request's head until the first write of the body, so a fence that refuses
    there keeps every byte from leaving. One that refuses later leaves the request incomplete, and
    its receiver drops it. In both cases aiohttp closes the connection.

    Attributes:
        refused: What the fence raised; aiohttp raises another error instead.
        sent: The whole body has been written.
    """

    _autoclose = True  # nothing is open

    def __init__(self, body: bytes, fence: Fence) -> None:
        super().__init__(body)
        self._size = len(body)
        self._fence = fence
        self.refused: Exception | None = None
        self.sent = False

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The body as text."""
        return bytes(self._value).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write all of it."""
        await self.write_with_length(writer, None)

    async def write_with_length(
        self,
        writer: AbstractStreamWriter,
        content_length: int | None,  # noqa: ARG002 - it is the length of the body
    ) -> None:
        """Write all of it."""
        left = memoryview(self._value)
        while True:
            piece, left = left[:_PIECE_BYTES], left[_PIECE_BYTES:]
            self._ask()
            await writer.write(piece)
            if not left:
                break
            await anyio.lowlevel.checkpoint()
        self.sent = True

    def _ask(self) -> None:
        """Call the fence; nothing may come between this and the write."""
        try:
            self._fence()
        except Exception as refusal:
            self.refused = refusal
            raise
