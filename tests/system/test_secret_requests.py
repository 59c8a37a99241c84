"""SecretRequests as scc-operator makes them, served by the whole daemon on a real API server."""

import time
from pathlib import Path

from tests.apiserver.admin import Admin
from tests.apiserver.crds import SETTINGS, collection
from tests.apiserver.fixtures import setting
from tests.apiserver.process import ApiServer
from tests.cli.test_commands import telemetryd
from tests.support.daemon import Daemon
from tests.system.offlinerequest import read_offline_request, without_time
from tests.system.requests import RequestDaemon, exporters, shown, wait_served
from tests.system.scc import (
    EXPORTER,
    FAILED,
    INVALID,
    REQUEST,
    REQUEST_FINALIZER,
    REQUESTS,
    SECRET,
    SECRET_FINALIZER,
    SERVED,
    SYSTEM_PROJECT,
    Scc,
    demand_what_the_operator_needs,
    recorded,
)

BURST_S = 6.0
EDITS_PER_S = 10


def test_life_of_a_request_as_scc_operator_makes_it(scc: Scc, serving: RequestDaemon) -> None:
    daemon = serving
    scc.unset_settings()
    with recorded(scc.admin, f"{REQUESTS}/{REQUEST}") as events:
        scc.ask()
        # Before the Settings it needs exist: accepted, and waiting for them by name.
        daemon.wait_for("accepted", lambda: scc.conditions() == SERVED, 40)
        waiting = daemon.exporter(EXPORTER)
        assert waiting["state"] == "waiting"
        assert "install-uuid" in waiting["detail"]
        assert scc.secret() is None
        assert "lastSyncTS" not in scc.status()
        # Valid.
        scc.set_settings()
        wait_served(daemon, scc)
        demand_what_the_operator_needs(scc.payload() or {})
        assert scc.request()["metadata"]["finalizers"] == [REQUEST_FINALIZER]  # type: ignore[index]
    first = [
        {c["type"]: c["status"] for c in (s.get("status") or {}).get("conditions", [])}
        for s in events.states
    ]
    assert {"Progressing": "True"} in first, "a write of its own, when it is first seen"
    assert events.changes("status") <= 3, "first seen, accepted, written"
    _edit(scc, daemon)
    _go_invalid_and_back(scc, daemon)
    _leave(scc, daemon)


def _edit(scc: Scc, daemon: Daemon) -> None:
    """Ten edits a second: exports stay on schedule, and the status is left alone."""
    runs = 'telemetryd_exporter_runs_total{exporter="%s",result="%s"}'
    before = {
        result: daemon.metric(runs % (EXPORTER, result)) or 0
        for result in ("unchanged", "success", "failure")
    }
    with recorded(scc.admin, f"{REQUESTS}/{REQUEST}") as events:
        begin = time.monotonic()
        edits = 0
        while (elapsed := time.monotonic() - begin) < BURST_S:
            if edits <= elapsed * EDITS_PER_S:
                edits += 1
                scc.edit({"metadata": {"annotations": {"edit": str(edits)}}})
            if edits == int(BURST_S * EDITS_PER_S / 2):
                scc.set_version("v2.15.1")
            time.sleep(0.01)
    daemon.wait_for("the new version", lambda: (scc.payload() or {}).get("version") == "2.15.1", 30)
    after = {result: daemon.metric(runs % (EXPORTER, result)) or 0 for result in before}
    made = sum(after.values()) - sum(before.values())
    assert edits >= BURST_S * EDITS_PER_S * 0.9
    assert BURST_S - 2 <= made <= BURST_S + 4, f"{made} runs in {BURST_S} s of one a second"
    assert after["success"] == before["success"] + 1, "written once, when the version changed"
    assert events.changes("status") <= 1, "lastSyncTS once, for the one write"
    assert scc.conditions() == SERVED


def _go_invalid_and_back(scc: Scc, daemon: Daemon) -> None:
    before = scc.secret()
    scc.edit({"spec": {"secretType": "other"}})
    daemon.wait_for("invalid", lambda: scc.conditions() == FAILED, 40)
    failure = scc.condition("Failure")
    assert failure["reason"] == INVALID
    assert "secretType" in failure["message"]
    assert exporters(daemon) == []
    assert shown(daemon)["state"] == "rejected"
    assert scc.secret() == before, "what was written stays"
    scc.edit({"spec": {"secretType": "scc"}})
    wait_served(daemon, scc)
    assert exporters(daemon) == [EXPORTER]
    assert all(
        "reason" not in each and "message" not in each for each in scc.status()["conditions"]
    )


def _leave(scc: Scc, daemon: Daemon) -> None:
    """Deleted while the operator's finalizer is pending, which nobody removes."""
    before = scc.status()
    with recorded(scc.admin, f"{REQUESTS}/{REQUEST}") as events:
        scc.delete()
        daemon.wait_for("no exporter", lambda: exporters(daemon) == [], 40)
        scc.edit({"metadata": {"annotations": {"edit": "once more"}}})
        scc.set_version("v2.15.2")
        time.sleep(2.5)
        assert exporters(daemon) == [], "it isn't registered again"
    assert events.changes("status") == 0
    held = scc.request()
    assert held is not None
    assert held["metadata"]["finalizers"] == [REQUEST_FINALIZER]
    assert held["status"] == before
    assert (scc.payload() or {}).get("version") == "2.15.1", "nothing is exported any more"
    assert shown(daemon)["state"] == "leaving"
    scc.finalize()
    daemon.wait_for("gone", lambda: not shown(daemon), 40)
    assert scc.secret() is not None, "cleanup keeps it by default"


def test_request_that_is_made_again_shows_when_its_unchanged_secret_was_written(
    scc: Scc, serving: RequestDaemon
) -> None:
    scc.ask()
    wait_served(serving, scc)
    scc.delete()
    serving.wait_for("no exporter", lambda: exporters(serving) == [], 40)
    scc.finalize()
    serving.wait_for("gone", lambda: not shown(serving), 40)
    before = scc.secret()
    assert before is not None
    scc.ask()
    serving.wait_for("its conditions", lambda: scc.conditions() == SERVED, 40)
    serving.wait_for("the time of the write", lambda: "lastSyncTS" in scc.status(), 40)
    (ours,) = [each for each in before["metadata"]["managedFields"] if "f:data" in each["fieldsV1"]]
    assert scc.status()["lastSyncTS"] == ours["time"]
    assert scc.secret() == before, "it wasn't written again"


def test_operators_finalizers_and_all_that_others_add_survive_every_write(
    scc: Scc, serving: RequestDaemon
) -> None:
    daemon = serving
    scc.ask()
    wait_served(daemon, scc)
    path = scc.secret_path()
    scc.admin.patch(
        path,
        {
            "metadata": {
                "finalizers": [SECRET_FINALIZER, REQUEST_FINALIZER],
                "labels": {"theirs": "label"},
                "annotations": {"theirs": "annotation"},
            },
            "data": {"theirs": "YQ=="},
        },
    )
    for version in ("dev", "v2.12-abc-head", "v2.15.3"):
        scc.set_version(version)
        daemon.wait_for(
            version,
            lambda version=version: (
                ((scc.payload() or {}).get("subscription") or {}).get("version") == version
            ),  # type: ignore[misc]
            30,
        )
        demand_what_the_operator_needs(scc.payload() or {})
    secret = scc.secret()
    assert secret is not None
    assert secret["metadata"]["finalizers"] == [SECRET_FINALIZER, REQUEST_FINALIZER]
    assert secret["metadata"]["labels"] == {"theirs": "label"}
    assert secret["metadata"]["annotations"]["theirs"] == "annotation"
    assert secret["data"]["theirs"] == "YQ=="


def test_namespace_and_system_project_may_come_later(
    scc: Scc, serving: RequestDaemon, admin: Admin
) -> None:
    daemon = serving
    late, project = (
        f"late-{time.time_ns()}",
        "/apis/management.cattle.io/v3/namespaces/local/projects/",
    )
    scc.ask(namespace=late)
    daemon.wait_for("rejected", lambda: scc.conditions() == FAILED, 40)
    assert "doesn't exist" in scc.condition("Failure")["message"]
    scc.namespace(late, None)
    daemon.wait_for(
        "the label is named", lambda: "projectId" in scc.condition("Failure").get("message", ""), 30
    )
    admin.patch(f"{project}{SYSTEM_PROJECT}", {"metadata": {"labels": None}})
    daemon.wait_for("waiting", lambda: shown(daemon).get("state") == "waiting", 40)
    daemon.wait_for("no failure", lambda: scc.conditions() == {"Progressing": "True"}, 40)
    scc.label(late, SYSTEM_PROJECT)
    assert exporters(daemon) == []
    admin.patch(
        f"{project}{SYSTEM_PROJECT}",
        {"metadata": {"labels": {"authz.management.cattle.io/system-project": "true"}}},
    )
    daemon.wait_for("the Secret", lambda: scc.payload(SECRET, late), 40)
    daemon.wait_for("its conditions", lambda: scc.conditions() == SERVED, 40)
    scc.label(late, "p-other")
    daemon.wait_for("out of it again", lambda: scc.conditions() == FAILED, 40)
    assert exporters(daemon) == []


def test_offline_request_holds_what_the_operator_s_secret_holds(
    scc: Scc, serving: RequestDaemon, apiserver: ApiServer, tmp_path: Path
) -> None:
    scc.put(collection(SETTINGS), setting("server-version-type", "prime"))
    scc.ask()
    wait_served(serving, scc)
    kubeconfig = apiserver.kubeconfig(tmp_path / "kubeconfig")
    result = telemetryd("offline-request", KUBECONFIG=str(kubeconfig))
    assert (result.returncode, result.stderr) == (0, "")
    request = read_offline_request(result.stdout)
    demand_what_the_operator_needs(request["system_information"])

    def same() -> bool:
        return without_time(scc.payload() or {}) == without_time(request["system_information"])

    serving.wait_for("the Secret of the same fleet", same, 60)
    subscription = request["system_information"]["subscription"]
    assert request["product"] == {
        "identifier": subscription["product"],
        "version": "2.15.0",
        "arch": subscription["arch"],
    }
    assert subscription["product"] == "rancher-prime"
