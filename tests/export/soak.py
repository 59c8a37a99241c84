"""Exports over and over to a receiver on this machine, and fails where memory or files grow.

Run by ``make soak-exports``, for it takes minutes: each export has new content, goes over TLS, and
through the spool on disk.
"""

import os
import resource
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from statistics import median

import anyio

from telemetryd.config import HttpExporterConfig
from telemetryd.daemon.exporters import build_http
from telemetryd.export.engine.manager import ExporterManager
from telemetryd.export.exporter import ExportContext, Exporter, ExporterSpec, Outcome
from telemetryd.model import Payload, Snapshot
from tests.export.doubles import Source, render, running
from tests.export.filekiller import fork
from tests.support.certificates import Authority, server_side
from tests.support.receiver import Request, Writer, receiving, status

SAMPLES = 100
MOST_GROWTH_BYTES = 4 << 20
MOST_GROWTH_FILES = 3
PAGE_BYTES = resource.getpagesize()


@dataclass
class Soak:
    """What is seen of this process between exports.

    Attributes:
        total: So many exports to make.
        memory: Resident bytes, by sample; ``files`` too.
    """

    total: int
    made: int = 0
    memory: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    done: anyio.Event = field(default_factory=anyio.Event)

    def note(self) -> None:
        self.made += 1
        if self.made % max(1, self.total // SAMPLES) == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.memory.append(pages * PAGE_BYTES)
            self.files.append(len(list(Path("/proc/self/fd").iterdir())))
        if self.made >= self.total:
            self.done.set()

    def judge(self) -> list[str]:
        """What grew, from the second tenth to the last."""
        tenth = len(self.memory) // 10
        wrong = []
        for what, samples, most in (
            ("memory in bytes", self.memory, MOST_GROWTH_BYTES),
            ("open files", self.files, MOST_GROWTH_FILES),
        ):
            first, last = median(samples[tenth : 2 * tenth]), median(samples[-tenth:])
            sys.stdout.write(f"{what}: {first:.0f} at first, {last:.0f} at last\n")
            if last - first > most:
                wrong.append(f"{what} grew from {first:.0f} to {last:.0f}")
        return wrong


class Changing(Source):
    """Each snapshot is another."""

    def snapshot(self) -> Snapshot:
        self.change()
        return super().snapshot()


class Noting:
    """A sink that asks for the next run whenever it has exported."""

    def __init__(self, exporter: Exporter, soak: Soak, manager: ExporterManager) -> None:
        self._exporter = exporter
        self._soak = soak
        self._manager = manager
        self.aclose = exporter.aclose

    async def export(self, payload: Payload, context: ExportContext) -> Outcome:
        outcome = await self._exporter.export(payload, context)
        self._soak.note()
        if not self._soak.done.is_set():
            self._manager.trigger("it")
        return outcome


async def receive(folder: Path, port: int) -> None:
    """The receiver, a process of its own; it keeps nothing."""
    authority = Authority(folder)
    tls = server_side(authority.issue("server"))

    async def answer(request: Request, writer: Writer) -> None:
        receiver.requests.clear()
        await status(200)(request, writer)

    async with receiving(default=answer, tls=tls) as receiver:
        os.write(port, b"%d\n" % receiver.port)
        await anyio.sleep_forever()


async def export(folder: Path, port: int, soak: Soak) -> None:
    config = HttpExporterConfig(
        name="it", url=f"https://127.0.0.1:{port}/", ca_file=str(folder / "ca.crt")
    )
    manager = ExporterManager(
        Changing(), now=time.time, rng=Random(1), spool_dir=str(folder / "spool")
    )
    spec = ExporterSpec(name="it", type="http", render=render, destination="there", spooled=True)
    sink = Noting(build_http(config, now=time.time, environ={}), soak, manager)
    manager.register(spec, sink)
    async with running(manager):
        await soak.done.wait()


def main(total: int) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reader, port = os.pipe()
        child = fork(partial(anyio.run, receive, folder, port))
        try:
            soak = Soak(total)
            began = time.monotonic()
            anyio.run(export, folder, int(os.read(reader, 64)), soak)
            sys.stdout.write(f"{soak.made} exports in {time.monotonic() - began:.0f} s\n")
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    wrong = soak.judge()
    for line in wrong:
        sys.stderr.write(f"{line}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
