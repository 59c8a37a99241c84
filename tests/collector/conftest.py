"""The collector's program; without it the tests are skipped, or failed where `CI=true`."""

import os
from pathlib import Path

import pytest

from tests.collector.process import find_program

_MISSING = "no OpenTelemetry Collector here: `make collector` builds one (needs Go)"


@pytest.fixture(scope="session")
def program() -> Path:
    """The program."""
    found = find_program()
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail(_MISSING)
        pytest.skip(_MISSING)
    return found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says at the end how many tests had no collector, and how to get one."""
    reports = terminalreporter.getreports("skipped")
    skipped = sum(_MISSING in str(report.longrepr) for report in reports)
    if skipped:
        terminalreporter.write_line(f"{skipped} tests were skipped: {_MISSING}", yellow=True)
