"""Another writer of a request's Secret, of the shape of Rancher's own manager."""

import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.apiserver.admin import Admin, AdminError
from tests.support.repeating import repeating
from tests.system.requests import RequestDaemon, exporters, shown, wait_served
from tests.system.scc import EXPORTER, SECRET, SERVED, Scc, recorded

WRITES_EVERY_S = 0.7


class RancherManager:
    """Create first, then a plain PUT without resourceVersion: wipes all that others have."""

    def __init__(self, admin: Admin, path: str) -> None:
        self.writes = 0
        self._admin = admin
        self._path = path

    def write(self) -> None:
        self.writes += 1
        text = f'{{"timestamp": "write {self.writes}"}}'
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": SECRET,
                "namespace": self._path.split("/")[4],
                "annotations": {"scc.cattle.io/part-of": "telemetry"},
            },
            "data": {"payload": b64encode(text.encode()).decode()},
        }
        try:
            self._admin.create(self._path.rpartition("/")[0], secret)
        except AdminError:  # it exists
            self._admin.put(self._path, secret)

    @contextmanager
    def writing(self) -> Iterator[None]:
        self.write()
        with repeating(self._write_if_possible, every_s=WRITES_EVERY_S):
            yield

    def _write_if_possible(self) -> None:
        with suppress(AdminError):
            self.write()


def runs(daemon: RequestDaemon) -> float:
    """How often the request's exporter has run."""
    series = 'telemetryd_exporter_runs_total{exporter="%s",result="%s"}'
    results = ("success", "unchanged", "failure")
    return sum(daemon.metric(series % (EXPORTER, result)) or 0 for result in results)


def test_another_writer_is_a_conflict_without_a_war_until_takeover_is_set(
    scc: Scc, serving: RequestDaemon, admin: Admin
) -> None:
    daemon = serving
    scc.ask()
    wait_served(daemon, scc)
    other = RancherManager(admin, scc.secret_path())
    with recorded(admin, scc.secret_path()) as states, recorded(admin, scc.request_path()) as asked:
        before = runs(daemon)
        with other.writing():
            begin = time.monotonic()
            daemon.wait_for("conflict", lambda: shown(daemon).get("state") == "conflict", 40)
            # By its runs, not by the clock: the machine may be slow. One may have been under way.
            assert runs(daemon) - before <= 3, "within two intervals"
            time.sleep(max(0.0, 6 - (time.monotonic() - begin)))
        during = states.changes("data", "payload")
        assert during == other.writes, "not one write is telemetryd's"
        detail = shown(daemon)["detail"]
        assert "also written by tests-admin" in detail
        assert "takeover isn't set in [secret_requests]" in detail
        assert exporters(daemon) == [EXPORTER]
        assert scc.conditions() == SERVED
        assert asked.changes("status") == 0, "nor is one to the request"
        assert states.changes("data", "payload") == during, "nor when the other is quiet"
        daemon.reload("takeover = true")
        daemon.wait_for("healed", lambda: (scc.payload() or {}).get("version"), 40)
        daemon.wait_for("served", lambda: shown(daemon)["state"] == "served", 40)
    assert states.changes("data", "payload") == during + 1, "one forced write"
    assert daemon.exporter(EXPORTER)["state"] in {"idle", "running"}


@pytest.mark.long
def test_takeover_overrules_another_writer_three_times_and_then_gives_in(
    scc: Scc, serving: RequestDaemon, admin: Admin
) -> None:
    daemon = serving
    daemon.reload('takeover = true\nquiet_period = "1h"')
    scc.ask()
    wait_served(daemon, scc)
    other = RancherManager(admin, scc.secret_path())
    with recorded(admin, scc.secret_path()) as states, other.writing():
        daemon.wait_for(
            "conflict", lambda: "3 takeovers" in daemon.exporter(EXPORTER)["last_error"], 15
        )
        assert shown(daemon)["state"] == "conflict"
        time.sleep(3)
    ours = [
        state
        for state in states.states[1:]
        if "telemetryd/digest" in (state["metadata"].get("annotations") or {})
    ]
    assert len({state["metadata"]["resourceVersion"] for state in ours}) == 3
