"""The write verbs: create, replace, patch, apply and delete, with every rule that guards them.

Order of checks and their answers follow kube-apiserver 1.37.2. Parsing requests is not done here,
and reading is ``listing``'s and ``watching``'s.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from random import Random
from typing import Any
from uuid import UUID

import orjson

from tests.apiserver.double import rules, status
from tests.apiserver.double.apply import Manager, Write, apply_config, update_owners
from tests.apiserver.double.objects import ObjectStore, StoredObject
from tests.apiserver.double.resources import NAMESPACES, JsonObject, RequestTarget, ServedResource

_KEPT_FROM_LIVE = (
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "uid",
)


@dataclass(frozen=True, slots=True)
class Written:
    """The outcome of a write: the object, and whether it is new."""

    stored: StoredObject
    created: bool = False


@dataclass(frozen=True, slots=True)
class Deletion:
    """The outcome of a delete: the object's last state, and whether finalizers hold it still."""

    stored: StoredObject
    held: bool


class Writer:
    """Writes to a store under the rules of the API."""

    def __init__(self, store: ObjectStore, *, now: Callable[[], datetime], rng: Random) -> None:
        """Use ``now`` for the timestamps and ``rng`` for the UIDs of objects."""
        self._store = store
        self._now = now
        self._rng = rng

    def create(self, target: RequestTarget, body: JsonObject, manager: str) -> Written:
        """POST to a collection.

        Raises:
            AlreadyExists: There is such an object.
            BadRequest: The body doesn't fit the URL.
            ForbiddenTarget: The namespace is terminating.
            InternalError: The body has a resourceVersion.
            InvalidObject: The content breaks a rule.
            NoSuchObject: There is no such namespace.
        """
        rules.check_body(target, body, posted=True)
        if body["metadata"].get("resourceVersion"):
            raise status.InternalError("resourceVersion should not be set on objects to be created")
        name = body["metadata"].get("name", "")
        target = RequestTarget(target.resource, target.namespace, name)
        return self._create(target, body, self._write(target, manager, "Update"))

    def merge_patch(self, target: RequestTarget, patch: Any, manager: str) -> Written:
        """PATCH with ``application/merge-patch+json`` (RFC 7396).

        Raises:
            BadRequest: The result doesn't fit the URL.
            InvalidObject: The content breaks a rule, or the patch is no object.
            Modified: The resourceVersion isn't the current one.
            NoSuchObject: There is no such object.
        """
        live = self._find(target)
        if live is None:
            raise status.NoSuchObject(target.resource, target.name)
        if not isinstance(patch, dict):
            cause = status.StatusCause("FieldValueInvalid", f"Invalid value: {patch!r}", "patch")
            raise status.InvalidObject(target.resource, target.name, [cause])
        body = merge_json(live.decode(), patch)
        rules.check_body(target, body)
        return self._update(target, live, body, self._write(target, manager, "Update"))

    def apply(
        self, target: RequestTarget, config: JsonObject, manager: str, *, force: bool
    ) -> Written:
        """PATCH with ``application/apply-patch+yaml``.

        Raises:
            ApplyConflict: Other managers own fields, and it isn't forced.
            BadRequest: The configuration doesn't fit the URL.
            WriteConflict: There is a UID, and no object.
            ForbiddenTarget: The namespace is terminating.
            InvalidObject: The content breaks a rule, or the UID is that of another object.
            Modified: The resourceVersion isn't the current one.
            NoSuchObject: There is no such namespace, or no object to have the subresource.
        """
        rules.check_body(target, config)
        write = self._write(target, manager, "Apply", force=force)
        live = self._find(target)
        if live is not None:
            return self._update(target, live, config, write)
        if target.subresource:
            raise status.NoSuchObject(target.resource, target.name)
        if uid := config["metadata"].get("uid"):
            raise status.WriteConflict(
                target,
                f"uid mismatch: the provided object specified uid {uid},"
                " and no existing object was found",
            )
        return self._create(target, config, write)

    def delete(self, target: RequestTarget, preconditions: JsonObject) -> Deletion:
        """DELETE.

        Args:
            target: The object.
            preconditions: ``DeleteOptions.preconditions``: ``uid``, ``resourceVersion``.

        Raises:
            DeletePrecondition: A precondition doesn't hold.
            ForbiddenTarget: The namespace can't be deleted.
            NoSuchObject: There is no such object.
        """
        resource = target.resource
        if resource is NAMESPACES and target.name in rules.IMMORTAL_NAMESPACES:
            raise status.ForbiddenTarget(target, "this namespace may not be deleted")
        live = self._find(target)
        if live is None:
            raise status.NoSuchObject(resource, target.name)
        rules.check_preconditions(target, live, preconditions)
        obj = live.decode()
        if not rules.is_terminating(resource, obj):
            return Deletion(self._store.remove(resource, target.key), held=False)
        if obj["metadata"].get("deletionTimestamp"):
            return Deletion(live, held=True)
        obj["metadata"]["deletionTimestamp"] = self._timestamp()
        if generation := obj["metadata"].get("generation"):
            obj["metadata"]["generation"] = generation + 1
        if resource is NAMESPACES:
            obj["status"] = {**obj.get("status", {}), "phase": "Terminating"}
        else:
            obj["metadata"]["deletionGracePeriodSeconds"] = 0
        return Deletion(self._store.put(resource, target.key, obj), held=True)

    def seed(self, target: RequestTarget, obj: JsonObject) -> StoredObject:
        """Store an object as it is, past every rule; what the server would set is filled in."""
        live = self._find(target)
        metadata = dict(obj["metadata"])
        metadata.setdefault("uid", live.uid if live else self._new_uid())
        if "creationTimestamp" not in metadata:
            metadata["creationTimestamp"] = (
                live.decode()["metadata"]["creationTimestamp"] if live else self._timestamp()
            )
        return self._store.put(target.resource, target.key, {**obj, "metadata": metadata})

    def _create(self, target: RequestTarget, body: JsonObject, write: Write) -> Written:
        resource = target.resource
        self._require_namespace(target)
        owned = apply_config(None, body, write) if write.manager.operation == "Apply" else None
        obj = rules.normalise(resource, owned or body)
        if resource.status and not resource.status_on_create:
            obj.pop("status", None)
        if resource is NAMESPACES:
            obj.pop("spec", None)
            obj["status"] = {"phase": "Active"}
        if owned is None:
            obj = update_owners(None, obj, write)
        if resource is NAMESPACES:
            # What the storage layer adds has no owner.
            obj = {**obj, "spec": {"finalizers": ["kubernetes"]}}
        if self._find(target) is not None:
            raise status.AlreadyExists(target)
        metadata = {
            **obj["metadata"],
            "uid": self._new_uid(),
            "creationTimestamp": self._timestamp(),
        }
        if resource.namespaced:
            metadata["namespace"] = target.namespace
        if resource.custom:
            metadata["generation"] = 1
        for name in ("deletionTimestamp", "deletionGracePeriodSeconds"):
            metadata.pop(name, None)
        stored = self._store.put(resource, target.key, {**obj, "metadata": metadata})
        return Written(stored, created=True)

    def _update(
        self, target: RequestTarget, live: StoredObject, body: JsonObject, write: Write
    ) -> Written:
        """Replace, patch or apply: ownership conflicts come first, then preconditions."""
        resource = target.resource
        old = live.decode()
        if write.manager.operation == "Apply":
            new = rules.normalise(resource, apply_config(old, body, write))
        else:
            new = _keep_subresource(target, old, rules.normalise(resource, body))
        rules.check_revision(target, live, body)
        rules.validate_update(resource, old, new)
        if write.manager.operation == "Apply":
            new = _keep_subresource(target, old, new)
        new = _with_generation(target, old, _with_system_metadata(old, new))
        if write.manager.operation == "Update":
            new = update_owners(old, new, write)
        return self._store_update(target, live, new)

    def _store_update(self, target: RequestTarget, live: StoredObject, new: JsonObject) -> Written:
        if _same(new, live.decode()):
            return Written(live)
        deleted = new["metadata"].get("deletionTimestamp")
        if deleted and not rules.is_terminating(target.resource, new):
            # With what held it the object goes: this state of it is answered but never stored.
            self._store.remove(target.resource, target.key)
            return Written(replace(live, body=target.resource.encode(new)))
        return Written(self._store.put(target.resource, target.key, new))

    def _require_namespace(self, target: RequestTarget) -> None:
        if not target.resource.namespaced:
            return
        namespace = self._store.table(NAMESPACES).objects.get(target.namespace)
        if namespace is None:
            raise status.NoSuchObject(NAMESPACES, target.namespace)
        if namespace.decode()["metadata"].get("deletionTimestamp"):
            raise status.ForbiddenTarget(
                target,
                f"unable to create new content in namespace {target.namespace} because it is"
                " being terminated",
                status.StatusCause(
                    "NamespaceTerminating",
                    f"namespace {target.namespace} is being terminated",
                    "metadata.namespace",
                ),
            )

    def _find(self, target: RequestTarget) -> StoredObject | None:
        return self._store.table(target.resource).objects.get(target.key)

    def _write(
        self, target: RequestTarget, manager: str, operation: Any, *, force: bool = False
    ) -> Write:
        who = Manager(manager, operation, target.subresource)
        return Write(target.resource, who, self._timestamp(), force)

    def _timestamp(self) -> str:
        return self._now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def _new_uid(self) -> str:
        return str(UUID(int=self._rng.getrandbits(128), version=4))


def merge_json(value: Any, patch: Any) -> Any:
    """RFC 7396: null removes, objects merge, everything else replaces."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(value) if isinstance(value, dict) else {}
    for key, change in patch.items():
        if change is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_json(merged.get(key), change)
    return merged


def _same(one: JsonObject, other: JsonObject) -> bool:
    """Equal as JSON, where 1 isn't true."""
    sort = orjson.OPT_SORT_KEYS
    return orjson.dumps(one, option=sort) == orjson.dumps(other, option=sort)


def _keep_subresource(target: RequestTarget, old: JsonObject, new: JsonObject) -> JsonObject:
    """What the path of a request may change: status alone, or all but status."""
    resource = target.resource
    if not resource.status:
        return new
    if target.subresource == "status":
        kept = {key: value for key, value in old.items() if key != "status"}
        kept["metadata"] = {**old["metadata"], **_concurrency(resource, new)}
        return kept | ({"status": new["status"]} if "status" in new else {})
    kept = {key: value for key, value in new.items() if key != "status"}
    if resource is NAMESPACES:
        kept["spec"] = old.get("spec", {})
    return kept | ({"status": old["status"]} if "status" in old else {})


def _with_generation(target: RequestTarget, old: JsonObject, new: JsonObject) -> JsonObject:
    """The new state of a custom resource, its generation one up where more than metadata changed.

    What is written through the status path counts no more than metadata does.
    """
    if not target.resource.custom or target.subresource or _same(_content(old), _content(new)):
        return new
    generation = old["metadata"].get("generation", 0) + 1
    return {**new, "metadata": {**new["metadata"], "generation": generation}}


def _content(obj: JsonObject) -> JsonObject:
    return {key: value for key, value in obj.items() if key != "metadata"}


def _concurrency(resource: ServedResource, new: JsonObject) -> JsonObject:
    """The preconditions and owners that a status write carries in its metadata.

    That of a custom resource is held to its revision alone: another UID goes unnoticed.
    """
    names = ("managedFields",) if resource.custom else ("uid", "managedFields")
    return {name: new["metadata"][name] for name in names if name in new["metadata"]}


def _with_system_metadata(old: JsonObject, new: JsonObject) -> JsonObject:
    """The object with what only the server may set taken from the live one."""
    metadata = dict(new["metadata"])
    for name in (*_KEPT_FROM_LIVE, "namespace", "resourceVersion"):
        metadata.pop(name, None)
        if name in old["metadata"]:
            metadata[name] = old["metadata"][name]
    return {**new, "apiVersion": old["apiVersion"], "kind": old["kind"], "metadata": metadata}
