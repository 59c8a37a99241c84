"""Leader election: what a candidate or a leader makes of the Lease it has just seen. Pure.

The rules are those of client-go (tools/leaderelection), which trusts only local time: a holder's
term ends its own duration after its record was last *seen to change*, whatever times are written
in it. The loop that asks and writes is ``elector``'s, the object's form ``leaseapi``'s.
"""

from dataclasses import dataclass
from typing import TypeAlias, assert_never

from telemetryd.config.settings import MIN_DEADLINE_TO_RETRY

MIN_REQUEST_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class LeaseTiming:
    """How long a term lasts and how it is kept, in seconds.

    Attributes:
        duration_s: A term, counted from the sending of the renewal that began it.
        renew_deadline_s: A leader that couldn't renew for so long acts no more.
        retry_period_s: Between renewals, and between a candidate's looks.
    """

    duration_s: float = 15.0
    renew_deadline_s: float = 10.0
    retry_period_s: float = 2.0

    def __post_init__(self) -> None:
        if not self.duration_s > self.renew_deadline_s:
            raise ValueError("the lease duration must exceed the renew deadline")
        if not self.renew_deadline_s > MIN_DEADLINE_TO_RETRY * self.retry_period_s > 0:
            raise ValueError(
                f"the renew deadline must exceed {MIN_DEADLINE_TO_RETRY:g} retry periods"
            )

    @property
    def request_timeout_s(self) -> float:
        """Of one request: a hung one must leave time for another within the deadline."""
        return max(MIN_REQUEST_TIMEOUT_S, self.renew_deadline_s / 2)


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """A Lease as the API server holds it.

    Attributes:
        holder: ``spec.holderIdentity``, empty where it was released.
        duration_s: ``spec.leaseDurationSeconds``, None where there is no sane one.
        transitions: ``spec.leaseTransitions``: the epoch of the last term, where all is well.
        resource_version: Of the object; changes with every write, a renewal too.
        uid: Of the object; another one is another Lease.
    """

    holder: str
    duration_s: float | None
    transitions: int
    resource_version: str
    uid: str


@dataclass(frozen=True, slots=True)
class Observed:
    """The last state that was seen, and since when it has been the same by the local clock.

    Attributes:
        record: None where there is no Lease.
        since_s: Local boot time in seconds.
    """

    record: LeaseRecord | None
    since_s: float


@dataclass(frozen=True, slots=True)
class Acquire:
    """Nobody's term runs: write our name, with the record as precondition.

    Attributes:
        over: The record to write over; None to create the Lease.
    """

    over: LeaseRecord | None


@dataclass(frozen=True, slots=True)
class Wait:
    """Somebody's term may still run.

    Attributes:
        holder: Who that is, empty where the Lease has just vanished.
        expires_in_s: Seconds until it has run out, unless the record changes.
    """

    holder: str
    expires_in_s: float


Decision: TypeAlias = Acquire | Wait


@dataclass(frozen=True, slots=True)
class Kept:
    """The fetched Lease still names us: renew over it."""

    record: LeaseRecord


@dataclass(frozen=True, slots=True)
class Vanished:
    """There is no Lease any more: make it anew, for others wait a whole term before they do."""


@dataclass(frozen=True, slots=True)
class Taken:
    """Another holds it, or nobody: our term is over, whatever its time."""

    holder: str


Standing: TypeAlias = Kept | Vanished | Taken


def observe(before: Observed | None, record: LeaseRecord | None, now_s: float) -> Observed:
    """What is known after a look at the Lease: a change begins a new term, by the local clock."""
    if before is not None and before.record == record:
        return before
    return Observed(record, now_s)


def decide(observed: Observed, identity: str, *, timing: LeaseTiming, now_s: float) -> Decision:
    """Whether a candidate may take the Lease.

    One that was released may be taken at once, for a release comes after the guarded work. So may
    one that bears our own name: a write of ours has come through late, and no one else's did. Any
    other, and its absence too, must stay as it is for a whole term: its holder may not know yet.

    Args:
        observed: The last look, and since when it has been the same.
        identity: Ours.
        timing: Its duration stands in where the record has none.
        now_s: Local boot time in seconds.
    """
    record = observed.record
    if record is not None and record.holder in ("", identity):
        return Acquire(record)
    duration_s = timing.duration_s
    if record is not None and record.duration_s is not None:
        duration_s = record.duration_s
    left_s = observed.since_s + duration_s - now_s
    if left_s > 0:
        return Wait(record.holder if record is not None else "", left_s)
    return Acquire(record)


def find_standing(record: LeaseRecord | None, identity: str) -> Standing:
    """What the fetched Lease says to a leader whose renewal was refused."""
    match record:
        case None:
            return Vanished()
        case LeaseRecord(holder=holder) if holder == identity:
            return Kept(record)
        case LeaseRecord(holder=holder):
            return Taken(holder)
        case _:
            assert_never(record)
