"""The loop of the SecretRequest controller: looks at all requests and makes true what is decided.

It is level-triggered: each pass begins with what is held, so that nothing hangs on the order of
events. What is decided, written and registered is its neighbours' affair.
"""

import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import assert_never

import anyio

from telemetryd.config import SecretRequestsConfig
from telemetryd.control.secretrequest.conditions import (
    Invalid,
    NotYet,
    SeenFirst,
    Served,
    Verdict,
)
from telemetryd.control.secretrequest.decision import (
    Accepted,
    Decision,
    Leaving,
    Rejected,
    SystemProjects,
    Target,
    Undecided,
    Waiting,
    decide,
    target_of,
)
from telemetryd.control.secretrequest.namespaces import RECHECK_S, SERVED_FACTOR, Namespaces
from telemetryd.control.secretrequest.projects import SystemProjectWatch
from telemetryd.control.secretrequest.releases import Releases
from telemetryd.control.secretrequest.serving import Build, Servings
from telemetryd.control.secretrequest.status import StatusWriter
from telemetryd.control.secretrequest.telling import Teller, Told
from telemetryd.errors import ManagerError, NotLeading
from telemetryd.export.engine.manager import ExporterManager
from telemetryd.informer.resource import Reader
from telemetryd.kube.requests import Requests
from telemetryd.model import (
    ProjectRecord,
    RequestState,
    RequestStatus,
    SecretRequestRecord,
    Unreadable,
)

log = logging.getLogger(__name__)

CRASH_PAUSE_S = 30.0


@dataclass(slots=True)
class _Known:
    """What is remembered of one request.

    Attributes:
        target: The last Secret that was, or was to be, written for it.
        told: What its status was last made to say.
    """

    uid: str
    state: RequestState = RequestState.UNDECIDED
    detail: str = ""
    asked_for: str = ""
    target: Target | None = None
    told: Told = field(default_factory=Told)


class SecretRequestController:
    """Serves SecretRequests through an exporter manager.

    Exporters that it has registered stay registered when ``run`` is cancelled, and are put right
    once it runs again and the informer it is given then has synced.
    """

    def __init__(
        self,
        client: Requests,
        manager: ExporterManager,
        build: Build,
        *,
        settings: SecretRequestsConfig,
        configured: Mapping[Target, str],
        now: Callable[[], float],
        rng: Random,
    ) -> None:
        """Nothing runs before ``run``.

        Args:
            client: The API server; stays the caller's.
            manager: Where exporters are registered.
            build: Makes an exporter without side effects.
            settings: In force until ``configure``.
            configured: The Secrets of the exporters that are configured, and those exporters.
            now: Unix time in seconds.
            rng: Spreads retries and looks.
        """
        self._settings = settings
        self._configured = configured
        self._rung = anyio.Event()
        self._due_s = math.inf
        self._servings = Servings(manager, build, now=now, on_change=self._ring)
        self._namespaces = Namespaces(client, rng=rng)
        self._releases = Releases(client, rng=rng)
        self._teller = Teller(StatusWriter(client, now=now), now=now, rng=rng)
        self._known: dict[str, _Known] = {}

    async def run(
        self, requests: Reader[SecretRequestRecord], projects: Reader[ProjectRecord]
    ) -> None:
        """Serve what these hold; returns only when cancelled.

        Args:
            requests: Nothing is done before it has synced.
            projects: Of all clusters.
        """
        system = SystemProjectWatch(projects, self._ring)
        stop_listening = requests.on_change(self._ring)
        try:
            while True:
                self._rung = anyio.Event()
                self._due_s = math.inf
                if requests.synced:
                    await self._pass_safely(requests, system)
                with anyio.move_on_at(self._due_s):
                    await self._rung.wait()
        finally:
            stop_listening()
            system.close()

    def configure(
        self, settings: SecretRequestsConfig, configured: Mapping[Target, str]
    ) -> Collection[str]:
        """Put other settings in force, at once for all that is decided from now on.

        Args:
            settings: As of the constructor.
            configured: Likewise.

        Returns:
            The exporters of requests that must end before those configured begin.
        """
        self._settings = settings
        self._configured = configured
        self._servings.reschedule(settings)
        self._ring()
        return self._servings.in_the_way_of(configured.keys())

    async def withdraw(self) -> None:
        """Take out all exporters, as requests are no longer served; Secrets and statuses stay."""
        self._servings.prune()
        for request in self._servings:
            await self._withdraw(request)
        self._known.clear()

    def statuses(self) -> Iterator[RequestStatus]:
        """What is known of each request, by name."""
        for name in sorted(self._known):
            known = self._known[name]
            serving = self._servings.get(name)
            written_at = serving.report.last_write_at if serving else known.told.write_at
            yield RequestStatus(name, known.asked_for, known.state, known.detail, written_at)

    def _ring(self) -> None:
        self._rung.set()

    def _wake_at(self, time_s: float) -> None:
        self._due_s = min(self._due_s, time_s)

    async def _pass_safely(
        self, requests: Reader[SecretRequestRecord], system: SystemProjectWatch
    ) -> None:
        try:
            await self._pass(requests, system)
        except NotLeading:
            # This ends with our term, in moments; should it not, another pass looks again.
            self._wake_at(anyio.current_time() + CRASH_PAUSE_S)
        except Exception:
            # A fault of ours: the daemon's other parts don't deserve it, and the next pass begins
            # with what is held, whatever this one has left half done.
            log.exception("secret requests failed retry_in_s=%.0f", CRASH_PAUSE_S)
            self._wake_at(anyio.current_time() + CRASH_PAUSE_S)

    async def _pass(
        self, requests: Reader[SecretRequestRecord], system: SystemProjectWatch
    ) -> None:
        self._servings.prune()
        held = {name: requests.get(name) for name in requests.keys()}  # noqa: SIM118 - no mapping
        for name, known in list(self._known.items()):
            record = held.get(name)
            if record is None or record.uid != known.uid:
                await self._forget(name, known)
        projects = system.found()
        for name in sorted(held, key=lambda name: self._precedence(name, held[name])):
            record = held[name]
            if record is not None:
                await self._see_to(name, record, projects)
        self._namespaces.keep(
            {
                record.namespace
                for record in held.values()
                if isinstance(record, SecretRequestRecord)
            }
        )
        self._wake_at(await self._releases.run(claimed=self._is_claimed))

    def _precedence(
        self, name: str, record: SecretRequestRecord | Unreadable | None
    ) -> tuple[bool, str, str]:
        """Who has a Secret keeps it; else the oldest request comes first."""
        created_at = record.created_at if isinstance(record, SecretRequestRecord) else ""
        return self._servings.get(name) is None, created_at, name

    async def _see_to(
        self, name: str, record: SecretRequestRecord | Unreadable, system: SystemProjects
    ) -> None:
        known = self._known.setdefault(name, _Known(record.uid))
        if isinstance(record, Unreadable):
            await self._withdraw(name)
            self._note(name, known, RequestState.REJECTED, f"it can't be read: {record.reason}")
            return
        known.asked_for = f"{record.namespace}/{record.secret}" if record.has_target else ""
        first = not any(condition.type == "Progressing" for condition in record.conditions)
        if first and known.told.verdict is None and not record.deleting:
            await self._tell(name, known, record, SeenFirst())
        decision = await self._decide(name, record, system)
        verdict = await self._act(name, known, record, decision)
        if verdict is not None:
            await self._tell(name, known, record, verdict)

    async def _decide(
        self, name: str, record: SecretRequestRecord, system: SystemProjects
    ) -> Decision:
        target = target_of(record)
        if record.deleting:
            return Leaving()
        if isinstance(target, Rejected):
            return target
        pace_s = min(RECHECK_S, self._settings.interval_s)
        served = self._servings.get(name) is not None
        namespace = await self._namespaces.look(
            target.namespace, recheck_s=pace_s * (SERVED_FACTOR if served else 1)
        )
        self._wake_at(self._namespaces.due_s(target.namespace))
        return decide(
            record, namespace=namespace, projects=system, holder=self._holder(name, target)
        )

    def _holder(self, name: str, target: Target) -> str:
        if configured := self._configured.get(target):
            return f"the configured exporter {configured}"
        other = self._servings.holder(target, but=name)
        return f"SecretRequest {other}" if other else ""

    def _is_claimed(self, target: Target) -> bool:
        return target in self._configured or self._servings.holds(target)

    async def _act(
        self, name: str, known: _Known, record: SecretRequestRecord, decision: Decision
    ) -> Verdict | None:
        """Make the exporter set fit; what is to be told of it, None for nothing."""
        target = target_of(record)
        match decision:
            case Leaving():
                if known.state is RequestState.UNDECIDED and isinstance(target, Target):
                    # Met like this after a start: what it was served before isn't known.
                    known.target = known.target or target
                await self._withdraw(name)
                self._note(name, known, RequestState.LEAVING, "it is being deleted")
                return None
            case Undecided(why):
                self._note(name, known, RequestState.UNDECIDED, why)
                return None
            case Rejected(message):
                await self._withdraw(name)
                if isinstance(target, Target) and target != known.target:
                    self._give_up(known)
                self._note(name, known, RequestState.REJECTED, message)
                return Invalid(message)
            case Waiting(message):
                serving = self._servings.get(name)
                if serving is not None and serving.target != target:
                    await self._withdraw(name)
                self._note(name, known, RequestState.WAITING, message)
                return NotYet(message)
            case Accepted():
                return await self._serve(name, known, decision.target)
            case _:
                assert_never(decision)

    async def _serve(self, name: str, known: _Known, target: Target) -> Verdict | None:
        if known.target != target:
            self._give_up(known)
        former = self._servings.get(name)
        if former is not None and not former.fits(target, self._settings):
            await self._withdraw(name)
            if self._servings.get(name) is not None or self._holder(name, target):
                self._ring()  # claimed while the former exporter came to its end
                return None
        try:
            serving = self._servings.serve(name, target, self._settings, former)
        except ManagerError as error:
            log.debug("secret request not served name=%s error=%r", name, str(error))
            return None
        known.target = target
        report = serving.report
        state = RequestState.FAILING if report.reason else RequestState.SERVED
        self._note(name, known, state, report.message)
        return Served(report.well, report.reason, report.message)

    async def _withdraw(self, name: str) -> None:
        try:
            await self._servings.withdraw(name)
        except ManagerError as error:
            # A reload is taking it out: it is pruned with the next pass.
            log.debug("secret request not withdrawn name=%s error=%r", name, str(error))

    async def _forget(self, name: str, known: _Known) -> None:
        """The request is gone, or another one bears its name."""
        await self._withdraw(name)
        self._give_up(known)
        del self._known[name]
        log.info("secret request gone name=%s", name)

    def _give_up(self, known: _Known) -> None:
        if known.target is not None and self._settings.cleanup == "delete":
            self._releases.add(known.target)
        known.target = None

    async def _tell(
        self, name: str, known: _Known, record: SecretRequestRecord, verdict: Verdict
    ) -> None:
        serving = self._servings.get(name)
        written_at = serving.report.last_write_at if serving is not None else None
        due_s = await self._teller.tell(known.told, name, record, verdict, written_at)
        self._wake_at(due_s)

    def _note(self, name: str, known: _Known, state: RequestState, detail: str) -> None:
        if state is not known.state or (not known.detail and detail):
            level = logging.INFO if state in _QUIET else logging.WARNING
            log.log(
                level,
                "secret request %s name=%s target=%s why=%r",
                state,
                name,
                known.asked_for,
                detail,
            )
        known.state, known.detail = state, detail


_QUIET = frozenset({RequestState.SERVED, RequestState.LEAVING, RequestState.WAITING})
