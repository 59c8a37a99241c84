"""The objects of the demo's API server: their kinds, writes to them, and what changed lately.

One revision counts all writes, as in etcd. Objects are kept as JSON. Of Kubernetes' rules only
those are here that telemetryd relies on: preconditions, and what an apply owns.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile
from random import Random
from typing import Any, Final, TypeAlias
from uuid import UUID

import anyio
import orjson

JsonObject: TypeAlias = dict[str, Any]
Key: TypeAlias = tuple[str, str]
"""Namespace, empty for cluster scope, and name."""

MOST_CHANGES: Final = 1000
"""Kept for each kind: a watch that is further behind has to list again."""

_RANCHER: Final = "management.cattle.io"
_NOT_OWNED: Final = frozenset(
    {"creationTimestamp", "managedFields", "name", "namespace", "resourceVersion", "uid"}
)
"""Metadata of the server, or that names the object."""


class RefusedRequest(Exception):
    """A request gets an error."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.status: JsonObject = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
        }


@dataclass(frozen=True, slots=True)
class DemoResource:
    """A kind of object that is served; ``group`` is empty for the core group."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = False

    @property
    def api_version(self) -> str:
        """What objects have as ``apiVersion``."""
        return f"{self.group}/{self.version}" if self.group else self.version


NAMESPACES: Final = DemoResource("", "v1", "namespaces", "Namespace")
SECRETS: Final = DemoResource("", "v1", "secrets", "Secret", namespaced=True)
CLUSTERS: Final = DemoResource(_RANCHER, "v3", "clusters", "Cluster")
NODES: Final = DemoResource(_RANCHER, "v3", "nodes", "Node", namespaced=True)
SETTINGS: Final = DemoResource(_RANCHER, "v3", "settings", "Setting")
RESOURCES: Final = (
    NAMESPACES,
    DemoResource("", "v1", "nodes", "Node"),
    SECRETS,
    CLUSTERS,
    NODES,
    SETTINGS,
    DemoResource(_RANCHER, "v3", "features", "Feature"),
    DemoResource(_RANCHER, "v3", "projects", "Project", namespaced=True),
    DemoResource("telemetry.cattle.io", "v1", "secretrequests", "SecretRequest"),
)
_BY_KIND: Final = {(each.api_version, each.kind): each for each in RESOURCES}


class ObjectTable:
    """The objects of one kind.

    ``changes`` are the latest: revision, key and line of a watch. ``dropped`` is the revision of
    the last one before.
    """

    def __init__(self) -> None:
        self.bodies: dict[Key, bytes] = {}
        self.changes: deque[tuple[int, Key, bytes]] = deque()
        self.dropped = 0
        self._changed: anyio.Event | None = None

    def record(self, event: str, revision: int, key: Key, obj: JsonObject) -> None:
        """Note what an object is now, or was when it was deleted."""
        self.bodies[key] = orjson.dumps(obj)
        self.changes.append((revision, key, render_event(event, self.bodies[key])))
        if event == "DELETED":
            del self.bodies[key]
        if len(self.changes) > MOST_CHANGES:
            self.dropped, *_ = self.changes.popleft()
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def since(self, revision: int) -> list[tuple[int, Key, bytes]]:
        """The changes after a revision, in order."""
        newer = takewhile(lambda change: change[0] > revision, reversed(self.changes))
        return list(newer)[::-1]

    async def wait_changed(self) -> None:
        """Return after the next change."""
        self._changed = self._changed or anyio.Event()
        await self._changed.wait()


class ObjectStore:
    """All objects."""

    def __init__(self, *, now: Callable[[], datetime], rng: Random) -> None:
        """An empty one; ``rng`` is the source of UIDs."""
        self.revision = 1
        self.tables = {resource: ObjectTable() for resource in RESOURCES}
        self._now = now
        self._rng = rng

    def get(self, resource: DemoResource, key: Key) -> JsonObject:
        """A copy of an object.

        Raises:
            RefusedRequest: There is none.
        """
        body = self.tables[resource].bodies.get(key)
        if body is None:
            raise RefusedRequest(404, "NotFound", f'{resource.plural} "{key[1]}" not found')
        found: JsonObject = orjson.loads(body)
        return found

    def put(self, obj: JsonObject) -> bytes:
        """Create or replace an object, whatever is there; returns its JSON."""
        resource, key = _place_of(obj)
        table = self.tables[resource]
        self.revision += 1
        stored = {
            "uid": str(UUID(int=self._rng.getrandbits(128), version=4)),
            "creationTimestamp": timestamp(self._now()),
            **obj["metadata"],
            "resourceVersion": str(self.revision),
        }
        event = "MODIFIED" if key in table.bodies else "ADDED"
        table.record(event, self.revision, key, {**obj, "metadata": stored})
        return table.bodies[key]

    def remove(self, obj: JsonObject) -> None:
        """Delete the object of that name, whatever its state is."""
        resource, key = _place_of(obj)
        self.delete(resource, key, {})

    def delete(self, resource: DemoResource, key: Key, preconditions: JsonObject) -> JsonObject:
        """Delete an object, whatever its finalizers are; returns what it was.

        Raises:
            RefusedRequest: There is none, or it is in another state.
        """
        obj = self.get(resource, key)
        _check(obj, preconditions)
        self.revision += 1
        obj["metadata"]["resourceVersion"] = str(self.revision)
        self.tables[resource].record("DELETED", self.revision, key, obj)
        return obj

    def patch(
        self, resource: DemoResource, key: Key, patch: JsonObject, *, subresource: str
    ) -> bytes:
        """Merge a document into an object (RFC 7396); returns its JSON.

        Raises:
            RefusedRequest: There is none, or it is in another state.
        """
        obj = self.get(resource, key)
        _check(obj, patch.get("metadata") or {})
        if subresource:
            patch = {name: part for name, part in patch.items() if name == subresource}
        return self.put(_merge(obj, patch))

    def apply(self, resource: DemoResource, key: Key, config: JsonObject, manager: str) -> bytes:
        """Merge a document into an object, and take away what its manager applied before.

        Returns:
            The JSON of the object.

        Raises:
            RefusedRequest: The object is in another state, or its namespace is missing.
        """
        live: JsonObject = {"metadata": {}}
        if key in self.tables[resource].bodies:
            live = self.get(resource, key)
        elif resource.namespaced:
            self.get(NAMESPACES, ("", key[0]))
        _check(live, config.get("metadata") or {})
        owners = live["metadata"].get("managedFields", [])
        former = [
            each for each in owners if (each["manager"], each["operation"]) == (manager, "Apply")
        ]
        fields = fields_of(config)
        applied = _merge(_without(live, former[0]["fieldsV1"] if former else {}, fields), config)
        if former and applied == live and former[0]["fieldsV1"] == fields:
            return self.tables[resource].bodies[key]
        entry = render_owner(resource.api_version, manager, "Apply", fields, self._now())
        others = [each for each in owners if each not in former]
        applied["metadata"]["managedFields"] = [*others, *([entry] if fields else [])]
        return self.put(applied)


def _place_of(obj: JsonObject) -> tuple[DemoResource, Key]:
    metadata = obj["metadata"]
    resource = _BY_KIND[obj["apiVersion"], obj["kind"]]
    return resource, (metadata.get("namespace", ""), metadata["name"])


def render_event(event: str, body: bytes) -> bytes:
    """A line of a watch."""
    return b'{"type":"%b","object":%b}\n' % (event.encode(), body)


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC, whole seconds."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def render_owner(
    api_version: str, manager: str, operation: str, fields: JsonObject, moment: datetime
) -> JsonObject:
    """An entry of ``managedFields``."""
    return {
        "apiVersion": api_version,
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
        "manager": manager,
        "operation": operation,
        "time": timestamp(moment),
    }


def fields_of(obj: JsonObject) -> JsonObject:
    """The fields that a writer of this object owns, as FieldsV1."""
    metadata = {key: value for key, value in obj["metadata"].items() if key not in _NOT_OWNED}
    owned = {key: value for key, value in obj.items() if key not in {"apiVersion", "kind"}}
    del owned["metadata"]
    return _fields({**({"metadata": metadata} if metadata else {}), **owned})


def _fields(value: Any) -> JsonObject:
    members = value.items() if isinstance(value, dict) else ()
    return {f"f:{name}": _fields(member) for name, member in members}


def _without(obj: JsonObject, former: JsonObject, fields: JsonObject) -> JsonObject:
    """An object without what was owned before and isn't now."""
    kept: JsonObject = {}
    for name, value in obj.items():
        was, now = former.get(f"f:{name}"), fields.get(f"f:{name}")
        if was and isinstance(value, dict):
            kept[name] = _without(value, was, now or {})
        elif was is None or now is not None:
            kept[name] = value
    return kept


def _merge(value: Any, patch: Any) -> Any:
    """RFC 7396: null removes, objects merge, everything else replaces."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(value) if isinstance(value, dict) else {}
    for name, change in patch.items():
        if change is None:
            merged.pop(name, None)
        else:
            merged[name] = _merge(merged.get(name), change)
    return merged


def _check(obj: JsonObject, wanted: JsonObject) -> None:
    """Hold an object to the UID and the resourceVersion that a write requires.

    Raises:
        RefusedRequest: It has others.
    """
    for name in ("uid", "resourceVersion"):
        if wanted.get(name) and wanted[name] != obj["metadata"].get(name):
            raise RefusedRequest(409, "Conflict", f"the object has been modified: another {name}")
