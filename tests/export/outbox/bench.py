"""One exporter with an outbox on a real disk, and a daemon that is started over and over."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import anyio

from telemetryd.errors import NotLeading, PermanentError, Reason, RetryableError
from telemetryd.export.engine.manager import ExporterManager
from telemetryd.export.outbox.spool import SpoolFolder
from telemetryd.model import ExporterState, ExporterStatus
from telemetryd.stats import ExporterStats
from tests.export.doubles import Sink, Source, running, spec

LOST = RetryableError(Reason.CONNECT, "no server there")
REFUSED = PermanentError(Reason.REJECTED, "no")


@dataclass
class Bench:
    """One exporter, whose daemon is started over and over on the same folder."""

    folder: Path
    now: Callable[[], float] = time.time
    epoch: int = 0
    leads: bool = True
    omitted: frozenset[str] = frozenset()
    seen_epochs: list[int] = field(default_factory=list)
    sink: Sink = field(default_factory=Sink)
    source: Source = field(default_factory=Source)
    manager: ExporterManager | None = None

    @property
    def spool(self) -> SpoolFolder:
        return SpoolFolder(str(self.folder / "spool"), "it")

    @property
    def status(self) -> ExporterStatus:
        assert self.manager is not None
        return self.manager.status("it")

    @property
    def stats(self) -> ExporterStats:
        assert self.manager is not None
        return self.manager.stats()["it"]

    def require_leading(self) -> None:
        if not self.leads:
            raise NotLeading

    @property
    def sequences(self) -> list[int]:
        return [context.sequence for context in self.sink.contexts]

    @asynccontextmanager
    async def daemon(self, behave: Any = None, **changes: Any) -> AsyncIterator["Bench"]:
        """A daemon from here to the end of the block."""
        self.sink = Sink(behave)
        self.manager = ExporterManager(
            self.source,
            now=self.now,
            rng=Random(7),
            epoch=lambda: self.epoch,
            drain_timeout_s=5.0,
            spool_dir=str(self.folder / "spool"),
            require_leading=self.require_leading,
            saw_epoch=self.seen_epochs.append,
            omitted=lambda: self.omitted,
        )
        given = {"verifies_destination": False, "destination": "there", "spooled": True, **changes}
        self.manager.register(spec("it", **given), self.sink)
        async with running(self.manager):
            yield self

    async def until(self, holds: Callable[[], object]) -> None:
        with anyio.fail_after(30):
            while not holds():
                await anyio.sleep(0.005)

    async def run_over(self) -> None:
        """Until the first run is over."""
        over = {ExporterState.IDLE, ExporterState.FAILED}
        await self.until(lambda: self.status.last_attempt_at and self.status.state in over)

    async def run_again(self) -> None:
        """Ask for one more run, and see it through."""
        assert self.manager is not None
        runs = self.stats.runs

        def over() -> int:
            return sum(runs[result] for result in ("success", "unchanged", "failure"))

        before = over()
        self.manager.trigger("it")
        await self.until(lambda: over() > before)
