"""What an informer is failing at: logged when it changes, and shown in its status until it ends."""

import logging
from dataclasses import dataclass

from telemetryd.errors import Gone, NotFound
from telemetryd.informer.backoff import WatchTiming
from telemetryd.informer.machine import Move, is_short
from telemetryd.informer.states import (
    Checking,
    Crashed,
    Failed,
    Listed,
    Listing,
    ListReason,
    Outcome,
    State,
    StreamRefused,
    Suspect,
    WatchEnded,
    WatchFailed,
)

log = logging.getLogger(__name__)


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


class Journal:
    """Logs an informer's changes of state, each once; repetitions at debug.

    Attributes:
        trouble: What fails now, if anything.
    """

    def __init__(self, resource_id: str) -> None:
        self._resource_id = resource_id
        self._synced = False
        self.trouble: Trouble | None = None

    def enter(self, trouble: Trouble, wait_s: float) -> None:
        """Something fails."""
        news = self.trouble is None or self.trouble.kind != trouble.kind
        self.trouble = trouble
        log.log(
            logging.WARNING if news else logging.DEBUG,
            "informer failing resource=%s reason=%s retry_in_s=%.1f",
            self._resource_id,
            trouble.text,
            wait_s,
        )

    def leave(self) -> None:
        """Nothing fails any more."""
        if self.trouble is not None:
            self.trouble = None
            log.info("informer recovered resource=%s", self._resource_id)

    def absent(self) -> None:
        """The API server doesn't serve the resource."""
        self.trouble = None
        self._synced = True
        log.info("resource absent, counts as synced resource=%s", self._resource_id)

    def moved(self, state: State, outcome: Outcome, move: Move, objects: int) -> None:
        """The state machine has made a step: log lists, which are rare."""
        following = move.machine.state
        if isinstance(outcome, Listed) and (
            not self._synced or (isinstance(state, Listing) and state.absences)
        ):
            self._synced = True
            log.info("informer synced resource=%s objects=%d", self._resource_id, objects)
        if isinstance(outcome, StreamRefused):
            log.info(
                "no streamed lists, using pages for hours resource=%s reason=%r",
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
