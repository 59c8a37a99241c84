"""Which source there is: a Rancher where the API server serves its group, else Kubernetes alone.

A Rancher that is there is believed at once; that there is none, only once it has been confirmed:
an API server that has just started doesn't know its CRDs yet. An error says nothing either way.
What follows from another source is ``collector``'s.
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
    """When discovery is asked; tests shorten it.

    Attributes:
        poll_s: Between looks while nothing calls for one; stretched or shortened by up to a fifth.
        confirm_s: Between the looks that confirm an absence.
        confirmations: So many looks in a row have to say so.
        retry_s: After a look that failed, while no source is known.
        timeout_s: Of one look.
    """

    poll_s: float = 10.0
    confirm_s: float = 3.0
    confirmations: int = 3
    retry_s: float = 2.0
    timeout_s: float = 10.0


DEFAULT_TIMING: Final = FinderTiming()


class SourceFinder:
    """Finds out the source, and goes on looking.

    Attributes:
        found: The source, None before it is known.
        error: Why the last look failed, empty where it didn't.
    """

    def __init__(
        self,
        client: Requests,
        *,
        rng: random.Random,
        changed: Callable[[], None],
        timing: FinderTiming = DEFAULT_TIMING,
    ) -> None:
        """Prepare.

        Args:
            client: The API server.
            rng: Spreads the looks.
            changed: Called whenever ``found`` has changed.
            timing: When to look.
        """
        self._client = client
        self._rng = rng
        self._changed = changed
        self._timing = timing
        self._absences = 0
        self._look_now = anyio.Event()
        self.found: SourceKind | None = None
        self.error = ""

    def look(self) -> None:
        """Look again at once: something that belongs to the source has gone."""
        self._look_now.set()

    async def find(self) -> SourceKind:
        """Look until the source is known."""
        while True:
            pause_s = await self._look()
            if self.found is not None:
                return self.found
            await anyio.sleep(pause_s)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self._look_now = anyio.Event()
            pause_s = await self._look()
            if self._absences and self.found is not SourceKind.KUBERNETES:
                # However many informers ask: looks at the same moment confirm nothing.
                await anyio.sleep(pause_s)
            else:
                with anyio.move_on_after(pause_s):
                    await self._look_now.wait()

    async def _look(self) -> float:
        """Look once; returns the seconds to the next look."""
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
