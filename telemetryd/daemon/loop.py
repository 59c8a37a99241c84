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
from typing import Any


class PromptLoop(asyncio.SelectorEventLoop):
    """Looks each name up in a thread of its own, which nobody joins."""

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
            OSError: As of ``socket.getaddrinfo``.
        """
        found: asyncio.Future[Any] = self.create_future()
        look_up = partial(socket.getaddrinfo, host, port, family, type, proto, flags)
        threading.Thread(
            target=self._answer, args=(look_up, found), name="lookup", daemon=True
        ).start()
        return await found

    def _answer(self, look_up: Callable[[], Any], found: "asyncio.Future[Any]") -> None:
        try:
            settle = partial(found.set_result, look_up())
        except Exception as exc:  # noqa: BLE001 - it is raised where it is awaited
            settle = partial(found.set_exception, exc)
        with suppress(RuntimeError):  # the loop is closed
            self.call_soon_threadsafe(_unless_done, found, settle)


def _unless_done(found: "asyncio.Future[Any]", settle: Callable[[], None]) -> None:
    if not found.done():
        settle()
