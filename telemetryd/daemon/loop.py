"""The event loop of the daemon: asyncio's own, whose end doesn't wait for name servers.

asyncio looks names up in the threads of an executor and joins them at its end, and so does the
interpreter: a name server that is out of reach, as it is while a machine shuts down, holds up the
end by the 5 to 30 s of glibc's patience, after the drain.
"""

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

MOST_LOOKUPS: Final = 64
"""Of different names at a time; each takes a thread for as long as its name server hangs."""


class PromptLoop(asyncio.SelectorEventLoop):
    """Looks each name up in a thread of its own, never joined; callers share it for one name."""

    def __init__(self) -> None:
        """Look nothing up yet."""
        super().__init__()
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
