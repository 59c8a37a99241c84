"""Restrictions as an operator sees them: commands, and a daemon as a process."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_commands import telemetryd
from tests.support.control import ctl
from tests.support.daemon import Daemon
from tests.support.embedded import FleetServer, serve_fleet

SCC = '[[exporters]]\nname = "scc"\ntype = "secret"\ninterval = "1s"\n'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetServer]:
    with serve_fleet(tmp_path_factory.mktemp("server"), clusters=1, nodes=1) as server:
        yield server


def environ(folder: Path) -> dict[str, str]:
    return {"STATE_DIRECTORY": str(folder), "RUNTIME_DIRECTORY": str(folder)}


def run(command: str, config: Path, folder: Path) -> "subprocess.CompletedProcess[str]":
    return telemetryd(command, "--config", str(config), **environ(folder))


def test_opt_in_ends_what_is_remembered_and_says_what_is_written(
    tmp_path: Path, server: FleetServer
) -> None:
    off = Daemon(tmp_path, server.kubeconfig, SCC, "enabled = false\n")
    try:
        off.wait_for("off", lambda: off.get("/livez")[0] == 200, 60)
        written = ctl("opt-in", config=off.config_file, **environ(tmp_path))
        assert written.returncode == 1
        assert "nothing was remembered" in written.stdout
        assert f"collection is off: {off.config_file}: write enabled = true" in written.stderr
    finally:
        assert off.stop() == 0
    remembered = json.loads((tmp_path / "restrictions.json").read_text())["restrictions"]
    assert [each["key"] for each in remembered] == ["enabled"]

    cut = Daemon(tmp_path, server.kubeconfig, SCC, "")
    try:
        cut.wait_for("listening", lambda: cut.get("/livez")[0] == 200, 60)
        assert cut.status()["collection"]["off_by"] == ["memory"]
        assert cut.metric('telemetryd_collection_allowed{by="memory"}') == 0
        (shown,) = cut.status()["collection"]["restrictions"]
        assert shown["where"] == str(cut.config_file)
        assert shown["remembered_in"] == [str(tmp_path / "restrictions.json")]
        seen = run("payload", cut.config_file, tmp_path)
        assert "a daemon sends nothing of this: switched off by a remembered" in seen.stderr
        looked = run("doctor", cut.config_file, tmp_path)
        assert "WARN  collection  collection is off: remembered from" in looked.stdout
        table = ctl("status", config=cut.config_file, **environ(tmp_path)).stdout
        assert "restriction: collection is off: enabled, remembered from" in table
        assert server.payload("rancher-scc-telemetry") is None

        ended = ctl("opt-in", config=cut.config_file, **environ(tmp_path))
        assert (ended.returncode, ended.stderr) == (0, "")
        assert "ended: collection is off" in ended.stdout
        cut.wait_for("sends", lambda: server.payload("rancher-scc-telemetry"), 60)
    finally:
        assert cut.stop() == 0
    assert ctl("opt-in", config=cut.config_file, **environ(tmp_path)).returncode == 2


def test_commands_reach_a_daemon_whose_file_is_gone(tmp_path: Path, server: FleetServer) -> None:
    daemon = Daemon(tmp_path, server.kubeconfig, SCC, "enabled = false\n")
    try:
        daemon.wait_for("listening", lambda: daemon.get("/livez")[0] == 200, 60)
        daemon.config_file.unlink()
        rejected = ctl("reload", config=daemon.config_file, **environ(tmp_path))
        assert rejected.returncode == 1
        (line,) = rejected.stderr.splitlines()
        assert f"{daemon.config_file}: doesn't exist" in line
        assert daemon.status()["collection"]["off_by"] == ["config"]
    finally:
        assert daemon.stop() == 0


@pytest.mark.parametrize("content", [b"", b"# enabled = false\n", b"\xef\xbb\xbf"])
def test_check_config_and_start_refuse_a_file_without_a_statement(
    tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(content)
    for command in ("check-config", "run"):
        result = run(command, file, tmp_path)
        assert result.returncode == 78
        assert "holds no statement" in result.stderr


def test_check_config_and_doctor_refuse_a_cut_file_as_a_start_would(
    tmp_path: Path, server: FleetServer
) -> None:
    chosen = 'secret = "chosen"\n'
    first = Daemon(tmp_path, server.kubeconfig, SCC + chosen, "")
    try:
        first.wait_for("sends", lambda: server.payload("chosen"), 60)
        state = tmp_path / "restrictions.json"
        first.wait_for("remembers", state.exists, 60)
    finally:
        assert first.stop() == 0
    remembered = state.read_bytes()
    first.configure(SCC, "")  # cut before the last line
    for command in ("run", "check-config", "doctor"):
        result = run(command, first.config_file, tmp_path)
        assert result.returncode == 78, command
        assert result.stdout == ""
        assert f"{first.config_file}:6: exporters.scc.secret: is missing, and says" in result.stderr
    assert state.read_bytes() == remembered, "nothing is stored"

    first.configure(f'{SCC}secret = "rancher-scc-telemetry"\n', "")
    valid = run("check-config", first.config_file, tmp_path)
    assert (valid.returncode, valid.stderr) == (0, "")
    assert valid.stdout == f"{first.config_file}: valid\n"

    state.write_text("{")
    first.configure(SCC, "")
    unknown = run("check-config", first.config_file, tmp_path)
    assert unknown.returncode == 0, "a start collects nothing, and says so"
    (line,) = unknown.stderr.splitlines()
    assert line.startswith("telemetryd: not compared with what an earlier start remembers: ")
    assert f"{state}: is damaged" in line
