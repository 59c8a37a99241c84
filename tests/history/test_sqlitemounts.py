"""The store on disks that are full or read-only, and on file systems of a network."""

import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from telemetryd.history.sqlite import open_store
from telemetryd.history.sqlitefile import is_on_network
from telemetryd.history.store import FILE_NAME
from tests.export.sinks.test_snapshots import own_mounts
from tests.history.test_sqlite import ONE, minute
from tests.history.test_sqlitefile import ROOT, filled, starts


def table(folder: Path, kind: str) -> Path:
    """A table of mounts, by which the folder is on a file system of that kind."""
    device = folder.stat().st_dev
    made = folder / "mountinfo"
    made.write_bytes(
        b"21 1 0:1 / /ser\xffver rw - nfs4 far:/ rw\n"
        b"broken\n22 1 %d:%d / /a\\040b rw,relatime shared:5 master:1 - %s dev rw\n"
        % (os.major(device), os.minor(device), kind.encode())
    )
    return made


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        *((kind, True) for kind in ("nfs4", "cifs", "fuse.sshfs", "9p", "ceph", "ocfs2")),
        *((kind, False) for kind in ("ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs")),
    ],
)
def test_file_system_of_a_network_is_known_by_the_table_of_mounts(
    tmp_path: Path, kind: str, expected: bool
) -> None:
    assert is_on_network(tmp_path, table(tmp_path, kind)) is expected
    assert not is_on_network(tmp_path, tmp_path / "none")


def test_file_on_a_network_is_locked_as_a_whole_and_needs_no_shared_memory(tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    (tmp_path / "far").mkdir()
    local = filled(tmp_path / "local", 3)
    local.write(ONE, [minute(3)])
    for each in (tmp_path / "local").glob(f"{FILE_NAME}*"):  # as a kill leaves them
        shutil.copy(each, tmp_path / "far")
    (tmp_path / "far" / f"{FILE_NAME}-shm").unlink()
    store = open_store(tmp_path / "far", now=time.time, mounts=table(tmp_path / "far", "nfs4"))
    assert (store.journal, local.journal) == ("delete", "wal")
    assert starts(store) == [0, 1, 2, 3]
    store.write(ONE, [minute(4)])
    names = {each.name for each in (tmp_path / "far").iterdir()}
    assert names == {FILE_NAME, f"{FILE_NAME}-journal", "history.lock", "mountinfo"}
    with sqlite3.connect(tmp_path / "far" / FILE_NAME, timeout=0) as other:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("SELECT * FROM slots")
        store.close()
        assert other.execute("SELECT count(*) FROM slots WHERE size = 60").fetchone() == (5,)
    other.close()


MOUNTED = """
import json, subprocess, sys
from pathlib import Path
from telemetryd.errors import HistoryError
from tests.history.test_sqlite import FILE_NAME, HOUR_S, MINUTE_S, ONE, minute, opened, read_store

def attempt(call):
    try:
        return call() or "done"
    except HistoryError as error:
        return str(error)

folder = Path(sys.argv[2])
mount = lambda *options: subprocess.run(["mount", *options, str(folder)], check=True)
mount("-t", "tmpfs", "-o", "size=2m", "tmpfs")
store, seen = opened(folder), {}
store.write(ONE, [minute(0)])
if sys.argv[1] == "full":
    filler = (folder / "filler").open("wb", buffering=0)
    try:
        while filler.write(bytes(4096)): pass
    except OSError: pass
    slots, number = [minute(each) for each in range(1, 600)], 0
    for number in range(3):
        seen[f"write {number}"] = attempt(lambda: store.write(ONE, slots, batch="a"))
        if number == 1:
            store.close()
            seen["opened"] = attempt(lambda: globals().update(store=opened(folder)))
    # What is removed takes room in the journal first.
    seen["prune"] = attempt(lambda: store.prune(4e9, keep_s=0, keep_daily_s=0))
    seen["kept"] = len(store.read(ONE, MINUTE_S, 0, 2**40))
    filler.close()
    (folder / "filler").unlink()
    seen["after"] = attempt(lambda: store.write(ONE, slots, batch="a"))
    seen["again"] = attempt(lambda: store.write(ONE, slots, batch="a"))
else:
    store.close()
    mount("-o", "remount,ro")
    seen["write"] = attempt(lambda: opened(folder))
    reader = read_store(folder)
    seen["read"] = len(reader.read(ONE, MINUTE_S, 0, 2**40))
    seen["files"] = sorted(each.name for each in folder.iterdir())
    reader.close()
    mount("-o", "remount,rw")
    store = opened(folder)
    seen["after"] = attempt(lambda: store.write(ONE, [minute(each) for each in range(1, 600)]))
slots = store.read(ONE, MINUTE_S, 0, 2**40)
seen["slots"] = [len(slots), max(each.known_s for each in slots)]
seen["hours"] = sum(each.known_s for each in store.read(ONE, HOUR_S, 0, 2**40))
print(json.dumps(seen))
"""


def seen_on_a_mount(scenario: str, folder: Path) -> dict[str, object]:
    command = own_mounts()
    if not command:
        pytest.skip("no mount namespace: needs root or unprivileged user namespaces")
    done = subprocess.run(
        [*command, sys.executable, "-c", MOUNTED, scenario, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_full_disk_is_named_and_loses_nothing(tmp_path: Path) -> None:
    seen = seen_on_a_mount("full", tmp_path)
    for number in range(3):
        assert "full: make room on its disk" in str(seen[f"write {number}"])
    assert "full: make room on its disk" in str(seen["prune"])
    assert (seen["kept"], seen["after"], seen["again"]) == (1, "done", "done")
    assert (seen["slots"], seen["hours"]) == ([600, 60.0], 36_000.0)


def test_read_only_folder_is_named_and_can_be_read(tmp_path: Path) -> None:
    seen = seen_on_a_mount("read-only", tmp_path)
    assert "Read-only file system: mount it writable" in str(seen["write"])
    assert (seen["read"], seen["files"]) == (1, ["history.db", "history.lock"])
    assert (seen["after"], seen["slots"]) == ("done", [600, 60.0])


FAR = """
import json, os, subprocess, sys, time
from pathlib import Path
from telemetryd.errors import HistoryError
from tests.history.test_sqlite import HOUR_S, MINUTE_S, ONE, minute, opened

def attempt(call):
    try:
        return call() or "done"
    except HistoryError as error:
        return str(error)

kind, number, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
behind, far, fault = (folder / name for name in ("behind", "far", "fault"))
for each in (behind, far): each.mkdir()
program = ("/usr/bin/python3", "tests/history/failingserver.py")
server = subprocess.Popen([*program, behind, far, fault])
while not os.path.ismount(far):
    assert server.poll() is None
    time.sleep(0.01)
try:
    store = opened(far)
    store.write(ONE, [minute(0)], batch="a")
    seen = {"journal": store.journal}
    fault.write_text(f"{kind} {number}")
    seen["write"] = attempt(lambda: store.write(ONE, [minute(1)], batch="b"))
    store.close()
    seen["open"] = attempt(lambda: opened(far).close())
    fault.unlink()
    store = opened(far)
    for batch in ("b", "b", "c"):
        store.write(ONE, [minute("abc".index(batch))], batch=batch)
    slots = store.read(ONE, MINUTE_S, 0, 2**40)
    seen["slots"] = [len(slots), max(each.known_s for each in slots)]
    seen["hours"] = sum(each.known_s for each in store.read(ONE, HOUR_S, 0, 2**40))
    store.close()
    seen["left"] = sorted(each.name for each in behind.iterdir())
finally:
    subprocess.run(["umount", far], check=True)
    server.wait(60)
print(json.dumps(seen))
"""
CHECK = "check the disk or the file server"
LOCKED = "database is locked: "


def has_fuse() -> bool:
    """Whether the system's Python can serve a file system, and who runs this may mount it."""
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        return False
    asked = subprocess.run(
        ["/usr/bin/python3", "-c", "import fusepy"], stderr=subprocess.DEVNULL, check=False
    )
    return asked.returncode == 0


@pytest.mark.parametrize(
    ("kind", "number", "said"),
    [
        pytest.param("lock", errno.ENOLCK, LOCKED, marks=pytest.mark.long),
        pytest.param("lock", errno.EACCES, LOCKED, marks=pytest.mark.long),
        pytest.param("lock", errno.EIO, CHECK, marks=pytest.mark.long),
        pytest.param("lock", errno.EINVAL, CHECK, marks=pytest.mark.long),
        ("lock", errno.ESTALE, CHECK),
        ("io", errno.ESTALE, CHECK),
        pytest.param("io", errno.EIO, CHECK, marks=pytest.mark.long),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) else "",
)
def test_locks_and_files_that_a_server_fails_are_named_and_cost_no_slot(
    tmp_path: Path, kind: str, number: int, said: str
) -> None:
    if not has_fuse():
        missing = "no FUSE: needs root, /dev/fuse and Debian's python3-fusepy"
        assert os.environ.get("CI") != "true", missing
        pytest.skip(missing)
    command = ["unshare", "-m", sys.executable, "-c", FAR, kind, str(number), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["journal"] == "delete", "it is known as of a network"
    # A lock that is held is not asked for again.
    assert (seen["write"] == "done") is (kind == "lock")
    assert said in seen["open"]
    assert (seen["slots"], seen["hours"]) == ([3, 60.0], 180.0)
    assert seen["left"] == ["history.db", "history.lock"], "nothing is taken for damaged"
