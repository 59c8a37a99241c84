"""A folder under test: payloads for it, and what must hold of it at any moment."""

import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from telemetryd.export.exporter import ExportContext, Outcome
from telemetryd.export.payloads.scc import validate_scc
from telemetryd.export.sinks.file import FileExporter
from telemetryd.export.sinks.snapshots import LOCK
from telemetryd.export.threads import shared_threads
from telemetryd.model import Payload
from tests.export.doubles import EPOCH_S, render_scc, snapshot

NAME = re.compile(r"scc-\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{3}Z\.json(\.gz)?")
CONTEXT = ExportContext("scc", attempt=1, epoch=0)


def payload(revision: int, now_s: float = EPOCH_S) -> Payload:
    """Content that hangs on the revision."""
    return render_scc(snapshot(revision, nodes=revision), now_s)


def exporter(folder: Path, *, now: Callable[[], float], **changes: Any) -> FileExporter:
    options: dict[str, Any] = {
        "name": "scc",
        "directory": str(folder),
        "keep": 48,
        "max_bytes": None,
        "compress": False,
        "max_silence_s": 86_400.0,
        "now": now,
        "threads": shared_threads(),
    }
    return FileExporter(**{**options, **changes})


def names(folder: Path) -> list[str]:
    """Of all that is there, but for the lock."""
    return sorted(path.name for path in folder.iterdir() if path.name != LOCK)


def led_to(folder: Path) -> str:
    """The text of the link ``latest``."""
    return str((folder / "latest").readlink())


class FolderBench:
    """A folder, an exporter's clock, and what they hold."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now_s = EPOCH_S

    def exporter(self, **changes: Any) -> FileExporter:
        return exporter(self.folder, **{"now": lambda: self.now_s, **changes})

    async def send(self, exporter: FileExporter, revision: int = 1) -> Outcome:
        return await exporter.export(payload(revision, self.now_s), CONTEXT)

    async def fill(self, exporter: FileExporter, count: int) -> None:
        """So many snapshots, a minute apart."""
        for revision in range(1, count + 1):
            await self.send(exporter, revision)
            self.now_s += 60.0

    @property
    def names(self) -> list[str]:
        return names(self.folder)

    @property
    def dated(self) -> list[str]:
        return [name for name in self.names if NAME.fullmatch(name)]

    @property
    def latest(self) -> str:
        return led_to(self.folder)

    def nodes(self, name: str = "latest") -> int:
        """Which revision a snapshot holds."""
        count: int = read_whole(self.folder / name)["managedSystems"][0]["count"]
        return count


def read_whole(path: Path) -> dict[str, Any]:
    """A snapshot, whole and valid or an error."""
    content = path.read_bytes()
    if path.resolve().suffix == ".gz":
        content = gzip.decompress(content)
    assert validate_scc(content) == ""
    document: dict[str, Any] = orjson.loads(content)
    return document


def check_folder(folder: Path, *, keep: int) -> tuple[int, int]:
    """Assert what must hold of a folder whatever has happened to its writers.

    Returns:
        The numbers of snapshots and of temporary files.
    """
    found = names(folder)
    dated = [name for name in found if NAME.fullmatch(name)]
    for name in dated:
        read_whole(folder / name)
        assert (folder / name).stat().st_mode & 0o777 == 0o600
    assert len(dated) <= keep + 1
    temporary = [name for name in found if name.startswith(".scc-") and name.endswith(".tmp")]
    assert len(temporary) <= 2
    if "latest" in found:
        assert led_to(folder) in dated
    return len(dated), len(temporary)
