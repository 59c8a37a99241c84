"""A daemon behind a line with 2 s of latency, which loses one packet in twenty."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from telemetryd.errors import TelemetrydError
from telemetryd.serve.control.client import ask
from telemetryd.serve.control.protocol import Request
from tests.apiserver.admin import Admin
from tests.apiserver.process import ApiServer
from tests.faults.badline import FAR, Line, bad_line, listen
from tests.faults.bench import CONVERGES_WITHIN_S, NODES_ID
from tests.faults.plugin import NOTES
from tests.support.daemon import Daemon
from tests.system.partition import Partition
from tests.system.rancher import Rancher

LATENCY_S, LOSS = 1.0, 0.05
"""Each way: 2 s there and back."""

CONFIG = """
control_socket = "{socket}"

[secret_requests]
enabled = false

[[exporters]]
name = "folder"
type = "file"
directory = "{folder}"
"""


@pytest.fixture
def line() -> Iterator[Line]:
    if os.geteuid() != 0:
        assert os.environ.get("CI") != "true", "network namespaces take root"
        pytest.skip("network namespaces take root")
    with bad_line(Random(27)) as made:
        yield made


@pytest.fixture
def rancher(admin: Admin) -> Iterator[Rancher]:
    with Rancher.built(admin, clusters=3, nodes=3) as fleet:
        yield fleet


def informers(socket: Path) -> list[dict[str, Any]]:
    """By the control socket, which is a file and so reaches out of the namespace."""
    try:
        found: list[dict[str, Any]] = ask([str(socket)], Request("status")).result["informers"]
    except (OSError, TelemetrydError):
        return []
    return found


def agreed(socket: Path, nodes: int) -> bool:
    found = {each["resource"]: each for each in informers(socket)}
    well = all(each["synced"] and not each["last_error"] for each in found.values())
    return NODES_ID in found and well and found[NODES_ID]["objects"] == nodes


@pytest.mark.faults
@pytest.mark.timeout(500)
def test_line_that_is_slow_and_loses_packets_converges(
    line: Line, apiserver: ApiServer, rancher: Rancher, tmp_path: Path, short_path: Path
) -> None:
    listener = listen(line.far, FAR)
    relay = Partition(int(apiserver.url.rpartition(":")[2]), listener)
    kubeconfig = apiserver.kubeconfig(tmp_path / "kubeconfig")
    document = json.loads(kubeconfig.read_text())
    document["clusters"][0]["cluster"] |= {
        "server": f"https://{FAR}:{relay.port}",
        "tls-server-name": "127.0.0.1",
    }
    kubeconfig.write_text(json.dumps(document))
    socket = short_path / "control.sock"
    config = CONFIG.format(socket=socket, folder=tmp_path / "out")
    line.latency_s, line.loss = LATENCY_S, LOSS
    daemon = line.near.within(lambda: Daemon(tmp_path, kubeconfig, config))
    try:
        begin_s = time.monotonic()
        daemon.wait_for("agreement at last", lambda: agreed(socket, 9), 240)
        first_s = time.monotonic() - begin_s
        rancher.add_node("local", 9700)
        daemon.wait_for("a change", lambda: agreed(socket, 10), 120)
        line.latency_s, line.loss = 0.0, 0.0
        rancher.add_node("local", 9701)
        daemon.wait_for("agreement", lambda: agreed(socket, 11), CONVERGES_WITHIN_S)
        for each in informers(socket):
            answer = ask([str(socket)], Request("cache", each["resource"], verify=True))
            assert answer.ok, (each, answer)
        NOTES.append(
            f"a line of {2 * LATENCY_S:.0f} s there and back that lost {line.lost} of "
            f"{line.lost + line.carried} packets: all listed after {first_s:.0f} s"
        )
        assert line.lost
    finally:
        status = daemon.stop()
        relay.close()
    assert status == 0, daemon.log()[-3000:]
