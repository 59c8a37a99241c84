"""Entry point of ``telemetryd`` and ``python -m telemetryd``: the one place that exits."""

import atexit
import os
import resource
import sys
import threading
import time
from typing import Final, NoReturn

from telemetryd.daemon.signals import EarlySignals
from telemetryd.standardstreams import give_up_output, output_failure, prepare_streams

GLOBAL_OPTIONS: Final = ("--config", "--log-level", "--kubeconfig", "--context", "--set")
"""Options that take a value and may be given before the command."""

_JOIN_S: Final = 0.25
"""For threads that are still at work at the end; what hangs longer is left behind."""


def main() -> None:
    """Run the command line and exit with its status."""
    prepare_streams()
    # The memory holds credentials and parts of objects that never leave. The hard limit stays: a
    # debugger can raise it again (prlimit).
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    early = EarlySignals()
    is_daemon = _command(sys.argv[1:]) == "run"
    if is_daemon:
        early.catch()
    status = _run(early)
    if is_daemon:
        early.ignore()
    _leave(status)


def _command(arguments: list[str]) -> str:
    """The command, which global options may go before; the parser isn't loaded yet."""
    rest = iter(arguments)
    for each in rest:
        if not each.startswith("-"):
            return each
        if each in GLOBAL_OPTIONS:
            next(rest, None)
    return ""


def _run(early: EarlySignals) -> int:
    from telemetryd import logs  # noqa: PLC0415 - signals are caught before it
    from telemetryd.bounds import causes_of  # noqa: PLC0415
    from telemetryd.cli import run_command  # noqa: PLC0415

    logs.take_over_stderr()
    try:
        status = run_command(sys.argv[1:], early)
    except SystemExit as ended:  # argparse
        status = ended.code if isinstance(ended.code, int) else 0
    except Exception as error:  # noqa: BLE001 - as the interpreter, but stderr may hang
        status = 1
        if output_failure() not in causes_of(error):
            logs.say_fatal(type(error), error, error.__traceback__)
    failure = output_failure()
    if failure is not None:
        give_up_output()
        if not isinstance(failure, BrokenPipeError):  # the reader has left
            logs.say(f"telemetryd: standard output can't be written: {failure.strerror}")
    return status or int(failure is not None)


def _leave(status: int) -> NoReturn:
    """End the process, whatever its threads wait for or do.

    The interpreter would wait for them. And the C library's exit would take OpenSSL down below one
    that loads certificates, which then ends the process by SIGSEGV.
    """
    end_s = time.monotonic() + _JOIN_S
    others = [
        thread
        for thread in threading.enumerate()
        if thread is not threading.current_thread() and not thread.daemon
    ]
    for thread in others:
        thread.join(max(0.0, end_s - time.monotonic()))
    if threading.active_count() > 1:
        atexit._run_exitfuncs()  # noqa: SLF001 - the rest of what the interpreter would do
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    main()
