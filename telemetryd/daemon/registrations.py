"""Reads the Registrations of scc-operator for the status; nothing else depends on them.

Two small reads every few minutes, while Rancher is the source.
"""

import logging
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import anyio

from telemetryd.bounds import free_text
from telemetryd.errors import KubeError
from telemetryd.gather.consumer import Registrations, read_registrations
from telemetryd.kube.requests import Requests
from telemetryd.model import SourceKind

log = logging.getLogger(__name__)

POLL_S: Final = 300.0
"""Between two reads, give or take a fifth."""

REQUEST_S: Final = 10.0
"""Deadline of each of two requests."""


class RegistrationReader:
    """Reads Registrations from time to time.

    Attributes:
        known: What was read last; None before the first read, and while nothing is collected.
    """

    def __init__(
        self,
        requests: Requests,
        *,
        source: Callable[[], SourceKind | None],
        now: Callable[[], float],
        rng: random.Random,
    ) -> None:
        """Nothing is read before ``run``; ``rng`` spreads the reads of many daemons."""
        self._requests = requests
        self._source = source
        self._now = now
        self._rng = rng
        self.known: Registrations | None = None

    async def run(self) -> None:
        """Read until cancelled, then forget."""
        try:
            while True:
                if self._source() is SourceKind.RANCHER:
                    await self._read()
                await anyio.sleep(POLL_S * self._rng.uniform(0.8, 1.2))
        finally:
            self.known = None

    async def _read(self) -> None:
        try:
            self.known = await read_registrations(
                self._requests, timeout_s=REQUEST_S, now_s=self._now()
            )
        except KubeError as error:
            before = self.known or Registrations(served=None)
            if not before.error:
                log.info("registrations of scc-operator can't be read error=%r", str(error))
            self.known = replace(before, error=free_text(str(error)))
