"""Prometheus' own programs, and the tests that only `make alerts` runs."""

import os
import shutil
from pathlib import Path

import pytest

MARKER = "alerts"
REPORT: list[str] = []
"""Lines to show in the end."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects what has the marker, unless it was asked for by `-m`."""
    if MARKER in str(config.getoption("markexpr")):
        return
    slow = [item for item in items if item.get_closest_marker(MARKER)]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How long each alert took, where all were asked for."""
    if REPORT:
        terminalreporter.section("alerts")
        for line in REPORT:
            terminalreporter.write_line(line)


def _program(name: str) -> Path:
    found = shutil.which(name)
    if found is None:
        missing = f"{name} isn't installed (Debian package prometheus)"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    return Path(found)


@pytest.fixture(scope="session")
def promtool() -> Path:
    """Checks rules; without it the test is skipped, or failed where `CI=true`."""
    return _program("promtool")


@pytest.fixture(scope="session")
def prometheus() -> Path:
    """The server; likewise."""
    return _program("prometheus")
