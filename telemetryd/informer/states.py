"""States and outcomes of list and watch. ``machine`` says which state follows which outcome."""

from dataclasses import dataclass
from enum import Enum, StrEnum, auto

from telemetryd.errors import Gone, KubeError, NotFound
from telemetryd.informer.backoff import WatchTiming


class ListReason(StrEnum):
    """Why a list is made: label ``reason`` of the list counter."""

    INITIAL = "initial"
    EXPIRED = "expired"
    ERROR = "error"
    RESYNC = "resync"
    REGRESSION = "regression"
    FALLBACK = "fallback"


class ListMethod(Enum):
    """How a list is requested: as a stream that goes on as the watch, in pages, or in one answer.

    One answer is for an expired continue token, and for a server that ignores page sizes.
    """

    STREAM = auto()
    PAGES = auto()
    WHOLE = auto()


class WatchEnd(StrEnum):
    """How a watch ended that did not fail: label ``reason`` of the termination counter."""

    TIMEOUT = "timeout"
    IDLE = "idle"
    CLOSED = "closed"


# -- states: what to do next


@dataclass(frozen=True, slots=True)
class Listing:
    """Make a quorum list.

    Attributes:
        tolerant: Store objects with broken JSON as unreadable. Otherwise they fail the list once,
            because a proxy may have broken them.
        absences: How often in a row the resource was not served; 0 while it is, or not known.
    """

    reason: ListReason
    method: ListMethod = ListMethod.PAGES
    tolerant: bool = False
    absences: int = 0
    refusals: int = 0
    broken_streams: int = 0


@dataclass(frozen=True, slots=True)
class Watching:
    """Open a watch from this resource version.

    Attributes:
        malformed: The previous watch broke off at a line that isn't an event.
        refusals: How many watches in a row were refused, or failed before they brought anything.
        lost: The API server was lost before, and no probe has confirmed its state since.
    """

    resource_version: str
    malformed: bool = False
    refusals: int = 0
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Probing:
    """Make the smallest list, to see that the API server is there and not set back.

    Attributes:
        refusals: As in ``Watching``.
        lost: The API server was lost; otherwise the last watch got no answer or was refused.
    """

    resource_version: str
    refusals: int = 0
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Checking:
    """Ask discovery whether the resource is served.

    Attributes:
        confirmed: How often it has said no in a row.
    """

    confirmed: int = 0


State = Listing | Watching | Probing | Checking


# -- outcomes: what came of it


@dataclass(frozen=True, slots=True)
class Listed:
    """The whole list is applied."""

    resource_version: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A list, a probe or discovery failed; nothing is applied.

    Attributes:
        page: Of a list in pages, counted from 1.
        begun: It was a list as a stream, and the API server had accepted it.
    """

    error: KubeError
    page: int = 1
    begun: bool = False


@dataclass(frozen=True, slots=True)
class StreamRefused:
    """The API server doesn't serve lists as streams, or never ends them. Nothing is applied.

    Attributes:
        error: Its answer; None where its version is too old to be asked.
    """

    error: KubeError | None = None


@dataclass(frozen=True, slots=True)
class Suspect:
    """The list holds objects with broken JSON. Nothing is applied."""


@dataclass(frozen=True, slots=True)
class Regressed:
    """A list, probe or watch brought a version older than the one held; it is not applied."""


@dataclass(frozen=True, slots=True)
class WatchEnded:
    """The watch ended normally; its events are applied up to ``resource_version``."""

    resource_version: str
    how: WatchEnd
    lasted_s: float
    events: int


@dataclass(frozen=True, slots=True)
class WatchFailed:
    """The watch was refused, broke, or brought an error or a line that isn't an event.

    Attributes:
        worked: It had brought events or, unless a line was wrong, stood for a while.
    """

    resource_version: str
    error: KubeError
    worked: bool = False


@dataclass(frozen=True, slots=True)
class WatchUnanswered:
    """The watch was neither accepted nor refused for as long as a watch may be idle.

    Some proxies hold the headers back until the first event.

    Attributes:
        unheard_s: Since a list was applied or a watch brought anything.
    """

    resource_version: str
    unheard_s: float


@dataclass(frozen=True, slots=True)
class ResyncDue:
    """It is time for the regular list."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A probe or discovery answered; ``held`` is the number of objects held."""

    served: bool
    held: int = 0


@dataclass(frozen=True, slots=True)
class Crashed:
    """An unexpected exception: the store may be half updated."""


Outcome = (
    Listed
    | Failed
    | StreamRefused
    | Suspect
    | Regressed
    | WatchEnded
    | WatchFailed
    | WatchUnanswered
    | ResyncDue
    | Checked
    | Crashed
)


# -- what an outcome says


def is_short(ended: WatchEnded, timing: WatchTiming) -> bool:
    """Whether the watch ended so soon, and without an event, that this counts as a failure."""
    return (
        ended.how is not WatchEnd.IDLE
        and not ended.events
        and ended.lasted_s < timing.short_watch_s
    )


@dataclass(frozen=True, slots=True)
class Trouble:
    """What fails; only a change of ``kind`` is logged as a warning."""

    kind: str
    text: str


def trouble_in(  # noqa: PLR0911 - one line a case
    state: State, outcome: Outcome, timing: WatchTiming
) -> Trouble | None:
    """What fails by the outcome of a state, if anything does."""
    match outcome:
        case WatchFailed(error=Gone() | NotFound()):
            return None
        case Failed(error=NotFound()) if not isinstance(state, Checking):
            return None
        case Failed(error=Gone(), page=page) if page > 1:
            return None
        case Failed(error=error) | WatchFailed(error=error):
            return Trouble(f"{type(error).__name__} {error.status}", str(error))
        case Suspect():
            return Trouble("malformed", "list: objects that aren't JSON")
        case WatchEnded() if is_short(outcome, timing):
            return Trouble("short", "watches end as soon as they begin")
        case Crashed():
            return Trouble("internal", "internal error, see the log")
        case _:
            return None


def termination(outcome: Outcome, timing: WatchTiming) -> str:
    """Label ``reason`` of the counter of ended watches."""
    match outcome:
        case WatchEnded() if is_short(outcome, timing):
            return "short"
        case WatchEnded():
            return outcome.how
        case WatchUnanswered():
            return WatchEnd.IDLE
        case WatchFailed(error=Gone()):
            return "expired"
        case ResyncDue():
            return "closed"
        case _:
            return "error"
