"""Standard input, output and error of a process, also where they are closed, full or broken.

A closed one would give its number to the next file or socket that is opened, and whatever writes
to it would write there.
"""

import errno
import io
import os
import sys
from typing import Any, Final

_FLAGS: Final = (os.O_WRONLY, os.O_RDONLY, os.O_RDONLY)
"""The opposite of what each is for: using one that is closed stays an error."""


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
