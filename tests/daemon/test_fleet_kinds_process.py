"""What the fleet payload of a whole process says of clusters of every kind, and of odd ones."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.apiserver.fixtures import rancher_cluster, rancher_node
from tests.cli.test_commands import telemetryd
from tests.support.daemon import Daemon
from tests.support.embedded import FleetServer, serve_fleet

NODES = "nodes.management.cattle.io"
CLUSTERS = "clusters.management.cattle.io"
MANAGED = {"provisioning.cattle.io/administrated": "true"}
HEADINGS = (
    *("name", "provider", "driver", "management", "version", "minor", "nodes"),
    *("active", "stale", "deleting"),
)
KINDS: list[dict[str, Any]] = [
    dict(zip(HEADINGS, row, strict=True))
    for row in (
        ("local", "rke2", "rke2", "local", "v1.33.4+rke2r1", "1.33", 3, True, False, False),
        ("c-1", "rke2", "imported", "provisioned", "v1.33.4+rke2r1", "1.33", 2, True, False, False),
        ("c-2", "k3s", "k3s", "imported", "v1.32.1+k3s1", "1.32", 1, True, False, False),
        ("c-3", "eks", "EKS", "hosted", "v1.31.2-eks-7f9249a", "1.31", 4, True, False, False),
        ("c-4", "gke", "GKE", "imported", "v1.31.2-gke.100", "1.31", 1, False, True, False),
        ("c-5", "aks", "AKS", "hosted", "v1.30.9", "1.30", 2, False, False, False),
        ("c-6", "harvester", "imported", "imported", "v1.32.1", "1.32", 3, True, False, False),
        ("c-7", "acme", "acme", "imported", "v1.33.4", "1.33", 1, True, False, False),
        ("c-8", "eks", "EKS", "hosted", "v1.31.2-eks-7f9249a", "1.31", 2, True, False, True),
        ("c-9", "", "imported", "imported", "", "other", 0, False, False, False),
    )
]  # fmt: skip


def cluster_of(kind: dict[str, Any]) -> dict[str, Any]:
    """The object that stands for it, as Rancher writes it."""
    made: dict[str, Any] = rancher_cluster(
        kind["name"], node_count=kind["nodes"], kubernetes_version=kind["version"]
    )
    status = made["status"]
    status["driver"], status["provider"] = kind["driver"], kind["provider"]
    for condition in status["conditions"]:
        if condition["type"] == "Ready" and not kind["active"]:
            condition |= {"status": "False", "reason": "Error"}
        if condition["type"] == "Connected" and kind["stale"]:
            condition["status"] = "False"
    if kind["management"] == "provisioned":
        made["metadata"]["annotations"] |= MANAGED
    hosted = {"EKS": "eksConfig", "GKE": "gkeConfig", "AKS": "aksConfig"}.get(kind["driver"])
    if hosted is not None:
        made["spec"][hosted] = {"imported": kind["management"] == "imported"}
    if kind["deleting"]:
        made["metadata"] |= {
            "deletionTimestamp": "2026-07-01T08:30:00Z",
            "finalizers": ["controller.cattle.io/namespace-auth"],
        }
    return made


def node_of(cluster: str, number: int) -> dict[str, Any]:
    made: dict[str, Any] = rancher_node(cluster, f"machine-{number}")
    if (cluster, number) == ("c-3", 0):
        made["status"]["internalNodeStatus"]["capacity"]["nvidia.com/gpu"] = "8"
    return made


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FleetServer]:
    with serve_fleet(tmp_path, clusters=0) as fleet:
        local = payload(fleet, "fleet")[1]
        assert local["totals"]["nodes"] == 3
        for kind in KINDS:
            fleet.put(cluster_of(kind))
            for number in range(kind["nodes"]) if kind["name"] != "local" else ():
                fleet.put(node_of(kind["name"], number))
        own = fleet.get(CLUSTERS, "local")
        assert own is not None
        del own["status"]["capacity"]  # of the three nodes that the demo made
        fleet.put(own)
        yield fleet


def payload(server: FleetServer, form: str) -> tuple[int, dict[str, Any], str]:
    """Exit status, document and standard error of `telemetryd payload`."""
    done = telemetryd("payload", "--format", form, KUBECONFIG=str(server.kubeconfig))
    return done.returncode, json.loads(done.stdout), done.stderr


def counted(heading: str, values: dict[str, str] | None = None) -> dict[str, tuple[int, int]]:
    """Clusters and nodes of the kinds by one column."""
    found: dict[str, tuple[int, int]] = {}
    for kind in KINDS:
        key = (values or {}).get(kind[heading], kind[heading])
        clusters, nodes = found.get(key, (0, 0))
        found[key] = (clusters + 1, nodes + kind["nodes"])
    return found


def rows_of(document: dict[str, Any], table: str, name: str) -> dict[str, tuple[int, int]]:
    return {row[name]: (row["clusters"], row["nodes"]) for row in document[table]}


def test_every_kind_of_cluster_is_counted_as_it_is(server: FleetServer) -> None:
    status, document, said = payload(server, "fleet")
    assert (status, said) == (0, "")
    drivers = {"EKS": "eks", "GKE": "gke", "AKS": "aks", "acme": "other"}
    providers = {"": "imported", "acme": "other"}
    assert rows_of(document, "by_provider", "provider") == counted("provider", providers)
    assert rows_of(document, "by_driver", "driver") == counted("driver", drivers)
    assert rows_of(document, "by_management", "management") == counted("management")
    assert rows_of(document, "by_kubernetes_minor", "minor") == counted("minor")
    assert rows_of(document, "by_kind", "kind") == {"local": (1, 3), "managed": (9, 16)}
    totals = document["totals"]
    assert (totals["clusters"], totals["nodes"], totals["active_clusters"]) == (10, 19, 7)
    assert (totals["stale_clusters"], totals["stale_nodes"]) == (1, 1)
    assert totals["deleting_clusters"] == 1
    assert totals["gpus"] == {"nvidia": 8, "amd": 0, "intel": 0, "other": 0}
    assert document["entitlement"] == {"clusters": 8, "nodes": 14, "cpu_millis": 14 * 4000}
    scc_status, scc, _ = payload(server, "scc")
    assert scc_status == 0
    assert sum(row["count"] for row in scc["managedSystems"]) == 19
    assert sum(row["count"] for row in scc["managedClusters"]) == 10
    former = payload(server, "fleet-v1")[1]
    assert (former["schema_version"], former["totals"]["nodes"]) == (1, 19)


def test_a_cluster_without_its_node_objects_makes_the_fleet_payload_incomplete(
    server: FleetServer,
) -> None:
    for number in range(4):
        server.remove(NODES, f"machine-{number}", "c-3")
    status, document, said = payload(server, "fleet")
    assert status == 1
    assert document["complete"] is False
    reason = "clusters: 1 differ from their own nodeCount or capacity"
    assert document["incomplete_reasons"] == [reason]
    assert said == f"telemetryd: incomplete: {reason}\n"
    (row,) = (each for each in document["clusters"] if each["differs"])
    assert (row["nodes"], row["reported"]["nodes"], row["reported"]["cpu_millis"]) == (0, 4, 16_000)
    assert document["totals"]["differing_clusters"] == 1
    assert payload(server, "scc")[::2] == (0, "")
    assert payload(server, "fleet-v1")[1]["complete"] is True


def test_a_node_that_cannot_be_read_is_a_node_of_its_cluster(server: FleetServer) -> None:
    odd = node_of("c-2", 0)
    odd["spec"]["etcd"] = "true"
    server.put(odd)
    status, document, _ = payload(server, "fleet")
    assert status == 1
    assert f"{NODES}: 1 unreadable" in document["incomplete_reasons"]
    assert (document["totals"]["nodes"], document["totals"]["unreadable_nodes"]) == (19, 1)
    (row,) = (each for each in document["clusters"] if each["unreadable_nodes"])
    assert (row["nodes"], row["provider"], row["cpu_millis"]) == (1, "k3s", 0)
    _, scc, said = payload(server, "scc")
    assert said == f"telemetryd: incomplete: {NODES}: 1 unreadable\n"
    assert {"arch": "", "cpu": 0, "memory": 0, "count": 1} in scc["managedSystems"]
    assert sum(row["count"] for row in scc["managedSystems"]) == 19


@pytest.mark.timeout(180)
def test_a_running_daemon_marks_an_implausible_drop_and_says_unknown_kinds_once(
    server: FleetServer, tmp_path: Path
) -> None:
    config = "".join(
        f'[[exporters]]\nname = "{form}"\ntype = "file"\nformat = "{form}"\ninterval = "1s"\n'
        f'directory = "{tmp_path / form}"\n'
        for form in ("fleet", "scc")
    )

    def latest(form: str) -> dict[str, Any]:
        file = tmp_path / form / "latest"
        found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        return found

    daemon = Daemon(tmp_path, server.kubeconfig, config)
    try:
        daemon.wait_for("all are counted", lambda: latest("fleet").get("complete") is True, 60)
        for kind in KINDS[1:]:
            for number in range(kind["nodes"]):
                server.remove(NODES, f"machine-{number}", kind["name"])
        dropped = "nodes: fell from 19 to 3 within minutes"
        daemon.wait_for(
            "it is marked", lambda: dropped in latest("fleet")["incomplete_reasons"], 60
        )
        assert latest("fleet")["complete"] is False
        daemon.wait_for(
            "the SCC payload tells what is there",
            lambda: sum(row["count"] for row in latest("scc")["managedSystems"]) == 3,
            60,
        )
    finally:
        assert daemon.stop() == 0
    assert daemon.log().count("text sent as other") == 2
    assert daemon.log().count("implausible drop") == 1
