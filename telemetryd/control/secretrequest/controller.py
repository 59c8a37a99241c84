"""The loop of the SecretRequest controller: looks at all requests and makes true what is decided.

Each pass begins with what is held, so that nothing depends on the order of events.
"""

import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from random import Random
from typing import assert_never

import anyio
from msgspec import structs

from telemetryd.config import SecretRequestsConfig
from telemetryd.control.secretrequest import pace
from telemetryd.control.secretrequest.conditions import (
    Invalid,
    NotYet,
    SeenFirst,
    Verdict,
    tells_of_service,
)
from telemetryd.control.secretrequest.crowdlog import CrowdLog
from telemetryd.control.secretrequest.decision import (
    LAST,
    OPERATOR_REQUEST,
    OPERATOR_TARGET,
    Accepted,
    Decision,
    Leaving,
    NamespaceFact,
    Rejected,
    SystemProjects,
    Target,
    Undecided,
    Waiting,
    asks_for_operator,
    decide,
    rank_of,
    target_of,
)
from telemetryd.control.secretrequest.namespaces import RECHECK_S, SERVED_FACTOR, Namespaces
from telemetryd.control.secretrequest.projects import SystemProjectWatch
from telemetryd.control.secretrequest.releases import Releases
from telemetryd.control.secretrequest.serving import Build, Servings
from telemetryd.control.secretrequest.status import StatusWriter
from telemetryd.control.secretrequest.telling import Known, Teller
from telemetryd.errors import ManagerError, NotLeading
from telemetryd.export.engine.manager import ExporterManager
from telemetryd.informer.store import Reader
from telemetryd.kube.requests import Requests
from telemetryd.model import (
    ProjectRecord,
    RequestState,
    RequestStatus,
    SecretRequestRecord,
    Unreadable,
)

log = logging.getLogger(__name__)


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
        self._pace = pace.Pace(client)
        self._namespaces = Namespaces(self._pace, rng=rng)
        self._lines = CrowdLog()
        self._releases = Releases(self._pace, self._lines, rng=rng)
        self._teller = Teller(StatusWriter(self._pace, now=now), self._lines, now=now, rng=rng)
        self._operator_asks = False
        self._wanted: Collection[Target] = ()
        self._known: dict[str, Known] = {}

    async def run(
        self, requests: Reader[SecretRequestRecord], projects: Reader[ProjectRecord]
    ) -> None:
        """Serve what these hold; returns only when cancelled.

        Args:
            requests: Nothing is done before it has synced.
            projects: Of all clusters.
        """
        system = SystemProjectWatch(projects, self._ring, self._lines)
        stop_listening = requests.on_change(self._ring)
        try:
            while True:
                self._rung = anyio.Event()
                self._due_s = math.inf
                if requests.synced:
                    await self._pass_safely(requests, system)
                    await anyio.sleep(len(requests) * pace.PAUSE_S)
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
            written_at = serving.report.last_write_at if serving else known.said.write_at
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
            self._wake_at(anyio.current_time() + pace.CRASH_PAUSE_S)
        except Exception:
            # A fault of ours. The next pass begins with what is held, whatever this one has left.
            log.exception("secret requests failed retry_in_s=%.0f", pace.CRASH_PAUSE_S)
            self._wake_at(anyio.current_time() + pace.CRASH_PAUSE_S)

    async def _pass(
        self, requests: Reader[SecretRequestRecord], system: SystemProjectWatch
    ) -> None:
        self._servings.prune()
        held = {name: requests.get(name) for name in requests.keys()}  # noqa: SIM118 - no mapping
        for name, known in list(self._known.items()):
            record = held.get(name)
            if record is None or record.uid != known.uid:
                await self._forget(name, known)
        records = [each for each in held.values() if isinstance(each, SecretRequestRecord)]
        self._namespaces.keep({record.namespace for record in records})
        self._wanted = {
            Target(each.namespace, each.secret) for each in records if not each.deleting
        }
        projects = system.found()
        self._operator_asks = asks_for_operator(held.get(OPERATOR_REQUEST))
        until = self._pace.made + pace.PASS_COST
        for place, _, name in sorted(self._rank(name, held[name], projects) for name in held):
            record, seen, due_s = held[name], self._known.get(name), self._due_s
            if place == LAST and seen and seen.rests(record, projects):
                self._wake_at(seen.seen[2])
                continue
            if self._pace.made >= until or (place > 1 and self._pace.wait_s(pace.LOOK_COST)):
                # Those whose turn it is first come first again; all others wait alike.
                self._wake_at(anyio.current_time() + self._pace.wait_s(pace.STATUS_COST))
                break
            if record is not None:
                self._due_s = math.inf
                await self._see_to(name, record, projects)
                self._known[name].seen = (record, projects, self._due_s)
                self._wake_at(due_s)
        self._wake_at(await self._releases.run(claimed=self._is_claimed))
        self._wake_at(self._lines.say_left_out())

    def _rank(
        self, name: str, record: SecretRequestRecord | Unreadable | None, system: SystemProjects
    ) -> tuple[int, str, str]:
        if not isinstance(record, SecretRequestRecord):
            return LAST, "", name
        served, operators = self._servings.get(name) is not None, self._is_operators(name)
        fact = self._namespaces.last(record.namespace)
        return rank_of(fact, system, operators=operators, served=served), record.created_at, name

    def _is_operators(self, name: str) -> bool:
        return self._operator_asks and name == OPERATOR_REQUEST

    def _wait_s(self, name: str, cost: float) -> float:
        """Seconds until the request may cost so many requests to the API server."""
        return self._pace.wait_s(cost, keep=0 if self._is_operators(name) else pace.RESERVE)

    async def _see_to(
        self, name: str, record: SecretRequestRecord | Unreadable, system: SystemProjects
    ) -> None:
        known = self._known.setdefault(name, Known(record.uid, self._lines))
        if isinstance(record, Unreadable):
            await self._withdraw(name)
            known.note(name, RequestState.REJECTED, f"it can't be read: {record.reason}")
            return
        known.asked_for = f"{record.namespace}/{record.secret}" if record.has_target else ""
        self._wake_at(known.look_for_others(record, self._settings))
        first = not any(condition.type == "Progressing" for condition in record.conditions)
        if first and known.said.verdict is None and not record.deleting:
            await self._tell(name, known, record, SeenFirst())
        if record.deleting:
            decision = await self._leave(name, known, record, system)
        else:
            decision = await self._decide(name, record, system)
        verdict = await self._act(name, known, record, decision)
        if verdict is not None:
            await self._tell(name, known, record, verdict)

    async def _decide(
        self, name: str, record: SecretRequestRecord, system: SystemProjects
    ) -> Decision:
        target = target_of(record)
        if isinstance(target, Rejected):
            return target
        namespace = await self._look(name, target.namespace)
        decision = decide(
            record, namespace=namespace, projects=system, holder=self._holder(name, target)
        )
        others = len(self._servings) - (self._servings.get(OPERATOR_REQUEST) is not None)
        new = self._servings.get(name) is None and not self._is_operators(name)
        if isinstance(decision, Accepted) and new and others >= pace.MAX_SERVED:
            return Waiting(pace.TOO_MANY)
        return decision

    async def _leave(
        self, name: str, known: Known, record: SecretRequestRecord, system: SystemProjects
    ) -> Decision:
        """After a start its status tells whether it was served: its author may not write that."""
        target = target_of(record)
        met = known.state is RequestState.UNDECIDED and tells_of_service(record.conditions)
        if not met or isinstance(target, Rejected):
            return Leaving()
        namespace = await self._look(name, target.namespace)
        living = structs.replace(record, deleting=False)
        decision = decide(living, namespace=namespace, projects=system, holder="")
        if isinstance(decision, Accepted):
            known.target = known.target or target
        return decision if isinstance(decision, Undecided) else Leaving()

    async def _look(self, name: str, namespace: str) -> NamespaceFact:
        served = self._servings.get(name) is not None
        fact, due_s = await self._namespaces.look(
            namespace,
            recheck_s=min(RECHECK_S, self._settings.interval_s) * (SERVED_FACTOR if served else 1),
            patient=not served and not self._is_operators(name),
            wait_s=lambda: self._wait_s(name, pace.LOOK_COST),
        )
        self._wake_at(due_s)
        return fact

    def _holder(self, name: str, target: Target) -> str:
        if configured := self._configured.get(target):
            return f"the configured exporter {configured}"
        if self._operator_asks and target == OPERATOR_TARGET:
            return "" if name == OPERATOR_REQUEST else f"SecretRequest {OPERATOR_REQUEST}"
        other = self._servings.holder(target, but=name)
        return f"SecretRequest {other}" if other else ""

    def _is_claimed(self, target: Target) -> bool:
        return any(target in each for each in (self._configured, self._wanted, self._servings))

    async def _act(
        self, name: str, known: Known, record: SecretRequestRecord, decision: Decision
    ) -> Verdict | None:
        """Make the exporter set fit; what is to be told of it, None for nothing."""
        target = target_of(record)
        match decision:
            case Leaving():
                await self._withdraw(name)
                known.note(name, RequestState.LEAVING, "it is being deleted")
                return None
            case Undecided(why):
                known.note(name, RequestState.UNDECIDED, why)
                return None
            case Rejected(message):
                await self._withdraw(name)
                if isinstance(target, Target) and target != known.target:
                    self._give_up(known)
                known.note(name, RequestState.REJECTED, message)
                return Invalid(message)
            case Waiting(message):
                serving = self._servings.get(name)
                if serving is not None and serving.target != target:
                    await self._withdraw(name)
                known.note(name, RequestState.WAITING, message)
                return NotYet(message)
            case Accepted():
                return await self._serve(name, known, decision.target)
            case _:
                assert_never(decision)

    async def _serve(self, name: str, known: Known, target: Target) -> Verdict | None:
        if known.target != target:
            self._give_up(known)
        former = self._servings.get(name)
        new = former is None or former.target != target
        if new and (pause_s := self._wait_s(name, pace.EXPORTER_COST)):
            self._wake_at(anyio.current_time() + pause_s)
            return None
        if self._is_operators(name) and (other := self._servings.holder(target, but=name)):
            await self._withdraw(other)
            if self._servings.holder(target, but=name):
                return None  # a reload is taking it out: the next pass looks again
        if former is not None and not former.fits(target, self._settings):
            await self._withdraw(name)
            if self._servings.get(name) is not None or self._holder(name, target):
                self._ring()  # claimed while the former exporter came to its end
                return None
        try:
            serving = self._servings.serve(name, target, self._settings, former)
            if new:
                self._pace.spend(pace.EXPORTER_COST)
        except ManagerError as error:
            log.debug("secret request not served name=%s error=%r", name, str(error))
            return None
        known.target = target
        serving.report.leave_to(known.left_to)
        known.note(name, serving.report.state, serving.report.message)
        return serving.report.verdict

    async def _withdraw(self, name: str) -> None:
        try:
            await self._servings.withdraw(name)
        except ManagerError as error:
            # A reload is taking it out: it is pruned with the next pass.
            log.debug("secret request not withdrawn name=%s error=%r", name, str(error))

    async def _forget(self, name: str, known: Known) -> None:
        """The request is gone, or another one bears its name."""
        await self._withdraw(name)
        self._give_up(known)
        del self._known[name]
        self._lines.log(logging.INFO, "secret request gone name=%s", name)

    def _give_up(self, known: Known) -> None:
        if known.target is not None and self._settings.cleanup == "delete":
            self._releases.add(known.target)
        known.target = None

    async def _tell(
        self, name: str, known: Known, record: SecretRequestRecord, verdict: Verdict
    ) -> None:
        serving = self._servings.get(name)
        written_at = serving.report.last_write_at if serving is not None else None
        cost = pace.FIRST_STATUS_COST if isinstance(verdict, SeenFirst) else pace.STATUS_COST
        due_s = await self._teller.tell(
            known.said,
            name,
            record,
            verdict,
            written_at=written_at,
            quiet_at_s=known.quiet_at_s,
            wait_s=lambda: self._wait_s(name, cost),
        )
        self._wake_at(due_s)
