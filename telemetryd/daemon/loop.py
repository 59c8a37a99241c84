"""The event loop of the daemon: name lookups that don't delay its end, heartbeat, memory.

asyncio looks names up in the threads of an executor and joins them at its end, and so does the
interpreter. A name server that can't be reached, as while a machine shuts down, would delay the
end by the 5 to 30 s of glibc's timeouts, after the drain.
"""

import asyncio
import ctypes
import logging
import mmap
import socket
import threading
from asyncio import sslproto
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

import anyio

from telemetryd.stats import Histogram

log = logging.getLogger(__name__)

MOST_LOOKUPS: Final = 64
"""Of different names at a time; each takes a thread for as long as its name server hangs."""

HEARTBEAT_S: Final = 0.5
"""Short enough to see the stalls that matter, at 0.01 % of a core."""
ALIVE_WITHIN_S: Final = 15.0
"""An older heartbeat means that something blocks the loop or has ended its root task."""
BLOCKED_S: Final = 1.0
"""A heartbeat this late is logged."""

TRIM_S: Final = 10.0
"""Between two trims of the heap, which take a millisecond or two each."""


class PromptLoop(asyncio.SelectorEventLoop):
    """asyncio's own, but each name is looked up in a thread of its own that is never joined.

    Callers share the lookup of one name.
    """

    def __init__(self) -> None:
        super().__init__()
        sslproto.SSLProtocol = ThriftyTls  # type: ignore[misc]
        self._lookups: dict[tuple[Any, ...], set[asyncio.Future[Any]]] = {}

    async def getaddrinfo(
        self,
        host: bytes | str | None,
        port: bytes | str | int | None,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002 - as overridden
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        """As ``socket.getaddrinfo``, and with its result; a lookup that is cancelled is left alone.

        Raises:
            OSError: As of ``socket.getaddrinfo``; EAI_AGAIN where too many lookups hang already.
        """
        asked = (host, port, family, type, proto, flags)
        found: asyncio.Future[Any] = self.create_future()
        waiting = self._lookups.get(asked)
        if waiting is None:
            waiting = self._begin(asked)
        waiting.add(found)
        try:
            return await found
        finally:
            waiting.discard(found)

    def _begin(self, asked: tuple[Any, ...]) -> set[asyncio.Future[Any]]:
        """Begin a lookup that is not under way.

        Raises:
            gaierror: There are too many lookups, or threads.
        """
        if len(self._lookups) >= MOST_LOOKUPS:
            message = f"{MOST_LOOKUPS} lookups of other names hang: check the name servers"
            raise socket.gaierror(socket.EAI_AGAIN, message)
        run = partial(self._look_up, asked)
        try:
            threading.Thread(target=run, name="lookup", daemon=True).start()
        except RuntimeError as error:
            raise socket.gaierror(socket.EAI_AGAIN, "no thread can be started") from error
        waiting: set[asyncio.Future[Any]] = set()
        self._lookups[asked] = waiting
        return waiting

    def _look_up(self, asked: tuple[Any, ...]) -> None:
        settle: Callable[[asyncio.Future[Any]], None]
        try:
            answer = socket.getaddrinfo(*asked)
        except Exception as error:  # noqa: BLE001 - it is raised where it is awaited
            settle = partial(_raise, error)
        else:
            settle = partial(_answer, answer)
        with suppress(RuntimeError):  # the loop is closed
            self.call_soon_threadsafe(self._end, asked, settle)

    def _end(self, asked: tuple[Any, ...], settle: Callable[[asyncio.Future[Any]], None]) -> None:
        for found in self._lookups.pop(asked):
            if not found.done():
                settle(found)


def _answer(answer: list[Any], found: asyncio.Future[Any]) -> None:
    found.set_result(list(answer))


def _raise(error: Exception, found: asyncio.Future[Any]) -> None:
    found.set_exception(error)


class ThriftyTls(sslproto.SSLProtocol):
    """asyncio's own TLS, whose buffer takes memory only as far as it was filled.

    Its bytearray is written over with zeros, so that each connection takes 256 KiB. What leaves
    most of them at once, a thousand exporters, needs a few KiB on each.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        vars(self)["max_size"] = 1  # of the bytearray
        super().__init__(*args, **options)
        del vars(self)["max_size"]
        self._ssl_buffer = mmap.mmap(-1, self.max_size)
        self._ssl_buffer_view = memoryview(self._ssl_buffer)


class Heartbeat:
    """Measures on the loop how late it wakes, and shows whether it still wakes at all."""

    def __init__(self) -> None:
        self.lag = Histogram()
        self._last: float | None = None

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            due = anyio.current_time() + HEARTBEAT_S
            await anyio.sleep(HEARTBEAT_S)
            self._last = anyio.current_time()
            late = max(0.0, self._last - due)
            self.lag.observe(late)
            if late > BLOCKED_S:
                log.warning("event loop was blocked seconds=%.1f", late)

    @property
    def alive(self) -> bool:
        """Whether the last heartbeat is recent; True before the first, while the daemon starts."""
        return self._last is None or anyio.current_time() - self._last < ALIVE_WITHIN_S


async def trim_heap() -> None:
    """Give freed memory back to the system until cancelled; does nothing without glibc.

    glibc gives back only what is free at the end of its heap. What many clients or a large list
    took would stay resident below the first block that is still in use.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    while trim is not None:
        await anyio.sleep(TRIM_S)
        trim(0)
