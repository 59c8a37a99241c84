"""Entry point of ``telemetryd`` and ``python -m telemetryd``: the one place that exits."""

import sys

from telemetryd.daemon.earlysignals import EarlySignals


def main() -> None:
    """Run the command line and exit with its status."""
    early = EarlySignals()
    is_daemon = sys.argv[1:2] == ["run"]
    if is_daemon:
        early.catch()
    from telemetryd.cli import run_command  # noqa: PLC0415 - signals are caught before it

    try:
        status = run_command(sys.argv[1:], early)
    finally:
        if is_daemon:
            early.ignore()
    sys.exit(status)


if __name__ == "__main__":
    main()
