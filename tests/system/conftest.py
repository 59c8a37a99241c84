"""A Rancher with 20 clusters of 20 nodes on the real API server, and a daemon that watches it."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.apiserver.admin import Admin
from tests.apiserver.process import ApiServer
from tests.system.daemon import Daemon
from tests.system.rancher import Rancher
from tests.system.requests import RequestDaemon, run_requests_daemon
from tests.system.scc import Scc

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
    with Rancher.built(admin, clusters=20, nodes=20) as fleet:
        yield fleet


@dataclass(frozen=True, slots=True)
class Started:
    """A daemon and the seconds from its start to the first Secret."""

    daemon: Daemon
    secret_after_s: float


@pytest.fixture(scope="module")
def started(
    rancher: Rancher, apiserver: ApiServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Started]:
    """The daemon, once the Secret exists; it must end well when the tests are done."""
    folder: Path = tmp_path_factory.mktemp("daemon")
    begin = time.monotonic()
    daemon = Daemon(folder, apiserver.kubeconfig(folder / "kubeconfig"), CONFIG)
    try:
        daemon.wait_for("the Secret", rancher.secret, 90)
        yield Started(daemon, time.monotonic() - begin)
    finally:
        status = daemon.stop()
    assert status == 0, daemon.log()[-4000:]


@pytest.fixture
def daemon(started: Started) -> Daemon:
    """The running daemon."""
    return started.daemon


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
