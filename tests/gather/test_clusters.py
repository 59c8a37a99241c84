"""What kind of cluster an object stands for, and the numbers that it holds itself."""

import json
from typing import Any

import pytest

from telemetryd.gather.clusters import CLUSTERS
from telemetryd.informer.decode import ObjectDecoder
from telemetryd.model import Amounts, ClusterRecord, ClusterTraits

GIB_NANO = 2**30 * 10**9
PROVISIONED = {"provisioning.cattle.io/administrated": "true"}
IMPORTED = {"provisioning.cattle.io/administrated": "false"}


def record_of(name: str = "c-1", **parts: Any) -> ClusterRecord:
    metadata = {"name": name, "uid": "u-1", "resourceVersion": "7", **parts.pop("metadata", {})}
    content = {"kind": "Cluster", "metadata": metadata, **parts}
    record = ObjectDecoder(CLUSTERS).decode(json.dumps(content).encode()).value
    assert isinstance(record, ClusterRecord)
    return record


def traits_of(name: str = "c-1", **parts: Any) -> ClusterTraits:
    return record_of(name, **parts).traits


def condition(kind: str, status: str, reason: str = "") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": "private"}


@pytest.mark.parametrize(
    ("status", "labels", "provider"),
    [
        ({"provider": "k3s"}, {}, "k3s"),
        ({"provider": "rke2", "driver": "imported"}, {}, "rke2"),
        ({"provider": "eks", "driver": "EKS"}, {}, "eks"),
        ({"provider": "gke"}, {"provider.cattle.io": "eks"}, "gke"),
        ({"provider": ""}, {"provider.cattle.io": "harvester"}, "harvester"),
        ({"driver": "EKS"}, {}, "eks"),
        ({"driver": "GKE"}, {}, "gke"),
        ({"driver": "AKS"}, {}, "aks"),
        ({"driver": "Alibaba"}, {}, "alibaba"),
        ({"driver": "k3os"}, {}, "k3s"),
        ({"driver": "rancherd"}, {}, "rke2"),
        ({"driver": "imported", "version": {"gitVersion": "v1.33.1+rke2r1"}}, {}, "rke2"),
        ({"version": {"gitVersion": "v1.33.1+k3s1"}}, {}, "k3s"),
        ({"version": {"gitVersion": "v1.31.2-eks-7f9249a"}}, {}, "eks"),
        ({"version": {"gitVersion": "v1.31.2-gke.100"}}, {}, "gke"),
        ({"driver": "imported", "version": {"gitVersion": "v1.33.1"}}, {}, "imported"),
        ({"provider": "rke.windows"}, {}, "rke"),
        ({"provider": "acme-kubernetes"}, {}, "other"),
        ({"provider": "acme-kubernetes", "driver": "EKS"}, {}, "other"),
        ({"provider": "x" * 10_000}, {}, "other"),
        ({}, {}, ""),
    ],
)
def test_the_provider_is_of_a_closed_list(
    status: dict[str, Any], labels: dict[str, str], provider: str
) -> None:
    assert traits_of(status=status, metadata={"labels": labels}).provider == provider


@pytest.mark.parametrize(
    ("given", "driver"),
    [
        ("imported", "imported"),
        ("EKS", "eks"),
        ("k3s", "k3s"),
        ("local", "local"),
        ("rancherKubernetesEngine", "rke"),
        ("googleKubernetesEngine", "gke"),
        ("acme", "other"),
        ("", ""),
    ],
)
def test_the_driver_is_of_a_closed_list(given: str, driver: str) -> None:
    assert traits_of(status={"driver": given}).driver == driver


@pytest.mark.parametrize(
    ("parts", "management"),
    [
        (
            {"metadata": {"annotations": PROVISIONED}, "status": {"driver": "imported"}},
            "provisioned",
        ),
        ({"metadata": {"annotations": IMPORTED}, "status": {"driver": "imported"}}, "imported"),
        ({"status": {"driver": "rke2"}}, "imported"),
        ({"status": {"driver": "k3s"}}, "imported"),
        ({"status": {"driver": "rancherKubernetesEngine"}}, "provisioned"),
        ({"spec": {"eksConfig": {"imported": False}}, "status": {"driver": "EKS"}}, "hosted"),
        ({"spec": {"eksConfig": {"imported": True}}, "status": {"driver": "EKS"}}, "imported"),
        ({"spec": {"gkeConfig": {"imported": None}}}, "hosted"),
        ({"spec": {"aksConfig": {"clientSecret": "private"}}}, "hosted"),
        ({"spec": {"aliConfig": {}}}, "hosted"),
        ({"spec": {"genericEngineConfig": {"driverName": "private"}}}, "hosted"),
        ({"spec": {"eksConfig": None}, "status": {"driver": "EKS"}}, "hosted"),
        ({}, "imported"),
    ],
)
def test_management_is_as_rancher_tells_it(parts: dict[str, Any], management: str) -> None:
    assert traits_of(**parts).management == management


def test_the_local_cluster_is_local_whatever_its_driver() -> None:
    traits = traits_of("local", status={"driver": "imported"})
    assert (traits.management, traits.provider) == ("local", "")


@pytest.mark.parametrize(
    ("conditions", "active", "stale"),
    [
        ([condition("Ready", "True"), condition("Connected", "True")], True, False),
        ([condition("Ready", "True")], True, False),
        ([condition("Ready", "False", "Disconnected")], False, True),
        ([condition("Ready", "Unknown", "Disconnected")], False, True),
        ([condition("Connected", "False")], False, True),
        ([condition("Connected", "Unknown"), condition("Ready", "True")], True, True),
        ([condition("Ready", "False", "ComponentStatusFetchingFailure")], False, True),
        ([condition("Ready", "False", "Error"), condition("Connected", "True")], False, False),
        ([condition("Ready", "Unknown"), None], False, False),
        ([], False, False),
        (None, False, False),
    ],
)
def test_a_cluster_is_active_or_stale_by_its_conditions(
    conditions: list[dict[str, str] | None] | None,
    active: bool,
    stale: bool,
) -> None:
    traits = traits_of(status={"conditions": conditions})
    assert (traits.active, traits.stale) == (active, stale)


def test_a_cluster_with_a_deletion_timestamp_is_being_deleted() -> None:
    assert traits_of(metadata={"deletionTimestamp": "2026-07-01T08:30:00Z"}).deleting
    assert not traits_of(metadata={"deletionTimestamp": None}).deleting


def test_its_own_numbers_are_read_exactly() -> None:
    record = record_of(
        status={
            "nodeCount": 3,
            "capacity": {"cpu": "11500m", "memory": "48Gi", "pods": "330"},
            "requested": {"cpu": "4150m", "memory": "2Gi", "pods": 39},
        }
    )
    assert record.node_count == 3
    assert record.capacity == Amounts(11_500_000_000, 48 * GIB_NANO, 330)
    assert record.requested == Amounts(4_150_000_000, 2 * GIB_NANO, 39)


@pytest.mark.parametrize(
    ("given", "amounts"),
    [
        (None, None),
        ({}, None),
        ({"cpu": "many", "memory": "-1", "pods": ""}, None),
        ({"cpu": "4"}, Amounts(cpu_nano=4 * 10**9)),
        ({"pods": "1e2"}, Amounts(pods=100)),
        ({"pods": "9" * 400, "cpu": "0"}, Amounts(cpu_nano=0)),
    ],
)
def test_what_is_missing_or_no_quantity_is_not_given(given: object, amounts: object) -> None:
    assert record_of(status={"capacity": given}).capacity == amounts
    assert record_of(status={"nodeCount": -1}).node_count is None


def test_equal_clusters_share_their_traits() -> None:
    first, second = record_of("c-1"), record_of("c-2")
    assert first.traits is second.traits
