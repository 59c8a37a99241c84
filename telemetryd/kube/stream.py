"""Answers that don't end: their bytes as they come, with as few wake-ups as can be."""

import asyncio
import math
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import aiohttp
import anyio

from telemetryd.errors import Reason, Unavailable
from telemetryd.kube.http import HTTP_ERRORS, Body, LimitedHandler, translate

_HOLD_S: Final = 0.02
_HELD_BYTES: Final = 128 * 1024


class _Pace:
    """Lets a busy stream gather for a moment before it wakes the event loop again.

    A server that streams sends each object on its own, in one or two packets, and each would cost a
    wake-up, which costs more than the object. What comes after a rest is read at once. While one
    piece follows another, the kernel holds back what comes for ``_HOLD_S``, or until it is
    ``_HELD_BYTES`` (``SO_RCVLOWAT``); an end or an error is never held back. Where the kernel or
    the event loop can't, every piece is a wake-up, as without this.
    """

    def __init__(self, transport: asyncio.BaseTransport | None) -> None:
        self._socket: Any = None if transport is None else transport.get_extra_info("socket")
        self._loop = asyncio.get_running_loop()
        self._holding: asyncio.TimerHandle | None = None
        self._last_s = -math.inf

    def note(self) -> None:
        """A piece has come."""
        now_s = self._loop.time()
        if self._holding is None and now_s - self._last_s < 2 * _HOLD_S and self._socket:
            self._wake_from(_HELD_BYTES)
            self._holding = self._loop.call_later(_HOLD_S, self._release)
        self._last_s = now_s

    def _release(self) -> None:
        self._holding = None
        self._wake_from(1)

    def _wake_from(self, size: int) -> None:
        with suppress(OSError, AttributeError, TypeError):  # it is closed, or can't
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)


class ByteStream(Body):
    """The body of an answer that doesn't end."""

    _handler: LimitedHandler | None = None

    def __init__(self, response: aiohttp.ClientResponse, what: str, *, gzip: bool) -> None:
        super().__init__(response, what, gzip=gzip)
        self._ended = False
        self._reading: anyio.CancelScope | None = None
        handler = response.connection.protocol if response.connection is not None else None
        if isinstance(handler, LimitedHandler) and self._inflater is None:
            self._handler = handler
            self._pace = _Pace(handler.transport)

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

    async def follow(self, timeout_s: float, take: Callable[[bytes], bool]) -> bool:
        """Hand out what comes, as it comes, until ``take`` returns False.

        Where aiohttp's protocol is ours, ``take`` is called by the callback that brings the bytes:
        there is no turn of the event loop, no task that wakes and no timer for each of them.
        Otherwise the first piece is handed out, and this returns.

        Returns:
            Whether the stream goes on.

        Raises:
            BadResponse: As ``read``.
            Unavailable: The time is over (kind TIMEOUT), or the connection broke.
            Exception: What ``take`` raises.
        """
        handler = self._handler
        if handler is None or self._ended:
            piece = await self.read(timeout_s)
            if piece:
                take(piece)
            return bool(piece)
        over: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        goes_on = False
        hand_out = _HandOut(self._content, self._what, self._pace, take, over)
        try:
            with anyio.fail_after(timeout_s) as self._reading:
                handler.received = hand_out
                hand_out()  # what has come before
                goes_on = await over
        except TimeoutError as error:
            if over.done() and not over.cancelled():
                return over.result()
            message = f"{self._what}: nothing for {timeout_s:.0f} s"
            raise Unavailable(message, kind=Reason.TIMEOUT) from error
        finally:
            handler.received = self._reading = None
        return goes_on


class _HandOut:
    """Hands out the bytes of one stream from the callbacks of its connection."""

    __slots__ = ("_busy", "_content", "_over", "_pace", "_take", "_what")

    def __init__(
        self,
        content: aiohttp.StreamReader,
        what: str,
        pace: _Pace,
        take: Callable[[bytes], bool],
        over: "asyncio.Future[bool]",
    ) -> None:
        """``over`` gets whether the stream goes on, or what was raised."""
        self._content = content
        self._what = what
        self._pace = pace
        self._take = take
        self._over = over
        self._busy = False

    def __call__(self) -> None:
        # Reading from a full buffer lets the connection go on, which calls this again.
        if self._busy or self._over.done():
            return
        self._busy = True
        try:
            while piece := self._next():
                self._pace.note()
                if not self._take(piece):
                    self._over.set_result(True)
                    return
            if not self._over.done() and self._content.at_eof():
                self._over.set_result(False)
        except Exception as error:  # noqa: BLE001 - it is raised where it is awaited
            self._over.set_exception(error)
        finally:
            self._busy = False

    def _next(self) -> bytes:
        """What has come, empty if nothing.

        Raises:
            Unavailable: The connection broke.
        """
        try:
            return self._content.read_nowait()
        except HTTP_ERRORS as error:
            failure = translate(error, self._what)
            raise failure from error
