"""One attempt to export: newest snapshot, payload, sink, all within a deadline and in isolation.

The runner decides when attempts are made, and how many.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from random import Random

import anyio
from anyio.abc import TaskGroup

from telemetryd.errors import (
    ExportError,
    NotLeading,
    NotReady,
    OutrankedError,
    PermanentError,
    Reason,
    RetryableError,
)
from telemetryd.export.engine.doorbell import Doorbell
from telemetryd.export.engine.foreign import ForeignCall
from telemetryd.export.engine.said import export_error
from telemetryd.export.exporter import ExportContext, Exporter, Outcome
from telemetryd.export.ledger import Ledger
from telemetryd.export.outbox.outbox import Outbox, why_withheld
from telemetryd.export.outbox.spool import PendingPayload
from telemetryd.export.spec import ExporterSpec
from telemetryd.limiter import Limiter
from telemetryd.model import Payload, SnapshotSource

log = logging.getLogger(__name__)

BLOCKED_S = 0.5
"""A sink that keeps the event loop to itself for so long holds up everyone, and is named for it."""
CUT_GRACE_S = 0.5
"""How long a call that was cut off has to come to its end."""


@dataclass(slots=True)
class Surroundings:
    """What all exporters of one manager share.

    Attributes:
        now: Unix time in seconds.
        suspended_s: Seconds the machine has spent suspended since it booted.
        epoch: The leadership epoch.
        saw_epoch: Called with each epoch that is found on disk or in a receiver's answer.
        omitted: Names of the ``[privacy]`` keys that omit something now.
        lost_source: Tells the manager that the source isn't ready any more.
        require_leading: Raises NotLeading where another replica may lead.
        spool_threads: For reading and writing pending payloads.
        spool_dir: Where exporters keep pending payloads; None for nowhere.
        ready: The source gives snapshots.
        installation_id: Of the last time it became ready; what the splay hangs on.
    """

    source: SnapshotSource
    now: Callable[[], float]
    rng: Random
    suspended_s: Callable[[], float]
    epoch: Callable[[], int]
    saw_epoch: Callable[[int], None]
    omitted: Callable[[], frozenset[str]]
    lost_source: Callable[[], None]
    require_leading: Callable[[], None]
    spool_threads: Limiter
    spool_dir: str | None = None
    ready: bool = False
    installation_id: str = ""


class _NothingUnsent(Exception):
    """The destination has, or has refused, what there is to send: no final attempt."""


class Attempts:
    """Makes the attempts of one exporter, one at a time.

    Attributes:
        spec: The exporter's.
        stop_by_s: No attempt outlasts this time; infinite until the exporter is told to stop.
        abandoned: Whatever is cut off at that time is nobody's failure.
    """

    __slots__ = (
        "_around",
        "_bell",
        "_call",
        "_exporter",
        "_ledger",
        "_outbox",
        "_settled_digest",
        "_unsent_digest",
        "abandoned",
        "spec",
        "stop_by_s",
    )

    def __init__(
        self,
        spec: ExporterSpec,
        exporter: Exporter,
        ledger: Ledger,
        bell: Doorbell,
        around: Surroundings,
    ) -> None:
        self.spec = spec
        self._exporter = exporter
        self._ledger = ledger
        self._bell = bell
        self._around = around
        self._call: ForeignCall[Outcome] | None = None
        self._settled_digest = self._unsent_digest = ""
        self._outbox = Outbox(
            lambda: self.spec,
            ledger,
            spool_dir=around.spool_dir,
            now=around.now,
            clock=self._boot_time_s,
            threads=around.spool_threads,
            saw_epoch=around.saw_epoch,
        )
        self.stop_by_s = math.inf
        self.abandoned = False

    @property
    def in_progress(self) -> bool:
        """A call of the sink runs, one that ignores its cancellation included."""
        return self._call is not None and not self._call.done

    @property
    def stray(self) -> bool:
        """A call of the sink was cut off, ignores that, and still runs."""
        return self._call is not None and not self._call.done and self._call.cut_off

    async def make(
        self, group: TaskGroup, number: int, *, run_id: str, final: bool = False
    ) -> ExportError | None:
        """Make one attempt with the newest snapshot.

        Args:
            group: Where the sink's task lives; a sink that ignores its cancellation stays there.
            number: 1 for the first of a run.
            run_id: For the log.
            final: Only where something is unsent.

        Returns:
            What went wrong; None where nothing did or there was nothing to do.
        """
        return await self._make(group, partial(self._deliver, number, final=final), run_id=run_id)

    async def make_without_snapshot(self, group: TaskGroup, *, run_id: str) -> ExportError | None:
        """Make one attempt with the pending payload of an earlier process, if there is one.

        That is for as long as there is no snapshot, which would be newer.
        """
        return await self._make(group, self._deliver_pending, run_id=run_id)

    async def _make(
        self, group: TaskGroup, deliver: Callable[[], Awaitable[Outcome]], *, run_id: str
    ) -> ExportError | None:
        call = await self._call_sink(group, deliver, run_id=run_id)
        if call.value is not None:
            self._settled_digest = self._ledger.digest
            self._unsent_digest = ""
            self._ledger.run_succeeded(call.value, run_id=run_id)
            return None
        if isinstance(call.error, NotReady):
            self._around.lost_source()
            self._ledger.skipped("not_ready")
            self._ledger.waiting()
            return None
        if isinstance(call.error, _NothingUnsent):
            return None
        if isinstance(call.error, NotLeading):
            self._ledger.skipped("held")
            return None
        if self.abandoned and call.cut_off:
            self._ledger.skipped("held")
            return None
        error = self._translate(call)
        if isinstance(error, PermanentError):
            self._settled_digest = self._ledger.digest
        self._ledger.attempt_failed(error)
        return error

    async def _call_sink(
        self, group: TaskGroup, deliver: Callable[[], Awaitable[Outcome]], *, run_id: str
    ) -> ForeignCall[Outcome]:
        call = ForeignCall(deliver, self._call_ended)
        self._call = call
        self._ledger.stats.in_flight = 1
        group.start_soon(call.run)
        ends_s = min(anyio.current_time() + self.spec.attempt_timeout_s, self.stop_by_s)
        while not call.done and anyio.current_time() < ends_s:
            await self._bell.wait(ends_s, partial(self._over, call, ends_s))
            ends_s = min(ends_s, self.stop_by_s)
        if not call.done:
            call.cut()
            await self._bell.wait(anyio.current_time() + CUT_GRACE_S, lambda: call.done)
        if not call.done:
            log.error(
                "exporter ignores its cancellation exporter=%s run=%s", self.spec.name, run_id
            )
        return call

    async def _deliver(self, number: int, *, final: bool) -> Outcome:
        """What runs as the call: collect the newest snapshot, render it, give it to the sink.

        Raises:
            _NothingUnsent: It is the final attempt, and nothing has changed since the last one.
        """
        stats = self._ledger.stats
        snapshot = self._around.source.snapshot()
        if not final:
            self._ledger.attempt_started()
        await self._outbox.open(self._around.omitted())
        started_s = anyio.current_time()
        delivery = self._outbox.next_delivery(self._around.epoch())
        payload = self.spec.render(snapshot, delivery)
        stats.collection.observe(anyio.current_time() - started_s)
        if final:
            if self._is_settled(payload):
                raise _NothingUnsent
            self._ledger.attempt_started()
        self._note_superseded(payload)
        newest = PendingPayload(
            payload,
            delivery,
            snapshot.identity.install_uuid,
            self.spec.destination,
            self.spec.disclosure.format,
            snapshot.omitted,
        )
        # A sink that reads its destination is given the newest, whatever was delivered before.
        pending = newest if self.spec.verifies_destination else self._outbox.offer(newest)
        self._ledger.collected(payload if pending is None else pending.payload)
        return Outcome.UNCHANGED if pending is None else await self._send(pending, number)

    def _is_settled(self, payload: Payload) -> bool:
        """Whether the destination has, or has refused, this content, and nothing since."""
        pending = self._outbox.pending
        outdone = pending is None or pending.payload.digest == payload.digest
        return outdone and payload.digest == self._settled_digest

    async def _deliver_pending(self) -> Outcome:
        """What runs as the call where there is no snapshot.

        Raises:
            _NothingUnsent: Nothing is pending, or another leader has sent since.
        """
        await self._outbox.open(self._around.omitted())
        pending = self._outbox.pending
        if pending is None or pending.delivery.epoch != self._outbox.epoch(self._around.epoch()):
            raise _NothingUnsent
        self._ledger.attempt_started()
        self._ledger.collected(pending.payload)
        try:
            return await self._send(pending, 1)
        except OutrankedError as error:
            self._ledger.stats.runs["superseded"] += 1
            raise _NothingUnsent from error

    async def _send(self, pending: PendingPayload, number: int) -> Outcome:
        self._require_privacy(pending)
        await self._outbox.keep(pending)
        fence = partial(self._fence, pending, self._call)
        context = ExportContext(
            name=self.spec.name,
            attempt=number,
            epoch=pending.delivery.epoch,
            installation_id=pending.installation_id,
            sequence=pending.delivery.sequence,
            collected_at=pending.delivery.at,
            fence=fence,
        )
        fence()
        started_s = anyio.current_time()
        try:
            outcome = Outcome(await self._exporter.export(pending.payload, context))
        except OutrankedError as error:
            if await self._outbox.outranked(pending, error):
                raise
            said = f"{error}: that cannot be right, check the receiver's own log"
            raise PermanentError(error.reason, said) from error
        finally:
            self._ledger.stats.export.observe(anyio.current_time() - started_s)
        self._ledger.attempt_succeeded(outcome, pending.payload)
        if not self.spec.verifies_destination:
            await self._outbox.delivered(pending)
        return outcome

    def _fence(self, pending: PendingPayload, call: ForeignCall[Outcome] | None) -> None:
        """Let bytes of this payload go out now.

        Raises:
            NotLeading: Another replica may lead, collection is off, or the exporter has ended.
            RetryableError: ``[privacy]`` has become stricter.
        """
        # A write in a thread goes on after its attempt was cut off, for as long as its disk hangs.
        was_cut_off = call is not None and call.cut_off
        if self.abandoned or (self.stop_by_s < math.inf and was_cut_off):
            raise NotLeading("the exporter has ended")
        self._around.require_leading()
        self._require_privacy(pending)

    def _require_privacy(self, pending: PendingPayload) -> None:
        if why_withheld(pending, self.spec.disclosure.format, self._around.omitted()):
            raise RetryableError(
                Reason.INTERNAL,
                "[privacy] has become stricter since this payload was made: it is not sent",
            )

    def _note_superseded(self, payload: Payload) -> None:
        pending = self._outbox.pending
        unsent = self._unsent_digest or (pending.payload.digest if pending is not None else "")
        if unsent and unsent != payload.digest:
            self._ledger.stats.runs["superseded"] += 1
        self._unsent_digest = payload.digest

    def _translate(self, call: ForeignCall[Outcome]) -> ExportError:
        """What a call raised, as an error whose type says whether to try again."""
        error = call.error
        if error is None:
            return RetryableError(
                Reason.TIMEOUT, "cut off at its timeout, and it ignores its cancellation"
            )
        if call.cut_off and isinstance(error, asyncio.CancelledError):
            what = f"no answer within {self.spec.attempt_timeout_s:g} s"
            return RetryableError(Reason.TIMEOUT, ": ".join((what, *_notes(error))))
        return export_error(error, self.spec.disclosure.plugin)

    def _call_ended(self) -> None:
        self._ledger.stats.in_flight = 0
        if self._call is not None and self._call.longest_step_s >= BLOCKED_S:
            self._ledger.blocked_loop(self._call.longest_step_s)
        self._bell.ring()

    def _over(self, call: ForeignCall[Outcome], ends_s: float) -> bool:
        return call.done or self.stop_by_s < ends_s

    def _boot_time_s(self) -> float:
        return anyio.current_time() + self._around.suspended_s()


def _notes(error: BaseException) -> list[str]:
    """What was noted on an exception on its way, as that a turn was waited for."""
    return getattr(error, "__notes__", [])
