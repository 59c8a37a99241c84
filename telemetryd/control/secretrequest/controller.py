"""The loop of the SecretRequest controller: checks all requests and puts decisions into effect.

Each pass starts from what the informers hold, so nothing depends on the order of events.
"""

import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from random import Random
from typing import Final, assert_never

import anyio
from msgspec import structs

from telemetryd.config import SecretRequestsConfig
from telemetryd.control.secretrequest import cluster
from telemetryd.control.secretrequest.decision import (
    LAST,
    OPERATOR_REQUEST,
    OPERATOR_TARGET,
    Accepted,
    Decision,
    Leaving,
    NamespaceFact,
    Rejected,
    SecretRef,
    Seen,
    SystemProjects,
    Undecided,
    Verdict,
    Waiting,
    asks_for_operator,
    decide,
    rank_of,
    says_served,
    target_of,
)
from telemetryd.control.secretrequest.status import RequestLog, StatusWriter, Tracked
from telemetryd.control.secretrequest.targetsecrets import (
    BuildExporter,
    RequestExporters,
    SecretCleanup,
)
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

PAUSE_S: Final = 1 / 3000
"""Between two passes, for each request, so that passes over many don't take all the time."""

CRASH_PAUSE_S: Final = 30.0
"""After a pass that failed because of a bug."""


class SecretRequestController:
    """Serves SecretRequests through an exporter manager.

    Exporters that it has registered stay registered when ``run`` is cancelled, and are updated
    when it runs again and its informer has synced.
    """

    def __init__(
        self,
        client: Requests,
        manager: ExporterManager,
        build: BuildExporter,
        *,
        settings: SecretRequestsConfig,
        configured: Mapping[SecretRef, str],
        now: Callable[[], float],
        rng: Random,
    ) -> None:
        """Nothing runs before ``run``.

        ``client`` is under the fence of leadership; ``configured`` has the Secrets of the
        exporters that are configured, and those exporters.
        """
        self._settings = settings
        self._configured = configured
        self._changed = anyio.Event()
        self._due_s = math.inf
        self._budget = cluster.RequestBudget(client)
        self._lines = RequestLog()
        self._exporters = RequestExporters(manager, build, now=now, on_change=self._wake)
        self._namespaces = cluster.Namespaces(self._budget, rng=rng)
        self._cleanup = SecretCleanup(self._budget, self._lines, rng=rng)
        self._writer = StatusWriter(self._budget, self._lines, now=now, rng=rng)
        self._operator_asks = False
        self._wanted: Collection[SecretRef] = ()
        self._tracked: dict[str, Tracked] = {}

    async def run(
        self, requests: Reader[SecretRequestRecord], projects: Reader[ProjectRecord]
    ) -> None:
        """Serve the requests once they have synced; returns only when cancelled."""
        system = cluster.SystemProjectWatch(projects, self._wake, self._lines)
        stop_listening = requests.on_change(self._wake)
        try:
            while True:
                self._changed = anyio.Event()
                self._due_s = math.inf
                if requests.synced:
                    await self._pass_safely(requests, system)
                    await anyio.sleep(len(requests) * PAUSE_S)
                with anyio.move_on_at(self._due_s):
                    await self._changed.wait()
        finally:
            stop_listening()
            system.close()

    def configure(
        self, settings: SecretRequestsConfig, configured: Mapping[SecretRef, str]
    ) -> Collection[str]:
        """Put other settings in force for all later decisions.

        Returns:
            The exporters of requests that must end before those configured start.
        """
        if (settings, configured) != (self._settings, self._configured):
            self._settings, self._configured = settings, configured
            self._exporters.reschedule(settings)
            self._wake()
        return self._exporters.in_the_way_of(configured.keys())

    async def withdraw(self) -> None:
        """Unregister all exporters, as requests are no longer served; Secrets and statuses stay."""
        self._exporters.prune()
        for request in list(self._exporters.by_request):
            await self._withdraw(request)
        self._tracked.clear()

    def statuses(self) -> Iterator[RequestStatus]:
        """What is known of each request, by name."""
        for name in sorted(self._tracked):
            tracked = self._tracked[name]
            exporter = self._exporters.by_request.get(name)
            written_at = exporter.last_write_at if exporter else tracked.write_at
            yield RequestStatus(name, tracked.asked_for, tracked.state, tracked.detail, written_at)

    def _wake(self) -> None:
        self._changed.set()

    def _wake_at(self, time_s: float) -> None:
        self._due_s = min(self._due_s, time_s)

    async def _pass_safely(
        self, requests: Reader[SecretRequestRecord], system: cluster.SystemProjectWatch
    ) -> None:
        try:
            await self._pass(requests, system)
        except NotLeading:
            # Our term is ending, and this loop with it; if not, another pass checks again.
            self._wake_at(anyio.current_time() + CRASH_PAUSE_S)
        except Exception:
            # A bug. The next pass starts from what is held, whatever this one has left.
            log.exception("secret requests failed retry_in_s=%.0f", CRASH_PAUSE_S)
            self._wake_at(anyio.current_time() + CRASH_PAUSE_S)

    async def _pass(
        self, requests: Reader[SecretRequestRecord], system: cluster.SystemProjectWatch
    ) -> None:
        self._exporters.prune()
        held = {name: requests.get(name) for name in requests.keys()}  # noqa: SIM118 - no mapping
        for name, tracked in list(self._tracked.items()):
            record = held.get(name)
            if record is None or record.uid != tracked.uid:
                await self._forget(tracked)
        records = [each for each in held.values() if isinstance(each, SecretRequestRecord)]
        self._namespaces.keep({record.namespace for record in records})
        self._wanted = {
            SecretRef(each.namespace, each.secret) for each in records if not each.deleting
        }
        projects = system.found()
        self._operator_asks = asks_for_operator(held.get(OPERATOR_REQUEST))
        until = self._budget.made + cluster.PASS_COST
        for rank, _, name in sorted(self._rank(name, held[name], projects) for name in held):
            record, seen, due_s = held[name], self._tracked.get(name), self._due_s
            if rank == LAST and seen and seen.is_current(record, projects):
                self._wake_at(seen.seen[2])
                continue
            if self._budget.made >= until or (rank > 1 and self._budget.wait_s(cluster.LOOK_COST)):
                # The next pass starts with the lowest rank again; all others wait alike.
                self._wake_at(anyio.current_time() + self._budget.wait_s(cluster.STATUS_COST))
                break
            if record is not None:
                self._due_s = math.inf
                await self._reconcile(name, record, projects)
                self._tracked[name].seen = (record, projects, self._due_s)
                self._wake_at(due_s)
        self._wake_at(await self._cleanup.run(claimed=self._is_claimed))
        self._wake_at(self._lines.log_left_out())

    def _rank(
        self, name: str, record: SecretRequestRecord | Unreadable | None, system: SystemProjects
    ) -> tuple[int, str, str]:
        if not isinstance(record, SecretRequestRecord):
            return LAST, "", name
        served, operators = name in self._exporters.by_request, self._is_operators(name)
        fact = self._namespaces.last(record.namespace)
        return rank_of(fact, system, operators=operators, served=served), record.created_at, name

    def _is_operators(self, name: str) -> bool:
        return self._operator_asks and name == OPERATOR_REQUEST

    def _wait_s(self, name: str, cost: float) -> float:
        """Seconds until the request may cost this many requests to the API server."""
        return self._budget.wait_s(cost, keep=0 if self._is_operators(name) else cluster.RESERVE)

    async def _reconcile(
        self, name: str, record: SecretRequestRecord | Unreadable, system: SystemProjects
    ) -> None:
        tracked = self._tracked.get(name)
        if tracked is None:
            tracked = self._tracked[name] = self._writer.track(name, record.uid)
        if isinstance(record, Unreadable):
            await self._withdraw(name)
            tracked.note(RequestState.REJECTED, f"it can't be read: {record.reason}")
            return
        tracked.asked_for = f"{record.namespace}/{record.secret}" if record.has_target else ""
        self._wake_at(tracked.look_for_others(record, self._settings))
        first = not any(condition.type == "Progressing" for condition in record.conditions)
        if first and tracked.verdict is None and not record.deleting:
            await self._update_status(tracked, record, Seen())
        if record.deleting:
            decision = await self._leave(tracked, record, system)
        else:
            decision = await self._decide(name, record, system)
        verdict = await self._act(tracked, record, decision)
        if verdict is not None:
            await self._update_status(tracked, record, verdict)

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
        served = self._exporters.by_request
        others = len(served) - (OPERATOR_REQUEST in served)
        new = name not in served and not self._is_operators(name)
        if isinstance(decision, Accepted) and new and others >= cluster.MAX_SERVED:
            return Waiting(cluster.TOO_MANY)
        return decision

    async def _leave(
        self, tracked: Tracked, record: SecretRequestRecord, system: SystemProjects
    ) -> Decision:
        """After a start the status says whether it was served: its author may not write that."""
        target = target_of(record)
        met = tracked.state is RequestState.UNDECIDED and says_served(record.conditions)
        if not met or isinstance(target, Rejected):
            return Leaving()
        namespace = await self._look(tracked.name, target.namespace)
        living = structs.replace(record, deleting=False)
        decision = decide(living, namespace=namespace, projects=system, holder="")
        if isinstance(decision, Accepted):
            tracked.target = tracked.target or target
        return decision if isinstance(decision, Undecided) else Leaving()

    async def _look(self, name: str, namespace: str) -> NamespaceFact:
        served = name in self._exporters.by_request
        fact, due_s = await self._namespaces.look(
            namespace,
            recheck_s=min(cluster.RECHECK_S, self._settings.interval_s)
            * (cluster.SERVED_FACTOR if served else 1),
            patient=not served and not self._is_operators(name),
            wait_s=lambda: self._wait_s(name, cluster.LOOK_COST),
        )
        self._wake_at(due_s)
        return fact

    def _holder(self, name: str, target: SecretRef) -> str:
        if configured := self._configured.get(target):
            return f"the configured exporter {configured}"
        if self._operator_asks and target == OPERATOR_TARGET:
            return "" if name == OPERATOR_REQUEST else f"SecretRequest {OPERATOR_REQUEST}"
        other = self._exporters.holder(target, but=name)
        return f"SecretRequest {other}" if other else ""

    def _is_claimed(self, target: SecretRef) -> bool:
        claimed = target in self._configured or target in self._wanted
        return claimed or bool(self._exporters.holder(target, but=""))

    async def _act(
        self, tracked: Tracked, record: SecretRequestRecord, decision: Decision
    ) -> Verdict | None:
        """Start or end the exporter; what the status must say, None to leave it."""
        name, target = tracked.name, target_of(record)
        match decision:
            case Leaving():
                await self._withdraw(name)
                tracked.note(RequestState.LEAVING, "it is being deleted")
                return None
            case Undecided(why):
                tracked.note(RequestState.UNDECIDED, why)
                return None
            case Rejected(message):
                await self._withdraw(name)
                if isinstance(target, SecretRef) and target != tracked.target:
                    self._give_up(tracked)
                tracked.note(RequestState.REJECTED, message)
                return decision
            case Waiting(message):
                exporter = self._exporters.by_request.get(name)
                if exporter is not None and exporter.target != target:
                    await self._withdraw(name)
                tracked.note(RequestState.WAITING, message)
                return decision
            case Accepted():
                return await self._serve(tracked, decision.target)
            case _:
                assert_never(decision)

    async def _serve(self, tracked: Tracked, target: SecretRef) -> Verdict | None:
        name, exporters = tracked.name, self._exporters
        former = exporters.by_request.get(name)
        new = former is None or former.target != target
        if new and (pause_s := self._wait_s(name, cluster.EXPORTER_COST)):
            self._wake_at(anyio.current_time() + pause_s)
            return None
        if self._is_operators(name) and (other := exporters.holder(target, but=name)):
            await self._withdraw(other)
            if exporters.holder(target, but=name):
                return None  # a reload is unregistering it: the next pass checks again
        if former is not None and not former.fits(target, self._settings):
            await self._withdraw(name)
            if name in exporters.by_request or self._holder(name, target):
                self._wake()  # claimed while the former exporter was ending
                return None
        if tracked.target != target:
            self._give_up(tracked)  # not before: what an exporter holds isn't cleaned up
        try:
            exporter = exporters.serve(name, target, self._settings, former)
        except ManagerError as error:
            log.debug("secret request not served name=%s error=%r", name, str(error))
            return None
        if new:
            self._budget.spend(cluster.EXPORTER_COST)
        tracked.target = target
        exporter.leave_to(tracked.left_to)
        tracked.note(exporter.state, exporter.result.message)
        return exporter.verdict

    async def _withdraw(self, name: str) -> None:
        try:
            await self._exporters.withdraw(name)
        except ManagerError as error:
            # A reload is unregistering it: the next pass prunes it.
            log.debug("secret request not withdrawn name=%s error=%r", name, str(error))

    async def _forget(self, tracked: Tracked) -> None:
        """The request is gone, or another one has its name."""
        await self._withdraw(tracked.name)
        self._give_up(tracked)
        del self._tracked[tracked.name]
        self._lines.log(logging.INFO, "secret request gone name=%s", tracked.name)

    def _give_up(self, tracked: Tracked) -> None:
        if tracked.target is not None and self._settings.cleanup == "delete":
            self._cleanup.add(tracked.target)
        tracked.target = None

    async def _update_status(
        self, tracked: Tracked, record: SecretRequestRecord, verdict: Verdict
    ) -> None:
        exporter = self._exporters.by_request.get(tracked.name)
        cost = cluster.FIRST_STATUS_COST if isinstance(verdict, Seen) else cluster.STATUS_COST
        due_s = await self._writer.update(
            tracked,
            record,
            verdict,
            written_at=exporter.last_write_at if exporter is not None else None,
            wait_s=lambda: self._wait_s(tracked.name, cost),
        )
        self._wake_at(due_s)
