"""Whatever stands in the place of its own temporary and lock files, the daemon writes and sends."""

import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemon.damage import HttpReceiver
from tests.support.control import ctl
from tests.support.daemon import Daemon
from tests.support.embedded import FleetServer, serve_fleet

TEMPORARY = (
    "spool/remote/.pending.tmp",
    "spool/remote/.state.tmp",
    "spool/second/.pending.tmp",
    ".epoch.tmp",
    ".restrictions.json.tmp",
)
LOCKS = (".control.sock.lock", "archive/.telemetryd.lock")
WRITTEN = ("spool/remote/state", "spool/second/state", "restrictions.json", "archive/latest")
REMOTE = """
[[exporters]]
name = "{name}"
type = "http"
format = "fleet"
interval = "1s"
splay_max = "0s"
url = "{url}/{name}"
"""


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            bound.bind(f"/proc/self/fd/{folder}/{path.name}")  # short enough for a socket
        finally:
            os.close(folder)


def make_unreadable(path: Path) -> None:
    path.write_bytes(b"half of a file")
    path.chmod(0)


def make_full_folder(path: Path) -> None:
    (path / "something").mkdir(parents=True)


PLANTS: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "socket": make_socket,
    "unreadable": make_unreadable,
    "folder": Path.mkdir,
    "full folder": make_full_folder,
    "link to nowhere": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path.name),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetServer]:
    with serve_fleet(tmp_path_factory.mktemp("fleet"), clusters=1, nodes=1) as fleet:
        yield fleet


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    with HttpReceiver().running() as running:
        yield running


def config(folder: Path, receiver: HttpReceiver) -> str:
    archive = (
        '[[exporters]]\nname = "archive"\ntype = "file"\ninterval = "1s"\n'
        f'directory = "{folder}/archive"\n'
    )
    remote = "".join(REMOTE.format(name=name, url=receiver.url) for name in ("remote", "second"))
    return f'[privacy]\nserver_url = "omit"\n{archive}{remote}'


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=() if kind == "pipe" else pytest.mark.long) for kind in PLANTS],
)
def test_all_is_written_and_sent_whatever_has_a_temporary_or_lock_name(
    kind: str, tmp_path: Path, server: FleetServer, receiver: HttpReceiver
) -> None:
    locks = () if kind == "full folder" else LOCKS
    for name in (*TEMPORARY, *locks):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        PLANTS[kind](tmp_path / name)
    daemon = Daemon(tmp_path, server.kubeconfig, config(tmp_path, receiver))
    try:
        for name in WRITTEN:
            daemon.wait_for(name, (tmp_path / name).exists, 60)
        for name in ("archive", "remote", "second"):
            daemon.wait_for(name, lambda: daemon.exporter(name)["last_success_at"], 60)  # noqa: B023
            assert daemon.exporter(name)["detail"] == ""
        asked = ctl("status", config=daemon.config_file, STATE_DIRECTORY=str(tmp_path))
        assert asked.returncode == 0, asked.stderr
    finally:
        assert daemon.stop() == 0, daemon.log()[-4000:]
    assert receiver.counts == {"/remote": 1, "/second": 1}
    for name in WRITTEN:
        found = (tmp_path / name).stat()
        assert stat.S_ISREG(found.st_mode), name
        assert stat.S_IMODE(found.st_mode) == 0o600, name
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.tmp")}
    assert left == (set(TEMPORARY) if kind == "full folder" else {".epoch.tmp"})


def test_two_full_folders_in_one_spool_are_reported_once_and_nothing_else_suffers(
    tmp_path: Path, server: FleetServer, receiver: HttpReceiver
) -> None:
    for name in (".pending.tmp", ".pending.2.tmp", ".state.tmp", ".state.2.tmp"):
        make_full_folder(tmp_path / "spool" / "remote" / name)
    daemon = Daemon(tmp_path, server.kubeconfig, config(tmp_path, receiver))
    try:
        daemon.wait_for("second", (tmp_path / "spool/second/state").exists, 60)
        daemon.wait_for("remote", lambda: daemon.exporter("remote")["last_success_at"], 60)
        assert daemon.exporter("archive")["detail"] == daemon.exporter("second")["detail"] == ""
        (said,) = (
            line
            for line in daemon.whole_log().splitlines()
            if "exporter keeps nothing on disk" in line and '"level":"warning"' in line
        )
        assert f"can't use {tmp_path}/spool/remote: Directory not empty" in said
        assert "Directory not empty" in daemon.exporter("remote")["detail"]
    finally:
        assert daemon.stop() == 0, daemon.log()[-4000:]
    assert receiver.counts == {"/remote": 1, "/second": 1}
