"""Entry point of ``telemetryd`` and ``python -m telemetryd``: the one place that exits."""

import sys

from telemetryd.cli import run_command


def main() -> None:
    """Run the command line and exit with its status."""
    sys.exit(run_command(sys.argv[1:]))


if __name__ == "__main__":
    main()
