"""`telemetryd ctl` against a real daemon that watches the embedded API server."""

import hashlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from telemetryd.errors import NoDaemon
from telemetryd.serve.control.client import ask
from telemetryd.serve.control.protocol import Request
from tests.cli.test_commands import telemetryd
from tests.support.control import EXPORTERS, Commanded, assert_refused, ctl, running
from tests.support.daemon import TOP_LEVEL
from tests.support.embedded import FleetServer, serve_fleet

NODES = "nodes.management.cattle.io"
SETTINGS = "settings.management.cattle.io"
CLUSTERS = "clusters.management.cattle.io"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetServer]:
    with serve_fleet(tmp_path_factory.mktemp("fleet"), churn_per_s=20) as fleet:
        yield fleet


class Here(Commanded):
    """Its commands run in this process; that they do as one is shown by the first test."""

    def ctl(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command, *rest = arguments
        return telemetryd("ctl", command, "--config", str(self.daemon.config_file), *rest)


@pytest.fixture(scope="module")
def shared(server: FleetServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commanded]:
    """One daemon for all tests that leave it as they found it, but for its configuration."""
    with running(tmp_path_factory.mktemp("daemon"), server.kubeconfig) as commanded:
        commanded.daemon.wait_for("ready", commanded.daemon.ready, 90)
        commanded.daemon.wait_for("export", lambda: server.payload("rancher-scc-telemetry"), 15)
        yield Here(commanded.daemon, commanded.socket)


@pytest.fixture
def commanded(shared: Commanded) -> Commanded:
    shared.configure()
    return shared


def test_status_shows_a_table(commanded: Commanded) -> None:
    result = ctl("status", config=commanded.daemon.config_file)
    assert (result.returncode, result.stderr) == (0, "")
    rows = {line.split()[0]: line.split() for line in result.stdout.splitlines() if line}
    assert rows[NODES][1] == "synced"
    assert rows["scc"][1:3] == ["secret", "idle"] or rows["scc"][2] == "running"
    assert rows["off"][2] == "disabled"


def test_status_as_json_is_what_http_shows(commanded: Commanded) -> None:
    result = commanded.ctl("status", "--json")
    assert result.returncode == 0
    document, over_http = json.loads(result.stdout), commanded.daemon.status()
    assert document.keys() == over_http.keys()
    assert document["version"] == over_http["version"]
    assert [each["resource"] for each in document["informers"]] == [
        each["resource"] for each in over_http["informers"]
    ]


def test_stopped_exporter_is_shown_as_stopped_by_hand_until_it_is_started(
    commanded: Commanded,
) -> None:
    daemon = commanded.daemon
    stopped = commanded.ctl("stop", "scc")
    assert (stopped.returncode, stopped.stdout) == (0, "scc: stopped (by hand)\n")
    assert commanded.ctl("stop", "scc").returncode == 0, "stopping twice is fine"
    (row,) = (line for line in commanded.ctl("status").stdout.splitlines() if "scc" in line)
    assert row.split()[2] == "stopped"
    assert row.endswith("by hand")
    assert_refused(commanded.ctl("trigger", "scc"), 1, "'scc' is stopped")
    last = daemon.exporter()["last_attempt_at"]
    assert commanded.ctl("reload").returncode == 0
    time.sleep(1.2)
    assert daemon.exporter()["state"] == "stopped", "a reload starts nothing"
    assert daemon.exporter()["last_attempt_at"] == last
    started = commanded.ctl("start", "scc")
    assert started.returncode == 0
    assert started.stdout.startswith("scc: ")
    daemon.wait_for("runs again", lambda: daemon.exporter()["last_attempt_at"] != last, 30)
    assert commanded.ctl("start", "scc").returncode == 0, "starting twice is fine"


def test_restart_and_trigger_make_runs(commanded: Commanded) -> None:
    restarted = commanded.ctl("restart", "scc")
    assert restarted.returncode == 0
    commanded.daemon.wait_for(
        "idle", lambda: commanded.daemon.exporter()["state"] in {"idle", "running"}, 30
    )
    triggered = commanded.ctl("trigger", "scc")
    assert triggered.returncode == 0, triggered.stderr
    assert triggered.stdout.startswith("scc#")


@pytest.mark.parametrize("command", ["start", "stop", "restart", "trigger"])
def test_unknown_exporter_is_refused(commanded: Commanded, command: str) -> None:
    assert_refused(commanded.ctl(command, "nobody"), 1, "there is no exporter 'nobody'")


@pytest.mark.parametrize("command", ["start", "restart", "trigger"])
def test_disabled_exporter_is_refused(commanded: Commanded, command: str) -> None:
    assert_refused(commanded.ctl(command, "off"), 1, "'off' is disabled by its configuration")


def test_reload_says_what_changed(commanded: Commanded) -> None:
    assert commanded.ctl("reload").stdout == "nothing has changed\n"
    commanded.configure(EXPORTERS + '[[exporters]]\nname="b"\ntype="secret"\nsecret="b"\n')
    result = commanded.ctl("reload")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "exporter b added (secret)\n"
    assert commanded.daemon.exporter("b")
    commanded.configure()
    assert "exporter b removed" in commanded.ctl("reload").stdout


@pytest.mark.parametrize(
    ("config", "top_level", "part"),
    [
        (EXPORTERS + "interval = 'often'", TOP_LEVEL, "exporters.off.interval: "),
        (EXPORTERS, "log_level = \n", "isn't valid TOML"),
        (EXPORTERS, "state_dir = '/elsewhere'\n" + TOP_LEVEL, "state_dir"),
    ],
)
def test_rejected_reload_says_why_and_changes_nothing(
    commanded: Commanded, config: str, top_level: str, part: str
) -> None:
    commanded.configure(config, top_level)
    assert_refused(commanded.ctl("reload"), 1, str(commanded.daemon.config_file), part)
    shown = commanded.ctl("status")
    assert shown.returncode == 0, "a spoilt file hides no daemon"
    assert "last reload rejected: " in shown.stdout
    assert commanded.daemon.metric("telemetryd_config_last_reload_successful") == 0
    commanded.configure()
    assert commanded.ctl("reload").returncode == 0


def test_cache_tells_what_is_held(commanded: Commanded) -> None:
    result = commanded.ctl("cache", SETTINGS)
    assert result.returncode == 0
    document: dict[str, Any] = json.loads(result.stdout)
    assert list(document) == [
        "resource",
        "objects",
        "resource_version",
        "synced",
        "last_contact",
        "keys_sha256",
    ]
    objects = commanded.daemon.informer(SETTINGS)["objects"]
    assert objects > 10
    assert (document["resource"], document["objects"]) == (SETTINGS, objects)
    assert document["synced"] is True
    assert document["last_contact"].endswith("Z")


def test_digest_is_over_sorted_keys_joined_by_newlines(commanded: Commanded) -> None:
    document = json.loads(commanded.ctl("cache", "namespaces").stdout)
    assert document["keys_sha256"] == hashlib.sha256(b"kube-system").hexdigest()
    document = json.loads(commanded.ctl("cache", "projects.management.cattle.io").stdout)
    assert document["objects"] == 2


@pytest.mark.parametrize("resource", [NODES, CLUSTERS, "namespaces"])
def test_cache_of_a_changing_fleet_is_verified_as_equal(
    commanded: Commanded, resource: str
) -> None:
    result = commanded.ctl("cache", resource, "--verify")
    assert (result.returncode, result.stderr) == (0, "")
    found = json.loads(result.stdout)["verification"]
    assert found["equal"] is True
    assert found["listed"] > 0
    assert (found["missing"], found["extra"]) == ([], [])


def test_cache_of_something_not_watched_is_refused(commanded: Commanded) -> None:
    assert_refused(commanded.ctl("cache", "pods"), 1, "nothing is held of 'pods'", NODES)


def test_socket_is_private(commanded: Commanded) -> None:
    assert stat.S_IMODE(commanded.socket.lstat().st_mode) == 0o600


def test_hostile_clients_leave_the_daemon_working(commanded: Commanded) -> None:
    held = []
    for number in range(400):
        stream = socket.socket(socket.AF_UNIX)
        stream.setblocking(False)
        if stream.connect_ex(str(commanded.socket)) == 0 and number % 4 == 0:
            held.append(stream)
            stream.send((b"x" * 9000, b'{"command":', b"\0\n", b"")[number // 4 % 4] or b"{")
        else:
            stream.close()
    assert commanded.ctl("status").returncode == 0
    for stream in held:
        stream.close()
    assert commanded.ctl("trigger", "scc").returncode == 0
    assert commanded.daemon.ready()
    assert "Traceback" not in commanded.daemon.log()


def test_daemon_that_hangs_counts_as_none(commanded: Commanded) -> None:
    daemon = commanded.daemon
    daemon.signal(signal.SIGSTOP)
    try:
        with pytest.raises(NoDaemon, match=r"gave no answer within 0\.5 s"):
            ask([str(commanded.socket)], Request("status"), timeout_s=0.5)
    finally:
        daemon.signal(signal.SIGCONT)
    assert commanded.ctl("status").returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("fly",),
        ("stop",),
        ("start", ""),
        ("trigger", "x" * 513),
        ("status", "scc"),
        ("reload", "--now"),
        ("cache",),
        ("cache", NODES, "--verify=yes"),
    ],
)
def test_wrong_usage_exits_64(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    command, *rest = arguments
    result = telemetryd("ctl", command, "--config", str(tmp_path / "none.toml"), *rest)
    assert result.returncode == 64
    assert not result.stdout
    assert "usage: telemetryd" in result.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_another_user_is_refused(commanded: Commanded) -> None:
    commanded.socket.parent.chmod(0o755)
    # Twice: once it has run, all is imported, for the other user may not read the library.
    code = (
        "import os, sys\n"
        "from telemetryd.cli import run_command\n"
        "from telemetryd.daemon.signals import EarlySignals\n"
        "command = ['ctl', 'status', '--config', sys.argv[1]]\n"
        "assert run_command(command, EarlySignals()) == 0\n"
        "os.setuid(65534)\n"
        "sys.exit(run_command(command, EarlySignals()))\n"
    )
    with tempfile.NamedTemporaryFile("w", dir="/tmp", suffix=".toml") as config:
        config.write(f'[server]\ncontrol_socket = "{commanded.socket}"\n')
        config.flush()
        Path(config.name).chmod(0o644)
        result = subprocess.run(
            [sys.executable, "-c", code, config.name],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert result.returncode == 1
    assert result.stderr.startswith("telemetryd: user 65534 may not connect to ")


def test_trigger_that_waits_says_what_came_of_the_run(commanded: Commanded) -> None:
    daemon = commanded.daemon
    daemon.wait_for("delivers", lambda: daemon.exporter()["last_success_at"], 30)
    result = commanded.ctl("trigger", "scc", "--wait")
    assert (result.returncode, result.stderr) == (0, "")
    run, _, outcome = result.stdout.strip().partition(": ")
    assert run.startswith("scc#")
    assert outcome in {"delivered", "unchanged"}
    assert_refused(commanded.ctl("trigger", "none", "--wait"), 1, "there is no exporter")


def test_watched_status_is_shown_again_until_it_is_interrupted(commanded: Commanded) -> None:
    daemon = commanded.daemon
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "telemetryd", "ctl", "status", "--watch", "--json"),
            *("--config", str(daemon.config_file)),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        heads = 0
        while heads < 2:
            heads += process.stdout.readline() == "{\n"
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
