"""Full and read-only file systems under an exporter; prints what is seen as one line of JSON.

A process of its own in a mount namespace of its own: no other process sees what it mounts.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio

from telemetryd.errors import ExportError
from telemetryd.export.engine.manager import ExporterManager
from telemetryd.export.exporter import Exporter, ExporterSpec
from telemetryd.export.payloads.scc import scc_renderer
from telemetryd.model import ExporterState, ExporterStatus
from tests.export.doubles import Source, manager_of, running
from tests.export.filebench import FolderBench, check_folder
from tests.support.waiting import until_async


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


async def attempt(bench: FolderBench, sink: Exporter, revision: int) -> dict[str, str]:
    """What an export comes to."""
    bench.now_s += 60.0
    try:
        outcome = await bench.send(sink, revision)  # type: ignore[arg-type]
    except ExportError as exc:
        return {"error": type(exc).__name__, "reason": exc.reason, "message": str(exc)}
    return {"outcome": outcome}


def contents(folder: Path) -> dict[str, str]:
    """All that is in the folder, but for what fills it up."""
    return {
        path.name: str(path.readlink()) if path.is_symlink() else path.read_bytes().hex()
        for path in folder.iterdir()
        if not path.name.startswith("filler")
    }


def fill(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


def fill_inodes(folder: Path, *, leave: int) -> None:
    made: list[Path] = []
    try:
        while True:
            path = folder / f"filler{len(made)}"
            path.touch()
            made.append(path)
    except OSError:
        for path in made[:leave]:
            path.unlink()


async def full_disk(folder: Path) -> dict[str, Any]:
    """Fill the disk under a manager's exporter, and free it again."""
    mount("-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder))
    bench, source = FolderBench(folder), Source()
    manager = manager_of(source)
    spec = ExporterSpec(
        name="scc",
        type="file",
        render=scc_renderer(),
        interval_s=60.0,
        retry_budget_s=0.0,
        verifies_destination=True,
    )
    manager.register(spec, bench.exporter())
    async with running(manager):
        await until(manager, lambda status: status.last_success_at is not None)
        fill(folder)
        before = contents(folder)
        source.change()
        manager.trigger("scc")
        full = await until(manager, lambda status: status.consecutive_failures > 0)
        intact = contents(folder) == before
        check_folder(folder, keep=48)
        (folder / "filler").unlink()
        manager.trigger("scc")
        freed = await until(manager, lambda status: status.consecutive_failures == 0)
    return {
        "state": full.state,
        "reason": full.last_error_reason,
        "message": full.last_error,
        "intact": intact,
        "state after": freed.state,
        "snapshots after": len(bench.dated),
        "revision after": bench.nodes(),
    }


async def until(
    manager: ExporterManager, holds: Callable[[ExporterStatus], bool]
) -> ExporterStatus:
    def found() -> ExporterStatus | None:
        status = manager.status("scc")
        return status if holds(status) and status.state is not ExporterState.RUNNING else None

    status = await until_async(found, "a status of scc")
    assert status is not None
    return status


async def no_inodes(folder: Path) -> dict[str, Any]:
    """Leave an inode for the snapshot, and none for the link to it."""
    mount("-t", "tmpfs", "-o", "nr_inodes=24", "tmpfs", str(folder))
    bench = FolderBench(folder)
    sink = bench.exporter()
    await attempt(bench, sink, 1)
    fill_inodes(folder, leave=1)
    before = contents(folder)
    full = await attempt(bench, sink, 2)
    intact = contents(folder) == before
    for path in folder.glob("filler*"):
        path.unlink()
    return {**full, "intact": intact, "after": await attempt(bench, sink, 2)}


async def read_only(folder: Path) -> dict[str, Any]:
    """Make the file system read-only, and writable again."""
    mount("--bind", str(folder), str(folder))
    bench = FolderBench(folder)
    sink = bench.exporter()
    await attempt(bench, sink, 1)
    (folder / ".scc-2026-01-01T00-00-00.000Z.json.tmp").touch()
    before = contents(folder)
    mount("-o", "remount,bind,ro", str(folder))
    same = await attempt(bench, sink, 1)
    other = await attempt(bench, sink, 2)
    intact = contents(folder) == before
    inner = FolderBench(folder / "inner")
    made = await attempt(inner, inner.exporter(), 1)
    mount("-o", "remount,bind,rw", str(folder))
    after = await attempt(bench, sink, 2)
    return {**other, "intact": intact, "same": same, "made": made, "after": after}


if __name__ == "__main__":
    scenario = {"full": full_disk, "inodes": no_inodes, "readonly": read_only}[sys.argv[1]]
    json.dump(anyio.run(scenario, Path(sys.argv[2])), sys.stdout)
