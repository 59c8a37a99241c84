"""The Secrets that requests name: an exporter writes each, and those given up are cleaned up.

Which request gets an exporter is decided elsewhere. Schedules, retries and states are the
exporter manager's.
"""

import logging
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from random import Random
from typing import TypeAlias

import anyio
import msgspec

from telemetryd.config import SecretRequestsConfig
from telemetryd.control.secretrequest.cluster import (
    CLEANUP_COST,
    REQUEST_TIMEOUT_S,
    RequestBudget,
)
from telemetryd.control.secretrequest.decision import SecretRef, Served
from telemetryd.control.secretrequest.status import RequestLog
from telemetryd.errors import (
    ConflictError,
    Forbidden,
    Invalid,
    KubeError,
    ManagerError,
    NotFound,
    PermanentError,
    Reason,
)
from telemetryd.export.engine.manager import ExporterManager
from telemetryd.export.exporter import ExportContext, Exporter, ExporterSpec, Outcome
from telemetryd.export.sinks.secret import SecretExporter
from telemetryd.kube import objects
from telemetryd.kube.objects import FIELD_MANAGER, StoredMeta
from telemetryd.kube.responses import explain_denial
from telemetryd.model import Payload, RequestState
from telemetryd.timing import Retry

PREFIX = "secretrequest/"
"""Starts the names of these exporters; no exporter of the configuration may have it."""

RETRY_BASE_S = 1.0
RETRY_CAP_S = 300.0

BuildExporter: TypeAlias = Callable[
    [str, SecretRef, SecretRequestsConfig], tuple[ExporterSpec, Exporter]
]
"""From an exporter's name, its Secret and the settings to what the manager registers."""

_NOT_ITS_FAULT = frozenset({Reason.AUTH, Reason.INTERNAL})
"""Permanent failures that say nothing about the request or its target."""


class RequestExporter:
    """A request's exporter, which keeps what is known of its exports.

    A failure that the next attempt may fix is no news, and changes nothing here.

    Attributes:
        target: The Secret.
        settings: With which it was built.
        ending: It was asked to end, and may have ended: don't rely on it.
        result: Of the last conclusive run.
        last_write_at: Unix time in seconds of the Secret's last write, None before the first run.
        left_to: Why the request is left to another controller, empty if it isn't.
    """

    def __init__(
        self,
        sink: Exporter,
        target: SecretRef,
        settings: SecretRequestsConfig,
        *,
        now: Callable[[], float],
        on_change: Callable[[], None],
    ) -> None:
        """Around a sink, which is closed with it."""
        self.target = target
        self.settings = settings
        self.ending = False
        self.result = Served(well=None)
        self.last_write_at: float | None = None
        self.left_to = ""
        self._sink = sink
        self._now = now
        self._on_change = on_change

    @property
    def state(self) -> RequestState:
        """The state to show of the request."""
        if self.result.reason == Reason.FIELD_CONFLICT:
            return RequestState.CONFLICT
        return RequestState.FAILING if self.result.reason else RequestState.SERVED

    @property
    def verdict(self) -> Served | None:
        """What the request's status must say; None in a conflict, when it isn't written."""
        return None if self.state is RequestState.CONFLICT else self.result

    def fits(self, target: SecretRef, settings: SecretRequestsConfig) -> bool:
        """Whether a new one would differ in nothing but its interval."""
        sink = (self.settings.takeover, self.settings.quiet_period_s)
        wanted = (settings.takeover, settings.quiet_period_s)
        return not self.ending and self.target == target and sink == wanted

    def leave_to(self, why: str) -> None:
        """Leave the request to another controller, or no longer, as the next run then shows."""
        if why:
            self.result = Served(None, str(Reason.FIELD_CONFLICT), why)
        self.left_to = why

    async def export(self, payload: Payload, context: ExportContext) -> Outcome:
        """Export through the sink.

        Raises:
            PermanentError: The sink's own, like all other errors.
            ConflictError: The request is left to another controller; no request was made.
        """
        if why := self.left_to:
            raise ConflictError(Reason.FIELD_CONFLICT, why)
        try:
            outcome = await self._sink.export(payload, context)
        except PermanentError as error:
            if error.reason not in _NOT_ITS_FAULT:
                self._note(Served(well=False, reason=str(error.reason), message=str(error)))
            raise
        before, self.last_write_at = self.last_write_at, self._find_write(outcome)
        if self.last_write_at != before:
            self._on_change()
        self._note(Served(well=True))
        return outcome

    async def aclose(self) -> None:
        """Close the sink."""
        await self._sink.aclose()

    def _find_write(self, outcome: Outcome) -> float | None:
        """When the Secret was written, be it before this request was made."""
        said = self._sink.written_at if isinstance(self._sink, SecretExporter) else None
        if said is None and outcome is Outcome.WRITTEN:
            return self._now()
        return self.last_write_at if said is None else said

    def _note(self, result: Served) -> None:
        # A run that began before the request was left to another controller changes nothing.
        if not self.left_to and result != self.result:
            self.result = result
            self._on_change()


class RequestExporters:
    """The exporters of requests, by the name of the request.

    They stay registered when the controller's loop ends.

    Attributes:
        by_request: To be read only.
    """

    def __init__(
        self,
        manager: ExporterManager,
        build: BuildExporter,
        *,
        now: Callable[[], float],
        on_change: Callable[[], None],
    ) -> None:
        """None yet; calls ``on_change`` when a result changes, or which requests have exporters."""
        self._manager = manager
        self._build = build
        self._now = now
        self._on_change = on_change
        self.by_request: dict[str, RequestExporter] = {}

    def holder(self, target: SecretRef, *, but: str) -> str:
        """Another request that has an exporter for the Secret, empty for none."""
        for request, exporter in self.by_request.items():
            if exporter.target == target and request != but:
                return request
        return ""

    def prune(self) -> None:
        """Forget exporters that others have taken out of the manager."""
        for request in list(self.by_request):
            if not self._manager.has(PREFIX + request):
                del self.by_request[request]

    def serve(
        self,
        request: str,
        target: SecretRef,
        settings: SecretRequestsConfig,
        former: RequestExporter | None,
    ) -> RequestExporter:
        """Register an exporter of that Secret for the request, unless it has one.

        Nothing is awaited, so that no one else can claim the Secret between a check and this. What
        ``former``, the exporter it had before, knows of the same Secret is kept.

        Raises:
            ManagerError: The daemon is stopping.
        """
        if held := self.by_request.get(request):
            return held
        spec, sink = self._build(PREFIX + request, target, settings)
        made = RequestExporter(sink, target, settings, now=self._now, on_change=self._on_change)
        if former is not None and former.target == target:
            made.result, made.last_write_at = former.result, former.last_write_at
            made.left_to = former.left_to
        self._manager.register(spec, made)
        self.by_request[request] = made
        self._on_change()
        return made

    async def withdraw(self, request: str) -> None:
        """Unregister the request's exporter, and wait for its end; nothing if it has none.

        Raises:
            ManagerError: It is being unregistered already.
        """
        exporter = self.by_request.get(request)
        if exporter is None:
            return
        exporter.ending = True
        if self._manager.has(PREFIX + request):
            await self._manager.unregister(PREFIX + request)
        self.by_request.pop(request, None)
        self._on_change()

    def in_the_way_of(self, targets: Collection[SecretRef]) -> list[str]:
        """Names of exporters that write one of these Secrets and aren't ending."""
        names = (
            PREFIX + request
            for request, exporter in self.by_request.items()
            if exporter.target in targets and not exporter.ending
        )
        return [name for name in names if self._manager.has(name)]

    def reschedule(self, settings: SecretRequestsConfig) -> None:
        """Change the interval in place; the exporters go on."""
        for request, exporter in self.by_request.items():
            if exporter.ending or exporter.settings.interval_s == settings.interval_s:
                continue
            spec, _ = self._build(PREFIX + request, exporter.target, settings)
            try:
                self._manager.reschedule(spec)
            except ManagerError:
                continue  # others have unregistered it: the next pass prunes it
            exporter.settings = replace(exporter.settings, interval_s=settings.interval_s)


class _FieldOwner(msgspec.Struct, gc=False):
    manager: str | None = None
    operation: str | None = None
    fieldsV1: dict[str, dict[str, msgspec.Raw]] | None = None  # noqa: N815 - as in JSON

    @property
    def is_us_with_payload(self) -> bool:
        applied = (self.manager, self.operation) == (FIELD_MANAGER, "Apply")
        return applied and "f:payload" in (self.fieldsV1 or {}).get("f:data", {})


class _SecretMeta(StoredMeta, gc=False):
    labels: dict[str, msgspec.Raw] | None = None
    annotations: dict[str, msgspec.Raw] | None = None
    owner_references: list[msgspec.Raw] | None = None
    finalizers: list[str] | None = None
    managed_fields: list[_FieldOwner] | None = None


class _TargetSecret(msgspec.Struct, gc=False):
    metadata: _SecretMeta
    data: dict[str, msgspec.Raw] | None = None

    @property
    def is_ours(self) -> bool:
        return any(owner.is_us_with_payload for owner in self.metadata.managed_fields or ())

    @property
    def is_bare(self) -> bool:
        """Nothing that anyone wrote is left in it."""
        meta = self.metadata
        return not (
            self.data
            or meta.labels
            or meta.annotations
            or meta.owner_references
            or meta.finalizers
            or meta.managed_fields
        )


_DECODER = msgspec.json.Decoder(_TargetSecret)


@dataclass(slots=True)
class _Cleanup:
    """A Secret that has to be cleaned up.

    ``uid`` is of the Secret that our fields were removed from, empty before that.
    """

    retry: Retry
    uid: str = ""


class SecretCleanup:
    """Cleans up Secrets that were given up, one after the other, unless they are claimed again.

    Our fields are removed, and the Secret is deleted if nothing of anyone else is left. Only a
    Secret whose payload is ours is touched: if others have written the payload since, it is
    theirs. Finalizers of others keep the Secret, as always. No value of the Secret is read.
    """

    def __init__(self, budget: RequestBudget, lines: RequestLog, *, rng: Random) -> None:
        """None yet; requests need the fence of leadership, and ``rng`` spreads retries."""
        self._budget = budget
        self._lines = lines
        self._rng = rng
        self._pending: dict[SecretRef, _Cleanup] = {}

    def add(self, target: SecretRef) -> None:
        """Clean up this Secret with the next ``run``."""
        self._pending.setdefault(target, _Cleanup(Retry(RETRY_BASE_S, RETRY_CAP_S, self._rng)))

    async def run(self, *, claimed: Callable[[SecretRef], bool]) -> float:
        """Try those that are due.

        Args:
            claimed: Whether a Secret is written again: then it isn't cleaned up.

        Returns:
            When the next is due on the loop's clock, infinity for none.
        """
        for target, pending in list(self._pending.items()):
            if claimed(target):
                del self._pending[target]
            elif pending.retry.due_s <= (now_s := anyio.current_time()):
                if (pause_s := self._budget.wait_s(CLEANUP_COST)) > 0:
                    return now_s + pause_s
                await self._try(target, pending)
        return min((each.retry.due_s for each in self._pending.values()), default=math.inf)

    async def _try(self, target: SecretRef, pending: _Cleanup) -> None:
        try:
            outcome = await self._clean_up(target, pending)
        except NotFound:
            outcome = "gone"
        except Invalid:
            outcome = "kept"  # immutable: our fields can't be removed
        except KubeError as error:
            level = logging.DEBUG if pending.retry.failures else logging.WARNING
            pause_s = pending.retry.failed(anyio.current_time())
            message = "secret not cleaned up secret=%s error=%r retry_in_s=%.1f"
            self._lines.log(level, message, target, _why(target, error), pause_s)
            return
        del self._pending[target]
        self._lines.log(logging.INFO, "secret cleaned up secret=%s outcome=%s", target, outcome)

    async def _clean_up(self, target: SecretRef, pending: _Cleanup) -> str:
        """Try once; whether the Secret is ``deleted``, ``kept`` or ``gone``, for the log.

        Raises:
            KubeError: It isn't possible now; a Conflict if the Secret changed meanwhile.
        """
        path = f"/api/v1/namespaces/{target.namespace}/secrets/{target.secret}"
        found = await objects.get(self._budget, path, _DECODER.decode, timeout_s=REQUEST_TIMEOUT_S)
        if found is None:
            return "gone"
        if found.is_ours:
            names = {"name": target.secret, "namespace": target.namespace}
            answer = await objects.apply(
                self._budget,
                path,
                {"apiVersion": "v1", "kind": "Secret", "metadata": names},
                over=found.metadata,
                timeout_s=REQUEST_TIMEOUT_S,
            )
            pending.uid = found.metadata.uid
            found = objects.parsed(answer, _DECODER.decode, f"PATCH {path}")
        if found.metadata.uid != pending.uid or not found.is_bare:
            return "kept"
        await objects.delete(self._budget, path, found.metadata, timeout_s=REQUEST_TIMEOUT_S)
        return "deleted"


def _why(target: SecretRef, error: KubeError) -> str:
    if isinstance(error, Forbidden):
        grant = (
            f"grant get, patch, delete on secrets with resourceNames [{target.secret}] by a Role"
            f" in {target.namespace}"
        )
        return explain_denial(error, "clean up", grant=grant)
    return str(error)
