"""What the controller reads from the cluster, and how many requests it may make.

Namespaces are read by name and checked again later. They aren't watched, because no role lets
telemetryd list namespaces. The System project comes from the informer of all projects.
"""

import logging
import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from random import Random
from typing import Final, Unpack

import anyio
import msgspec

from telemetryd.bounds import identifier
from telemetryd.control.secretrequest.decision import (
    PROJECT_LABEL,
    NamespaceFact,
    NamespaceFound,
    NamespaceMissing,
    NamespaceUnknown,
    SystemProjects,
)
from telemetryd.control.secretrequest.status import RequestLog
from telemetryd.errors import Forbidden, KubeError
from telemetryd.informer.store import Reader
from telemetryd.kube import objects
from telemetryd.kube.requests import RequestOptions, Requests
from telemetryd.kube.responses import explain_denial
from telemetryd.limiter import TokenBucket
from telemetryd.model import Delta, ProjectRecord
from telemetryd.timing import Retry

RATE: Final = 10.0
"""Requests a second, for all lookups, statuses, new exporters and cleanups together."""

BURST: Final = 100.0
"""Requests at once after an idle time."""

RESERVE: Final = 20.0
"""Requests of the burst that only scc-operator's own request may use."""

LOOK_COST: Final = 1.0
STATUS_COST: Final = 2.0
EXPORTER_COST: Final = 2.0
CLEANUP_COST: Final = 3.0
"""Requests that each takes."""

FIRST_STATUS_COST: Final = 64.0
"""That a request was seen is written only while the budget has this many requests left. In a crowd
each request's final status is written at once instead."""

PASS_COST: Final = 20
"""After this many requests a pass starts again with the requests of the lowest rank."""

MAX_SERVED: Final = 64
"""SecretRequests that have an exporter at most, scc-operator's own not counted."""

TOO_MANY: Final = (
    f"telemetryd serves at most {MAX_SERVED} SecretRequests: delete those that aren't needed"
)

REQUEST_TIMEOUT_S = 10.0
RECHECK_S = 15.0
"""A namespace is first checked again after this time while the request isn't served; twice as long
after each check that found no change."""

RECHECK_CAP_S = 600.0

SERVED_FACTOR = 4
"""The time is this much longer while the request is served."""

RETRY_BASE_S = 1.0
RETRY_CAP_S = 30.0
_JITTER = 0.1
_MOST_DOUBLINGS = 10

_LOCAL = "local/"
"""Starts the keys of the local cluster's projects; each other cluster has a System project too."""

_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_NEVER = "~"
"""Sorts after every time: an object without one can't be the oldest."""


class RequestBudget:
    """The controller's requests to the API server, counted and limited by rate."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._bucket = TokenBucket(RATE, burst=BURST)
        self.made = 0

    def wait_s(self, cost: float, *, keep: float = RESERVE) -> float:
        """Seconds until this many requests may be made and ``keep`` are left; 0 for now."""
        return self._bucket.wait_s(cost + keep)

    def spend(self, cost: float) -> None:
        """Count requests that others make for the controller."""
        self._bucket.take(cost)

    async def request(self, method: str, path: str, **options: Unpack[RequestOptions]) -> bytes:
        """Make one request and count it; the answer's body.

        Raises:
            KubeError: There was no answer, or an error.
        """
        self.made += 1
        self.spend(1)
        return await self._requests.request(method, path, **options)


class _Labels(msgspec.Struct, gc=False, rename={"project": PROJECT_LABEL}):
    project: str | None = None


class _LabelledMeta(msgspec.Struct, gc=False):
    labels: _Labels | None = None


class _LabelledNamespace(msgspec.Struct, gc=False):
    metadata: _LabelledMeta


_DECODER = msgspec.json.Decoder(_LabelledNamespace)


@dataclass(slots=True)
class _Look:
    """The last check of a namespace.

    Attributes:
        at_s: When, on the loop's clock.
        spread: Jitter factor of the time until the next check.
        retry: Failed checks in a row, and when to check next.
        same: Checks in a row before this one with the same result.
    """

    fact: NamespaceFact
    at_s: float
    spread: float
    retry: Retry
    same: int


class Namespaces:
    """Keeps the last check of each namespace until it is due again."""

    def __init__(self, requests: Requests, *, rng: Random) -> None:
        self._requests = requests
        self._rng = rng
        self._looks: dict[str, _Look] = {}

    def last(self, name: str) -> NamespaceFact | None:
        """What the last check found, None before the first."""
        look = self._looks.get(name)
        return look.fact if look is not None else None

    async def look(
        self, name: str, *, recheck_s: float, patient: bool, wait_s: Callable[[], float]
    ) -> tuple[NamespaceFact, float]:
        """What is known of the namespace: from the last check, or from a new one if it is due.

        Args:
            name: A DNS label.
            recheck_s: How long an answer of the API server counts.
            patient: Twice as long after each check that found no change.
            wait_s: Seconds until the API server may be asked again.

        Returns:
            What is known, and when to come back, on the loop's clock.
        """
        look = self._looks.get(name)
        now_s = anyio.current_time()
        if look is None or self._due_s(look, recheck_s, patient=patient) <= now_s:
            if (pause_s := wait_s()) > 0:
                fact = look.fact if look is not None else NamespaceUnknown("it waits for its turn")
                return fact, now_s + pause_s
            look = self._looks[name] = await self._look(name, look)
        return look.fact, self._due_s(look, recheck_s, patient=patient)

    def _due_s(self, look: _Look, recheck_s: float, *, patient: bool) -> float:
        if not isinstance(look.fact, NamespaceUnknown):
            if patient:
                recheck_s = min(recheck_s * 2.0 ** min(look.same, _MOST_DOUBLINGS), RECHECK_CAP_S)
            # Another request may have asked with a longer time.
            look.retry.due_s = min(look.retry.due_s, look.at_s + recheck_s * look.spread)
        return look.retry.due_s

    async def _look(self, name: str, last: _Look | None) -> _Look:
        retry = last.retry if last is not None else Retry(RETRY_BASE_S, RETRY_CAP_S, self._rng)
        try:
            fact = await self._ask(name)
        except KubeError as error:
            fact = NamespaceUnknown(_why(name, error))
            retry.failed(anyio.current_time(), retry_after_s=error.retry_after_s)
        else:
            retry.succeeded()
            retry.due_s = math.inf
        same = last.same + 1 if last is not None and last.fact == fact else 0
        spread = self._rng.uniform(1 - _JITTER, 1.0)
        return _Look(fact, anyio.current_time(), spread, retry, same)

    def keep(self, names: Collection[str]) -> None:
        """Forget all others."""
        for name in self._looks.keys() - names:
            del self._looks[name]

    async def _ask(self, name: str) -> NamespaceFact:
        """Ask the API server.

        Raises:
            KubeError: It gave no usable answer.
        """
        path = f"/api/v1/namespaces/{name}"
        found = await objects.get(
            self._requests, path, _DECODER.decode, timeout_s=REQUEST_TIMEOUT_S
        )
        if found is None:
            return NamespaceMissing()
        labels = found.metadata.labels
        return NamespaceFound(identifier((labels.project if labels is not None else None) or ""))


def _why(name: str, error: KubeError) -> str:
    if isinstance(error, Forbidden):
        grant = "grant get on namespaces by a ClusterRole"
        return explain_denial(error, f"read namespace {name}", grant=grant)
    return f"namespace {name} can't be read: {error}"


class SystemProjectWatch:
    """Follows the changes of projects: the cost of an event doesn't depend on their number."""

    def __init__(
        self, projects: Reader[ProjectRecord], on_change: Callable[[], None], lines: RequestLog
    ) -> None:
        """Read all projects once, and follow them until ``close``.

        ``lines`` gets a line about further projects with the mark.
        """
        self._projects = projects
        self._on_change = on_change
        self._lines = lines
        self._created: dict[str, str] = {}
        self._last = SystemProjects()
        self._ends = (projects.subscribe(self._apply), projects.on_change(self._compare))
        self._compare(quiet=True)

    def found(self) -> SystemProjects:
        """The local cluster's System project, as far as it is known."""
        if not self._projects.synced:
            status = self._projects.status()
            why = status.last_error or "first list"
            return SystemProjects(why_unknown=f"{status.resource} not synced: {why}")
        if not self._created:
            return SystemProjects()
        oldest = min(self._created, key=lambda name: (self._created[name], name))
        return SystemProjects(oldest, self._created.keys() - {oldest})

    def close(self) -> None:
        """Follow the projects no longer."""
        for end in self._ends:
            end()

    def _apply(self, delta: Delta[ProjectRecord]) -> None:
        if not delta.key.startswith(_LOCAL):
            return
        name = delta.key.removeprefix(_LOCAL)
        if isinstance(delta.new, ProjectRecord) and delta.new.system:
            created_at = delta.new.created_at
            self._created[name] = created_at if _TIME.fullmatch(created_at) else _NEVER
        else:
            self._created.pop(name, None)

    def _compare(self, *, quiet: bool = False) -> None:
        found = self.found()
        if found == self._last:
            return
        if found.ignored and found.ignored != self._last.ignored:
            self._lines.log(
                logging.WARNING,
                "several projects are marked as the System project used=%s ignored=%d",
                found.name,
                len(found.ignored),
            )
        self._last = found
        if not quiet:
            self._on_change()
