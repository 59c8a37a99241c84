"""Damaged files in the state folder, met by a real daemon: one clear error, and nothing more."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemon.damage import HttpReceiver, Process, Receivers
from tests.support.embedded import FleetServer, serve_fleet
from tests.support.processes import said

pytestmark = pytest.mark.timeout(900)
LONG = pytest.mark.long

EXPORTERS = """
[[exporters]]
name = "scc"
type = "secret"
interval = "20s"

[[exporters]]
name = "web"
type = "http"
url = "{url}/web"
interval = "20s"
splay_max = "0s"
format = "fleet"
"""


def make_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-30]),
    "emptied": lambda file: file.write_bytes(b""),
    "garbage": lambda file: file.write_bytes(b"\xff\x00{" * 50),
    "folder": make_folder,
    "locked": lambda file: file.chmod(0),
}


GROUPS = [
    ("locked",),
    pytest.param(tuple(each for each in DAMAGES if each != "locked"), marks=LONG),
]
"""Each is met by the files alone in ``test_restrictionfile`` and in ``test_spool``."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetServer]:
    with serve_fleet(tmp_path_factory.mktemp("fleet"), clusters=2, nodes=2) as fleet:
        yield fleet


@pytest.fixture
def receivers(fleet: FleetServer) -> Iterator[Receivers]:
    with HttpReceiver().running() as http:
        found = Receivers(fleet, http)
        found.forget()
        yield found


def start(folder: Path, receivers: Receivers, top: str = "") -> Process:
    file = folder / "config.toml"
    file.write_text(top + EXPORTERS.format(url=receivers.http.url))
    process = Process(folder / "state", receivers.fleet.kubeconfig, ["--config", str(file)])
    assert process.starts_or_ends() is None, process.log()
    return process


def assert_one_error(process: Process, file: Path) -> None:
    lines = [said(each) for each in process.lines() if each["level"] == "error"]
    (error,) = lines
    assert str(file) in error


@pytest.mark.parametrize("damages", GROUPS)
def test_damaged_restrictions_keep_all_off_with_one_error(
    tmp_path: Path, receivers: Receivers, damages: tuple[str, ...]
) -> None:
    state = tmp_path / "state"
    first = start(tmp_path, receivers, '[privacy]\nserver_url = "omit"\n')
    assert first.stop() == 0
    receivers.forget()
    shutil.copytree(state, tmp_path / "kept", ignore=shutil.ignore_patterns("*.sock"))
    for damage in damages:
        shutil.rmtree(state)
        shutil.copytree(tmp_path / "kept", state)
        file = state / "restrictions.json"
        DAMAGES[damage](file)
        process = start(tmp_path, receivers)
        try:
            collection = process.status()["collection"]
            assert collection["off_by"] == ["memory"], damage
            assert str(file) in collection["memory_warning"]
            assert not process.ask("trigger", "scc").ok
            assert process.ask("reload").ok, "the file is good"
        finally:
            assert process.stop() == 0
        assert_one_error(process, file)
        assert receivers.fields() == {}, damage


@LONG
def test_state_folder_that_is_a_file_keeps_all_off(tmp_path: Path, receivers: Receivers) -> None:
    (tmp_path / "file").touch()
    process = start(tmp_path, receivers, f'state_dir = "{tmp_path}/file"\n')
    try:
        assert process.status()["collection"]["off_by"] == ["memory"]
    finally:
        assert process.stop() == 0
    assert_one_error(process, tmp_path / "file" / "restrictions.json")
    assert receivers.fields() == {}


@LONG
@pytest.mark.parametrize("damages", GROUPS)
def test_damaged_spool_file_is_one_error_and_never_leaves(
    tmp_path: Path, receivers: Receivers, damages: tuple[str, ...]
) -> None:
    state = tmp_path / "state"
    receivers.http.refuses = True
    first = start(tmp_path, receivers)
    pending = state / "spool" / "web" / "pending"
    first.until("a pending payload", pending.exists)
    assert first.stop() == 0
    receivers.http.refuses = False
    receivers.forget()
    shutil.copytree(state, tmp_path / "kept", ignore=shutil.ignore_patterns("*.sock"))
    for damage in damages:
        shutil.rmtree(state)
        shutil.copytree(tmp_path / "kept", state)
        DAMAGES[damage](pending)
        process = start(tmp_path, receivers, '[privacy]\nserver_url = "omit"\n')
        try:
            process.settle()
        finally:
            assert process.stop() == 0
        assert_one_error(process, pending)
        sent = receivers.fields()["/web"]
        assert "$.installation.server_url" not in sent, damage
        assert "$.totals.cpu_millis" in sent, "what is true now goes out"
