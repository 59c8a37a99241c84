"""What is known of each SecretRequest, and when and how its status is written.

A status is written when it has news, not too often, and again after failures. Only what differs is
patched. What the conditions must say comes from ``decision``.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final

import anyio
import msgspec
import orjson

from telemetryd.config import SecretRequestsConfig
from telemetryd.control.secretrequest.decision import (
    Conditions,
    SecretRef,
    Served,
    Verdict,
    render_conditions,
    settle,
)
from telemetryd.errors import Conflict, Forbidden, KubeError, NotFound
from telemetryd.export.payloads.payload import render_rfc3339
from telemetryd.gather.requests import (
    MAX_CONDITIONS,
    SECRET_REQUESTS,
    RequestCondition,
    other_of,
    own_conditions,
)
from telemetryd.kube import objects
from telemetryd.kube.requests import Requests
from telemetryd.kube.responses import explain_denial
from telemetryd.limiter import TokenBucket
from telemetryd.model import RequestState, SecretRequestRecord
from telemetryd.timing import Retry

log = logging.getLogger(__name__)

REQUEST_TIMEOUT_S = 10.0
MAX_TRIES = 5
"""A write that meets a change in between is tried this often before there is a pause."""

RETRY_BASE_S = 1.0
RETRY_CAP_S = 60.0
REASSERT_S = 60.0
"""A status that differs, though telemetryd wrote it last, is written again after this time at the
earliest: a second telemetryd may judge it differently."""

LINES_PER_S: Final = 0.2
LINES_AT_ONCE: Final = 100
"""Log lines about single requests; those of a crowd would fill the disk."""

_QUIET = frozenset({RequestState.SERVED, RequestState.LEAVING, RequestState.WAITING})


class RequestLog:
    """Logs a line for each request while they are few, and only the number of lines of a crowd.

    Anyone who may create and delete requests causes lines in this log.
    """

    def __init__(self) -> None:
        self._lines = TokenBucket(LINES_PER_S, burst=LINES_AT_ONCE)
        self._left_out = 0

    def log(self, level: int, message: str, *values: object) -> None:
        """Log a line about one request, or count it; nothing if the level isn't logged."""
        if not log.isEnabledFor(level):
            return
        if self._lines.wait_s():
            self._left_out += 1
            return
        self._lines.take()
        log.log(level, message, *values)

    def log_left_out(self) -> float:
        """Log how many lines were left out since the last call.

        Returns:
            When to call again, on the loop's clock; infinity if nothing was left out.
        """
        wait_s = self._lines.wait_s()
        if self._left_out and not wait_s:
            left_out, self._left_out = self._left_out, 0
            self.log(
                logging.WARNING,
                "lines about secret requests left out: see ctl status count=%d",
                left_out,
            )
        return anyio.current_time() + wait_s if self._left_out else math.inf


@dataclass(slots=True)
class Tracked:
    """What is remembered of one request.

    Attributes:
        lines: Where a change of state is logged.
        retry: Failed writes of its status, and when the next may start.
        target: The last Secret that was written, or should have been.
        verdict: What its status was last made to say; of a failed export without the message,
            which may differ with every attempt.
        verdict_at_s: When that was written, on the loop's clock.
        write_at: The last write of the Secret that the status shows, in Unix time.
        seen: What was last checked, and when the next check is due, on the loop's clock.
        other: What another controller wrote last into the status, None for nothing.
        other_since_s: When that was first seen, on the loop's clock.
        quiet_at_s: When it will have been unchanged for the quiet period, on the loop's clock.
        left_to: Why the request is left to that controller now, empty if it isn't.
    """

    name: str
    uid: str
    lines: RequestLog
    retry: Retry
    state: RequestState = RequestState.UNDECIDED
    detail: str = ""
    asked_for: str = ""
    target: SecretRef | None = None
    verdict: Verdict | None = None
    verdict_at_s: float = -math.inf
    write_at: float | None = None
    seen: tuple[object, object, float] = (None, None, -math.inf)
    other: object = None
    other_since_s: float = -math.inf
    quiet_at_s: float = -math.inf
    left_to: str = ""

    def is_current(self, record: object, projects: object) -> bool:
        """Whether another check would find what the last one found."""
        seen, among, due_s = self.seen
        return seen is record and among == projects and anyio.current_time() < due_s

    def look_for_others(self, record: SecretRequestRecord, settings: SecretRequestsConfig) -> float:
        """Note who else writes the status, and whether the request is left to that controller.

        Returns:
            When that ends, on the loop's clock; infinity if it isn't left to another.
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

    def note(self, state: RequestState, detail: str) -> None:
        """Remember its state, and log a change."""
        if state is not self.state or (not self.detail and detail):
            level = logging.INFO if state in _QUIET else logging.WARNING
            message = "secret request state=%s name=%s target=%s why=%r"
            self.lines.log(level, message, state, self.name, self.asked_for, detail)
        self.state, self.detail = state, detail

    def earliest_s(
        self, record: SecretRequestRecord, verdict: Verdict, *, news: float | None
    ) -> float:
        """When the status may be written, as far as others write it too; infinity for never.

        The last writer's status is left to it until telemetryd keeps the Secret up to date: two
        controllers would otherwise answer each other's writes.
        """
        earliest_s = self.retry.due_s
        if record.other is not None:
            if not (isinstance(verdict, Served) and verdict.well and not verdict.reason):
                return math.inf
            if news is None:
                earliest_s = max(earliest_s, self.quiet_at_s)
        if news is None and self.verdict == _without_message(verdict):
            earliest_s = max(earliest_s, self.verdict_at_s + REASSERT_S)
        return earliest_s


class _StoredRequestMeta(objects.StoredMeta, gc=False):
    managed_fields: msgspec.Raw = msgspec.Raw()


class _StoredRequest(msgspec.Struct, gc=False):
    metadata: _StoredRequestMeta
    status: msgspec.Raw = msgspec.Raw()


_DECODER = msgspec.json.Decoder(_StoredRequest)


class StatusWriter:
    """Writes statuses through the ``status`` subresource if they differ from what they must say."""

    def __init__(
        self, requests: Requests, lines: RequestLog, *, now: Callable[[], float], rng: Random
    ) -> None:
        """Nothing is requested before ``update``."""
        self._requests = requests
        self._lines = lines
        self._now = now
        self._rng = rng

    def track(self, name: str, uid: str) -> Tracked:
        """A request that nothing is known of yet."""
        return Tracked(name, uid, self._lines, Retry(RETRY_BASE_S, RETRY_CAP_S, self._rng))

    async def update(
        self,
        tracked: Tracked,
        record: SecretRequestRecord,
        verdict: Verdict,
        *,
        written_at: float | None,
        wait_s: Callable[[], float],
    ) -> float:
        """Write the status if it differs, unless the last failure is too recent.

        Args:
            tracked: The request; changed here.
            record: The request as the informer holds it, with its conditions.
            verdict: What its conditions must say.
            written_at: Unix time in seconds of the last write of its Secret; None before it.
            wait_s: Seconds until the API server may be asked.

        Returns:
            When to come back, on the loop's clock; infinity if nothing is left to write.
        """
        news = written_at if written_at != tracked.write_at else None
        held = {condition.type: condition for condition in record.conditions}
        if news is None and settle(held, verdict, now_s=self._now()) == held:
            return math.inf
        now_s = anyio.current_time()
        earliest_s = tracked.earliest_s(record, verdict, news=news)
        if now_s < earliest_s:
            return earliest_s
        if (pause_s := wait_s()) > 0:
            return now_s + pause_s
        try:
            written = await self._write(tracked.name, record, verdict, synced_at=news)
        except KubeError as error:
            return self._fail(tracked, error)
        if not written:
            return anyio.current_time() + REASSERT_S  # the informer has the change before that
        tracked.retry.succeeded()
        tracked.verdict, tracked.verdict_at_s = _without_message(verdict), anyio.current_time()
        if news is not None:
            tracked.write_at = news
        return math.inf

    def _fail(self, tracked: Tracked, error: KubeError) -> float:
        level = logging.DEBUG if tracked.retry.failures else logging.WARNING
        pause_s = tracked.retry.failed(anyio.current_time())
        why = str(error)
        if isinstance(error, Forbidden):
            grant = (
                "grant get on secretrequests and patch on secretrequests/status of"
                " telemetry.cattle.io by a ClusterRole"
            )
            why = explain_denial(error, "write its status", grant=grant)
        message = "secret request status not written name=%s error=%r retry_in_s=%.1f"
        self._lines.log(level, message, tracked.name, why, pause_s)
        return tracked.retry.due_s

    async def _write(
        self, name: str, record: SecretRequestRecord, verdict: Verdict, *, synced_at: float | None
    ) -> bool:
        """Make the status say this; nothing is written if it does.

        Args:
            name: Of the request, a DNS subdomain.
            record: The request: another of the same name is left alone.
            verdict: What the conditions must say.
            synced_at: Unix time in seconds of a new write of the Secret; None for no news.

        Returns:
            Whether it says so now; not if the request is gone, or another controller has written
            the status since.

        Raises:
            Conflict: It changes all the time.
            KubeError: It can't be read or written now.
        """
        path = f"{SECRET_REQUESTS.path}/{name}"
        for attempt in range(1, MAX_TRIES + 1):
            found = await objects.get(
                self._requests, path, _DECODER.decode, timeout_s=REQUEST_TIMEOUT_S
            )
            if found is None or found.metadata.uid != record.uid:
                return False
            if other_of(found.metadata.managed_fields, found.status) != record.other:
                return False
            status = self._render(found, verdict, synced_at)
            if status is None:
                return True
            try:
                await objects.merge_patch(
                    self._requests,
                    f"{path}/status",
                    {"status": status},
                    resource_version=found.metadata.resource_version,
                    timeout_s=REQUEST_TIMEOUT_S,
                )
            except Conflict:
                if attempt == MAX_TRIES:
                    raise
            except NotFound:
                return False
            else:
                return True
        return False

    def _render(
        self, found: _StoredRequest, verdict: Verdict, synced_at: float | None
    ) -> dict[str, Any] | None:
        """The part of the status that must be written, None for nothing."""
        status = _document(found.status)
        listed = status.get("conditions")
        existing = listed if isinstance(listed, list) else []
        held = _held(existing)
        wanted = settle(held, verdict, now_s=self._now())
        changed: dict[str, Any] = {}
        if wanted != held:
            changed["conditions"] = render_conditions(existing, wanted)
        if synced_at is not None and status.get("lastSyncTS") != render_rfc3339(synced_at):
            changed["lastSyncTS"] = render_rfc3339(synced_at)
        return changed or None


def _without_message(verdict: Verdict) -> Verdict:
    return replace(verdict, message="") if isinstance(verdict, Served) else verdict


def _document(raw: msgspec.Raw) -> dict[str, Any]:
    """A status as it is; one that isn't an object, or holds too many, is replaced."""
    text = bytes(raw)
    if text.count(b"{") > MAX_CONDITIONS:
        return {}
    try:
        status = orjson.loads(text) if text else {}
    except orjson.JSONDecodeError:  # nested too deeply
        return {}
    return status if isinstance(status, dict) else {}


def _held(existing: list[Any]) -> Conditions:
    """Our conditions as they are; unreadable ones count as missing, and are written again."""
    readable = []
    for entry in existing:
        try:
            readable.append(msgspec.convert(entry, RequestCondition))
        except msgspec.ValidationError:
            continue
    return {condition.type: condition for condition in own_conditions(readable)}
