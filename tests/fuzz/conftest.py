"""How long is fuzzed: seconds by default, minutes with ``--hypothesis-profile=slow``."""

from collections.abc import Iterator

import pytest

from tests.fuzz.daemon import Probed, probed
from tests.support.embedded import FleetServer, serve_fleet


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetServer]:
    """The embedded API server, with a small fleet."""
    with serve_fleet(tmp_path_factory.mktemp("fleet"), clusters=2, nodes=2) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def daemon(fleet: FleetServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probed]:
    """One daemon for all examples of a file, judged by its log at the end."""
    with probed(tmp_path_factory.mktemp("daemon"), fleet.kubeconfig) as daemon:
        yield daemon
