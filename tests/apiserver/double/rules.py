"""What a write must bring along, and what each kind accepts.

Pure functions over decoded objects; wording measured on kube-apiserver 1.37.2. Only what telemetryd
or its tests can run into is here.
"""

import base64

from tests.apiserver.double import status
from tests.apiserver.double.objects import StoredObject
from tests.apiserver.double.resources import (
    NAMESPACES,
    SECRETS,
    JsonObject,
    RequestTarget,
    ServedResource,
)
from tests.apiserver.double.status import StatusCause

IMMORTAL_NAMESPACES = frozenset({"default", "kube-public", "kube-system"})

_SECRET_FIELDS = ("data", "immutable", "type")
_DROPPED_WHEN_EMPTY = ("annotations", "finalizers", "labels", "ownerReferences")
_IMMUTABLE = "Forbidden: field is immutable when `immutable` is set"
_ALWAYS = ("apiVersion", "kind", "metadata")


def complete(resource: ServedResource, body: JsonObject) -> JsonObject:
    """A body with what may be left out of it: its type, and metadata."""
    given = {key: value for key, value in body.items() if value or key not in _ALWAYS}
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {}, **given}


def check_body(target: RequestTarget, body: JsonObject, *, posted: bool = False) -> None:
    """Type and identity of a body against the URL.

    Raises:
        BadRequest: They don't fit together.
    """
    resource, metadata = target.resource, body.get("metadata")
    if not isinstance(metadata, dict):
        raise status.BadRequest("metadata must be an object")
    if (body.get("apiVersion"), body.get("kind")) != (resource.api_version, resource.kind):
        raise status.BadRequest(f"the object must be a {resource.kind} of {resource.api_version}")
    name = metadata.get("name")
    if not name or (not posted and name != target.name):
        raise status.BadRequest(
            f"the name of the object ({name}) does not match the name on the URL ({target.name})"
        )
    if metadata.get("namespace") not in {None, "", target.namespace}:
        raise status.BadRequest(
            "the namespace of the provided object does not match the namespace sent on the request"
        )


def check_preconditions(
    target: RequestTarget, live: StoredObject, preconditions: JsonObject
) -> None:
    """What DELETE makes a condition.

    Raises:
        DeletePrecondition: The UID or the resourceVersion is another one.
    """
    uid, revision = preconditions.get("uid"), preconditions.get("resourceVersion")
    if uid and uid != live.uid:
        raise status.DeletePrecondition(target, "UID", uid, live.uid, "deleted and then recreated")
    if revision and revision != str(live.revision):
        raise status.DeletePrecondition(
            target, "ResourceVersion", revision, str(live.revision), "modified"
        )


def revision(body: JsonObject) -> int:
    """The resourceVersion a body asks for, 0 where it asks for none.

    Raises:
        InternalError: It is no number; the real server answers so.
    """
    text = body["metadata"].get("resourceVersion") or "0"
    if not text.isdecimal():
        raise status.InternalError(f'strconv.ParseUint: parsing "{text}": invalid syntax')
    return int(text)


def check_revision(target: RequestTarget, live: StoredObject, body: JsonObject) -> None:
    """The resourceVersion of a body, where it has one, against the live object.

    Raises:
        Modified: It is another one.
    """
    if revision(body) not in {0, live.revision}:
        raise status.Modified(target)


def normalise(resource: ServedResource, obj: JsonObject) -> JsonObject:
    """The object as the real server's types would hold it: defaults set, empties dropped."""
    metadata = {
        key: value
        for key, value in obj["metadata"].items()
        if value is not None and (value or key not in _DROPPED_WHEN_EMPTY)
    }
    obj = {**obj, "metadata": metadata}
    if resource is SECRETS:
        return _normalise_secret(obj)
    return obj


def validate_update(resource: ServedResource, old: JsonObject, new: JsonObject) -> None:
    """Check a change of an existing object.

    Raises:
        InvalidObject: Naming every field that may not change like this.
    """
    causes: list[StatusCause] = []
    if new["metadata"].get("uid", old["metadata"]["uid"]) != old["metadata"]["uid"]:
        uid = new["metadata"]["uid"]
        causes.append(
            StatusCause(
                "FieldValueInvalid", f'Invalid value: "{uid}": field is immutable', "metadata.uid"
            )
        )
    if old["metadata"].get("deletionTimestamp"):
        held = old["metadata"].get("finalizers", [])
        added = [item for item in new["metadata"].get("finalizers", []) if item not in held]
        if added:
            listed = ", ".join(f'"{item}"' for item in sorted(added))
            text = (
                "Forbidden: no new finalizers can be added if the object is being deleted,"
                f" found new finalizers []string{{{listed}}}"
            )
            causes.append(StatusCause("FieldValueForbidden", text, "metadata.finalizers"))
    if resource is SECRETS:
        causes += _secret_update_causes(old, new)
    if causes:
        raise status.InvalidObject(resource, old["metadata"]["name"], causes)


def is_terminating(resource: ServedResource, obj: JsonObject) -> bool:
    """Whether something still holds a deleted object."""
    held = bool(obj["metadata"].get("finalizers"))
    if resource is NAMESPACES:
        held = held or bool(obj.get("spec", {}).get("finalizers"))
    return held


def _normalise_secret(obj: JsonObject) -> JsonObject:
    data: dict[str, str] = {}
    for key, value in (obj.get("data") or {}).items():
        data[key] = value or ""
    for key, value in (obj.get("stringData") or {}).items():
        data[key] = base64.b64encode(str(value).encode()).decode()
    secret = {key: obj[key] for key in ("apiVersion", "kind", "metadata")}
    fields = {**obj, "data": data, "type": obj.get("type") or "Opaque"}
    kept = {key: fields.get(key) for key in _SECRET_FIELDS}
    return secret | {key: value for key, value in kept.items() if value not in (None, {})}


def _secret_update_causes(old: JsonObject, new: JsonObject) -> list[StatusCause]:
    causes = []
    if old["type"] != new["type"]:
        message = f'Invalid value: "{new["type"]}": field is immutable'
        causes.append(StatusCause("FieldValueInvalid", message, "type"))
    if old.get("immutable"):
        if not new.get("immutable"):
            causes.append(StatusCause("FieldValueForbidden", _IMMUTABLE, "immutable"))
        if old.get("data") != new.get("data"):
            causes.append(StatusCause("FieldValueForbidden", _IMMUTABLE, "data"))
    return causes
