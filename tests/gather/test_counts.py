"""Clusters and shapes by deltas: a recount after any order of them, anonymous ids, their cost."""

import hmac
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import RFC_4122, UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetryd.errors import UnreadableReason
from telemetryd.gather.aggregate import FleetAggregate
from telemetryd.gather.counts import anonymous_id, coarse_shape, coarsen
from telemetryd.model import (
    UNKNOWN_GROUP,
    UNREADABLE_TRAITS,
    ClusterDetail,
    ClusterRecord,
    Delta,
    FleetDetail,
    NodeRecord,
    RoleCounts,
    ShapeDetail,
    Unreadable,
    own_of,
)
from tests.gather.readers import INSTALL_UUID, cluster, node
from tests.support.counting import lines_of

uids = st.one_of(st.uuids().map(str), st.text(min_size=1, max_size=40))


def test_id_is_what_anyone_can_make_from_uid_and_install_uuid() -> None:
    key = bytes.fromhex(INSTALL_UUID.replace("-", ""))
    uid = "0d3c4f52-3d0b-4b53-8a44-d0a8c6a6fd1e"
    digits = list(hmac.new(key, uid.encode(), "sha256").hexdigest()[:32])
    digits[12] = "8"
    digits[16] = "89ab"[int(digits[16], 16) % 4]
    made = anonymous_id(uid, INSTALL_UUID)
    assert made.replace("-", "") == "".join(digits)
    assert made == "bea23d2f-e849-860d-969e-c3b63743c3bd"


@given(uids, st.uuids())
def test_id_is_a_uuid_of_version_8(uid: str, install: UUID) -> None:
    made = UUID(anonymous_id(uid, str(install)))
    assert (made.version, made.variant) == (8, RFC_4122)
    assert anonymous_id(uid, str(install)) == str(made)
    assert anonymous_id(uid, str(install).upper()) == str(made)


@given(uids, uids, st.uuids(), st.uuids())
def test_another_cluster_or_installation_has_another_id(
    uid: str, other_uid: str, install: UUID, other_install: UUID
) -> None:
    made = anonymous_id(uid, str(install))
    assert (anonymous_id(other_uid, str(install)) == made) is (uid == other_uid)
    assert (anonymous_id(uid, str(other_install)) == made) is (install == other_install)


def test_ids_of_many_clusters_never_meet() -> None:
    ids = {anonymous_id(str(uuid4()), INSTALL_UUID) for _ in range(10_000)}
    assert len(ids) == 10_000


def test_install_uuid_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="hexadecimal"):
        anonymous_id("uid", "not a uuid")


OTHER_INSTALL_UUID = "9a0c3a5e-8d3b-4c55-9a68-0c3d0c8a7a22"


NAMES = ("local", "c-m-7x2kq5zt", "c-abcde", "c-fghij")


names = st.sampled_from(NAMES)


UNREADABLE_SHAPE = NodeRecord(own_of("", None), UNREADABLE_TRAITS).shape


uid_of_three = st.sampled_from(["uid-a", "uid-b", "uid-c"])


node_states = st.one_of(
    st.none(),
    st.builds(Unreadable, uid=uid_of_three, reason=st.just(UnreadableReason.TYPE)),
    st.builds(
        node,
        st.sampled_from([None, "500m", "4", "1n"]),
        st.sampled_from([None, "8Gi", "1500m"])
        | st.integers(2**20, 2**25).map(lambda kib: f"{kib}Ki"),
        architecture=st.sampled_from(["amd64", "arm64"]),
        roles=st.sampled_from([(), ("etcd", "worker"), ("controlplane",)]),
    ),
)


cluster_states = st.one_of(
    st.none(),
    st.builds(Unreadable, uid=uid_of_three, reason=st.just(UnreadableReason.TYPE)),
    st.builds(ClusterRecord, uid=uid_of_three, kubernetes_version=st.sampled_from(["", "v1.33.1"])),
)


steps = st.one_of(
    st.tuples(st.just("node"), st.sampled_from([f"{name}/n" for name in NAMES]), node_states),
    st.tuples(st.just("cluster"), names, cluster_states),
    st.tuples(st.just("look"), st.sampled_from([INSTALL_UUID, OTHER_INSTALL_UUID]), st.none()),
    st.tuples(st.just("recount"), st.booleans(), st.none()),
)


Held = dict[str, Any]


def recount(
    nodes: Held, clusters: Held, install_uuid: str | None, *, coarse: bool = False
) -> FleetDetail:
    """The detail from scratch, by nothing but the records."""
    readable = [
        (
            key.partition("/")[0],
            record.shape if isinstance(record, NodeRecord) else UNREADABLE_SHAPE,
        )
        for key, record in nodes.items()
        if record is not None
    ]
    present = {name: record for name, record in clusters.items() if record is not None}
    details = []
    for name, record in present.items():
        shapes = [shape for cluster, shape in readable if cluster == name]
        roles = Counter(role for shape in shapes for role in shape.roles or ("other",))
        readable_cluster = isinstance(record, ClusterRecord)
        details.append(
            ClusterDetail(
                id=anonymous_id(record.uid, install_uuid) if install_uuid else "",
                upstream=name == "local",
                kubernetes_version=record.kubernetes_version if readable_cluster else "",
                nodes=len(shapes),
                roles=RoleCounts(
                    roles["controlplane"], roles["etcd"], roles["worker"], roles["other"]
                ),
                cpu_nano=sum(shape.cpu_nano or 0 for shape in shapes),
                memory_nano=sum(shape.memory_nano or 0 for shape in shapes),
                unreported_cpu=sum(shape.cpu_nano is None for shape in shapes),
                unreported_memory=sum(shape.memory_nano is None for shape in shapes),
                group=replace(
                    UNKNOWN_GROUP,
                    kind="local" if name == "local" else "managed",
                    management="local" if name == "local" else "other",
                    kubernetes_minor="1.33"
                    if readable_cluster and record.kubernetes_version
                    else "other",
                ),
                unreadable_nodes=sum(not shape.readable for shape in shapes),
            )
        )
    round_up = coarse_shape if coarse else lambda shape: shape
    counted = Counter(round_up(shape) for cluster, shape in readable if cluster in present)
    detail = FleetDetail(
        tuple(details), tuple(ShapeDetail(shape, count) for shape, count in counted.items())
    )
    return coarsen(detail) if coarse else detail


def detailed_fleet() -> FleetAggregate:
    fleet = FleetAggregate()
    fleet.count_shapes(())
    return fleet


def in_order(detail: FleetDetail) -> FleetDetail:
    return FleetDetail(
        tuple(sorted(detail.clusters, key=repr)),
        tuple(sorted(detail.shapes, key=repr)),
        detail.coarse,
    )


@given(st.lists(steps, max_size=40))
def test_any_order_of_deltas_equals_a_recount(changes: list[tuple[str, str, Any]]) -> None:
    fleet = detailed_fleet()
    nodes: Held = {}
    clusters: Held = {}
    coarse: Any = False
    for kind, key, new in changes:
        if kind == "look":
            found = in_order(fleet.detail(key))
            assert found == in_order(recount(nodes, clusters, key, coarse=coarse))
        elif kind == "recount":
            coarse = key
            fleet.count_shapes(nodes.items(), coarse=coarse)
        elif kind == "node":
            fleet.apply_node(Delta(key, nodes.get(key), new))
            nodes[key] = new
        else:
            fleet.apply_cluster(Delta(key, clusters.get(key), new))
            clusters[key] = new
    for install_uuid in (INSTALL_UUID, None, INSTALL_UUID):
        found = in_order(fleet.detail(install_uuid))
        assert found == in_order(recount(nodes, clusters, install_uuid, coarse=coarse))
        shapes = fleet.detail(install_uuid).shapes
        assert list(shapes) == sorted(shapes, key=lambda each: each.shape.order)


@given(st.lists(steps, max_size=40))
def test_versions_rise_with_every_change_of_the_detail(changes: list[tuple[str, str, Any]]) -> None:
    fleet = detailed_fleet()
    held: Held = {}
    before = in_order(fleet.detail(INSTALL_UUID))
    for kind, key, new in changes:
        if kind in {"look", "recount"}:
            continue
        versions = (fleet.version, fleet.detail_version)
        apply: Callable[[Delta[Any]], None] = (
            fleet.apply_node if kind == "node" else fleet.apply_cluster
        )
        apply(Delta(key, held.get(kind + key), new))
        held[kind + key] = new
        after = in_order(fleet.detail(INSTALL_UUID))
        if after != before:
            assert (fleet.version, fleet.detail_version) != versions
        before = after


def ids(fleet: FleetAggregate, install_uuid: str = INSTALL_UUID) -> list[str]:
    return [cluster.id for cluster in fleet.detail(install_uuid).clusters]


def put(fleet: FleetAggregate, name: str, uid: str) -> None:
    fleet.apply_cluster(Delta(name, None, ClusterRecord(uid=uid, kubernetes_version="")))


def drop(fleet: FleetAggregate, name: str, uid: str) -> None:
    fleet.apply_cluster(Delta(name, ClusterRecord(uid=uid, kubernetes_version=""), None))


@given(st.permutations(range(6)), st.lists(names, min_size=6, max_size=6))
def test_a_cluster_keeps_its_id_whatever_its_name_and_the_order_of_things(
    order: list[int], prefixes: list[str]
) -> None:
    fleet = detailed_fleet()
    for number in order:
        name = f"{prefixes[number]}-{number}"
        fleet.apply_node(Delta(f"{name}/n", None, node()))
        put(fleet, name, f"uid-{number}")
    expected = {anonymous_id(f"uid-{number}", INSTALL_UUID) for number in range(6)}
    assert set(ids(fleet)) == expected
    for number in order:  # renamed: the same object under another name
        drop(fleet, f"{prefixes[number]}-{number}", f"uid-{number}")
        put(fleet, f"renamed-{number}", f"uid-{number}")
        assert set(ids(fleet)) == expected


def test_a_cluster_made_again_under_its_name_has_another_id() -> None:
    fleet = detailed_fleet()
    fleet.apply_node(Delta("c-1/n", None, node()))
    put(fleet, "c-1", "uid-a")
    (first,) = ids(fleet)
    drop(fleet, "c-1", "uid-a")
    assert ids(fleet) == []
    put(fleet, "c-1", "uid-b")
    (second,) = ids(fleet)
    assert first != second
    fleet.apply_cluster(Delta("c-1", None, ClusterRecord(uid="uid-a", kubernetes_version="")))
    assert ids(fleet) == [first]


def test_a_cluster_that_cannot_be_read_keeps_its_id_and_loses_its_version() -> None:
    fleet = detailed_fleet()
    fleet.apply_cluster(Delta("c-1", None, cluster("c-1")))
    (before,) = fleet.detail(INSTALL_UUID).clusters
    unreadable = Unreadable("uid-c-1", UnreadableReason.TYPE)
    fleet.apply_cluster(Delta("c-1", cluster("c-1"), unreadable))
    (after,) = fleet.detail(INSTALL_UUID).clusters
    assert before.kubernetes_version == "v1.33.1"
    assert after == replace(before, kubernetes_version="", group=UNKNOWN_GROUP)


def test_a_cluster_whose_uid_cannot_be_read_has_no_id() -> None:
    fleet = detailed_fleet()
    fleet.apply_cluster(Delta("c-1", None, Unreadable("", UnreadableReason.MISSING)))
    assert ids(fleet) == [""]


def test_in_another_installation_every_id_differs() -> None:
    fleet = detailed_fleet()
    for number in range(50):
        put(fleet, f"c-{number}", f"uid-{number}")
    here = set(ids(fleet))
    assert len(here) == 50
    assert here.isdisjoint(ids(fleet, OTHER_INSTALL_UUID))
    assert set(ids(fleet)) == here


def test_nothing_is_kept_of_clusters_that_are_gone() -> None:
    fleet = detailed_fleet()
    put(fleet, "c-1", "uid-a")
    fleet.detail(INSTALL_UUID)
    drop(fleet, "c-1", "uid-a")
    assert not fleet._clusters
    assert fleet.detail(INSTALL_UUID) == FleetDetail((), ())


def lines_by_function(work: Callable[[], object]) -> Counter[str]:
    return lines_of(work, "aggregate.py", "counts.py", "rows.py")


def fleet_of(clusters: int, nodes: int) -> FleetAggregate:
    fleet = detailed_fleet()
    for number in range(clusters):
        name = f"c-{number}"
        put(fleet, name, f"uid-{name}")
        for machine in range(nodes):
            made = node("4", f"{1 + machine % 5}Gi")
            fleet.apply_node(Delta(f"{name}/{machine}", None, made))
    return fleet


def test_a_detail_costs_the_same_with_ten_times_the_nodes() -> None:
    def first_cost(nodes: int) -> Counter[str]:
        fleet = fleet_of(20, nodes)
        return lines_by_function(lambda: fleet.detail(INSTALL_UUID))

    small = first_cost(5)
    assert small.total() > 0
    assert first_cost(50) == small


def test_only_what_changed_is_summed_and_hashed_again() -> None:
    fleet = fleet_of(20, 5)
    first = lines_by_function(lambda: fleet.detail(INSTALL_UUID))
    fleet.apply_node(Delta("c-3/9", None, node()))
    second = lines_by_function(lambda: fleet.detail(INSTALL_UUID))
    third = lines_by_function(lambda: fleet.detail(INSTALL_UUID))
    assert first["anonymous_id"] > 0
    assert second["anonymous_id"] == 0
    assert 0 < 10 * second["_sum_up"] < first["_sum_up"]
    assert third["_sum_up"] == 0
