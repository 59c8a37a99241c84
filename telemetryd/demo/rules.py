"""What each kind accepts: the defaults and the validation that the real server applies.

Pure functions over decoded objects; wording measured on kube-apiserver 1.37.2. Only what telemetryd
or its tests can run into is here: names, finalizers, Secrets, Namespaces.
"""

import base64
import binascii
import re

from telemetryd.demo import status
from telemetryd.demo.resources import NAMESPACES, SECRETS, JsonObject, Resource
from telemetryd.demo.status import Cause

MAX_SECRET_BYTES = 1 << 20
IMMORTAL_NAMESPACES = frozenset({"default", "kube-public", "kube-system"})

_SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_NAME = re.compile(_SUBDOMAIN)
_CONFIG_KEY = re.compile(r"[-._a-zA-Z0-9]+")
_FINALIZER = re.compile(rf"{_SUBDOMAIN}/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_STANDARD_FINALIZERS = frozenset({"kubernetes", "orphan", "foregroundDeletion"})
_SECRET_FIELDS = ("data", "immutable", "type")
_DROPPED_WHEN_EMPTY = ("annotations", "finalizers", "labels", "ownerReferences")
_IMMUTABLE = "Forbidden: field is immutable when `immutable` is set"


def normalise(resource: Resource, obj: JsonObject) -> JsonObject:
    """The object as the real server's types would hold it: defaults set, empties dropped.

    Raises:
        BadRequest: It doesn't fit the types.
    """
    metadata = {
        key: value
        for key, value in obj["metadata"].items()
        if value is not None and (value or key not in _DROPPED_WHEN_EMPTY)
    }
    obj = {**obj, "metadata": metadata}
    if resource is SECRETS:
        return _normalise_secret(obj)
    return obj


def validate(resource: Resource, obj: JsonObject) -> None:
    """Check an object as it is to be stored.

    Raises:
        Invalid: Naming every field that is wrong.
    """
    causes = [*_name_causes(obj["metadata"]), *_finalizer_causes(obj["metadata"])]
    if resource is SECRETS:
        causes += _secret_causes(obj)
    if causes:
        raise status.Invalid(resource, obj["metadata"].get("name", ""), causes)


def validate_update(resource: Resource, old: JsonObject, new: JsonObject) -> None:
    """Check a change of an existing object.

    Raises:
        Invalid: Naming every field that may not change like this.
    """
    causes: list[Cause] = []
    if new["metadata"].get("uid", old["metadata"]["uid"]) != old["metadata"]["uid"]:
        uid = new["metadata"]["uid"]
        causes.append(
            Cause(
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
            causes.append(Cause("FieldValueForbidden", text, "metadata.finalizers"))
    if resource is SECRETS:
        causes += _secret_update_causes(old, new)
    if causes:
        raise status.Invalid(resource, old["metadata"]["name"], causes)


def is_terminating(resource: Resource, obj: JsonObject) -> bool:
    """Whether something still holds a deleted object."""
    held = bool(obj["metadata"].get("finalizers"))
    if resource is NAMESPACES:
        held = held or bool(obj.get("spec", {}).get("finalizers"))
    return held


def _name_causes(metadata: JsonObject) -> list[Cause]:
    name = metadata.get("name", "")
    if not name:
        message = "Required value: name or generateName is required"
        return [Cause("FieldValueRequired", message, "metadata.name")]
    if _NAME.fullmatch(name):
        return []
    message = (
        f'Invalid value: "{name}": a lowercase RFC 1123 subdomain must consist of lower case'
        " alphanumeric characters, '-' or '.', and must start and end with an alphanumeric"
        f" character (e.g. 'example.com', regex used for validation is '{_SUBDOMAIN}')"
    )
    return [Cause("FieldValueInvalid", message, "metadata.name")]


def _finalizer_causes(metadata: JsonObject) -> list[Cause]:
    return [
        Cause(
            "FieldValueInvalid",
            f'Invalid value: "{item}": name is neither a standard finalizer name nor is it fully'
            " qualified",
            f"metadata.finalizers[{index}]",
        )
        for index, item in enumerate(metadata.get("finalizers", []))
        if item not in _STANDARD_FINALIZERS and not _FINALIZER.fullmatch(item)
    ]


def _normalise_secret(obj: JsonObject) -> JsonObject:
    data: dict[str, str] = {}
    for key, value in (obj.get("data") or {}).items():
        try:
            data[key] = value or ""
            base64.b64decode(data[key], validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise status.BadRequest(
                'Secret in version "v1" cannot be handled as a Secret: v1.Secret.Data:'
                f" decode base64: illegal base64 data in key {key}"
            ) from None
    for key, value in (obj.get("stringData") or {}).items():
        data[key] = base64.b64encode(str(value).encode()).decode()
    secret = {key: obj[key] for key in ("apiVersion", "kind", "metadata")}
    fields = {**obj, "data": data, "type": obj.get("type") or "Opaque"}
    kept = {key: fields.get(key) for key in _SECRET_FIELDS}
    return secret | {key: value for key, value in kept.items() if value not in (None, {})}


def _secret_causes(obj: JsonObject) -> list[Cause]:
    data: dict[str, str] = obj.get("data", {})
    causes = [
        Cause(
            "FieldValueInvalid",
            f'Invalid value: "{key}": a valid config key must consist of alphanumeric characters,'
            " '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for"
            f" validation is '{_CONFIG_KEY.pattern}')",
            f"data[{key}]",
        )
        for key in data
        if not _CONFIG_KEY.fullmatch(key)
    ]
    if sum(len(base64.b64decode(value)) for value in data.values()) > MAX_SECRET_BYTES:
        message = f"Too long: must have at most {MAX_SECRET_BYTES} bytes"
        causes.append(Cause("FieldValueTooLong", message, "data"))
    return causes


def _secret_update_causes(old: JsonObject, new: JsonObject) -> list[Cause]:
    causes = []
    if old["type"] != new["type"]:
        message = f'Invalid value: "{new["type"]}": field is immutable'
        causes.append(Cause("FieldValueInvalid", message, "type"))
    if old.get("immutable"):
        if not new.get("immutable"):
            causes.append(Cause("FieldValueForbidden", _IMMUTABLE, "immutable"))
        if old.get("data") != new.get("data"):
            causes.append(Cause("FieldValueForbidden", _IMMUTABLE, "data"))
    return causes
