"""Leader election, wired: which replica works, under which epoch, and the fence for every write.

Without leader election this replica leads all the time. The election itself is ``control``'s, and
what a hold does to the guarded work is ``guarded``'s.
"""

import logging
import os
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import anyio
import anyio.lowlevel

from telemetryd.config import Config, SecretExporterConfig
from telemetryd.control.elector import Elector, Lease
from telemetryd.control.epochs import EpochFile, Epochs
from telemetryd.control.lease import LeaseTiming
from telemetryd.control.leaseapi import LeaseApi
from telemetryd.daemon.collector import Gate
from telemetryd.errors import KubeError
from telemetryd.export.sinks.secretobject import parse_secret
from telemetryd.kube import objects
from telemetryd.kube.client import KubeClient
from telemetryd.kube.requests import Requests
from telemetryd.model import ExporterState, LeaderStatus
from telemetryd.stats import KubeStats, LeaderStats

log = logging.getLogger(__name__)

KEEP_TIMEOUT_S = 1.0
"""A term's work waits so long for the disk to keep the epoch."""

READ_TIMEOUT_S = 1.0
"""For the epochs in all Secrets, before a term begins."""


class Leadership:
    """Whether this replica may export, under which epoch, and the gate that is held otherwise.

    Attributes:
        stats: How often that has changed.
    """

    def __init__(self, config: Config, reader: Requests) -> None:
        """Lead without an election, until ``stand`` is called.

        Args:
            config: Effective values of everything.
            reader: For the epochs in Secrets.
        """
        self._name = config.leader_election.name
        self._reader = reader
        self._epochs = Epochs()
        self._file = EpochFile(config.state_dir and f"{config.state_dir}/epoch", self._epochs)
        self._keep_timeout_s = KEEP_TIMEOUT_S
        self._elector: Elector | None = None
        self._gate: Gate | None = None
        self._may_read: Callable[[], bool] = lambda: True
        self._begin: Callable[[], Awaitable[None]] = anyio.lowlevel.checkpoint
        self.stats = LeaderStats()
        self.follow(config)

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        config: Config,
        reader: Requests,
        stats: KubeStats,
        *,
        now: Callable[[], float],
        rng: random.Random,
    ) -> AsyncIterator["Leadership"]:
        """What the configuration asks for; an election has a connection of its own.

        Args:
            config: Effective values of everything.
            reader: For the epochs in Secrets.
            stats: Counters of requests.
            now: Unix time in seconds.
            rng: Spreads looks at the Lease.

        Raises:
            ConfigError: The API server can't be reached for want of a usable configuration.
        """
        election = config.leader_election
        made = cls(config, reader)
        await made.load()
        if not election.enabled:
            yield made
            return
        async with KubeClient.connect(config.kubernetes, stats) as client:
            lease = LeaseApi(client, namespace=election.namespace, name=election.name, now=now)
            timing = LeaseTiming(
                election.lease_duration_s, election.renew_deadline_s, election.retry_period_s
            )
            made.stand(lease, timing, rng)
            yield made

    async def load(self) -> None:
        """Learn the epoch that an earlier process has kept, within a bound."""
        await self._file.load()

    def stand(self, lease: Lease, timing: LeaseTiming, rng: random.Random) -> None:
        """Lead only where this replica is elected, from now on."""
        self._elector = Elector(
            lease,
            self,
            name=self._name,
            identity=f"{os.environ.get('HOSTNAME') or socket.gethostname()}_{uuid4()}",
            timing=timing,
            epochs=self._epochs,
            rng=rng,
        )
        self.stats = self._elector.stats
        # What a slow disk takes must leave time for the next renewal.
        spare_s = timing.renew_deadline_s - timing.retry_period_s
        self._keep_timeout_s = min(KEEP_TIMEOUT_S, spare_s / 2)

    def follow(self, config: Config) -> None:
        """Put another configuration in force: which Secrets tell of epochs."""
        self._secrets = [
            f"/api/v1/namespaces/{each.namespace}/secrets/{each.secret}"
            for each in config.exporters
            if isinstance(each, SecretExporterConfig) and each.enabled
        ]

    @property
    def epoch(self) -> int:
        """Of our term; without an election, or a term, the highest one seen."""
        return self._epochs.highest

    def saw(self, epoch: int) -> None:
        """Take note of an epoch in a Secret, in the spool or in a receiver's answer.

        A term of ours goes on above it. Without an election it becomes the epoch.
        """
        if self._elector is not None:
            self._elector.saw(epoch)
        else:
            self._epochs.saw(epoch)

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

    async def run(
        self,
        gate: Gate,
        *,
        may_read: Callable[[], bool] = lambda: True,
        begin: Callable[[], Awaitable[None]] = anyio.lowlevel.checkpoint,
    ) -> None:
        """Stand for election, and hold the gate while another leads; ends only when cancelled.

        Args:
            gate: The gate.
            may_read: Whether Secrets may be read for their epochs: not while collection is off.
            begin: Awaited at the beginning of each term, before its work may begin.
        """
        self._begin = begin
        self._gate = gate
        self._may_read = may_read
        async with anyio.create_task_group() as group:
            group.start_soon(self._file.run, name="epoch file")
            await (self._elector.run() if self._elector is not None else self.prepare())

    async def release(self, timeout_s: float) -> None:
        """Let another replica take over at once; call it when all guarded work has ended."""
        if self._elector is not None:
            await self._elector.release(timeout_s)

    async def prepare(self) -> None:
        """The elector's word: a term may begin. Look for a higher epoch in the Secrets."""
        with anyio.move_on_after(READ_TIMEOUT_S):
            for path in self._secrets if self._may_read() else ():
                self.saw(await self._read_epoch(path))

    async def lead(self) -> None:
        """The elector's word: begin, once the epoch is on disk or that takes too long."""
        await self._file.keep(self._keep_timeout_s)
        await self._begin()
        if self._gate is not None:
            self._gate.release(ExporterState.STANDBY)

    async def stand_by(self, leader: str) -> None:
        """The elector's word: end all that is guarded, within a bound."""
        if self._gate is not None:
            who = f"{leader} leads" if leader else "no replica is known to lead"
            await self._gate.hold(ExporterState.STANDBY, who)

    async def _read_epoch(self, path: str) -> int:
        try:
            found = await objects.get(self._reader, path, parse_secret, timeout_s=READ_TIMEOUT_S)
        except KubeError as error:
            # The term begins without it.
            log.debug("epoch not read path=%s error=%s", path, type(error).__name__)
            return 0
        return 0 if found is None else found.epoch
