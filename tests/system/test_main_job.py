"""The main job on a real API server: watch, gather, keep the Secret true."""

import hashlib
import json
import time
from base64 import b64encode
from typing import Any

from jsonschema import Draft202012Validator
from rfc3339_validator import validate_rfc3339  # type: ignore[import-untyped]

from telemetryd.export.payloads.fleet_document import fleet_schema
from telemetryd.export.payloads.scc import scc_schema
from tests.apiserver.admin import Admin
from tests.apiserver.crds import CLUSTERS, NODES, SETTINGS, collection
from tests.apiserver.fixtures import rancher_cluster
from tests.support.control import ctl
from tests.support.daemon import Daemon
from tests.system.conftest import CLUSTER_COUNT, NODES_EACH
from tests.system.rancher import (
    FLEET_SECRET,
    INSTALL_UUID,
    SECRET,
    SERVER_URL,
    VERSION,
    Rancher,
    assert_well_formed,
    facts,
    fleet_facts,
    recount,
    recount_fleet,
)

INTERVALS_S = 5.0


def wait_for_truth(daemon: Daemon, rancher: Rancher) -> dict[str, Any]:
    """Returns the payload once it equals the recount."""

    def agrees() -> dict[str, Any] | None:
        payload = rancher.payload()
        ours = payload is not None and "managedSystems" in payload
        return payload if payload and ours and facts(payload) == recount(rancher.admin) else None

    payload = daemon.wait_for("payload equals the recount", agrees, 20)
    assert payload is not None
    return payload


def wait_for_whole_truth(daemon: Daemon, rancher: Rancher) -> dict[str, Any]:
    """Returns the fleet payload once it equals the recount; it is valid all along."""
    validator = Draft202012Validator(
        fleet_schema(), format_checker=Draft202012Validator.FORMAT_CHECKER
    )

    def agrees() -> dict[str, Any] | None:
        payload = rancher.payload(FLEET_SECRET)
        if payload is None:
            return None
        validator.validate(payload)
        return payload if fleet_facts(payload) == recount_fleet(rancher.admin) else None

    payload = daemon.wait_for("fleet payload equals the recount", agrees, 20)
    assert payload is not None
    return payload


def test_fleet_present_at_start_is_written_at_the_first_attempt(daemon: Daemon) -> None:
    before, delivered, _ = daemon.whole_log().partition("exporter delivered for the first time")
    assert delivered
    assert "exporter failing" not in before


def test_payload_is_valid_and_equals_an_independent_recount(
    daemon: Daemon, rancher: Rancher, admin: Admin
) -> None:
    payload = wait_for_truth(daemon, rancher)
    Draft202012Validator(scc_schema(), format_checker=Draft202012Validator.FORMAT_CHECKER).validate(
        payload
    )
    assert_well_formed(payload)
    assert validate_rfc3339(payload["timestamp"])
    assert payload["version"] == "2.12.3"
    assert payload["feature_flags"] == sorted(payload["feature_flags"])
    assert {"fleet", "legacy"} <= set(payload["feature_flags"])
    assert "harvester" not in payload["feature_flags"]
    subscription = payload["subscription"]
    assert subscription["installuuid"] == INSTALL_UUID
    kube_system = admin.get("/api/v1/namespaces/kube-system")
    assert subscription["clusteruuid"] == kube_system["metadata"]["uid"]
    assert subscription["version"] == VERSION
    assert subscription["product"] == "rancher", "what Prime of that version calls itself"
    assert subscription["server_url"] == SERVER_URL
    secret = rancher.secret()
    assert secret is not None
    assert secret["type"] == "Opaque"
    annotations = secret["metadata"]["annotations"]
    assert annotations["scc.cattle.io/part-of"] == "telemetry"
    assert validate_rfc3339(annotations["scc.cattle.io/last-changed"])


def test_sentinels_and_names_appear_nowhere(daemon: Daemon, rancher: Rancher) -> None:
    wait_for_truth(daemon, rancher)
    wait_for_whole_truth(daemon, rancher)
    shown = {
        "payload": json.dumps(rancher.payload()),
        "fleet payload": json.dumps(rancher.payload(FLEET_SECRET)),
        "log": daemon.log(),
        "metrics": daemon.get("/metrics")[1],
        "status": daemon.get("/status.json")[1],
        "page": daemon.get("/")[1],
        "readiness": daemon.get("/readyz?verbose")[1],
    }
    for where, text in shown.items():
        assert text, where
        assert "sentinel" not in text.lower(), where


def test_token_appears_nowhere(daemon: Daemon, rancher: Rancher) -> None:
    token = json.loads((daemon.log_file.parent / "kubeconfig").read_text())["users"][0]["user"]
    for text in (daemon.log(), daemon.get("/metrics")[1], daemon.get("/status.json")[1]):
        assert token["token"] not in text


def test_added_and_deleted_nodes_change_the_next_export(daemon: Daemon, rancher: Rancher) -> None:
    before = facts(wait_for_truth(daemon, rancher))
    rancher.add_node("local", 9001, cpu="16", memory="32Gi", arch="arm64")
    try:
        assert facts(wait_for_truth(daemon, rancher))["systems"]["arm64", 16, 32768, True] == 1
    finally:
        rancher.delete_node("local", 9001)
    assert facts(wait_for_truth(daemon, rancher)) == before


def test_nodes_whose_cluster_goes_leave_the_payload_and_come_back(
    daemon: Daemon, rancher: Rancher, admin: Admin
) -> None:
    wait_for_truth(daemon, rancher)
    admin.delete(f"{collection(CLUSTERS)}/sentinel-c-7")
    try:
        payload = wait_for_truth(daemon, rancher)
        assert sum(row["count"] for row in payload["managedClusters"]) == CLUSTER_COUNT - 1
        assert daemon.metric("telemetryd_fleet_orphan_nodes") == NODES_EACH
    finally:
        admin.create(collection(CLUSTERS), rancher_cluster("sentinel-c-7", node_count=None))
    wait_for_truth(daemon, rancher)


def test_fleet_payload_equals_a_recount_through_nodes_and_clusters_that_come_and_go(
    daemon: Daemon, rancher: Rancher, admin: Admin
) -> None:
    before = wait_for_whole_truth(daemon, rancher)
    assert before["complete"] is True
    ids = {row["id"] for row in before["clusters"]}
    assert len(ids) == CLUSTER_COUNT
    assert {row["kubernetes_version"] for row in before["clusters"]} == {"v1.33.4+rke2r1"}
    rancher.add_node("sentinel-c-3", 9300, cpu="16", kernel="6.12.0-1")
    try:
        during = wait_for_whole_truth(daemon, rancher)
        assert {row["id"] for row in during["clusters"]} == ids
        admin.delete(f"{collection(CLUSTERS)}/sentinel-c-3")
        gone = wait_for_whole_truth(daemon, rancher)
        assert gone["totals"]["orphan_nodes"] == NODES_EACH + 1
        left = {row["id"] for row in gone["clusters"]}
        assert len(left) == CLUSTER_COUNT - 1
        assert left < ids
    finally:
        rancher.delete_node("sentinel-c-3", 9300)
        admin.create(collection(CLUSTERS), rancher_cluster("sentinel-c-3", node_count=None))
    again = wait_for_whole_truth(daemon, rancher)
    assert ids - {row["id"] for row in again["clusters"]} == ids - left, "made again: another id"
    assert again["totals"] == before["totals"]


def test_deleted_fleet_payload_is_healed(daemon: Daemon, rancher: Rancher, admin: Admin) -> None:
    before = wait_for_whole_truth(daemon, rancher)
    admin.delete(FLEET_SECRET)
    payload = wait_for_whole_truth(daemon, rancher)
    assert payload["delivery"]["digest"] == before["delivery"]["digest"]


def test_five_intervals_with_nothing_but_heartbeats_of_nodes_write_nothing(
    daemon: Daemon, rancher: Rancher, admin: Admin
) -> None:
    wait_for_truth(daemon, rancher)
    wait_for_whole_truth(daemon, rancher)
    paths = (SECRET, FLEET_SECRET)
    before = [admin.get(path)["metadata"]["resourceVersion"] for path in paths]
    series = 'telemetryd_exporter_runs_total{exporter="scc",result="unchanged"}'
    runs = daemon.metric(series)
    assert runs is not None
    node = "/apis/management.cattle.io/v3/namespaces/local/nodes/sentinel-m-1"
    begin = time.monotonic()
    for beat in range(20):
        admin.patch(node, {"status": {"heartbeat": f"SENTINEL-{beat}"}})
    time.sleep(max(0.0, begin + INTERVALS_S - time.monotonic()))
    assert [admin.get(path)["metadata"]["resourceVersion"] for path in paths] == before
    count = daemon.metric(series)
    assert count is not None
    assert count >= runs + 4, "each interval verified the Secret all the same"


def test_deleted_secret_is_healed(daemon: Daemon, rancher: Rancher, admin: Admin) -> None:
    wait_for_truth(daemon, rancher)
    admin.delete(SECRET)
    daemon.wait_for("the Secret again", rancher.secret, 30)
    wait_for_truth(daemon, rancher)


def test_what_others_put_there_survives_every_write(
    daemon: Daemon, rancher: Rancher, admin: Admin
) -> None:
    wait_for_truth(daemon, rancher)
    finalizer = "wrangler.cattle.io/prime-registration-secrets-remove"
    foreign: dict[str, Any] = {
        "metadata": {
            "labels": {"theirs": "label"},
            "annotations": {"theirs": "annotation"},
            "finalizers": [finalizer],
        },
        "data": {"theirs": b64encode(b"data").decode()},
    }
    admin.patch(SECRET, foreign)
    writes = []
    for number in (9101, 9102):
        rancher.add_node("sentinel-c-1", number)
        wait_for_truth(daemon, rancher)
        secret = rancher.secret()
        assert secret is not None
        writes.append(secret["metadata"]["resourceVersion"])
        assert secret["metadata"]["labels"]["theirs"] == "label"
        assert secret["metadata"]["annotations"]["theirs"] == "annotation"
        assert finalizer in secret["metadata"]["finalizers"]
        assert secret["data"]["theirs"] == foreign["data"]["theirs"]
    assert len(set(writes)) == 2, "both changes were written"
    for number in (9101, 9102):
        rancher.delete_node("sentinel-c-1", number)
    admin.patch(SECRET, {"metadata": {"finalizers": None}})
    wait_for_truth(daemon, rancher)


def test_altered_payload_is_a_conflict_until_quiet_and_then_healed(
    daemon: Daemon, rancher: Rancher, admin: Admin
) -> None:
    wait_for_truth(daemon, rancher)
    theirs = b64encode(b'{"written":"by another"}').decode()
    secret = rancher.secret()
    assert secret is not None
    secret["data"]["payload"] = theirs
    admin.put(SECRET, secret)
    conflict = daemon.wait_for(
        "conflict", lambda: daemon.exporter()["state"] == "conflict" and daemon.exporter(), 30
    )
    assert conflict
    assert conflict["last_error_reason"] == "field_conflict"
    during = rancher.secret()
    assert during is not None
    assert during["data"]["payload"] == theirs, "nothing is written over another's bytes at once"
    wait_for_truth(daemon, rancher)
    daemon.wait_for("idle again", lambda: daemon.exporter()["state"] == "idle", 30)


def test_another_writer_that_goes_on_is_left_alone(
    daemon: Daemon, rancher: Rancher, admin: Admin
) -> None:
    wait_for_truth(daemon, rancher)
    begin = time.monotonic()
    number = 0
    while time.monotonic() - begin < 6:
        number += 1
        body = b64encode(json.dumps({"number": number}).encode()).decode()
        admin.patch(SECRET, {"data": {"payload": body}})
        time.sleep(1.0)
        secret = rancher.secret()
        assert secret is not None
        assert secret["data"]["payload"] == body, "their bytes were not overwritten"
    daemon.wait_for("conflict", lambda: daemon.exporter()["state"] == "conflict", 30)
    wait_for_truth(daemon, rancher)


def test_changed_setting_is_exported_without_a_restart(
    daemon: Daemon, rancher: Rancher, admin: Admin
) -> None:
    wait_for_truth(daemon, rancher)
    path = f"{collection(SETTINGS)}/server-version"
    admin.patch(path, {"value": "v2.13.0-rc.1"})
    try:
        daemon.wait_for(
            "the new version", lambda: (rancher.payload() or {}).get("version") == "2.13.0", 30
        )
    finally:
        admin.patch(path, {"value": VERSION})
    daemon.wait_for("the old one", lambda: (rancher.payload() or {}).get("version") == "2.12.3", 30)


def test_readiness_names_each_informer(daemon: Daemon) -> None:
    code, body = daemon.get("/readyz?verbose")
    assert code == 200
    for plural in ("clusters", "nodes", "settings", "features"):
        assert f"{plural}.management.cattle.io" in body
    assert "namespaces" in body


def test_cache_equals_a_fresh_list_of_the_api_server(
    daemon: Daemon, rancher: Rancher, admin: Admin
) -> None:
    resource = "nodes.management.cattle.io"
    wait_for_truth(daemon, rancher)
    rancher.delete_node("sentinel-c-2", 1)
    try:
        folder = str(daemon.config_file.parent)
        result = ctl(
            "cache", resource, "--verify", config=daemon.config_file, RUNTIME_DIRECTORY=folder
        )
        assert (result.returncode, result.stderr) == (0, "")
        document = json.loads(result.stdout)
        keys = sorted(
            f"{item['metadata']['namespace']}/{item['metadata']['name']}"
            for item in admin.list(collection(NODES))
        )
        assert document["objects"] == document["verification"]["listed"] == len(keys) >= 6
        assert document["keys_sha256"] == hashlib.sha256("\n".join(keys).encode()).hexdigest()
        assert int(document["resource_version"]) > 0
    finally:
        rancher.add_node("sentinel-c-2", 1)
    wait_for_truth(daemon, rancher)
