"""Signals from the first moment of ``telemetryd run`` until the daemon's loop handles them.

Without a handler SIGHUP and SIGUSR1 end a process, and service managers take that for its wish.
Imported before everything else: it imports next to nothing itself.
"""

import os
import signal
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGINT)
"""What a daemon is asked to end with."""


class EarlySignals:
    """What came while the daemon was not yet there to hear it.

    Attributes:
        reload_asked: SIGHUP came: reload once the daemon runs, as the file may have been read.
        summary_asked: SIGUSR1 came: log a summary then.
    """

    def __init__(self) -> None:
        self.reload_asked = False
        self.summary_asked = False

    def catch(self) -> None:
        """Record signals from now on, until other handlers take their place one by one."""
        for number in ENDING:
            signal.signal(number, _end)
        signal.signal(signal.SIGUSR1, self._record)
        signal.signal(signal.SIGHUP, self._record)

    def ignore(self) -> None:
        """Let none disturb the process's end, of which the interpreter's would restore defaults."""
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
