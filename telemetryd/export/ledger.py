"""What is known of one exporter, true at every moment, and the log of its changes of state.

It decides nothing: the runner tells it what happened, the manager and the metrics read it.
"""

import logging
from collections.abc import Callable

from telemetryd.errors import ConflictError, ExportError, Reason
from telemetryd.export.exporter import Outcome
from telemetryd.export.spec import ExporterSpec
from telemetryd.model import ExporterState, ExporterStatus, Payload
from telemetryd.redaction import OURS
from telemetryd.stats import ExporterStats

log = logging.getLogger(__name__)


class Ledger:
    """The state, counters and last results of one exporter.

    Attributes:
        spec: The exporter's.
        stats: Counters for the metrics.
        failed_runs: Failed runs since the last success.
        payload: The payload last written, or one of newer content that is yet to be; None before
            the first. What is found to be written already leaves it as it is.
    """

    __slots__ = (
        "_blocked",
        "_detail",
        "_last_attempt_at",
        "_last_error",
        "_last_error_reason",
        "_last_failure_at",
        "_last_success_at",
        "_now",
        "_payload_bytes",
        "_reported",
        "_schema_valid",
        "_spool_trouble",
        "_state",
        "_stopping",
        "digest",
        "failed_runs",
        "payload",
        "spec",
        "stats",
    )

    def __init__(self, spec: ExporterSpec, now: Callable[[], float]) -> None:
        self.spec = spec
        self._now = now
        self._state = ExporterState.WAITING
        self._stopping = False
        self._detail = ""
        self._last_attempt_at: float | None = None
        self._last_success_at: float | None = None
        self._last_failure_at: float | None = None
        self._last_error = self._last_error_reason = ""
        self._reported: set[Reason] = set()
        self._blocked = False
        self._spool_trouble = ""
        self._payload_bytes: int | None = None
        self._schema_valid: bool | None = None
        self.digest = ""
        self.payload: Payload | None = None
        self.failed_runs = 0
        self.stats = ExporterStats()
        for result in ("success", "unchanged", "failure", "skipped", "superseded"):
            self.stats.runs[result] = 0

    @property
    def state(self) -> ExporterState:
        """The state to show."""
        if not self.spec.enabled:
            return ExporterState.DISABLED
        return ExporterState.STOPPING if self._stopping else self._state

    def waiting(self) -> None:
        """It can't run before the source is ready, or the manager runs."""
        self._enter(ExporterState.WAITING)

    def idle(self) -> None:
        """It has not run yet, and its first run is planned."""
        self._enter(ExporterState.IDLE)

    def stopping(self) -> None:
        """It was asked to stop and is coming to its end."""
        self._stopping = True

    def stopped(self, detail: str = "") -> None:
        """It has stopped."""
        self._stopping = False
        self._enter(ExporterState.STOPPED, detail)

    def backoff(self) -> None:
        """It pauses between two attempts of a run."""
        self._enter(ExporterState.BACKOFF)

    def collected(self, payload: Payload) -> None:
        """A payload was rendered for it."""
        self.digest = payload.digest
        self._payload_bytes = len(payload.body)
        if not payload.schema_valid and self._schema_valid is not False:
            log.warning(
                "payload deviates from its schema exporter=%s error=%r",
                self.spec.name,
                payload.schema_error,
            )
        self._schema_valid = payload.schema_valid
        if self.payload is None or self.payload.digest != payload.digest:
            self.payload = payload

    def attempt_started(self) -> None:
        """An attempt begins."""
        self._last_attempt_at = self._now()
        self._enter(ExporterState.RUNNING)

    def attempt_succeeded(self, outcome: Outcome, payload: Payload) -> None:
        """The sink has done its work."""
        self.stats.attempts["success", ""] += 1
        if outcome is Outcome.WRITTEN:
            self.stats.sent_bytes += len(payload.body)
            self.payload = payload

    def attempt_failed(self, error: ExportError) -> None:
        """An attempt of the run failed."""
        self.stats.attempts["failure", error.reason] += 1
        self._last_failure_at = self._now()
        self._last_error = OURS.redact(str(error))
        self._last_error_reason = error.reason

    def run_succeeded(self, outcome: Outcome, *, run_id: str) -> None:
        """A run delivered, or found delivered what there is."""
        result = "unchanged" if outcome is Outcome.UNCHANGED else "success"
        self.stats.runs[result] += 1
        first = self._last_success_at is None
        self._last_success_at = self._now()
        if self._reported:
            log.info(
                "exporter recovered exporter=%s failed_runs=%d run=%s",
                self.spec.name,
                self.failed_runs,
                run_id,
            )
        elif first:
            log.info(
                "exporter delivered for the first time exporter=%s result=%s payload_bytes=%d",
                self.spec.name,
                result,
                self._payload_bytes or 0,
            )
        self.failed_runs = 0
        self._reported.clear()
        self._last_error = self._last_error_reason = ""
        self._enter(ExporterState.IDLE)

    def run_failed(self, error: ExportError, *, run_id: str) -> None:
        """A run came to its end without success."""
        self.failed_runs += 1
        self.stats.runs["failure"] += 1
        conflict = isinstance(error, ConflictError)
        if conflict:
            self._enter(ExporterState.CONFLICT, OURS.redact(str(error)))
        else:
            self._enter(ExporterState.FAILED)
        # Each reason once until it recovers: two that take turns are no news either.
        repeated = error.reason in self._reported
        self._reported.add(error.reason)
        log.log(
            logging.DEBUG if repeated else logging.WARNING,
            "exporter conflict exporter=%s reason=%s error=%r run=%s"
            if conflict
            else "exporter failing exporter=%s reason=%s error=%r run=%s",
            self.spec.name,
            error.reason,
            str(error),
            run_id,
            # Unexpected exceptions are errors of a program: they come with their traceback.
            exc_info=error.__cause__ if error.reason is Reason.INTERNAL else None,
        )

    def blocked_loop(self, seconds: float) -> None:
        """The sink kept the event loop to itself: it is named the first time, and then at debug."""
        log.log(
            logging.DEBUG if self._blocked else logging.WARNING,
            "exporter blocks the event loop exporter=%s seconds=%.1f",
            self.spec.name,
            seconds,
        )
        self._blocked = True

    def spool_failed(self, why: str) -> None:
        """Nothing can be kept on disk: what isn't delivered won't outlive the process."""
        log.log(
            logging.DEBUG if self._spool_trouble else logging.WARNING,
            "exporter keeps nothing on disk exporter=%s error=%r",
            self.spec.name,
            why,
        )
        self._spool_trouble = why

    def spool_usable(self) -> None:
        """What was asked of the disk was done."""
        if self._spool_trouble:
            log.info("exporter keeps payloads on disk again exporter=%s", self.spec.name)
        self._spool_trouble = ""

    def spool_damaged(self, file: str, why: str, moved_to: str) -> None:
        """A file on disk cannot be used; what it held is not sent."""
        self.stats.spool_dropped["corrupt"] += 1
        log.error(
            "spooled file is damaged and ignored exporter=%s file=%s error=%r moved_to=%s",
            self.spec.name,
            file,
            why,
            moved_to,
        )

    def payload_dropped(self, why: str) -> None:
        """The pending payload must not leave: it is dropped."""
        self.stats.spool_dropped[why] += 1
        log.warning("pending payload dropped exporter=%s reason=%s", self.spec.name, why)

    def skipped(self, reason: str, count: int = 1) -> None:
        """Slots went by without a run, or with one that came to nothing before its attempt."""
        if count:
            self.stats.skipped_ticks[reason] += count
            self.stats.runs["skipped"] += count

    def status(self, *, next_run_in_s: float | None, waiting_for: str) -> ExporterStatus:
        """What the manager shows.

        Args:
            next_run_in_s: Seconds to the next run, None where none is planned.
            waiting_for: What every waiting exporter waits for.
        """
        state = self.state
        planned = state not in {
            ExporterState.DISABLED,
            ExporterState.STOPPED,
            ExporterState.STOPPING,
            ExporterState.WAITING,
        }
        return ExporterStatus(
            name=self.spec.name,
            type=self.spec.type,
            disclosure=self.spec.disclosure,
            enabled=self.spec.enabled,
            state=state,
            detail=self._describe(state, waiting_for),
            interval_s=self.spec.interval_s,
            consecutive_failures=self.failed_runs,
            last_attempt_at=self._last_attempt_at,
            last_success_at=self._last_success_at,
            last_failure_at=self._last_failure_at,
            last_error=self._last_error,
            last_error_reason=self._last_error_reason,
            next_run_in_s=next_run_in_s if planned else None,
            payload_bytes=self._payload_bytes,
            digest=self.digest,
            schema_valid=self._schema_valid,
        )

    def _describe(self, state: ExporterState, waiting_for: str) -> str:
        parts = [waiting_for if state is ExporterState.WAITING else self._detail]
        if self._spool_trouble:
            parts.append(f"{Reason.STORAGE}: keeps nothing over a restart: {self._spool_trouble}")
        return "; ".join(filter(None, parts))

    def _enter(self, state: ExporterState, detail: str = "") -> None:
        self._state = state
        self._detail = detail
