"""The fields of a Secret that are read and written.

The parser skips other data keys, labels and annotations: they can't leak from here.
"""

from binascii import b2a_base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from telemetryd.export.payloads.payload import parse_rfc3339
from telemetryd.kube.objects import FIELD_MANAGER
from telemetryd.kube.responses import printable


class SecretAnnotations(msgspec.Struct, frozen=True, gc=False):
    """Our own annotations."""

    part_of: str | None = msgspec.field(name="scc.cattle.io/part-of", default=None)
    last_changed: str | None = msgspec.field(name="scc.cattle.io/last-changed", default=None)
    digest: str | None = msgspec.field(name="telemetryd/digest", default=None)
    epoch: str | None = msgspec.field(name="telemetryd/epoch", default=None)


class _Present(msgspec.Struct, gc=False):
    pass


class _OwnedPayload(msgspec.Struct, gc=False):
    payload: _Present | None = msgspec.field(name="f:payload", default=None)


class _OwnedSecretAnnotations(msgspec.Struct, gc=False):
    part_of: _Present | None = msgspec.field(name="f:scc.cattle.io/part-of", default=None)
    digest: _Present | None = msgspec.field(name="f:telemetryd/digest", default=None)


class _OwnedSecretMetadata(msgspec.Struct, gc=False):
    annotations: _OwnedSecretAnnotations | None = msgspec.field(name="f:annotations", default=None)


class _OwnedSecretFields(msgspec.Struct, gc=False):
    data: _OwnedPayload | None = msgspec.field(name="f:data", default=None)
    metadata: _OwnedSecretMetadata | None = msgspec.field(name="f:metadata", default=None)


class _ManagedFields(msgspec.Struct, gc=False):
    manager: str | None = None
    operation: str | None = None
    time: str | None = None
    fieldsV1: _OwnedSecretFields | None = None  # noqa: N815 - the field's name in JSON


class _SecretMetadata(msgspec.Struct, gc=False):
    uid: str
    resourceVersion: str  # noqa: N815 - the field's name in JSON
    annotations: SecretAnnotations | None = None
    managedFields: list[_ManagedFields] | None = None  # noqa: N815 - the field's name in JSON
    ownerReferences: list[_Present] | None = None  # noqa: N815 - the field's name in JSON


class _Data(msgspec.Struct, gc=False):
    payload: bytes | None = None


class _PayloadAlone(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    payload: msgspec.Raw = msgspec.Raw()


class _SecretObject(msgspec.Struct, gc=False):
    metadata: _SecretMetadata
    type: str | None = None
    immutable: bool | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")


class _Subscription(msgspec.Struct, gc=False):
    installuuid: str
    clusteruuid: str
    product: str


class _SccPayload(msgspec.Struct, gc=False):
    """Rancher writes an empty list as null."""

    subscription: _Subscription
    managedSystems: list[_Present] | None  # noqa: N815 - the key's name in JSON
    managedClusters: list[_Present] | None  # noqa: N815 - the key's name in JSON
    timestamp: str


class _FleetPayload(msgspec.Struct, gc=False):
    telemetryd_version: str
    installation: _Present
    totals: _Present
    delivery: _Present


_DECODER = msgspec.json.Decoder(_SecretObject)
_DATA = msgspec.json.Decoder(_Data | None)
_PAYLOAD_ALONE = msgspec.json.Decoder(_PayloadAlone | None)
_TELEMETRY = (msgspec.json.Decoder(_SccPayload), msgspec.json.Decoder(_FleetPayload))
_MOST_DIGITS = 10
"""Of an epoch, which is an int32."""


@dataclass(frozen=True, slots=True)
class OtherWriter:
    """Another field manager that owns ``data.payload``.

    Attributes:
        at: When it last wrote, Unix time in seconds; None where the API server doesn't say.
    """

    manager: str
    at: float | None


@dataclass(frozen=True, slots=True)
class FoundSecret:
    """A Secret as it was read.

    Attributes:
        payload: ``data.payload``, decoded; None where it has none.
        ours: We own ``data.payload``: we were the last to write it.
        made: We own the payload or an annotation of ours, or nothing is left of anyone, as where a
            clean-up was cut off. Annotations that somebody has copied to another Secret don't
            count.
        alone: It holds no data but a payload, and no owner references.
        shared: Others have written to it too.
        others: Who else owns the payload.
    """

    uid: str
    resource_version: str
    type: str
    immutable: bool
    payload: bytes | None
    annotations: SecretAnnotations
    ours: bool
    made: bool
    alone: bool
    shared: bool
    others: tuple[OtherWriter, ...]

    @property
    def epoch(self) -> int:
        """The leadership epoch it was last written under, 0 where it names none."""
        text = self.annotations.epoch or ""
        return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else 0

    @property
    def telemetry(self) -> bool:
        """Whether the payload reads as one of ours, of any version, or of Rancher's own."""
        return any(_fits(decoder, self.payload or b"") for decoder in _TELEMETRY)


def parse_secret(body: bytes) -> FoundSecret:
    """A Secret's JSON to what is needed of it.

    Raises:
        msgspec.MsgspecError: It isn't one.
    """
    secret = _DECODER.decode(body)
    data = _DATA.decode(secret.data)
    managed = secret.metadata.managedFields or []
    owners = [entry for entry in managed if _owns_payload(entry)]
    applied = [
        entry for entry in managed if (entry.manager, entry.operation) == (FIELD_MANAGER, "Apply")
    ]
    ours = [entry for entry in owners if entry in applied]
    alone = not secret.metadata.ownerReferences and _fits(_PAYLOAD_ALONE, secret.data)
    return FoundSecret(
        uid=secret.metadata.uid,
        resource_version=secret.metadata.resourceVersion,
        type=printable(secret.type or ""),
        immutable=bool(secret.immutable),
        payload=None if data is None else data.payload,
        annotations=secret.metadata.annotations or SecretAnnotations(),
        ours=bool(ours),
        made=bool(ours)
        or any(_owns_annotation(entry) for entry in applied)
        or (alone and not managed and (data is None or data.payload is None)),
        alone=alone,
        shared=len(applied) < len(managed),
        others=tuple(
            OtherWriter(printable(entry.manager or ""), parse_rfc3339(entry.time or ""))
            for entry in owners
            if entry not in ours
        ),
    )


def render_secret(
    namespace: str, name: str, payload: bytes, annotations: Mapping[str, str]
) -> Mapping[str, Any]:
    """The Secret as it is applied: just our fields."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace, "annotations": annotations},
        "type": "Opaque",
        "data": {"payload": b2a_base64(payload, newline=False).decode()},
    }


def _owns_payload(entry: _ManagedFields) -> bool:
    fields = entry.fieldsV1
    return fields is not None and fields.data is not None and fields.data.payload is not None


def _owns_annotation(entry: _ManagedFields) -> bool:
    fields = entry.fieldsV1
    owned = fields.metadata.annotations if fields is not None and fields.metadata else None
    return owned is not None and (owned.part_of is not None or owned.digest is not None)


def _fits(decoder: "msgspec.json.Decoder[Any]", body: bytes | msgspec.Raw) -> bool:
    try:
        decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return False
    return True
