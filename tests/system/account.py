"""The daemon's ServiceAccount with just the rights that it needs, and what it asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.apiserver.admin import Admin, AdminError, Object
from tests.apiserver.process import AUDITED_USER, ApiServer

_, _, NAMESPACE, NAME = AUDITED_USER.split(":")
_RBAC = "/apis/rbac.authorization.k8s.io/v1"
WATCH = ["list", "watch"]

KUBE_SYSTEM = {"resources": ["namespaces"], "resourceNames": ["kube-system"], "verbs": WATCH}
SECRET = {
    "resources": ["secrets"],
    "resourceNames": ["rancher-scc-telemetry"],
    "verbs": ["get", "create", "patch"],
}
PLAIN: list[dict[str, list[str]]] = [
    {"apiGroups": [""], "resources": ["nodes"], "verbs": WATCH},
    {"apiGroups": [""], **KUBE_SYSTEM},
    {"apiGroups": [""], **SECRET},
]
RANCHER: list[dict[str, list[str]]] = [
    {
        "apiGroups": ["management.cattle.io"],
        "resources": ["clusters", "nodes", "settings", "features", "projects"],
        "verbs": WATCH,
    },
    *PLAIN[1:],
]


def make_account(apiserver: ApiServer, admin: Admin, folder: Path, rules: list[Any]) -> Path:
    """Gives the account these rights alone and returns a kubeconfig with a token of it."""
    role = {"metadata": {"name": NAMESPACE}, "rules": rules}
    binding = {
        "metadata": {"name": NAMESPACE},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": NAMESPACE,
        },
        "subjects": [{"kind": "ServiceAccount", "namespace": NAMESPACE, "name": NAME}],
    }
    accounts = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"
    for path, body in (
        ("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}}),
        (accounts, {"metadata": {"name": NAME}}),
        (f"{_RBAC}/clusterroles", role),
        (f"{_RBAC}/clusterrolebindings", binding),
    ):
        _create(admin, path, body)
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token = admin.create(f"{accounts}/{NAME}/token", request)["status"]["token"]
    return apiserver.kubeconfig(folder / "kubeconfig", token)


def _create(admin: Admin, path: str, body: Object) -> None:
    try:
        admin.create(path, body)
    except AdminError as error:
        if error.status != 409:
            raise
        # Another module's, whose rights were others.
        admin.patch(f"{path}/{body['metadata']['name']}", body)


@dataclass(frozen=True, slots=True)
class Trail:
    """What the account asked for, by the API server's audit log, from a moment on."""

    apiserver: ApiServer
    begin: int

    @classmethod
    def from_now(cls, apiserver: ApiServer) -> "Trail":
        return cls(apiserver, len(apiserver.audit()))

    def requests(self) -> list[str]:
        """Verb and URI of each request that was begun since, in order."""
        return [
            f"{event['verb']} {event['requestURI']}"
            for event in self.apiserver.audit()[self.begin :]
            if event["stage"] == "RequestReceived"
        ]

    def open_watches(self) -> list[str]:
        """What is watched now, whenever that began: resource, with the name where it is one."""
        watches: dict[str, str] = {}
        for event in self.apiserver.audit():
            if event["verb"] != "watch":
                continue
            if event["stage"] == "ResponseComplete":
                watches.pop(event["auditID"], None)
            else:
                watches[event["auditID"]] = _watched(event)
        return sorted(watches.values())


def _watched(event: dict[str, Any]) -> str:
    reference = event["objectRef"]
    group = reference.get("apiGroup")
    resource = f"{reference['resource']}.{group}" if group else reference["resource"]
    selector = parse_qs(urlsplit(event["requestURI"]).query).get("fieldSelector", [""])[0]
    return f"{resource} {selector}".strip()
