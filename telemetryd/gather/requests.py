"""The allow-list for SecretRequests (``telemetry.cattle.io/v1``): what is read of each.

What a request is entitled to, and what is written into its status, is ``control``'s.
"""

from typing import Final

import msgspec

from telemetryd.bounds import CONDITION_CHARS, free_text, identifier, version
from telemetryd.errors import UnreadableObject, UnreadableReason
from telemetryd.gather.lastwriter import other_controller
from telemetryd.informer.resource import KubeObject, ObjectMeta, Resource
from telemetryd.model import ConditionRecord, OtherController, SecretRequestRecord

OWN_CONDITIONS: Final = ("Progressing", "Done", "Failure")
"""Types of the conditions that whoever serves requests writes; ``Ready`` is declared, never set."""


MAX_CONDITIONS: Final = 1000
"""And other objects in a status; one with more is read as no status."""

MAX_SPEC_BYTES: Final = 16_384
"""Of a spec's JSON; three names have under 600 bytes."""


class RequestMeta(ObjectMeta, gc=False, rename="camel"):
    """``metadata`` of a SecretRequest."""

    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    managed_fields: msgspec.Raw = msgspec.Raw()


class TargetRef(msgspec.Struct, gc=False):
    """``spec.targetSecretRef``."""

    name: str | None = None
    namespace: str | None = None


class RequestSpec(msgspec.Struct, gc=False, rename="camel"):
    """``spec`` of a SecretRequest."""

    secret_type: str | None = None
    target_secret_ref: TargetRef | None = None


class Condition(msgspec.Struct, gc=False, rename="camel"):
    """One entry of ``status.conditions``."""

    type: str | None = None
    status: str | None = None
    reason: str | None = None
    message: str | None = None
    last_update_time: str | None = None
    last_transition_time: str | None = None


class RequestStatus(msgspec.Struct, gc=False):
    """``status`` of a SecretRequest."""

    conditions: list[Condition] | None = None


class RequestObject(KubeObject, gc=False):
    """What is read of secretrequests.telemetry.cattle.io.

    Spec and status are ``Raw``: a wrong type in the spec makes a request invalid, not unreadable,
    and none in the status makes it either.
    """

    metadata: RequestMeta | None = None
    spec: msgspec.Raw = msgspec.Raw()
    status: msgspec.Raw = msgspec.Raw()


_SPEC = msgspec.json.Decoder(RequestSpec | None)
_STATUS = msgspec.json.Decoder(RequestStatus | None)


def project_request(_key: str, request: RequestObject) -> SecretRequestRecord:
    """A SecretRequest to its record.

    Raises:
        UnreadableObject: It has no UID.
    """
    metadata = request.metadata
    if metadata is None or not metadata.uid:
        raise UnreadableObject(UnreadableReason.MISSING, "metadata.uid is missing")
    spec, spec_error = _read_spec(request.spec)
    target = spec.target_secret_ref or TargetRef()
    conditions = own_conditions(_read_status(request.status).conditions or ())
    return SecretRequestRecord(
        uid=metadata.uid,
        created_at=identifier(metadata.creation_timestamp or ""),
        deleting=bool(metadata.deletion_timestamp),
        spec_error=spec_error,
        secret_type=_clean(spec.secret_type),
        has_target=spec.target_secret_ref is not None,
        namespace=_clean(target.namespace),
        secret=_clean(target.name),
        conditions=conditions,
        other=other_controller(metadata.managed_fields, conditions, OWN_CONDITIONS),
    )


def other_of(managed_fields: msgspec.Raw, status: msgspec.Raw) -> OtherController | None:
    """The ``other`` of the record of a request with these."""
    conditions = own_conditions(_read_status(status).conditions or ())
    return other_controller(managed_fields, conditions, OWN_CONDITIONS)


def _clean(text: str | None) -> str:
    """A text of the spec as it may be shown: a name with a ``?`` in it stays a wrong one."""
    return "".join(char if char.isprintable() else "?" for char in version(text))


def own_conditions(
    conditions: "list[Condition] | tuple[Condition, ...]",
) -> tuple[ConditionRecord, ...]:
    """Of the conditions those that are ours, in the order of their types."""
    by_type = {condition.type: condition for condition in conditions}
    return tuple(
        ConditionRecord(
            type=kind,
            status=identifier(found.status or ""),
            reason=free_text(found.reason or ""),
            message=free_text(found.message or "", CONDITION_CHARS),
            last_update_time=identifier(found.last_update_time or ""),
            last_transition_time=identifier(found.last_transition_time or ""),
        )
        for kind in OWN_CONDITIONS
        if (found := by_type.get(kind)) is not None
    )


def _read_spec(raw: msgspec.Raw) -> tuple[RequestSpec, str]:
    """The spec, and why it can't be read; the error's text names a path and types, no value."""
    if not raw:
        return RequestSpec(), ""
    size = memoryview(raw).nbytes
    if size > MAX_SPEC_BYTES:
        return RequestSpec(), f"it has {size} bytes, {MAX_SPEC_BYTES} at most"
    try:
        return _SPEC.decode(raw) or RequestSpec(), ""
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        return RequestSpec(), free_text(str(error))


def _read_status(raw: msgspec.Raw) -> RequestStatus:
    if not raw or bytes(raw).count(b"{") > MAX_CONDITIONS:
        return RequestStatus()
    try:
        return _STATUS.decode(raw) or RequestStatus()
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        # Somebody else's writing: it is read as no status, and written anew.
        return RequestStatus()


SECRET_REQUESTS: Final = Resource(
    group="telemetry.cattle.io",
    version="v1",
    plural="secretrequests",
    kind="SecretRequest",
    namespaced=False,
    object_type=RequestObject,
    project=project_request,
)
