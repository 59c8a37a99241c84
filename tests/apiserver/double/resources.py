"""The fixed table of resources that the demo serves, and the names by which requests find them.

No objects and no HTTP: what a resource is called, how it is scoped and which of the API server's
per-kind strategies it follows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import orjson

JsonObject: TypeAlias = dict[str, Any]
"""A decoded JSON object; stored ones are treated as immutable."""

STANDARD_VERBS = ("create", "delete", "get", "list", "patch", "watch")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedResource:
    """One row of the table.

    Attributes:
        custom: Stands for a CRD; the built-in kinds have typed structs in the real server, which
            drop what is empty and list their items without apiVersion and kind.
        status: Has a status subresource, so that the main path ignores ``status``.
        status_on_create: ``status`` is kept on create all the same (core nodes).
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool
    custom: bool = False
    status: bool = False
    status_on_create: bool = False
    short_names: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """``plural.group``, or the plural alone for the core group."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def api_version(self) -> str:
        """What objects carry as ``apiVersion``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def group_kind(self) -> str:
        """How Invalid messages name the kind: ``Kind.group``."""
        return f"{self.kind}.{self.group}" if self.group else self.kind

    @property
    def subresources(self) -> tuple[str, ...]:
        """Paths below an object."""
        return ("status",) if self.status else ()

    @property
    def type_prefix(self) -> bytes:
        """How every encoded object begins; the field order is that of the real server."""
        names = {"apiVersion": self.api_version, "kind": self.kind}
        if not self.custom:
            names = dict(reversed(names.items()))
        return orjson.dumps(names)[:-1] + b","

    def encode(self, obj: JsonObject) -> bytes:
        """JSON of an object of this resource, beginning with ``type_prefix``."""
        rest = {key: obj[key] for key in obj if key not in {"apiVersion", "kind"}}
        return self.type_prefix + orjson.dumps(rest)[1:]

    def list_item(self, body: bytes) -> bytes:
        """An encoded object as it stands in a list: without its type where that is built in."""
        return body if self.custom else b"{" + body.removeprefix(self.type_prefix)


@dataclass(frozen=True, slots=True)
class RequestTarget:
    """What one request is about.

    Attributes:
        namespace: Empty for cluster-scoped objects and for lists over all namespaces.
        name: Empty for collections.
        subresource: ``status`` or empty.
    """

    resource: ServedResource
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def key(self) -> str:
        """``namespace/name`` or ``name``: what follows the resource in an etcd key."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


NAMESPACES = ServedResource(
    group="",
    version="v1",
    plural="namespaces",
    kind="Namespace",
    namespaced=False,
    status=True,
    short_names=("ns",),
)
NODES = ServedResource(
    group="",
    version="v1",
    plural="nodes",
    kind="Node",
    namespaced=False,
    status=True,
    status_on_create=True,
    short_names=("no",),
)
SECRETS = ServedResource(group="", version="v1", plural="secrets", kind="Secret", namespaced=True)


def _rancher(plural: str, kind: str, *, namespaced: bool = False) -> ServedResource:
    return ServedResource(
        group="management.cattle.io",
        version="v3",
        plural=plural,
        kind=kind,
        namespaced=namespaced,
        custom=True,
    )


CLUSTERS = _rancher("clusters", "Cluster")
RANCHER_NODES = _rancher("nodes", "Node", namespaced=True)
SETTINGS = _rancher("settings", "Setting")
FEATURES = _rancher("features", "Feature")
PROJECTS = _rancher("projects", "Project", namespaced=True)
SECRET_REQUESTS = ServedResource(
    group="telemetry.cattle.io",
    version="v1",
    plural="secretrequests",
    kind="SecretRequest",
    namespaced=False,
    custom=True,
    status=True,
)

RESOURCES = (
    NAMESPACES,
    NODES,
    SECRETS,
    CLUSTERS,
    RANCHER_NODES,
    SETTINGS,
    FEATURES,
    PROJECTS,
    SECRET_REQUESTS,
)
"""Everything that is served, in the order of discovery."""


def resource_of(obj: JsonObject) -> ServedResource:
    """The resource an object belongs to, by its apiVersion and kind.

    Raises:
        LookupError: The table has no such kind.
    """
    for resource in RESOURCES:
        if (resource.api_version, resource.kind) == (obj.get("apiVersion"), obj.get("kind")):
            return resource
    raise LookupError(f"no resource serves {obj.get('apiVersion')} {obj.get('kind')}")


def resource_by_id(resource_id: str) -> ServedResource:
    """The resource called ``plural.group``.

    Raises:
        LookupError: The table has no such resource.
    """
    for resource in RESOURCES:
        if resource.id == resource_id:
            return resource
    raise LookupError(f"no resource is called {resource_id}")


def discovery_entries(resource: ServedResource) -> Iterator[JsonObject]:
    """The rows of an APIResourceList for one resource and its subresources."""
    entry: JsonObject = {
        "name": resource.plural,
        "singularName": resource.kind.lower() if resource.custom else "",
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": list(STANDARD_VERBS),
    }
    if resource.short_names:
        entry["shortNames"] = list(resource.short_names)
    yield entry
    for subresource in resource.subresources:
        yield {
            "name": f"{resource.plural}/{subresource}",
            "singularName": "",
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": ["get", "patch"],
        }
