"""A fleet of all providers on a real API server: every place that counts it counts it alike.

``tests.system.providers`` has the fleet and the recount. Payloads, metrics and the page are what
the daemon shows of it.
"""

import json
import re
from base64 import b64decode
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.apiserver.admin import Admin, Object
from tests.apiserver.crds import CLUSTERS as CLUSTER_CRD
from tests.apiserver.crds import NODES, collection
from tests.apiserver.fixtures import namespace
from tests.apiserver.process import ApiServer
from tests.gather.consumer import accepted
from tests.gather.recount import recount as recount_scc
from tests.gather.recount import rows_of
from tests.serve.page.test_fleet import Fleet
from tests.support.daemon import Daemon
from tests.system.conftest import CONFIG
from tests.system.providers import (
    CLUSTERS,
    ORPHANS,
    Cluster,
    Node,
    by,
    cluster_manifest,
    node_manifests,
    own_pods,
    recount,
)
from tests.system.rancher import FLEET_SECRET, SECRET, Rancher

GIB = 2**30
NODE_OBJECTS = [
    manifest
    for name, nodes in [
        *((each.name, each.nodes) for each in CLUSTERS),
        *((name, (Node(count),)) for name, count in ORPHANS),
    ]
    for manifest in node_manifests(name, nodes)
]
CLUSTER_OBJECTS = [cluster_manifest(each) for each in CLUSTERS]
ORPHAN_NODES = sum(count for _, count in ORPHANS)
PARTS = [
    ("by_kind", "kind"),
    ("by_provider", "provider"),
    ("by_driver", "driver"),
    ("by_management", "management"),
    ("by_kubernetes_minor", "minor"),
]
VENDORS = ("nvidia", "amd", "intel", "other")
ROLES = ("controlplane", "etcd", "worker", "other")


@pytest.fixture(scope="module")
def daemon(
    admin: Admin, apiserver: ApiServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    """A daemon that has been started where all of this was there."""
    rancher = Rancher(admin)
    rancher.build(clusters=1, nodes=0)
    admin.delete(f"{collection(CLUSTER_CRD)}/local")
    for name in sorted({each["metadata"]["namespace"] for each in NODE_OBJECTS} - {"local"}):
        rancher._create("/api/v1/namespaces", namespace(name))
    for manifest in [*CLUSTER_OBJECTS, *NODE_OBJECTS]:
        create(admin, manifest)
    folder = tmp_path_factory.mktemp("providers")
    started = Daemon(folder, apiserver.kubeconfig(folder / "kubeconfig"), CONFIG)
    try:
        started.wait_for("payloads", lambda: written(admin, FLEET_SECRET), 60)
        started.wait_for("payloads", lambda: written(admin, SECRET), 60)
        yield started
    finally:
        for each in admin.list(collection(CLUSTER_CRD)):
            path = f"{collection(CLUSTER_CRD)}/{each['metadata']['name']}"
            admin.patch(path, {"metadata": {"finalizers": None}})
        rancher.clear()
        assert started.stop() == 0


def create(admin: Admin, manifest: Object) -> None:
    metadata = dict(manifest["metadata"])
    is_going = metadata.pop("deletionTimestamp", None)
    definition = CLUSTER_CRD if manifest["kind"] == "Cluster" else NODES
    scope = collection(definition, metadata.get("namespace", ""))
    admin.create(scope, {**manifest, "metadata": metadata})
    if is_going:
        admin.delete(f"{scope}/{metadata['name']}")


def written(admin: Admin, path: str) -> str:
    secret = Rancher(admin).secret(path)
    return b64decode(secret["data"]["payload"]).decode() if secret is not None else ""


def test_scc_payload_equals_the_recount(daemon: Daemon, admin: Admin) -> None:
    body = written(admin, SECRET)
    accepted(body)
    expected = recount_scc({"clusters": CLUSTER_OBJECTS, "nodes": NODE_OBJECTS})
    assert rows_of(json.loads(body)) == expected
    assert "sentinel" not in body.lower()


def test_totals_of_the_fleet_payload_equal_the_recount(daemon: Daemon, admin: Admin) -> None:
    totals = json.loads(written(admin, FLEET_SECRET))["totals"]
    everything = recount()
    pods = [number for number in map(own_pods, CLUSTERS) if number is not None]
    expected = {
        "clusters": len(CLUSTERS),
        "nodes": everything["nodes"],
        "orphan_nodes": ORPHAN_NODES,
        "roles": {role: everything[f"role {role}"] for role in ROLES},
        "cpu_millis": everything["cpu_millis"],
        "memory_bytes": everything["memory_bytes"],
        "unreported_cpu": everything["unreadable"],
        "unreported_memory": everything["unreadable"],
        "unreadable_nodes": everything["unreadable"],
        "active_clusters": recount(lambda each: each.active)["clusters"],
        "deleting_clusters": recount(lambda each: each.deleting)["clusters"],
        "stale_clusters": recount(lambda each: each.stale)["clusters"],
        "stale_nodes": recount(lambda each: each.stale)["nodes"],
        "differing_clusters": everything["differing"],
        "gpus": {vendor: everything[f"gpus {vendor}"] for vendor in VENDORS},
        "reporting_clusters": len(pods),
        "reported_pods": sum(pods),
        **requests(),
    }
    assert totals == expected


@pytest.mark.parametrize(("part", "name"), PARTS)
def test_parts_of_the_fleet_payload_equal_the_recount(
    daemon: Daemon, admin: Admin, part: str, name: str
) -> None:
    document = json.loads(written(admin, FLEET_SECRET))
    keys = ("clusters", "nodes", "cpu_millis", "memory_bytes")
    expected = [
        {name: value, **{key: sums[key] for key in keys}} for value, sums in parts(name).items()
    ]
    assert document[part] == expected


def test_rows_of_the_fleet_payload_equal_the_recount(daemon: Daemon, admin: Admin) -> None:
    document = json.loads(written(admin, FLEET_SECRET))
    assert Counter(map(row_of, document["clusters"])) == Counter(map(expected_row, CLUSTERS))
    entitled = recount(lambda each: each.kind == "managed" and not each.deleting)
    keys = ("clusters", "nodes", "cpu_millis")
    assert document["entitlement"] == {key: entitled[key] for key in keys}


def test_fleet_payload_says_that_it_is_not_complete_and_names_nothing(
    daemon: Daemon, admin: Admin
) -> None:
    body = written(admin, FLEET_SECRET)
    document = json.loads(body)
    assert document["complete"] is False
    unreadable = {each["resource"]: each["objects"] for each in document["unreadable"]}
    assert unreadable == {
        "clusters.management.cattle.io": sum(not each.readable for each in CLUSTERS),
        "nodes.management.cattle.io": recount()["unreadable"],
    }
    assert len(document["incomplete_reasons"]) == 3, "clusters, nodes, and what differs"
    assert "sentinel" not in body.lower()


def test_metrics_equal_the_recount(daemon: Daemon) -> None:
    expected = expected_series()
    text = daemon.get("/metrics")[1]
    shown = {
        series.removeprefix("telemetryd_fleet_"): float(value)
        for series, _, value in (line.rpartition(" ") for line in text.splitlines())
        if series.startswith("telemetryd_fleet_")
    }
    families = {series.partition("{")[0] for series in expected}
    assert expected.keys() <= shown.keys()
    # What a closed list has and the fleet has not is there as 0.
    assert {
        series: value
        for series, value in shown.items()
        if value and series.partition("{")[0] in families
    } == {series: value for series, value in expected.items() if value}
    assert "sentinel" not in text.lower()


def expected_series() -> dict[str, float]:
    """Every series about the fleet that has a number of the recount, without its prefix."""
    everything = recount()
    requested = requests()
    expected: dict[str, float] = {
        "nodes": everything["nodes"],
        "orphan_nodes": ORPHAN_NODES,
        "unreadable_nodes": everything["unreadable"],
        "cpu_cores": everything["cpu_millis"] / 1000,
        "memory_bytes": everything["memory_bytes"],
        "active_clusters": recount(lambda each: each.active)["clusters"],
        "deleting_clusters": recount(lambda each: each.deleting)["clusters"],
        "stale_clusters": recount(lambda each: each.stale)["clusters"],
        "stale_nodes": recount(lambda each: each.stale)["nodes"],
        "differing_clusters": everything["differing"],
        "pod_capacity": sum(filter(None, map(own_pods, CLUSTERS))),
        "requested_cpu_cores": requested["requested_cpu_millis"] / 1000,
        "requested_memory_bytes": requested["requested_memory_bytes"],
        "requested_pods": requested["requested_pods"],
    }
    for part in ("kind", "provider", "driver", "management", "minor"):
        name = "kubernetes_minor" if part == "minor" else part
        family = "clusters" if part == "kind" else f"clusters_by_{name}"
        for value, sums in parts(part).items():
            label = f'{{{part}="{value}"}}'
            expected[family + label] = sums["clusters"]
            if part in {"kind", "provider"}:
                expected[f"nodes_by_{part}{label}"] = sums["nodes"]
            if part == "kind":
                expected[f"cpu_cores_by_kind{label}"] = sums["cpu_millis"] / 1000
    for vendor in VENDORS:
        expected[f'gpus{{vendor="{vendor}"}}'] = everything[f"gpus {vendor}"]
    for role in ROLES:
        expected[f'node_roles{{role="{role}"}}'] = everything[f"role {role}"]
    for resource in ("cpu", "memory"):
        expected[f'unreported_nodes{{resource="{resource}"}}'] = everything["unreadable"]
    return expected


def parts(name: str) -> dict[str, Counter[str]]:
    return by(lambda each: str(getattr(each, name)))


def requests() -> dict[str, int]:
    """What pods request, by the clusters' own status."""
    requested = [each.requested for each in CLUSTERS if each.requested is not None]
    return {
        "requesting_clusters": len(requested),
        "requested_cpu_millis": sum(cpu for cpu, _, _ in requested),
        "requested_memory_bytes": sum(gib for _, gib, _ in requested) * GIB,
        "requested_pods": sum(pods for _, _, pods in requested),
    }


def numbers(text: str) -> list[int]:
    return [int(each.replace(",", "")) for each in re.findall(r"[0-9,]*[0-9]", text)]


@pytest.mark.parametrize(
    ("caption", "part"),
    [
        ("By kind", "kind"),
        ("By distribution", "provider"),
        ("By Kubernetes version", "minor"),
        ("By management", "management"),
        ("By driver", "driver"),
    ],
)
def test_parts_on_the_page_equal_the_recount(daemon: Daemon, caption: str, part: str) -> None:
    _, *rows = Fleet(daemon.get("/")[1]).tables[caption]
    assert {row[0]: numbers(" ".join(row[1:])) for row in rows} == {
        value: [sums["clusters"], sums["nodes"], round(sums["cpu_millis"] / 1000)]
        for value, sums in parts(part).items()
    }


def test_numbers_on_the_page_equal_the_recount(daemon: Daemon) -> None:
    text = daemon.get("/")[1]
    shown = {name: numbers(value) for name, value in Fleet(text).values.items()}
    local = recount(lambda each: each.kind == "local")
    everything, managed = recount(), recount(lambda each: each.kind == "managed")
    active, stale = recount(lambda each: each.active), recount(lambda each: each.stale)
    deleting = recount(lambda each: each.deleting)
    unreadable = everything["unreadable"]
    kinds = (everything, local, managed)
    assert shown["Clusters"] == [each["clusters"] for each in kinds]
    assert shown["Nodes"] == [each["nodes"] for each in kinds]
    assert shown["CPU cores"] == [round(each["cpu_millis"] / 1000) for each in kinds]
    assert shown["Memory"] == [round(each["memory_bytes"] / GIB) for each in kinds]
    by_vendor = [everything[f"gpus {vendor}"] for vendor in VENDORS]
    assert shown["GPUs"] == [sum(by_vendor), *by_vendor]
    assert shown["Cluster states"] == [
        active["clusters"],
        everything["clusters"] - active["clusters"],
        deleting["clusters"],
    ]
    assert shown["Unreachable"] == [stale["clusters"], stale["nodes"]]
    assert shown["Node roles"] == [everything[f"role {role}"] for role in ROLES]
    assert shown["Nodes with gaps"] == [unreadable, unreadable, unreadable, ORPHAN_NODES]
    assert "sentinel" not in text.lower()


def test_status_document_equals_the_recount(daemon: Daemon) -> None:
    fleet = daemon.status()["snapshot"]["fleet"]
    for key, part in PARTS:
        assert fleet[key] == {
            value: {
                "clusters": sums["clusters"],
                "nodes": sums["nodes"],
                "cpu_cores": sums["cpu_millis"] / 1000,
            }
            for value, sums in parts(part).items()
        }
    everything = recount()
    expected = {
        "nodes": everything["nodes"],
        "gpus": {vendor: everything[f"gpus {vendor}"] for vendor in VENDORS},
        "node_roles": {role: everything[f"role {role}"] for role in ROLES},
        "active_clusters": recount(lambda each: each.active)["clusters"],
        "deleting_clusters": recount(lambda each: each.deleting)["clusters"],
        "stale_clusters": recount(lambda each: each.stale)["clusters"],
        "stale_nodes": recount(lambda each: each.stale)["nodes"],
        "differing_clusters": everything["differing"],
        "unreadable_nodes": everything["unreadable"],
        "orphan_nodes": ORPHAN_NODES,
    }
    assert {key: fleet[key] for key in expected} == expected
    assert "sentinel" not in json.dumps(daemon.status()).lower()


def row_of(row: dict[str, Any]) -> str:
    keys = (
        *("upstream", "provider", "driver", "management", "active", "deleting", "stale"),
        *("nodes", "unreadable_nodes", "cpu_millis", "memory_bytes", "gpus", "differs"),
    )
    return json.dumps(
        {
            **{key: row[key] for key in keys},
            "reported": row["reported"]["nodes"],
            "requested": row["requested"],
        },
        sort_keys=True,
    )


def expected_row(cluster: Cluster) -> str:
    sums = recount(lambda each: each is cluster)
    cpu_millis, gib, pods = cluster.requested or (None, None, None)
    return row_of(
        {
            "upstream": cluster.kind == "local",
            "unreadable_nodes": sums["unreadable"],
            "gpus": {vendor: sums[f"gpus {vendor}"] for vendor in VENDORS},
            "reported": {
                "nodes": cluster.own.get("nodeCount", cluster.size()) if cluster.readable else None
            },
            "requested": {
                "cpu_millis": cpu_millis,
                "memory_bytes": gib * GIB if gib is not None else None,
                "pods": pods,
            },
            **{key: sums[key] for key in ("nodes", "cpu_millis", "memory_bytes")},
            **{
                key: getattr(cluster, key)
                for key in (
                    *("provider", "driver", "management", "active", "deleting", "stale"),
                    "differs",
                )
            },
        }
    )
