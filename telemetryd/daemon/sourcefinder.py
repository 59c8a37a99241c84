"""Finds the source: Rancher if the API server serves its group, else Kubernetes alone.

One answer is enough for Rancher. That there is none must be confirmed, because an API server that
has just started doesn't know its CRDs yet. An error says nothing either way.
"""

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import anyio

from telemetryd.errors import KubeError
from telemetryd.gather.clusters import CLUSTERS
from telemetryd.informer.source import serves_group
from telemetryd.kube.requests import Requests
from telemetryd.model import SourceKind

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FinderTiming:
    """When discovery is requested; tests shorten it.

    Attributes:
        poll_s: Between regular checks; up to a fifth longer or shorter.
        confirm_s: Between the checks that confirm an absence.
        confirmations: Checks in a row that must find no Rancher.
        retry_s: After a check that failed, while no source is known.
        timeout_s: Of one check.
    """

    poll_s: float = 10.0
    confirm_s: float = 3.0
    confirmations: int = 3
    retry_s: float = 2.0
    timeout_s: float = 10.0


DEFAULT_TIMING: Final = FinderTiming()


class SourceFinder:
    """Finds the source, and keeps checking it.

    Attributes:
        found: The source, None before it is known.
        error: Why the last check failed, empty if it didn't.
    """

    def __init__(
        self,
        client: Requests,
        *,
        rng: random.Random,
        changed: Callable[[], None],
        timing: FinderTiming = DEFAULT_TIMING,
    ) -> None:
        """Nothing is requested yet; ``changed`` is called when ``found`` has changed."""
        self._client = client
        self._rng = rng
        self._changed = changed
        self._timing = timing
        self._absences = 0
        self._look_now = anyio.Event()
        self.found: SourceKind | None = None
        self.error = ""

    def look(self) -> None:
        """Check again at once: a resource of the source is gone."""
        self._look_now.set()

    async def find(self) -> SourceKind:
        """Check until the source is known."""
        while True:
            pause_s = await self._look()
            if self.found is not None:
                return self.found
            await anyio.sleep(pause_s)

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            self._look_now = anyio.Event()
            pause_s = await self._look()
            if self._absences and self.found is not SourceKind.KUBERNETES:
                # Checks at the same moment, for several informers, confirm nothing.
                await anyio.sleep(pause_s)
            else:
                with anyio.move_on_after(pause_s):
                    await self._look_now.wait()

    async def _look(self) -> float:
        """Check once; returns the seconds to the next check."""
        timing = self._timing
        try:
            there = await serves_group(
                self._client, CLUSTERS.group, CLUSTERS.version, timeout_s=timing.timeout_s
            )
        except KubeError as error:
            self._absences = 0
            level = logging.DEBUG if self.error else logging.WARNING
            log.log(level, "source not found error=%r", str(error))
            self.error = str(error)
            return timing.retry_s if self.found is None else self._poll_s()
        self.error = ""
        if there:
            self._absences = 0
            self._settle(SourceKind.RANCHER)
        elif self.found is not SourceKind.KUBERNETES:
            self._absences += 1
            if self._absences < timing.confirmations:
                return timing.confirm_s
            self._settle(SourceKind.KUBERNETES)
        return self._poll_s()

    def _settle(self, source: SourceKind) -> None:
        if source is not self.found:
            self.found = source
            self._changed()

    def _poll_s(self) -> float:
        return self._timing.poll_s * self._rng.uniform(0.8, 1.2)
