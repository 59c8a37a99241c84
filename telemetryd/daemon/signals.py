"""Signals of the daemon, from the first moment of ``telemetryd run`` to the end of the process.

Without a handler SIGHUP and SIGUSR1 end a process, and service managers take that for a clean
exit. So this is imported before everything else, and imports next to nothing itself.
"""

import operator
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGINT)
"""These ask the daemon to end."""

_do_nothing = operator.is_
"""A handler in C: another signal can't interrupt it for a call of its own. Nor can one arrive in
between, as it can with ``SIG_IGN``, that the interpreter then reports as lost."""


class EarlySignals:
    """The signals that arrive before the daemon handles them.

    Attributes:
        reload_asked: SIGHUP: reload when the daemon runs, as the file may have been read already.
        summary_asked: SIGUSR1: log a summary then.
    """

    def __init__(self) -> None:
        self.reload_asked = False
        self.summary_asked = False

    def catch(self) -> None:
        """Record signals from now on, until other handlers replace these one by one."""
        for number in ENDING:
            signal.signal(number, _end)
        signal.signal(signal.SIGUSR1, self._record)
        signal.signal(signal.SIGHUP, self._record)

    def ignore(self) -> None:
        """Ignore signals during the process's end, when the interpreter would restore defaults."""
        for number in (signal.SIGHUP, signal.SIGUSR1, *ENDING):
            signal.signal(number, signal.SIG_IGN)

    def _record(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self.reload_asked = True
        else:
            self.summary_asked = True


def _end(_number: int, _frame: FrameType | None) -> None:
    # Nothing is held yet that needs a cleanup, and an exception could get lost in an import.
    os._exit(0)


@contextmanager
def handling(handlers: Mapping[signal.Signals, Callable[[], None]]) -> Iterator[None]:
    """Call a handler on the event loop for each signal; after the block they are ignored.

    Not by ``loop.add_signal_handler``: the end of the loop would restore the default, which is to
    die, and so would the interpreter's. Nor does that stand a storm of signals: each one is
    written to the loop's wake-up socket, and once that is full CPython 3.11.2 prints from within
    the handlers, which has been seen never to end.

    Between a signal and its handler further ones of its kind do nothing: they ask for nothing more,
    and in a storm the interpreter would stack one call upon the other.
    """
    from asyncio import get_running_loop  # noqa: PLC0415 - heavy, and loaded by now

    loop = get_running_loop()
    within = True

    def hand_on(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, _do_nothing)
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
