"""Leaves slow tests out unless they are asked for, and shows what faults measured at the end."""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.faults.bench import Result

RESULTS: "list[Result]" = []
NOTES: list[str] = []
"""What else was measured, a line each."""

MARKER = "faults"
LEFT_OUT = (MARKER, "slow")
"""Markers of what runs only where `-m` names one of them: `make faults` and `make slow` do."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects what has such a marker, unless it was asked for by `-m`."""
    asked = str(config.getoption("markexpr"))
    if any(marker in asked for marker in LEFT_OUT):
        return
    kept: list[pytest.Item] = []
    slow: list[pytest.Item] = []
    for item in items:
        marked = any(item.get_closest_marker(marker) for marker in LEFT_OUT)
        (slow if marked else kept).append(item)
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = kept


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """The table and the notes, where the matrix was asked for."""
    if (RESULTS or NOTES) and MARKER in str(config.getoption("markexpr")):
        from tests.faults.bench import table  # noqa: PLC0415 - nobody else needs it

        terminalreporter.section("fault matrix")
        for line in [*(table(RESULTS) if RESULTS else []), *NOTES]:
            terminalreporter.write_line(line)
