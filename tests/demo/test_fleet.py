"""The fleet: repeatable, realistic in size, and consistent with the server under churn."""

import anyio
import orjson
import pytest
from anyio.lowlevel import checkpoint

from telemetryd.demo.catalogue import PRIVATE_MARK
from telemetryd.demo.fleet import LOCAL_NODES, Fleet
from tests.apiserver.double.apiserver import ApiServer
from tests.apiserver.double.client import fixed_now, new_server
from tests.apiserver.double.fleets import populate, run_churn, take_step
from tests.apiserver.double.resources import resource_of

NODES = "nodes.management.cattle.io"
CLUSTERS = "clusters.management.cattle.io"


@pytest.fixture
def server() -> ApiServer:
    return new_server()


def new_fleet(clusters: int = 3, nodes: int = 4, seed: int = 1) -> Fleet:
    return Fleet(clusters, nodes, seed, now=fixed_now)


def test_same_seed_gives_the_same_fleet_and_the_same_churn() -> None:
    one, other = new_fleet(), new_fleet()
    assert list(one.objects()) == list(other.objects())
    assert [one.churn() for _ in range(50)] == [other.churn() for _ in range(50)]
    assert list(one.objects()) != list(new_fleet(seed=2).objects())


def test_fleet_has_the_local_cluster_and_what_was_asked_for(server: ApiServer) -> None:
    fleet = new_fleet()
    populate(server, fleet)
    assert fleet.cluster_count == server.count_objects(CLUSTERS) == 1 + 3
    assert fleet.node_count == server.count_objects(NODES) == LOCAL_NODES + 3 * 4
    kube_system = server.get_object("namespaces", "kube-system")
    assert kube_system["metadata"]["uid"] == fleet.cluster_uuid
    install_uuid = server.get_object("settings.management.cattle.io", "install-uuid")
    assert install_uuid["value"] == fleet.install_uuid
    project = server.get_object("projects.management.cattle.io", fleet.system_project, "local")
    assert project["metadata"]["labels"] == {"authz.management.cattle.io/system-project": "true"}
    target = server.get_object("namespaces", "cattle-scc-system")
    assert target["metadata"]["labels"]["field.cattle.io/projectId"] == fleet.system_project


def test_nodes_are_as_large_as_real_ones_and_hold_private_values() -> None:
    nodes = [
        orjson.dumps(obj) for obj in new_fleet(5, 20).objects() if resource_of(obj).id == NODES
    ]
    assert all(5_000 < len(node) < 8_000 for node in nodes)
    assert all(PRIVATE_MARK.encode() in node for node in nodes)


def test_every_node_lives_in_the_namespace_of_its_cluster(server: ApiServer) -> None:
    for obj in new_fleet().objects():
        if resource_of(obj).namespaced:
            server.get_object("namespaces", obj["metadata"]["namespace"])
        server.put_object(obj)


def test_churn_of_any_length_leaves_server_and_fleet_equal(server: ApiServer) -> None:
    fleet = new_fleet(2, 2)
    populate(server, fleet)
    happened = set()
    for _ in range(1500):
        for step in fleet.churn():
            happened.add(step.gone)
            take_step(server, step)
    assert happened == {True, False}
    for obj in fleet.objects():
        resource, metadata = resource_of(obj), obj["metadata"]
        stored = server.get_object(resource.id, metadata["name"], metadata.get("namespace", ""))
        for field in ("spec", "status", "value"):
            assert stored.get(field) == obj.get(field)
    assert server.count_objects(NODES) == fleet.node_count
    assert server.count_objects(CLUSTERS) == fleet.cluster_count


def test_fleet_without_managed_clusters_still_changes(server: ApiServer) -> None:
    fleet = new_fleet(0, 0)
    populate(server, fleet)
    for _ in range(50):
        for step in fleet.churn():
            take_step(server, step)
    assert server.count_objects(NODES) >= LOCAL_NODES


@pytest.mark.parametrize(("clusters", "nodes"), [(-1, 0), (0, -1)])
def test_fleet_of_less_than_nothing_is_refused(clusters: int, nodes: int) -> None:
    with pytest.raises(ValueError, match="less than no"):
        new_fleet(clusters, nodes)


@pytest.mark.anyio
async def test_run_churn_keeps_its_rate(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = new_fleet()
    populate(server, fleet)
    before = server.revision
    due: list[float] = []

    async def sleep_until(deadline: float) -> None:
        if len(due) == 200:
            enough.cancel()
        await checkpoint()
        due.append(deadline)

    monkeypatch.setattr(anyio, "sleep_until", sleep_until)
    with anyio.CancelScope() as enough:
        await run_churn(server, fleet, per_second=200)
    assert server.revision - before == len(due) == 200
    # However late one comes, the next is due at its own time.
    assert [round(each - due[0], 3) for each in due] == [step / 200 for step in range(200)]


@pytest.mark.anyio
async def test_run_churn_needs_a_rate(server: ApiServer) -> None:
    with pytest.raises(ValueError, match="above 0"):
        await run_churn(server, new_fleet(), per_second=0)
