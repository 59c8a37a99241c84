"""`telemetryd run --dry-run` writes nothing anywhere, and logs what it would have written."""

import json
import logging
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from telemetryd.config import Config, parse_config
from telemetryd.daemon.dryrun import IN_POD, announce, describe_writes, without_places
from tests.support.daemon import Daemon
from tests.support.embedded import NAMESPACE, FleetServer, serve_fleet

NOT_WRITTEN = "dry run: payload not written"
REQUESTS = "secretrequests.telemetry.cattle.io"
REQUEST: dict[str, Any] = {
    "apiVersion": "telemetry.cattle.io/v1",
    "kind": "SecretRequest",
    "metadata": {"name": "asked"},
    "spec": {
        "secretType": "scc",
        "targetSecretRef": {"namespace": NAMESPACE, "name": "asked"},
    },
}
ALL = """
[leader_election]
enabled = true
[secret_requests]
interval = "1s"
[[exporters]]
name = "scc"
type = "secret"
interval = "1s"
[[exporters]]
name = "folder"
type = "file"
directory = "{folder}/snapshots"
interval = "1s"
[[exporters]]
name = "receiver"
type = "http"
url = "http://127.0.0.1:9/in/secret-path"
interval = "1s"
splay_max = "0s"
"""


def config(text: str) -> Config:
    return parse_config(text, "c.toml", {"TELEMETRYD_STATE_DIR": "/s"})


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FleetServer]:
    with serve_fleet(tmp_path, clusters=2, nodes=2) as running:
        yield running


def test_everything_that_is_written_is_named() -> None:
    assert list(describe_writes(config(ALL.format(folder="/f")))) == [
        "exporter scc: Secret cattle-telemetry-system/rancher-scc-telemetry",
        "exporter folder: files in /f/snapshots",
        "exporter receiver: POST to http://127.0.0.1:9",
        "SecretRequests: their status, and the Secrets that they ask for",
        "leader election: Lease cattle-telemetry-system/telemetryd",
        "state: files in /s",
    ]
    off = config("enabled = false\n[leader_election]\nenabled = false")
    assert list(describe_writes(off)) == ["state: files in /s"]


def test_start_outside_a_pod_warns_once_of_what_it_writes_where(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "telemetryd.daemon.dryrun")
    announce(config(""), "https://api", {IN_POD: "10.0.0.1"}, dry_run=False)
    assert not caplog.records
    announce(config(""), "https://api", {}, dry_run=False)
    announce(config(""), "https://api", {}, dry_run=True)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    for record in caplog.records:
        assert "https://api" in record.getMessage()
        assert "Secret cattle-telemetry-system/rancher-scc-telemetry" in record.getMessage()


def test_nothing_outlives_a_dry_run() -> None:
    dry = without_places(config("[leader_election]\nenabled = true"))
    assert (dry.state_dir, dry.server.control_socket) == (None, None)
    assert not dry.leader_election.enabled


def test_dry_run_writes_nothing_and_logs_what_it_would_write(
    tmp_path: Path, server: FleetServer
) -> None:
    server.put(REQUEST)
    before = server.get(REQUESTS, "asked")
    state = tmp_path / "state"
    state.mkdir()
    daemon = Daemon(
        tmp_path,
        server.kubeconfig,
        ALL.format(folder=tmp_path),
        environ={"STATE_DIRECTORY": str(state), "RUNTIME_DIRECTORY": str(state)},
        under=("sh", "-c", 'exec "$@" --dry-run', "sh"),
    )
    try:
        for exporter, destination in {
            "scc": f"Secret {NAMESPACE}/rancher-scc-telemetry",
            "folder": f"files in {tmp_path}/snapshots",
            "receiver": "POST to http://127.0.0.1:9",
            "secretrequest/asked": f"Secret {NAMESPACE}/asked",
        }.items():
            daemon.wait_for(exporter, partial(logged, daemon, NOT_WRITTEN, exporter), 60)
            assert logged(daemon, NOT_WRITTEN, exporter)["destination"] == destination
        status = "/apis/telemetry.cattle.io/v1/secretrequests/asked/status"
        daemon.wait_for("status", partial(logged, daemon, "dry run: request not sent", status), 60)
        daemon.signal(signal.SIGHUP)
        daemon.wait_for("reloads", partial(logged, daemon, "config reloaded"), 60)
        assert daemon.ready()
    finally:
        assert daemon.stop() == 0
    log = daemon.log()
    assert "secret-path" not in log
    assert "Traceback" not in log
    assert server.get(REQUESTS, "asked") == before
    for name in ("rancher-scc-telemetry", "asked"):
        assert server.get("secrets", name, NAMESPACE) is None
    assert list(state.iterdir()) == []
    assert not (tmp_path / "snapshots").exists()


def logged(daemon: Daemon, message: str, *values: str) -> dict[str, Any]:
    """The first line with this message and these values; empty for none."""
    lines = (json.loads(line) for line in daemon.log().splitlines() if line.startswith("{"))
    return next(
        (
            line
            for line in lines
            if line["message"].startswith(message) and {*values} <= set(map(str, line.values()))
        ),
        {},
    )
