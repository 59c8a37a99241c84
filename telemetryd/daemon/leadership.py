"""Leader election, wired: who of the replicas exports, and how every write is held to it.

Without leader election this replica leads all the time. The election itself is ``control``'s, and
what a hold does to exporters is the manager's.
"""

import os
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import anyio

from telemetryd.config import Config
from telemetryd.control.elector import Elector
from telemetryd.control.lease import LeaseTiming
from telemetryd.control.leaseapi import LeaseApi
from telemetryd.daemon.collector import Gate
from telemetryd.kube.client import KubeClient
from telemetryd.model import ExporterState, LeaderStatus
from telemetryd.stats import KubeStats, LeaderStats


class Leadership:
    """Whether this replica may export, and the gate that is held while it may not.

    Attributes:
        stats: How often that has changed.
    """

    def __init__(self, name: str) -> None:
        """Lead without an election, until ``stand`` is called.

        Args:
            name: Of the Lease there would be, for the metrics.
        """
        self._name = name
        self._elector: Elector | None = None
        self._gate: Gate | None = None
        self._changed = anyio.Event()
        self._told_to_lead = True
        self.stats = LeaderStats()

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, config: Config, stats: KubeStats, *, now: Callable[[], float], rng: random.Random
    ) -> AsyncIterator["Leadership"]:
        """What the configuration asks for; an election has a connection of its own.

        Args:
            config: Effective values of everything.
            stats: Counters of requests.
            now: Unix time in seconds.
            rng: Spreads looks at the Lease.

        Raises:
            ConfigError: The API server can't be reached for want of a usable configuration.
        """
        election = config.leader_election
        made = cls(election.name)
        if not election.enabled:
            yield made
            return
        async with KubeClient.connect(config.kubernetes, stats) as client:
            made.stand(
                Elector(
                    LeaseApi(client, namespace=election.namespace, name=election.name, now=now),
                    made,
                    name=election.name,
                    identity=f"{os.environ.get('HOSTNAME') or socket.gethostname()}_{uuid4()}",
                    timing=LeaseTiming(
                        election.lease_duration_s,
                        election.renew_deadline_s,
                        election.retry_period_s,
                    ),
                    rng=rng,
                )
            )
            yield made

    def stand(self, elector: Elector) -> None:
        """Lead only where this elector is elected, from now on."""
        self._elector = elector
        self.stats = elector.stats
        self._told_to_lead = False

    @property
    def leading(self) -> bool:
        """Whether guarded work may go on, as far as has been told."""
        return self._told_to_lead

    @property
    def epoch(self) -> int:
        """``leaseTransitions``, 0 without an election."""
        return self._elector.epoch if self._elector is not None else 0

    def require(self) -> None:
        """Let a side effect begin.

        Raises:
            NotLeading: It may not.
        """
        if self._elector is not None:
            self._elector.require()

    def status(self) -> LeaderStatus | None:
        """What is shown of the election, None where there is none."""
        return self._elector.status() if self._elector is not None else None

    def metrics(self) -> tuple[str, bool, int]:
        """Name of the Lease, whether this replica leads, and how often that has changed."""
        leading = self._elector.leading if self._elector is not None else True
        return self._name, leading, self.stats.transitions

    async def changed(self) -> None:
        """Return at the next change of ``leading``."""
        await self._changed.wait()

    async def run(self, gate: Gate) -> None:
        """Stand for election, and hold the gate while another leads; ends only when cancelled."""
        self._gate = gate
        if self._elector is None:
            await anyio.sleep_forever()
        else:
            await self._elector.run()

    async def release(self, timeout_s: float) -> None:
        """Let another replica take over at once; call it when all guarded work has ended."""
        if self._elector is not None:
            await self._elector.release(timeout_s)

    async def lead(self) -> None:
        """The elector's word: begin."""
        self._turn(leading=True)
        if self._gate is not None:
            self._gate.release(ExporterState.STANDBY)

    async def stand_by(self, leader: str) -> None:
        """The elector's word: end all that is guarded, within a bound."""
        self._turn(leading=False)
        if self._gate is not None:
            who = f"{leader} leads" if leader else "no replica is known to lead"
            await self._gate.hold(ExporterState.STANDBY, who)

    def _turn(self, *, leading: bool) -> None:
        if leading is not self._told_to_lead:
            self._told_to_lead = leading
            self._changed.set()
            self._changed = anyio.Event()
