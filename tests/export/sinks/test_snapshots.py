"""The file sink on disks that are full or read-only, and under kill -9: real ones, in processes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.export.filebench import FolderBench, check_folder

pytestmark = pytest.mark.anyio


@cache
def own_mounts() -> tuple[str, ...]:
    """The command under which a process may mount for itself alone, empty where none does."""
    for command in (("unshare", "-m"), ("unshare", "-rm")):
        attempt = [*command, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
        try:
            if subprocess.run(attempt, capture_output=True, check=False).returncode == 0:
                return command
        except FileNotFoundError:
            return ()
    return ()


def outcome(module: str, *arguments: str, under: tuple[str, ...] = ()) -> Any:
    command = [*under, sys.executable, "-m", f"tests.export.{module}", *arguments]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def seen_with_mounts(scenario: str, folder: Path, module: str = "filefaults") -> Any:
    command = own_mounts()
    if not command:
        pytest.skip("no mount namespace: needs root or unprivileged user namespaces")
    folder.mkdir()
    return outcome(module, scenario, str(folder), under=command)


def test_full_disk_fails_clearly_leaves_all_intact_and_is_recovered_from(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    seen = seen_with_mounts("full", folder)
    assert seen == {
        "state": "failed",
        "reason": "storage",
        "message": f"can't write to {folder}: No space left on device: free space or inodes there, "
        "or set a lower keep or max_bytes",
        "intact": True,
        "state after": "idle",
        "snapshots after": 2,
        "revision after": 2,
    }


def test_lack_of_inodes_leaves_no_snapshot_without_its_link(tmp_path: Path) -> None:
    seen = seen_with_mounts("inodes", tmp_path / "out")
    assert (seen["error"], seen["reason"], seen["intact"]) == ("RetryableError", "storage", True)
    assert "No space left on device" in seen["message"]
    assert seen["after"] == {"outcome": "written"}


def test_read_only_folder_is_distinguished_from_one_that_needs_no_write(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    seen = seen_with_mounts("readonly", folder)
    assert (seen["error"], seen["reason"], seen["intact"]) == ("PermanentError", "storage", True)
    assert seen["message"] == (
        f"can't write to {folder}: Read-only file system: mount it writable (under systemd: name "
        "it in ReadWritePaths=), or configure another directory"
    )
    assert seen["same"] == {"outcome": "unchanged"}
    assert seen["made"]["error"] == "PermanentError"
    assert f"{folder}/inner: Read-only file system" in seen["made"]["message"]
    assert seen["after"] == {"outcome": "written"}


@pytest.fixture
def quick_folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where possible: a kill waits for the disk, and no disk is quick at all times."""
    memory = Path("/dev/shm")
    usable = memory.is_dir() and os.access(memory, os.W_OK | os.X_OK)
    with TemporaryDirectory(dir=memory if usable else tmp_path) as folder:
        yield Path(folder)


@pytest.mark.parametrize("times", [60, pytest.param(200, marks=pytest.mark.long)])
async def test_writers_killed_over_and_over_never_leave_half_a_file(
    quick_folder: Path, times: int
) -> None:
    bench = FolderBench(quick_folder / "out")
    bench.folder.mkdir()
    (bench.folder / "scc.json").write_text("foreign")
    seen = outcome("filekiller", "random", str(bench.folder), str(times))
    assert seen["killed"] == times
    assert seen["written"] > times // 20
    assert seen["halves"] > 0, "the kills have missed what they are for"
    bench.now_s = 2_000_000_000.0
    await bench.send(bench.exporter(keep=3))
    assert check_folder(bench.folder, keep=3) == (3, 0)
    assert (bench.folder / "scc.json").read_text() == "foreign"


def test_writer_killed_at_each_of_its_steps_leaves_only_what_the_next_removes(
    tmp_path: Path,
) -> None:
    seen = outcome("filekiller", "steps", str(tmp_path / "out"))
    assert seen["steps"] > 5
    assert seen["halves"] > 1
    assert (seen["temporary"], seen["kept"]) == (0, 1)
