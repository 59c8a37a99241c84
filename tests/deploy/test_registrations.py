"""Registrations with the rights of `deploy/`, without them, and where none are served."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from telemetryd.doctor.access import REGISTRATIONS as RIGHT
from tests.apiserver.admin import Admin
from tests.apiserver.crds import REGISTRATIONS, create_crd, delete_crd
from tests.apiserver.process import DEPLOYED_USER, ApiServer
from tests.apiserver.registrations import put, registration
from tests.deploy.installed import Installed
from tests.support.daemon import Daemon
from tests.system.rancher import Rancher

pytestmark = pytest.mark.long

VARIANT = ("scc-operator",)
EXPORTER = '[[exporters]]\nname = "scc"\ntype = "secret"\ninterval = "1s"\n'


@pytest.fixture(scope="module")
def rancher(admin: Admin, installed: Installed) -> Iterator[Rancher]:
    with Rancher.built(admin, clusters=2, nodes=1) as fleet:
        yield fleet


@pytest.fixture
def served(admin: Admin) -> Iterator[None]:
    create_crd(admin, REGISTRATIONS)
    put(admin, registration(synced_at=time.time()))
    yield
    delete_crd(admin, REGISTRATIONS)


@contextmanager
def running(installed: Installed, rancher: Rancher, folder: Path) -> Iterator[Daemon]:
    """A daemon that exports, whatever becomes of Registrations."""
    if rancher.secret() is not None:
        rancher.admin.delete(SECRET)
    daemon = Daemon(folder, installed.kubeconfig, EXPORTER)
    try:
        daemon.wait_for("the Secret", rancher.secret, 60)
        yield daemon
    finally:
        status = daemon.stop()
    assert status == 0, daemon.log()[-4000:]


SECRET = "/api/v1/namespaces/cattle-telemetry-system/secrets/rancher-scc-telemetry"


def test_registration_is_read_with_the_rights_of_the_overlay(
    installed: Installed, rancher: Rancher, served: None, tmp_path: Path
) -> None:
    installed.wait_granted([RIGHT])
    with running(installed, rancher, tmp_path) as daemon:
        daemon.wait_for("read", lambda: daemon.status()["consumer"]["registrations"], 60)
        assert daemon.status()["consumer"]["registrations"][0]["state"] == "active"


def test_daemon_without_the_right_exports_and_says_what_is_missing(
    installed: Installed, rancher: Rancher, served: None, tmp_path: Path
) -> None:
    with installed.without([RIGHT]), running(installed, rancher, tmp_path) as daemon:
        daemon.wait_for("said", lambda: daemon.status()["consumer"]["last_error"], 60)
        consumer = daemon.status()["consumer"]
        assert 'cannot list resource "registrations"' in consumer["last_error"]
        assert (consumer["served"], consumer["registrations"]) == (None, [])
        assert "cannot list resource" in daemon.get("/")[1]
        assert daemon.ready()
        assert daemon.exporter()["state"] in {"idle", "running"}


def test_cluster_without_the_resource_denies_nothing_for_nothing_is_listed(
    installed: Installed, rancher: Rancher, apiserver: ApiServer, tmp_path: Path
) -> None:
    begin = len(apiserver.audit(DEPLOYED_USER))
    with installed.without([RIGHT]), running(installed, rancher, tmp_path) as daemon:
        daemon.wait_for("known", lambda: daemon.status()["consumer"]["served"] is False, 60)
        assert daemon.status()["consumer"]["last_error"] == ""
    asked = [event["requestURI"] for event in apiserver.audit(DEPLOYED_USER)[begin:]]
    assert {uri for uri in asked if "scc.cattle.io" in uri} == {"/apis/scc.cattle.io/v1"}
