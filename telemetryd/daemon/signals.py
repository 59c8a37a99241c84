"""Signals while the daemon runs: each is handed on to what the daemon does about it.

What came before is in ``earlysignals``.
"""

import asyncio
import logging
import operator
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import FrameType

import anyio

from telemetryd.daemon.earlysignals import ENDING

log = logging.getLogger(__name__)

_pass_over = operator.is_
"""Does nothing, in C: another signal can't interrupt it for a call of its own. Nor can one come
between, as it can with ``SIG_IGN``, that the interpreter then reports as lost."""


@contextmanager
def ended_by(end: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Call a handler for each request to end; once the block is left no more are needed."""
    with handling({number: partial(end, number) for number in ENDING}):
        yield


@contextmanager
def handling(handlers: Mapping[signal.Signals, Callable[[], None]]) -> Iterator[None]:
    """Call a handler on the event loop for each signal; once the block is left they are ignored.

    Not by ``loop.add_signal_handler``: the loop's own end would put the default in force, which is
    to die, and so would the interpreter's. Nor would a storm do well with it: every signal of the
    process is then written to the loop's wake-up socket, and once that is full CPython 3.11.2
    prints from within the handlers, which has been seen never to end.

    From a signal to its handler further ones of its kind do nothing: they ask for nothing more,
    and in a storm the interpreter would stack one call upon the other.
    """
    loop = asyncio.get_running_loop()
    within = True

    def hand_on(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, _pass_over)
        loop.call_soon_threadsafe(handle, signal.Signals(number))

    def handle(number: signal.Signals) -> None:
        if within:
            signal.signal(number, hand_on)
        handlers[number]()

    for number in handlers:
        signal.signal(number, hand_on)
    try:
        yield
    finally:
        within = False
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
            fields = dict(part.partition("=")[::2] for part in summary().split())
            message = "status" + "".join(f" {key}=%s" for key in fields)
            log.info(message, *(int(v) if v.isdecimal() else v for v in fields.values()))
