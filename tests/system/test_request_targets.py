"""Whose a Secret is: requests and configured exporters want the same one, and one goes again."""

from base64 import b64encode

import pytest

from tests.apiserver.admin import Admin
from tests.apiserver.crds import SECRET_REQUESTS, create_crd, delete_crd
from tests.system.requests import RequestDaemon, exporters, shown, wait_served
from tests.system.scc import (
    EXPORTER,
    FAILED,
    INVALID,
    NAMESPACE,
    REQUEST,
    SECRET,
    SECRET_FINALIZER,
    SERVED,
    Scc,
)

CONFIGURED = f"""
[[exporters]]
name = "mine"
type = "secret"
interval = "1s"
namespace = "{NAMESPACE}"
secret = "{SECRET}"
"""
OTHER = "rancher-other-metrics"
READY = {"type": "Ready", "status": "Unknown", "severity": {"of": "another"}, "reason": "Theirs"}


def test_second_request_for_a_secret_fails_until_the_first_goes(
    scc: Scc, serving: RequestDaemon
) -> None:
    scc.ask("a.first-1")
    daemon = serving
    wait_served(daemon, scc, "a.first-1")
    scc.ask("0-second.b")
    daemon.wait_for("refused", lambda: scc.conditions("0-second.b") == FAILED, 40)
    failure = scc.condition("Failure", "0-second.b")
    assert failure["reason"] == INVALID
    assert "kept by SecretRequest a.first-1" in failure["message"]
    assert exporters(daemon) == ["secretrequest/a.first-1"]
    assert scc.conditions("a.first-1") == SERVED
    scc.delete("a.first-1")
    daemon.wait_for("taken over", lambda: exporters(daemon) == ["secretrequest/0-second.b"], 40)
    daemon.wait_for("no failure", lambda: scc.conditions("0-second.b") == SERVED, 40)


def test_request_gives_way_to_a_configured_exporter_and_takes_over_when_that_goes(
    scc: Scc, serving: RequestDaemon
) -> None:
    scc.ask()
    daemon = serving
    wait_served(daemon, scc)
    daemon.reload(exporters=CONFIGURED)
    assert exporters(daemon) == ["mine"]
    daemon.wait_for("refused", lambda: scc.conditions() == FAILED, 40)
    assert "kept by the configured exporter mine" in scc.condition("Failure")["message"]
    assert shown(daemon)["state"] == "rejected"
    daemon.reload()
    daemon.wait_for("taken over", lambda: exporters(daemon) == [EXPORTER], 40)
    daemon.wait_for("no failure", lambda: scc.conditions() == SERVED, 40)


@pytest.mark.long
def test_settings_are_changed_by_a_reload_without_a_new_exporter(
    scc: Scc, serving: RequestDaemon
) -> None:
    scc.ask()
    daemon = serving
    wait_served(daemon, scc)
    runs = f'telemetryd_exporter_runs_total{{exporter="{EXPORTER}",result="success"}}'
    assert (daemon.metric(runs) or 0) >= 1
    daemon.reload('interval = "2s"')
    assert daemon.exporter(EXPORTER)["interval_seconds"] == 2
    assert (daemon.metric(runs) or 0) >= 1, "its counters go on"
    daemon.reload("enabled = false")
    daemon.wait_for("none", lambda: exporters(daemon) == [], 40)
    assert scc.conditions() == SERVED, "nobody was at fault"
    resources = {each["resource"] for each in daemon.status()["informers"]}
    assert "secretrequests.telemetry.cattle.io" not in resources
    daemon.reload('enabled = true\ncleanup = "delete"')
    daemon.wait_for("served again", lambda: exporters(daemon) == [EXPORTER], 40)
    assert daemon.informer("secretrequests.telemetry.cattle.io")["objects"] == 1


def test_secret_goes_with_its_request_where_nothing_else_is_in_it(
    scc: Scc, serving: RequestDaemon
) -> None:
    daemon = serving
    daemon.reload('cleanup = "delete"')
    scc.ask()
    wait_served(daemon, scc)
    scc.edit({"spec": {"targetSecretRef": {"name": OTHER}}})
    daemon.wait_for("the other Secret", lambda: scc.payload(OTHER), 40)
    daemon.wait_for("the first is gone", lambda: scc.secret() is None, 40)
    daemon.wait_for("conditions", lambda: scc.conditions() == SERVED, 40)
    scc.delete()
    daemon.wait_for("no exporter", lambda: exporters(daemon) == [], 40)
    assert scc.secret(OTHER) is not None, "the request is still there"
    scc.finalize()
    daemon.wait_for("it is gone", lambda: scc.secret(OTHER) is None, 40)


def test_what_others_have_in_a_secret_stays_when_its_request_goes(
    scc: Scc, serving: RequestDaemon
) -> None:
    daemon = serving
    daemon.reload('cleanup = "delete"')
    scc.ask()
    wait_served(daemon, scc)
    theirs = b64encode(b"theirs").decode()
    scc.admin.patch(
        scc.secret_path(),
        {
            "metadata": {"finalizers": [SECRET_FINALIZER], "annotations": {"theirs": "yes"}},
            "data": {"theirs": theirs},
        },
    )
    scc.delete()
    scc.finalize()
    daemon.wait_for("given up", lambda: not scc.payload(), 40)
    secret = scc.secret()
    assert secret is not None
    assert secret["data"] == {"theirs": theirs}
    assert secret["metadata"]["annotations"] == {"theirs": "yes"}
    assert secret["metadata"]["finalizers"] == [SECRET_FINALIZER]
    assert "deletionTimestamp" not in secret["metadata"]


@pytest.mark.long
def test_secret_that_was_never_ours_is_left_alone(
    scc: Scc, serving: RequestDaemon, admin: Admin
) -> None:
    admin.create(
        scc.secret_path().rpartition("/")[0],
        {"metadata": {"name": SECRET}, "data": {"payload": b64encode(b"theirs").decode()}},
    )
    daemon = serving
    daemon.reload('cleanup = "delete"')
    scc.ask()
    daemon.wait_for("conflict", lambda: shown(daemon).get("state") == "failing", 40)
    before = scc.secret()
    scc.delete()
    scc.finalize()
    daemon.wait_for("gone", lambda: not shown(daemon), 40)
    daemon.wait_for("its line", lambda: "secret cleaned up" in daemon.log(), 40)
    assert scc.secret() == before


@pytest.mark.long
def test_payload_that_others_have_replaced_stays_when_its_request_goes(
    scc: Scc, serving: RequestDaemon, admin: Admin
) -> None:
    daemon = serving
    daemon.reload('cleanup = "delete"')
    scc.ask()
    wait_served(daemon, scc)
    admin.patch(scc.secret_path(), {"data": {"payload": b64encode(b"theirs").decode()}})
    before = scc.secret()
    scc.delete()
    scc.finalize()
    daemon.wait_for("gone", lambda: not shown(daemon), 40)
    daemon.wait_for("the outcome", lambda: '"outcome":"kept"' in daemon.log(), 40)
    assert scc.secret() == before


@pytest.mark.long
def test_conditions_of_others_stay_and_an_altered_status_is_healed_once_it_is_quiet(
    scc: Scc, serving: RequestDaemon, admin: Admin
) -> None:
    scc.ask()
    daemon = serving
    wait_served(daemon, scc)
    theirs = {"conditions": [READY, {"type": "Done", "status": "False"}], "theirs": 1}
    admin.patch(f"{scc.request_path()}/status", {"status": theirs})
    daemon.wait_for("left to it", lambda: "tests-admin writes the status" in daemon.log(), 40)
    valid = {**SERVED, "Ready": "Unknown"}
    daemon.wait_for("healed", lambda: scc.conditions() == valid, 40)
    daemon.wait_for("served", lambda: shown(daemon)["state"] == "served", 40)
    scc.edit({"spec": {"secretType": "other"}})
    daemon.wait_for("invalid", lambda: scc.conditions() == {**FAILED, "Ready": "Unknown"}, 40)
    scc.edit({"spec": {"secretType": "scc"}})
    daemon.wait_for("valid", lambda: scc.conditions() == valid, 40)
    assert scc.status()["conditions"][0] == READY
    assert scc.status()["theirs"] == 1
    own = [each for each in scc.status()["conditions"] if each["type"] != "Ready"]
    assert {each["type"] for each in own} == {"Progressing", "Done"}
    assert all({"lastUpdateTime", "lastTransitionTime"} <= each.keys() for each in own)
    annotations = scc.secret()["metadata"]["annotations"]  # type: ignore[index]
    assert scc.status()["lastSyncTS"] >= annotations["scc.cattle.io/last-changed"]


@pytest.mark.long
def test_crd_may_come_and_go(scc: Scc, serving: RequestDaemon, admin: Admin) -> None:
    daemon = serving
    resource = "secretrequests.telemetry.cattle.io"
    scc.ask()
    wait_served(daemon, scc)
    scc.finalize()
    delete_crd(admin, SECRET_REQUESTS)
    try:
        daemon.wait_for("its exporter goes", lambda: exporters(daemon) == [], 40)
        daemon.wait_for("absence", lambda: daemon.informer(resource)["absent"], 40)
        assert scc.payload() is not None
        assert daemon.ready(), "nothing else hangs on it"
    finally:
        create_crd(admin, SECRET_REQUESTS)
    scc.ask()
    daemon.wait_for("served", lambda: exporters(daemon) == [EXPORTER], 40)
    daemon.wait_for("its conditions", lambda: scc.conditions() == SERVED, 40)


@pytest.mark.long
def test_recreated_request_is_served_as_a_new_one(scc: Scc, serving: RequestDaemon) -> None:
    daemon = serving
    scc.ask()
    wait_served(daemon, scc)
    first = scc.request()
    assert first is not None
    scc.delete()
    scc.finalize()
    scc.ask()
    daemon.wait_for("accepted", lambda: scc.conditions(REQUEST) == SERVED, 40)
    assert exporters(daemon) == [EXPORTER]
    scc.set_version("v2.15.9")
    wait_served(daemon, scc)
