"""The namespaces that requests are aimed at: asked for by name, and again at a slow pace.

They aren't watched: no role lets telemetryd list namespaces. What an answer means for a request is
``decision``'s.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from random import Random

import anyio
import msgspec

from telemetryd.bounds import identifier
from telemetryd.control.secretrequest.decision import (
    PROJECT_LABEL,
    NamespaceFact,
    NamespaceFound,
    NamespaceMissing,
    NamespaceUnknown,
)
from telemetryd.errors import Forbidden, KubeError, Throttled, Unavailable
from telemetryd.kube import objects
from telemetryd.kube.requests import Requests
from telemetryd.kube.responses import explain_denial
from telemetryd.timing import backoff_s, retry_delay_s

REQUEST_TIMEOUT_S = 10.0
RECHECK_S = 15.0
"""While a request isn't served, its namespace is looked at again after this time at first; twice as
long after each look that found no change."""

RECHECK_CAP_S = 600.0

SERVED_FACTOR = 4
"""So much longer while it is served."""

RETRY_BASE_S = 1.0
RETRY_CAP_S = 30.0
_JITTER = 0.1
_MOST_DOUBLINGS = 10


class _Labels(msgspec.Struct, gc=False, rename={"project": PROJECT_LABEL}):
    project: str | None = None


class _Meta(msgspec.Struct, gc=False):
    labels: _Labels | None = None


class _Namespace(msgspec.Struct, gc=False):
    metadata: _Meta


_DECODER = msgspec.json.Decoder(_Namespace)


@dataclass(slots=True)
class _Look:
    """What was found.

    Attributes:
        at_s: When, on the loop's clock.
        spread: What the time until the next is multiplied with.
        due_s: When to look at it again.
        failures: Looks in a row that failed.
        same: Looks in a row before this one that found the same.
    """

    fact: NamespaceFact
    at_s: float
    spread: float
    due_s: float
    failures: int
    same: int


class Namespaces:
    """Remembers the last look at each namespace for as long as it holds."""

    def __init__(self, requests: Requests, *, rng: Random) -> None:
        """Nothing is asked before ``look``.

        Args:
            requests: To the API server.
            rng: Spreads the looks.
        """
        self._requests = requests
        self._rng = rng
        self._looks: dict[str, _Look] = {}

    def last(self, name: str) -> NamespaceFact | None:
        """What the last look found, None before the first."""
        look = self._looks.get(name)
        return look.fact if look is not None else None

    async def look(
        self, name: str, *, recheck_s: float, patient: bool, wait_s: Callable[[], float]
    ) -> tuple[NamespaceFact, float]:
        """What is known of the namespace: from the last look, or from a new one where it is due.

        Args:
            name: A DNS label.
            recheck_s: A look that the API server answered holds so long.
            patient: Twice as long after each look that found no change.
            wait_s: Seconds until another may be made, for the sake of the API server.

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
            # It may have been looked at for somebody with a longer pace.
            look.due_s = min(look.due_s, look.at_s + recheck_s * look.spread)
        return look.due_s

    async def _look(self, name: str, last: _Look | None) -> _Look:
        failures = 0
        wait_s = math.inf
        try:
            fact = await self._ask(name)
        except KubeError as error:
            failures = 1 + (last.failures if last is not None else 0)
            fact = NamespaceUnknown(_why(name, error))
            pause_s = backoff_s(failures - 1, base_s=RETRY_BASE_S, cap_s=RETRY_CAP_S, rng=self._rng)
            asked_s = error.retry_after_s if isinstance(error, Throttled | Unavailable) else None
            wait_s = retry_delay_s(pause_s, asked_s, self._rng)
        now_s = anyio.current_time()
        same = last.same + 1 if last is not None and last.fact == fact else 0
        spread = self._rng.uniform(1 - _JITTER, 1.0)
        return _Look(fact, now_s, spread, now_s + wait_s, failures, same)

    def keep(self, names: Collection[str]) -> None:
        """Forget all others."""
        for name in self._looks.keys() - names:
            del self._looks[name]

    async def _ask(self, name: str) -> NamespaceFact:
        """Ask the API server.

        Raises:
            KubeError: It gave no answer that tells.
        """
        found = await objects.get(
            self._requests,
            f"/api/v1/namespaces/{name}",
            _DECODER.decode,
            timeout_s=REQUEST_TIMEOUT_S,
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
