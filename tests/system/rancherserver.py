"""A Rancher that serves SecretRequests as its own controller and exporter do, in a shorter time.

Each change of a request registers its exporter again, so that its interval begins again, and is
answered by a status. An exporter creates the Secret, or replaces all of it without a precondition.
"""

import json
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.apiserver.admin import Admin, AdminError, Object
from tests.support.repeating import repeating
from tests.system.scc import LABEL, REQUESTS, SYSTEM_PROJECT

MANAGER = "?fieldManager=rancher"
_POLL_S = 0.1


def sample_document() -> dict[str, Any]:
    """A payload of another fleet than any test's."""
    uid = "5c6b1b7e-94c5-4f6e-8a0e-2f9d2e1c7a11"
    return {
        "version": "2.14.0",
        "subscription": {
            "installuuid": uid, "clusteruuid": uid, "product": "rancher-prime",
            "version": "v2.14.0", "arch": "unknown", "git": "HEAD", "server_url": "",
        },
        "managedSystems": None,
        "managedClusters": [{"count": 1, "nodes": 0, "upstream": True}],
        "timestamp": f"{time.time():.3f}",
    }  # fmt: skip


class RancherServer:
    """One that runs only inside of ``running()``.

    Attributes:
        writes: Secrets written so far.
        registrations: Exporters registered so far, the same one again included.
    """

    def __init__(
        self, admin: Admin, *, every_s: float, document: Callable[[], Any] = sample_document
    ) -> None:
        self.writes = 0
        self.registrations = 0
        self._admin = admin
        self._every_s = every_s
        self._document = document
        self._seen: dict[str, str] = {}
        self._due_s: dict[str, tuple[float, Object]] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        """It looks at all requests when it starts, as an informer's first list makes it."""
        self._seen.clear()
        self._due_s.clear()
        with repeating(self._look, every_s=_POLL_S):
            yield

    def _look(self) -> None:
        requests = {each["metadata"]["name"]: each for each in self._admin.list(REQUESTS)}
        for name in self._due_s.keys() - requests.keys():
            del self._due_s[name]
        for name, request in requests.items():
            version = request["metadata"]["resourceVersion"]
            if self._seen.get(name) != version and self._on_change(name, request):
                self._seen[name] = version
        for name, (due_s, target) in list(self._due_s.items()):
            if time.monotonic() >= due_s:
                self._due_s[name] = time.monotonic() + self._every_s, target
                self._export(target)

    def _on_change(self, name: str, request: Object) -> bool:
        """Its controller's handler; False where it has to come again."""
        status = request.setdefault("status", {})
        held = {each["type"]: each for each in status.get("conditions") or []}
        if "Progressing" not in held:
            _set(held, "Progressing", "True")
        elif not self._is_valid(request):
            for kind, value in (("Failure", "True"), ("Progressing", "False"), ("Done", "True")):
                _set(held, kind, value)
        elif name not in self._due_s and status.get("lastSyncTS") == _now():
            # The write of another of this second: the same again would change nothing, and be no
            # write of Rancher's in the eyes of the API server.
            return False
        else:
            self.registrations += 1
            target = request["spec"]["targetSecretRef"]
            self._due_s[name] = time.monotonic() + self._every_s, target
            _set(held, "Done", "True")
            _set(held, "Progressing", "False")
            held.pop("Failure", None)
            status["lastSyncTS"] = _now()
        status["conditions"] = list(held.values())
        try:
            self._admin.put(f"{REQUESTS}/{name}/status{MANAGER}", request)
        except AdminError as error:
            if error.status not in {404, 409}:
                raise
            return False
        return True

    def _is_valid(self, request: Object) -> bool:
        spec = request.get("spec", {})
        namespace = spec.get("targetSecretRef", {}).get("namespace")
        if spec.get("secretType") != "scc" or not namespace:
            return False
        labels = self._admin.get(f"/api/v1/namespaces/{namespace}")["metadata"].get("labels", {})
        return bool(labels.get(LABEL) == SYSTEM_PROJECT)

    def _export(self, target: Object) -> None:
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                **target,
                "annotations": {
                    "scc.cattle.io/part-of": "telemetry",
                    "scc.cattle.io/last-changed": _now(),
                },
            },
            "data": {"payload": b64encode(json.dumps(self._document()).encode()).decode()},
        }
        path = f"/api/v1/namespaces/{target['namespace']}/secrets"
        try:
            self._admin.create(path + MANAGER, secret)
        except AdminError as error:
            if error.status != 409:
                raise
            self._admin.put(f"{path}/{target['name']}{MANAGER}", secret)
        self.writes += 1


def _set(held: dict[str, Object], kind: str, value: str) -> None:
    """A condition, whose time moves with its value; it has no ``lastTransitionTime``."""
    old = held.get(kind, {})
    if old.get("status") != value:
        held[kind] = {**old, "type": kind, "status": value, "lastUpdateTime": _now()}


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
