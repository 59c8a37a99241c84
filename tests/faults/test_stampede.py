"""Ten replicas whose API server was away come back to it without a stampede."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.apiserver.admin import Admin
from tests.apiserver.process import ApiServer
from tests.faults.plugin import NOTES
from tests.faults.proxy import COLLECTIONS, FaultProxy
from tests.support.daemon import Daemon
from tests.system.rancher import Rancher

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]

REPLICAS = 10
AWAY_S = 75.0
"""So long that every backoff has reached its cap."""

COUNTED_S = 30.0
EACH_ASKS_AT_MOST = 6
"""Of one informer: the watch that is refused, a list of two pages, a watch, and as much again."""

CONFIG = """
[secret_requests]
enabled = false

[[exporters]]
name = "folder"
type = "file"
directory = "{folder}"
"""


@pytest.fixture
def rancher(admin: Admin) -> Iterator[Rancher]:
    with Rancher.built(admin, clusters=2, nodes=3) as fleet:
        yield fleet


def well(daemon: Daemon) -> bool:
    code, body = daemon.get("/status.json")
    return code == 200 and not any(
        each["last_error"] or not each["synced"] for each in json.loads(body)["informers"]
    )


def most_within(times: list[float], window_s: float) -> int:
    return max((sum(start <= at < start + window_s for at in times) for start in times), default=0)


def test_api_server_that_comes_back_meets_no_stampede_of_ten_replicas(
    apiserver: ApiServer, rancher: Rancher, tmp_path: Path
) -> None:
    with (
        FaultProxy(apiserver.url, apiserver.ca_file, tmp_path).running() as proxy,
        ExitStack() as ends,
    ):
        daemons = [start(number, tmp_path, apiserver, proxy, ends) for number in range(REPLICAS)]
        for daemon in daemons:
            daemon.wait_for("readiness", daemon.ready, 120)
        proxy.close_door()
        apiserver.kill_apiserver()
        away_s = time.monotonic()
        try:
            daemons[0].wait_for("it shows", lambda: not well(daemons[0]), 20)
            time.sleep(max(0.0, away_s + AWAY_S - time.monotonic()))
        finally:
            apiserver.start_apiserver()
        rancher.add_node("local", 9400)
        proxy.open_door()
        back_s = time.monotonic()
        for daemon in daemons:
            daemon.wait_for("all is well", partial(well, daemon), 60)
        converged_s = time.monotonic() - back_s
        time.sleep(max(0.0, back_s + COUNTED_S - time.monotonic()))
        asks = [ask for ask in proxy.asks(back_s) if ask.at_s < back_s + COUNTED_S]
        peak = most_within([ask.at_s for ask in asks], 1.0)
        lists = sum(ask.verb == "list" for ask in asks)
        NOTES.append(
            f"ten replicas after {AWAY_S:.0f} s without an API server: {len(asks)} requests in "
            f"{COUNTED_S:.0f} s ({lists} for lists), {peak} in the worst second; all well after "
            f"{converged_s:.1f} s"
        )
        assert len(asks) <= EACH_ASKS_AT_MOST * REPLICAS * len(COLLECTIONS)
        assert peak <= 0.4 * len(asks)
        for daemon in daemons:
            held = daemon.informer("nodes.management.cattle.io")["objects"]
            assert held == 2 * 3 + 1


def start(
    number: int, folder: Path, apiserver: ApiServer, proxy: FaultProxy, ends: ExitStack
) -> Daemon:
    own = folder / str(number)
    own.mkdir()
    kubeconfig = apiserver.kubeconfig(own / "kubeconfig")
    document = json.loads(kubeconfig.read_text())
    document["clusters"][0]["cluster"] = proxy.cluster()
    kubeconfig.write_text(json.dumps(document))
    daemon = Daemon(own, kubeconfig, CONFIG.format(folder=own / "out"))
    ends.callback(daemon.stop)
    return daemon
