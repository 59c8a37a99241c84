"""Runs an exporter as the daemon does: by the real engine, on made-up snapshots."""

import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import anyio

from telemetryd.api.testing.samples import FakeSource
from telemetryd.errors import ManagerError, NotLeading
from telemetryd.export.engine.manager import ExporterManager
from telemetryd.export.exporter import ExportContext, Exporter, ExporterSpec, Outcome
from telemetryd.export.payloads.formats import make_renderer
from telemetryd.model import ExporterStatus, Payload, Snapshot

_NAME: Final = "it"
_LOOK_S: Final = 0.005
_ENDED: Final = ("success", "unchanged", "failure", "skipped")
_NEVER_S: Final = 3600.0
"""Between slots: runs are made by hand."""


@dataclass(slots=True)
class ExportCall:
    """One call of ``export``.

    Attributes:
        payload: What it was given.
        context: What it was given with it.
        outcome: What it returned; None where it raised, or has not ended.
        error: What it raised, ``CancelledError`` included.
    """

    payload: Payload
    context: ExportContext
    outcome: Outcome | None = None
    error: BaseException | None = None


@dataclass(slots=True)
class _Recorder:
    """Passes calls on, and records them."""

    exporter: Exporter
    calls: list[ExportCall] = field(default_factory=list)
    closed: int = 0

    async def export(self, payload: Payload, context: ExportContext) -> Outcome:
        call = ExportCall(payload, context)
        self.calls.append(call)
        try:
            call.outcome = await self.exporter.export(payload, context)
        except BaseException as error:
            call.error = error
            raise
        return call.outcome

    async def aclose(self) -> None:
        self.closed += 1
        await self.exporter.aclose()


class Drive:
    """One exporter under the engine; made by ``driving``.

    Attributes:
        source: Whose snapshots are exported; ``source.change()`` gives them another content.
        manager: The engine, with this exporter alone, whose name is ``it``.
        leads: False makes ``context.fence()`` raise NotLeading, and no run calls the exporter.
    """

    def __init__(self, exporter: Exporter, spec: ExporterSpec, snapshot: Snapshot | None) -> None:
        self.source = FakeSource(snapshot)
        self.leads = True
        self._spec = spec
        self._recorder = _Recorder(exporter)
        self.manager = ExporterManager(
            self.source,
            now=time.time,  # noqa: TID251 - exporters compare it with the times of files
            rng=random.Random(1),
            drain_timeout_s=spec.attempt_timeout_s,
            require_leading=self._require_leading,
        )

    @property
    def calls(self) -> list[ExportCall]:
        """Each call of ``export`` so far."""
        return self._recorder.calls

    @property
    def closed(self) -> int:
        """How often ``aclose`` was called."""
        return self._recorder.closed

    @property
    def status(self) -> ExporterStatus:
        """The exporter's status, as ``telemetryd ctl status`` shows it.

        Raises:
            ManagerError: There was no run yet.
        """
        return self.manager.status(_NAME)

    async def run(self) -> ExporterStatus:
        """Make one run with the current snapshot, its retries included; returns the status then.

        Content that was delivered already isn't given to the exporter again.

        Raises:
            ManagerError: It is stopped.
        """
        if self.closed:
            raise ManagerError("the exporter is closed: drive another one")
        ended = self._ended()
        if self.manager.has(_NAME):
            self.manager.trigger(_NAME)
        else:
            self.manager.register(self._spec, self._recorder)  # its first run begins at once
        while self._ended() == ended:  # noqa: ASYNC110 - counters have no event
            await anyio.sleep(_LOOK_S)
        return self.status

    async def stop(self) -> None:
        """Stop and close the exporter, as an unregistration does.

        Raises:
            ManagerError: There was no run yet, or it is stopped already.
        """
        await self.manager.unregister(_NAME)

    def _ended(self) -> int:
        if not self.manager.has(_NAME):
            return 0
        runs = self.manager.stats()[_NAME].runs
        return sum(runs[result] for result in _ENDED)

    def _require_leading(self) -> None:
        if not self.leads:
            raise NotLeading("another replica leads")


@asynccontextmanager
async def driving(
    exporter: Exporter,
    *,
    format: str = "scc",  # noqa: A002 - the name of the key
    snapshot: Snapshot | None = None,
    timeout_s: float = 10.0,
    retry_base_s: float = 0.01,
    retry_cap_s: float = 0.1,
    retry_budget_s: float = 5.0,
) -> AsyncIterator[Drive]:
    """Run an exporter under telemetryd's own engine; it is stopped and closed at the end.

    Runs are made by ``Drive.run()`` alone. An exporter that ignores its cancellation is waited for
    at the end, as in the daemon. An error of the block is raised as it is.

    Args:
        exporter: As ``make_exporter`` makes it.
        format: Of the payload: ``scc`` or ``fleet``.
        snapshot: The first one; None for one of ``make_snapshot()``.
        timeout_s: After which an attempt is cut off.
        retry_base_s: First step of the backoff between attempts of a run.
        retry_cap_s: Its longest step.
        retry_budget_s: No attempt of a run starts later than this after the first; 0 for one alone.

    Raises:
        ValueError: There is no such format, or a time can't be.
    """
    spec = ExporterSpec(
        name=_NAME,
        type="test",
        render=make_renderer(format),
        interval_s=_NEVER_S,
        timeout_s=timeout_s,
        retry_base_s=retry_base_s,
        retry_cap_s=retry_cap_s,
        retry_budget_s=retry_budget_s,
    )
    drive = Drive(exporter, spec, snapshot)
    failure: Exception | None = None
    async with anyio.create_task_group() as group:
        await group.start(drive.manager.run)
        try:
            yield drive
        except Exception as error:  # noqa: BLE001 - raised below, where the group doesn't wrap it
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
