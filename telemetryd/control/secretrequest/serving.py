"""The exporters of requests: registered, replaced, taken out, and what they tell of their exports.

Which request is to have one isn't decided here; schedules, retries and states are the manager's.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from telemetryd.config import SecretRequestsConfig
from telemetryd.control.secretrequest.conditions import Served
from telemetryd.control.secretrequest.decision import Target
from telemetryd.errors import ConflictError, ManagerError, PermanentError, Reason
from telemetryd.export.engine.manager import ExporterManager
from telemetryd.export.exporter import ExportContext, Exporter, Outcome
from telemetryd.export.spec import ExporterSpec
from telemetryd.model import Payload, RequestState

PREFIX = "secretrequest/"
"""Begins the names of these exporters; no exporter of the configuration may have it."""

Build: TypeAlias = Callable[[str, Target, SecretRequestsConfig], tuple[ExporterSpec, Exporter]]
"""From an exporter's name, its Secret and the settings to what the manager registers."""

_NOBODYS_FAULT = frozenset({Reason.AUTH, Reason.INTERNAL})
"""Failures for good that say nothing of the request or its target."""


@dataclass(slots=True)
class Report:
    """What is known of a request's exports.

    Attributes:
        well: The last run that tells succeeded; None before the first.
        reason: Why the Secret can't be written, empty where it can.
        message: The same in full, with the fix.
        last_write_at: Unix time in seconds of the Secret's last write.
        left_to: Why the request is left to another controller, empty where it isn't.
    """

    well: bool | None = None
    reason: str = ""
    message: str = ""
    last_write_at: float | None = None
    left_to: str = ""

    @property
    def state(self) -> RequestState:
        """The state to show of the request."""
        if self.reason == Reason.FIELD_CONFLICT:
            return RequestState.CONFLICT
        return RequestState.FAILING if self.reason else RequestState.SERVED

    @property
    def verdict(self) -> Served | None:
        """What the request's status must say; None in a conflict, where it isn't written."""
        if self.state is RequestState.CONFLICT:
            return None
        return Served(self.well, self.reason, self.message)

    def leave_to(self, why: str) -> None:
        """Leave the request to another controller, or no longer, as the next run then shows."""
        if why:
            self.well, self.reason, self.message = None, str(Reason.FIELD_CONFLICT), why
        self.left_to = why


class ReportingExporter:
    """A sink that keeps a report of what another one does.

    What may succeed with the next attempt is no news: it leaves the report as it is.
    """

    def __init__(
        self,
        sink: Exporter,
        report: Report,
        *,
        now: Callable[[], float],
        on_change: Callable[[], None],
    ) -> None:
        """Around that sink, which is closed with this one."""
        self._sink = sink
        self._report = report
        self._now = now
        self._on_change = on_change

    async def export(self, payload: Payload, context: ExportContext) -> Outcome:
        """As the sink does it.

        Raises:
            PermanentError: The sink's own, as are all others.
            ConflictError: The request is left to another controller; nothing was asked.
        """
        if why := self._report.left_to:
            raise ConflictError(Reason.FIELD_CONFLICT, why)
        try:
            outcome = await self._sink.export(payload, context)
        except PermanentError as error:
            if error.reason not in _NOBODYS_FAULT:
                self._note(well=False, reason=str(error.reason), message=str(error))
            raise
        if outcome is Outcome.WRITTEN:
            self._report.last_write_at = self._now()
            self._on_change()
        self._note(well=True)
        return outcome

    async def aclose(self) -> None:
        """Close the sink."""
        await self._sink.aclose()

    def _note(self, *, well: bool, reason: str = "", message: str = "") -> None:
        report = self._report
        if report.left_to:
            return  # of a run that began before
        if (report.well, report.reason, report.message) == (well, reason, message):
            return
        report.well, report.reason, report.message = well, reason, message
        self._on_change()


@dataclass(slots=True)
class Serving:
    """A request's exporter.

    Attributes:
        settings: With which it was built.
        ending: It was told to end, which somebody may have interrupted: it can't be relied on.
    """

    target: Target
    settings: SecretRequestsConfig
    report: Report = field(default_factory=Report)
    ending: bool = False

    def fits(self, target: Target, settings: SecretRequestsConfig) -> bool:
        """Whether one built anew would be no other but for its interval."""
        sink = (self.settings.takeover, self.settings.quiet_period_s)
        wanted = (settings.takeover, settings.quiet_period_s)
        return not self.ending and self.target == target and sink == wanted


class Servings:
    """Which requests have an exporter; by the name of the request.

    They stay registered whatever becomes of the controller's loop.
    """

    def __init__(
        self,
        manager: ExporterManager,
        build: Build,
        *,
        now: Callable[[], float],
        on_change: Callable[[], None],
    ) -> None:
        """None yet.

        Args:
            manager: Where exporters are registered.
            build: Makes one, without side effects.
            now: Unix time in seconds.
            on_change: Called whenever a report changes, or who is served.
        """
        self._manager = manager
        self._build = build
        self._now = now
        self._on_change = on_change
        self._by_request: dict[str, Serving] = {}

    def __len__(self) -> int:
        return len(self._by_request)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._by_request))

    def get(self, request: str) -> Serving | None:
        """The request's exporter, None where it has none."""
        return self._by_request.get(request)

    def holder(self, target: Target, *, but: str) -> str:
        """Another request that has an exporter for the Secret, empty for none."""
        for request, serving in self._by_request.items():
            if serving.target == target and request != but:
                return request
        return ""

    def __contains__(self, target: Target) -> bool:
        """Whether any request has an exporter for the Secret."""
        return any(serving.target == target for serving in self._by_request.values())

    def prune(self) -> None:
        """Forget exporters that others have taken out of the manager."""
        for request in self:
            if not self._manager.has(PREFIX + request):
                del self._by_request[request]

    def serve(
        self,
        request: str,
        target: Target,
        settings: SecretRequestsConfig,
        former: Serving | None,
    ) -> Serving:
        """Let the request have an exporter for that Secret; nothing where it has one.

        Nothing is awaited, so that nobody else can claim the Secret between a look and this.

        Args:
            request: The request's name.
            target: The Secret.
            settings: The exporter's.
            former: The one it had before, whose report goes on where the Secret is the same.

        Raises:
            ManagerError: The daemon is stopping.
        """
        if held := self._by_request.get(request):
            return held
        serving = Serving(target, settings)
        if former is not None and former.target == target:
            serving.report = former.report
        name = PREFIX + request
        spec, sink = self._build(name, target, settings)
        reporting = ReportingExporter(
            sink, serving.report, now=self._now, on_change=self._on_change
        )
        self._manager.register(spec, reporting)
        self._by_request[request] = serving
        self._on_change()
        return serving

    async def withdraw(self, request: str) -> None:
        """Take the request's exporter out, once it has ended; nothing where it has none.

        Raises:
            ManagerError: It is being taken out already.
        """
        serving = self._by_request.get(request)
        if serving is None:
            return
        serving.ending = True
        if self._manager.has(PREFIX + request):
            await self._manager.unregister(PREFIX + request)
        self._by_request.pop(request, None)
        self._on_change()

    def in_the_way_of(self, targets: Collection[Target]) -> list[str]:
        """Names of exporters that keep one of these Secrets and aren't ending anyway."""
        names = (
            PREFIX + request
            for request, serving in self._by_request.items()
            if serving.target in targets and not serving.ending
        )
        return [name for name in names if self._manager.has(name)]

    def reschedule(self, settings: SecretRequestsConfig) -> None:
        """Go over to another interval in place; all else of the exporters goes on."""
        for request, serving in self._by_request.items():
            if serving.ending or serving.settings.interval_s == settings.interval_s:
                continue
            spec, _ = self._build(PREFIX + request, serving.target, settings)
            try:
                self._manager.reschedule(spec)
            except ManagerError:
                continue  # others have taken it out: it is pruned with the next look
            serving.settings = replace(serving.settings, interval_s=settings.interval_s)
