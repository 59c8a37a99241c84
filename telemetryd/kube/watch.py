"""List and watch as a state machine: the pure step from one state to the next.

Pure: what is asked of the API server and what becomes of the answers is ``informer``'s business.
The rules are client-go's where they have proved themselves; a watch-list stream would be one more
state here.
"""

import math
import random
from dataclasses import dataclass, replace
from typing import assert_never

from telemetryd.errors import (
    BadResponse,
    Forbidden,
    Gone,
    Invalid,
    KubeError,
    NotFound,
    Throttled,
    TooLarge,
    Unavailable,
)
from telemetryd.kube.responses import MAX_RETRY_AFTER_S
from telemetryd.kube.states import (
    Checked,
    CheckFailed,
    Checking,
    Listed,
    ListFailed,
    Listing,
    ListReason,
    ListRegressed,
    ListSuspect,
    Outcome,
    Probed,
    ProbeFailed,
    Probing,
    ResyncDue,
    State,
    WatchEnd,
    WatchEnded,
    WatchFailed,
    Watching,
    WatchMalformed,
    WatchRegressed,
    WatchUnheard,
)


@dataclass(frozen=True, slots=True)
class WatchTiming:
    """How long things may take; tests shorten them.

    The backoff is client-go's: 0.8 s, doubled up to 30 s, forgotten after 120 s without failure.

    Attributes:
        jitter: A backoff is stretched by up to this share of itself, within the cap.
        short_watch_s: A watch that ends sooner without an event counts as a failure; watches are
            not opened more often than this.
        idle_limit_s: Without event or bookmark for this long a watch is opened anew, and so is
            one that isn't answered. Bookmarks come about every 60 s.
        watch_timeout_min_s: The API server is asked to end a watch after a random time from here.
        list_timeout_s: Deadline of one page.
        full_list_timeout_s: Deadline of a whole list, in pages or in one.
        resync_s: Between lists that nothing calls for but caution; stretched or shortened by up
            to a tenth.
        unheard_relist_s: Where no watch is ever answered, between lists: an answer may be held
            back until the first event, or events with it.
        fallback_relist_s: Between lists where lists can be had and watches can't, whether they
            are denied or fail.
        suspect_relist_s: Until the next list after one that held broken objects.
        absence_recheck_s: Between the two looks that confirm absence while objects are held.
    """

    backoff_base_s: float = 0.8
    backoff_cap_s: float = 30.0
    backoff_reset_s: float = 120.0
    jitter: float = 1.0
    short_watch_s: float = 1.0
    idle_limit_s: float = 90.0
    watch_timeout_min_s: int = 300
    watch_timeout_max_s: int = 600
    list_timeout_s: float = 30.0
    full_list_timeout_s: float = 300.0
    discovery_timeout_s: float = 10.0
    resync_s: float = 3600.0
    unheard_relist_s: float = 300.0
    fallback_relist_s: float = 30.0
    suspect_relist_s: float = 30.0
    absence_recheck_s: float = 5.0


DEFAULT_TIMING = WatchTiming()
"""The reference's numbers."""

REFUSALS_BEFORE_LIST = 3
"""Watches that fail in a row until lists stand in for them, if the API server gives lists."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Failures that count, and when the last one was."""

    failures: int = 0
    last_at_s: float = -math.inf

    def after_failure(
        self, now_s: float, timing: WatchTiming, rng: random.Random
    ) -> tuple["Backoff", float]:
        """The backoff with one more failure, and seconds to wait for it.

        The wait is jittered even at the cap, so that many clients don't come back together.
        """
        failures = 0 if now_s - self.last_at_s >= timing.backoff_reset_s else self.failures
        plain_s = timing.backoff_base_s * 2.0 ** min(failures, 30)
        stretched_s = plain_s * (1.0 + timing.jitter * rng.random())
        cap_s = timing.backoff_cap_s * (1.0 - 0.25 * timing.jitter * rng.random())
        return Backoff(failures + 1, now_s), min(stretched_s, cap_s)


@dataclass(frozen=True, slots=True)
class Machine:
    """Where list and watch stand.

    Attributes:
        retries: Failures after which the same is tried again.
        relists: Failures that only a list mends. They have a count of their own, so that a list
            that becomes necessary after an outage doesn't wait for the outage's sake.
    """

    state: State
    retries: Backoff
    relists: Backoff


START = Machine(Listing(ListReason.INITIAL), Backoff(), Backoff())
"""A list comes first."""


@dataclass(frozen=True, slots=True)
class Move:
    """The next state, and seconds to wait before it is acted upon.

    Attributes:
        absent: The resource is confirmed not to be served: what is held of it is gone.
    """

    machine: Machine
    wait_s: float
    absent: bool = False


class _Waits:
    """The waits that one step may choose from, and the failures that choosing counts."""

    def __init__(
        self,
        machine: Machine,
        now_s: float,
        took_s: float,
        timing: WatchTiming,
        rng: random.Random,
    ) -> None:
        self.timing = timing
        self._took_s = took_s
        self.retries = machine.retries
        self.relists = machine.relists
        self._now_s = now_s
        self._rng = rng

    def retry_s(self, error: KubeError | None = None) -> float:
        """Before the same is tried again.

        What the attempt itself took counts towards the wait, all but the first and shortest:
        otherwise a request that hangs and a long wait would add up to more than a minute.
        """
        shortest_s = self.absence_s(0)
        self.retries, wait_s = self.retries.after_failure(self._now_s, self.timing, self._rng)
        wait_s = max(wait_s - self._took_s, min(wait_s, shortest_s))
        return _asked_s(error, wait_s)

    def relist_s(self, error: KubeError | None = None) -> float:
        """Before a list that mends something: none for the first, a backoff for a loop of them.

        It counts from the last such list, so that it bounds lists and delays nothing else.
        """
        since_s = self._now_s - self.relists.last_at_s
        self.relists, wait_s = self.relists.after_failure(self._now_s, self.timing, self._rng)
        return _asked_s(error, max(0.0, wait_s - since_s))

    def absence_s(self, absences: int) -> float:
        """Before the next look for a resource that isn't served."""
        return Backoff(absences, self._now_s).after_failure(self._now_s, self.timing, self._rng)[1]


def _asked_s(error: KubeError | None, wait_s: float) -> float:
    """The wait that the API server asks for, where it does, but never less than our own."""
    if isinstance(error, Throttled | Unavailable) and error.retry_after_s is not None:
        return min(max(error.retry_after_s, wait_s), MAX_RETRY_AFTER_S)
    return wait_s


def step(
    machine: Machine,
    outcome: Outcome,
    *,
    now_s: float,
    took_s: float,
    timing: WatchTiming,
    rng: random.Random,
) -> Move:
    """What follows from the outcome of what the machine's state asked for.

    Args:
        machine: Where list and watch stand.
        outcome: One that the state can have.
        now_s: Any clock that only moves forward, in seconds.
        took_s: From asking to the outcome.
        timing: Limits and waits.
        rng: For jitter.
    """
    state = machine.state
    waits = _Waits(machine, now_s, took_s, timing, rng)
    match state:
        case Listing():
            following, wait_s = _after_list(state, outcome, waits)
        case Watching():
            following, wait_s = _after_watch(state, outcome, waits)
        case Probing():
            following, wait_s = _after_probe(state, outcome, waits)
        case Checking():
            following, wait_s = _after_check(state, outcome, waits)
        case _:
            assert_never(state)
    absent = (
        isinstance(state, Checking) and isinstance(following, Listing) and following.absences > 0
    )
    return Move(Machine(following, waits.retries, waits.relists), wait_s, absent)


def _after_list(  # noqa: PLR0911 - one line a rule
    state: Listing, outcome: Outcome, waits: _Waits
) -> tuple[State, float]:
    again = replace(state, paged=True)
    match outcome:
        case Listed():
            return Watching(outcome.resource_version, refusals=state.refusals), 0.0
        case ListFailed(error=TooLarge()) if state.paged:
            # Whoever can't make a page small enough may not know pages: one try without.
            return replace(state, paged=False), waits.retry_s()
        case ListFailed(error=Gone(), page=page) if state.paged and page > 1:
            return replace(state, reason=ListReason.EXPIRED, paged=False), 0.0
        case ListFailed(error=NotFound()) if state.absences:
            return replace(again, absences=state.absences + 1), waits.absence_s(state.absences)
        case ListFailed(error=NotFound()):
            return Checking(), 0.0
        case ListFailed():
            return again, waits.retry_s(outcome.error)
        case ListSuspect():
            return replace(again, tolerant=True), waits.retry_s()
        case ListRegressed():
            return replace(again, reason=ListReason.REGRESSION), waits.relist_s()
        case _:
            return again, waits.retry_s()


def is_short(ended: WatchEnded, timing: WatchTiming) -> bool:
    """Whether the watch ended so soon, and without an event, that this counts as a failure."""
    return (
        ended.how is not WatchEnd.IDLE
        and not ended.events
        and ended.lasted_s < timing.short_watch_s
    )


def _after_watch(  # noqa: PLR0911 - one line a rule
    state: Watching, outcome: Outcome, waits: _Waits
) -> tuple[State, float]:
    match outcome:
        case WatchEnded() if is_short(outcome, waits.timing):
            following, wait_s = _after_refusal(state, outcome.resource_version, None, waits)
            return following, max(wait_s, waits.timing.short_watch_s - outcome.lasted_s)
        case WatchEnded():
            is_idle = outcome.how is WatchEnd.IDLE
            rest_s = 0.0 if is_idle else waits.timing.short_watch_s - outcome.lasted_s
            return Watching(outcome.resource_version), max(0.0, rest_s)
        case WatchUnheard() if outcome.unheard_s >= waits.timing.unheard_relist_s:
            return Listing(ListReason.RESYNC), 0.0
        case WatchUnheard():
            return Probing(outcome.resource_version), 0.0
        case WatchFailed():
            return _after_watch_failure(state, outcome, waits)
        case WatchMalformed():
            if state.malformed and not outcome.events:
                return Listing(ListReason.ERROR), waits.relist_s()
            return Watching(outcome.resource_version, malformed=True), waits.retry_s()
        case WatchRegressed():
            return Listing(ListReason.REGRESSION), waits.relist_s()
        case ResyncDue():
            return Listing(ListReason.RESYNC), 0.0
        case _:
            return Listing(ListReason.ERROR), waits.retry_s()


def _after_watch_failure(  # noqa: PLR0911 - one line a rule
    state: Watching, outcome: WatchFailed, waits: _Waits
) -> tuple[State, float]:
    error = outcome.error
    match error:
        case Gone():
            return Listing(ListReason.EXPIRED), waits.relist_s()
        case NotFound():
            return Checking(), 0.0
        case Forbidden():
            return Listing(ListReason.FALLBACK), waits.timing.fallback_relist_s
        case Unavailable() if _needs_list(error):
            return Listing(ListReason.ERROR), waits.relist_s(error)
        case Invalid():
            return Listing(ListReason.ERROR), waits.relist_s()
        case BadResponse() if state.malformed:
            return Listing(ListReason.ERROR), waits.relist_s()
        case BadResponse():
            return Watching(outcome.resource_version, malformed=True), waits.retry_s()
        case _ if outcome.worked:
            return Watching(outcome.resource_version, state.malformed), waits.retry_s(error)
        case _:
            return _after_refusal(state, outcome.resource_version, error, waits)


def _after_refusal(
    state: Watching, resource_version: str, error: KubeError | None, waits: _Waits
) -> tuple[State, float]:
    """A watch couldn't be had: try again, and in the end let lists stand in for it.

    Before the first such list the smallest one and one more watch tell a server that refuses
    watches from one that was away, which needs no list.
    """
    refusals = state.refusals + 1
    if refusals < REFUSALS_BEFORE_LIST:
        again = Watching(resource_version, state.malformed, refusals)
        return again, waits.retry_s(error)
    if refusals == REFUSALS_BEFORE_LIST:
        return Probing(resource_version, refusals), waits.retry_s(error)
    is_first = state.refusals == REFUSALS_BEFORE_LIST
    wait_s = 0.0 if is_first else waits.timing.fallback_relist_s
    return Listing(ListReason.FALLBACK, refusals=REFUSALS_BEFORE_LIST + 1), _asked_s(error, wait_s)


def _after_probe(state: Probing, outcome: Outcome, waits: _Waits) -> tuple[State, float]:
    match outcome:
        case Probed():
            return Watching(state.resource_version, refusals=state.refusals), 0.0
        case WatchRegressed():
            return Listing(ListReason.REGRESSION), waits.relist_s()
        case ProbeFailed(error=NotFound()):
            return Checking(), 0.0
        case ProbeFailed(error=error) if state.refusals or isinstance(error, Forbidden):
            again = Watching(state.resource_version, refusals=max(0, state.refusals - 1))
            return again, waits.retry_s(error)
        case ProbeFailed(error=error):
            return state, waits.retry_s(error)
        case _:
            return Listing(ListReason.ERROR), waits.retry_s()


def _needs_list(error: Unavailable) -> bool:
    """The server can't watch from here: an internal error, or a version it hasn't reached."""
    return error.status == 500 or (  # noqa: PLR2004 - HTTP
        error.status == 504 and _is_version_too_large(error)  # noqa: PLR2004
    )


def _is_version_too_large(error: KubeError) -> bool:
    return error.has_cause("ResourceVersionTooLarge") or "too large resource version" in (
        str(error).lower()
    )


def _after_check(state: Checking, outcome: Outcome, waits: _Waits) -> tuple[State, float]:
    match outcome:
        case Checked(served=False) if outcome.held and not state.confirmed:
            # An API server that has just started may not know its CRDs yet: before anything held
            # is given up, it gets a second look.
            return Checking(confirmed=1), waits.timing.absence_recheck_s
        case Checked(served=False):
            return Listing(ListReason.INITIAL, absences=1), waits.absence_s(0)
        case CheckFailed():
            return Listing(ListReason.ERROR), waits.retry_s(outcome.error)
        case _:
            return Listing(ListReason.ERROR), waits.retry_s()
