"""A Rancher with 20 small clusters on the real API server, and a daemon that watches it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apiserver.admin import Admin
from tests.apiserver.process import ApiServer
from tests.support.daemon import Daemon
from tests.system.rancher import Rancher
from tests.system.requests import RequestDaemon, run_requests_daemon
from tests.system.scc import Scc

CLUSTER_COUNT, NODES_EACH = 20, 3
"""Clusters, and nodes of each of them: one of each shape."""

CONFIG = """
[[exporters]]
name = "scc"
type = "secret"
interval = "1s"
quiet_period = "3s"
retry_base = "200ms"

[[exporters]]
name = "fleet"
type = "secret"
secret = "telemetryd-fleet"
format = "fleet"
interval = "1s"
"""


@pytest.fixture(scope="module")
def rancher(admin: Admin) -> Iterator[Rancher]:
    """The fleet; it goes when the module's tests are done."""
    with Rancher.built(admin, clusters=CLUSTER_COUNT, nodes=NODES_EACH) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def daemon(
    rancher: Rancher, apiserver: ApiServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    """The daemon, once the Secret exists; it must end well when the tests are done."""
    folder: Path = tmp_path_factory.mktemp("daemon")
    daemon = Daemon(folder, apiserver.kubeconfig(folder / "kubeconfig"), CONFIG)
    try:
        daemon.wait_for("the Secret", rancher.secret, 90)
        yield daemon
    finally:
        status = daemon.stop()
    assert status == 0, daemon.log()[-4000:]


@pytest.fixture
def scc(admin: Admin) -> Iterator[Scc]:
    """A Rancher with everything but a request; it goes with the test."""
    made = Scc(admin)
    made.build()
    try:
        yield made
    finally:
        made.clear()


@pytest.fixture(scope="module")
def shared_requests_daemon(
    apiserver: ApiServer, admin: Admin, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RequestDaemon]:
    """A daemon that serves SecretRequests; it must end well when the module's tests are done."""
    folder: Path = tmp_path_factory.mktemp("requests")
    yield from run_requests_daemon(folder, apiserver.kubeconfig(folder / "kubeconfig"))


@pytest.fixture
def serving(shared_requests_daemon: RequestDaemon, scc: Scc) -> Iterator[RequestDaemon]:
    """It, with its default configuration, and a Rancher around it."""
    yield shared_requests_daemon
    shared_requests_daemon.reset()
