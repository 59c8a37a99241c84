"""What stands in an informer's way: told when it changes, and shown in its status until it's over.

What is done about it doesn't belong here.
"""

import logging
from dataclasses import dataclass

from telemetryd.errors import Gone, KubeError, NotFound
from telemetryd.informer.states import (
    CheckFailed,
    Crashed,
    Listed,
    ListFailed,
    Listing,
    ListReason,
    ListSuspect,
    Outcome,
    ProbeFailed,
    State,
    StreamRefused,
    WatchEnded,
    WatchFailed,
    WatchMalformed,
)
from telemetryd.informer.waits import WatchTiming
from telemetryd.informer.watch import Move, is_short

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Trouble:
    """What stands in the way; two of the same kind are no news."""

    kind: str
    text: str


def trouble_in(  # noqa: PLR0911 - one line a case
    outcome: Outcome, timing: WatchTiming
) -> Trouble | None:
    """What an outcome says stands in the way, None where nothing does."""
    match outcome:
        case WatchFailed(error=Gone() | NotFound()) | ListFailed(error=NotFound()):
            return None
        case ProbeFailed(error=NotFound()):
            return None
        case ListFailed(error=Gone(), page=page) if page > 1:
            return None
        case ListFailed() | WatchFailed() | ProbeFailed() | CheckFailed():
            return _of_error(outcome.error)
        case ListSuspect() | WatchMalformed():
            return Trouble("malformed", "what came isn't JSON of the API")
        case WatchEnded() if is_short(outcome, timing):
            return Trouble("short", "watches end as soon as they begin")
        case Crashed():
            return Trouble("internal", "internal error, see the log")
        case _:
            return None


def _of_error(error: KubeError) -> Trouble:
    return Trouble(f"{type(error).__name__} {error.status}", str(error))


class Journal:
    """Logs an informer's changes of state, each once; repeats at debug."""

    def __init__(self, resource_id: str) -> None:
        self._resource_id = resource_id
        self._trouble: Trouble | None = None
        self._synced = False

    @property
    def trouble(self) -> Trouble | None:
        """What stands in the way now."""
        return self._trouble

    def enter(self, trouble: Trouble, wait_s: float) -> None:
        """Something stands in the way."""
        news = self._trouble is None or self._trouble.kind != trouble.kind
        self._trouble = trouble
        log.log(
            logging.WARNING if news else logging.DEBUG,
            "informer hindered resource=%s reason=%s retry_in_s=%.1f",
            self._resource_id,
            trouble.text,
            wait_s,
        )

    def leave(self) -> None:
        """Nothing stands in the way any more."""
        if self._trouble is not None:
            self._trouble = None
            log.info("informer recovered resource=%s", self._resource_id)

    def absent(self) -> None:
        """The API server doesn't serve the resource."""
        self._trouble = None
        self._synced = True
        log.info("resource absent: watched for, counts as synced resource=%s", self._resource_id)

    def moved(self, state: State, outcome: Outcome, move: Move, objects: int) -> None:
        """The state machine has made a step: tell of lists, which are rare."""
        following = move.machine.state
        if isinstance(outcome, Listed) and (
            not self._synced or (isinstance(state, Listing) and state.absences)
        ):
            self._synced = True
            log.info("informer synced resource=%s objects=%d", self._resource_id, objects)
        if isinstance(outcome, StreamRefused):
            log.info(
                "no streamed lists: they come in pages for hours resource=%s reason=%r",
                self._resource_id,
                str(outcome.error or "the API server is too old"),
            )
        elif isinstance(following, Listing) and following.reason is not ListReason.INITIAL:
            changed = not isinstance(state, Listing) or state.reason is not following.reason
            log.log(
                logging.INFO if changed else logging.DEBUG,
                "relist resource=%s reason=%s in_s=%.1f",
                self._resource_id,
                following.reason,
                move.wait_s,
            )
