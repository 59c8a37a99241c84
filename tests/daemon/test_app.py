"""The control socket over the life of daemons: two of them, killed ones, blind and lonely ones."""

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cli.test_commands import telemetryd
from tests.support.control import EXPORTERS, assert_refused, blind_proxy, ctl, running
from tests.support.daemon import Daemon
from tests.support.embedded import FleetServer, serve_fleet
from tests.support.locks import OTHER_USER, holding

NODES = "nodes.management.cattle.io"
SETTINGS = "settings.management.cattle.io"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetServer]:
    with serve_fleet(tmp_path_factory.mktemp("fleet")) as fleet:
        yield fleet


def test_second_daemon_on_the_same_socket_exits_1(server: FleetServer, tmp_path: Path) -> None:
    config = tmp_path / "second.toml"
    with running(tmp_path, server.kubeconfig) as first:
        config.write_text(f'[server]\ncontrol_socket = "{first.socket}"\n')
        second = telemetryd(
            "run",
            "--config",
            str(config),
            KUBECONFIG=str(server.kubeconfig),
            TELEMETRYD_LISTEN="127.0.0.1:0",
        )
        assert second.returncode == 1, "it may pass: the service manager tries again"
        assert "server.control_socket: another telemetryd listens on" in second.stderr
        assert "Traceback" not in second.stderr
        assert first.ctl("status").returncode == 0


def test_port_of_another_process_ends_the_start_with_1_and_is_used_once_it_is_free(
    server: FleetServer, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        environ = {"TELEMETRYD_LISTEN": f"127.0.0.1:{port}"}
        refused = telemetryd(
            "run", KUBECONFIG=str(server.kubeconfig), STATE_DIRECTORY=str(tmp_path), **environ
        )
        assert refused.returncode == 1, "the unit restarts on it, and not on 78"
    line = refused.stderr.splitlines()[-1]
    assert "Traceback" not in refused.stderr
    assert f"server.listen: can't listen on 127.0.0.1:{port}: the port is taken: stop" in line
    again = Daemon(tmp_path, server.kubeconfig, "", "", environ=environ)
    try:
        again.port = port
        again.wait_for("ready", again.ready, 90)
    finally:
        assert again.stop() == 0


def test_killed_daemon_leaves_nothing_in_the_way(server: FleetServer, tmp_path: Path) -> None:
    path = Path(tempfile.mkdtemp(prefix="td-", dir="/tmp"), "control.sock")
    config = f'control_socket = "{path}"\n'
    first = Daemon(tmp_path, server.kubeconfig, config)
    first.wait_for("listening", path.exists, 15)
    first.process.kill()
    first.process.wait()
    assert path.is_socket()
    assert_refused(ctl("status", config=first.config_file), 2, f"no daemon listens on {path}")
    second = Daemon(tmp_path, server.kubeconfig, config)
    try:
        second.wait_for(
            "answers", lambda: ctl("status", config=second.config_file).returncode == 0, 15
        )
    finally:
        assert second.stop() == 0
    assert_refused(ctl("status", config=first.config_file), 2, f"no daemon listens on {path}")
    shutil.rmtree(path.parent)


@pytest.mark.long
def test_other_user_who_locks_all_there_is_holds_up_neither_start_nor_export(
    server: FleetServer, tmp_path: Path
) -> None:
    """The folders are open to all, as an administrator may make them."""
    folder = Path(tempfile.mkdtemp(prefix="td-", dir="/tmp"))
    archive = folder / "archive"
    archive.mkdir()
    planted = [folder / ".control.sock.lock", archive / ".telemetryd.lock"]
    for path in planted:
        path.touch(0o600)
        os.chown(path, OTHER_USER, OTHER_USER)
    for path in (folder, archive):
        path.chmod(0o755)
    config = (
        f'control_socket = "{folder}/control.sock"\n[[exporters]]\nname = "archive"\n'
        f'type = "file"\ndirectory = "{archive}"\ninterval = "1s"\n'
    )
    with ExitStack() as held:
        for path in (folder, archive, *planted):
            held.enter_context(holding(path, OTHER_USER))
        daemon = Daemon(tmp_path, server.kubeconfig, config)
        try:
            daemon.wait_for("a snapshot", (archive / "latest").exists, 60)
            assert ctl("status", config=daemon.config_file).returncode == 0
        finally:
            assert daemon.stop() == 0
    for path in planted:
        assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (os.geteuid(), 0o600)
    shutil.rmtree(folder)


def test_spoilt_file_without_a_daemon_exits_78(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('log_levle = "info"\n')
    result = ctl("status", config=config, STATE_DIRECTORY=str(tmp_path))
    assert_refused(result, 78, f"{config}:1: log_levle: unknown key")
    missing = ctl("status", config=tmp_path / "none.toml", STATE_DIRECTORY=str(tmp_path))
    assert_refused(missing, 78, "none.toml: doesn't exist")


@pytest.mark.long
def test_daemon_without_a_place_for_its_socket_runs_on(server: FleetServer, tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    daemon = Daemon(folder, server.kubeconfig, EXPORTERS)
    try:
        daemon.wait_for("ready", daemon.ready, 90)
        assert "the path is longer than 107 bytes" in daemon.whole_log()
    finally:
        assert daemon.stop() == 0
    assert "no control socket" in daemon.log()


def test_cache_that_never_synced_exits_1(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        json.dumps(
            {
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
                "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
                "users": [{"name": "c", "user": {}}],
            }
        )
    )
    with running(tmp_path, kubeconfig, kubernetes='source = "rancher"') as commanded:
        commanded.daemon.wait_for(
            "the end of the first look", lambda: len(commanded.daemon.status()["informers"]) > 1, 30
        )
        for options in ((), ("--verify",)):
            result = ctl("cache", NODES, *options, config=commanded.daemon.config_file)
            assert result.returncode == 1
            assert json.loads(result.stdout)["synced"] is False
            assert result.stderr == f"telemetryd: {NODES} isn't synced\n"
        status = commanded.ctl("status").stdout
        assert "waiting for" in status
        assert "syncing" in status


@pytest.mark.long
def test_cache_kept_in_the_dark_differs(server: FleetServer, tmp_path: Path) -> None:
    with (
        blind_proxy(tmp_path, server.kubeconfig) as blind,
        running(tmp_path, blind, "", kubernetes='watch_list = "off"') as commanded,
    ):
        commanded.daemon.wait_for("synced", commanded.daemon.ready, 90)
        config = commanded.daemon.config_file
        before = json.loads(ctl("cache", SETTINGS, "--verify", config=config).stdout)
        assert before["verification"]["equal"]
        setting = server.get(SETTINGS, "server-url")
        assert setting is not None
        server.put({**setting, "metadata": {"name": "s-unseen"}})
        try:
            result = ctl("cache", SETTINGS, "--verify", config=config)
        finally:
            server.remove(SETTINGS, "s-unseen")
        assert result.returncode == 1
        document = json.loads(result.stdout)
        assert document["keys_sha256"] == before["keys_sha256"]
        assert document["verification"]["missing"] == ["s-unseen"]
        assert document["verification"]["extra"] == []
        assert result.stderr == (
            f"telemetryd: {SETTINGS} differs from the API server: 1 missing, 0 extra\n"
        )
        for shown in (commanded.daemon.log(), json.dumps(commanded.daemon.status())):
            assert "s-unseen" not in shown, "names are shown on the private socket only"
