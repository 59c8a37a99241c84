"""The command line: arguments in, exit status out; data to stdout, everything else to stderr.

``daemon``, ``doctor`` and ``demo`` do the work. They are imported when a command needs them: thus
``--help``, ``schema`` and ``check-config`` don't load the whole daemon.
"""

from collections.abc import Sequence

from telemetryd.cli.arguments import build_parser
from telemetryd.cli.configcommands import EX_CONFIG
from telemetryd.cli.output import complain
from telemetryd.daemon.signals import EarlySignals
from telemetryd.errors import ConfigError, TelemetrydError

EX_INTERRUPTED = 130
"""The status of a process that SIGINT ended, as shells report it."""


def run_command(arguments: Sequence[str], early: EarlySignals) -> int:
    """Run one command line without its program name; returns the exit status.

    Args:
        arguments: The command line.
        early: Signals that came since the process began, for the daemon.
    """
    options = build_parser().parse(arguments, early_signals=early)
    try:
        return int(options.command(options))
    except ConfigError as error:
        for problem in error.problems:
            complain(str(problem))
        return EX_CONFIG
    except TelemetrydError as error:
        complain(f"telemetryd: {error}")
        return 1
    except KeyboardInterrupt:
        return EX_INTERRUPTED
