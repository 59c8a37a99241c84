"""Two daemons as `deploy/components/ha` configures them, with its account and a real Lease."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apiserver.admin import Admin, AdminError
from tests.deploy.installed import Installed
from tests.deploy.kustomize import NAMESPACE
from tests.support.daemon import Daemon
from tests.system.rancher import SECRET, Rancher, facts, recount

pytestmark = pytest.mark.long

VARIANT = ("ha",)
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/telemetryd"
LEASE_DURATION_S, RETRY_PERIOD_S = 15.0, 2.0
SLACK_S = 30.0
"""For a busy machine."""


class Replica:
    """One pod of the Deployment."""

    def __init__(self, name: str, folder: Path, installed: Installed) -> None:
        folder.mkdir()
        self.name = name
        self.daemon = Daemon(
            folder,
            installed.kubeconfig,
            '[[exporters]]\nname = "scc"\ntype = "secret"\n',
            environ={**installed.variables(), "HOSTNAME": name},
        )

    def leads(self) -> bool:
        code, body = self.daemon.get("/status.json")
        return code == 200 and bool(json.loads(body)["leader"]["leading"])

    def kill(self) -> None:
        self.daemon.process.kill()
        self.daemon.process.wait()


@pytest.fixture
def rancher(admin: Admin) -> Iterator[Rancher]:
    with Rancher.built(admin, clusters=3, nodes=2) as fleet:
        yield fleet


@pytest.fixture
def replicas(
    installed: Installed, rancher: Rancher, admin: Admin, tmp_path: Path
) -> Iterator[list[Replica]]:
    for path in (SECRET, LEASE):
        try:
            admin.delete(path)
        except AdminError as error:
            if error.status != 404:
                raise
    made = [Replica(name, tmp_path / name, installed) for name in ("pod-a", "pod-b")]
    try:
        yield made
    finally:
        for replica in made:
            if replica.daemon.process.poll() is None:
                replica.kill()


def leaders(replicas: list[Replica]) -> list[Replica]:
    leading = [replica for replica in replicas if replica.leads()]
    assert len(leading) <= 1
    return leading


@pytest.mark.timeout(300)
def test_one_exports_and_the_other_takes_over_with_the_rights_of_the_overlay(
    replicas: list[Replica], rancher: Rancher, installed: Installed, admin: Admin, tmp_path: Path
) -> None:
    for replica in replicas:
        replica.daemon.wait_for(f"{replica.name} is ready", replica.daemon.ready, 90)
    (first,) = replicas[0].daemon.wait_for("a leader", lambda: leaders(replicas), 30)
    (second,) = [replica for replica in replicas if replica is not first]

    def written() -> bool:
        payload = rancher.payload()
        return payload is not None and facts(payload) == recount(admin)

    first.daemon.wait_for("the leader exports", written, 30)
    assert second.daemon.exporter()["state"] == "standby"
    assert second.daemon.metric('telemetryd_leader{name="telemetryd"}') == 0
    assert second.daemon.ready()
    assert first.name in admin.get(LEASE)["spec"]["holderIdentity"]

    first.kill()
    rancher.admin.delete(SECRET)
    # A promise, with slack for a busy machine: the Lease's duration and two looks at it.
    hand_over_s = LEASE_DURATION_S + 2 * RETRY_PERIOD_S + SLACK_S
    second.daemon.wait_for("the standby leads", second.leads, hand_over_s)
    second.daemon.wait_for("it exports", written, 30)
    assert second.name in admin.get(LEASE)["spec"]["holderIdentity"]

    third = Replica("pod-c", tmp_path / "pod-c", installed)
    replicas.append(third)
    third.daemon.wait_for("its successor is ready", third.daemon.ready, 90)
    assert not third.leads()
    assert second.daemon.stop() == 0, second.daemon.log()[-3000:]
    assert "lease released" in second.daemon.log()
    third.daemon.wait_for("a released Lease is taken", third.leads, 30)
    assert third.daemon.stop() == 0, third.daemon.log()[-3000:]
