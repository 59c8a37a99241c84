"""What a write must bring along: the type, identity and preconditions of its body.

Raises the answers of kube-apiserver 1.37.2; what a kind accepts as content is ``rules``'s.
"""

from dataclasses import replace

from telemetryd.demo import status
from telemetryd.demo.objects import StoredObject
from telemetryd.demo.resources import SECRETS, JsonObject, Resource, Target

_ALWAYS = ("apiVersion", "kind", "metadata")
_SECRET_FIELDS = frozenset(
    {"apiVersion", "kind", "metadata", "data", "stringData", "immutable", "type"}
)


def complete(resource: Resource, body: JsonObject) -> JsonObject:
    """A body as it is decoded: built-in kinds know their type themselves, custom ones don't.

    Raises:
        BadRequest: A custom resource without a kind.
        InternalError: One without an apiVersion; the real server answers so.
    """
    if resource.custom and not body.get("kind"):
        raise status.BadRequest(
            f'{resource.kind} in version "{resource.version}" cannot be handled as a'
            f" {resource.kind}: Object 'Kind' is missing"
        )
    if resource.custom and not body.get("apiVersion"):
        raise status.InternalError("Object 'apiVersion' is missing")
    given = {key: value for key, value in body.items() if value or key not in _ALWAYS}
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {}, **given}


def check_body(target: Target, body: JsonObject, *, posted: bool = False) -> None:
    """Type and identity of a body against the URL.

    Raises:
        BadRequest: They don't fit together.
        Invalid: A custom resource of another kind.
    """
    resource = target.resource
    metadata = body.get("metadata")
    if not isinstance(metadata, dict):
        raise status.BadRequest("metadata must be an object")
    _check_type(resource, body, metadata)
    name, namespace = metadata.get("name", ""), metadata.get("namespace", "")
    if not posted:
        _check_name(target, name)
    if namespace and namespace != target.namespace:
        raise status.BadRequest(
            "the namespace of the provided object does not match the namespace sent on the request"
            if posted
            else f"the namespace of the object ({namespace}) does not match the namespace on the"
            f" request ({target.namespace})"
        )


def _check_name(target: Target, name: str) -> None:
    if not name:
        raise status.BadRequest(
            f"the name of the object ({target.name} based on URL) was undeterminable: name must be"
            " provided"
        )
    if name != target.name:
        raise status.BadRequest(
            f"the name of the object ({name}) does not match the name on the URL ({target.name})"
        )


def _check_type(resource: Resource, body: JsonObject, metadata: JsonObject) -> None:
    api_version = body.get("apiVersion", resource.api_version)
    kind = body.get("kind", resource.kind)
    if api_version != resource.api_version:
        raise status.BadRequest(
            f"the API version in the data ({api_version}) does not match the expected API version"
            f" ({resource.api_version})"
        )
    if kind == resource.kind:
        return
    if not resource.custom:
        raise status.BadRequest(
            f'{kind} in version "{api_version}" cannot be handled as a {resource.kind}'
        )
    cause = status.Cause(
        "FieldValueInvalid", f'Invalid value: "{kind}": must be {resource.kind}', "kind"
    )
    # The real server blames the kind that was given.
    raise status.Invalid(replace(resource, kind=kind), metadata.get("name", ""), [cause])


def check_config(target: Target, config: JsonObject) -> None:
    """What an apply configuration needs beyond a body.

    Raises:
        BadRequest: Another version, another name, or managedFields.
        InternalError: No kind, or a field that the schema doesn't have.
    """
    expected, given = target.resource.api_version, config.get("apiVersion", "")
    if given != expected:
        raise status.BadRequest(
            f"Incorrect version specified in apply patch. Specified patch version: {given},"
            f" expected: {expected}"
        )
    if not config.get("kind"):
        raise status.InternalError(
            "failed to create typed patch object: no corresponding type for"
            f" {target.resource.group}/{target.resource.version}, Kind="
        )
    check_body(target, config)
    if config["metadata"].get("managedFields") is not None:
        raise status.BadRequest("metadata.managedFields must be nil")
    unknown = sorted(set(config) - _SECRET_FIELDS) if target.resource is SECRETS else []
    if unknown:
        raise status.InternalError(
            f"failed to create typed patch object: .{unknown[0]}: field not declared in schema"
        )


def check_preconditions(target: Target, live: StoredObject, preconditions: JsonObject) -> None:
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


def check_revision(target: Target, live: StoredObject, body: JsonObject) -> None:
    """The resourceVersion of a body, where it has one, against the live object.

    Raises:
        Modified: It is another one.
    """
    if revision(body) not in {0, live.revision}:
        raise status.Modified(target)
