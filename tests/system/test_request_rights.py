"""Requests under least privilege: what is missing is named, and isn't the request's fault."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apiserver.admin import Admin, AdminError, Object
from tests.apiserver.process import ApiServer
from tests.system.requests import RequestDaemon, run_requests_daemon, shown, wait_served
from tests.system.scc import EXPORTER, FAILED, NAMESPACE, SECRET, SERVED, Scc, recorded

RBAC = "/apis/rbac.authorization.k8s.io/v1"
NAME = "telemetryd-requests"
MANAGEMENT = {
    "apiGroups": ["management.cattle.io"],
    "resources": ["clusters", "nodes", "settings", "features", "projects"],
    "verbs": ["list", "watch"],
}
KUBE_SYSTEM = {
    "apiGroups": [""],
    "resources": ["namespaces"],
    "resourceNames": ["kube-system"],
    "verbs": ["list", "watch"],
}
NAMESPACES = {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get"]}
REQUESTS = {
    "apiGroups": ["telemetry.cattle.io"],
    "resources": ["secretrequests"],
    "verbs": ["get", "list", "watch"],
}
STATUS = {
    "apiGroups": ["telemetry.cattle.io"],
    "resources": ["secretrequests/status"],
    "verbs": ["patch"],
}
SECRETS = {
    "apiGroups": [""],
    "resources": ["secrets"],
    "resourceNames": [SECRET],
    "verbs": ["get", "create", "patch"],
}
CLUSTER_RULES = (MANAGEMENT, KUBE_SYSTEM, NAMESPACES, REQUESTS, STATUS)


class Rights:
    """A ServiceAccount and what it may."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin
        self._cluster_role = f"{RBAC}/clusterroles/{NAME}"
        self._role = f"{RBAC}/namespaces/{NAMESPACE}/roles/{NAME}"

    def make(self) -> str:
        """The account, bound to roles that allow all; its token."""
        self._create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        accounts = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"
        self._create(accounts, {"metadata": {"name": NAME}})
        subject = {"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}
        for kind, scope, _namespace in (
            ("ClusterRole", RBAC, None),
            ("Role", f"{RBAC}/namespaces/{NAMESPACE}", NAMESPACE),
        ):
            roles = f"{scope}/{kind.lower()}s"
            self._create(roles, {"metadata": {"name": NAME}, "rules": []})
            reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": NAME}
            binding: Object = {
                "metadata": {"name": NAME},
                "roleRef": reference,
                "subjects": [subject],
            }
            self._create(f"{scope}/{kind.lower()}bindings", binding)
        self.allow(*CLUSTER_RULES)
        self.allow_secret(SECRETS)
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        token: str = self._admin.create(f"{accounts}/{NAME}/token", request)["status"]["token"]
        return token

    def allow(self, *rules: Object) -> None:
        """These rules, in the whole cluster."""
        self._admin.patch(self._cluster_role, {"rules": list(rules)})

    def allow_secret(self, *rules: Object) -> None:
        """These, in the target's namespace."""
        self._admin.patch(self._role, {"rules": list(rules)})

    def _create(self, path: str, obj: Object) -> None:
        try:
            self._admin.create(path, obj)
        except AdminError as error:
            if error.status != 409:
                raise


@pytest.fixture(scope="module")
def rights(admin: Admin) -> Rights:
    """An account that may do what it needs."""
    return Rights(admin)


@pytest.fixture(scope="module")
def limited(
    apiserver: ApiServer, rights: Rights, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RequestDaemon]:
    """A daemon with that account's token."""
    folder: Path = tmp_path_factory.mktemp("rights")
    kubeconfig = apiserver.kubeconfig(folder / "kubeconfig", rights.make())
    yield from run_requests_daemon(folder, kubeconfig)


@pytest.fixture
def daemon(limited: RequestDaemon, rights: Rights, scc: Scc) -> RequestDaemon:
    """It, once it may do all again, and a Rancher around it."""
    rights.allow(*CLUSTER_RULES)
    rights.allow_secret(SECRETS)
    return limited


def test_missing_role_for_the_secret_is_named_in_the_condition_until_it_is_granted(
    scc: Scc, daemon: RequestDaemon, rights: Rights, admin: Admin
) -> None:
    rights.allow_secret()
    scc.ask()
    with recorded(admin, scc.request_path()) as events:
        daemon.wait_for("its condition", lambda: scc.conditions() == FAILED, 40)
        failure = scc.condition("Failure")
        assert failure["reason"] == "Secret can't be written: forbidden"
        for part in ("get, create, patch", f"[{SECRET}]", "Role", NAMESPACE):
            assert part in failure["message"]
        assert shown(daemon)["state"] == "failing"
        time.sleep(3)
    assert events.changes("status") <= 3, "first seen, accepted, failing: it doesn't flap"
    rights.allow_secret(SECRETS)
    wait_served(daemon, scc)


@pytest.mark.long
def test_namespace_that_may_not_be_read_changes_nothing_and_is_reported(
    scc: Scc, daemon: RequestDaemon, rights: Rights, admin: Admin
) -> None:
    scc.ask()
    wait_served(daemon, scc)
    before = scc.status()
    rights.allow(*(rule for rule in CLUSTER_RULES if rule is not NAMESPACES))
    daemon.wait_for("undecided", lambda: shown(daemon)["state"] == "undecided", 40)
    assert "grant get on namespaces" in shown(daemon)["detail"]
    assert scc.status() == before
    assert daemon.exporter(EXPORTER)["state"] in {"idle", "running"}, "it goes on"
    rights.allow(*CLUSTER_RULES)
    daemon.wait_for("served", lambda: shown(daemon)["state"] == "served", 40)
    assert scc.status() == before


@pytest.mark.long
def test_status_that_may_not_be_written_holds_up_no_export(
    scc: Scc, daemon: RequestDaemon, rights: Rights
) -> None:
    rights.allow(*(rule for rule in CLUSTER_RULES if rule is not STATUS))
    scc.ask()
    daemon.wait_for("the Secret", scc.payload, 40)
    assert scc.conditions() == {}
    assert "patch on secretrequests/status" in daemon.whole_log()
    rights.allow(*CLUSTER_RULES)
    daemon.wait_for("its conditions", lambda: scc.conditions() == SERVED, 40)
