"""What scc-operator makes and demands, and a Rancher small enough to be made for each test."""

import itertools
import json
import threading
import uuid
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tests.apiserver.admin import Admin, AdminError, Object
from tests.apiserver.crds import (
    CLUSTERS,
    FEATURES,
    NODES,
    PROJECTS,
    SECRET_REQUESTS,
    SETTINGS,
    collection,
)
from tests.apiserver.fixtures import feature, namespace, project, rancher_cluster, setting

REQUEST = "rancher-scc-metrics"
NAMESPACE = "cattle-scc-system"
SECRET = "rancher-scc-metrics"
REQUEST_FINALIZER = "scc.cattle.io/scc-metrics-request"
SECRET_FINALIZER = "wrangler.cattle.io/prime-registration-secrets-remove"
REQUESTS = collection(SECRET_REQUESTS)
SYSTEM_PROJECT = "p-abcde"
EXPORTER = f"secretrequest/{REQUEST}"
SERVED = {"Progressing": "False", "Done": "True"}
FAILED = {**SERVED, "Failure": "True"}
INVALID = "Secret Request is in an invalid state"
LABEL = "field.cattle.io/projectId"
SETTINGS_NEEDED = {
    "install-uuid": "5c6b1b7e-94c5-4f6e-8a0e-2f9d2e1c7a11",
    "server-url": "https://127.0.0.1:1",
    "server-version": "v2.15.0",
}


def scc_request(name: str = REQUEST, /, **target: Any) -> Object:
    """The object as scc-operator creates it, but for what is given of its target."""
    return {
        "apiVersion": "telemetry.cattle.io/v1",
        "kind": "SecretRequest",
        "metadata": {
            "name": name,
            "labels": {"app.kubernetes.io/managed-by": "rancher-scc-operator"},
            "finalizers": [REQUEST_FINALIZER],
        },
        "spec": {
            "secretType": "scc",
            "targetSecretRef": {"namespace": NAMESPACE, "name": SECRET, **target},
        },
    }


class Scc:
    """One Rancher with what its requests need, and looks at what becomes of them."""

    def __init__(self, admin: Admin) -> None:
        self.admin = admin
        self._secrets: set[str] = set()

    def build(self) -> None:
        """The namespaces, the System project, a cluster and the settings."""
        for name in ("kube-system", "local"):
            self.put("/api/v1/namespaces", namespace(name))
        self.namespace(NAMESPACE)
        self.put(collection(PROJECTS, "local"), project(SYSTEM_PROJECT))
        self.put(collection(CLUSTERS), rancher_cluster("local"))
        self.put(collection(FEATURES), feature("fleet"))
        self.set_settings()

    def unset_settings(self) -> None:
        """None of them, as in a Rancher that has just been installed."""
        self.admin.delete(collection(SETTINGS))

    def set_settings(self) -> None:
        """All that an export needs of Rancher's settings."""
        for name, value in SETTINGS_NEEDED.items():
            self.put(collection(SETTINGS), setting(name, value))

    def set_version(self, version: str) -> None:
        """Another version of Rancher: another payload."""
        self.admin.patch(f"{collection(SETTINGS)}/server-version", {"value": version})

    def namespace(self, name: str, project_id: str | None = SYSTEM_PROJECT) -> None:
        """A namespace in a project, made or changed."""
        with suppress(AdminError):
            self.admin.create("/api/v1/namespaces", namespace(name))
        self.label(name, project_id)

    def label(self, name: str, project_id: str | None) -> None:
        """Put a namespace into a project, or out of any."""
        self.admin.patch(
            f"/api/v1/namespaces/{name}", {"metadata": {"labels": {LABEL: project_id}}}
        )

    def put(self, path: str, obj: Object) -> None:
        """Create it where it doesn't exist."""
        try:
            self.admin.create(path, obj)
        except AdminError as error:
            if error.status != 409:
                raise

    def ask(self, name: str = REQUEST, /, **target: Any) -> None:
        """Create a SecretRequest as scc-operator does."""
        self.admin.create(REQUESTS, scc_request(name, **target))

    def request(self, name: str = REQUEST) -> Object | None:
        """The request, None where there is none."""
        return self._get(f"{REQUESTS}/{name}")

    def request_path(self, name: str = REQUEST) -> str:
        """The path of a request."""
        return f"{REQUESTS}/{name}"

    def status(self, name: str = REQUEST) -> Object:
        """Its status, empty where there is none."""
        found: Object = (self.request(name) or {}).get("status") or {}
        return found

    def conditions(self, name: str = REQUEST) -> dict[str, str]:
        """Status of each of its conditions."""
        return {each["type"]: each["status"] for each in self.status(name).get("conditions", [])}

    def condition(self, kind: str, name: str = REQUEST) -> Object:
        """One of its conditions, empty where there is none."""
        listed = self.status(name).get("conditions", [])
        return next((each for each in listed if each["type"] == kind), {})

    def edit(self, patch: Object, name: str = REQUEST) -> None:
        """Merge a patch into the request."""
        self.admin.patch(f"{REQUESTS}/{name}", patch)

    def delete(self, name: str = REQUEST) -> None:
        """Ask for its deletion: the operator's finalizer holds it."""
        self.admin.delete(f"{REQUESTS}/{name}")

    def finalize(self, name: str = REQUEST) -> None:
        """Take its finalizers off."""
        self.edit({"metadata": {"finalizers": None}}, name)

    def secret_path(self, name: str = SECRET, namespace: str = NAMESPACE) -> str:
        """The path of a Secret, which goes with `clear`."""
        path = f"/api/v1/namespaces/{namespace}/secrets/{name}"
        self._secrets.add(path)
        return path

    def secret(self, name: str = SECRET, namespace: str = NAMESPACE) -> Object | None:
        """A Secret, None where there is none."""
        return self._get(self.secret_path(name, namespace))

    def payload(self, name: str = SECRET, namespace: str = NAMESPACE) -> dict[str, Any] | None:
        """The document in a Secret, None where there is none."""
        secret = self.secret(name, namespace)
        if secret is None or "payload" not in secret.get("data", {}):
            return None
        document: dict[str, Any] = json.loads(b64decode(secret["data"]["payload"]))
        return document

    def clear(self) -> None:
        """Removes what the test made, but for namespaces."""
        for item in self.admin.list(REQUESTS):
            path = f"{REQUESTS}/{item['metadata']['name']}"
            with suppress(AdminError):
                self.admin.patch(path, {"metadata": {"finalizers": None}})
                self.admin.delete(path)
        for definition in (NODES, PROJECTS):
            listed = self.admin.list(collection(definition))
            for cluster in {item["metadata"]["namespace"] for item in listed}:
                self.admin.delete(collection(definition, cluster))
        for definition in (CLUSTERS, SETTINGS, FEATURES):
            self.admin.delete(collection(definition))
        for path in sorted({*self._secrets, self.secret_path()}):
            if self._get(path) is not None:
                self.admin.patch(path, {"metadata": {"finalizers": None}})
                with suppress(AdminError):
                    self.admin.delete(path)

    def _get(self, path: str) -> Object | None:
        try:
            return self.admin.get(path)
        except AdminError as error:
            if error.status == 404:
                return None
            raise


class Events:
    """All states of one object while the block of `recorded` lasts, oldest first."""

    def __init__(self) -> None:
        self.states: list[Object] = []

    def changes(self, *path: str) -> int:
        """How often what is at that path has changed since the first state."""
        values = [_at(state, path) for state in self.states]
        return sum(old != new for old, new in itertools.pairwise(values))


def _at(state: Object, path: tuple[str, ...]) -> Any:
    value: Any = state
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


@contextmanager
def recorded(admin: Admin, path: str) -> Iterator[Events]:
    """Watch one object; a list of the API server's own, for every write shows."""
    scope, _, name = path.rpartition("/")
    field = f"metadata.name={name}"
    page = admin.get(scope, fieldSelector=field)
    events = Events()
    events.states += page["items"]
    started = threading.Event()
    marker = f"over-{uuid.uuid4()}"

    def follow() -> None:
        version = page["metadata"]["resourceVersion"]
        with admin.watch(
            scope, fieldSelector=field, resourceVersion=version, timeoutSeconds=100
        ) as changes:
            started.set()
            for change in changes:
                state = change["object"]
                if marker in (state["metadata"].get("annotations") or {}):
                    return
                events.states.append(state)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    assert started.wait(60)
    try:
        yield events
    finally:
        with suppress(AdminError):
            admin.patch(path, {"metadata": {"annotations": {marker: "yes"}}})
            thread.join(30)
            admin.patch(path, {"metadata": {"annotations": {marker: None}}})


def demand_what_the_operator_needs(payload: dict[str, Any]) -> None:
    """What `NewMetricsWrapper` asserts without a check: anything else makes scc-operator panic."""
    assert isinstance(payload["version"], str)
    subscription = payload["subscription"]
    for key in ("installuuid", "product", "version", "arch", "git"):
        assert isinstance(subscription[key], str), key
    uuid.UUID(subscription["installuuid"])
    uuid.UUID(subscription["clusteruuid"])
