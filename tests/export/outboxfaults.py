"""Full and read-only disks under a spool; prints what is seen as one line of JSON.

A process of its own in a mount namespace of its own: no other process sees what it mounts.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio

from tests.export.doubles import failing
from tests.export.filefaults import fill, mount
from tests.export.outbox.bench import REFUSED, Bench


async def spoil(folder: Path, spoilt: Callable[[], None], fixed: Callable[[], None]) -> Any:
    """A payload is pending on a good disk; the disk fails, something newer comes, it is fixed."""
    bench = Bench(folder.parent)
    async with bench.daemon(failing(REFUSED, REFUSED)):
        await bench.run_over()
        spoilt()
        bench.source.change()
        await bench.run_again()
        detail = bench.status.detail
        kept = bench.spool.peek().pending
        await bench.run_again()
        state, dropped = bench.status.state, dict(bench.stats.spool_dropped)
        fixed()
        await bench.run_again()
        after = bench.spool.peek()
        return {
            "detail": detail,
            "dropped": dropped,
            "kept": kept and kept.payload.digest,
            "sent": [payload.digest for payload in bench.sink.payloads],
            "state": state,
            "detail after": bench.status.detail,
            "noted after": after.delivered and after.delivered.digest,
            "pending after": after.pending is not None,
        }


async def full_disk(folder: Path) -> Any:
    mount("-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder))
    return await spoil(folder, lambda: fill(folder), (folder / "filler").unlink)


async def read_only(folder: Path) -> Any:
    mount("--bind", str(folder), str(folder))
    return await spoil(
        folder,
        lambda: mount("-o", "remount,bind,ro", str(folder)),
        lambda: mount("-o", "remount,bind,rw", str(folder)),
    )


if __name__ == "__main__":
    scenario = {"full": full_disk, "readonly": read_only}[sys.argv[1]]
    json.dump(anyio.run(scenario, Path(sys.argv[2])), sys.stdout)
