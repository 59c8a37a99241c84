"""An informer of things against a scripted server, and what it did."""

import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from telemetryd.informer.backoff import WatchTiming
from telemetryd.informer.informer import Informer
from telemetryd.informer.source import KubeSource
from telemetryd.informer.store import Reader
from telemetryd.kube.client import KubeClient
from telemetryd.model import Delta
from telemetryd.stats import InformerStats, KubeStats
from tests.informer.samples import THINGS, Thing, ThingRecord, event, record, status, thing
from tests.informer.scripted import Scripted, kubeconfig
from tests.support.waiting import until_async

FAST = WatchTiming(
    backoff_base_s=0.01,
    backoff_cap_s=0.05,
    short_watch_s=0.03,
    idle_limit_s=5.0,
    list_timeout_s=2.0,
    fallback_relist_s=0.05,
    suspect_relist_s=0.05,
    absence_recheck_s=0.02,
)


EXPIRED = event("ERROR", status(410))
"""What makes an informer list again."""


class Watched:
    """An informer that runs, and what it did."""

    def __init__(self, informer: Informer[Thing, ThingRecord], stats: InformerStats) -> None:
        self.reader: Reader[ThingRecord] = informer.reader
        self.stats = stats
        self.deltas: list[Delta[ThingRecord]] = []
        self.wakeups = 0
        self.reader.subscribe(self.deltas.append)
        self.reader.on_change(self._wake)

    def _wake(self) -> None:
        self.wakeups += 1

    @property
    def held(self) -> dict[str, Any]:
        return {key: self.reader.get(key) for key in self.reader.keys()}  # noqa: SIM118

    def relists(self, reason: str) -> int:
        return self.stats.lists["success", reason]


@asynccontextmanager
async def watching(
    folder: Path, server: Scripted, *, timing: WatchTiming = FAST, page_size: int = 2
) -> AsyncIterator[Watched]:
    stats = InformerStats(THINGS.id)
    config = kubeconfig(folder / "config", server.url)
    async with KubeClient.connect(config, KubeStats(), environ={}) as client:
        informer = Informer(
            THINGS,
            KubeSource(client, THINGS),
            now=time.time,
            rng=random.Random(1),
            stats=stats,
            page_size=page_size,
            streamed=server.streamed,
            timing=timing,
        )
        watched = Watched(informer, stats)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(informer.run)
            yield watched
            tasks.cancel_scope.cancel()


def filled(*names: str) -> Scripted:
    """A server that holds these things, of version 5 each."""
    server = Scripted(version=10)
    server.objects = {name: thing(name, version=5) for name in names}
    return server


def expected(*names: str) -> dict[str, ThingRecord]:
    """What is then held."""
    return {f"ns/{name}": record(name) for name in names}


async def converge(server: Scripted, watched: Watched, name: str = "last") -> None:
    """Whatever went before, a change now arrives, and all is as the server has it."""
    server.put(thing(name, 77))
    await until_async(lambda: watched.reader.get(f"ns/{name}") == record(name, 77))
    want = {
        f"ns/{key}": record(key, body["spec"]["size"], body["metadata"]["uid"])
        for key, body in server.objects.items()
    }
    await until_async(lambda: watched.held == want)
    await until_async(lambda: not watched.reader.status().last_error)
