"""`telemetryd offline-request`: a request, or one reason why there is none."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.apiserver.fixtures import rancher_node, setting
from tests.cli.test_commands import telemetryd, telemetryd_process
from tests.support.daemon import free_port
from tests.support.embedded import FleetServer, serve_fleet
from tests.system.offlinerequest import RELEASES, read_offline_request, without_time

SETTINGS = "settings.management.cattle.io"
NODES = "nodes.management.cattle.io"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetServer]:
    with serve_fleet(tmp_path_factory.mktemp("embedded")) as fleet:
        yield fleet


@contextmanager
def changed(server: FleetServer, name: str, value: str) -> Iterator[None]:
    """Another value of a setting, until the block is left."""
    before = server.get(SETTINGS, name)
    server.put(setting(name, value))
    try:
        yield
    finally:
        if before is None:
            server.remove(SETTINGS, name)
        else:
            server.put(before)


def run(
    command: str, server: FleetServer, folder: Path, config: str = "enabled = true", **environ: str
) -> "subprocess.CompletedProcess[str]":
    file = folder / "config.toml"
    file.write_text(config)
    return telemetryd(command, "--config", str(file), KUBECONFIG=str(server.kubeconfig), **environ)


def test_request_holds_the_payload_and_names_the_product(
    server: FleetServer, tmp_path: Path
) -> None:
    result = telemetryd_process("offline-request", KUBECONFIG=str(server.kubeconfig))
    assert (result.returncode, result.stderr) == (0, "")
    request = read_offline_request(result.stdout)
    payload = json.loads(run("payload", server, tmp_path).stdout)
    assert without_time(request["system_information"]) == without_time(payload)
    assert request["product"] == {
        "identifier": "rancher-prime",
        "version": payload["version"],
        "arch": "unknown",
    }


@pytest.mark.parametrize(("raw", "expected"), RELEASES.items())
def test_product_has_the_version_that_scc_operator_would_activate(
    server: FleetServer, tmp_path: Path, raw: str, expected: str
) -> None:
    with changed(server, "server-version", raw):
        request = read_offline_request(run("offline-request", server, tmp_path).stdout)
    assert request["product"]["version"] == expected
    assert request["system_information"]["subscription"]["version"] == raw


@pytest.mark.parametrize(
    ("build", "named"),
    [
        ("community", "a community build"),
        ("dev", "a development build"),
        ("", "not a Prime build"),
        ("SENTINEL", "not a Prime build"),
    ],
)
@pytest.mark.parametrize("config", ["enabled = true", '[identity]\nproduct = "rancher-prime"'])
def test_other_build_than_prime_is_refused_in_one_line(
    server: FleetServer, tmp_path: Path, build: str, named: str, config: str
) -> None:
    with changed(server, "server-version-type", build):
        result = run("offline-request", server, tmp_path, config)
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert f"this Rancher is {named}" in line
    assert "SUSE registers Rancher Prime alone" in line
    assert "SENTINEL" not in line


def test_plain_kubernetes_is_refused_in_one_line(server: FleetServer, tmp_path: Path) -> None:
    result = run("offline-request", server, tmp_path, '[kubernetes]\nsource = "kubernetes"')
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert "there is no Rancher here" in line


def test_incomplete_data_is_printed_as_payload_does_and_fails_with_the_reason(
    server: FleetServer, tmp_path: Path
) -> None:
    node = rancher_node("local", "unreadable")
    node["spec"]["etcd"] = "true"
    server.put(node)
    try:
        result = run("offline-request", server, tmp_path)
        payload = run("payload", server, tmp_path)
    finally:
        server.remove(NODES, "unreadable", "local")
    assert (result.returncode, payload.returncode) == (1, 1)
    assert result.stderr == payload.stderr == f"telemetryd: incomplete: {NODES}: 1 unreadable\n"
    request = read_offline_request(result.stdout)
    assert without_time(request["system_information"]) == without_time(json.loads(payload.stdout))


def test_opt_out_leaves_it_to_the_person_and_says_so(server: FleetServer, tmp_path: Path) -> None:
    with changed(server, "telemetry-opt", "out"):
        result = run("offline-request", server, tmp_path)
    assert result.returncode == 0
    assert read_offline_request(result.stdout)["system_information"]["managedClusters"]
    (line,) = result.stderr.splitlines()
    assert "a daemon sends nothing of this" in line
    assert "the Rancher setting telemetry-opt" in line


def test_privacy_holds_in_the_request(server: FleetServer, tmp_path: Path) -> None:
    result = run("offline-request", server, tmp_path, '[privacy]\nserver_url = "omit"')
    request = read_offline_request(result.stdout)
    assert request["system_information"]["subscription"]["server_url"] == ""


def test_missing_identity_is_named_within_the_timeout(server: FleetServer, tmp_path: Path) -> None:
    with changed(server, "install-uuid", ""):
        result = telemetryd("offline-request", "--timeout", "3s", KUBECONFIG=str(server.kubeconfig))
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert "setting install-uuid" in line


def test_unreachable_server_fails_in_one_line_that_names_it(
    server: FleetServer, tmp_path: Path
) -> None:
    document = json.loads(server.kubeconfig.read_text())
    url = f"http://127.0.0.1:{free_port()}"
    document["clusters"][0]["cluster"]["server"] = url
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(json.dumps(document))
    result = telemetryd("offline-request", "--timeout", "3s", KUBECONFIG=str(kubeconfig))
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert url in line


@pytest.mark.parametrize("argument", ["--timeout=soon", "--format=fleet", "more"])
def test_wrong_usage_exits_64(argument: str) -> None:
    result = telemetryd("offline-request", argument)
    assert (result.returncode, result.stdout) == (64, "")


def test_help_shows_an_example() -> None:
    result = telemetryd("offline-request", "--help")
    assert result.returncode == 0
    assert "example: telemetryd offline-request > request.txt" in result.stdout
