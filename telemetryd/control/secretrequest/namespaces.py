"""The namespaces that requests are aimed at: asked for by name, and again at a slow pace.

They aren't watched: no role lets telemetryd list namespaces. What an answer means for a request is
``decision``'s.
"""

from collections.abc import Collection
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
"""While a request isn't served, its namespace is looked at again after this time at most."""

SERVED_FACTOR = 4
"""So much longer while it is served."""

RETRY_BASE_S = 1.0
RETRY_CAP_S = 30.0
_JITTER = 0.1


class _Labels(msgspec.Struct, gc=False, rename={"project": PROJECT_LABEL}):
    project: str | None = None


class _Meta(msgspec.Struct, gc=False):
    labels: _Labels | None = None


class _Namespace(msgspec.Struct, gc=False):
    metadata: _Meta


_DECODER = msgspec.json.Decoder(_Namespace)


@dataclass(slots=True)
class _Look:
    """What was found, when it is to be looked at again, and how often that has failed in a row."""

    fact: NamespaceFact
    due_s: float
    failures: int = 0


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

    async def look(self, name: str, *, recheck_s: float) -> NamespaceFact:
        """What is known of the namespace: from the last look, or from a new one where it is due.

        Args:
            name: A DNS label.
            recheck_s: A look that the API server answered holds so long.
        """
        now_s = anyio.current_time()
        last = self._looks.get(name)
        if last is not None and now_s < last.due_s:
            if not isinstance(last.fact, NamespaceUnknown):
                # It may have been looked at for somebody with a longer pace.
                last.due_s = min(last.due_s, now_s + recheck_s)
            return last.fact
        failures = 0
        try:
            fact = await self._ask(name)
            wait_s = recheck_s * self._rng.uniform(1 - _JITTER, 1.0)
        except KubeError as error:
            failures = 1 + (last.failures if last is not None else 0)
            fact = NamespaceUnknown(_why(name, error))
            pause_s = backoff_s(failures - 1, base_s=RETRY_BASE_S, cap_s=RETRY_CAP_S, rng=self._rng)
            asked_s = error.retry_after_s if isinstance(error, Throttled | Unavailable) else None
            wait_s = retry_delay_s(pause_s, asked_s, self._rng)
        self._looks[name] = _Look(fact, anyio.current_time() + wait_s, failures)
        return fact

    def due_s(self, name: str) -> float:
        """When the namespace is to be looked at again, on the loop's clock."""
        return self._looks[name].due_s

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
