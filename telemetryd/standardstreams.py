"""The standard streams of a process, also where they are closed, slow, stuck, full or broken.

A closed one would give its number to the next file or socket that is opened, and whatever writes
to it would write there. Lines of a log are written by a thread of their own: the caller never
waits, and a line that finds no room, or that can't be written, is lost and counted.
"""

import errno
import io
import os
import select
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TextIO
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable

_FLAGS: Final = (os.O_WRONLY, os.O_RDONLY, os.O_RDONLY)
"""The opposite of what each is for: using one that is closed stays an error."""

MOST_BYTES: Final = 1024 * 1024
"""Waiting to be written: some thousands of lines."""

_LINGER_S: Final = 5.0
"""The thread ends after so long without a line; the next one starts another."""


class LineWriter:
    """Writes lines in the order in which they came, and says where some are missing.

    ``lost`` counts lines that were not written; ``notice`` makes the line that says how many are
    missing.
    """

    def __init__(self, raw: io.RawIOBase) -> None:
        """Nothing is written, and no thread runs yet.

        ``raw`` is unbuffered: what a buffer can't flush would fail the exit too.
        """
        self.lost = 0
        self.notice: Callable[[int], bytes] = _notice
        self._raw = raw
        # An entry is a line, or a number of lines that were lost at that place.
        self._waiting: deque[bytes | int] = deque()
        self._waiting_bytes = 0
        self._missing = 0
        self._is_within_line = False
        self._is_running = False
        self._changed = threading.Condition()

    def put(self, line: bytes) -> None:
        """Have a line written, its end included; returns at once."""
        with self._changed:
            waiting = self._waiting
            if not self._waiting_bytes or self._waiting_bytes + len(line) <= MOST_BYTES:
                waiting.append(line)
                self._waiting_bytes += len(line)
            else:
                self.lost += 1
                if isinstance(waiting[-1], int):
                    waiting[-1] += 1
                else:
                    waiting.append(1)
            if not self._is_running:
                self._start()
            self._changed.notify_all()

    def drain(self, timeout_s: float) -> bool:
        """Wait until all is written or lost; False if that takes longer."""
        end_s = time.monotonic() + timeout_s
        with self._changed:
            if self._waiting and not self._is_running:
                self._start()
            while self._waiting:
                left_s = end_s - time.monotonic()
                if left_s <= 0 or not self._is_running:
                    return False
                self._changed.wait(left_s)
            return True

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._is_running = True
        try:
            thread.start()
        except RuntimeError:  # too many threads: the next line tries again
            self._is_running = False

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._waiting and not self._changed.wait_for(
                    lambda: self._waiting, _LINGER_S
                ):
                    self._is_running = False
                    return
                entry = self._waiting[0]
                is_last = len(self._waiting) == 1
                if isinstance(entry, int):
                    self._missing += entry
                    self._waiting[0] = 0  # more may be lost at this place meanwhile
            if isinstance(entry, bytes):
                self._write_line(entry)
            elif is_last:
                self._write_notice()
            with self._changed:
                if not isinstance(first := self._waiting[0], int) or first == 0:
                    self._waiting.popleft()
                if isinstance(entry, bytes):
                    self._waiting_bytes -= len(entry)
                self._changed.notify_all()

    def _write_line(self, line: bytes) -> None:
        try:
            self._note_missing()
            self._write(line)
        except (OSError, ValueError):
            with self._changed:
                self.lost += 1
            self._missing += 1

    def _write_notice(self) -> None:
        with suppress(OSError, ValueError):  # it is said with the next line
            self._note_missing()

    def _note_missing(self) -> None:
        """Say how many lines are missing here, if any.

        Raises:
            OSError: As of ``_write``.
        """
        if self._missing:
            self._write(self.notice(self._missing))
            self._missing = 0

    def _write(self, data: bytes) -> None:
        """Write all of it.

        Raises:
            OSError: The stream is full or broken; a closed one raises ValueError.
        """
        if self._is_within_line:  # what came before broke off
            data = b"\n" + data
        rest = memoryview(data)
        while rest:
            written = self._raw.write(rest)
            if written is None:  # another process made it non-blocking, and it is full
                poll = select.poll()
                poll.register(self._raw.fileno(), select.POLLOUT)
                poll.poll()
                continue
            self._is_within_line = True
            rest = rest[written:]
        self._is_within_line = False


_writers: "WeakKeyDictionary[TextIO, LineWriter]" = WeakKeyDictionary()
_making = threading.Lock()


def writer_of(stream: TextIO) -> LineWriter | None:
    """The one writer of a stream; None where it has no file below it, and so never blocks."""
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    if not isinstance(raw, io.FileIO):
        return None
    with _making:
        writer = _writers.get(stream)
        if writer is None:
            writer = _writers[stream] = LineWriter(raw)
        return writer


def _notice(missing: int) -> bytes:
    return f"{missing} lines are missing here\n".encode()


class _Output(io.FileIO):
    """Standard output, which remembers why it can't be written."""

    failure: OSError | None = None

    def write(self, data: Any, /) -> Any:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            raise


def prepare_streams() -> None:
    """Fill the numbers that are closed, and have standard output remember its failure."""
    for number, flags in enumerate(_FLAGS):
        try:
            os.fstat(number)
        except OSError as error:
            if error.errno != errno.EBADF:
                continue
            opened = os.open(os.devnull, flags)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
    output = io.BufferedWriter(_Output(1, "w", closefd=False))
    given = sys.stdout
    if isinstance(given, io.TextIOWrapper):
        sys.stdout = io.TextIOWrapper(
            output,
            encoding=given.encoding,
            errors=given.errors,
            line_buffering=given.line_buffering or given.write_through,
        )
    else:
        sys.stdout = io.TextIOWrapper(output, encoding="utf-8")


def output_failure() -> OSError | None:
    """Why standard output can't be written, None where all of it has been."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if not isinstance(raw, _Output):
        return None
    if raw.failure is None:
        try:
            sys.stdout.flush()
        except OSError as error:
            return error
    return raw.failure


def give_up_output() -> None:
    """Forget what standard output holds: the interpreter would try once more at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
