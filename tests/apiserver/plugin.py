"""Fixtures around the real API server; registered through `pytest_plugins`."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.apiserver.admin import Admin
from tests.apiserver.crds import install_crds
from tests.apiserver.process import ApiServer
from tests.apiserver.versions import find_assets

_NO_ASSETS = "no kube-apiserver here: `make apiserver` builds it, or set KUBEBUILDER_ASSETS"


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of the binaries; without it the test is skipped, or failed where `CI=true`."""
    found = find_assets()
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail(_NO_ASSETS)
        pytest.skip(_NO_ASSETS)
    return found


@contextmanager
def _running(assets: Path) -> Iterator[ApiServer]:
    with tempfile.TemporaryDirectory(prefix="telemetryd-apiserver-") as folder:
        server = ApiServer(assets, Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def apiserver(assets: Path) -> Iterator[ApiServer]:
    """A running API server; whoever kills or pauses it brings it back."""
    with _running(assets) as server:
        yield server


@pytest.fixture(scope="module")
def own_apiserver(assets: Path) -> Iterator[ApiServer]:
    """An API server of the module's own, without CRDs, to which it may do anything."""
    with _running(assets) as server:
        yield server


@pytest.fixture(scope="module")
def own_admin(own_apiserver: ApiServer) -> Iterator[Admin]:
    """An all-powerful client of `own_apiserver`."""
    server = own_apiserver
    client = Admin(server.url, server.admin_token, server.ca_file)
    try:
        yield client
    finally:
        client.close()


@pytest.fixture(scope="session")
def admin(apiserver: ApiServer) -> Iterator[Admin]:
    """An all-powerful client of `apiserver`, on which the CRDs are installed."""
    client = Admin(apiserver.url, apiserver.admin_token, apiserver.ca_file)
    try:
        install_crds(client)
        yield client
    finally:
        client.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says at the end how much was left out for want of an API server, and how to get one."""
    skipped = sum(
        _NO_ASSETS in str(report.longrepr) for report in terminalreporter.getreports("skipped")
    )
    if skipped:
        terminalreporter.write_line(
            f"{skipped} tests need a real kube-apiserver and were skipped: "
            "`make apiserver` builds it here (needs Go; 8 minutes on 2 cores, once)",
            yellow=True,
        )
