"""`telemetryd payload`: what would be sent, whether or not anything is."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apiserver.admin import Admin
from tests.apiserver.fixtures import core_node, setting
from tests.apiserver.process import ApiServer
from tests.cli.test_commands import telemetryd, telemetryd_process
from tests.support.daemon import Daemon
from tests.support.embedded import FleetServer, serve_fleet
from tests.system.account import PLAIN, RANCHER, Trail, make_account
from tests.system.rancher import Rancher

SETTINGS = "settings.management.cattle.io"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetServer]:
    with serve_fleet(tmp_path_factory.mktemp("embedded")) as fleet:
        yield fleet


def payload(
    server: FleetServer, folder: Path, config: str = "enabled = true", **environ: str
) -> "subprocess.CompletedProcess[str]":
    file = folder / "config.toml"
    file.write_text(config)
    return telemetryd(
        "payload", "--config", str(file), KUBECONFIG=str(server.kubeconfig), **environ
    )


def test_payload_of_a_rancher_says_nothing_else(server: FleetServer) -> None:
    result = telemetryd_process("payload", KUBECONFIG=str(server.kubeconfig))
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["subscription"]["product"] == "rancher-prime"


@pytest.mark.parametrize(
    ("config", "environ", "named"),
    [
        ("enabled = false", {}, "enabled = false in the configuration"),
        ("enabled = true", {"TELEMETRYD_ENABLED": "false"}, "$TELEMETRYD_ENABLED"),
        ("enabled = true", {"DO_NOT_TRACK": "1"}, "$DO_NOT_TRACK"),
    ],
)
def test_payload_while_switched_off_is_shown_with_a_note(
    server: FleetServer, tmp_path: Path, config: str, environ: dict[str, str], named: str
) -> None:
    result = payload(server, tmp_path, config, **environ)
    assert result.returncode == 0
    assert json.loads(result.stdout)["managedClusters"]
    assert result.stderr == f"telemetryd: a daemon sends nothing of this: switched off by {named}\n"


def test_payload_while_the_setting_opts_out_is_shown_with_a_note(
    server: FleetServer, tmp_path: Path
) -> None:
    server.put(setting("telemetry-opt", "out"))
    try:
        result = payload(server, tmp_path)
    finally:
        server.remove(SETTINGS, "telemetry-opt")
    assert result.returncode == 0
    assert json.loads(result.stdout)["managedClusters"]
    assert "the Rancher setting telemetry-opt" in result.stderr


def test_payload_of_plain_kubernetes_by_configuration(server: FleetServer, tmp_path: Path) -> None:
    for number in range(2):
        server.put(core_node(f"n-{number}"))
    result = payload(server, tmp_path, '[kubernetes]\nsource = "kubernetes"')
    assert (result.returncode, result.stderr) == (0, "")
    document = json.loads(result.stdout)
    assert document["managedClusters"] == [{"count": 1, "nodes": 2, "upstream": True}]
    assert document["subscription"]["product"] == "kubernetes"


def test_variable_that_says_neither_yes_nor_no_is_unusable_configuration() -> None:
    result = telemetryd("check-config", TELEMETRYD_ENABLED="maybe")
    assert result.returncode == 78
    assert "$TELEMETRYD_ENABLED" in result.stderr


def without_login(server: FleetServer, folder: Path, user: dict[str, str]) -> Path:
    """A kubeconfig as that of the server, with another user."""
    document = json.loads(server.kubeconfig.read_text())
    document["users"][0]["user"] = user
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(json.dumps(document))
    return kubeconfig


@pytest.mark.parametrize(
    ("user", "reason"),
    [({}, "give the user of the kubeconfig a token"), ({"token": "refused"}, "401 Unauthorized")],
    ids=["anonymous", "refused token"],
)
@pytest.mark.parametrize("source", ["auto", "rancher", "kubernetes"])
def test_payload_without_a_login_fails_at_once_and_says_so(
    server: FleetServer, tmp_path: Path, user: dict[str, str], reason: str, source: str
) -> None:
    result = telemetryd(
        "payload",
        "--timeout",
        "10m",
        KUBECONFIG=str(without_login(server, tmp_path, user)),
        TELEMETRYD_KUBERNETES__SOURCE=source,
    )
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert reason in line
    assert server.url in line


def test_daemon_without_a_login_says_so_and_waits_for_one(
    server: FleetServer, tmp_path: Path
) -> None:
    daemon = Daemon(tmp_path, without_login(server, tmp_path, {}), "")
    try:
        daemon.wait_for(
            "said", lambda: "give the user of the kubeconfig a token" in daemon.log(), 30
        )
        daemon.wait_for("alive", lambda: daemon.get("/livez")[0] == 200, 30)
    finally:
        ended = daemon.stop()
    assert ended == 0


def looks_for_a_source(apiserver: ApiServer, kubeconfig: Path) -> int:
    """How often `payload` asks a real API server which groups it serves."""
    trail = Trail.from_now(apiserver)
    result = telemetryd("payload", KUBECONFIG=str(kubeconfig))
    assert (result.returncode, result.stderr) == (0, "")
    return trail.requests().count("get /apis")


def test_payload_of_plain_kubernetes_takes_the_first_answer_about_its_source(
    own_apiserver: ApiServer, own_admin: Admin, tmp_path: Path
) -> None:
    """A daemon asks three times, 3 s apart, before it believes that there is no Rancher."""
    own_admin.create("/api/v1/nodes", core_node("n"))
    account = make_account(own_apiserver, own_admin, tmp_path, PLAIN)
    assert looks_for_a_source(own_apiserver, account) == 1


def test_payload_of_a_rancher_takes_the_first_answer_about_its_source(
    apiserver: ApiServer, admin: Admin, tmp_path: Path
) -> None:
    with Rancher.built(admin, clusters=2, nodes=1):
        account = make_account(apiserver, admin, tmp_path, RANCHER)
        assert looks_for_a_source(apiserver, account) == 1
