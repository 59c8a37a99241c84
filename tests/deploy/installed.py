"""`deploy/` applied to the real API server from its files, and the token of its pod."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from telemetryd.doctor.access import Access
from tests.apiserver.admin import Admin, AdminError, Object, Objects
from tests.apiserver.process import DEPLOYED_USER, ApiServer
from tests.charts.checks import environ_of
from tests.charts.helm import toml_of
from tests.deploy.kustomize import NAMESPACE, Variant, build
from tests.deploy.rights import ROLES, granted, without

_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"

_PLURALS = {"NetworkPolicy": "networkpolicies"}


def path_of(obj: Object) -> str:
    """Where the API server has the object."""
    version, metadata = obj["apiVersion"], obj["metadata"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    namespace = metadata.get("namespace")
    inside = f"/namespaces/{namespace}" if namespace else ""
    plural = _PLURALS.get(obj["kind"], f"{obj['kind'].lower()}s")
    return f"{root}{inside}/{plural}/{metadata['name']}"


def ensure_namespace(admin: Admin, name: str) -> None:
    """Creates the namespace unless it exists."""
    try:
        admin.create("/api/v1/namespaces", {"metadata": {"name": name}})
    except AdminError as error:
        if error.status != 409:
            raise


class Installed:
    """One variant of `deploy/` on the API server, and who it runs as.

    Attributes:
        objects: What was applied.
        url: Where the API server is.
        ca_file: Who vouches for it.
        token: Of its ServiceAccount, by TokenRequest.
        kubeconfig: With that token.
    """

    def __init__(self, admin: Admin, apiserver: ApiServer, folder: Path, variant: Variant) -> None:
        self.admin = admin
        self.url = apiserver.url
        self.ca_file = apiserver.ca_file
        self.objects = build(*variant)
        ensure_namespace(admin, NAMESPACE)
        for obj in self.objects:
            if obj["metadata"].get("namespace") not in {None, NAMESPACE}:
                ensure_namespace(admin, obj["metadata"]["namespace"])
            admin.apply(path_of(obj), obj, manager="kubectl", force=True)
        account = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/telemetryd/token"
        request: Object = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": 3600},
        }
        self.token: str = admin.create(account, request)["status"]["token"]
        self.kubeconfig = apiserver.kubeconfig(folder / "kubeconfig-of-account", self.token)

    def roles(self) -> Objects:
        """The roles among the objects."""
        return [obj for obj in self.objects if obj["kind"] in ROLES]

    def role(self, kind: str) -> Object:
        """The one role of that kind in the base."""
        (found,) = [obj for obj in self.roles() if obj["kind"] == kind]
        return found

    def config(self) -> str:
        """The configuration in the ConfigMap."""
        return toml_of(self.objects)

    def variables(self) -> dict[str, str]:
        """The configuration in the environment of the container."""
        environ = environ_of(self.objects)
        return {name: text for name, text in environ.items() if name.startswith("TELEMETRYD_")}

    def set_rules(self, role: Object, rules: Objects) -> None:
        """Changes what a role grants."""
        operation = {"op": "replace", "path": "/rules", "value": rules}
        self.admin.patch(path_of(role), [operation], kind="json")

    def granting(self, access: Access) -> Object:
        """The role that grants it."""
        (found,) = [role for role in self.roles() if access in granted([role])]
        return found

    @contextmanager
    def without(self, rights: Iterable[Access]) -> Iterator[None]:
        """Without these rights, until the block is left."""
        changed: dict[str, tuple[Object, Object]] = {}
        for right in rights:
            role = self.granting(right)
            _, less = changed.get(path_of(role), (role, role))
            changed[path_of(role)] = role, without(less, right)
        for role, less in changed.values():
            self.set_rules(role, less["rules"])
        try:
            yield
        finally:
            for role, _ in changed.values():
                self.set_rules(role, role["rules"])

    def wait_granted(self, rights: Iterable[Access], *, granted: bool = True) -> None:
        """Until the API server allows them, or no longer: a changed role counts a moment later."""
        for right in rights:
            asked = {
                "group": right.group,
                "resource": right.resource,
                "subresource": right.subresource,
                "verb": right.verb,
                "namespace": right.namespace,
                "name": right.name,
            }
            spec = {"user": DEPLOYED_USER, "resourceAttributes": asked}
            deadline = time.monotonic() + 30
            while self.admin.create(_REVIEWS, {"spec": spec})["status"]["allowed"] is not granted:
                assert time.monotonic() < deadline, (
                    f"{right} is still {'denied' if granted else 'granted'}"
                )
                time.sleep(0.05)

    def remove(self) -> None:
        """Deletes all of it."""
        for obj in reversed(self.objects):
            self.admin.delete(path_of(obj))
