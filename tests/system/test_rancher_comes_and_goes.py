"""A cluster without Rancher, Rancher's arrival, and its departure; one daemon through all of it."""

import json
import uuid
from base64 import b64decode
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from telemetryd.export.payloads.scc import scc_schema
from tests.apiserver.admin import Admin
from tests.apiserver.crds import CRDS, create_crd, delete_crd
from tests.apiserver.fixtures import core_node
from tests.apiserver.process import ApiServer
from tests.support.daemon import Daemon
from tests.system.account import PLAIN, RANCHER, Trail, make_account
from tests.system.rancher import (
    INSTALL_UUID,
    SECRET,
    SHAPES,
    TARGET_NAMESPACE,
    Rancher,
    assert_well_formed,
    facts,
    recount,
)

pytestmark = pytest.mark.long

INSTALLATIONS = uuid.UUID("5b6ea98a-1d02-4f25-a68f-9a6451012e93")
CONFIG = """
[[exporters]]
name = "scc"
type = "secret"
interval = "1s"

[[exporters]]
name = "folder"
type = "file"
directory = "{folder}"
interval = "1s"
"""
ROLES: tuple[dict[str, str], ...] = (
    {"node-role.kubernetes.io/control-plane": "", "node-role.kubernetes.io/master": ""},
    {
        "node-role.kubernetes.io/control-plane": "true",
        "node-role.kubernetes.io/etcd": "true",
        "node-role.kubernetes.io/master": "true",
    },
    {"node-role.kubernetes.io/worker": "true"},
    {"kubernetes.io/role": "worker"},
    {"node-role.kubernetes.io/sentinel-infra": ""},
    {},
)
"""Labels of a node each: of kubeadm, RKE2, RKE, kops, one's own, and none."""


def add_nodes(admin: Admin) -> None:
    """Twelve nodes, in each of the shapes and with all of the roles."""
    for number in range(12):
        cpu, memory, arch = SHAPES[number % len(SHAPES)]
        node = core_node(f"sentinel-n-{number}", cpu=cpu, memory=memory, arch=arch, roles=())
        node["metadata"]["labels"] |= ROLES[number % len(ROLES)]
        admin.create("/api/v1/nodes", node)


def recount_plain(admin: Admin) -> dict[str, Any]:
    """The SCC payload's facts from a fresh list of core nodes, by simple means of its own."""
    cores = {"3920m": 4}
    mebibytes = {"16384256Ki": 16001, "32Gi": 32768, "129M": 124}
    systems: Counter[tuple[str, int, int, bool]] = Counter()
    nodes = admin.list("/api/v1/nodes")
    for node in nodes:
        capacity = node["status"]["capacity"]
        cpu, memory = capacity["cpu"], capacity["memory"]
        arch = node["status"]["nodeInfo"]["architecture"]
        systems[arch, cores.get(cpu) or int(cpu), mebibytes[memory], True] += 1
    return {"systems": dict(systems), "clusters": {("local", len(nodes)): 1}}


def payload_of(admin: Admin) -> dict[str, Any] | None:
    for secret in admin.list(f"/api/v1/namespaces/{TARGET_NAMESPACE}/secrets"):
        if secret["metadata"]["name"] == SECRET.rpartition("/")[2]:
            document: dict[str, Any] = json.loads(b64decode(secret["data"]["payload"]))
            return document
    return None


def wait_for_truth(
    daemon: Daemon, admin: Admin, install_uuid: str, *, plain: bool, within_s: float
) -> dict[str, Any]:
    """Returns the payload once it is of that installation and equals the recount."""
    count = recount_plain if plain else recount

    def agrees() -> dict[str, Any] | None:
        payload = payload_of(admin)
        ours = payload is not None and payload["subscription"]["installuuid"] == install_uuid
        return payload if payload and ours and facts(payload) == count(admin) else None

    payload = daemon.wait_for(f"a true payload of {install_uuid}", agrees, within_s)
    assert payload is not None
    Draft202012Validator(scc_schema(), format_checker=Draft202012Validator.FORMAT_CHECKER).validate(
        payload
    )
    assert_well_formed(payload)
    return payload


def check_plain(payload: dict[str, Any], daemon: Daemon, admin: Admin) -> None:
    kube_system = admin.get("/api/v1/namespaces/kube-system")["metadata"]["uid"]
    version = admin.get("/version")
    assert payload["subscription"] == {
        "installuuid": str(uuid.uuid5(INSTALLATIONS, kube_system)),
        "clusteruuid": kube_system,
        "product": "kubernetes",
        "version": version["gitVersion"],
        "arch": "unknown",
        # A server that was built without its commit has a placeholder there.
        "git": version["gitCommit"] if version["gitCommit"].isalnum() else "other",
        "server_url": "",
    }
    assert "feature_flags" not in payload
    assert "sentinel" not in json.dumps(payload).lower()
    assert payload["managedClusters"] == [{"count": 1, "nodes": 12, "upstream": True}]
    status = daemon.status()
    assert status["collection"]["source"] == "kubernetes"
    assert sorted(each["resource"] for each in status["informers"]) == ["namespaces", "nodes"]
    metrics = daemon.get("/metrics")[1]
    for series in (
        'fleet_clusters{kind="local"} 1.0',
        'fleet_clusters{kind="managed"} 0.0',
        "fleet_nodes 12.0",
        'fleet_node_roles{role="controlplane"} 4.0',
        'fleet_node_roles{role="etcd"} 2.0',
        'fleet_node_roles{role="worker"} 4.0',
        'fleet_node_roles{role="other"} 4.0',
    ):
        assert f"telemetryd_{series}\n" in metrics, series
    assert "management.cattle.io" not in metrics


def documents(folder: Path) -> list[dict[str, Any]]:
    """Everything that was ever sent, in order."""
    files = sorted(each for each in folder.glob("folder-*") if not each.is_symlink())
    return [json.loads(file.read_text()) for file in files]


def test_daemon_follows_a_rancher_that_comes_and_goes(
    own_apiserver: ApiServer, own_admin: Admin, tmp_path: Path
) -> None:
    apiserver, admin = own_apiserver, own_admin
    add_nodes(admin)
    admin.create("/api/v1/namespaces", {"metadata": {"name": TARGET_NAMESPACE}})
    kubeconfig = make_account(apiserver, admin, tmp_path, [*RANCHER, *PLAIN])
    plain_uuid = str(
        uuid.uuid5(INSTALLATIONS, admin.get("/api/v1/namespaces/kube-system")["metadata"]["uid"])
    )
    folder = tmp_path / "sent"
    trail = Trail.from_now(apiserver)
    daemon = Daemon(tmp_path, kubeconfig, CONFIG.format(folder=folder))
    rancher = Rancher(admin)
    try:
        payload = wait_for_truth(daemon, admin, plain_uuid, plain=True, within_s=25)
        check_plain(payload, daemon, admin)
        assert not any("cattle.io" in request for request in trail.requests())
        assert trail.open_watches() == ["namespaces metadata.name=kube-system", "nodes"]

        for definition in CRDS:
            create_crd(admin, definition)
        rancher.build(clusters=3, nodes=2)
        payload = wait_for_truth(daemon, admin, INSTALL_UUID, plain=False, within_s=40)
        assert payload["subscription"]["product"] == "rancher"
        status = daemon.status()
        assert status["collection"]["source"] == "rancher"
        assert "nodes" not in {each["resource"] for each in status["informers"]}
        assert "nodes" not in trail.open_watches()

        for definition in CRDS:
            delete_crd(admin, definition)
        payload = wait_for_truth(daemon, admin, plain_uuid, plain=True, within_s=60)
        check_plain(payload, daemon, admin)
        daemon.wait_for(
            "no other watch",
            lambda: trail.open_watches() == ["namespaces metadata.name=kube-system", "nodes"],
            30,
        )
    finally:
        status_code = daemon.stop()
    assert status_code == 0, daemon.log()[-4000:]
    for document in documents(folder):
        check_no_mixture(document, plain_uuid)


def check_no_mixture(document: dict[str, Any], plain_uuid: str) -> None:
    """One payload tells of one source alone."""
    assert_well_formed(document)
    subscription = document["subscription"]
    plain = subscription["product"] == "kubernetes"
    assert (subscription["installuuid"] == plain_uuid) is plain
    assert subscription["version"].startswith("v1.") is plain
    assert (subscription["server_url"] == "") is plain
    if plain:
        assert document["managedClusters"] == [{"count": 1, "nodes": 12, "upstream": True}]
