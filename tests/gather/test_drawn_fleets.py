"""A thousand fleets drawn by lot: from the bytes of lists and watches to those of the payload."""

import json
from random import Random
from typing import Any, Generic

import anyio
import pytest

from telemetryd.config import IdentityConfig
from telemetryd.export.payloads.fleet import fleet_renderer
from telemetryd.gather.clusters import CLUSTERS
from telemetryd.gather.gatherer import Gatherer, Readers
from telemetryd.gather.project import FEATURES, KUBE_SYSTEM, NODES, SETTINGS
from telemetryd.informer.apply import Applier, Progress, read_page
from telemetryd.informer.resource import Resource
from telemetryd.informer.store import Relist, Store
from telemetryd.model import Delivery, R
from telemetryd.stats import GatherStats, InformerStats
from tests.apiserver.fixtures import namespace, setting
from tests.export.doubles import render_scc
from tests.gather.drawn import SEED, assert_counted, draw_fleet
from tests.gather.readers import CLUSTER_UUID, NOW_S
from tests.gather.recount import Object, recount_totals

AT_A_TIME = 100
BY_DEFAULT = 200
"""So many of them `make test` draws, and `make test-long` the others."""
LATER_S = 7200.0


class FedStore(Generic[R]):
    """A store that gets its objects as the bytes of lists and of watches."""

    def __init__(self, resource: Resource[Any, R]) -> None:
        stats = InformerStats(resource.id, last_contact_at=NOW_S, last_contact_boot_s=NOW_S)
        self.store: Store[R] = Store(stats)
        self._resource = resource
        self._applier = Applier(resource, self.store, stats, lambda: 0.0)
        self._version = 0
        self._held: dict[tuple[str, str], Object] = {}

    async def relist(self, objects: list[Object]) -> None:
        """All of them, as one page."""
        self._hold(objects)
        group = f"{self._resource.group}/" if self._resource.group else ""
        page = {
            "kind": f"{self._resource.kind}List",
            "apiVersion": f"{group}{self._resource.version}",
            "metadata": {"resourceVersion": self._next()},
            "items": list(self._held.values()),
        }
        relist: Relist[R] = Relist(self.store)
        read = await read_page(json.dumps(page).encode(), self._resource)
        await self._applier.take_page(read, relist)
        await relist.apply(str(self._version))

    async def watch(self, objects: list[Object]) -> None:
        """What has changed, as events."""
        before = self._held
        coming = {name_of(each) for each in objects}
        events = [
            {"type": "DELETED", "object": self._stored(each)}
            for name, each in before.items()
            if name not in coming
        ]
        self._hold(objects)
        events += [
            {"type": "MODIFIED" if name in before else "ADDED", "object": each}
            for name, each in self._held.items()
        ]
        lines = [json.dumps(event).encode() for event in events]
        assert await self._applier.apply_lines([*lines], Progress(0.0))

    def _hold(self, objects: list[Object]) -> None:
        self._held = {name_of(each): self._stored(each) for each in objects}

    def _stored(self, item: Object) -> Object:
        metadata = {"uid": f"uid {name_of(item)}", **item["metadata"]}
        return {**item, "metadata": {**metadata, "resourceVersion": self._next()}}

    def _next(self) -> str:
        self._version += 1
        return str(self._version)


def name_of(item: Object) -> tuple[str, str]:
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]


class FedGatherer:
    """A gatherer whose stores are fed."""

    def __init__(self, clock_s: float = NOW_S) -> None:
        self.clock_s = clock_s
        self.clusters = FedStore(CLUSTERS)
        self.nodes = FedStore(NODES)
        self.settings = FedStore(SETTINGS)
        self.features = FedStore(FEATURES)
        self.kube_system = FedStore(KUBE_SYSTEM)
        self._followed: tuple[FedStore[Any], ...] = (self.clusters, self.nodes, self.settings)
        self._gatherer = Gatherer(
            readers=Readers(
                clusters=self.clusters.store,
                nodes=self.nodes.store,
                settings=self.settings.store,
                features=self.features.store,
                kube_system=self.kube_system.store,
            ),
            overrides=IdentityConfig(),
            git_hash=lambda: "unknown",
            now=lambda: NOW_S,
            clock=lambda: self.clock_s,
            stats=GatherStats(),
            detailed=True,
        )

    async def begin(self) -> None:
        """Have what never changes."""
        for store in (*self._followed, self.features):
            await store.relist([])
        core = namespace("kube-system")
        core["metadata"]["uid"] = CLUSTER_UUID
        await self.kube_system.relist([core])

    async def payloads(self, fleet: Object, rng: Random) -> tuple[bytes, Object]:
        """SCC and fleet payload once this fleet has come in, in one way or another."""
        named = [setting(name, value) for name, value in fleet["settings"].items()]
        objects = (fleet["clusters"], fleet["nodes"], named)
        for number in rng.sample(range(3), 3):
            store = self._followed[number]
            await rng.choice((store.relist, store.watch))(objects[number])
        self._gatherer.snapshot()
        # What is only doubtful for a while, for it has just changed, is so no more.
        self.clock_s += LATER_S
        snapshot = self._gatherer.snapshot()
        document = json.loads(fleet_renderer()(snapshot, Delivery(at=NOW_S)).body)
        del document["delivery"]
        return render_scc(snapshot, NOW_S).body, document


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(first, marks=pytest.mark.long if first >= BY_DEFAULT else ())
        for first in range(0, 1000, AT_A_TIME)
    ],
)
def test_fleet_drawn_by_lot_has_the_exact_recount_in_its_payload(first: int) -> None:
    anyio.run(check, first)


async def check(first: int) -> None:
    print(f"FLEETS_SEED={SEED}")  # noqa: T201 - shown where it fails
    gatherer = FedGatherer()
    await gatherer.begin()
    for number in range(first, first + AT_A_TIME):
        rng = Random(f"{SEED} {number}")
        fleet = draw_fleet(rng)
        body, document = await gatherer.payloads(fleet, rng)
        where = f"fleet {number} of FLEETS_SEED={SEED}"
        assert_counted(fleet, body, where)
        expected = recount_totals(fleet)
        assert {key: document["totals"][key] for key in expected} == expected, where
        if number % 10 == 9:
            # What has been added and taken away since the first fleet leaves no trace.
            fresh = FedGatherer(gatherer.clock_s - LATER_S)
            await fresh.begin()
            assert await fresh.payloads(fleet, rng) == (body, document), where
