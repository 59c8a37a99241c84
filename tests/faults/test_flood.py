"""50,000 nodes and 2,000 changes a second reach the cache whole, in order, and in bounds."""

import json
import time
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from telemetryd.gather import project
from telemetryd.model import Delta, NodeRecord
from telemetryd.serve.control.client import ask
from telemetryd.serve.control.protocol import Request
from tests.apiserver.admin import Admin
from tests.apiserver.process import ApiServer
from tests.faults.bench import NODES_ID, rss_mib
from tests.faults.flood import Flood
from tests.faults.plugin import NOTES
from tests.faults.proxy import FaultProxy
from tests.faults.witness import Witness
from tests.support.daemon import Daemon
from tests.system.rancher import Rancher

NODES = 50_000
A_SECOND, SECONDS = 2_000, 20.0
RSS_AT_MOST_MIB = 160.0
CONFIG = """
control_socket = "{socket}"

[secret_requests]
enabled = false

[[exporters]]
name = "folder"
type = "file"
format = "fleet"
interval = "1s"
directory = "{folder}"
"""


def lost_order(delta: Delta[Any]) -> str:
    """Says so where a node's serial isn't above what it was."""
    old, new = delta.old, delta.new
    if isinstance(old, NodeRecord) and isinstance(new, NodeRecord):
        before, after = old.shape.cpu_nano, new.shape.cpu_nano
        if before is None or after is None or after <= before:
            return f"out of order: {delta}"
    return ""


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_fifty_thousand_nodes_under_two_thousand_changes_a_second_stay_in_order(
    apiserver: ApiServer, admin: Admin, tmp_path: Path, short_path: Path
) -> None:
    rancher = Rancher(admin)
    rancher.build(clusters=1, nodes=0)
    flood = Flood(NODES, Random(41))
    socket = short_path / "control.sock"
    config = CONFIG.format(socket=socket, folder=tmp_path / "out")
    files = tmp_path / "kubeconfig", tmp_path / "witness-kubeconfig"
    proxy = FaultProxy(apiserver.url, apiserver.ca_file, tmp_path)
    resource = project.NODES
    try:
        with proxy.running():
            flood.attach(proxy)
            for file, its in zip(files, (False, True), strict=True):
                document = json.loads(apiserver.kubeconfig(file).read_text())
                document["clusters"][0]["cluster"] = proxy.cluster(witness=its)
                file.write_text(json.dumps(document))
            with Witness(files[1], 500, (resource,), lost_order).running() as witness:
                daemon = Daemon(tmp_path, files[0], config, 'log_level = "info"\n', fresh=True)
                try:
                    _flood(daemon, proxy, flood, witness)
                    answer = ask(
                        [str(socket)], Request("cache", NODES_ID, verify=True), timeout_s=120
                    )
                    assert answer.ok, answer
                finally:
                    status = daemon.stop()
        assert status == 0, daemon.log()[-3000:]
    finally:
        rancher.clear()


def _flood(daemon: Daemon, proxy: FaultProxy, flood: Flood, witness: Witness) -> None:
    daemon.wait_for("readiness", daemon.ready, 120)
    daemon.wait_for("the witness's list", lambda: len(witness.replay(NODES_ID)[0]) == NODES, 120)
    first_mib = rss_mib(daemon)
    begin_s = time.monotonic()
    reached = proxy.call(partial(flood.churn, A_SECOND, SECONDS))
    told_s = time.monotonic()
    cores = "telemetryd_fleet_cpu_cores"
    serials = {f"local/sentinel-m-{number}": each for number, each in enumerate(flood.serials)}
    total = sum(flood.serials)
    daemon.wait_for("all changes", lambda: daemon.metric(cores) == total, 120)
    behind_s = time.monotonic() - told_s
    last_mib = rss_mib(daemon)
    NOTES.append(
        f"{NODES} nodes, {A_SECOND * SECONDS:.0f} changes at {reached:.0f} a second (of "
        f"{A_SECOND}): all counted {behind_s:.1f} s after the last; RSS {first_mib:.0f} MiB "
        f"before, {last_mib:.0f} after"
    )
    assert daemon.informer(NODES_ID)["objects"] == NODES
    assert not [each for each in proxy.asks(begin_s, "nodes") if each.verb == "list"]
    assert last_mib <= RSS_AT_MOST_MIB

    def seen() -> dict[str, int]:
        records, wrong = witness.replay(NODES_ID)
        assert not wrong, wrong[:5]
        return {key: record.shape.cpu_nano // 10**9 for key, record in records.items()}

    daemon.wait_for("the same, by its deltas", lambda: seen() == serials, 120)
