"""Minimal CRDs of Rancher and of SecretRequest, and how to install and remove them."""

from http import HTTPStatus

from tests.apiserver.admin import Admin, AdminError, Object
from tests.support.waiting import until

_COLLECTION = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_POLL_S = 0.1
_TIMEOUT_S = 60.0

# What a CRD that was just made or removed may answer for a moment.
_PASSING = {
    HTTPStatus.NOT_FOUND,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.SERVICE_UNAVAILABLE,
}


def crd(
    group: str, version: str, kind: str, *, namespaced: bool = False, status: bool = False
) -> Object:
    """Returns a CRD that keeps every field; the plural is the kind in lower case with an s."""
    singular = kind.lower()
    served: Object = {
        "name": version,
        "served": True,
        "storage": True,
        "schema": {
            "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        },
    }
    if status:
        served["subresources"] = {"status": {}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{singular}s.{group}"},
        "spec": {
            "group": group,
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": f"{singular}s",
                "singular": singular,
            },
            "scope": "Namespaced" if namespaced else "Cluster",
            "versions": [served],
        },
    }


MANAGEMENT = "management.cattle.io"
TELEMETRY = "telemetry.cattle.io"

CLUSTERS = crd(MANAGEMENT, "v3", "Cluster")
NODES = crd(MANAGEMENT, "v3", "Node", namespaced=True)
SETTINGS = crd(MANAGEMENT, "v3", "Setting")
FEATURES = crd(MANAGEMENT, "v3", "Feature")
PROJECTS = crd(MANAGEMENT, "v3", "Project", namespaced=True)
SECRET_REQUESTS = crd(TELEMETRY, "v1", "SecretRequest", status=True)

REGISTRATIONS = crd("scc.cattle.io", "v1", "Registration", status=True)
"""Of scc-operator; not one of `CRDS`, for a Rancher without it doesn't serve them."""

CRDS = (CLUSTERS, NODES, SETTINGS, FEATURES, PROJECTS, SECRET_REQUESTS)


def install_crds(admin: Admin) -> None:
    """Installs what is missing of `CRDS` and returns once all are served."""
    for definition in CRDS:
        try:
            admin.create(_COLLECTION, definition)
        except AdminError as error:
            if error.status != HTTPStatus.CONFLICT:
                raise
    for definition in CRDS:
        _wait_until(admin, definition, served=True)


def create_crd(admin: Admin, definition: Object) -> None:
    """Creates one CRD and returns once it is served."""
    admin.create(_COLLECTION, definition)
    _wait_until(admin, definition, served=True)


def delete_crd(admin: Admin, definition: Object) -> None:
    """Deletes one CRD with all its objects and returns once nothing of it is left."""
    admin.delete(f"{_COLLECTION}/{definition['metadata']['name']}")
    _wait_until(admin, definition, served=False)


def collection(definition: Object, namespace: str | None = None) -> str:
    """Returns the path of the CRD's objects, in one namespace or in all."""
    spec = definition["spec"]
    root = f"/apis/{spec['group']}/{spec['versions'][0]['name']}"
    inside = f"/namespaces/{namespace}" if namespace else ""
    return f"{root}{inside}/{spec['names']['plural']}"


def _wait_until(admin: Admin, definition: Object, *, served: bool) -> None:
    expected = (True, True, True) if served else (False, False, False)
    until(
        lambda: _traces(admin, definition) == expected,
        f"{definition['metadata']['name']}: established, discovered, listed are {expected}",
        more=lambda: f"they are {_traces(admin, definition)}",
    )


def _traces(admin: Admin, definition: Object) -> tuple[bool, bool, bool]:
    """Tells whether the CRD is established, in discovery, and can be listed."""
    spec = definition["spec"]
    crd_now = _get(admin, f"{_COLLECTION}/{definition['metadata']['name']}")
    group_now = _get(admin, f"/apis/{spec['group']}/{spec['versions'][0]['name']}")
    conditions = crd_now.get("status", {}).get("conditions") or []  # null for a moment
    return (
        any(c["type"] == "Established" and c["status"] == "True" for c in conditions),
        any(r["name"] == spec["names"]["plural"] for r in group_now.get("resources", [])),
        "items" in _get(admin, collection(definition), limit=1),
    )


def _get(admin: Admin, path: str, **query: int) -> Object:
    try:
        return admin.get(path, **query)
    except AdminError as error:
        if error.status not in _PASSING:
            raise
        return {}
