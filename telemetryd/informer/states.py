"""What list and watch can be about to do, and what can come of it: the two closed unions.

What follows from what is ``watch``'s business.
"""

from dataclasses import dataclass
from enum import StrEnum

from telemetryd.errors import KubeError


class ListReason(StrEnum):
    """Why a list is made: label ``reason`` of the list counter."""

    INITIAL = "initial"
    EXPIRED = "expired"
    ERROR = "error"
    RESYNC = "resync"
    REGRESSION = "regression"
    FALLBACK = "fallback"


class WatchEnd(StrEnum):
    """How a watch ended that did not fail: label ``reason`` of the termination counter."""

    TIMEOUT = "timeout"
    IDLE = "idle"
    CLOSED = "closed"


# -- states: what is to be done next


@dataclass(frozen=True, slots=True)
class Listing:
    """A quorum list is due.

    Attributes:
        paged: In pages; else in one answer, because a continue token had expired.
        streamed: As a stream of events, which goes on as the watch; else as ``paged`` says.
        broken_streams: How many streams of this list have failed so far.
        tolerant: Objects with broken JSON are taken as unreadable; else they fail the list once,
            for it may be what lies in between that broke them.
        absences: How often in a row the resource was found not to be served; 0 while it is, or
            nothing is known.
        refusals: As in ``Watching``, where a watch can't be had and lists stand in for it.
    """

    reason: ListReason
    paged: bool = True
    tolerant: bool = False
    absences: int = 0
    refusals: int = 0
    streamed: bool = False
    broken_streams: int = 0


@dataclass(frozen=True, slots=True)
class Watching:
    """A watch is due from this resource version on.

    Attributes:
        malformed: The watch before broke off at a line that isn't an event.
        refusals: How many watches in a row were refused, or failed before they brought anything.
        unproven: The API server was lost before, and no probe has told yet whether its state is
            still that from which the watch goes on.
    """

    resource_version: str
    malformed: bool = False
    refusals: int = 0
    unproven: bool = False


@dataclass(frozen=True, slots=True)
class Probing:
    """The smallest list is to tell whether the API server is there, and at least as far.

    Attributes:
        resource_version: From which the watch is to go on.
        refusals: As in ``Watching``.
        lost: The API server was lost; else the last watch just wasn't answered, or was refused.
    """

    resource_version: str
    refusals: int = 0
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Checking:
    """Discovery is to tell whether the resource is served at all.

    Attributes:
        confirmed: How often it has said no in a row.
    """

    confirmed: int = 0


State = Listing | Watching | Probing | Checking


# -- outcomes: what came of it


@dataclass(frozen=True, slots=True)
class Listed:
    """The list is applied as a whole."""

    resource_version: str


@dataclass(frozen=True, slots=True)
class ListFailed:
    """Nothing of the list is applied.

    Attributes:
        page: Counts from 1.
        begun: It was a stream, and had been accepted.
    """

    error: KubeError
    page: int = 1
    begun: bool = False


@dataclass(frozen=True, slots=True)
class StreamRefused:
    """The API server doesn't serve lists as streams, or never ends them. Nothing is applied.

    Attributes:
        error: What it answered; None where it wasn't asked, being too old to know such lists.
    """

    error: KubeError | None = None


@dataclass(frozen=True, slots=True)
class ListSuspect:
    """Nothing of the list is applied: it holds objects with broken JSON."""


@dataclass(frozen=True, slots=True)
class ListRegressed:
    """Nothing of the list is applied: it is older than what is held."""


@dataclass(frozen=True, slots=True)
class WatchEnded:
    """The watch ended as watches do; what came is applied up to ``resource_version``."""

    resource_version: str
    how: WatchEnd
    lasted_s: float
    events: int


@dataclass(frozen=True, slots=True)
class WatchFailed:
    """The watch wasn't accepted, broke, or reported an error.

    Attributes:
        worked: It had brought something, or stood for a while.
    """

    resource_version: str
    error: KubeError
    worked: bool = False


@dataclass(frozen=True, slots=True)
class WatchUnheard:
    """For as long as a watch may be idle this one wasn't answered: neither accepted nor refused.

    Some proxies hold the headers back until the first event.

    Attributes:
        unheard_s: Since a list was applied or a watch brought anything.
    """

    resource_version: str
    unheard_s: float


@dataclass(frozen=True, slots=True)
class WatchMalformed:
    """The watch sent a line that isn't an event; ``events`` before it were applied."""

    resource_version: str
    events: int


@dataclass(frozen=True, slots=True)
class WatchRegressed:
    """The watch sent something older than what is held."""


@dataclass(frozen=True, slots=True)
class ResyncDue:
    """It is time for a list, for caution's sake."""


@dataclass(frozen=True, slots=True)
class Probed:
    """The API server is there, and serves the resource."""


@dataclass(frozen=True, slots=True)
class ProbeFailed:
    """It isn't, or something stands in between."""

    error: KubeError


@dataclass(frozen=True, slots=True)
class Checked:
    """Discovery answered; ``held`` is the number of objects at stake."""

    served: bool
    held: int


@dataclass(frozen=True, slots=True)
class CheckFailed:
    """Discovery could not tell."""

    error: KubeError


@dataclass(frozen=True, slots=True)
class Crashed:
    """Something unexpected was raised: what is held may be half of something."""


Outcome = (
    Listed
    | ListFailed
    | StreamRefused
    | ListSuspect
    | ListRegressed
    | WatchEnded
    | WatchFailed
    | WatchUnheard
    | WatchMalformed
    | WatchRegressed
    | ResyncDue
    | Probed
    | ProbeFailed
    | Checked
    | CheckFailed
    | Crashed
)
