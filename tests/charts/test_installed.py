"""`helm install`, `helm upgrade` and `helm uninstall` on a real API server."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.apiserver.admin import Admin, AdminError, Object
from tests.apiserver.process import DEPLOYED_USER, ApiServer
from tests.charts.checks import check
from tests.charts.conftest import BOTH
from tests.charts.helm import Helm, HelmError, example, find
from tests.charts.pod import running
from tests.charts.test_values import at, names_of_examples
from tests.deploy.installed import ensure_namespace, path_of
from tests.deploy.kustomize import NAMESPACE
from tests.deploy.life import CONFIG, IN_PAGES, LEASE, Life, check_use, forget
from tests.deploy.rights import granted
from tests.support.daemon import Daemon
from tests.support.processes import free_ports
from tests.system.rancher import SECRET, Rancher
from tests.system.scc import Scc

pytestmark = [BOTH, pytest.mark.timeout(300)]

PATIENCE_S = 60.0


def exists(admin: Admin, path: str) -> bool:
    """Whether the API server has it."""
    try:
        admin.get(path)
    except AdminError as error:
        if error.status != 404:
            raise
        return False
    return True


def wait(what: str, holds: Callable[[], object]) -> None:
    """Until it holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def on_free_port() -> dict[str, Any]:
    """Values that let it listen beside others on this machine."""
    return at("config.server.listen", f":{free_ports(1)[0]}")


@pytest.fixture
def release(helm: Helm) -> Iterator[Helm]:
    """Helm, whose release goes when the test is done."""
    yield helm
    try:
        helm.uninstall()
    except HelmError as error:
        if "not found" not in str(error):
            raise


@pytest.fixture
def fleet(admin: Admin) -> Iterator[Rancher]:
    """A small Rancher, whose Secret goes at the end."""
    with Rancher.built(admin, clusters=2, nodes=1) as built:
        forget(admin, SECRET)
        yield built
    forget(admin, SECRET)


def test_default_values_install_run_upgrade_and_uninstall_but_for_the_secret(
    release: Helm, fleet: Rancher, admin: Admin, apiserver: ApiServer, tmp_path: Path
) -> None:
    port = on_free_port()
    notes = release.install(port)
    assert "exec deploy/telemetryd -- telemetryd doctor" in notes
    assert "scc: secret cattle-telemetry-system/rancher-scc-telemetry" in notes
    assert "The history lives as long as the pod" in notes
    installed = release.manifest()
    check(installed, tmp_path, scc=False, by_schema=False)
    with running(installed, apiserver, admin, tmp_path):
        wait("the Secret is written", fleet.secret)

    before = find(installed, "Deployment")
    upgraded = release.upgrade(
        port, at("config.log_level", "debug"), at("config.history.enabled", False)
    )
    assert "has restarted the pod" in upgraded
    assert "The history" not in upgraded
    database = {"store": "postgresql", "dsn_file": "/etc/telemetryd-credentials/db/dsn"}
    assert "The history" not in release.upgrade(port, at("config.history", database))
    upgraded = release.upgrade(port, at("config.log_level", "debug"))
    assert "The history lives as long as the pod" in upgraded
    after = admin.get(path_of(before))
    assert after["spec"]["selector"] == before["spec"]["selector"]
    annotations = after["spec"]["template"]["metadata"]["annotations"]
    assert annotations != before["spec"]["template"]["metadata"]["annotations"], "it restarts"

    release.uninstall()
    for obj in installed:
        assert not exists(admin, path_of(obj)), obj["metadata"]
    assert exists(admin, SECRET)


@pytest.mark.long
def test_uninstall_deletes_the_secret_where_that_is_asked_for(
    release: Helm, fleet: Rancher, admin: Admin, apiserver: ApiServer, tmp_path: Path
) -> None:
    asked = {**on_free_port(), "secretsOnUninstall": "delete"}
    release.install(asked)
    installed = release.manifest()
    with running(installed, apiserver, admin, tmp_path):
        wait("the Secret is written", fleet.secret)
    release.upgrade(asked)
    assert exists(admin, SECRET)
    release.uninstall()
    wait("the Secret is gone", lambda: not exists(admin, SECRET))


@pytest.mark.long
def test_uninstall_leaves_the_volume_and_another_install_takes_it(
    release: Helm, admin: Admin
) -> None:
    release.install(example("air-gapped"))
    claim = path_of(find(release.manifest(), "PersistentVolumeClaim"))
    release.uninstall()
    assert exists(admin, claim)
    release.install(example("air-gapped"))
    release.upgrade(example("air-gapped"), at("persistence.retain", False))
    release.uninstall()
    admin.patch(claim, {"metadata": {"finalizers": None}})
    wait("the claim is gone", lambda: not exists(admin, claim))


@pytest.mark.long
@pytest.mark.parametrize("name", names_of_examples())
def test_example_installs_and_upgrades_back_to_the_default_values(
    release: Helm, admin: Admin, name: str, tmp_path: Path
) -> None:
    ensure_namespace(admin, "cattle-scc-system")
    release.install(example(name))
    installed = release.manifest()
    check(installed, tmp_path, scc=name == "scc-operator")
    release.upgrade()
    left = {path_of(obj) for obj in release.manifest()}
    for obj in installed:
        kept = obj["kind"] == "PersistentVolumeClaim" or path_of(obj) in left
        assert exists(admin, path_of(obj)) == kept
        if obj["kind"] == "PersistentVolumeClaim":
            admin.delete(path_of(obj))
            admin.patch(path_of(obj), {"metadata": {"finalizers": None}})


@pytest.mark.long
def test_upgrade_changes_strategy_replicas_and_volume_both_ways(
    release: Helm, admin: Admin
) -> None:
    elected = at("config.leader_election.enabled", True)
    rolling = {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 2}}, **elected}
    kept = {"persistence": {"enabled": True, "retain": False}}
    release.install(rolling)
    path = path_of(find(release.manifest(), "Deployment"))
    # What the API server adds to a rolling update has no place beside Recreate.
    for values, strategy, replicas in (
        ({}, "Recreate", 1),
        ({"replicas": 2}, "RollingUpdate", 2),
        (kept, "Recreate", 1),
        (rolling, "RollingUpdate", 1),
    ):
        release.upgrade(values)
        spec = admin.get(path)["spec"]
        assert (spec["strategy"]["type"], spec["replicas"]) == (strategy, replicas)
        claims = ["persistentVolumeClaim" in each for each in spec["template"]["spec"]["volumes"]]
        assert any(claims) == (values is kept)
        if values is kept:
            claim = path_of(find(release.manifest(), "PersistentVolumeClaim"))
    assert "deletionTimestamp" in admin.get(claim)["metadata"]
    # Only a controller would end it.
    admin.patch(claim, {"metadata": {"finalizers": None}})


@pytest.mark.long
def test_monitors_are_made_where_their_api_and_cattle_dashboards_are(
    release: Helm, monitoring: None, admin: Admin
) -> None:
    ensure_namespace(admin, "cattle-dashboards")
    release.install()
    installed = release.manifest()
    kinds = [obj["kind"] for obj in installed]
    assert {"PodMonitor", "PrometheusRule"} <= set(kinds)
    (dashboard,) = [
        obj for obj in installed if obj["metadata"].get("namespace") == "cattle-dashboards"
    ]
    assert exists(admin, path_of(dashboard))
    release.uninstall()


@pytest.mark.long
def test_another_release_in_another_namespace_goes_beside_it(
    release: Helm, admin: Admin, tmp_path: Path
) -> None:
    release.install()
    release.install(namespace="second")
    try:
        first, second = release.manifest(), release.manifest(namespace="second")
        assert not {path_of(obj) for obj in first} & {path_of(obj) for obj in second}
    finally:
        release.uninstall(namespace="second")


@pytest.mark.long
def test_every_right_of_the_chart_is_used_and_nothing_is_denied(
    release: Helm, fleet: Rancher, admin: Admin, apiserver: ApiServer, tmp_path: Path
) -> None:
    scc = Scc(admin)
    scc.build()
    forget(admin, LEASE)
    values = at("config.secret_requests.cleanup", "delete")
    release.install(example("scc-operator"), example("ha"), values)
    objects = release.manifest()
    rights = {right for right in granted(objects) if right.group != "scc.cattle.io"}
    account = find(objects, "ServiceAccount")
    request: Object = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": 3600},
    }
    token = admin.create(f"{path_of(account)}/token", request)["status"]["token"]
    kubeconfig = apiserver.kubeconfig(tmp_path / "kubeconfig-of-account", token)
    begin = len(apiserver.audit(DEPLOYED_USER))
    daemon = Daemon(tmp_path, kubeconfig, CONFIG, kubernetes=IN_PAGES)
    life = Life(daemon, fleet, scc)
    try:
        daemon.wait_for("it answers", lambda: daemon.get("/livez")[0], PATIENCE_S)
        life.wait("in sync", life.synced)
        for name, act in life.acts().items():
            act.prepare()
            act.begin()
            life.wait(name, act.done)
        check_use(rights, lambda: apiserver.audit(DEPLOYED_USER)[begin:])
    finally:
        assert daemon.stop() == 0
        scc.clear()
        forget(admin, LEASE)


@pytest.mark.long
def test_token_of_another_account_opens_the_metrics_that_it_may_read(
    release: Helm, admin: Admin
) -> None:
    release.install(example("tls"))
    review = {
        "spec": {
            "user": "system:serviceaccount:cattle-monitoring-system:rancher-monitoring-prometheus",
            "nonResourceAttributes": {"path": "/metrics", "verb": "get"},
        }
    }
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"

    def allowed() -> bool:
        answer: bool = admin.create(path, review)["status"]["allowed"]
        return answer

    wait("it may read the metrics", allowed)
    assert NAMESPACE in json.dumps(release.manifest())
