"""The allow-list for SecretRequests (``telemetry.cattle.io/v1``), and who wrote a status last.

The API server records writers in ``metadata.managedFields``. Where it doesn't, the content shows:
Rancher's controller leaves ``lastTransitionTime`` out of its conditions.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from telemetryd.bounds import CONDITION_CHARS, free_text, identifier, version
from telemetryd.errors import UnreadableObject, UnreadableReason
from telemetryd.informer.resource import KubeObject, ObjectMeta, Resource
from telemetryd.kube.objects import FIELD_MANAGER, UNPARSABLE, decode_or_none
from telemetryd.model import ConditionRecord, OtherController, SecretRequestRecord

OWN_CONDITIONS: Final = ("Progressing", "Done", "Failure")
"""Types of the conditions that a controller writes; ``Ready`` is declared, but never set."""

MAX_CONDITIONS: Final = 1000
"""Objects in a status; one with more is read as empty."""

MAX_SPEC_BYTES: Final = 16_384
"""Of a spec's JSON; three names have under 600 bytes."""

MAX_OWNERS_BYTES: Final = 64 << 10
"""Of ``managedFields``; longer ones are not read."""

UNNAMED: Final = "another controller"


class _SecretRequestMeta(ObjectMeta, gc=False, rename="camel"):
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    managed_fields: msgspec.Raw = msgspec.Raw()


class _TargetRef(msgspec.Struct, gc=False):
    name: str | None = None
    namespace: str | None = None


class RequestSpec(msgspec.Struct, gc=False, rename="camel"):
    """``spec`` of a SecretRequest."""

    secret_type: str | None = None
    target_secret_ref: _TargetRef | None = None


class RequestCondition(msgspec.Struct, gc=False, rename="camel"):
    """One entry of ``status.conditions``."""

    type: str | None = None
    status: str | None = None
    reason: str | None = None
    message: str | None = None
    last_update_time: str | None = None
    last_transition_time: str | None = None


class SecretRequestStatus(msgspec.Struct, gc=False):
    """``status`` of a SecretRequest."""

    conditions: list[RequestCondition] | None = None


class RequestObject(KubeObject, gc=False):
    """What is read of secretrequests.telemetry.cattle.io.

    Spec and status are ``Raw``: a wrong type in the spec makes a request invalid, not unreadable,
    and in the status neither.
    """

    metadata: _SecretRequestMeta | None = None
    spec: msgspec.Raw = msgspec.Raw()
    status: msgspec.Raw = msgspec.Raw()


_SPEC = msgspec.json.Decoder(RequestSpec | None)
_STATUS = msgspec.json.Decoder(SecretRequestStatus | None)


def project_request(_key: str, request: RequestObject) -> SecretRequestRecord:
    """The record of a SecretRequest.

    Raises:
        UnreadableObject: It has no UID.
    """
    metadata = request.metadata
    if metadata is None or not metadata.uid:
        raise UnreadableObject(UnreadableReason.MISSING, "metadata.uid is missing")
    spec, spec_error = _read_spec(request.spec)
    target = spec.target_secret_ref or _TargetRef()
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
        other=other_controller(metadata.managed_fields, conditions),
    )


def other_of(managed_fields: msgspec.Raw, status: msgspec.Raw) -> OtherController | None:
    """The ``other`` of the record of a request with these."""
    conditions = own_conditions(_read_status(status).conditions or ())
    return other_controller(managed_fields, conditions)


def _clean(text: str | None) -> str:
    """A text of the spec as it may be shown: a name with a ``?`` in it stays a wrong one."""
    return "".join(char if char.isprintable() else "?" for char in version(text))


def own_conditions(
    conditions: Sequence[RequestCondition],
) -> tuple[ConditionRecord, ...]:
    """Those of ``OWN_CONDITIONS`` in these conditions, in that order."""
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
    except UNPARSABLE as error:
        return RequestSpec(), free_text(str(error))


def _read_status(raw: msgspec.Raw) -> SecretRequestStatus:
    # One that another controller wrote in another form is read as empty, and written again.
    readable = bytes(raw).count(b"{") <= MAX_CONDITIONS
    return (decode_or_none(_STATUS, raw) if readable else None) or SecretRequestStatus()


SECRET_REQUESTS: Final = Resource(
    group="telemetry.cattle.io",
    version="v1",
    plural="secretrequests",
    kind="SecretRequest",
    namespaced=False,
    object_type=RequestObject,
    project=project_request,
)


class _WrittenStatus(msgspec.Struct, gc=False):
    """``conditions`` has a key for each item if the list is a map by type, otherwise none."""

    conditions: dict[str, msgspec.Raw] | None = msgspec.field(name="f:conditions", default=None)
    last_sync: msgspec.Raw = msgspec.field(name="f:lastSyncTS", default=msgspec.Raw())


class _WrittenFields(msgspec.Struct, gc=False):
    status: _WrittenStatus | None = msgspec.field(name="f:status", default=None)


class _Writer(msgspec.Struct, gc=False):
    manager: str | None = None
    subresource: str | None = None
    time: str | None = None
    fieldsV1: _WrittenFields | None = None  # noqa: N815 - the field's name in JSON

    @property
    def syncs(self) -> bool:
        """It wrote ``lastSyncTS`` last."""
        status = self.fieldsV1.status if self.fieldsV1 is not None else None
        return self.subresource == "status" and status is not None and bool(status.last_sync)

    @property
    def serves(self) -> bool:
        """It wrote anything that only a controller of SecretRequests writes."""
        status = self.fieldsV1.status if self.fieldsV1 is not None else None
        if self.subresource != "status" or status is None or status.conditions is None:
            return self.syncs
        listed = status.conditions
        return self.syncs or not listed or any(key in listed for key in _CONDITION_KEYS)


_CONDITION_KEYS: Final = tuple(f'k:{{"type":"{kind}"}}' for kind in OWN_CONDITIONS)
_OWNERS = msgspec.json.Decoder(list[_Writer] | None)


def other_controller(
    managed_fields: msgspec.Raw, conditions: Sequence[ConditionRecord]
) -> OtherController | None:
    """The controller other than telemetryd that wrote a status last, if any.

    A write of the same second as ours counts, and so does a ``lastSyncTS`` that isn't ours: the
    clocks of API servers differ.
    """
    readable = memoryview(managed_fields).nbytes <= MAX_OWNERS_BYTES
    read = (decode_or_none(_OWNERS, managed_fields) if readable else None) or []
    owners = [owner for owner in read if owner.serves]
    if not owners:
        return _by_content(conditions)
    ours = max((each.time or "" for each in owners if each.manager == FIELD_MANAGER), default="")
    others = [each for each in owners if each.manager != FIELD_MANAGER]
    later = [each for each in others if each.syncs or (each.time or "") >= ours]
    if not later:
        return None
    last = max(later, key=lambda owner: owner.time or "")
    return OtherController(identifier(last.manager or "") or UNNAMED, identifier(last.time or ""))


def _by_content(conditions: Sequence[ConditionRecord]) -> OtherController | None:
    theirs = [each.last_update_time for each in conditions if not each.last_transition_time]
    return OtherController(UNNAMED, max(theirs)) if theirs else None
