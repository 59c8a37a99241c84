"""Rancher's own controller serves the request and writes its Secret: telemetryd keeps away."""

import time

import pytest

from tests.apiserver.admin import Admin
from tests.system.rancherserver import RancherServer
from tests.system.requests import RequestDaemon, shown
from tests.system.scc import EXPORTER, SERVED, Events, Scc, recorded

pytestmark = pytest.mark.long

EVERY_S = 1.5
"""Rancher's interval, 60 s in truth; telemetryd's is 1 s."""

QUIET = 'quiet_period = "6s"'
CONFIGURED = """
[[exporters]]
name = "scc"
type = "secret"
interval = "1s"
namespace = "cattle-scc-system"
secret = "rancher-scc-metrics"
quiet_period = "6s"
retry_base = "200ms"
"""


@pytest.fixture
def rancher(admin: Admin) -> RancherServer:
    return RancherServer(admin, every_s=EVERY_S)


def wait_writes(daemon: RequestDaemon, rancher: RancherServer, more: int) -> None:
    """Until Rancher has written so many more Secrets."""
    enough = rancher.writes + more
    daemon.wait_for(f"{more} writes of Rancher's", lambda: rancher.writes >= enough, 60)


def runs(daemon: RequestDaemon, exporter: str) -> float:
    """How often an exporter has run."""
    series = 'telemetryd_exporter_runs_total{exporter="%s",result="failure"}'
    return daemon.metric(series % exporter) or 0


def version(scc: Scc) -> object:
    """What the payload names as Rancher's version."""
    return (scc.payload() or {}).get("version")


def owners(states: Events) -> set[str]:
    """The field managers that owned the payload in any of these states of a Secret."""
    return {
        entry["manager"]
        for state in states.states
        for entry in state["metadata"].get("managedFields") or []
        if "f:payload" in entry["fieldsV1"].get("f:data", {})
    }


def test_request_that_rancher_serves_is_left_alone_altogether_until_takeover(
    scc: Scc, serving: RequestDaemon, admin: Admin, rancher: RancherServer
) -> None:
    daemon = serving
    daemon.reload(QUIET)
    state = f'telemetryd_exporter_state{{exporter="{EXPORTER}",state="conflict"}}'
    with rancher.running():
        scc.ask()
        wait_writes(daemon, rancher, 2)  # both have met the new request: that is settled now
        daemon.wait_for("conflict", lambda: shown(daemon).get("state") == "conflict", 40)
        with (
            recorded(admin, scc.request_path()) as asked,
            recorded(admin, scc.secret_path()) as states,
        ):
            writes, registrations = rancher.writes, rancher.registrations
            wait_writes(daemon, rancher, 8)
            assert asked.states == asked.states[:1], "not one write to the request"
            assert rancher.registrations == registrations, "its interval never began again"
            written = rancher.writes - writes
        assert states.changes("data", "payload") >= written, "Rancher writes at its pace"
        assert owners(states) == {"rancher"}
        assert "rancher" in shown(daemon)["detail"]
        daemon.wait_for("the metric", lambda: daemon.metric(state) == 1, 40)
        assert "rancher" in daemon.exporter(EXPORTER)["last_error"]
        assert "conflict" in daemon.get("/")[1]
    # Rancher has ended: its Secret is never taken over for a request without takeover.
    with recorded(admin, scc.request_path()) as asked, recorded(admin, scc.secret_path()) as states:
        before = runs(daemon, EXPORTER)
        daemon.wait_for("ten runs", lambda: runs(daemon, EXPORTER) >= before + 10, 60)
        assert version(scc) == "2.14.0"
        assert "takeover isn't set in [secret_requests]" in shown(daemon)["detail"]
    assert asked.changes("status") == states.changes("data", "payload") == 0
    synced_at = scc.status()["lastSyncTS"]
    daemon.reload(f"{QUIET}\ntakeover = true")
    daemon.wait_for("our Secret", lambda: version(scc) == "2.15.0", 40)
    daemon.wait_for("served", lambda: shown(daemon).get("state") == "served", 40)
    daemon.wait_for("our time", lambda: scc.status()["lastSyncTS"] > synced_at, 40)
    daemon.reload(QUIET)
    daemon.wait_for("served still", lambda: shown(daemon).get("state") == "served", 40)
    with rancher.running():  # back again
        wait_writes(daemon, rancher, 2)
        daemon.wait_for("conflict", lambda: shown(daemon).get("state") == "conflict", 40)
        with recorded(admin, scc.request_path()) as asked:
            registrations = rancher.registrations
            wait_writes(daemon, rancher, 8)
            assert rancher.registrations == registrations
        assert asked.changes("status") == 0
        assert version(scc) == "2.14.0"
        assert scc.conditions() == SERVED, "as Rancher says"


def test_configured_exporter_takes_ranchers_secret_once_that_is_quiet_and_never_its_request(
    scc: Scc, serving: RequestDaemon, admin: Admin, rancher: RancherServer
) -> None:
    daemon = serving
    with rancher.running():
        scc.ask()
        wait_writes(daemon, rancher, 2)
        daemon.reload(exporters=CONFIGURED)
        daemon.wait_for("conflict", lambda: daemon.exporter()["state"] == "conflict", 40)
        # Where both served the request within one second, Rancher's status changed nothing and does
        # not show: telemetryd writes its rejection once, and Rancher's answer to that shows.
        wait_writes(daemon, rancher, 4)
        with (
            recorded(admin, scc.request_path()) as asked,
            recorded(admin, scc.secret_path()) as states,
        ):
            registrations = rancher.registrations
            wait_writes(daemon, rancher, 8)
            assert asked.states == asked.states[:1], "no rejection is written"
            assert rancher.registrations == registrations
        assert owners(states) == {"rancher"}
        assert "also written by rancher" in daemon.exporter()["last_error"]
        assert shown(daemon)["state"] == "rejected"
        admin.delete(scc.secret_path())
        with recorded(admin, scc.secret_path()) as states:
            wait_writes(daemon, rancher, 2)
        assert owners(states) == {"rancher"}, "a gap is left to Rancher"
        assert version(scc) == "2.14.0"
    with recorded(admin, scc.request_path()) as asked:
        ended_at = time.monotonic()
        daemon.wait_for("taken over", lambda: version(scc) == "2.15.0", 60)
        assert time.monotonic() - ended_at > 6 - EVERY_S - 1
        daemon.wait_for(
            "no conflict", lambda: daemon.exporter()["state"] in {"idle", "running"}, 40
        )
    assert asked.changes("status") == 0
    with rancher.running():
        wait_writes(daemon, rancher, 1)
        daemon.wait_for("conflict", lambda: daemon.exporter()["state"] == "conflict", 40)
        with recorded(admin, scc.secret_path()) as states:
            wait_writes(daemon, rancher, 8)
        assert owners(states) == {"rancher"}
