"""The record of one exporter: its status, counters and log; and what all exporters share.

The runner records here what happened; the manager and the metrics read it.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

import anyio

from telemetryd.bounds import error_text
from telemetryd.errors import ConflictError, ExportError, NotReady, Reason
from telemetryd.export.exporter import ExporterSpec, Outcome
from telemetryd.limiter import Gate, Limiter
from telemetryd.model import ExporterState, ExporterStatus, Payload, SnapshotSource
from telemetryd.redaction import OURS
from telemetryd.stats import ExporterStats
from telemetryd.timing import boot_time_s

log = logging.getLogger(__name__)

_RETRY_S = 5.0
_NOTHING: frozenset[Reason] = frozenset()
_UNPLANNED = frozenset(
    {
        ExporterState.DISABLED,
        ExporterState.STOPPED,
        ExporterState.STOPPING,
        ExporterState.WAITING,
    }
)


@dataclass(slots=True, eq=False)
class Ledger:
    """The state, counters and last results of one exporter.

    Attributes:
        run_id: Of the current or last run, for the log.
        digest: Of the payload last rendered.
        payload: The payload last written, or newer content still to write; None before the first.
            It stays when a payload is found to be written already.
    """

    spec: ExporterSpec
    now: Callable[[], float]
    stats: ExporterStats = field(default_factory=ExporterStats, init=False)
    stopping: bool = field(default=False, init=False)
    run_id: str = field(default="", init=False)
    digest: str = field(default="", init=False)
    payload: Payload | None = field(default=None, init=False)
    _status: ExporterStatus = field(init=False)
    _reported: frozenset[Reason] = field(default=_NOTHING, init=False)
    _blocked: bool = field(default=False, init=False)
    _spool_trouble: str = field(default="", init=False)

    def __post_init__(self) -> None:
        for result in ("success", "unchanged", "failure", "skipped", "superseded"):
            self.stats.runs[result] = 0
        spec = self.spec
        self._status = ExporterStatus(spec.name, spec.type, spec.disclosure, spec.enabled)

    @property
    def state(self) -> ExporterState:
        """The state to show."""
        if not self.spec.enabled:
            return ExporterState.DISABLED
        return ExporterState.STOPPING if self.stopping else self._status.state

    def enter(self, state: ExporterState, detail: str = "") -> None:
        """Change the state."""
        self._status = replace(self._status, state=state, detail=detail)

    def stopped(self, detail: str = "") -> None:
        """It has stopped."""
        self.stopping = False
        self.enter(ExporterState.STOPPED, detail)

    def collected(self, payload: Payload) -> None:
        """A payload was rendered for it."""
        if not payload.schema_valid and self._status.schema_valid is not False:
            log.warning(
                "payload deviates from its schema exporter=%s error=%r",
                self.spec.name,
                payload.schema_error,
            )
        self.digest = payload.digest
        self._status = replace(
            self._status, payload_bytes=len(payload.body), schema_valid=payload.schema_valid
        )
        if self.payload is None or self.payload.digest != payload.digest:
            self.payload = payload

    def attempt_started(self) -> None:
        """An attempt begins."""
        self._status = replace(
            self._status, state=ExporterState.RUNNING, detail="", last_attempt_at=self.now()
        )

    def attempt_succeeded(self, outcome: Outcome, payload: Payload) -> None:
        """The sink succeeded."""
        self.stats.attempts["success", ""] += 1
        if outcome is Outcome.WRITTEN:
            self.stats.sent_bytes += len(payload.body)
            self.payload = payload

    def attempt_failed(self, error: ExportError) -> None:
        """An attempt of the run failed."""
        self.stats.attempts["failure", error.reason] += 1
        self._status = replace(
            self._status,
            last_failure_at=self.now(),
            last_error=OURS.redact(str(error)),
            last_error_reason=error.reason,
        )

    def run_succeeded(self, outcome: Outcome) -> None:
        """A run delivered the payload, or found it delivered already."""
        result = "unchanged" if outcome is Outcome.UNCHANGED else "success"
        self.stats.runs[result] += 1
        if self._reported:
            log.info(
                "exporter recovered exporter=%s failed_runs=%d run=%s",
                self.spec.name,
                self._status.consecutive_failures,
                self.run_id,
            )
        elif self._status.last_success_at is None:
            log.info(
                "exporter delivered for the first time exporter=%s result=%s payload_bytes=%d",
                self.spec.name,
                result,
                self._status.payload_bytes or 0,
            )
        self._reported = _NOTHING
        self._status = replace(
            self._status,
            state=ExporterState.IDLE,
            detail="",
            consecutive_failures=0,
            last_success_at=self.now(),
            last_error="",
            last_error_reason="",
        )

    def run_failed(self, error: ExportError) -> None:
        """A run ended without success."""
        self.stats.runs["failure"] += 1
        conflict = isinstance(error, ConflictError)
        self._status = replace(
            self._status,
            state=ExporterState.CONFLICT if conflict else ExporterState.FAILED,
            detail=OURS.redact(str(error)) if conflict else "",
            consecutive_failures=self._status.consecutive_failures + 1,
        )
        # Each reason once until it recovers, also where two reasons alternate.
        repeated = error.reason in self._reported
        self._reported |= {error.reason}
        log.log(
            logging.DEBUG if repeated else logging.WARNING,
            "exporter conflict exporter=%s reason=%s error=%r run=%s"
            if conflict
            else "exporter failing exporter=%s reason=%s error=%r run=%s",
            self.spec.name,
            error.reason,
            str(error),
            self.run_id,
            # Unexpected exceptions are bugs: log their traceback.
            exc_info=error.__cause__ if error.reason is Reason.INTERNAL else None,
        )

    def blocked_loop(self, seconds: float) -> None:
        """The sink blocked the event loop: log it the first time, and then at debug."""
        log.log(
            logging.DEBUG if self._blocked else logging.WARNING,
            "exporter blocks the event loop exporter=%s seconds=%.1f",
            self.spec.name,
            seconds,
        )
        self._blocked = True

    def spool_failed(self, why: str) -> None:
        """Nothing can be stored on disk: undelivered payloads are lost when the process ends."""
        log.log(
            logging.DEBUG if self._spool_trouble else logging.WARNING,
            "exporter keeps nothing on disk exporter=%s error=%r",
            self.spec.name,
            why,
        )
        self._spool_trouble = why

    def spool_usable(self) -> None:
        """An access to the disk succeeded."""
        if self._spool_trouble:
            log.info("exporter keeps payloads on disk again exporter=%s", self.spec.name)
        self._spool_trouble = ""

    def spool_damaged(self, file: str, why: str, moved_to: str, *, newer: bool) -> None:
        """A file on disk cannot be used; its payload is not sent."""
        self.stats.spool_dropped["corrupt"] += 1
        log.error(
            "spooled file of a later version is set aside exporter=%s file=%s error=%r moved_to=%s"
            if newer
            else "spooled file is damaged and ignored exporter=%s file=%s error=%r moved_to=%s",
            self.spec.name,
            file,
            why,
            moved_to,
        )

    def payload_dropped(self, why: str) -> None:
        """The pending payload must not be sent: it is dropped."""
        self.stats.spool_dropped[why] += 1
        log.warning("pending payload dropped exporter=%s reason=%s", self.spec.name, why)

    def skipped(self, reason: str, count: int = 1) -> None:
        """Slots passed without a run, or with one that ended before its attempt."""
        if count:
            self.stats.skipped_ticks[reason] += count
            self.stats.runs["skipped"] += count

    def status(self, *, next_run_in_s: float | None, waiting_for: str) -> ExporterStatus:
        """The status to show."""
        state = self.state
        details = [waiting_for if state is ExporterState.WAITING else self._status.detail]
        if self._spool_trouble:
            details.append(f"{Reason.STORAGE}: keeps nothing over a restart: {self._spool_trouble}")
        return replace(
            self._status,
            state=state,
            detail="; ".join(filter(None, details)),
            interval_s=self.spec.interval_s,
            next_run_in_s=None if state in _UNPLANNED else next_run_in_s,
            digest=self.digest,
        )


@dataclass(frozen=True, slots=True)
class Shared:
    """What all exporters of one manager share.

    Attributes:
        source: Gives the snapshots: a ``Gatherer``, or another ``SnapshotSource``.
        now: Unix time in seconds.
        rng: Spreads first runs and retries.
        epoch: Of leadership; rises with each term, 0 without leader election.
        suspended_s: Seconds the machine has spent suspended since it booted.
        saw_epoch: Called with each epoch that is found on disk or in a receiver's answer.
        omitted: Names of the ``[privacy]`` keys that omit something now. A payload that was made
            while fewer did never leaves.
        require_leading: Called directly before each call of a sink; raises NotLeading where another
            replica may lead.
        gate: Lets few runs begin at a time: a thousand that are due at once take the memory of few.
        spool_dir: Where exporters keep pending payloads; None for nowhere.
    """

    source: SnapshotSource
    watch: "SourceWatch"
    now: Callable[[], float]
    rng: Random
    suspended_s: Callable[[], float]
    epoch: Callable[[], int]
    saw_epoch: Callable[[int], None]
    omitted: Callable[[], frozenset[str]]
    require_leading: Callable[[], None]
    gate: Gate
    spool_threads: Limiter
    spool_dir: str | None
    _newest: dict[str, Payload] = field(default_factory=dict, init=False)

    def same(self, format_: str, payload: Payload) -> Payload:
        """The payload as an object that exporters share whose payloads of the format are equal."""
        newest = self._newest.get(format_)
        if newest == payload:
            return newest
        self._newest[format_] = payload
        return payload

    def clock_s(self) -> float:
        """Seconds that also pass while the machine is suspended, from any start."""
        return anyio.current_time() + self.suspended_s()


def suspended_s() -> float:
    """Seconds this machine has spent suspended since it booted."""
    return boot_time_s() - time.clock_gettime(time.CLOCK_MONOTONIC)


class SourceWatch:
    """Waits until the source gives snapshots, for all exporters of a manager.

    Attributes:
        installation_id: Of the snapshot when it last became ready; the splay depends on it.
    """

    def __init__(self, source: SnapshotSource, on_ready: Callable[[], None]) -> None:
        for name in ("snapshot", "wait_ready"):
            if not callable(getattr(source, name, None)):
                raise TypeError(
                    f"{type(source).__name__} is no snapshot source: it has no {name}()"
                )
        self.ready = False
        self.installation_id = ""
        self._source = source
        self._on_ready = on_ready
        self._lost: anyio.Event | None = None
        self._problem = ""

    def lost(self) -> None:
        """The source is not ready any more, or may be another: wait for it again."""
        self.ready = False
        if self._lost is not None:
            self._lost.set()

    async def run(self) -> None:
        """Wait whenever the source isn't ready; returns only when cancelled."""
        while True:
            self._lost = anyio.Event()
            try:
                await self._source.wait_ready()
                self.installation_id = self._source.snapshot().identity.install_uuid
            except Exception as exc:
                if not isinstance(exc, NotReady):
                    if not self._problem:
                        log.warning("snapshot source failed error=%r", exc, exc_info=exc)
                    self._problem = f"the snapshot source, which fails: {error_text(exc)}"
                await anyio.sleep(_RETRY_S)
                continue
            self._problem = ""
            self.ready = True
            self._on_ready()
            await self._lost.wait()

    def missing(self) -> str:
        """What the exporters wait for, empty where the source is ready."""
        try:
            self._source.snapshot()
        except NotReady as exc:
            return ", ".join(exc.waiting_for) or "a snapshot"
        except Exception as exc:  # noqa: BLE001 - a status is given whatever the source does
            return f"a snapshot, which fails with {type(exc).__name__}"
        if self.ready:
            return ""
        return self._problem or "wait_ready() of the snapshot source"
