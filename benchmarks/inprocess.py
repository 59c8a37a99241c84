"""What can be counted only inside: traced bytes a node, and the time of one collection.

The stores are filled with the fleet's own JSON as an informer fills them, without a server between,
so that 100,000 nodes take seconds. A process of its own: ``NODES`` and the name of the fleet in, a
JSON object out.
"""

import gc
import json
import sys
import time
import tracemalloc
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import anyio
import orjson

from benchmarks.figures import quantile
from benchmarks.fleet import BenchFleet, Stored
from benchmarks.realfleet import make_fleet
from benchmarks.results import UNIFORM
from telemetryd.config import IdentityConfig
from telemetryd.demo.rendering import LOCAL
from telemetryd.export.payloads.formats import PAYLOAD_FORMATS
from telemetryd.gather.clusters import CLUSTERS
from telemetryd.gather.gatherer import Gatherer, Readers
from telemetryd.gather.project import (
    FEATURES,
    KUBE_SYSTEM,
    NODES,
    PROJECTS,
    SETTINGS,
)
from telemetryd.informer.decode import ObjectDecoder
from telemetryd.informer.resource import KubeObject, Resource
from telemetryd.informer.store import Relist, Store
from telemetryd.model import Delivery, Record, Unreadable
from telemetryd.stats import GatherStats, InformerStats
from telemetryd.timing import boot_time_s

_COLLECTIONS = 200
T = TypeVar("T", bound=KubeObject)
R = TypeVar("R", bound=Record)


async def measure(nodes: int, name: str = UNIFORM) -> dict[str, float]:
    """Fill the stores, then collect again and again, with a change in between.

    Returns:
        ``traced_bytes_per_node``, ``collection_s`` (median, snapshot and SCC payload),
        ``collection_cpu_s`` of it, ``collection_unchanged_s`` and ``payload_bytes``.
    """
    fleet = make_fleet(name, nodes)
    resource = NODES
    gc.collect()
    tracemalloc.start()
    node_store = await fill(resource, (o for o in fleet.objects() if o.plural == "nodes"))
    gc.collect()
    traced, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    gatherer = await gatherer_of(fleet, node_store)
    render = PAYLOAD_FORMATS["scc"].renderer()
    states = two_states(fleet, resource)
    changed: list[tuple[float, float]] = []
    unchanged: list[tuple[float, float]] = []
    body = b""
    for turn in range(_COLLECTIONS):
        node_store.upsert(*states[turn % 2])
        node_store.flush()
        for took in (changed, unchanged):
            begun_s, spent_s = time.perf_counter(), time.thread_time()
            body = render(gatherer.snapshot(), Delivery(at=time.time())).body
            took.append((time.perf_counter() - begun_s, time.thread_time() - spent_s))
    return {
        "traced_bytes_per_node": traced / fleet.nodes,
        "collection_s": quantile([wall_s for wall_s, _ in changed], 0.5),
        "collection_cpu_s": quantile([cpu_s for _, cpu_s in changed], 0.5),
        "collection_unchanged_s": quantile([wall_s for wall_s, _ in unchanged], 0.5),
        "payload_bytes": len(body),
    }


async def gatherer_of(fleet: BenchFleet, nodes: Store[Any]) -> Gatherer:
    """A gatherer of this fleet, whose nodes are in this store."""
    objects: dict[str, list[Stored]] = {}
    for stored in fleet.objects():
        if stored.plural != "nodes":
            objects.setdefault(stored.plural, []).append(stored)
    kube_system = next(n for n in fleet.namespaces if n["metadata"]["name"] == "kube-system")
    namespace = Stored("namespaces", "", "kube-system", orjson.dumps(kube_system))
    await fill(PROJECTS, objects["projects"])
    return Gatherer(
        readers=Readers(
            clusters=await fill(CLUSTERS, objects["clusters"]),
            nodes=nodes,
            settings=await fill(SETTINGS, objects["settings"]),
            features=await fill(FEATURES, objects["features"]),
            kube_system=await fill(KUBE_SYSTEM, [namespace]),
        ),
        overrides=IdentityConfig(),
        git_hash=lambda: "unknown",
        now=time.time,
        stats=GatherStats(),
    )


async def fill(resource: Resource[T, R], objects: Iterable[Stored]) -> Store[R]:
    """A store that has listed these objects."""
    stats = InformerStats(resource.id, last_contact_boot_s=boot_time_s())
    store: Store[R] = Store(stats)
    relist: Relist[R] = Relist(store)
    decoder = ObjectDecoder(resource)
    for body in _versioned(objects):
        item = decoder.decode(body)
        relist.add(item.key, item.value)
    await relist.apply("1")
    return store


def _versioned(objects: Iterable[Stored]) -> Iterator[bytes]:
    """Their JSON as the API server sends it: with a resource version."""
    for number, stored in enumerate(objects, 1):
        yield stored.body.replace(
            b'"metadata":{', b'"metadata":{"resourceVersion":"%d",' % number, 1
        )


def two_states(
    fleet: BenchFleet, resource: Resource[T, R]
) -> tuple[tuple[str, R | Unreadable], tuple[str, R | Unreadable]]:
    """Key and record of a node as another machine, and as it is: a change that moves the counts."""
    decoder = ObjectDecoder(resource)
    nodes = (stored for stored in fleet.objects() if stored.plural == "nodes")
    first = next(node for node in nodes if node.namespace != LOCAL)
    node = orjson.loads(first.body)
    node["status"]["internalNodeStatus"]["capacity"] |= {"cpu": "48", "memory": "50000000Ki"}
    changed = replace(first, body=orjson.dumps(node))
    other, same = (decoder.decode(body).value for body in _versioned((changed, first)))
    key = f"{first.namespace}/{first.name}"
    return (key, other), (key, same)


if __name__ == "__main__":
    size, *names = sys.argv[1:]
    name = names[0] if names else UNIFORM
    sys.stdout.write(json.dumps(anyio.run(measure, int(size), name)) + "\n")
