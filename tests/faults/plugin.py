"""Leaves slow scenarios out where nobody asked for them, and shows what all measured at the end."""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.faults.bench import Result

RESULTS: "list[Result]" = []
NOTES: list[str] = []
"""What else was measured, a line each."""

MARKER = "faults"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects what has the marker, unless it was asked for by `-m`."""
    if MARKER in str(config.getoption("markexpr")):
        return
    slow = [item for item in items if item.get_closest_marker(MARKER)]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """The table and the notes, where the matrix was asked for."""
    if (RESULTS or NOTES) and MARKER in str(config.getoption("markexpr")):
        from tests.faults.bench import table  # noqa: PLC0415 - nobody else needs it

        terminalreporter.section("fault matrix")
        for line in [*(table(RESULTS) if RESULTS else []), *NOTES]:
            terminalreporter.write_line(line)
