"""The event loop of the daemon: name lookups that don't delay its end, heartbeat, memory.

asyncio looks names up in the threads of an executor and joins them at its end, and so does the
interpreter. A name server that can't be reached, as while a machine shuts down, would delay the
end by the 5 to 30 s of glibc's timeouts, after the drain.
"""

import asyncio
import ctypes
import logging
import math
import mmap
import selectors
import socket
import threading
import time
from asyncio import sslproto
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

import anyio

from telemetryd.stats import Histogram
from telemetryd.timing import TICK_S, until_tick_s

log = logging.getLogger(__name__)

MOST_LOOKUPS: Final = 64
"""Of different names at a time; each takes a thread for as long as its name server hangs."""

LAG_S: Final = 0.5
"""Between the moments whose lag counts: short enough to see the stalls that matter."""
ALIVE_WITHIN_S: Final = 15.0
"""An older heartbeat means that something blocks the loop or has ended its root task."""
BLOCKED_S: Final = 1.0
"""So long a stall is logged."""

_M_ARENA_MAX: Final = -8
"""The parameter of mallopt(3) that says how many heaps there are at most."""
TRIM_S: Final = 2 * TICK_S
"""Between two trims of the heap, which take a millisecond or two each."""


class _Turns(selectors.DefaultSelector):
    """The loop's own selector, which tells how long the loop was at work between two waits."""

    def __init__(self) -> None:
        super().__init__()
        self.worked: Callable[[float, float], None] | None = None
        self._due_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        """Wait as asked; the work before it began when the last wait should have ended."""
        begun_s = time.monotonic()
        if self.worked is not None:
            self.worked(self._due_s, begun_s)
        found: list[Any] = super().select(timeout)
        woken_s = time.monotonic()
        self._due_s = woken_s if timeout is None else min(woken_s, begun_s + max(timeout, 0.0))
        return found


class PromptLoop(asyncio.SelectorEventLoop):
    """asyncio's own, but each name is looked up in a thread of its own that is never joined.

    Callers share the lookup of one name. Its turns can be watched.
    """

    def __init__(self) -> None:
        self._turns = _Turns()
        super().__init__(self._turns)
        sslproto.SSLProtocol = ThriftyTls  # type: ignore[misc]
        self._lookups: dict[tuple[Any, ...], set[asyncio.Future[Any]]] = {}

    def watch_turns(self, worked: Callable[[float, float], None] | None) -> None:
        """Call it with begin and end of each turn from now on, on the loop's clock."""
        self._turns.worked = worked

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

    A read brings at most 128 KiB. Several copies of it live at a time while a list is streamed,
    and what the heap keeps of them grows with the length of the list.
    """

    max_size = 128 * 1024

    def __init__(self, *args: Any, **options: Any) -> None:
        vars(self)["max_size"] = 1  # of the bytearray
        super().__init__(*args, **options)
        del vars(self)["max_size"]
        self._ssl_buffer = mmap.mmap(-1, self.max_size)
        self._ssl_buffer_view = memoryview(self._ssl_buffer)


class Heartbeat:
    """How late timers of the loop fire, and whether its root task still wakes at all.

    The lag is that of a timer each half second. None is set, because that would wake an idle
    daemon twice a second: when such a timer would have fired follows from when the loop was at
    work.
    """

    def __init__(self) -> None:
        self.lag = Histogram()
        self._last: float | None = None
        self._due_s = math.inf

    async def run(self) -> None:
        """Beat until cancelled; the loop is a ``PromptLoop``."""
        loop = asyncio.get_running_loop()
        if isinstance(loop, PromptLoop):
            self._due_s = loop.time() + LAG_S
            loop.watch_turns(self.worked)
        try:
            while True:
                await anyio.sleep(until_tick_s(anyio.current_time(), TICK_S))
                self._last = anyio.current_time()
        finally:
            if isinstance(loop, PromptLoop):
                loop.watch_turns(None)

    def worked(self, begun_s: float, ended_s: float) -> None:
        """The loop was at work from the one to the other."""
        if ended_s < self._due_s:
            return
        if self._due_s < begun_s:
            in_time = math.ceil((begun_s - self._due_s) / LAG_S)
            self.lag.observe(0.0, in_time)
            self._due_s += in_time * LAG_S
        if self._due_s <= ended_s:
            self.lag.observe(ended_s - self._due_s)
            self._due_s = ended_s + LAG_S
        if ended_s - begun_s > BLOCKED_S:
            log.warning("event loop was blocked seconds=%.1f", ended_s - begun_s)

    @property
    def alive(self) -> bool:
        """Whether the last heartbeat is recent; True before the first, while the daemon starts."""
        return self._last is None or anyio.current_time() - self._last < ALIVE_WITHIN_S


def use_one_heap() -> None:
    """Let the threads to come share the main one's heap; does nothing without glibc.

    glibc would give each a heap of its own, which keeps what was freed there.
    """
    set_parameter = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_parameter is not None:
        set_parameter(_M_ARENA_MAX, 1)


async def trim_heap() -> None:
    """Give freed memory back to the system until cancelled; does nothing without glibc.

    glibc gives back only what is free at the end of its heap. What many clients or a large list
    took would stay resident below the first block that is still in use.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    while trim is not None:
        await anyio.sleep(until_tick_s(anyio.current_time(), TRIM_S))
        trim(0)
