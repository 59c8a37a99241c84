"""The whole examination: which checks there are, in which order, and the report.

Nothing here changes the cluster, and every check has a deadline.
"""

import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, TypeVar

import anyio

from telemetryd.config import Config
from telemetryd.daemon.restrictions import Restrictions
from telemetryd.doctor import exporters, local
from telemetryd.doctor.access import Access, Needs, Plan, SecretTarget, needed_access, needs_of
from telemetryd.doctor.checking import (
    CheckResult,
    Grade,
    PlannedCheck,
    fail,
    local_check,
    run_check,
    run_checks,
    warn,
)
from telemetryd.doctor.cluster import (
    check_clock,
    check_connection,
    discover,
    judge_discovery,
    judge_refusal,
)
from telemetryd.doctor.collection import COLLECTION, judge_restrictions, recall_opt_outs
from telemetryd.doctor.consumer import RANCHERS, check_build, check_rancher, check_registrations
from telemetryd.doctor.objects import check_namespace, check_requests, check_secret
from telemetryd.doctor.rights import Account, check_access, render_roles, roles_of
from telemetryd.errors import ConfigError, KubeError, Unauthorized
from telemetryd.gather.consumer import RESOURCE_ID
from telemetryd.kube.client import KubeClient
from telemetryd.stats import KubeStats

T = TypeVar("T")

DEADLINE_S: Final = 10.0
"""Of each check: twice that of a request, so that it outlasts one that gets no answer."""

_CONNECTION = "connection"


@dataclass(frozen=True, slots=True)
class Examination:
    """Everything that was found.

    ``account`` is who asked, where that is a ServiceAccount.
    """

    findings: tuple[CheckResult, ...]
    account: Account | None

    @property
    def failed(self) -> bool:
        """Whether anything is a FAIL."""
        return any(finding.grade is Grade.FAIL for finding in self.findings)

    @property
    def missing(self) -> tuple[Access, ...]:
        """The rights that are missing."""
        return tuple(found.missing for found in self.findings if found.missing is not None)


def render_report(report: Examination) -> Iterator[str]:
    """The lines of a report, the summary last."""
    for finding in report.findings:
        yield str(finding)
    if report.missing:
        yield ""
        yield "The rules to add, for `kubectl apply -f -`:"
        yield from render_roles(report.missing, report.account).splitlines()
        yield ""
    yield _summary(report.findings)


def describe_report(report: Examination) -> dict[str, Any]:
    """The same as a document."""
    return {
        "failed": report.failed,
        "counts": {str(grade): count for grade, count in _count(report.findings).items()},
        "checks": [
            {
                "grade": str(each.grade),
                "check": " ".join(each.what.split()),
                "detail": " ".join(each.detail.split()),
                "fix": each.fix,
            }
            for each in report.findings
        ],
        "roles": roles_of(report.missing, report.account),
    }


def _count(findings: Sequence[CheckResult]) -> dict[Grade, int]:
    return {grade: sum(each.grade is grade for each in findings) for grade in Grade}


def _summary(findings: Sequence[CheckResult]) -> str:
    said = ", ".join(f"{count} {grade}" for grade, count in _count(findings).items())
    return f"{len(findings)} checks: {said}"


async def examine(
    config: Config,
    plan: Plan,
    *,
    now: Callable[[], float],
    deadline_s: float = DEADLINE_S,
    restrictions: Restrictions | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Examination:
    """Look at everything that a daemon with this configuration needs.

    Args:
        config: In force here.
        plan: Made of it.
        now: Unix time in seconds.
        deadline_s: For each check.
        restrictions: Written or remembered here; None for none. Those in the cluster are added.
        environ: Names proxies.
    """
    held = restrictions or Restrictions((), {}, now=now)
    cluster = _Cluster(config, plan, now, deadline_s, held)
    on_this_machine: list[CheckResult] = []
    of_exporters: list[CheckResult] = []

    async def look_around() -> None:
        on_this_machine.extend(await run_checks(_local_checks(config, now), deadline_s=deadline_s))

    async def look_at_exporters() -> None:
        of_exporters.extend(
            await run_checks(
                exporters.exporter_checks(config, environ, now),
                deadline_s=deadline_s,
                at_a_time=exporters.AT_A_TIME,
            )
        )

    async with anyio.create_task_group() as group:
        group.start_soon(look_around)
        group.start_soon(look_at_exporters)
        group.start_soon(cluster.examine)
    collection = (*judge_restrictions(held), *cluster.collection)
    return Examination(
        (*collection, *cluster.findings, *on_this_machine, *of_exporters), cluster.account
    )


def _local_checks(config: Config, now: Callable[[], float]) -> list[PlannedCheck]:
    server = config.server
    tls = server.tls_cert_file is not None
    return [
        local_check("state directory", partial(local.check_state_dir, config.state_dir)),
        local_check("control socket", partial(local.check_control_socket, server.control_socket)),
        local_check("listen address", partial(local.check_listen, server.listen, tls=tls)),
        local_check("server certificate", partial(local.check_certificates, server, now())),
    ]


class _Cluster:
    """The part of the examination that needs the API server.

    Attributes:
        findings: What was found, in order.
        collection: What can't be read of an opt-out.
        account: Who asked, where that is a ServiceAccount.
    """

    def __init__(
        self,
        config: Config,
        plan: Plan,
        now: Callable[[], float],
        deadline_s: float,
        restrictions: Restrictions,
    ) -> None:
        self._config = config
        self._plan = plan
        self._now = now
        self._deadline_s = deadline_s
        self._restrictions = restrictions
        self.collection: list[CheckResult] = []
        self.findings: list[CheckResult] = []
        self.account: Account | None = None

    async def examine(self) -> None:
        """Connect, and look at all there is to see from here."""
        async with AsyncExitStack() as stack:
            client = await self._ask(_CONNECTION, partial(self._connect, stack))
            if client is None or not await self._ask(
                _CONNECTION, partial(check_connection, client)
            ):
                fix = "fix the connection, then ask again"
                self.findings.append(warn("cluster", "nothing else of it could be checked", fix))
                return
            await self._run(PlannedCheck("clock", partial(check_clock, client, self._now)))
            needs = await self._ask("API resources", partial(self._discover, client))
            if needs is not None:
                await self._look_closer(client, needs)

    async def _connect(self, stack: AsyncExitStack) -> tuple[list[CheckResult], KubeClient | None]:
        connecting = KubeClient.connect(self._config.kubernetes, KubeStats(), now=self._now)
        try:
            return [], await stack.enter_async_context(connecting)
        except ConfigError as error:
            return [
                fail(_CONNECTION, f"{problem.where}: {problem.key}".rstrip(": "), problem.message)
                for problem in error.problems
            ], None

    async def _discover(self, client: KubeClient) -> tuple[list[CheckResult], Needs | None]:
        try:
            found = await discover(client)
        except Unauthorized as error:  # anyone may ask for the version
            return [judge_refusal(client.server, error)], None
        needs = needs_of(
            self._plan,
            rancher_served=found.management is not None,
            requests_served="secretrequests" in (found.telemetry or {}),
        )
        return judge_discovery(found, needs), needs

    async def _look_closer(self, client: KubeClient, needs: Needs) -> None:
        recall = partial(
            recall_opt_outs,
            client,
            self._restrictions,
            (*needs.plan.secrets, *needs.plan.marked),
            rancher=needs.rancher,
            now=self._now,
        )
        self.collection += await run_check(
            PlannedCheck(COLLECTION, recall), deadline_s=self._deadline_s
        )
        requested: list[SecretTarget] = []
        if needs.secret_requests:
            takeover = self._config.secret_requests.takeover
            await self._run(PlannedCheck(RANCHERS, partial(check_rancher, client)))
            ask = partial(check_requests, client, self._now(), takeover=takeover)
            requested = await self._ask("SecretRequests", ask) or []
        if needs.rancher:
            product = self._config.identity.product or "rancher"
            await self._run(PlannedCheck("Rancher build", partial(check_build, client, product)))
            served = await self._ask(RESOURCE_ID, partial(check_registrations, client, self._now()))
            needs = replace(needs, registrations=bool(served))
        await self._identify(client)
        targets = (*needs.plan.secrets, *requested)
        namespaces = {target.namespace: target for target in reversed(targets)}
        secrets = {str(target): target for target in reversed(targets)}
        await self._run(
            *(
                PlannedCheck(
                    f"namespace {name}",
                    partial(check_namespace, client, target, needed=needs.secret_requests),
                )
                for name, target in sorted(namespaces.items())
            ),
            *(
                PlannedCheck(what, partial(check_secret, client, target, self._now))
                for what, target in sorted(secrets.items())
            ),
            *(
                PlannedCheck(f"may {access}", partial(check_access, client, access))
                for access in needed_access(needs, requested)
            ),
        )

    async def _identify(self, client: KubeClient) -> None:
        account = None
        with suppress(KubeError), anyio.move_on_after(self._deadline_s):
            account = await client.service_account()
        self.account = None if account is None else Account(*account)

    async def _ask(
        self, what: str, ask: Callable[[], Awaitable[tuple[list[CheckResult], T]]]
    ) -> T | None:
        """Run a check that others depend on; what it has learned, None where it failed."""
        learned: list[T] = []

        async def run() -> list[CheckResult]:
            findings, found = await ask()
            learned.append(found)
            return findings

        # In this task, not in one of its own: a client is left in it.
        self.findings += await run_check(PlannedCheck(what, run), deadline_s=self._deadline_s)
        return learned[0] if learned else None

    async def _run(self, *checks: PlannedCheck) -> None:
        self.findings += await run_checks(checks, deadline_s=self._deadline_s)
