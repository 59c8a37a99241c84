"""Stand-ins for the manager's neighbours: a snapshot source and sinks of every temper."""

import asyncio
import copy
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import anyio
from anyio.abc import TaskGroup

from telemetryd.api.testing.samples import AT, IDENTITY, FakeSource
from telemetryd.export.engine.manager import ExporterManager
from telemetryd.export.exporter import ExportContext, ExporterSpec, Outcome
from telemetryd.export.payloads.scc import scc_renderer
from telemetryd.model import Delivery, ExporterStatus, Payload, Snapshot, SystemRow, Totals
from telemetryd.stats import ExporterStats

INSTALL_UUID, CLUSTER_UUID, EPOCH_S = IDENTITY.install_uuid, IDENTITY.cluster_uuid, AT


def render_scc(snapshot: Snapshot, now_s: float) -> Payload:
    """The SCC payload of a snapshot, made at a Unix time in seconds."""
    return scc_renderer()(snapshot, Delivery(at=now_s))


def snapshot(revision: int = 1, *, nodes: int = 1) -> Snapshot:
    """A small fleet whose content hangs on the revision."""
    return Snapshot(
        revision=revision,
        taken_at=EPOCH_S,
        complete=True,
        incomplete_reasons=(),
        identity=IDENTITY,
        features=(),
        systems=(SystemRow("amd64", 4, 16384, upstream=False, count=nodes),),
        clusters=(),
        totals=Totals(),
    )


class Source(FakeSource):
    """A snapshot source that the test holds in its hand, and that may fail.

    Attributes:
        error: What ``snapshot()`` raises; None for nothing.
    """

    def __init__(self, *, ready: bool = True) -> None:
        super().__init__(snapshot())
        self.error: BaseException | None = None
        if not ready:
            self.wait_for("informer nodes")

    def snapshot(self) -> Snapshot:
        if self.error is not None:
            raise self.error
        return super().snapshot()

    def change(self) -> None:
        revision = self.current.revision + 1
        self.current = snapshot(revision, nodes=revision)


def render(snapshot: Snapshot, delivery: Delivery) -> Payload:
    """Payloads whose digest is the revision."""
    return Payload(
        body=f"revision {snapshot.revision} at {delivery.at}".encode(),
        content_type="text/plain",
        digest=f"digest-{snapshot.revision}",
        revision=snapshot.revision,
        schema_valid=True,
        schema_error="",
    )


Behaviour = Callable[[Payload, ExportContext], Awaitable[Outcome]]


class Sink:
    """An exporter that keeps a record of its calls and then does as the test says."""

    def __init__(self, behave: Behaviour | None = None) -> None:
        self.behave = behave
        self.starts: list[float] = []
        self.payloads: list[Payload] = []
        self.contexts: list[ExportContext] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.closed = 0

    async def export(self, payload: Payload, context: ExportContext) -> Outcome:
        self.starts.append(anyio.current_time())
        self.payloads.append(payload)
        self.contexts.append(context)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return Outcome.WRITTEN if self.behave is None else await self.behave(payload, context)
        finally:
            self.in_flight -= 1

    async def aclose(self) -> None:
        self.closed += 1


def failing(*errors: BaseException) -> Behaviour:
    """Raises these, one a call; then succeeds."""
    left = list(errors)

    async def behave(payload: Payload, context: ExportContext) -> Outcome:
        if left:
            raise left.pop(0)
        return Outcome.WRITTEN

    return behave


def always(error: Exception) -> Behaviour:
    """Raises a fresh copy of the error at each call."""

    async def behave(payload: Payload, context: ExportContext) -> Outcome:
        raise error.with_traceback(None)

    return behave


def taking(seconds: float) -> Behaviour:
    """Succeeds after so long."""

    async def behave(payload: Payload, context: ExportContext) -> Outcome:
        await anyio.sleep(seconds)
        return Outcome.WRITTEN

    return behave


async def hang(payload: Payload, context: ExportContext) -> Outcome:
    """Never returns of its own accord."""
    await anyio.sleep_forever()
    return Outcome.WRITTEN


def ignoring_cancellation(seconds: float) -> Behaviour:
    """Swallows every cancellation for so long, then succeeds."""

    async def behave(payload: Payload, context: ExportContext) -> Outcome:
        until_s = anyio.current_time() + seconds
        while (left_s := until_s - anyio.current_time()) > 0:
            try:
                await asyncio.sleep(left_s)
            except asyncio.CancelledError:
                continue
        return Outcome.WRITTEN

    return behave


def spec(name: str = "scc", **changes: object) -> ExporterSpec:
    """A spec of the ``render`` above, whose sink is called at every slot."""
    given = {"verifies_destination": True, **changes}
    return ExporterSpec(name=name, type="test", render=render, **given)  # type: ignore[arg-type]


def manager_of(source: Source, **changes: object) -> ExporterManager:
    """A manager on the loop's clock, without suspends."""
    return ExporterManager(
        source,
        rng=Random(7),
        **{  # type: ignore[arg-type]
            "now": lambda: EPOCH_S + anyio.current_time(),
            "suspended_s": lambda: 0.0,
            **changes,
        },
    )


@asynccontextmanager
async def running(manager: ExporterManager) -> AsyncIterator[TaskGroup]:
    """Runs the manager around the block, and drains it at its end."""
    async with anyio.create_task_group() as group:
        await group.start(_run, manager)
        yield group
        group.cancel_scope.cancel()


async def _run(manager: ExporterManager, *, task_status: anyio.abc.TaskStatus[None]) -> None:
    await manager.run(task_status=task_status)


async def run_for(
    seconds: float, sink: Sink, source: Source | None = None, **changes: Any
) -> tuple[ExporterStatus, ExporterStats]:
    """Runs one exporter for so long; returns its status and counters just before the end."""
    extra = {key: changes.pop(key) for key in ("suspended_s", "epoch") if key in changes}
    manager = manager_of(source or Source(), **extra)
    manager.register(spec(**changes), sink)
    async with running(manager):
        await anyio.sleep(seconds)
        starts, status = list(sink.starts), manager.status("scc")
        stats = copy.deepcopy(manager.stats()["scc"])
    sink.starts = starts
    return status, stats
