"""Metrics, status document and page of a fleet of all kinds, on a real API server."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.apiserver.admin import Admin
from tests.apiserver.crds import CLUSTERS, NODES, collection
from tests.apiserver.fixtures import namespace
from tests.apiserver.process import ApiServer
from tests.daemon.test_fleet_kinds_process import KINDS, cluster_of, counted, node_of
from tests.serve.page.test_fleet import Fleet as Page
from tests.support.daemon import Daemon
from tests.system.rancher import Rancher

pytestmark = pytest.mark.long

CONFIG = """
[[exporters]]
name = "fleet"
type = "file"
format = "fleet"
interval = "1s"
directory = "{folder}/kept"
"""
DRIVERS = {"EKS": "eks", "GKE": "gke", "AKS": "aks", "acme": "other"}
PROVIDERS = {"": "imported", "acme": "other"}
SPLITS: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    ("provider", "provider", "provider", PROVIDERS),
    ("driver", "driver", "driver", DRIVERS),
    ("management", "management", "management", {}),
    ("kubernetes_minor", "minor", "minor", {}),
)
"""A split of the fleet: its name, its label, its column of ``KINDS``, and what counts as what."""
MANAGED = [kind["name"] for kind in KINDS if kind["name"] != "local"]


@pytest.fixture
def admin_of_all_kinds(admin: Admin) -> Iterator[Admin]:
    """A Rancher whose clusters are those of ``KINDS``; it goes with the test."""
    rancher = Rancher(admin)
    rancher.build(clusters=1, nodes=3)
    own = {"status": {"capacity": None}}  # the nodes have shapes of their own
    admin.patch(f"{collection(CLUSTERS)}/local", own)
    for kind in KINDS[1:]:
        made = cluster_of(kind)
        made["metadata"].pop("deletionTimestamp", None)
        admin.create(collection(CLUSTERS), made)
        rancher._create("/api/v1/namespaces", namespace(kind["name"]))
        for number in range(kind["nodes"]):
            admin.create(collection(NODES, kind["name"]), node_of(kind["name"], number))
        if kind["deleting"]:
            admin.delete(f"{collection(CLUSTERS)}/{kind['name']}")
    try:
        yield admin
    finally:
        for kind in KINDS[1:]:
            if kind["deleting"]:
                finished = {"metadata": {"finalizers": None}}
                admin.patch(f"{collection(CLUSTERS)}/{kind['name']}", finished)
        rancher.clear()


@pytest.fixture
def daemon(admin_of_all_kinds: Admin, apiserver: ApiServer, tmp_path: Path) -> Iterator[Daemon]:
    kubeconfig = apiserver.kubeconfig(tmp_path / "kubeconfig")
    running = Daemon(tmp_path, kubeconfig, CONFIG.format(folder=tmp_path))
    try:
        running.wait_for("the fleet", lambda: running.metric("telemetryd_fleet_nodes") == 19, 90)
        yield running
    finally:
        status = running.stop()
    assert status == 0, running.log()[-4000:]


def parts(daemon: Daemon, name: str, label: str) -> dict[str, float]:
    """The series of a metric that aren't 0, by their label."""
    start = f'telemetryd_fleet_{name}{{{label}="'
    lines = daemon.get("/metrics")[1].splitlines()
    found = (line.removeprefix(start).split('"} ') for line in lines if line.startswith(start))
    return {value: float(number) for value, number in found if float(number)}


def fleet(daemon: Daemon) -> dict[str, Any]:
    """The fleet of the status document."""
    found: dict[str, Any] = daemon.status()["snapshot"]["fleet"]
    return found


def row(daemon: Daemon, name: str) -> str:
    """A value of the page's part on the fleet, without its markup."""
    return Page(daemon.get("/")[1]).values[name].strip()


def held(daemon: Daemon, number: float, *series: str) -> Callable[[], bool]:
    """Whether metrics of the fleet have this value."""
    return lambda: all(daemon.metric(f"telemetryd_fleet_{each}") == number for each in series)


def check_all_kinds(daemon: Daemon) -> None:
    """The same in metrics, status and page."""
    shown = fleet(daemon)
    for name, label, column, values in SPLITS:
        expected = counted(column, values)
        clusters = {part: count for part, (count, _) in expected.items()}
        assert parts(daemon, f"clusters_by_{name}", label) == clusters
        split = shown[f"by_{name}"]
        assert {part: (each["clusters"], each["nodes"]) for part, each in split.items()} == expected
    nodes = {part: count for part, (_, count) in counted("provider", PROVIDERS).items() if count}
    assert parts(daemon, "nodes_by_provider", "provider") == nodes
    assert parts(daemon, "clusters", "kind") == {"local": 1, "managed": 9}
    assert parts(daemon, "nodes_by_kind", "kind") == {"local": 3, "managed": 16}
    assert parts(daemon, "cpu_cores_by_kind", "kind")["managed"] == 16 * 4
    assert parts(daemon, "gpus", "vendor") == {"nvidia": 8}
    for name, number in {
        "active_clusters": 7,
        "deleting_clusters": 1,
        "stale_clusters": 1,
        "stale_nodes": 1,
        "differing_clusters": 0,
        "unreadable_nodes": 0,
    }.items():
        assert (daemon.metric(f"telemetryd_fleet_{name}"), shown[name]) == (number, number), name
    assert parts(daemon, "implausible_drop", "what") == {}
    assert daemon.status()["snapshot"]["doubts"] == []
    assert row(daemon, "Clusters") == "10 1 local, 9 managed"
    assert row(daemon, "Cluster states") == "7 active, 3 not active, 1 being deleted"
    assert row(daemon, "Unreachable") == "1 cluster with 1 node as last known"
    _, *distributions = Page(daemon.get("/")[1]).tables["By distribution"]
    assert [each[:3] for each in distributions[:2]] == [["eks", "2", "6"], ["rke2", "2", "5"]]
    assert row(daemon, "GPUs") == "8 8 NVIDIA"
    assert daemon.metric('telemetryd_fleet_withheld_texts{field="provider"}') == 1


@pytest.mark.timeout(300)
def test_fleet_of_all_kinds_is_shown_alike_everywhere_and_so_is_what_makes_it_doubtful(
    daemon: Daemon, admin_of_all_kinds: Admin
) -> None:
    check_all_kinds(daemon)
    admin = admin_of_all_kinds
    disconnected = {"status": {"conditions": [{"type": "Connected", "status": "False"}]}}
    admin.patch(f"{collection(CLUSTERS)}/c-3", disconnected)
    daemon.wait_for("4 more nodes are stale", held(daemon, 5, "stale_nodes"), 30)
    admin.patch(f"{collection(NODES, 'c-2')}/machine-0", {"spec": {"etcd": "true"}})
    daemon.wait_for("one is unreadable", held(daemon, 1, "unreadable_nodes"), 30)
    assert daemon.metric("telemetryd_fleet_nodes") == 19
    assert row(daemon, "Nodes with gaps").startswith("1 unreadable, ")
    # With its unreadable node c-2 reports more capacity than can be counted; a node less is c-6's.
    admin.delete(f"{collection(NODES, 'c-6')}/machine-0")
    daemon.wait_for("both differ", held(daemon, 2, "differing_clusters"), 90)
    reason = "clusters: 2 differ from their own nodeCount or capacity"
    assert daemon.status()["snapshot"]["doubts"] == [reason]
    assert reason in daemon.get("/")[1]
    assert row(daemon, "Differing counts").startswith("2 clusters")
    for name in MANAGED:
        admin.delete(collection(NODES, name))
    series = 'implausible_drop{what="nodes"}'
    daemon.wait_for("the drop is marked", held(daemon, 1, series), 60)
    daemon.wait_for("all are gone", held(daemon, 3, "nodes"), 60)
    assert fleet(daemon)["drops"] == [{"what": "nodes", "before": 19, "now": 3}]
    assert "nodes: fell from 19 to 3 within minutes" in daemon.get("/")[1]
    assert daemon.metric('telemetryd_fleet_implausible_drop{what="clusters"}') == 0
    for kind in KINDS[1:]:
        for number in range(kind["nodes"]):
            admin.create(collection(NODES, kind["name"]), node_of(kind["name"], number))
    daemon.wait_for("it has recovered", held(daemon, 0, series, "differing_clusters"), 90)
    assert daemon.status()["snapshot"]["doubts"] == []
