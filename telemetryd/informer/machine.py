"""List and watch as a state machine: the step from one state to the next.

It is pure: ``informer`` makes the requests and applies what they bring. The rules are those of
client-go's reflector where it has proved itself.
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
from telemetryd.informer.backoff import NO_FAILURES, Backoff, Delays, WatchTiming, asked_s
from telemetryd.informer.states import (
    Checked,
    Checking,
    Failed,
    Listed,
    Listing,
    ListMethod,
    ListReason,
    Outcome,
    Probing,
    Regressed,
    ResyncDue,
    State,
    StreamRefused,
    Suspect,
    WatchEnd,
    WatchEnded,
    WatchFailed,
    Watching,
    WatchUnanswered,
    is_short,
)

REFUSALS_BEFORE_LIST = 3
"""Watches that fail in a row before lists replace them, if the API server answers lists."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Where list and watch stand.

    Attributes:
        retries: Failures after which the same request is made again.
        relists: Failures that only a list fixes, counted separately: a list that becomes necessary
            after an outage doesn't wait because of the outage.
        pages_until_s: Lists come in pages until then, and as streams afterwards.
    """

    state: State
    retries: Backoff = NO_FAILURES
    relists: Backoff = NO_FAILURES
    pages_until_s: float = math.inf


START = Machine(Listing(ListReason.INITIAL))
"""Begins with a list in pages; all others come in pages too."""

START_STREAMED = Machine(Listing(ListReason.INITIAL, ListMethod.STREAM), pages_until_s=-math.inf)
"""Begins with a list as a stream, where the API server serves it so."""

_NEVER_STREAMED = frozenset({ListReason.FALLBACK, ListReason.REGRESSION})
"""A list that replaces watches or streams is neither; and after a regression a quorum read of etcd
counts, not what a watch cache makes of it."""


@dataclass(frozen=True, slots=True)
class Move:
    """The next state, and how many seconds to wait before acting on it.

    Attributes:
        absent: The resource is confirmed not to be served: its objects are gone.
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
    """The move that follows from an outcome.

    ``now_s`` is any clock that only moves forward, ``took_s`` the time from the request to the
    outcome.
    """
    state = machine.state
    delays = Delays(machine.retries, machine.relists, now_s, took_s, timing, rng)
    match state:
        case Listing():
            following, wait_s = _after_list(state, outcome, delays)
        case Watching():
            following, wait_s = _after_watch(state, outcome, delays)
            following = _probe_first(state, outcome, following)
        case Probing():
            following, wait_s = _after_probe(state, outcome, delays)
        case Checking():
            following, wait_s = _after_check(state, outcome, delays)
        case _:
            assert_never(state)
    pages_until_s = machine.pages_until_s
    if isinstance(outcome, StreamRefused):
        pages_until_s = now_s + timing.stream_retry_s
    absent = False
    if isinstance(following, Listing) and not isinstance(state, Listing):
        absent = following.absences > 0
        if following.reason not in _NEVER_STREAMED and now_s >= pages_until_s:
            following = replace(following, method=ListMethod.STREAM)
    return Move(Machine(following, delays.retries, delays.relists, pages_until_s), wait_s, absent)


def _after_list(  # noqa: PLR0911 - one line a rule
    state: Listing, outcome: Outcome, delays: Delays
) -> tuple[State, float]:
    is_stream = state.method is ListMethod.STREAM
    again = state if is_stream else replace(state, method=ListMethod.PAGES)
    match outcome:
        case Listed():
            return Watching(outcome.resource_version, refusals=state.refusals), 0.0
        case Failed(error=NotFound()) if state.absences:
            return replace(again, absences=state.absences + 1), delays.absence_s(state.absences)
        case Failed(error=NotFound()):
            return Checking(), 0.0
        case Regressed():
            again = replace(again, reason=ListReason.REGRESSION, method=ListMethod.PAGES)
            return again, delays.relist_s()
        case _ if is_stream:
            return _after_stream(state, outcome, delays)
        case Failed(error=TooLarge()) if state.method is ListMethod.PAGES:
            # Not even one object fits: the server may ignore page sizes.
            return replace(state, method=ListMethod.WHOLE), delays.retry_s()
        case Failed(error=Gone(), page=page) if state.method is ListMethod.PAGES and page > 1:
            return replace(state, reason=ListReason.EXPIRED, method=ListMethod.WHOLE), 0.0
        case Failed():
            return again, delays.retry_s(outcome.error)
        case Suspect():
            return replace(again, tolerant=True), delays.retry_s()
        case _:
            return again, delays.retry_s()


def _after_stream(  # noqa: PLR0911 - one line a rule
    state: Listing, outcome: Outcome, delays: Delays
) -> tuple[State, float]:
    """The same list as a stream once more, or this one list in pages."""
    in_pages = replace(state, reason=ListReason.FALLBACK, method=ListMethod.PAGES)
    match outcome:
        case StreamRefused(error=None):
            return replace(state, method=ListMethod.PAGES), 0.0
        case StreamRefused():
            return in_pages, 0.0
        case Failed(
            error=BadResponse()  # in a page only the bad objects are lost
            | Forbidden()  # lists may be allowed where watches aren't
            | Unavailable(kind=Reason.TIMEOUT, status=None)  # a proxy may hold streams back
        ):
            return in_pages, delays.retry_s()
        case Failed(error=error) if _is_away(error) and not outcome.begun:
            return state, delays.retry_s(error)
        case Failed(error=error) if not state.broken_streams:
            return replace(state, broken_streams=1), delays.retry_s(error)
        case Failed(error=error):
            return in_pages, delays.retry_s(error)
        case _:
            return in_pages, delays.retry_s()


def _probe_first(state: Watching, outcome: Outcome, following: State) -> State:
    """A probe before the next watch where the API server was lost.

    If its etcd was set back meanwhile, it accepts a watch from a version that it hasn't reached,
    and stays silent. Its lists show it.
    """
    lost = isinstance(outcome, WatchFailed) and isinstance(outcome.error, Unavailable)
    if isinstance(following, Watching) and (lost or state.lost):
        return Probing(following.resource_version, following.refusals, lost=True)
    if isinstance(following, Probing) and lost:
        return replace(following, lost=True)
    return following


def _after_watch(  # noqa: PLR0911 - one line a rule
    state: Watching, outcome: Outcome, delays: Delays
) -> tuple[State, float]:
    timing = delays.timing
    match outcome:
        case WatchEnded() if is_short(outcome, timing):
            following, wait_s = _after_refusal(state, outcome.resource_version, None, delays)
            return following, max(wait_s, timing.short_watch_s - outcome.lasted_s)
        case WatchEnded(how=WatchEnd.IDLE):
            return Watching(outcome.resource_version), 0.0
        case WatchEnded():
            rest_s = max(0.0, timing.short_watch_s - outcome.lasted_s)
            return Watching(outcome.resource_version), rest_s
        case WatchUnanswered() if outcome.unheard_s < timing.unheard_relist_s:
            return Probing(outcome.resource_version), 0.0
        case WatchUnanswered() | ResyncDue():
            return Listing(ListReason.RESYNC), 0.0
        case WatchFailed():
            return _after_watch_failure(state, outcome, delays)
        case Regressed():
            return Listing(ListReason.REGRESSION), delays.relist_s()
        case _:
            return Listing(ListReason.ERROR), delays.retry_s()


def _after_watch_failure(  # noqa: PLR0911 - one line a rule
    state: Watching, outcome: WatchFailed, delays: Delays
) -> tuple[State, float]:
    error, version = outcome.error, outcome.resource_version
    match error:
        case Gone():
            return Listing(ListReason.EXPIRED), delays.relist_s()
        case NotFound():
            return Checking(), 0.0
        case Forbidden():
            return Listing(ListReason.FALLBACK), delays.timing.fallback_relist_s
        case Unavailable() if _needs_list(error):
            return Listing(ListReason.ERROR), delays.relist_s(error)
        case Invalid():
            return Listing(ListReason.ERROR), delays.relist_s()
        case BadResponse() if state.malformed and not outcome.worked:
            return Listing(ListReason.ERROR), delays.relist_s()
        case BadResponse():
            return Watching(version, malformed=True), delays.retry_s()
        case _ if outcome.worked:
            return Watching(version, state.malformed), delays.retry_s(error)
        case _:
            return _after_refusal(state, version, error, delays)


def _after_refusal(
    state: Watching, resource_version: str, error: KubeError | None, delays: Delays
) -> tuple[State, float]:
    """A watch was refused: try again, and in the end make lists in its place.

    Before the first such list, a probe and one more watch tell a server that refuses watches from
    one that was away, which needs no list.
    """
    refusals = state.refusals + 1
    if refusals < REFUSALS_BEFORE_LIST:
        again = Watching(resource_version, state.malformed, refusals)
        return again, delays.retry_s(error)
    if refusals == REFUSALS_BEFORE_LIST:
        return Probing(resource_version, refusals), delays.retry_s(error)
    is_first = state.refusals == REFUSALS_BEFORE_LIST
    wait_s = 0.0 if is_first else delays.timing.fallback_relist_s
    return Listing(ListReason.FALLBACK, refusals=REFUSALS_BEFORE_LIST + 1), asked_s(error, wait_s)


def _after_probe(  # noqa: PLR0911 - one line a rule
    state: Probing, outcome: Outcome, delays: Delays
) -> tuple[State, float]:
    doubtful = state.lost or state.refusals > 0
    match outcome:
        case Checked():
            return Watching(state.resource_version, refusals=state.refusals), 0.0
        case Regressed():
            return Listing(ListReason.REGRESSION), delays.relist_s()
        case Failed(error=NotFound()):
            return Checking(), 0.0
        case Failed(error=error) if doubtful and _is_away(error):
            return replace(state, lost=True), delays.retry_s(error)
        case Failed(error=error) if doubtful or isinstance(error, Forbidden):
            # Lists alone may fail, and an API server that has just started may deny them.
            refusals = max(0, state.refusals - 1)
            again = Watching(state.resource_version, refusals=refusals, lost=state.lost)
            return again, delays.retry_s(error)
        case Failed(error=error):
            return state, delays.retry_s(error)
        case _:
            return Listing(ListReason.ERROR), delays.retry_s()


def _is_away(error: KubeError) -> bool:
    """No connection: neither lists nor watches are answered."""
    return isinstance(error, Unavailable) and error.kind is Reason.CONNECT and error.status is None


def _needs_list(error: Unavailable) -> bool:
    """The server can't watch from here: an internal error, or a version it hasn't reached."""
    return error.status == 500 or (  # noqa: PLR2004 - HTTP
        error.status == 504  # noqa: PLR2004
        and (
            error.has_cause("ResourceVersionTooLarge")
            or "too large resource version" in str(error).lower()
        )
    )


def _after_check(state: Checking, outcome: Outcome, delays: Delays) -> tuple[State, float]:
    match outcome:
        case Checked(served=False) if outcome.held and not state.confirmed:
            # An API server that has just started may not know its CRDs yet: before objects are
            # given up, ask again.
            return Checking(confirmed=1), delays.timing.absence_recheck_s
        case Checked(served=False):
            return Listing(ListReason.INITIAL, absences=1), delays.absence_s(0)
        case Failed():
            return Listing(ListReason.ERROR), delays.retry_s(outcome.error)
        case _:
            return Listing(ListReason.ERROR), delays.retry_s()
