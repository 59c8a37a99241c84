"""Leader election: takes, renews and releases the Lease, and says whether this replica may write.

Safety depends on three things. A term counts from the moment its renewal was *sent*, on a clock
that goes on while the machine is suspended. Every side effect is checked against it in the step of
the event loop in which it starts (``require``). And the guarded work has ended before the Lease is
released or sought again. ``lease`` decides what a Lease means.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random

import anyio

from telemetryd.control.epochs import Epochs
from telemetryd.control.lease import (
    RELEASED_DURATION_S,
    FetchedLease,
    LeaseApi,
    LeaseTiming,
    Observed,
    Term,
    observe,
    wait_s,
    whole_seconds,
)
from telemetryd.errors import Conflict, KubeError, NotFound, NotLeading
from telemetryd.model import LeaderStatus
from telemetryd.stats import LeaderStats
from telemetryd.timing import boot_time_s

log = logging.getLogger(__name__)

RELEASE_TIMEOUT_S = 10.0
"""For all tries of a release; without it the next leader only takes over later."""

_POLL_SPREAD = 1.2
"""Candidates check every U(1, this) retry periods, so that they don't do so together."""


@dataclass(slots=True)
class _Term:
    """A term of ours.

    ``sent_s`` is the boot time at which the last successful renewal was sent.
    """

    lease: FetchedLease
    sent_s: float


class Elector:
    """Takes part in the election of one Lease."""

    def __init__(
        self,
        lease: LeaseApi,
        *,
        prepare: Callable[[], Awaitable[None]],
        lead: Callable[[], Awaitable[None]],
        stand_by: Callable[[str], Awaitable[None]],
        name: str,
        identity: str,
        timing: LeaseTiming,
        epochs: Epochs,
        rng: Random,
        clock: Callable[[], float] = boot_time_s,
    ) -> None:
        """Nothing is requested before ``run``; it doesn't lead before it has been elected.

        Args:
            lease: The object.
            prepare: Looks for epochs that were used before, within a time limit.
            lead: Starts the guarded work. What comes before it has a time limit.
            stand_by: Ends the guarded work, within a time limit, or leaves it so; gets the holder
                of the Lease, empty if none is known.
            name: Of the Lease.
            identity: Unique to this process.
            timing: Durations.
            epochs: All that were seen; each term's is higher.
            rng: Spreads checks.
            clock: Boot time in seconds.
        """
        self.identity = identity
        self.name = name
        self.stats = LeaderStats()
        self._lease = lease
        self._prepare = prepare
        self._lead = lead
        self._stand_by = stand_by
        self._timing = timing
        self._epochs = epochs
        self._rng = rng
        self._clock = clock
        self._term: _Term | None = None
        self._observed: Observed | None = None
        self._named = False
        self._trouble = ""

    @property
    def leading(self) -> bool:
        """Whether a side effect may start now."""
        term = self._term  # read once: a fence may be called from a worker thread
        return term is not None and self._acts_for_s(term) > 0

    @property
    def epoch(self) -> int:
        """Of our term; the highest one seen while we don't lead."""
        return self._epochs.highest

    def saw(self, epoch: int) -> None:
        """Note an epoch that was used elsewhere; a term of ours continues with a higher one."""
        if self._epochs.saw(epoch) and self._term is not None:
            # The next renewal writes it to the Lease.
            self._epochs.saw(self._epochs.next)

    def require(self) -> None:
        """Check that a side effect may start.

        Raises:
            NotLeading: It may not.
        """
        if not self.leading:
            raise NotLeading("this replica isn't the leader any more")

    def status(self) -> LeaderStatus:
        """What is shown of the election."""
        leading = self.leading
        return LeaderStatus(
            name=self.name,
            identity=self.identity,
            leading=leading,
            holder=self.identity if leading else self._holder(),
            epoch=self.epoch,
            last_error=self._trouble,
        )

    async def run(self) -> None:
        """Take part until cancelled; the Lease then stays ours until ``release``."""
        await self._stand_by("")
        while True:
            self._term = await self._acquire()
            self.stats.transitions += 1
            log.info("leading lease=%s epoch=%d identity=%s", self.name, self.epoch, self.identity)
            await self._lead()
            why = await self._keep(self._term)
            # From here on `require` refuses, even if the term has a moment left.
            self._term = None
            log.warning("not leading any more lease=%s reason=%r", self.name, why)
            self.stats.transitions += 1
            await self._stand_by(self._holder())

    async def release(self, timeout_s: float = RELEASE_TIMEOUT_S) -> None:
        """Let another replica take over at once; only when guarded work and ``run`` have ended.

        A Lease that another replica holds by now is left alone.
        """
        self._term = None
        if not self._named:
            return
        with anyio.move_on_after(timeout_s):
            while True:
                try:
                    if await self._try_release():
                        return
                except KubeError as error:
                    log.debug("lease not released lease=%s error=%r", self.name, str(error))
                await anyio.sleep(min(0.2, timeout_s / 10))
        log.warning("lease not released in time lease=%s", self.name)

    async def _try_release(self) -> bool:
        """One try; False if it changed meanwhile."""
        found = await self._lease.read(self._timing.request_timeout_s)
        if found is None or found.record.holder != self.identity:
            self._named = False
            return True
        self._epochs.saw(found.record.transitions)
        term = Term("", RELEASED_DURATION_S, self.epoch, begins=False)
        try:
            await self._lease.replace(found, term, self._timing.request_timeout_s)
        except (Conflict, NotFound):
            return False
        self._named = False
        log.info("lease released lease=%s", self.name)
        return True

    async def _acquire(self) -> _Term:
        """Check the Lease until it can be taken."""
        while True:
            poll_s = self._timing.retry_period_s * self._rng.uniform(1.0, _POLL_SPREAD)
            try:
                found, left_s = await self._look()
                if not left_s:
                    return await self._take(found)
                poll_s = min(poll_s, left_s)
                self._succeeded()
            except (Conflict, NotFound) as error:
                # Another was faster, or it is gone: only our reading is old.
                log.debug("lease not taken lease=%s error=%r", self.name, str(error))
            except KubeError as error:
                self._failed(error)
            await anyio.sleep(poll_s)

    async def _look(self) -> tuple[FetchedLease | None, float]:
        """The Lease, and the seconds until it may be taken."""
        found = await self._lease.read(self._timing.request_timeout_s)
        record = found.record if found is not None else None
        if record is not None:
            self._epochs.saw(record.transitions)
        before = self._observed
        self._observed = observe(before, record, self._clock())
        if before is None or self._holder_of(before) != self._holder():
            log.info("lease held by another lease=%s holder=%r", self.name, self._holder())
            await self._stand_by(self._holder())
        now_s = self._clock()
        return found, wait_s(self._observed, self.identity, timing=self._timing, now_s=now_s)

    async def _take(self, found: FetchedLease | None) -> _Term:
        await self._prepare()
        term = self._wanted(self._epochs.next, begins=True)
        sent_s = self._clock()
        # From here on the Lease may have our name, whatever the answer is.
        self._named = True
        lease = await self._write(found, term)
        self._succeeded()
        # Above what was seen meanwhile, too; the next renewal writes it to the Lease.
        self._epochs.saw(self._epochs.next)
        self._observed = Observed(lease.record, sent_s)
        return _Term(lease, sent_s)

    async def _keep(self, term: _Term) -> str:
        """Renew until that fails for too long; returns why it ended."""
        stale = False
        while True:
            left_s = self._acts_for_s(term)
            if left_s <= 0:
                return self._trouble or "no renewal came through in time"
            if not stale:
                await anyio.sleep(min(self._timing.retry_period_s, left_s))
                left_s = self._acts_for_s(term)
            # A renewal that comes back too late must not bring a term back to life.
            with anyio.move_on_after(max(0.0, left_s)):
                try:
                    stale, taken = await self._renew(term, stale=stale)
                except KubeError as error:
                    self._failed(error)
                    stale = True
                    await anyio.sleep(min(self._timing.retry_period_s, max(0.0, left_s)))
                    continue
                if taken is not None:
                    return f"taken by {taken!r}"

    async def _renew(self, term: _Term, *, stale: bool) -> tuple[bool, str | None]:
        """One renewal.

        Args:
            term: Ours; extended if it is renewed.
            stale: Read the Lease first.

        Returns:
            Whether the Lease must be read before the next try, and who has taken it, if anyone.
        """
        lease: FetchedLease | None = term.lease
        if stale:
            lease = await self._lease.read(self._timing.request_timeout_s)
            if lease is not None:
                if lease.record.holder != self.identity:
                    self._named = False
                    return True, lease.record.holder
                self.saw(lease.record.transitions)
        # A deleted Lease is created again: others wait a whole term before they do so.
        wanted = self._wanted(self.epoch, begins=lease is None)
        sent_s = self._clock()
        changed = (Conflict,) if lease is None else (Conflict, NotFound)
        try:
            term.lease = await self._write(lease, wanted)
        except changed:
            return True, None
        term.sent_s = sent_s
        self._observed = Observed(term.lease.record, sent_s)
        self._succeeded()
        return False, None

    async def _write(self, over: FetchedLease | None, term: Term) -> FetchedLease:
        timeout_s = self._timing.request_timeout_s
        if over is None:
            return await self._lease.create(term, timeout_s)
        return await self._lease.replace(over, term, timeout_s)

    def _wanted(self, epoch: int, *, begins: bool) -> Term:
        duration_s = whole_seconds(self._timing.duration_s)
        return Term(self.identity, duration_s, epoch, begins=begins)

    def _acts_for_s(self, term: _Term) -> float:
        """Seconds in which side effects may still start."""
        return term.sent_s + self._timing.renew_deadline_s - self._clock()

    def _holder(self) -> str:
        return self._holder_of(self._observed)

    @staticmethod
    def _holder_of(observed: Observed | None) -> str:
        return observed.record.holder if observed is not None and observed.record else ""

    def _failed(self, error: KubeError) -> None:
        if not self._trouble:
            log.warning("lease request failed lease=%s error=%r", self.name, str(error))
        self._trouble = str(error)

    def _succeeded(self) -> None:
        if self._trouble:
            log.info("lease requests succeed again lease=%s", self.name)
        self._trouble = ""
