"""The uniform fleet: Rancher's objects as JSON, 50 nodes to a cluster, ten kinds of machines.

A thousand nodes are rendered as the demo renders them, 7.2 KB each; a larger fleet repeats them
under other names, UIDs and host names, because rendering a hundred thousand would take a minute.
``realfleet`` makes a fleet of it whose nodes differ; ``servers`` stores them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import orjson

from benchmarks.results import UNIFORM
from telemetryd.demo.fleet import LOCAL_NODES, Fleet
from telemetryd.demo.objects import JsonObject
from telemetryd.demo.rendering import LOCAL

NODES_EACH = 50
_TEMPLATE_CLUSTERS = 20
_SEED = 7
_HEARTBEAT = datetime(2026, 7, 1, 8, 30, tzinfo=UTC)
_HEARTBEAT_JSON = b'"2026-07-01T08:30:00Z"'
_NOT_SERVED = {"Namespace", "SecretRequest"}
"""Kinds that the API server has already, or that would make the daemon do more than is measured."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One object, ready to be stored.

    Attributes:
        plural: Of its kind.
        namespace: Empty for cluster scope.
        group: Of its kind; empty for the core group.
    """

    plural: str
    namespace: str
    name: str
    body: bytes
    group: str = "management.cattle.io"


class BenchFleet:
    """A fleet of so many nodes, and three of the local cluster.

    Attributes:
        name: Of the kind of fleet.
        nodes_path: Where the API server lists its nodes.
        beside_path: Where it keeps a few of them.
        clusters: Managed clusters.
        nodes: All nodes, the local cluster's included.
    """

    name = UNIFORM
    nodes_path = "/apis/management.cattle.io/v3/nodes"
    beside_path = "/apis/management.cattle.io/v3/namespaces/local/nodes"

    def __init__(self, nodes: int) -> None:
        """Render what is repeated.

        Args:
            nodes: Of managed clusters, a multiple of 50.

        Raises:
            ValueError: It is none.
        """
        if nodes < NODES_EACH or nodes % NODES_EACH:
            raise ValueError(f"a fleet has a multiple of {NODES_EACH} nodes, not {nodes}")
        self.clusters = nodes // NODES_EACH
        self.nodes = nodes + LOCAL_NODES
        fleet = Fleet(
            min(self.clusters, _TEMPLATE_CLUSTERS), NODES_EACH, _SEED, now=lambda: _HEARTBEAT
        )
        rendered = list(fleet.objects())
        self.namespaces = [obj for obj in rendered if obj["kind"] == "Namespace"]
        self._once = [
            _stored(obj)
            for obj in rendered
            if obj["kind"] not in _NOT_SERVED and _cluster_of(obj) in {"", LOCAL}
        ]
        self._groups: dict[str, list[tuple[Stored, str]]] = {}
        for obj in rendered:
            cluster = _cluster_of(obj)
            if obj["kind"] in {"Cluster", "Node"} and cluster != LOCAL:
                part = (_stored(obj), obj["metadata"]["uid"])
                self._groups.setdefault(cluster, []).append(part)

    def objects(self) -> Iterator[Stored]:
        """All that there is."""
        yield from self._once
        for number in range(self.clusters):
            yield from self._cluster(number)

    def heartbeats(self, count: int) -> Iterator[Stored]:
        """So many nodes, each as it is after another heartbeat; round and round the fleet."""
        made = 0
        while True:
            for number in range(self.clusters):
                for node in self._cluster(number):
                    if node.plural != "nodes":
                        continue
                    if made == count:
                        return
                    made += 1
                    yield beaten(node, made)

    def _cluster(self, number: int) -> Iterator[Stored]:
        """A cluster and its nodes, in this order."""
        return self._repeated(number)

    def _repeated(self, number: int) -> Iterator[Stored]:
        """A rendered cluster; from the 21st on, it has another name."""
        names = list(self._groups)
        name = names[number % len(names)]
        turn = number // len(names)
        for stored, uid in self._groups[name]:
            yield stored if not turn else _renamed(stored, uid, name, turn)


def beaten(node: Stored, number: int) -> Stored:
    """A node after a heartbeat; its conditions tell another time for each number."""
    moment = datetime.fromtimestamp(_HEARTBEAT.timestamp() + number, UTC)
    stamp = f'"{moment:%Y-%m-%dT%H:%M:%SZ}"'.encode()
    body = node.body.replace(_HEARTBEAT_JSON, stamp)
    return replace(node, body=body)


def _cluster_of(obj: JsonObject) -> str:
    """The cluster that an object belongs to, empty for Rancher's own."""
    metadata = obj["metadata"]
    if obj["kind"] == "Cluster":
        name: str = metadata["name"]
        return name
    namespace: str = metadata.get("namespace", "")
    return namespace


def _stored(obj: JsonObject) -> Stored:
    metadata = obj["metadata"]
    return Stored(
        plural=f"{obj['kind'].lower()}s",
        namespace=metadata.get("namespace", ""),
        name=metadata["name"],
        body=orjson.dumps(obj),
    )


def _renamed(stored: Stored, uid: str, cluster: str, turn: int) -> Stored:
    new_cluster = f"{cluster}-{turn}"
    name = new_cluster if stored.plural == "clusters" else f"{stored.name}-{turn}"
    body = stored.body.replace(cluster.encode(), new_cluster.encode())
    body = body.replace(uid[:8].encode(), b"%08x" % turn)
    if stored.plural == "nodes":
        body = body.replace(stored.name.encode(), name.encode())
    namespace = new_cluster if stored.namespace else ""
    return Stored(stored.plural, namespace, name, body)
