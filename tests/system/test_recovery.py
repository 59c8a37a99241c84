"""Faults of the API server and of the network: the cache converges without a restart."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.apiserver.admin import Admin
from tests.apiserver.crds import NODES, create_crd, delete_crd
from tests.apiserver.process import ApiServer
from tests.support.daemon import Daemon
from tests.system.conftest import CONFIG
from tests.system.partition import Partition
from tests.system.rancher import Rancher, facts, recount

pytestmark = pytest.mark.long

CONVERGES_WITHIN_S = 60


@pytest.fixture(scope="module")
def rancher(admin: Admin) -> Iterator[Rancher]:
    with Rancher.built(admin, clusters=4, nodes=5) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def partition(apiserver: ApiServer) -> Iterator[Partition]:
    port = urlsplit(apiserver.url).port
    assert port is not None
    relay = Partition(port)
    try:
        yield relay
    finally:
        relay.close()


@pytest.fixture(scope="module")
def daemon(
    rancher: Rancher,
    apiserver: ApiServer,
    partition: Partition,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Daemon]:
    folder: Path = tmp_path_factory.mktemp("daemon")
    kubeconfig = apiserver.kubeconfig(folder / "kubeconfig")
    document = json.loads(kubeconfig.read_text())
    document["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{partition.port}"
    kubeconfig.write_text(json.dumps(document))
    running = Daemon(folder, kubeconfig, CONFIG)
    try:
        running.wait_for("the Secret", rancher.secret, 30)
        yield running
    finally:
        status = running.stop()
    assert status == 0, running.log()[-4000:]


def converged(rancher: Rancher) -> Callable[[], bool]:
    def agrees() -> bool:
        payload = rancher.payload()
        return payload is not None and facts(payload) == recount(rancher.admin)

    return agrees


def test_apiserver_killed_and_its_history_compacted_converges_by_a_relist(
    daemon: Daemon, rancher: Rancher, apiserver: ApiServer, partition: Partition
) -> None:
    rancher.add_node("sentinel-c-1", 9301)
    daemon.wait_for("agreement", converged(rancher), CONVERGES_WITHIN_S)
    expired = (
        'telemetryd_informer_lists_total{reason="expired",'
        'resource="nodes.management.cattle.io",result="success"}'
    )
    before = daemon.metric(expired) or 0
    partition.cut()
    try:
        rancher.delete_node("sentinel-c-1", 9301)
        rancher.add_node("sentinel-c-1", 9300)
        apiserver.compact()
        # Its watch cache remembers what etcd has forgotten: only a restart makes it forget.
        apiserver.kill_apiserver()
        partition.heal()
        begun = partition.asked
        daemon.wait_for("a connection that fails", lambda: partition.asked > begun, 20)
        daemon.wait_for(
            "the loss is shown",
            lambda: daemon.informer("nodes.management.cattle.io")["last_error"],
            20,
        )
        assert daemon.get("/livez")[0] == 200, "never depends on the API server"
        assert daemon.ready(), "what was synced stays synced"
    finally:
        apiserver.start_apiserver()
        partition.heal()
    daemon.wait_for("agreement", converged(rancher), CONVERGES_WITHIN_S)
    daemon.wait_for("410 was met", lambda: (daemon.metric(expired) or 0) > before, 30)
    rancher.delete_node("sentinel-c-1", 9300)
    daemon.wait_for("agreement", converged(rancher), CONVERGES_WITHIN_S)


def test_crd_deleted_and_made_again_converges(
    daemon: Daemon, rancher: Rancher, admin: Admin
) -> None:
    daemon.wait_for("agreement", converged(rancher), CONVERGES_WITHIN_S)
    delete_crd(admin, NODES)
    daemon.wait_for(
        "absence is noticed",
        lambda: daemon.informer("nodes.management.cattle.io")["absent"],
        CONVERGES_WITHIN_S,
    )
    waiting = daemon.wait_for(
        "the exporter names it",
        lambda: daemon.exporter()["state"] == "waiting" and daemon.exporter(),
        30,
    )
    assert waiting
    assert "nodes.management.cattle.io" in waiting["detail"]
    create_crd(admin, NODES)
    for number in range(3):
        rancher.add_node("local", number)
    daemon.wait_for("agreement", converged(rancher), CONVERGES_WITHIN_S)
    daemon.wait_for("idle again", lambda: daemon.exporter()["state"] == "idle", 30)


def test_frozen_apiserver_is_survived(
    daemon: Daemon, rancher: Rancher, apiserver: ApiServer
) -> None:
    daemon.wait_for("agreement", converged(rancher), CONVERGES_WITHIN_S)
    apiserver.pause()
    try:
        daemon.wait_for(
            "the failed attempt is shown",
            lambda: daemon.exporter()["last_error_reason"] == "timeout",
            20,
        )
        assert daemon.get("/livez")[0] == 200
    finally:
        apiserver.resume()
    daemon.wait_for("idle again", lambda: daemon.exporter()["state"] == "idle", 30)
    daemon.wait_for("agreement", converged(rancher), CONVERGES_WITHIN_S)
