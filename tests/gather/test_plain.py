"""Plain Kubernetes: one upstream cluster, and an identity made of what every cluster has."""

import json
from typing import Any
from uuid import UUID, uuid5

import jsonschema
import pytest

from telemetryd.config import IdentityConfig
from telemetryd.errors import NotReady, UnreadableReason
from telemetryd.export.payloads.scc import scc_schema
from telemetryd.gather.gatherer import Gatherer
from telemetryd.gather.plain import INSTALLATIONS, LocalCluster, PlainReaders
from telemetryd.model import (
    ClusterRecord,
    ClusterRow,
    ClusterTraits,
    Delta,
    NamespaceRecord,
    NodeRecord,
    SystemRow,
    Unreadable,
)
from telemetryd.stats import GatherStats
from tests.export.doubles import render_scc
from tests.gather.readers import CLUSTER_UUID, NOW_S, FilledStore, node

VERSION = "v1.33.4+rke2r1"
INSTALL_UUID = str(uuid5(UUID("5b6ea98a-1d02-4f25-a68f-9a6451012e93"), CLUSTER_UUID))
OTHER_UUID = "11111111-2222-4333-8444-555555555555"


class World:
    """A gatherer over a plain cluster in memory, with a version and a commit to set."""

    def __init__(self, overrides: IdentityConfig | None = None, *, synced: bool = True) -> None:
        self.nodes = FilledStore[NodeRecord]("nodes", synced=synced)
        self.kube_system = FilledStore[NamespaceRecord]("namespaces", synced=synced)
        self.version: str | None = VERSION
        self.git_hash: str | None = "0123abc"
        self.readers = PlainReaders(self.nodes, self.kube_system, lambda: self.version)
        self.kube_system.put("kube-system", NamespaceRecord(uid=CLUSTER_UUID))
        self.gatherer = Gatherer(
            readers=self.readers,
            overrides=overrides or IdentityConfig(),
            git_hash=lambda: self.git_hash,
            now=lambda: NOW_S,
            clock=lambda: NOW_S,
            stats=GatherStats(),
        )

    def add(self, *nodes: NodeRecord) -> None:
        for number, record in enumerate(nodes):
            self.nodes.put(f"n-{number}", record)


def test_the_namespace_of_install_uuids_never_changes() -> None:
    assert str(INSTALLATIONS) == "5b6ea98a-1d02-4f25-a68f-9a6451012e93"
    assert World().gatherer.snapshot().identity.install_uuid == INSTALL_UUID
    assert UUID(INSTALL_UUID).version == 5


def test_identity_is_that_of_kube_system_and_the_api_server() -> None:
    identity = World().gatherer.snapshot().identity
    assert identity.cluster_uuid == CLUSTER_UUID
    assert (identity.version, identity.git_hash) == (VERSION, "0123abc")
    assert (identity.server_url, identity.product) == ("", "kubernetes")


def test_one_cluster_is_there_and_upstream_with_and_without_nodes() -> None:
    world = World()
    snapshot = world.gatherer.snapshot()
    assert snapshot.clusters == (ClusterRow(upstream=True, nodes=0, count=1),)
    world.add(node("4", "16Gi"), node("3500m", "16Gi"))
    snapshot = world.gatherer.snapshot()
    assert snapshot.clusters == (ClusterRow(upstream=True, nodes=2, count=1),)
    assert snapshot.systems == (SystemRow("amd64", 4, 16384, upstream=True, count=2),)
    assert (snapshot.totals.local_clusters, snapshot.totals.managed_clusters) == (1, 0)
    assert (snapshot.totals.nodes, snapshot.totals.orphan_nodes) == (2, 0)
    assert snapshot.features == ()
    assert snapshot.complete


def test_payload_fits_the_schema_and_has_no_feature_flags() -> None:
    world = World()
    world.add(node())
    payload = render_scc(world.gatherer.snapshot(), NOW_S)
    assert payload.schema_valid
    document: dict[str, Any] = json.loads(payload.body)
    jsonschema.validate(document, scc_schema())
    assert "feature_flags" not in document
    assert document["version"] == "1.33.4"
    assert document["subscription"]["server_url"] == ""


def test_what_is_missing_is_named() -> None:
    world = World(synced=False)
    assert world.gatherer.missing() == ("informer nodes", "informer namespaces")
    for store in (world.nodes, world.kube_system):
        store.sync()
    world.version = world.git_hash = None
    world.gatherer.facts_changed()
    assert world.gatherer.missing() == ("version of the API server",)
    world.version = VERSION
    world.gatherer.facts_changed()
    assert world.gatherer.missing() == ("git hash (first answer)",)
    with pytest.raises(NotReady):
        world.gatherer.snapshot()


def test_kube_system_that_is_unreadable_or_no_uuid_is_named() -> None:
    world = World()
    world.kube_system.put("kube-system", Unreadable("u", UnreadableReason.TYPE))
    assert world.gatherer.missing() == ("namespace kube-system: unreadable",)
    world.kube_system.put("kube-system", NamespaceRecord(uid="x"))
    assert world.gatherer.missing() == ("namespace kube-system: not a UUID",)
    world.kube_system.delete("kube-system")
    assert world.gatherer.missing() == ("namespace kube-system",)


def test_an_upgraded_api_server_changes_the_next_snapshot() -> None:
    world = World()
    first = world.gatherer.snapshot()
    assert world.gatherer.snapshot() is first
    world.version = "v1.34.0"
    world.gatherer.facts_changed()
    second = world.gatherer.snapshot()
    assert (second.identity.version, second.revision) == ("v1.34.0", first.revision + 1)


def test_overrides_go_first() -> None:
    overrides = IdentityConfig(
        install_uuid=OTHER_UUID,
        cluster_uuid=OTHER_UUID,
        server_url="https://named.example.org",
        version="v9",
        product="mine",
    )
    world = World(overrides)
    world.version = None
    identity = world.gatherer.snapshot().identity
    assert (identity.install_uuid, identity.cluster_uuid) == (OTHER_UUID, OTHER_UUID)
    assert (identity.server_url, identity.version) == ("https://named.example.org", "v9")
    assert identity.product == "mine"
    world.version = VERSION
    world.gatherer.override(IdentityConfig())
    assert world.gatherer.snapshot().identity.install_uuid == INSTALL_UUID


def test_the_cluster_is_reported_as_an_informer_would() -> None:
    world = World()
    world.version = None
    deltas: list[Delta[ClusterRecord]] = []
    cluster = LocalCluster(world.readers, deltas.append)
    cluster.refresh()
    world.version = VERSION
    cluster.refresh()
    traits = ClusterTraits(driver="local", management="local", active=True)
    known = ClusterTraits("rke2", "local", "local", active=True)
    before = ClusterRecord(CLUSTER_UUID, "", traits)
    after = ClusterRecord(CLUSTER_UUID, VERSION, known)
    assert deltas == [Delta("local", None, before), Delta("local", before, after)]
