"""Objects that can't be read among good ones: each costs itself alone, visibly."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tests.apiserver.admin import Admin, AdminError
from tests.apiserver.crds import CLUSTERS, NODES, collection
from tests.apiserver.fixtures import rancher_node
from tests.support.control import ctl
from tests.support.daemon import Daemon
from tests.system.conftest import CLUSTER_COUNT, NODES_EACH
from tests.system.rancher import Rancher, facts, recount
from tests.system.test_main_job import wait_for_truth

pytestmark = pytest.mark.long

NODE_FIELDS = (
    "spec",
    "spec.etcd",
    "spec.controlPlane",
    "spec.worker",
    "status",
    "status.internalNodeStatus",
    "status.internalNodeStatus.capacity",
    "status.internalNodeStatus.capacity.cpu",
    "status.internalNodeStatus.capacity.memory",
    "status.internalNodeStatus.nodeInfo",
    "status.internalNodeStatus.nodeInfo.architecture",
    "status.internalNodeStatus.nodeInfo.operatingSystem",
    "status.internalNodeStatus.nodeInfo.containerRuntimeVersion",
    "status.internalNodeStatus.nodeInfo.kernelVersion",
)
COLLECTION = collection(NODES, "local")
ERRORS = (
    'telemetryd_informer_decode_errors_total{reason="%s",resource="nodes.management.cattle.io"}'
)


def node_with(name: str, field: str, value: Any) -> dict[str, Any]:
    """A good node but for one field."""
    node = rancher_node("local", name)
    place = node
    *parents, last = field.split(".")
    for parent in parents:
        place = place[parent]
    place[last] = value
    return node


@pytest.fixture
def odd_nodes(admin: Admin) -> Iterator[list[str]]:
    """Names of nodes made by the test; they go with it."""
    names: list[str] = []
    yield names
    for name in names:
        try:
            admin.delete(f"{COLLECTION}/{name}")
        except AdminError as error:
            if error.status != 404:
                raise


def test_wrong_types_cost_themselves_alone(
    daemon: Daemon, rancher: Rancher, admin: Admin, odd_nodes: list[str]
) -> None:
    before = wait_for_truth(daemon, rancher)
    counted = daemon.metric(ERRORS % "type") or 0
    for number, field in enumerate(NODE_FIELDS):
        name = f"sentinel-odd-{number}"
        admin.create(COLLECTION, node_with(name, field, [{"SENTINEL": [1]}]))
        odd_nodes.append(name)
    daemon.wait_for(
        "each is counted",
        lambda: (daemon.metric(ERRORS % "type") or 0) >= counted + len(NODE_FIELDS),
        30,
    )
    informer = daemon.informer("nodes.management.cattle.io")
    assert informer["unreadable"] == len(NODE_FIELDS)
    assert informer["objects"] == CLUSTER_COUNT * NODES_EACH + len(NODE_FIELDS), (
        "each keeps its key"
    )
    folder = str(daemon.config_file.parent)
    shown = ctl(
        "cache",
        "nodes.management.cattle.io",
        config=daemon.config_file,
        RUNTIME_DIRECTORY=folder,
    )
    document = json.loads(shown.stdout)
    assert document["unreadable"] == {f"local/{name}": "type" for name in sorted(odd_nodes)}
    assert document["unreadable_count"] == len(NODE_FIELDS)
    assert daemon.metric("telemetryd_snapshot_complete") == 0
    daemon.wait_for(
        "each is a node of unknown capacity",
        lambda: unknown_nodes(rancher) == len(NODE_FIELDS),
        30,
    )
    assert local_nodes(rancher) == NODES_EACH + len(NODE_FIELDS)
    rancher.add_node("local", 9400)
    try:
        daemon.wait_for(
            "good ones go on",
            lambda: local_nodes(rancher) == NODES_EACH + 1 + len(NODE_FIELDS),
            30,
        )
    finally:
        rancher.delete_node("local", 9400)
    admin.patch(f"{COLLECTION}/{odd_nodes[1]}", {"spec": {"etcd": True}})
    daemon.wait_for(
        "a fixed one is known", lambda: unknown_nodes(rancher) == len(NODE_FIELDS) - 1, 30
    )
    assert local_nodes(rancher) == NODES_EACH + len(NODE_FIELDS)
    for name in odd_nodes:
        admin.delete(f"{COLLECTION}/{name}")
    daemon.wait_for("as before", lambda: facts(rancher.payload() or before) == facts(before), 30)
    daemon.wait_for(
        "complete again", lambda: daemon.metric("telemetryd_snapshot_complete") == 1, 30
    )
    wait_for_truth(daemon, rancher)


def unknown_nodes(rancher: Rancher) -> int:
    """Nodes of the local cluster of which nothing is known."""
    payload = rancher.payload()
    assert payload is not None
    unknown = {"arch": "", "cpu": 0, "memory": 0, "upstream": True}
    return sum(row["count"] for row in payload["managedSystems"] if {**row, **unknown} == row)


def local_nodes(rancher: Rancher) -> int:
    payload = rancher.payload()
    assert payload is not None
    upstream = [row for row in payload["managedClusters"] if row.get("upstream")]
    nodes: int = upstream[0]["nodes"]
    return nodes


def test_nulls_are_read_as_not_reported(
    daemon: Daemon, rancher: Rancher, admin: Admin, odd_nodes: list[str]
) -> None:
    wait_for_truth(daemon, rancher)
    for number, field in enumerate(NODE_FIELDS):
        name = f"sentinel-null-{number}"
        admin.create(COLLECTION, node_with(name, field, None))
        odd_nodes.append(name)
    daemon.wait_for("all count", lambda: local_nodes(rancher) == NODES_EACH + len(NODE_FIELDS), 30)
    # Without status, internalNodeStatus, capacity or its cpu: four nodes report no CPU.
    assert daemon.metric('telemetryd_fleet_unreported_nodes{resource="cpu"}') == 4
    assert daemon.metric('telemetryd_fleet_unreported_nodes{resource="memory"}') == 4
    assert daemon.informer("nodes.management.cattle.io")["unreadable"] == 0


def test_object_nested_nine_thousand_deep_costs_itself_alone(
    daemon: Daemon, rancher: Rancher, admin: Admin, odd_nodes: list[str]
) -> None:
    wait_for_truth(daemon, rancher)
    node = rancher_node("local", "sentinel-deep")
    text = json.dumps(node)
    # Arrays: the server tracks who owns each nested map, and takes a minute for so many.
    deep = "[" * 9000 + "1" + "]" * 9000
    body = text[:-1] + ', "deep": ' + deep + "}"
    admin.create_raw(COLLECTION, body.encode())
    odd_nodes.append("sentinel-deep")
    unreadable = 0 if _parses(deep) else 1
    daemon.wait_for(
        "it is counted",
        lambda: (
            daemon.informer("nodes.management.cattle.io")["objects"]
            == CLUSTER_COUNT * NODES_EACH + 1
        ),
        30,
    )
    assert daemon.informer("nodes.management.cattle.io")["unreadable"] == unreadable
    assert daemon.metric("telemetryd_snapshot_complete") == 1 - unreadable
    rancher.add_node("sentinel-c-1", 9500)
    try:
        daemon.wait_for("good ones go on", lambda: sizes(rancher).count(NODES_EACH + 1) == 1, 30)
    finally:
        rancher.delete_node("sentinel-c-1", 9500)
    assert local_nodes(rancher) == NODES_EACH + 1


def _parses(text: str) -> bool:
    """Whether this Python nests so deep: 3.12 and newer do."""
    try:
        msgspec.json.decode(text)
    except RecursionError:
        return False
    return True


def sizes(rancher: Rancher) -> list[int]:
    payload = rancher.payload()
    assert payload is not None
    return [
        row["nodes"]
        for row in payload["managedClusters"]
        if not row.get("upstream")
        for _ in range(row["count"])
    ]


def test_cluster_that_cannot_be_read_is_still_a_cluster(
    daemon: Daemon, rancher: Rancher, admin: Admin
) -> None:
    wait_for_truth(daemon, rancher)
    path = f"{collection(CLUSTERS)}/sentinel-c-3"
    version = admin.get(path)["status"]["version"]
    admin.patch(path, {"status": {"version": None}})
    admin.patch(path, {"status": {"version": [1, 2]}})
    daemon.wait_for(
        "it is counted",
        lambda: daemon.informer("clusters.management.cattle.io")["unreadable"] == 1,
        30,
    )
    payload = rancher.payload()
    assert payload is not None
    assert facts(payload) == recount(admin)
    admin.patch(path, {"status": {"version": version}})
    daemon.wait_for(
        "complete again", lambda: daemon.metric("telemetryd_snapshot_complete") == 1, 30
    )
