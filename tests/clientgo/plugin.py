"""Fixtures around client-go and kubectl; registered through `pytest_plugins`."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clientgo import binaries, certificates
from tests.clientgo.programs import Telemetryd

_NOT_BUILT = "client-go and kubectl are not built: `make clientgo` builds both"


@pytest.fixture(scope="session")
def oracles() -> tuple[Path, Path]:
    """client-go's program and kubectl; without them skipped, or failed where `CI=true`."""
    if not binaries.are_built():
        if os.environ.get("CI") == "true":
            pytest.fail(_NOT_BUILT)
        pytest.skip(_NOT_BUILT)
    return binaries.clientgo(), binaries.kubectl()


@pytest.fixture(scope="session")
def made_certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of every certificate that a case names."""
    folder = tmp_path_factory.mktemp("certificates")
    certificates.write_all(folder)
    return folder


@pytest.fixture(scope="session")
def telemetryd() -> Iterator[Telemetryd]:
    """Answers for telemetryd, in a process of its own."""
    program = Telemetryd()
    try:
        yield program
    finally:
        program.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end how much was left out for want of the programs, and how to get them."""
    skipped = sum(
        _NOT_BUILT in str(report.longrepr) for report in terminalreporter.getreports("skipped")
    )
    if skipped:
        terminalreporter.write_line(
            f"{skipped} comparisons with client-go were skipped: `make clientgo` builds it and "
            "kubectl here (needs Go; 5 minutes on 2 cores, once)",
            yellow=True,
        )
