"""Hundreds of SecretRequests on a real API server: what they cost it, and whom they hold up."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from telemetryd.control.secretrequest import cluster
from tests.apiserver.admin import Admin
from tests.apiserver.process import ApiServer
from tests.system.account import Trail, make_account
from tests.system.requests import RequestDaemon, run_requests_daemon, wait_served
from tests.system.scc import REQUEST, REQUESTS, SECRET, Scc, scc_request

pytestmark = pytest.mark.long

MANY = [600, pytest.param(3000, marks=pytest.mark.faults)]
RESOURCE = "secretrequests.telemetry.cattle.io"
ALL = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]
CONTROLLERS = ("/secretrequests/", "/namespaces/n-", "/secrets/", "/namespaces/cattle-scc-system")


@pytest.fixture(scope="module")
def daemon(
    apiserver: ApiServer, admin: Admin, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RequestDaemon]:
    """A daemon whose every request is in the audit log."""
    folder: Path = tmp_path_factory.mktemp("crowd")
    yield from run_requests_daemon(folder, make_account(apiserver, admin, folder, ALL))


@pytest.fixture(params=MANY)
def crowd(
    request: pytest.FixtureRequest, scc: Scc, admin: Admin, daemon: RequestDaemon
) -> Iterator[None]:
    """Requests for as many namespaces, none of which exists."""

    def ask(number: int) -> None:
        asked = scc_request(f"a-{number:04d}", namespace=f"n-{number}")
        del asked["metadata"]["finalizers"]
        admin.create(REQUESTS, asked)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(request.param)))
    daemon.wait_for("all held", lambda: daemon.informer(RESOURCE)["objects"] == request.param, 60)
    yield
    scc.finalize()
    admin.delete(REQUESTS)


def requests_of_the_controller(trail: Trail) -> list[dict[str, Any]]:
    """Those that it made since, in order; lists and watches are the informers'."""
    return [
        event
        for event in trail.apiserver.audit()[trail.begin :]
        if event["stage"] == "RequestReceived"
        and event["verb"] in {"get", "patch", "delete", "create"}
        and any(part in event["requestURI"] for part in CONTROLLERS)
    ]


@pytest.mark.timeout(300)  # to make and delete so many objects
@pytest.mark.usefixtures("crowd")
def test_requests_of_a_crowd_cost_a_bounded_number_and_the_operators_comes_first(
    scc: Scc, apiserver: ApiServer, daemon: RequestDaemon
) -> None:
    trail = Trail.from_now(apiserver)
    scc.ask()
    wait_served(daemon, scc)
    before = [event["requestURI"] for event in requests_of_the_controller(trail)]
    seen = next(n for n, uri in enumerate(before) if uri.endswith(f"/secretrequests/{REQUEST}"))
    written = next(n for n, uri in enumerate(before) if f"/secrets/{SECRET}" in uri)
    assert written - seen <= 10, before[seen : written + 1]
    assert written <= 4 * cluster.PASS_COST, "what was under way when it was made, and its own"

    time.sleep(30)  # long enough for a rate, however slow the machine is
    made = requests_of_the_controller(trail)
    times = [datetime.fromisoformat(event["requestReceivedTimestamp"]) for event in made]
    took_s = (times[-1] - times[0]).total_seconds()
    exports = sum("/secrets/" in event["requestURI"] for event in made)
    asked = len(made) - exports
    assert took_s >= 25
    assert asked <= took_s * cluster.RATE + cluster.BURST + cluster.PASS_COST
    assert exports <= took_s * 2 + 4, "one read of the one Secret a second"
