"""Bodies of answers as they come: bounded, and inflated only where compression was asked for."""

import io
import zlib
from collections import deque

import aiohttp
import anyio
import anyio.lowlevel

from telemetryd.errors import BadResponse, Reason, TooLarge, Unavailable
from telemetryd.kube.httperrors import HTTP_ERRORS, translate
from telemetryd.kube.responses import ERROR_BODY_BYTES

_PIECE_BYTES = 512 * 1024
"""Inflated at once: about 1 ms."""

_GZIP = 16 + zlib.MAX_WBITS


class Body:
    """The body of one answer, in pieces of bounded size."""

    def __init__(self, response: aiohttp.ClientResponse, what: str, *, gzip: bool) -> None:
        """Read nothing yet.

        Args:
            response: The answer, whose session doesn't decompress bodies.
            what: The request, for messages.
            gzip: Whether gzip was asked for.

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


class ByteStream(Body):
    """The body of an answer that doesn't end."""

    def __init__(self, response: aiohttp.ClientResponse, what: str, *, gzip: bool) -> None:
        super().__init__(response, what, gzip=gzip)
        self._ended = False
        self._reading: anyio.CancelScope | None = None

    def end(self) -> None:
        """End it now, as if the server had ended it."""
        self._ended = True
        if self._reading is not None:
            self._reading.cancel()

    async def read(self, timeout_s: float) -> bytes:
        """The next bytes, empty at the end.

        Raises:
            BadResponse: It isn't gzip though it says so.
            Unavailable: None came in time (kind TIMEOUT), or the connection broke.
        """
        try:
            with anyio.fail_after(timeout_s) as self._reading:
                if not self._ended:
                    return await self.piece()
        except TimeoutError as error:
            message = f"{self._what}: nothing for {timeout_s:.0f} s"
            raise Unavailable(message, kind=Reason.TIMEOUT) from error
        except HTTP_ERRORS as error:
            failure = translate(error, self._what)
            raise failure from error
        finally:
            self._reading = None
        return b""


async def read_whole(
    response: aiohttp.ClientResponse, what: str, max_bytes: int, *, gzip: bool
) -> bytes:
    """The whole body of a success.

    Args:
        response: The answer.
        what: The request, for messages.
        max_bytes: Its limit, inflated.
        gzip: Whether gzip was asked for.

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
