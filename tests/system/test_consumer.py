"""Build of Rancher and Registration on a real server, as daemon and doctor show them."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.apiserver.admin import Admin
from tests.apiserver.crds import REGISTRATIONS, SETTINGS, collection, create_crd, delete_crd
from tests.apiserver.fixtures import SENTINEL, setting
from tests.apiserver.process import ApiServer
from tests.apiserver.registrations import NAME, PATH, failed, put, registration
from tests.cli.test_commands import telemetryd
from tests.support.daemon import Daemon
from tests.system.scc import NAMESPACE, Scc

DAY_S = 86400.0
CONFIG = f"""
[secret_requests]
enabled = false
[[exporters]]
name = "scc"
type = "secret"
namespace = "{NAMESPACE}"
interval = "1s"
"""


@pytest.fixture(scope="module")
def served(admin: Admin) -> Iterator[None]:
    """The CRD of scc-operator."""
    create_crd(admin, REGISTRATIONS)
    yield
    delete_crd(admin, REGISTRATIONS)


@pytest.fixture(autouse=True)
def secret(scc: Scc) -> str:
    """Where the daemon writes; it goes with the test."""
    return scc.secret_path("rancher-scc-telemetry")


@pytest.fixture
def prime(scc: Scc, served: None) -> Iterator[Scc]:
    """A Prime build of Rancher, without a Registration."""
    scc.put(collection(SETTINGS), setting("server-version-type", "prime"))
    try:
        yield scc
    finally:
        scc.admin.delete(PATH)


class Views:
    """What a daemon and doctor say, from a start of each."""

    def __init__(self, apiserver: ApiServer, folder: Path) -> None:
        self._folder = folder
        self._kubeconfig = apiserver.kubeconfig(folder / "kubeconfig")
        self.consumer: dict[str, Any] = {}
        self.texts: list[str] = []
        self.verdict = ""
        self.doctor: list[str] = []

    def ask(self, served: bool = True) -> None:
        """Start a daemon, wait until it exports and has read Registrations; then ask doctor."""
        daemon = Daemon(self._folder, self._kubeconfig, CONFIG)
        try:
            daemon.wait_for("an export", lambda: daemon.metric(SUCCESS), 60)
            daemon.wait_for("a look", lambda: daemon.status()["consumer"]["served"] is served, 60)
            self.consumer = daemon.status()["consumer"]
            config = str(daemon.config_file)
            ctl = telemetryd("ctl", "status", "--config", config, RUNTIME_DIRECTORY=self._place())
            page = daemon.get("/")[1]
            self.texts = [daemon.get("/status.json")[1], page, daemon.log(), ctl.stdout]
            assert ctl.returncode == 0, ctl.stderr
        finally:
            assert daemon.stop() == 0
        asked: subprocess.CompletedProcess[str] = telemetryd(
            "doctor",
            "--config",
            config,
            RUNTIME_DIRECTORY=self._place(),
            STATE_DIRECTORY=self._place(),
        )
        self.texts += [asked.stdout, asked.stderr]
        self.doctor = asked.stdout.splitlines()
        assert asked.returncode == 0, asked.stdout
        assert not any(SENTINEL in text for text in self.texts)
        assert not any(NAME in text for text in self.texts[:4])

    def warned(self) -> list[str]:
        """What doctor warns of in this matter."""
        said = ("registrations.", "Registration ", "Rancher build", "may list registrations")
        lines = (line for line in self.doctor if line.startswith("WARN  "))
        return [line for line in lines if line.removeprefix("WARN  ").startswith(said)]

    def _place(self) -> str:
        return str(self._folder)


SUCCESS = 'telemetryd_exporter_last_success_timestamp_seconds{exporter="scc"}'


@pytest.fixture
def views(apiserver: ApiServer, tmp_path: Path) -> Views:
    return Views(apiserver, tmp_path)


def test_active_registration_is_shown_by_all_and_warned_of_by_none(
    prime: Scc, views: Views
) -> None:
    now = time.time()
    put(prime.admin, registration(synced_at=now - 60, expires_at=now + DAY_S))
    views.ask()
    (shown,) = views.consumer["registrations"]
    assert (shown["state"], shown["mode"], shown["activated"]) == ("active", "online", True)
    assert (views.consumer["rancher_build"], views.consumer["detail"]) == ("prime", "")
    assert views.warned() == []
    assert any(line.startswith(f"PASS  Registration {NAME}  online, act") for line in views.doctor)
    assert "PASS  Rancher build  prime" in views.doctor


@pytest.mark.long
@pytest.mark.parametrize(
    ("state", "said"),
    [("failed", "failed"), ("expired", "has expired"), ("inactive", "is not activated")],
)
def test_registration_in_trouble_is_warned_of(
    prime: Scc, views: Views, state: str, said: str
) -> None:
    now = time.time()
    put(
        prime.admin,
        {
            "failed": failed(now),
            "expired": registration(synced_at=now, expires_at=now - DAY_S),
            "inactive": registration(mode="offline", activated=False),
        }[state],
    )
    views.ask()
    (shown,) = views.consumer["registrations"]
    assert shown["state"] == state
    (line,) = views.warned()
    assert f"the registration with SUSE {said}" in line
    assert f"The registration with SUSE {said}" in views.texts[1]


@pytest.mark.long
def test_rancher_that_never_registered_is_warned_of(prime: Scc, views: Views) -> None:
    views.ask()
    assert views.consumer["registrations"] == []
    (line,) = views.warned()
    assert line.startswith("WARN  registrations.scc.cattle.io  Rancher was never registered")


@pytest.mark.long
@pytest.mark.parametrize("build", ["community", "dev", ""])
def test_build_whose_telemetry_suse_does_not_expect_is_shown(
    scc: Scc, served: None, views: Views, build: str
) -> None:
    scc.put(collection(SETTINGS), setting("server-version-type", build))
    put(scc.admin, registration(synced_at=time.time()))
    try:
        views.ask()
    finally:
        scc.admin.delete(PATH)
    assert views.consumer["rancher_build"] == (build or "other")
    (line,) = views.warned()
    assert line.startswith("WARN  Rancher build  this Rancher is ")
    assert line.endswith("SUSE does not expect it; product in the payload: rancher")
    assert "USE does not expect it" in views.texts[1]
    payload = scc.payload("rancher-scc-telemetry", NAMESPACE)
    assert payload is not None
    assert payload["subscription"]["product"] == "rancher"
