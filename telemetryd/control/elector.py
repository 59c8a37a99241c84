"""Leader election: looks, takes, renews and releases, and says at any moment whether we may act.

Safety hangs on three things. A term counts from the moment its renewal was *sent*, on a clock that
goes on while the machine is suspended; every side effect is checked against it in the step of the
event loop in which it begins (``require``); and the guarded work has ended before a Lease is
released or sought again. What the Lease says is judged by ``lease``.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Protocol, assert_never

import anyio

from telemetryd.bootclock import boot_time_s
from telemetryd.control.epochs import Epochs
from telemetryd.control.lease import (
    Acquire,
    Kept,
    LeaseTiming,
    Observed,
    Taken,
    Vanished,
    Wait,
    decide,
    find_standing,
    observe,
)
from telemetryd.control.leaseapi import RELEASED_DURATION_S, FetchedLease, Term, whole_seconds
from telemetryd.errors import Conflict, KubeError, NotFound, NotLeading
from telemetryd.model import LeaderStatus
from telemetryd.stats import LeaderStats

log = logging.getLogger(__name__)

RELEASE_TIMEOUT_S = 10.0
"""For all tries of a release: the next leader takes over without it, only later."""

_POLL_SPREAD = 1.2
"""Candidates look every U(1, this) retry periods, so that they don't look together."""


class Lease(Protocol):
    """The Lease object; ``LeaseApi`` outside of tests."""

    async def read(self, timeout_s: float) -> FetchedLease | None:
        """It, None where there is none."""

    async def create(self, term: Term, timeout_s: float) -> FetchedLease:
        """Make it."""

    async def replace(self, over: FetchedLease, term: Term, timeout_s: float) -> FetchedLease:
        """Write over it."""


class Guarded(Protocol):
    """The work that one replica alone may do."""

    async def prepare(self) -> None:
        """A term may begin: look for epochs that were given out before, within a bound."""

    async def lead(self) -> None:
        """Begin: we are the leader; what comes before the work is done within a bound."""

    async def stand_by(self, leader: str) -> None:
        """End all of it, within a bound, or stay without it.

        Args:
            leader: Who holds the Lease, empty where nobody is known to.
        """


@dataclass(slots=True)
class _Term:
    """A term of ours.

    Attributes:
        lease: As it was last written or read.
        sent_s: Boot time at which the last successful renewal was sent.
    """

    lease: FetchedLease
    sent_s: float


@dataclass(frozen=True, slots=True)
class _Free:
    """The Lease may be taken as it was found; None where it must be created."""

    found: FetchedLease | None


class Elector:
    """Takes part in the election of one Lease.

    Attributes:
        identity: Unique to this process.
        name: Of the Lease, for people.
        stats: What it did.
    """

    def __init__(
        self,
        lease: Lease,
        guarded: Guarded,
        *,
        name: str,
        identity: str,
        timing: LeaseTiming,
        epochs: Epochs,
        rng: Random,
        clock: Callable[[], float] = boot_time_s,
    ) -> None:
        """Nothing is asked before ``run``; until it has been elected it doesn't lead.

        Args:
            lease: The object.
            guarded: What is begun and ended with our terms.
            name: The attribute.
            identity: The attribute.
            timing: Durations.
            epochs: All that were seen; each term's is above them.
            rng: Spreads looks.
            clock: Boot time in seconds.
        """
        self.identity = identity
        self.name = name
        self.stats = LeaderStats()
        self._lease = lease
        self._guarded = guarded
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
        """Whether a side effect may begin now."""
        term = self._term  # read once: a fence may be called from a worker thread
        return term is not None and self._acts_for_s(term) > 0

    @property
    def epoch(self) -> int:
        """Of our term; the highest one seen where we don't lead."""
        return self._epochs.highest

    def saw(self, epoch: int) -> None:
        """Take note of an epoch that was given out somewhere; a term of ours goes on above it."""
        if self._epochs.saw(epoch) and self._term is not None:
            # The Lease says so from the next renewal on.
            self._epochs.saw(self._epochs.next)

    def require(self) -> None:
        """Let a side effect begin.

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
        """Stand for election until cancelled; the Lease is then still ours until ``release``."""
        await self._guarded.stand_by("")
        while True:
            self._term = await self._acquire()
            self.stats.transitions += 1
            log.info("leading lease=%s epoch=%d identity=%s", self.name, self.epoch, self.identity)
            await self._guarded.lead()
            why = await self._keep(self._term)
            # From here on `require` refuses, even where the term would still have a moment.
            self._term = None
            log.warning("not leading any more lease=%s reason=%r", self.name, why)
            self.stats.transitions += 1
            await self._guarded.stand_by(self._holder())

    async def release(self, timeout_s: float = RELEASE_TIMEOUT_S) -> None:
        """Let another take over at once. Call it when the guarded work has ended and ``run`` too.

        What is written over is what is found: a Lease that another holds by now stays his.
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
        """One try; False where it changed meanwhile."""
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
        """Look until the Lease can be had."""
        while True:
            poll_s = self._timing.retry_period_s * self._rng.uniform(1.0, _POLL_SPREAD)
            try:
                decision = await self._look()
                if isinstance(decision, _Free):
                    return await self._take(decision.found)
                poll_s = min(poll_s, decision.expires_in_s)
                self._well()
            except (Conflict, NotFound) as error:
                # Another was faster, or it is gone: nothing is wrong, only the look is old.
                log.debug("lease not taken lease=%s error=%r", self.name, str(error))
            except KubeError as error:
                self._ill(error)
            await anyio.sleep(poll_s)

    async def _look(self) -> "Wait | _Free":
        found = await self._lease.read(self._timing.request_timeout_s)
        record = found.record if found is not None else None
        if record is not None:
            self._epochs.saw(record.transitions)
        before = self._observed
        self._observed = observe(before, record, self._clock())
        if before is None or self._holder_of(before) != self._holder():
            log.info("lease held by another lease=%s holder=%r", self.name, self._holder())
            await self._guarded.stand_by(self._holder())
        decision = decide(self._observed, self.identity, timing=self._timing, now_s=self._clock())
        match decision:
            case Wait():
                return decision
            case Acquire():
                return _Free(found)
            case _:
                assert_never(decision)

    async def _take(self, found: FetchedLease | None) -> _Term:
        await self._guarded.prepare()
        term = self._wanted(self._epochs.next, begins=True)
        sent_s = self._clock()
        timeout_s = self._timing.request_timeout_s
        # From here on the Lease may bear our name, whatever comes back.
        self._named = True
        if found is None:
            lease = await self._lease.create(term, timeout_s)
        else:
            lease = await self._lease.replace(found, term, timeout_s)
        self._well()
        # Above what was seen meanwhile, too: the Lease says so from the next renewal on.
        self._epochs.saw(self._epochs.next)
        self._observed = Observed(lease.record, sent_s)
        return _Term(lease, sent_s)

    async def _keep(self, term: _Term) -> str:
        """Renew until that fails for too long; says why it ended."""
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
                    self._ill(error)
                    stale = True
                    await anyio.sleep(self._pause_s(left_s))
                    continue
                if taken is not None:
                    return f"taken by {taken!r}"

    async def _renew(self, term: _Term, *, stale: bool) -> tuple[bool, str | None]:
        """One renewal.

        Args:
            term: Ours; moved where it is renewed.
            stale: Look first what the Lease has become.

        Returns:
            Whether the Lease must be looked at before the next try, and who has taken it, if any.
        """
        timeout_s = self._timing.request_timeout_s
        if stale:
            found = await self._lease.read(timeout_s)
            match find_standing(found.record if found is not None else None, self.identity):
                case Taken(holder):
                    self._named = False
                    return True, holder
                case Vanished():
                    return await self._renew_anew(term)
                case Kept() if found is not None:
                    term.lease = found
                    self.saw(found.record.transitions)
        wanted = self._wanted(self.epoch, begins=False)
        sent_s = self._clock()
        try:
            term.lease = await self._lease.replace(term.lease, wanted, timeout_s)
        except (Conflict, NotFound):
            return True, None
        self._renewed(term, sent_s)
        return False, None

    async def _renew_anew(self, term: _Term) -> tuple[bool, str | None]:
        """Make anew what somebody deleted: no one else does so before our term is over."""
        wanted = self._wanted(self.epoch, begins=True)
        sent_s = self._clock()
        try:
            term.lease = await self._lease.create(wanted, self._timing.request_timeout_s)
        except Conflict:
            return True, None
        self._renewed(term, sent_s)
        return False, None

    def _wanted(self, epoch: int, *, begins: bool) -> Term:
        duration_s = whole_seconds(self._timing.duration_s)
        return Term(self.identity, duration_s, epoch, begins=begins)

    def _renewed(self, term: _Term, sent_s: float) -> None:
        self._well()
        term.sent_s = sent_s
        self._observed = Observed(term.lease.record, sent_s)

    def _acts_for_s(self, term: _Term) -> float:
        """Seconds for which side effects may still begin."""
        return term.sent_s + self._timing.renew_deadline_s - self._clock()

    def _pause_s(self, left_s: float) -> float:
        return min(self._timing.retry_period_s, max(0.0, left_s))

    def _holder(self) -> str:
        return self._holder_of(self._observed)

    @staticmethod
    def _holder_of(observed: Observed | None) -> str:
        return observed.record.holder if observed is not None and observed.record else ""

    def _ill(self, error: KubeError) -> None:
        if not self._trouble:
            log.warning("lease out of reach lease=%s error=%r", self.name, str(error))
        self._trouble = str(error)

    def _well(self) -> None:
        if self._trouble:
            log.info("lease within reach again lease=%s", self.name)
        self._trouble = ""
