"""The real API server does what the other tests rely on."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio.to_thread
import pytest

from tests.apiserver import crds, fixtures
from tests.apiserver.admin import Admin, AdminError
from tests.apiserver.process import ApiServer, ApiServerError
from tests.support.processes import is_gone

pytest_plugins = ("tests.apiserver.plugin",)


@pytest.fixture
def cluster(admin: Admin, request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"c-{request.node.name.replace('_', '-')}"[:60]
    admin.create("/api/v1/namespaces", fixtures.namespace(name))
    yield name
    admin.delete(crds.collection(crds.NODES, name))


def create_nodes(admin: Admin, cluster: str, count: int) -> list[str]:
    names = [f"machine-{number:04}" for number in range(count)]
    path = crds.collection(crds.NODES, cluster)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: admin.create(path, fixtures.rancher_node(cluster, n)), names))
    return names


def test_many_nodes_are_listed_in_pages(admin: Admin, cluster: str) -> None:
    names = create_nodes(admin, cluster, 40)
    path = crds.collection(crds.NODES, cluster)
    first = admin.get(path, limit=15)
    assert first["metadata"]["remainingItemCount"] == 25
    listed = admin.list(path, page_size=15)
    assert [node["metadata"]["name"] for node in listed] == names


def test_rancher_node_keeps_every_field_at_its_real_size(admin: Admin, cluster: str) -> None:
    made = fixtures.rancher_node(cluster, "machine-1", cpu=None, roles=("etcd", "controlplane"))
    stored = admin.create(crds.collection(crds.NODES, cluster), made)
    assert stored["spec"] == made["spec"]
    assert stored["status"] == made["status"]
    assert 5_000 < len(json.dumps(stored, separators=(",", ":"))) < 15_000


def test_core_node_keeps_its_status_when_created(admin: Admin) -> None:
    made = fixtures.core_node("sentinel-core", cpu="3920m", arch="arm64", roles=("controlplane",))
    stored = admin.create("/api/v1/nodes", made)
    admin.delete("/api/v1/nodes/sentinel-core")
    assert stored["status"]["capacity"]["cpu"] == "3920m"
    assert stored["status"]["nodeInfo"] == made["status"]["nodeInfo"]
    assert stored["metadata"]["labels"]["node-role.kubernetes.io/control-plane"] == "true"


def test_objects_of_every_kind_are_stored(admin: Admin) -> None:
    made = [
        (crds.CLUSTERS, None, fixtures.rancher_cluster("c-m-7x2kq")),
        (crds.SETTINGS, None, fixtures.setting("server-url", "https://rancher.example.com")),
        (crds.FEATURES, None, fixtures.feature("fleet")),
        (crds.PROJECTS, "default", fixtures.project("p-abcde", cluster="default")),
    ]
    for definition, namespace, body in made:
        path = crds.collection(definition, namespace)
        stored = admin.create(path, body)
        admin.delete(f"{path}/{body['metadata']['name']}")
        assert stored | {"metadata": None} == body | {"metadata": None}


def test_watch_sees_changes_in_order(admin: Admin, cluster: str) -> None:
    path = crds.collection(crds.NODES, cluster)
    start = admin.get(path)["metadata"]["resourceVersion"]
    with admin.watch(path, resourceVersion=start, timeoutSeconds=30) as events:
        admin.create(path, fixtures.rancher_node(cluster, "machine-1"))
        admin.patch(f"{path}/machine-1", {"spec": {"etcd": True}})
        admin.delete(f"{path}/machine-1")
        assert [next(events)["type"] for _ in range(3)] == ["ADDED", "MODIFIED", "DELETED"]


def test_apply_of_another_manager_conflicts(admin: Admin) -> None:
    path = "/api/v1/namespaces/default/configmaps/applied"
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}}
    admin.apply(path, body | {"data": {"key": "ours"}}, manager="us")
    with pytest.raises(AdminError) as caught:
        admin.apply(path, body | {"data": {"key": "theirs"}}, manager="them")
    forced = admin.apply(path, body | {"data": {"key": "theirs"}}, manager="them", force=True)
    admin.delete(path)
    assert caught.value.status == 409
    assert caught.value.body["details"]["causes"][0]["reason"] == "FieldManagerConflict"
    assert forced["data"] == {"key": "theirs"}


def test_put_with_an_old_version_conflicts(admin: Admin) -> None:
    path = crds.collection(crds.SETTINGS)
    old = admin.create(path, fixtures.setting("install-uuid", "a"))
    admin.put(f"{path}/install-uuid", old | {"value": "b"})
    with pytest.raises(AdminError) as caught:
        admin.put(f"{path}/install-uuid", old | {"value": "c"})
    admin.delete(f"{path}/install-uuid")
    assert caught.value.status == 409


@pytest.mark.long
def test_compaction_expires_a_continue_token(
    apiserver: ApiServer, admin: Admin, cluster: str
) -> None:
    create_nodes(admin, cluster, 4)
    path = crds.collection(crds.NODES, cluster)
    token = admin.get(path, limit=2)["metadata"]["continue"]
    admin.patch(f"{path}/machine-0000", {"spec": {"etcd": True}})
    apiserver.compact()
    apiserver.compact()  # nothing new: not an error
    apiserver.kill_apiserver()  # whose cache answers continue tokens from 1.34 on
    apiserver.start_apiserver()
    with pytest.raises(AdminError) as caught:
        admin.get(path, limit=2, **{"continue": token})
    assert caught.value.status == 410


@pytest.mark.long
def test_compaction_and_restart_expire_a_watch_and_keep_data(
    apiserver: ApiServer, admin: Admin, cluster: str
) -> None:
    create_nodes(admin, cluster, 3)
    path = crds.collection(crds.NODES, cluster)
    old = admin.get(path)["metadata"]["resourceVersion"]
    admin.patch(f"{path}/machine-0000", {"spec": {"etcd": True}})
    admin.delete(f"{path}/machine-0002")
    apiserver.compact()
    apiserver.kill_apiserver()
    with pytest.raises(ConnectionRefusedError):
        admin.get("/version")
    apiserver.start_apiserver()
    with admin.watch(path, resourceVersion=old, timeoutSeconds=10) as events:
        event = next(events)
    assert (event["type"], event["object"]["code"]) == ("ERROR", 410)
    kept = {node["metadata"]["name"]: node["spec"]["etcd"] for node in admin.list(path)}
    assert kept == {"machine-0000": True, "machine-0001": False}


def test_paused_server_hangs_until_resumed(apiserver: ApiServer, admin: Admin) -> None:
    impatient = Admin(apiserver.url, apiserver.admin_token, apiserver.ca_file, timeout_s=0.5)
    with contextlib.closing(impatient):
        apiserver.pause()
        try:
            with pytest.raises(TimeoutError):
                impatient.get("/version")
        finally:
            apiserver.resume()
    assert admin.get("/version")["minor"].rstrip("+") == str(apiserver.version[1])


def test_service_account_token_is_held_to_rbac(apiserver: ApiServer, admin: Admin) -> None:
    accounts = "/api/v1/namespaces/default/serviceaccounts"
    admin.create(accounts, {"metadata": {"name": "nobody"}})
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    answer = admin.create(f"{accounts}/nobody/token", request)
    nobody = Admin(apiserver.url, answer["status"]["token"], apiserver.ca_file)
    with contextlib.closing(nobody), pytest.raises(AdminError) as caught:
        nobody.get("/api/v1/nodes")
    admin.delete(f"{accounts}/nobody")
    assert caught.value.status == 403
    assert "system:serviceaccount:default:nobody" in str(caught.value)


def test_crd_comes_and_goes(admin: Admin) -> None:
    definition = crds.crd("example.com", "v1", "Gadget", status=True)
    path = crds.collection(definition)
    gadget = {"apiVersion": "example.com/v1", "kind": "Gadget", "metadata": {"name": "g"}}
    for _ in range(2):
        crds.create_crd(admin, definition)
        admin.create(path, gadget)
        crds.delete_crd(admin, definition)
        with pytest.raises(AdminError, match="404"):
            admin.list(path)


def test_kubeconfig_names_server_ca_and_token(apiserver: ApiServer, tmp_path: Path) -> None:
    written = json.loads(apiserver.kubeconfig(tmp_path / "kubeconfig", "other").read_text())
    assert written["clusters"][0]["cluster"] == {
        "server": apiserver.url,
        "certificate-authority": str(apiserver.ca_file),
    }
    assert written["users"][0]["user"] == {"token": "other"}


@pytest.mark.anyio
async def test_methods_are_callable_from_async_tests(apiserver: ApiServer) -> None:
    assert await anyio.to_thread.run_sync(apiserver.compact) > 0


def test_crashed_start_raises_with_the_log(tmp_path: Path) -> None:
    for name in ("etcd", "kube-apiserver"):
        (tmp_path / name).write_text("#!/bin/sh\necho v1.30; echo this is why; exit 3\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(ApiServerError, match=r"etcd: exited with 3(.|\n)*this is why"):
        ApiServer(tmp_path, tmp_path).start()


def test_servers_die_with_a_killed_test_process(apiserver: ApiServer, tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from tests.apiserver.process import *\n"
        "from tests.apiserver.versions import find_assets\n"
        "s = ApiServer(find_assets(), Path(sys.argv[1])); s.start_etcd()\n"
        "print(s._etcd.process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=False
    )
    pid = int(done.stdout)
    deadline = time.monotonic() + 30
    while not is_gone(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert done.returncode == -signal.SIGKILL
    assert is_gone(pid)
