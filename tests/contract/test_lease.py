"""The Lease as telemetryd reads and writes it, and two replicas that share it."""

from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import anyio
import pytest

from telemetryd.config import KubernetesConfig
from telemetryd.control.elector import Elector
from telemetryd.control.epochs import Epochs
from telemetryd.control.lease import LeaseApi, LeaseTiming, Term
from telemetryd.errors import Conflict, KubeError, NotFound
from telemetryd.kube.client import KubeClient
from telemetryd.stats import KubeStats
from tests.apiserver.admin import Admin
from tests.contract.servers import REAL, Server
from tests.informer.scripted import kubeconfig

pytestmark = [pytest.mark.anyio, REAL]

TIMEOUT_S = 5.0
NOW_S = 1_700_000_000.25
MINE = Term("me", 15, 0, begins=True)
SHORT = LeaseTiming(duration_s=2.0, renew_deadline_s=1.5, retry_period_s=0.2)


@pytest.fixture
def config(server: Server, tmp_path: Path) -> KubernetesConfig:
    return kubeconfig(
        tmp_path / "kubeconfig",
        server.url,
        cluster={"certificate-authority": str(server.ca_file)},
        user={"token": server.admin_token},
    )


@pytest.fixture
async def lease(config: KubernetesConfig, namespace: str) -> AsyncIterator[LeaseApi]:
    async with KubeClient.connect(config, KubeStats(), environ={}) as client:
        yield LeaseApi(client, namespace=namespace, name="telemetryd", now=lambda: NOW_S)


def path(namespace: str) -> str:
    return f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/telemetryd"


async def test_lease_is_made_and_reads_right(lease: LeaseApi, api: Admin, namespace: str) -> None:
    assert await lease.read(TIMEOUT_S) is None
    made = await lease.create(MINE, TIMEOUT_S)
    assert (made.record.holder, made.record.duration_s, made.record.transitions) == ("me", 15.0, 0)
    assert await lease.read(TIMEOUT_S) == made
    assert api.get(path(namespace))["spec"] == {
        "acquireTime": "2023-11-14T22:13:20.250000Z",
        "holderIdentity": "me",
        "leaseDurationSeconds": 15,
        "leaseTransitions": 0,
        "renewTime": "2023-11-14T22:13:20.250000Z",
    }
    with pytest.raises(Conflict):
        await lease.create(MINE, TIMEOUT_S)


async def test_write_over_another_state_is_a_conflict(
    lease: LeaseApi, api: Admin, namespace: str
) -> None:
    made = await lease.create(MINE, TIMEOUT_S)
    api.patch(path(namespace), {"metadata": {"labels": {"theirs": "yes"}}})
    with pytest.raises(Conflict):
        await lease.replace(made, MINE, TIMEOUT_S)
    found = await lease.read(TIMEOUT_S)
    assert found is not None
    renewed = await lease.replace(found, Term("", 1, 5, begins=False), TIMEOUT_S)
    assert (renewed.record.holder, renewed.record.transitions) == ("", 5)
    assert renewed.record.resource_version != found.record.resource_version
    assert api.get(path(namespace))["metadata"]["labels"] == {"theirs": "yes"}


async def test_lease_that_is_gone_is_never_written_over(
    lease: LeaseApi, api: Admin, namespace: str
) -> None:
    made = await lease.create(MINE, TIMEOUT_S)
    api.delete(path(namespace))
    with pytest.raises((Conflict, NotFound)):
        await lease.replace(made, MINE, TIMEOUT_S)
    another = await lease.create(Term("other", 15, 0, begins=True), TIMEOUT_S)
    with pytest.raises(KubeError):
        await lease.replace(made, MINE, TIMEOUT_S)
    assert await lease.read(TIMEOUT_S) == another


class Worker:
    """Guarded work that notes what it is asked to do."""

    def __init__(self) -> None:
        self.working = False

    async def prepare(self) -> None:
        pass

    async def lead(self) -> None:
        self.working = True

    async def stand_by(self, leader: str) -> None:
        self.working = False


async def test_two_replicas_take_turns(config: KubernetesConfig, namespace: str) -> None:
    async with (
        KubeClient.connect(config, KubeStats(), environ={}) as one,
        KubeClient.connect(config, KubeStats(), environ={}) as two,
    ):
        workers = [Worker(), Worker()]
        electors = [
            Elector(
                LeaseApi(client, namespace=namespace, name="telemetryd", now=lambda: NOW_S),
                prepare=worker.prepare,
                lead=worker.lead,
                stand_by=worker.stand_by,
                name="telemetryd",
                identity=f"replica-{number}",
                timing=SHORT,
                epochs=Epochs(),
                rng=Random(number),
            )
            for number, (client, worker) in enumerate(zip((one, two), workers, strict=True))
        ]
        for turn in range(2):
            leader, standby = electors[turn], electors[1 - turn]
            async with anyio.create_task_group() as group:
                group.start_soon(leader.run)
                with anyio.fail_after(30):
                    while not workers[turn].working:
                        await anyio.sleep(0.02)
                async with anyio.create_task_group() as other:
                    other.start_soon(standby.run)
                    await anyio.sleep(1.0)
                    assert leader.leading
                    assert not standby.leading
                    assert standby.status().holder == leader.identity
                    assert not workers[1 - turn].working
                    other.cancel_scope.cancel()
                group.cancel_scope.cancel()
            await leader.release()
            assert leader.epoch == turn + 1
