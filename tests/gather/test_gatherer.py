"""Snapshots: what they wait for, when they change, and when they say that they aren't whole."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from telemetryd.config import IdentityConfig, PrivacyConfig
from telemetryd.errors import NotReady, UnreadableReason
from telemetryd.export.payloads.formats import PAYLOAD_FORMATS
from telemetryd.gather.aggregate import LASTING_S
from telemetryd.gather.counts import HOLD_S, anonymous_id
from telemetryd.gather.gatherer import Gatherer
from telemetryd.model import (
    ClusterRecord,
    ClusterRow,
    ClusterTraits,
    Delivery,
    Drop,
    NamespaceRecord,
    SettingRecord,
    Snapshot,
    SystemRow,
    Unreadable,
    split,
)
from telemetryd.stats import GatherStats
from tests.gather.readers import (
    CLUSTER_UUID,
    INSTALL_UUID,
    NOW_S,
    FilledStore,
    Fleet,
    cluster,
    feature,
    node,
)
from tests.gather.upstream import LISTED
from tests.support.counting import calls_of
from tests.support.virtualtime import VirtualTimeLoop

pytestmark = pytest.mark.anyio
UNREADABLE = Unreadable("uid", UnreadableReason.TYPE)
GROUP = "management.cattle.io"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return ("asyncio", {"loop_factory": VirtualTimeLoop})


class World:
    """A gatherer over a fleet in memory, with a clock and a build commit to set."""

    def __init__(
        self,
        fleet: Fleet | None = None,
        overrides: IdentityConfig | None = None,
        *,
        detailed: bool = False,
    ) -> None:
        self.fleet = fleet or Fleet()
        self.now_s = NOW_S
        self.clock_step_s = 0.0
        self.git_hash: str | None = "0123abc"
        self.stats = GatherStats()
        self.gatherer = Gatherer(
            readers=self.fleet.readers(),
            overrides=overrides or IdentityConfig(),
            git_hash=lambda: self.git_hash,
            now=lambda: self.now_s + self.clock_step_s,
            clock=lambda: self.now_s,
            stats=self.stats,
            detailed=detailed,
        )


def test_a_snapshot_holds_identity_features_and_fleet() -> None:
    world = World()
    world.fleet.cluster("local", node("4", "16Gi"))
    world.fleet.cluster("c-1", node("3920m", "64G"), node("4", "64G"))
    world.fleet.features.put("fleet", feature(default=True))
    snapshot = world.gatherer.snapshot()
    identity = snapshot.identity
    assert (identity.install_uuid, identity.cluster_uuid) == (INSTALL_UUID, CLUSTER_UUID)
    assert (identity.version, identity.git_hash) == ("v2.15.0", "0123abc")
    assert (identity.server_url, identity.product) == (
        "https://rancher.example.org",
        "rancher-prime",
    )
    assert snapshot.features == LISTED["v2.15.0", "prime"]
    assert snapshot.systems == (
        SystemRow("amd64", 4, 16384, True, 1),
        SystemRow("amd64", 4, 61036, False, 2),
    )
    assert snapshot.clusters == (ClusterRow(False, 2, 1), ClusterRow(True, 1, 1))
    assert (snapshot.totals.nodes, snapshot.totals.managed_clusters) == (3, 1)
    assert (snapshot.revision, snapshot.taken_at) == (1, NOW_S)
    assert snapshot.complete
    assert snapshot.incomplete_reasons == ()


def test_an_empty_fleet_has_a_snapshot() -> None:
    snapshot = World().gatherer.snapshot()
    assert (snapshot.systems, snapshot.clusters, snapshot.totals.nodes) == ((), (), 0)


def test_a_snapshot_cannot_be_changed() -> None:
    snapshot = World().gatherer.snapshot()
    with pytest.raises(FrozenInstanceError):
        snapshot.revision = 2  # type: ignore[misc]


def test_a_snapshot_is_the_same_object_until_something_changes() -> None:
    world = World()
    world.fleet.cluster("c-1", node())
    first = world.gatherer.snapshot()
    world.now_s += 60
    assert world.gatherer.snapshot() is first
    world.fleet.nodes.put("c-1/9", node())
    second = world.gatherer.snapshot()
    assert (second.revision, second.taken_at) == (2, NOW_S + 60)
    assert (first.totals.nodes, second.totals.nodes) == (1, 2)
    assert world.stats.generation == 2
    assert sum(world.stats.build_duration.counts) == 2


def test_a_change_that_no_payload_shows_keeps_the_snapshot() -> None:
    world = World()
    world.fleet.cluster("c-1", node())
    first = world.gatherer.snapshot()
    world.fleet.nodes.put("c-1/0", node(uid="another"))
    world.fleet.clusters.put("c-1", cluster("c-1"))
    world.fleet.settings.put("private", SettingRecord(uid="s", value=""))
    world.fleet.set("telemetry-opt", "out")
    world.fleet.features.put("off", feature(default=False))
    assert world.gatherer.snapshot() is first


def test_a_change_that_is_taken_back_keeps_the_snapshot() -> None:
    world = World()
    world.fleet.cluster("c-1", node())
    first = world.gatherer.snapshot()
    world.fleet.nodes.put("c-1/1", node())
    world.fleet.nodes.delete("c-1/1")
    assert world.gatherer.snapshot() is first


def test_each_kind_of_change_raises_the_revision_by_one() -> None:
    world = World()
    changes: list[Callable[[], None]] = [
        lambda: world.fleet.clusters.put("c-1", cluster("c-1")),
        lambda: world.fleet.nodes.put("c-1/0", node()),
        lambda: world.fleet.nodes.put("c-1/0", node("8")),
        lambda: world.fleet.nodes.put("c-1/1", UNREADABLE),
        lambda: world.fleet.set("server-version", "v2.16.0"),
        lambda: world.fleet.set("server-url", "https://other.example.org"),
        lambda: world.fleet.features.put("a", feature(default=True)),
        lambda: world.fleet.kube_system.put("kube-system", NamespaceRecord(uid=INSTALL_UUID)),
        lambda: setattr(world, "git_hash", "fedcba9"),
        lambda: world.fleet.nodes.contact(NOW_S - 121),
        lambda: world.fleet.nodes.contact(NOW_S),
        lambda: world.fleet.clusters.delete("c-1"),
    ]
    for number, change in enumerate(changes, start=1):
        assert world.gatherer.snapshot().revision == number
        change()
        assert world.gatherer.snapshot().revision == number + 1


def test_unsynced_informers_are_named_and_nothing_else() -> None:
    world = World(Fleet(synced=False))
    world.fleet.settings.refill({})
    world.fleet.clusters.sync()
    with pytest.raises(NotReady) as caught:
        world.gatherer.snapshot()
    expected = (
        f"informer nodes.{GROUP}",
        f"informer settings.{GROUP}",
        f"informer features.{GROUP}",
        "informer namespaces",
    )
    assert caught.value.waiting_for == expected
    assert world.gatherer.missing() == expected


def test_a_resource_that_is_not_served_is_named_until_it_is() -> None:
    world = World()
    world.fleet.nodes.finish_absent()
    assert world.gatherer.missing() == (f"resource nodes.{GROUP} (not served)",)
    world.fleet.nodes.sync()
    assert world.gatherer.missing() == ()


def test_missing_identity_is_named_and_found_again() -> None:
    world = World()
    world.fleet.settings.delete("install-uuid")
    world.fleet.set("server-url", "")
    assert world.gatherer.missing() == ("setting install-uuid", "setting server-url")
    with pytest.raises(NotReady):
        world.gatherer.snapshot()
    world.fleet.set("install-uuid", INSTALL_UUID)
    world.fleet.set("server-url", "https://rancher.example.org")
    assert world.gatherer.snapshot().identity.install_uuid == INSTALL_UUID


def test_the_first_answer_on_the_git_hash_is_waited_for() -> None:
    world = World()
    world.git_hash = None
    assert world.gatherer.missing() == ("git hash (first answer)",)
    with pytest.raises(NotReady):
        world.gatherer.snapshot()
    world.git_hash = "unknown"
    assert world.gatherer.snapshot().identity.git_hash == "unknown"


def test_kube_system_is_not_waited_for_where_the_configuration_names_the_cluster() -> None:
    fleet = Fleet()
    fleet.kube_system = FilledStore[NamespaceRecord]("namespaces", synced=False)
    world = World(fleet, IdentityConfig(cluster_uuid=INSTALL_UUID))
    assert world.gatherer.snapshot().identity.cluster_uuid == INSTALL_UUID


def test_readers_that_were_full_before_are_counted() -> None:
    fleet = Fleet()
    fleet.cluster("local", node())
    fleet.cluster("c-1", node(), node())
    assert World(fleet).gatherer.snapshot().totals.nodes == 3


def test_unreadable_objects_make_it_incomplete_and_are_counted_by_resource() -> None:
    world = World()
    world.fleet.cluster("c-1", node())
    world.fleet.clusters.put("c-2", UNREADABLE)
    world.fleet.nodes.put("c-1/1", UNREADABLE)
    world.fleet.nodes.put(None, UNREADABLE)
    snapshot = world.gatherer.snapshot()
    assert not snapshot.complete
    assert snapshot.incomplete_reasons == (
        f"clusters.{GROUP}: 1 unreadable",
        f"nodes.{GROUP}: 2 unreadable",
    )
    assert snapshot.totals.unreadable == {f"clusters.{GROUP}": 1, f"nodes.{GROUP}": 2}
    assert snapshot.clusters == (ClusterRow(False, 0, 1), ClusterRow(False, 2, 1))
    assert snapshot.totals.everything.unreadable_nodes == 1


def test_an_informer_out_of_contact_keeps_the_facts_and_says_so() -> None:
    world = World()
    world.fleet.cluster("c-1", node())
    first = world.gatherer.snapshot()
    world.now_s += 120
    assert world.gatherer.snapshot() is first
    world.fleet.clusters.contact(world.now_s)
    world.fleet.features.contact(world.now_s)
    world.fleet.kube_system.contact(None)
    world.now_s += 1
    stale = world.gatherer.snapshot()
    assert stale.incomplete_reasons == (
        "namespaces: no contact for 120 s",
        f"nodes.{GROUP}: no contact for 120 s",
        f"settings.{GROUP}: no contact for 120 s",
    )
    assert (stale.systems, stale.clusters) == (first.systems, first.clusters)
    world.now_s += 1000
    world.fleet.clusters.contact(world.now_s)
    world.fleet.features.contact(world.now_s)
    assert world.gatherer.snapshot() is stale


def test_a_step_of_the_wall_clock_neither_hides_lost_contact_nor_claims_it() -> None:
    world = World()
    world.fleet.cluster("c-1", node())
    first = world.gatherer.snapshot()
    world.clock_step_s = 3600.0
    assert world.gatherer.snapshot() is first
    world.clock_step_s = -3600.0
    world.now_s += 300
    assert not world.gatherer.snapshot().complete


def test_a_relist_that_finds_the_same_keeps_the_snapshot() -> None:
    world = World()
    world.fleet.cluster("c-1", node(), node("8"))
    first = world.gatherer.snapshot()
    world.fleet.nodes.refill({f"c-1/{n}": node(c) for n, c in enumerate("48")})
    assert world.gatherer.snapshot() is first


async def test_waiting_ends_with_the_last_thing_that_was_missing() -> None:
    world = World(Fleet(synced=False))
    world.git_hash = None
    ready_at: list[float] = []

    async def wait() -> None:
        await world.gatherer.wait_ready()
        world.gatherer.snapshot()
        ready_at.append(anyio.current_time())

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        for reader in world.gatherer._required:
            await anyio.sleep(10)
            assert not ready_at
            assert isinstance(reader, FilledStore)
            reader.sync()
        await anyio.sleep(10)
        assert not ready_at
        world.git_hash = "unknown"
        world.gatherer.recheck()
        await anyio.sleep(0.001)
        assert ready_at == [anyio.current_time() - 0.001]


async def test_waiting_sees_a_resource_that_comes_to_be_served_without_objects() -> None:
    world = World()
    world.fleet.nodes.finish_absent()
    with anyio.fail_after(10.001):
        async with anyio.create_task_group() as group:
            group.start_soon(world.gatherer.wait_ready)
            await anyio.sleep(10)
            world.fleet.nodes.sync()


async def test_waiting_sees_what_no_one_announces_within_a_second() -> None:
    world = World()
    world.git_hash = None
    with anyio.fail_after(11):
        async with anyio.create_task_group() as group:
            group.start_soon(world.gatherer.wait_ready)
            await anyio.sleep(10)
            world.git_hash = "unknown"


async def test_waiting_returns_at_once_when_ready() -> None:
    world = World()
    with anyio.fail_after(0):
        await world.gatherer.wait_ready()


def collection_calls(clusters: int, nodes: int, payload_format: str) -> int:
    """What a collection calls after a change of one node, where each has a size of its own."""
    world = World()
    chosen = PAYLOAD_FORMATS[payload_format]
    if chosen.needs_detail:
        world.gatherer.add_detail()
    for number in range(clusters):
        name = f"c-{number}"
        sizes = (f"{2**24 + 1025 * (nodes * number + each)}Ki" for each in range(nodes))
        world.fleet.cluster(name, *(node("4", size) for size in sizes))
    render = chosen.renderer()

    def collect() -> None:
        render(world.gatherer.snapshot(), Delivery(NOW_S))

    collect()
    world.fleet.nodes.put("c-0/0", node("8", "7777777Ki"))
    return calls_of(collect)


@pytest.mark.parametrize(
    ("few", "many"), [((4, 25), (40, 25)), ((4, 25), (4, 250))], ids=["clusters", "nodes"]
)
def test_a_collection_costs_the_same_with_ten_times_the_nodes_each_of_its_own_size(
    few: tuple[int, int], many: tuple[int, int]
) -> None:
    assert 0 < collection_calls(*many, "scc") <= 1.2 * collection_calls(*few, "scc")


def test_a_fleet_payload_costs_the_same_with_ten_times_the_nodes_each_of_its_own_size() -> None:
    assert 0 < collection_calls(4, 250, "fleet") <= 1.2 * collection_calls(4, 25, "fleet")


def test_overrides_that_change_show_in_the_next_snapshot_and_go_again() -> None:
    world = World()
    first = world.gatherer.snapshot()
    world.gatherer.override(IdentityConfig(product="other", version="v9.9.9"))
    second = world.gatherer.snapshot()
    assert (second.identity.product, second.identity.version) == ("other", "v9.9.9")
    assert second.revision == first.revision + 1
    world.gatherer.override(IdentityConfig())
    assert world.gatherer.snapshot().identity == first.identity


def test_kube_system_is_needed_as_soon_as_no_override_stands_in_for_it() -> None:
    world = World(Fleet(synced=False), IdentityConfig(cluster_uuid=CLUSTER_UUID))
    for reader in world.gatherer._required:
        assert isinstance(reader, FilledStore)
        reader.sync()
    assert world.gatherer.missing() == ()
    world.gatherer.override(IdentityConfig())
    assert world.gatherer.missing() == ("informer namespaces",)
    world.gatherer.override(IdentityConfig(cluster_uuid=INSTALL_UUID))
    assert world.gatherer.snapshot().identity.cluster_uuid == INSTALL_UUID


async def test_override_ends_the_wait_for_what_it_gives() -> None:
    world = World()
    world.fleet.settings.remove("install-uuid")
    ready_at: list[float] = []

    async def wait() -> None:
        await world.gatherer.wait_ready()
        ready_at.append(anyio.current_time())

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await anyio.sleep(0.3)
        assert not ready_at
        world.gatherer.override(IdentityConfig(install_uuid=INSTALL_UUID))
    assert ready_at == [0.3]


def ids(snapshot: Snapshot) -> list[str]:
    assert snapshot.detail is not None
    return [cluster.id for cluster in snapshot.detail.clusters]


def test_detail_is_made_only_where_it_is_asked_for() -> None:
    world = World()
    world.fleet.cluster("c-1", node())
    first = world.gatherer.snapshot()
    assert first.detail is None
    upgraded = ClusterRecord(uid="uid-c-1", kubernetes_version="v1.33.9")
    world.fleet.clusters.put("c-1", upgraded)
    assert world.gatherer.snapshot() is first
    world.gatherer.add_detail()
    second = world.gatherer.snapshot()
    assert second.revision == first.revision + 1
    assert ids(second) == [anonymous_id("uid-c-1", INSTALL_UUID)]
    assert (second.systems, second.clusters, second.totals) == (
        first.systems,
        first.clusters,
        first.totals,
    )


def test_what_only_the_detail_tells_raises_the_revision() -> None:
    world = World(detailed=True)
    world.fleet.cluster("c-1", node())
    first = world.gatherer.snapshot()
    assert world.gatherer.snapshot() is first
    world.fleet.clusters.put("c-1", ClusterRecord("uid-c-1", "v1.33.9"))
    second = world.gatherer.snapshot()
    assert second.revision == first.revision + 1
    world.fleet.clusters.put("c-1", ClusterRecord("another", "v1.33.9"))
    third = world.gatherer.snapshot()
    assert third.revision == second.revision + 1
    assert ids(third) != ids(second) == ids(first)


def test_another_install_uuid_gives_other_ids_and_the_former_the_former_ones() -> None:
    world = World(detailed=True)
    world.fleet.cluster("c-1", node())
    first = ids(world.gatherer.snapshot())
    world.gatherer.override(IdentityConfig(install_uuid=CLUSTER_UUID))
    assert ids(world.gatherer.snapshot()) == [anonymous_id("uid-c-1", CLUSTER_UUID)] != first
    world.fleet.set("install-uuid", CLUSTER_UUID)
    world.gatherer.override(IdentityConfig())
    assert ids(world.gatherer.snapshot()) == [anonymous_id("uid-c-1", CLUSTER_UUID)]
    world.fleet.set("install-uuid", INSTALL_UUID)
    assert ids(world.gatherer.snapshot()) == first


def test_privacy_leaves_out_the_url_and_the_ids_from_the_next_snapshot_on() -> None:
    world = World(detailed=True)
    world.fleet.cluster("c-1", node())
    first = world.gatherer.snapshot()
    world.gatherer.protect(PrivacyConfig(server_url="omit"))
    second = world.gatherer.snapshot()
    assert (second.identity.server_url, ids(second)) == ("", ids(first))
    world.gatherer.protect(PrivacyConfig(cluster_ids="omit"))
    third = world.gatherer.snapshot()
    assert (third.identity, ids(third)) == (first.identity, [""])
    world.gatherer.protect(PrivacyConfig())
    fourth = world.gatherer.snapshot()
    assert (fourth.identity, fourth.detail) == (first.identity, first.detail)
    world.gatherer.protect(PrivacyConfig())
    assert world.gatherer.snapshot() is fourth


def test_the_server_url_is_waited_for_even_where_it_is_not_sent() -> None:
    world = World()
    world.gatherer.protect(PrivacyConfig(server_url="omit"))
    world.fleet.settings.delete("server-url")
    assert world.gatherer.missing() == ("setting server-url",)


def test_texts_that_may_not_leave_are_other_and_counted() -> None:
    world = World()
    world.git_hash = "other"
    world.fleet.set("server-version", "v2.17.0-acme")
    for name in ("acme", "acme_two", "acme.three", "fleet"):
        world.fleet.features.put(name, feature(default=True))
    snapshot = world.gatherer.snapshot()
    assert {*snapshot.features} >= {"fleet", "other"}
    assert len(set(snapshot.features)) == len(snapshot.features)
    assert "acme_" not in str(snapshot)
    assert snapshot.totals.withheld == {"feature_flags": 2, "git_hash": 1, "version": 1}


def test_a_cluster_whose_own_count_differs_is_a_doubt_and_not_incomplete() -> None:
    world = World()
    world.fleet.clusters.put("c-1", replace(cluster("c-1"), node_count=3))
    snapshot = world.gatherer.snapshot()
    assert snapshot.complete
    assert snapshot.doubts == ("clusters: 1 differ from their own nodeCount or capacity",)
    for number in range(3):
        world.fleet.nodes.put(f"c-1/{number}", node())
    assert world.gatherer.snapshot().doubts == ()


def test_a_difference_that_begins_is_a_doubt_once_it_has_lasted() -> None:
    world = World()
    world.fleet.clusters.put("c-1", replace(cluster("c-1"), node_count=0))
    first = world.gatherer.snapshot()
    world.fleet.nodes.put("c-1/0", node())
    second = world.gatherer.snapshot()
    assert (first.doubts, second.doubts) == ((), ())
    world.now_s += LASTING_S
    third = world.gatherer.snapshot()
    assert len(third.doubts) == 1
    assert third.revision == second.revision + 1
    assert world.gatherer.snapshot() is third


def test_an_implausible_drop_is_a_doubt_for_an_hour_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    world.fleet.cluster("c-1", *[node()] * 20)
    assert world.gatherer.snapshot().doubts == ()
    for number in range(12):
        world.fleet.nodes.delete(f"c-1/{number}")
    for _ in range(3):
        fallen = world.gatherer.snapshot()
        world.now_s += 60
    assert fallen.doubts == ("nodes: fell from 20 to 8 within minutes",)
    assert fallen.totals.drops == (Drop("nodes", 20, 8),)
    assert fallen.complete
    assert [record.levelname for record in caplog.records if "drop" in record.message] == [
        "WARNING"
    ]
    world.now_s += HOLD_S
    assert world.gatherer.snapshot().doubts == ()


def test_a_slow_fall_between_two_snapshots_is_no_drop() -> None:
    world = World()
    world.fleet.cluster("c-1", *[node()] * 20)
    world.gatherer.snapshot()
    for number in range(15):
        world.now_s += 3600
        world.fleet.nodes.delete(f"c-1/{number}")
    assert world.gatherer.snapshot().totals.drops == ()
    for number in range(15, 20):
        world.fleet.nodes.delete(f"c-1/{number}")
    assert world.gatherer.snapshot().totals.drops == (Drop("nodes", 6, 0),)


def test_an_unknown_provider_and_driver_count_as_other_and_are_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    world = World()
    odd = replace(cluster("c-1"), traits=ClusterTraits(provider="other", driver="other"))
    for number in range(3):
        world.fleet.clusters.put(f"c-{number}", odd)
        snapshot = world.gatherer.snapshot()
    assert snapshot.totals.withheld == {"driver": 3, "provider": 3}
    assert set(split(snapshot.totals.groups, lambda key: key.provider)) == {"other"}
    said = [record.getMessage() for record in caplog.records if "other" in record.getMessage()]
    assert len(said) == 2
