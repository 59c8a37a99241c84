"""A Rancher-like fleet: what exists, and how it changes from one moment to the next.

Everything is drawn from one seed, so that the same arguments give the same fleet and the same
churn. Holds facts, not objects: those are rendered when asked for.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import UUID

import anyio

from telemetryd.demo.catalogue import (
    FEATURES,
    KUBERNETES_VERSIONS,
    SETTINGS,
    SHAPES,
    FeatureRow,
)
from telemetryd.demo.objects import JsonObject
from telemetryd.demo.rendering import (
    LOCAL,
    ClusterFacts,
    NodeFacts,
    render_cluster,
    render_feature,
    render_namespace,
    render_node,
    render_project,
    render_secret_request,
    render_setting,
)

LOCAL_NODES = 3
_BEGINNING = datetime(2026, 1, 12, 9, 0, tzinfo=UTC)
_CONSONANTS = "bcdfghjklmnpqrstvwxz2456789"
_STEADY, _TURNOVER = 24, 4
"""Weights of churn: heartbeats against additions and removals."""


@dataclass(frozen=True, slots=True)
class Step:
    """An object that appears or changes; or one that is ``gone``, of which only the name counts."""

    obj: JsonObject
    gone: bool = False


@dataclass(frozen=True, slots=True)
class _Flag:
    """The state of one feature."""

    row: FeatureRow
    uid: str
    value: bool | None


class Fleet:
    """The local cluster with three nodes, managed clusters with theirs, and Rancher's objects."""

    def __init__(
        self, clusters: int, nodes: int, seed: int, *, now: Callable[[], datetime]
    ) -> None:
        """Draw a fleet.

        ``clusters`` are managed ones, beside the local one, each of so many ``nodes``.

        Raises:
            ValueError: Less than none are asked for.
        """
        if clusters < 0 or nodes < 0:
            raise ValueError("a fleet can't have less than no clusters or nodes")
        self._rng = Random(seed)
        self._now = now
        self._clusters_wanted = clusters
        self._nodes_each = nodes
        self._numbers = 0
        self.install_uuid = self._uuid()
        self.cluster_uuid = self._uuid()
        self.system_project = self._name("p-")
        self._flags = {row.name: _Flag(row, self._uuid(), None) for row in FEATURES}
        self._setting_uids = {name: self._uuid() for name in (*SETTINGS, "install-uuid")}
        self._clusters: dict[str, ClusterFacts] = {}
        self._nodes: dict[str, dict[str, NodeFacts]] = {}
        self._namespace_uids: dict[str, str] = {}
        self._new_cluster(LOCAL, LOCAL_NODES)
        for _ in range(clusters):
            self._new_cluster(self._name("c-m-"), nodes)

    @property
    def cluster_count(self) -> int:
        """Clusters, the local one included."""
        return len(self._clusters)

    @property
    def node_count(self) -> int:
        """Nodes of all clusters."""
        return sum(len(nodes) for nodes in self._nodes.values())

    def objects(self) -> Iterator[JsonObject]:
        """Everything there is now, namespaces before what lives in them."""
        yield render_namespace("kube-system", self.cluster_uuid, _BEGINNING)
        for name in ("cattle-telemetry-system", "cattle-scc-system"):
            uid = self._namespace_uids.setdefault(name, self._uuid())
            yield render_namespace(name, uid, _BEGINNING, project=self.system_project)
        for name in self._clusters:
            yield render_namespace(name, self._namespace_uids[name], _BEGINNING)
        for name, value in (*SETTINGS.items(), ("install-uuid", self.install_uuid)):
            yield render_setting(name, self._setting_uids[name], _BEGINNING, value)
        for flag in self._flags.values():
            yield render_feature(flag.row, flag.uid, _BEGINNING, value=flag.value)
        for name, display_name in ((self.system_project, "System"), ("p-deflt", "Default")):
            uid = self._namespace_uids.setdefault(name, self._uuid())
            yield render_project(name, uid, _BEGINNING, display_name)
        request_uid = self._namespace_uids.setdefault("rancher-scc-metrics", self._uuid())
        yield render_secret_request(request_uid, _BEGINNING)
        for cluster in self._clusters.values():
            yield self._render_cluster(cluster)
            for node in self._nodes[cluster.name].values():
                yield render_node(node)

    def churn(self) -> list[Step]:
        """One thing that happens to the fleet, as the writes it comes to, in order."""
        managed = [name for name in self._clusters if name != LOCAL]
        inhabited = [name for name in managed if self._nodes[name]]
        # What was asked for is where the fleet is drawn back to, however long it runs.
        more_clusters, fewer_clusters = _weights(len(managed), self._clusters_wanted)
        nodes_wanted = LOCAL_NODES + self._clusters_wanted * self._nodes_each
        more_nodes, fewer_nodes = _weights(self.node_count, nodes_wanted)
        happenings: list[Callable[[], list[Step]]] = [self._toggle_feature]
        happenings += [self._add_cluster] * more_clusters
        happenings += [lambda: self._beat(LOCAL)] * _TURNOVER
        if managed:
            happenings += [lambda: self._remove_cluster(self._rng.choice(managed))] * fewer_clusters
            happenings += [lambda: self._add_node(self._rng.choice(managed))] * (
                _TURNOVER * more_nodes
            )
        if inhabited:
            happenings += [lambda: self._remove_node(self._rng.choice(inhabited))] * (
                _TURNOVER * fewer_nodes
            )
            happenings += [lambda: self._cordon(self._rng.choice(inhabited))] * _TURNOVER
            happenings += [lambda: self._beat(self._rng.choice(inhabited))] * _STEADY
        return self._rng.choice(happenings)()

    def _beat(self, cluster: str) -> list[Step]:
        node = self._any_node(cluster)
        return [self._put_node(replace(node, heartbeat=self._now()))]

    def _cordon(self, cluster: str) -> list[Step]:
        node = self._any_node(cluster)
        return [
            self._put_node(replace(node, cordoned=not node.cordoned)),
            self._put_cluster(cluster),
        ]

    def _add_node(self, cluster: str) -> list[Step]:
        node = self._new_node(self._clusters[cluster], len(self._nodes[cluster]))
        return [Step(render_node(node)), self._put_cluster(cluster)]

    def _remove_node(self, cluster: str) -> list[Step]:
        node = self._any_node(cluster)
        del self._nodes[cluster][node.name]
        return [Step(render_node(node), gone=True), self._put_cluster(cluster)]

    def _add_cluster(self) -> list[Step]:
        cluster = self._new_cluster(self._name("c-m-"), self._nodes_each)
        namespace = render_namespace(cluster.name, self._namespace_uids[cluster.name], self._now())
        nodes = [Step(render_node(node)) for node in self._nodes[cluster.name].values()]
        return [Step(namespace), self._put_cluster(cluster.name), *nodes]

    def _remove_cluster(self, name: str) -> list[Step]:
        nodes = self._nodes[name].values()
        gone = [*map(render_node, nodes), self._render_cluster(self._clusters.pop(name))]
        gone.append(render_namespace(name, self._namespace_uids.pop(name), self._now()))
        del self._nodes[name]
        return [Step(obj, gone=True) for obj in gone]

    def _toggle_feature(self) -> list[Step]:
        flag = self._rng.choice([flag for flag in self._flags.values() if flag.row.dynamic])
        value = not (flag.row.default if flag.value is None else flag.value)
        self._flags[flag.row.name] = replace(flag, value=value)
        return [Step(render_feature(flag.row, flag.uid, _BEGINNING, value=value))]

    def _put_node(self, node: NodeFacts) -> Step:
        self._nodes[node.cluster][node.name] = node
        return Step(render_node(node))

    def _put_cluster(self, name: str) -> Step:
        return Step(self._render_cluster(self._clusters[name]))

    def _render_cluster(self, cluster: ClusterFacts) -> JsonObject:
        return render_cluster(cluster, list(self._nodes[cluster.name].values()))

    def _any_node(self, cluster: str) -> NodeFacts:
        return self._rng.choice(list(self._nodes[cluster].values()))

    def _new_cluster(self, name: str, nodes: int) -> ClusterFacts:
        cluster = ClusterFacts(
            name=name,
            uid=self._uuid(),
            number=len(self._clusters),
            kubernetes_version=self._rng.choice(KUBERNETES_VERSIONS),
            created=_BEGINNING + timedelta(minutes=self._rng.randrange(100_000)),
        )
        self._clusters[name] = cluster
        self._namespace_uids[name] = self._uuid()
        self._nodes[name] = {}
        for index in range(nodes):
            self._new_node(cluster, index)
        return cluster

    def _new_node(self, cluster: ClusterFacts, index: int) -> NodeFacts:
        """The first three run the control plane; the local ones do everything, as is usual."""
        server = index < LOCAL_NODES
        self._numbers += 1
        node = NodeFacts(
            name=self._name("machine-"),
            cluster=cluster.name,
            uid=self._uuid(),
            number=self._numbers,
            shape=self._rng.choice(SHAPES[:-1] if server else SHAPES),
            etcd=server,
            control_plane=server,
            worker=not server or cluster.name == LOCAL,
            kubernetes_version=cluster.kubernetes_version,
            created=cluster.created,
            heartbeat=self._now(),
        )
        self._nodes[cluster.name][node.name] = node
        return node

    def _uuid(self) -> str:
        return str(UUID(int=self._rng.getrandbits(128), version=4))

    def _name(self, prefix: str) -> str:
        """A name as the API server generates them; unique, for it ends in a running number."""
        self._numbers += 1
        drawn = "".join(self._rng.choices(_CONSONANTS, k=5))
        return f"{prefix}{drawn}{self._numbers:x}"


def _weights(number: int, wanted: int) -> tuple[int, int]:
    """How often one more must come, and how often one must go."""
    return (3, 1) if number < wanted else (1, 3) if number > wanted else (1, 1)


async def run_churn(fleet: Fleet, per_second: float, take: Callable[[Step], object]) -> None:
    """Change the fleet at a steady rate until cancelled.

    Each write has its own due time counted from the start, so that a late one delays no other.
    The fleet knows of a happening as soon as its first write is due; the server has the truth.

    Raises:
        ValueError: The rate isn't above 0.
    """
    if per_second <= 0:
        raise ValueError("per_second must be above 0")
    started, taken = anyio.current_time(), 0
    while True:
        for step in fleet.churn():
            taken += 1
            await anyio.sleep_until(started + taken / per_second)
            take(step)
