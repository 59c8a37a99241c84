"""List and watch as a state machine: the pure step from one state to the next.

Pure: what is asked of the API server and what becomes of the answers is ``informer``'s business.
The rules are client-go's where they have proved themselves.
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
    Reason,
    TooLarge,
    Unavailable,
)
from telemetryd.informer.states import (
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
    StreamRefused,
    WatchEnd,
    WatchEnded,
    WatchFailed,
    Watching,
    WatchMalformed,
    WatchRegressed,
    WatchUnheard,
)
from telemetryd.informer.waits import Backoff, Waits, WatchTiming, asked_s

REFUSALS_BEFORE_LIST = 3
"""Watches that fail in a row until lists stand in for them, if the API server gives lists."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Where list and watch stand.

    Attributes:
        retries: Failures after which the same is tried again.
        relists: Failures that only a list fixes. They have a count of their own, so that a list
            that becomes necessary after an outage doesn't wait for the outage's sake.
        pages_until_s: Until then lists come in pages; from then on as streams.
    """

    state: State
    retries: Backoff
    relists: Backoff
    pages_until_s: float = math.inf


START = Machine(Listing(ListReason.INITIAL), Backoff(), Backoff())
"""A list in pages comes first; all others come in pages too."""

START_STREAMED = Machine(
    Listing(ListReason.INITIAL, streamed=True), Backoff(), Backoff(), pages_until_s=-math.inf
)
"""A list comes first, as a stream where the API server serves it so."""

_NEVER_STREAMED = frozenset({ListReason.FALLBACK, ListReason.REGRESSION})
"""What stands in for watches or streams is neither; and after a regression a quorum read of etcd
counts, not what a watch cache makes of it."""


@dataclass(frozen=True, slots=True)
class Move:
    """The next state, and seconds to wait before it is acted upon.

    Attributes:
        absent: The resource is confirmed not to be served: what is held of it is gone.
    """

    machine: Machine
    wait_s: float
    absent: bool = False


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
    waits = Waits(
        machine.retries, machine.relists, now_s=now_s, took_s=took_s, timing=timing, rng=rng
    )
    match state:
        case Listing():
            following, wait_s = _after_list(state, outcome, waits)
        case Watching():
            following, wait_s = _after_watch(state, outcome, waits)
            following = _proved(state, outcome, following)
        case Probing():
            following, wait_s = _after_probe(state, outcome, waits)
        case Checking():
            following, wait_s = _after_check(state, outcome, waits)
        case _:
            assert_never(state)
    absent = (
        isinstance(state, Checking) and isinstance(following, Listing) and following.absences > 0
    )
    pages_until_s = machine.pages_until_s
    if isinstance(outcome, StreamRefused):
        pages_until_s = now_s + timing.stream_retry_s
    if (
        isinstance(following, Listing)
        and not isinstance(state, Listing)
        and following.reason not in _NEVER_STREAMED
        and now_s >= pages_until_s
    ):
        following = replace(following, streamed=True)
    return Move(Machine(following, waits.retries, waits.relists, pages_until_s), wait_s, absent)


def _after_list(  # noqa: PLR0911 - one line a rule
    state: Listing, outcome: Outcome, waits: Waits
) -> tuple[State, float]:
    again = replace(state, paged=True)
    match outcome:
        case Listed():
            return Watching(outcome.resource_version, refusals=state.refusals), 0.0
        case ListFailed(error=NotFound()) if state.absences:
            return replace(again, absences=state.absences + 1), waits.absence_s(state.absences)
        case ListFailed(error=NotFound()):
            return Checking(), 0.0
        case ListRegressed():
            again = replace(again, reason=ListReason.REGRESSION, streamed=False)
            return again, waits.relist_s()
        case _ if state.streamed:
            return _after_stream(state, outcome, waits)
        case ListFailed(error=TooLarge()) if state.paged:
            # Whoever can't make a page small enough may not know pages: one try without.
            return replace(state, paged=False), waits.retry_s()
        case ListFailed(error=Gone(), page=page) if state.paged and page > 1:
            return replace(state, reason=ListReason.EXPIRED, paged=False), 0.0
        case ListFailed():
            return again, waits.retry_s(outcome.error)
        case ListSuspect():
            return replace(again, tolerant=True), waits.retry_s()
        case _:
            return again, waits.retry_s()


def _after_stream(  # noqa: PLR0911 - one line a rule
    state: Listing, outcome: Outcome, waits: Waits
) -> tuple[State, float]:
    """The same as a stream once more, or this one list in pages."""
    in_pages = replace(state, reason=ListReason.FALLBACK, streamed=False)
    match outcome:
        case StreamRefused(error=None):
            return replace(state, streamed=False), 0.0
        case StreamRefused():
            return in_pages, 0.0
        case ListFailed(
            error=BadResponse()  # of a page only the bad objects are lost
            | Forbidden()  # lists may be allowed where watches aren't
            | Unavailable(kind=Reason.TIMEOUT, status=None)  # something may hold streams back
        ):
            return in_pages, waits.retry_s()
        case ListFailed(error=error) if _is_away(error) and not outcome.begun:
            return state, waits.retry_s(error)
        case ListFailed(error=error) if not state.broken_streams:
            return replace(state, broken_streams=1), waits.retry_s(error)
        case ListFailed(error=error):
            return in_pages, waits.retry_s(error)
        case _:
            return in_pages, waits.retry_s()


def is_short(ended: WatchEnded, timing: WatchTiming) -> bool:
    """Whether the watch ended so soon, and without an event, that this counts as a failure."""
    return (
        ended.how is not WatchEnd.IDLE
        and not ended.events
        and ended.lasted_s < timing.short_watch_s
    )


def _proved(state: Watching, outcome: Outcome, following: State) -> State:
    """Before a watch after a loss, a probe.

    An API server whose etcd was set back meanwhile accepts a watch from a version that it hasn't
    reached, and stays silent; its lists tell.
    """
    lost = isinstance(outcome, WatchFailed) and isinstance(outcome.error, Unavailable)
    if isinstance(following, Watching) and (lost or state.unproven):
        return Probing(following.resource_version, following.refusals, lost=True)
    if isinstance(following, Probing) and lost:
        return replace(following, lost=True)
    return following


def _after_watch(  # noqa: PLR0911 - one line a rule
    state: Watching, outcome: Outcome, waits: Waits
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
    state: Watching, outcome: WatchFailed, waits: Waits
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
    state: Watching, resource_version: str, error: KubeError | None, waits: Waits
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
    return Listing(ListReason.FALLBACK, refusals=REFUSALS_BEFORE_LIST + 1), asked_s(error, wait_s)


def _after_probe(  # noqa: PLR0911 - one line a rule
    state: Probing, outcome: Outcome, waits: Waits
) -> tuple[State, float]:
    match outcome:
        case Probed():
            return Watching(state.resource_version, refusals=state.refusals), 0.0
        case WatchRegressed():
            return Listing(ListReason.REGRESSION), waits.relist_s()
        case ProbeFailed(error=NotFound()):
            return Checking(), 0.0
        case ProbeFailed(error=error) if _is_away(error) and (state.lost or state.refusals):
            return replace(state, lost=True), waits.retry_s(error)
        case ProbeFailed(error=error) if (
            state.lost or state.refusals or isinstance(error, Forbidden)
        ):
            # Lists alone may be what fails, and an API server that has just started may deny them.
            again = Watching(
                state.resource_version, refusals=max(0, state.refusals - 1), unproven=state.lost
            )
            return again, waits.retry_s(error)
        case ProbeFailed(error=error):
            return state, waits.retry_s(error)
        case _:
            return Listing(ListReason.ERROR), waits.retry_s()


def _is_away(error: KubeError) -> bool:
    """Nobody answers there, neither lists nor watches."""
    return isinstance(error, Unavailable) and error.kind is Reason.CONNECT and error.status is None


def _needs_list(error: Unavailable) -> bool:
    """The server can't watch from here: an internal error, or a version it hasn't reached."""
    return error.status == 500 or (  # noqa: PLR2004 - HTTP
        error.status == 504 and _is_version_too_large(error)  # noqa: PLR2004
    )


def _is_version_too_large(error: KubeError) -> bool:
    return error.has_cause("ResourceVersionTooLarge") or "too large resource version" in (
        str(error).lower()
    )


def _after_check(state: Checking, outcome: Outcome, waits: Waits) -> tuple[State, float]:
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
