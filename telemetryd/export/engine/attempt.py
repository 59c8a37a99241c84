"""One attempt to export: newest snapshot, payload, sink, within a deadline and in isolation."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

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
from telemetryd.export.engine.sinkcall import SinkCall, Waiter, export_error
from telemetryd.export.exporter import ExportContext, Exporter, Outcome
from telemetryd.export.ledger import Ledger, Shared
from telemetryd.export.outbox.outbox import Outbox, why_withheld
from telemetryd.export.outbox.spool import PendingPayload
from telemetryd.model import ExporterState, Payload

log = logging.getLogger(__name__)

BLOCKED_S = 0.5
"""A sink that blocks the event loop for so long is logged."""
CUT_GRACE_S = 0.5
"""How long a call that was cut off may take to return."""


@dataclass(slots=True, eq=False)
class Attempts:
    """Makes the attempts of one exporter, one at a time.

    Attributes:
        stop_by_s: Attempts end by this time; infinite until the exporter is asked to stop.
        abandoned: An attempt that is cut off at that time doesn't count as a failure.
    """

    _exporter: Exporter
    _ledger: Ledger
    _waiter: Waiter
    _shared: Shared
    stop_by_s: float = field(default=math.inf, init=False)
    abandoned: bool = field(default=False, init=False)
    _call: SinkCall[Outcome | None] | None = field(default=None, init=False)
    _settled_digest: str = field(default="", init=False)
    _unsent_digest: str = field(default="", init=False)
    _outbox: Outbox = field(init=False)

    def __post_init__(self) -> None:
        self._outbox = Outbox(self._ledger, self._shared)

    @property
    def in_progress(self) -> bool:
        """A call of the sink runs, one that ignores its cancellation included."""
        return self._call is not None

    @property
    def stray(self) -> bool:
        """A call of the sink was cut off, ignores that, and still runs."""
        return self._call is not None and self._call.cut_off

    async def make(
        self, group: TaskGroup, number: int, *, final: bool = False
    ) -> ExportError | None:
        """Make one attempt with the newest snapshot.

        A sink that ignores its cancellation stays in the group. A final attempt is made only where
        something is unsent.

        Returns:
            The error; None after success or where there was nothing to do.
        """
        return await self._make(group, partial(self._deliver, number, final=final))

    async def make_without_snapshot(self, group: TaskGroup) -> ExportError | None:
        """Make one attempt with the pending payload of an earlier process, if there is one.

        For use while there is no snapshot, which would be newer.
        """
        return await self._make(group, self._deliver_pending)

    async def _make(
        self, group: TaskGroup, deliver: Callable[[], Awaitable[Outcome | None]]
    ) -> ExportError | None:
        ledger, call = self._ledger, await self._call_sink(group, deliver)
        if call.value is not None:
            self._settled_digest = ledger.digest
            self._unsent_digest = ""
            ledger.run_succeeded(call.value)
        elif isinstance(call.error, NotReady):
            self._shared.watch.lost()
            ledger.skipped("not_ready")
            ledger.enter(ExporterState.WAITING)
        elif call.done and call.error is None:
            pass  # nothing was unsent
        elif isinstance(call.error, NotLeading) or (self.abandoned and call.cut_off):
            ledger.skipped("held")
        else:
            error = self._translate(call)
            if isinstance(error, PermanentError):
                self._settled_digest = ledger.digest
            ledger.attempt_failed(error)
            return error
        return None

    async def _call_sink(
        self, group: TaskGroup, deliver: Callable[[], Awaitable[Outcome | None]]
    ) -> SinkCall[Outcome | None]:
        call = self._call = SinkCall(deliver, self._call_ended)
        self._ledger.stats.in_flight = 1
        group.start_soon(call.run)
        ends_s = min(anyio.current_time() + self._ledger.spec.attempt_timeout_s, self.stop_by_s)
        while not call.done and anyio.current_time() < ends_s:
            await self._waiter.wait(ends_s, partial(self._is_over, call, ends_s))
            ends_s = min(ends_s, self.stop_by_s)
        if not call.done:
            call.cut()
            await self._waiter.wait(anyio.current_time() + CUT_GRACE_S, lambda: call.done)
        if not call.done:
            log.error(
                "exporter ignores its cancellation exporter=%s run=%s",
                self._ledger.spec.name,
                self._ledger.run_id,
            )
        return call

    async def _deliver(self, number: int, *, final: bool) -> Outcome | None:
        """The call: take the newest snapshot, render it, give it to the sink.

        Returns:
            None for a final attempt where nothing has changed since the last one.
        """
        ledger = self._ledger
        snapshot = self._shared.source.snapshot()
        if not final:
            ledger.attempt_started()
        await self._outbox.open(self._shared.omitted())
        started_s = anyio.current_time()
        delivery = self._outbox.next_delivery(self._shared.epoch())
        rendered = ledger.spec.render(snapshot, delivery)
        payload = self._shared.same(ledger.spec.disclosure.format, rendered)
        ledger.stats.collection.observe(anyio.current_time() - started_s)
        if final:
            if self._is_settled(payload):
                return None
            ledger.attempt_started()
        self._note_superseded(payload)
        newest = PendingPayload(
            payload,
            delivery,
            snapshot.identity.install_uuid,
            ledger.spec.destination,
            ledger.spec.disclosure.format,
            snapshot.omitted,
        )
        # A sink that reads its destination gets the newest, whatever was delivered before.
        pending = newest if ledger.spec.verifies_destination else self._outbox.offer(newest)
        ledger.collected(payload if pending is None else pending.payload)
        return Outcome.UNCHANGED if pending is None else await self._send(pending, number)

    def _is_settled(self, payload: Payload) -> bool:
        """Whether this content is the last that the destination has or has refused."""
        pending = self._outbox.pending
        outdone = pending is None or pending.payload.digest == payload.digest
        return outdone and payload.digest == self._settled_digest

    async def _deliver_pending(self) -> Outcome | None:
        """The call where there is no snapshot.

        Returns:
            None where nothing is pending, or another leader has sent since.
        """
        await self._outbox.open(self._shared.omitted())
        pending = self._outbox.pending
        if pending is None or pending.delivery.epoch != self._outbox.epoch(self._shared.epoch()):
            return None
        self._ledger.attempt_started()
        self._ledger.collected(pending.payload)
        try:
            return await self._send(pending, 1)
        except OutrankedError:
            self._ledger.stats.runs["superseded"] += 1
            return None

    async def _send(self, pending: PendingPayload, number: int) -> Outcome:
        self._require_privacy(pending)
        await self._outbox.keep(pending)
        fence = partial(self._fence, pending, self._call)
        context = ExportContext(
            name=self._ledger.spec.name,
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
        if not self._ledger.spec.verifies_destination:
            await self._outbox.delivered(pending)
        return outcome

    def _fence(self, pending: PendingPayload, call: SinkCall[Outcome | None] | None) -> None:
        """Refuse a payload that must not be sent any more.

        Raises:
            NotLeading: Another replica may lead, collection is off, or the exporter has ended.
        """
        # A write in a thread goes on after its attempt was cut off, while its disk hangs.
        was_cut_off = call is not None and call.cut_off
        if self.abandoned or (self.stop_by_s < math.inf and was_cut_off):
            raise NotLeading("the exporter has ended")
        self._shared.require_leading()
        self._require_privacy(pending)

    def _require_privacy(self, pending: PendingPayload) -> None:
        if why_withheld(pending, self._ledger.spec.disclosure.format, self._shared.omitted()):
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

    def _translate(self, call: SinkCall[Outcome | None]) -> ExportError:
        """What the call raised, as an error whose type says whether to retry."""
        error = call.error
        if error is None:
            return RetryableError(
                Reason.TIMEOUT, "cut off at its timeout, and it ignores its cancellation"
            )
        if call.cut_off and isinstance(error, asyncio.CancelledError):
            what = f"no answer within {self._ledger.spec.attempt_timeout_s:g} s"
            # A note says, for example, that it waited for the limiter.
            notes: list[str] = getattr(error, "__notes__", [])
            return RetryableError(Reason.TIMEOUT, ": ".join((what, *notes)))
        return export_error(error, self._ledger.spec.disclosure.plugin)

    def _is_over(self, call: SinkCall[Outcome | None], ends_s: float) -> bool:
        return call.done or self.stop_by_s < ends_s

    def _call_ended(self) -> None:
        self._ledger.stats.in_flight = 0
        call, self._call = self._call, None  # with all that it refers to
        if call is not None and call.longest_step_s >= BLOCKED_S:
            self._ledger.blocked_loop(call.longest_step_s)
        self._waiter.notify()
