"""What a daemon leaves on disk is for its own user alone, however it was started."""

import base64
import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.certificates import Authority
from tests.support.daemon import Daemon, free_port
from tests.support.embedded import FleetServer, serve_fleet

OPEN_TO_ALL = ("/bin/sh", "-c", 'umask 0; ulimit -c unlimited; exec "$@"', "sh")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FleetServer]:
    folder = tmp_path / "fleet"
    folder.mkdir()
    with serve_fleet(folder) as fleet:
        yield fleet


def with_inline_certificate(kubeconfig: Path, folder: Path) -> Path:
    """The same with a client certificate in it, which becomes files of their own."""
    document = json.loads(kubeconfig.read_text())
    pair = Authority(folder).issue("client")
    user = document["users"][0]["user"]
    user["client-certificate-data"] = base64.b64encode(Path(pair.cert).read_bytes()).decode()
    user["client-key-data"] = base64.b64encode(Path(pair.key).read_bytes()).decode()
    path = folder / "kubeconfig-inline"
    path.write_text(json.dumps(document))
    return path


def open_to_others(folder: Path) -> list[str]:
    """What below the folder another user could read, write or enter."""
    return [
        f"{oct(stat.S_IMODE(path.lstat().st_mode))} {path}"
        for path in sorted(folder.rglob("*"))
        if not path.is_symlink() and stat.S_IMODE(path.lstat().st_mode) & 0o077
    ]


def test_every_file_is_private_whatever_the_mask_and_no_core_is_dumped(
    server: FleetServer, tmp_path: Path
) -> None:
    state, run, temporary = tmp_path / "state", tmp_path / "run", tmp_path / "tmp"
    temporary.mkdir()
    config = f"""
[[exporters]]
name = "archive"
type = "file"
directory = "{state}/archive"
interval = "1s"

[[exporters]]
name = "remote"
type = "http"
url = "http://127.0.0.1:{free_port()}/"
interval = "1s"
splay_max = "0s"
"""
    daemon = Daemon(
        tmp_path,
        with_inline_certificate(server.kubeconfig, tmp_path),
        config,
        environ={
            "STATE_DIRECTORY": str(state),
            "RUNTIME_DIRECTORY": str(run),
            "TMPDIR": str(temporary),
        },
        under=OPEN_TO_ALL,
    )
    try:
        daemon.wait_for("a snapshot", (state / "archive" / "latest").exists, 60)
        daemon.wait_for("a payload in the spool", lambda: [*state.glob("spool/*/pending")], 60)
        daemon.wait_for("the control socket", (run / "control.sock").exists, 60)
        made = [path.name for folder in (state, run) for path in folder.rglob("*")]
        assert {"archive", ".telemetryd.lock", ".control.sock.lock"} <= set(made)
        for folder in (state, run, temporary):
            assert open_to_others(folder) == []
        for folder in (state, run):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        limits = Path(f"/proc/{daemon.process.pid}/limits").read_text()
        (core,) = [line.split()[4:6] for line in limits.splitlines() if "core file" in line]
        assert core[0] == "0", "no more than that: the hard limit is the administrator's"
    finally:
        assert daemon.stop() == 0, daemon.log()[-3000:]
