"""The two Helms; without them the tests are skipped, or failed where `CI=true`."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apiserver import crds
from tests.apiserver.admin import Admin
from tests.apiserver.process import ApiServer
from tests.charts.helm import Helm
from tests.charts.versions import Major, find_program

_MISSING = "no Helm here: `make helm` builds Helm 3 and 4 (needs Go)"

BOTH = pytest.mark.parametrize(
    "major",
    [pytest.param(4, id="helm 4"), pytest.param(3, id="helm 3", marks=pytest.mark.long)],
    scope="session",
)
"""By Helm 4 each time, by Helm 3 with the long tests."""


def find_or_skip(major: Major) -> Path:
    """The program."""
    found = find_program(major)
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail(_MISSING)
        pytest.skip(_MISSING)
    return found


@pytest.fixture
def renderer(major: Major, tmp_path: Path) -> Helm:
    """Helm without a cluster."""
    return Helm(find_or_skip(major), tmp_path)


@pytest.fixture
def helm(major: Major, apiserver: ApiServer, admin: Admin, tmp_path: Path) -> Helm:
    """Helm with the API server, on which Rancher's CRDs are installed."""
    program = find_or_skip(major)
    return Helm(program, tmp_path, apiserver.kubeconfig(tmp_path / "kubeconfig"))


@pytest.fixture
def monitoring(admin: Admin) -> Iterator[None]:
    """The API of the Prometheus operator is served."""
    group = "monitoring.coreos.com"
    definitions = [
        crds.crd(group, "v1", kind, namespaced=True) for kind in ("PodMonitor", "PrometheusRule")
    ]
    for definition in definitions:
        crds.create_crd(admin, definition)
    try:
        yield
    finally:
        for definition in definitions:
            crds.delete_crd(admin, definition)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says at the end how many tests had no Helm, and how to get it."""
    reports = terminalreporter.getreports("skipped")
    skipped = sum(_MISSING in str(report.longrepr) for report in reports)
    if skipped:
        terminalreporter.write_line(f"{skipped} tests were skipped: {_MISSING}", yellow=True)
