"""Collecting without a daemon: informers and a gatherer, as long as a block runs."""

import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import anyio

from telemetryd.config import Config, IdentityConfig, PrivacyConfig
from telemetryd.daemon.collection import build_collection
from telemetryd.gather.clusters import CLUSTERS
from telemetryd.gather.gatherer import SEND_ALL, Gatherer
from telemetryd.informer.source import serves_group
from telemetryd.kube.client import KubeClient
from telemetryd.model import SourceKind
from telemetryd.stats import GatherStats

AUTO: Final = "auto"
DISCOVERY_TIMEOUT_S: Final = 10.0
DISCOVERED: Final = IdentityConfig()
"""No part of the identity is replaced."""


@asynccontextmanager
async def gathering(
    client: KubeClient,
    *,
    source: str = AUTO,
    identity: IdentityConfig = DISCOVERED,
    privacy: PrivacyConfig = SEND_ALL,
    detailed: bool = False,
    now: Callable[[], float] = time.time,  # noqa: TID251 - the default
    rng: random.Random | None = None,
) -> AsyncIterator[Gatherer]:
    """A gatherer whose informers run until the block is left.

    Its ``snapshot()`` raises NotReady until all of them have synced: wait for ``wait_ready()``
    under a deadline of your own, and ask ``missing()`` what it waits for. It doesn't look at any
    opt-out: the daemon does. An error of the block is raised as it is.

    Args:
        client: The API server; stays the caller's.
        source: ``rancher`` or ``kubernetes``; ``auto`` asks the API server once whether it serves
            Rancher's API group.
        identity: Parts of the identity to use in place of what is discovered.
        privacy: What snapshots leave out.
        detailed: Snapshots have what the payload ``fleet`` needs beyond ``scc``.
        now: Unix time in seconds.
        rng: Spreads retries and relists; None for one of its own.

    Raises:
        ValueError: There is no such source.
        KubeError: ``auto`` got no answer from the API server within 10 s, or a refusal.
    """
    found = await _find_source(client, source)
    config = Config(identity=identity, privacy=privacy)
    spread = rng or random.Random()
    collection = build_collection(found, config, client, now=now, rng=spread, stats=GatherStats())
    if detailed:
        collection.gatherer.add_detail()
    failure: Exception | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(collection.run, name="collection")
        group.start_soon(client.follow, name="login")
        try:
            yield collection.gatherer
        except Exception as error:  # noqa: BLE001 - raised below, where the group doesn't wrap it
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _find_source(client: KubeClient, source: str) -> SourceKind:
    if source == AUTO:
        there = await serves_group(
            client, CLUSTERS.group, CLUSTERS.version, timeout_s=DISCOVERY_TIMEOUT_S
        )
        return SourceKind.RANCHER if there else SourceKind.KUBERNETES
    if source not in list(SourceKind):
        known = ", ".join(f'"{each}"' for each in (AUTO, *SourceKind))
        raise ValueError(f"source is {source!r}: must be one of {known}")
    return SourceKind(source)
