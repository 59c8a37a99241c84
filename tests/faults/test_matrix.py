"""The matrix, scenario by scenario, with one daemon for all of them."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apiserver.admin import Admin
from tests.apiserver.crds import install_crds
from tests.apiserver.process import ApiServer, find_assets
from tests.faults import answers, data, outages  # noqa: F401 - they add to the matrix
from tests.faults.bench import Bench, Scenario, play, set_up
from tests.faults.matrix import MATRIX
from tests.faults.plugin import RESULTS


@pytest.fixture(scope="module")
def own_apiserver(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[ApiServer]:
    """An API server of this module's own, for its etcd is set back."""
    assets = find_assets()
    if assets is None:
        request.getfixturevalue("apiserver")  # skips or fails, and says why
        raise AssertionError("there are binaries after all")
    server = ApiServer(assets, tmp_path_factory.mktemp("apiserver"))
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def bench(own_apiserver: ApiServer) -> Iterator[Bench]:
    server = own_apiserver
    admin = Admin(server.url, server.admin_token, server.ca_file)
    try:
        install_crds(admin)
        with (
            tempfile.TemporaryDirectory(prefix="telemetryd-faults-") as folder,
            set_up(server, admin, Path(folder)) as made,
        ):
            yield made
    finally:
        admin.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "scenario",
    [
        pytest.param(each, id=each.name, marks=() if each.quick else (pytest.mark.faults,))
        for each in MATRIX
    ],
)
def test_fault_is_survived_and_converges(bench: Bench, scenario: Scenario) -> None:
    RESULTS.append(play(bench, scenario))
