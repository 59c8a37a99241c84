"""A source that is configured and not there: what waits for it is named, and nothing hangs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.embedded import FleetServer, serve_fleet

OF_RANCHER = ("clusters", "nodes", "settings", "features", "projects")


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[FleetServer]:
    """An API server without a Rancher."""
    with serve_fleet(tmp_path) as fleet:
        for plural in OF_RANCHER:
            fleet.stop_serving(f"{plural}.management.cattle.io")
        yield fleet


def test_exporter_says_that_the_configured_rancher_is_not_there(
    tmp_path: Path, plain: FleetServer
) -> None:
    daemon = Daemon(tmp_path, plain.kubeconfig, "", kubernetes='source = "rancher"')
    missing = "resource clusters.management.cattle.io (not served)"
    try:
        daemon.wait_for("ready to answer", lambda: daemon.get("/livez")[0] == 200, 30)
        daemon.wait_for("named", lambda: missing in daemon.exporter()["detail"], 30)
        assert daemon.exporter()["state"] == "waiting"
    finally:
        assert daemon.stop() == 0
