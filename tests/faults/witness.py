"""Informers in the tests' own process, behind the same proxy as the daemon: every delta is seen.

They are the daemon's own and meet the same faults. What they tell is replayed, delta by delta, and
must come to what they hold, and that to a fresh list. When that is asked belongs to ``bench``.
"""

import json
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import TaskStatus
from anyio.from_thread import BlockingPortal, start_blocking_portal

from telemetryd.config import KubernetesConfig
from telemetryd.gather.clusters import CLUSTERS
from telemetryd.gather.project import FEATURES, KUBE_SYSTEM, NODES, SETTINGS
from telemetryd.informer.decode import ObjectDecoder
from telemetryd.informer.informer import Informer
from telemetryd.informer.resource import Resource
from telemetryd.informer.source import KubeSource
from telemetryd.informer.store import Reader
from telemetryd.kube.client import KubeClient
from telemetryd.model import Delta
from telemetryd.stats import InformerStats, KubeStats
from tests.apiserver.admin import Admin

_RESOURCES: tuple[Resource[Any, Any], ...] = (
    NODES,
    CLUSTERS,
    SETTINGS,
    FEATURES,
    KUBE_SYSTEM,
)


class Replay:
    """What the deltas of one informer come to, and what was wrong with any of them."""

    def __init__(
        self,
        resource: Resource[Any, Any],
        reader: Reader[Any],
        judge: Callable[[Delta[Any]], str] | None = None,
    ) -> None:
        self.resource = resource
        self.reader = reader
        self.replayed: dict[str, Any] = {}
        self.wrong: list[str] = []
        self.deltas = 0
        self._synced = False
        self._judge = judge
        reader.subscribe(self._take)
        reader.on_change(self._look)

    def held(self) -> dict[str, Any]:
        """All that the informer holds."""
        return {key: self.reader.get(key) for key in self.reader.keys()}  # noqa: SIM118

    def _take(self, delta: Delta[Any]) -> None:
        old, new = delta.old, delta.new
        self.deltas += 1
        if self.replayed.get(delta.key) != old or old == new:
            self.wrong.append(f"not what was held: {delta}")
        if old is not None and new is not None and old.uid and new.uid and old.uid != new.uid:
            self.wrong.append(f"another uid without a deletion: {delta}")
        if self._judge is not None and (why := self._judge(delta)):
            self.wrong.append(why)
        if new is None:
            self.replayed.pop(delta.key, None)
        else:
            self.replayed[delta.key] = new

    def _look(self) -> None:
        if self._synced and not self.reader.synced:
            self.wrong.append("synced has reverted")
        self._synced = self.reader.synced


class Witness:
    """The informers and their replays, on an event loop in a thread of its own.

    Args:
        kubeconfig: How to get to the proxy's second port.
        page_size: As the daemon's.
        resources: What is watched.
        judge: Says what is wrong with a delta, if anything.
    """

    def __init__(
        self,
        kubeconfig: Path,
        page_size: int,
        resources: tuple[Resource[Any, Any], ...] = _RESOURCES,
        judge: Callable[[Delta[Any]], str] | None = None,
    ) -> None:
        self._config = KubernetesConfig(kubeconfig=str(kubeconfig))
        self._page_size = page_size
        self._resources = resources
        self._judge = judge
        self._pages = False
        self._portal: BlockingPortal
        self._running: Future[None] | None = None
        self._scope: anyio.CancelScope
        self._replays: list[Replay] = []

    @contextmanager
    def running(self) -> Iterator["Witness"]:
        """Watches until left."""
        with start_blocking_portal() as self._portal:
            self.restart()
            try:
                yield self
            finally:
                self._end()

    def restart(self, *, pages: bool = False) -> None:
        """Starts again: the daemon backs off where faults follow each other.

        Args:
            pages: Lists are asked for in pages, even where the API server streams them.
        """
        self._end()
        self._pages = pages
        self._running, _ = self._portal.start_task(self._watch)

    def disagreement(self, admin: Admin) -> str:
        """What its deltas, what it holds and a fresh list differ in; empty where they agree.

        Raises:
            AssertionError: A delta was wrong in itself, which no time fixes.
        """
        return "; ".join(filter(None, (self._compare(each, admin) for each in self._replays)))

    def replay(self, resource: str) -> tuple[dict[str, Any], list[str]]:
        """What the deltas of one resource come to, and what was wrong with any."""
        (found,) = (each for each in self._replays if each.resource.id == resource)
        return self._portal.call(lambda: (dict(found.replayed), list(found.wrong)))

    def _compare(self, replay: Replay, admin: Admin) -> str:
        resource = replay.resource
        selector: dict[str, Any] = (
            {"fieldSelector": f"metadata.name={resource.name}"} if resource.name else {}
        )
        decoder = ObjectDecoder(resource)
        fresh = {}
        for item in admin.list(resource.path, **selector):
            decoded = decoder.decode(json.dumps(item).encode())
            fresh[decoded.key] = decoded.value
        held, replayed, status, wrong = self._portal.call(
            lambda: (
                replay.held(),
                dict(replay.replayed),
                replay.reader.status(),
                list(replay.wrong),
            )
        )
        assert not wrong, (resource.id, wrong)
        assert held == replayed, (resource.id, held, replayed)
        if status.last_error or not status.synced:
            return f"{resource.id}: {status.last_error or 'not synced'}"
        if held != fresh:
            keys = sorted(key for key in held.keys() | fresh.keys() if key is not None)
            differ = [key for key in keys if held.get(key) != fresh.get(key)]
            return f"{resource.id}: differs in {differ}"
        return ""

    async def _watch(self, *, task_status: TaskStatus[None]) -> None:
        async with (
            KubeClient.connect(self._config, KubeStats(), environ={}) as client,
            anyio.create_task_group() as tasks,
        ):
            self._scope = tasks.cancel_scope
            self._replays = []
            for resource in self._resources:
                informer = Informer(
                    resource,
                    KubeSource(client, resource),
                    now=time.time,
                    rng=random.Random(1),
                    stats=InformerStats(resource.id),
                    page_size=self._page_size,
                    streamed=not self._pages,
                )
                self._replays.append(Replay(resource, informer.reader, self._judge))
                tasks.start_soon(informer.run)
            task_status.started()

    def _end(self) -> None:
        if self._running is not None:
            self._portal.call(self._scope.cancel)
            self._running.result(timeout=60)
            self._running = None
