"""Leader election: what a Lease means to a candidate or a leader. Pure.

The rules are those of client-go (tools/leaderelection), which trusts only local time: a holder's
term ends one duration after its record was last *seen to change*, whatever times it contains.
"""

from dataclasses import dataclass
from typing import TypeAlias

from telemetryd.config.settings import MIN_DEADLINE_TO_RETRY

MIN_REQUEST_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class LeaseTiming:
    """How long a term lasts and how it is renewed, in seconds.

    Attributes:
        duration_s: A term, counted from the time its renewal was sent.
        renew_deadline_s: A leader that can't renew for this long stops.
        retry_period_s: Between renewals, and between a candidate's checks.
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
        """Of one request: if it hangs, another one must fit into the deadline."""
        return max(MIN_REQUEST_TIMEOUT_S, self.renew_deadline_s / 2)


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """A Lease as the API server holds it.

    Attributes:
        holder: ``spec.holderIdentity``, empty if it was released.
        duration_s: ``spec.leaseDurationSeconds``, None if missing or invalid.
        transitions: ``spec.leaseTransitions``: the epoch of the last term.
        resource_version: Changes with every write, also a renewal.
        uid: Differs for a Lease that was created again.
    """

    holder: str
    duration_s: float | None
    transitions: int
    resource_version: str
    uid: str


@dataclass(frozen=True, slots=True)
class Observed:
    """The last state that was seen, and since when it has been the same.

    Attributes:
        record: None if there is no Lease.
        since_s: Local boot time in seconds.
    """

    record: LeaseRecord | None
    since_s: float


@dataclass(frozen=True, slots=True)
class Acquire:
    """No term runs: write our name, with the record as precondition.

    Attributes:
        over: The record to write over; None to create the Lease.
    """

    over: LeaseRecord | None


@dataclass(frozen=True, slots=True)
class Wait:
    """Another term may still run.

    Attributes:
        holder: Whose, empty if the Lease was just deleted.
        expires_in_s: Seconds until it ends, unless the record changes.
    """

    holder: str
    expires_in_s: float


Decision: TypeAlias = Acquire | Wait


def observe(before: Observed | None, record: LeaseRecord | None, now_s: float) -> Observed:
    """What is known after a read: a change starts a new term by the local clock."""
    if before is not None and before.record == record:
        return before
    return Observed(record, now_s)


def decide(observed: Observed, identity: str, *, timing: LeaseTiming, now_s: float) -> Decision:
    """Whether a candidate may take the Lease.

    A released Lease may be taken at once, because the guarded work ends before a release. So may
    one with our own name: a late write of ours got through, and no one else's did. Any other, or a
    missing one, must stay the same for a whole term: its holder may not know yet.

    Args:
        observed: The last read, and since when it has been the same.
        identity: Ours.
        timing: For its duration, if the record has none.
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
