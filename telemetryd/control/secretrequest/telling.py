"""When the status of a SecretRequest is written: on news, not too often, and again after failures.

What it says is ``conditions``'s; how it is written is ``status``'s.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

import anyio

from telemetryd.config import SecretRequestsConfig
from telemetryd.control.secretrequest.conditions import Served, Verdict, settle
from telemetryd.control.secretrequest.crowdlog import CrowdLog
from telemetryd.control.secretrequest.decision import Target
from telemetryd.control.secretrequest.status import StatusWriter
from telemetryd.errors import Forbidden, KubeError
from telemetryd.kube.responses import explain_denial
from telemetryd.model import RequestState, SecretRequestRecord
from telemetryd.timing import backoff_s

RETRY_BASE_S = 1.0
RETRY_CAP_S = 60.0
REASSERT_S = 60.0
"""A status that differs, though telemetryd wrote it last, is written again after this time at the
earliest: a second telemetryd may judge it otherwise."""


@dataclass(slots=True)
class Said:
    """What the status of one request was last made to say.

    Attributes:
        verdict: What was last written without error; of a failed export without its words, which
            may differ with every attempt.
        at_s: When, on the loop's clock.
        write_at: The last write of the Secret that the status tells of, in Unix time.
        failures: Writes of the status that failed in a row.
        retry_at_s: When the next may be made.
    """

    verdict: Verdict | None = None
    at_s: float = -math.inf
    write_at: float | None = None
    failures: int = 0
    retry_at_s: float = -math.inf


@dataclass(slots=True)
class Known:
    """What is remembered of one request.

    Attributes:
        lines: Where another state is logged.
        target: The last Secret that was, or was to be, written for it.
        said: What its status said last.
        seen: What it was last judged by, and when another look is due, on the loop's clock.
        other: What another controller wrote last into the status, None for nothing.
        other_since_s: When that was first seen, on the loop's clock.
        quiet_at_s: When that will have stayed as it is for the quiet period, on the loop's clock.
        left_to: Why the request is left to that controller now, empty where it isn't.
    """

    uid: str
    lines: CrowdLog
    state: RequestState = RequestState.UNDECIDED
    detail: str = ""
    asked_for: str = ""
    target: Target | None = None
    said: Said = field(default_factory=Said)
    seen: tuple[object, object, float] = (None, None, -math.inf)
    other: object = None
    other_since_s: float = -math.inf
    quiet_at_s: float = -math.inf
    left_to: str = ""

    def rests(self, record: object, projects: object) -> bool:
        """Whether another look would find what the last one found."""
        seen, among, due_s = self.seen
        return seen is record and among == projects and anyio.current_time() < due_s

    def look_for_others(self, record: SecretRequestRecord, settings: SecretRequestsConfig) -> float:
        """Note who else writes the status, and whether the request is left to that controller.

        Returns:
            When that ends, on the loop's clock; infinity where it isn't left to another.
        """
        other = (record.other, record.conditions) if record.other is not None else None
        if other != self.other:
            self.other = other
            self.other_since_s = -math.inf if other is None else anyio.current_time()
        self.quiet_at_s = self.other_since_s + settings.quiet_period_s
        self.left_to = ""
        if record.other is None or settings.takeover or self.quiet_at_s <= anyio.current_time():
            return math.inf
        self.left_to = (
            f"{record.other.manager} writes the status of this SecretRequest: neither it nor its"
            f" Secret is written until the status hasn't changed for {settings.quiet_period_s:g} s;"
            " stop that controller, or set takeover = true in [secret_requests]"
        )
        return self.quiet_at_s

    def note(self, name: str, state: RequestState, detail: str) -> None:
        """Remember its state, and log another one."""
        if state is not self.state or (not self.detail and detail):
            level = logging.INFO if state in _QUIET else logging.WARNING
            message = "secret request state=%s name=%s target=%s why=%r"
            self.lines.log(level, message, state, name, self.asked_for, detail)
        self.state, self.detail = state, detail


_QUIET = frozenset({RequestState.SERVED, RequestState.LEAVING, RequestState.WAITING})


class Teller:
    """Writes statuses where they differ from what they should say."""

    def __init__(
        self, writer: StatusWriter, lines: CrowdLog, *, now: Callable[[], float], rng: Random
    ) -> None:
        """Nothing is written before ``tell``.

        Args:
            writer: Makes the writes.
            lines: For failures.
            now: Unix time in seconds.
            rng: Spreads retries.
        """
        self._writer = writer
        self._lines = lines
        self._now = now
        self._rng = rng

    async def tell(
        self,
        said: Said,
        name: str,
        record: SecretRequestRecord,
        verdict: Verdict,
        *,
        written_at: float | None,
        quiet_at_s: float,
        wait_s: Callable[[], float],
    ) -> float:
        """Write the status where it differs, unless the last failure is too recent.

        What another controller wrote last is left to it until telemetryd keeps the Secret: its
        writes would be answered by that controller's, and those by its own.

        Args:
            said: What it was last made to say; changed here.
            name: Of the request.
            record: The request as it is held, with the conditions it has.
            verdict: What its conditions are to say.
            written_at: Unix time in seconds of the last write of its Secret; None before it.
            quiet_at_s: When another controller's status will have been quiet for long enough.
            wait_s: Seconds until it may be written, for the sake of the API server.

        Returns:
            When to come back, on the loop's clock; infinity where nothing is left to be written.
        """
        news = written_at if written_at != said.write_at else None
        held = {condition.type: condition for condition in record.conditions}
        if news is None and settle(held, verdict, now_s=self._now()) == held:
            return math.inf
        now_s = anyio.current_time()
        earliest_s = _earliest_s(said, record, verdict, news=news, quiet_at_s=quiet_at_s)
        if now_s < earliest_s:
            return earliest_s
        if (pause_s := wait_s()) > 0:
            return now_s + pause_s
        try:
            said_so = await self._writer.write(
                name, record.uid, verdict, synced_at=news, other=record.other
            )
        except KubeError as error:
            return self._later(name, said, error)
        if not said_so:
            return anyio.current_time() + REASSERT_S  # the informer tells of it before that
        said.failures = 0
        said.verdict, said.at_s = _topic(verdict), anyio.current_time()
        if news is not None:
            said.write_at = news
        return math.inf

    def _later(self, name: str, said: Said, error: KubeError) -> float:
        pause_s = backoff_s(said.failures, base_s=RETRY_BASE_S, cap_s=RETRY_CAP_S, rng=self._rng)
        said.retry_at_s = anyio.current_time() + pause_s
        why = str(error)
        if isinstance(error, Forbidden):
            grant = (
                "grant get on secretrequests and patch on secretrequests/status of"
                " telemetry.cattle.io by a ClusterRole"
            )
            why = explain_denial(error, "write its status", grant=grant)
        self._lines.log(
            logging.DEBUG if said.failures else logging.WARNING,
            "secret request status not written name=%s error=%r retry_in_s=%.1f",
            name,
            why,
            pause_s,
        )
        said.failures += 1
        return said.retry_at_s


def _earliest_s(
    said: Said,
    record: SecretRequestRecord,
    verdict: Verdict,
    *,
    news: float | None,
    quiet_at_s: float,
) -> float:
    """When the status may be written, as far as others write it too; infinity for never."""
    earliest_s = said.retry_at_s
    if record.other is not None:
        if not (isinstance(verdict, Served) and verdict.well and not verdict.reason):
            return math.inf
        if news is None:
            earliest_s = max(earliest_s, quiet_at_s)
    if news is None and said.verdict == _topic(verdict):
        earliest_s = max(earliest_s, said.at_s + REASSERT_S)
    return earliest_s


def _topic(verdict: Verdict) -> Verdict:
    return replace(verdict, message="") if isinstance(verdict, Served) else verdict
