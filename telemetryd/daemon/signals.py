"""Signals while the daemon runs: each is handed on to what the daemon does about it.

What came before is in ``earlysignals``.
"""

import asyncio
import logging
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

import anyio

from telemetryd.daemon.earlysignals import ENDING

log = logging.getLogger(__name__)


@contextmanager
def ended_by(end: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Call a handler for each request to end; once the block is left no more are needed."""
    loop = asyncio.get_running_loop()
    for number in ENDING:
        loop.add_signal_handler(number, end, number)
    try:
        yield
    finally:
        for number in ENDING:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def handling(handlers: Mapping[signal.Signals, Callable[[], None]]) -> Iterator[None]:
    """Call a handler on the event loop for each signal; once the block is left they are ignored.

    Not by ``loop.add_signal_handler``: the loop's own end would put the default in force, which is
    to die, and so would the interpreter's.
    """
    loop = asyncio.get_running_loop()

    def hand_on(number: int, _frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(handlers[signal.Signals(number)])

    for number in handlers:
        signal.signal(number, hand_on)
    try:
        yield
    finally:
        for number in handlers:
            signal.signal(number, signal.SIG_IGN)


class StatusLog:
    """Logs the status in one line when asked; can be asked before there is one."""

    def __init__(self) -> None:
        self._asked = anyio.Event()

    def ask(self) -> None:
        """Have it logged."""
        self._asked.set()

    async def run(self, summary: Callable[[], str]) -> None:
        """Log what is asked for until cancelled."""
        while True:
            await self._asked.wait()
            self._asked = anyio.Event()
            log.info("status %s", summary())
