"""Leader election in the daemon: which replica works, its epoch, and the fence for every write.

Without leader election this replica leads all the time. The election itself is in ``control``.
"""

import logging
import os
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

import anyio
import anyio.lowlevel

from telemetryd.config import Config, SecretExporterConfig
from telemetryd.control.epochs import EpochFile, Epochs
from telemetryd.daemon.collector import Holdable
from telemetryd.errors import KubeError
from telemetryd.export.sinks.secretobject import parse_secret
from telemetryd.kube import objects
from telemetryd.kube.client import KubeClient
from telemetryd.kube.requests import Requests
from telemetryd.model import ExporterState, LeaderStatus
from telemetryd.stats import KubeStats, LeaderStats

if TYPE_CHECKING:
    from telemetryd.control.elector import Elector
    from telemetryd.control.lease import LeaseApi, LeaseTiming

log = logging.getLogger(__name__)

KEEP_TIMEOUT_S = 1.0
"""The work of a term waits this long for the disk to keep the epoch."""

RELEASE_TIMEOUT_S = 1.5
"""A shutdown ends at most 2 s after its drain; the Lease expires if it can't be released."""

READ_TIMEOUT_S = 1.0
"""For the epochs in all Secrets, before a term begins."""


class Leadership:
    """Whether this replica may export, under which epoch; holds the guarded work otherwise."""

    def __init__(self, config: Config, reader: Requests) -> None:
        """Lead without an election until ``stand`` is called; ``reader`` reads Secrets' epochs."""
        self._name = config.leader_election.name
        self._reader = reader
        self._epochs = Epochs()
        self._file = EpochFile(config.state_dir and f"{config.state_dir}/epoch", self._epochs)
        self._keep_timeout_s = KEEP_TIMEOUT_S
        self._elector: Elector | None = None
        self._work: Holdable | None = None
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
        """As the configuration says; an election has a connection of its own.

        Raises:
            ConfigError: The access to the API server isn't configured.
        """
        election = config.leader_election
        made = cls(config, reader)
        await made.load()
        if not election.enabled:
            yield made
            return
        from telemetryd.control.lease import LeaseApi, LeaseTiming  # noqa: PLC0415 - where used

        async with KubeClient.connect(config.kubernetes, stats) as client:
            lease = LeaseApi(client, namespace=election.namespace, name=election.name, now=now)
            timing = LeaseTiming(
                election.lease_duration_s, election.renew_deadline_s, election.retry_period_s
            )
            made.stand(lease, timing, rng)
            yield made

    async def load(self) -> None:
        """Read the epoch that an earlier process has kept, within a time limit."""
        await self._file.load()

    def stand(self, lease: "LeaseApi", timing: "LeaseTiming", rng: random.Random) -> None:
        """Lead only while this replica is elected, from now on."""
        from telemetryd.control.elector import Elector  # noqa: PLC0415 - where it is used

        self._elector = Elector(
            lease,
            prepare=self.prepare,
            lead=self.lead,
            stand_by=self.stand_by,
            name=self._name,
            identity=f"{os.environ.get('HOSTNAME') or socket.gethostname()}_{uuid4()}",
            timing=timing,
            epochs=self._epochs,
            rng=rng,
        )
        self.stats = self._elector.stats
        # A slow disk must leave time for the next renewal.
        spare_s = timing.renew_deadline_s - timing.retry_period_s
        self._keep_timeout_s = min(KEEP_TIMEOUT_S, spare_s / 2)

    def follow(self, config: Config) -> None:
        """Put a configuration in force: which Secrets have epochs."""
        self._exporters = config.exporters

    @property
    def epoch(self) -> int:
        """Of our term; without an election, or a term, the highest one seen."""
        return self._epochs.highest

    def saw(self, epoch: int) -> None:
        """Note an epoch from a Secret, the spool or a receiver's answer.

        A term of ours continues with a higher one. Without an election it becomes the epoch.
        """
        if self._elector is not None:
            self._elector.saw(epoch)
        else:
            self._epochs.saw(epoch)

    def require(self) -> None:
        """Check that a side effect may start.

        Raises:
            NotLeading: It may not.
        """
        if self._elector is not None:
            self._elector.require()

    def status(self) -> LeaderStatus | None:
        """What is shown of the election, None without one."""
        return self._elector.status() if self._elector is not None else None

    def metrics(self) -> tuple[str, bool, int]:
        """Name of the Lease, whether this replica leads, and how often that has changed."""
        leading = self._elector.leading if self._elector is not None else True
        return self._name, leading, self.stats.transitions

    async def run(
        self,
        work: Holdable,
        *,
        may_read: Callable[[], bool] = lambda: True,
        begin: Callable[[], Awaitable[None]] = anyio.lowlevel.checkpoint,
    ) -> None:
        """Take part in the election, and hold the work while another replica leads.

        Ends only when cancelled.

        Args:
            work: What only the leader may do.
            may_read: Whether Secrets may be read for their epochs: not while collection is off.
            begin: Awaited at the start of each term, before its work may start.
        """
        self._begin = begin
        self._work = work
        self._may_read = may_read
        async with anyio.create_task_group() as group:
            group.start_soon(self._file.run, name="epoch file")
            await (self._elector.run() if self._elector is not None else self.prepare())

    async def release(self, timeout_s: float) -> None:
        """Let another replica take over at once, when all guarded work has ended."""
        if self._elector is not None:
            await self._elector.release(timeout_s)

    async def prepare(self) -> None:
        """For the elector: a term may start. Look for a higher epoch in the Secrets."""
        with anyio.move_on_after(READ_TIMEOUT_S):
            for each in self._exporters if self._may_read() else ():
                if isinstance(each, SecretExporterConfig) and each.enabled:
                    path = f"/api/v1/namespaces/{each.namespace}/secrets/{each.secret}"
                    self.saw(await self._read_epoch(path))

    async def lead(self) -> None:
        """For the elector: start when the epoch is on disk, or that takes too long."""
        await self._file.keep(self._keep_timeout_s)
        await self._begin()
        if self._work is not None:
            self._work.release(ExporterState.STANDBY)

    async def stand_by(self, leader: str) -> None:
        """For the elector: end the guarded work, within a time limit."""
        if self._work is not None:
            who = f"{leader} leads" if leader else "no replica is known to lead"
            await self._work.hold(ExporterState.STANDBY, who)

    async def _read_epoch(self, path: str) -> int:
        try:
            found = await objects.get(self._reader, path, parse_secret, timeout_s=READ_TIMEOUT_S)
        except KubeError as error:
            # The term starts without it.
            log.debug("epoch not read path=%s error=%s", path, type(error).__name__)
            return 0
        return 0 if found is None else found.epoch
