"""The fields of a Secret that are read and written, and the other writers of its payload.

The parser skips other data keys, labels and annotations: they can't leak from here.
"""

import re
from binascii import b2a_base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

import msgspec

from telemetryd.errors import Conflict, ConflictError, Reason
from telemetryd.export.payloads.payload import parse_rfc3339
from telemetryd.kube.objects import FIELD_MANAGER, UNPARSABLE
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
        written_at: When ``data.payload`` was last written, Unix time in seconds by the API server's
            clock; None where it doesn't say.
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
    written_at: float | None

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
    times = (parse_rfc3339(entry.time or "") for entry in owners)
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
        written_at=max((time for time in times if time is not None), default=None),
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
    except UNPARSABLE:
        return False
    return True


MAX_FORCED: Final = 3
"""How often another writer is overruled within ``FORCED_WINDOW_S``, in any case."""

FORCED_WINDOW_S: Final = 600.0

_OTHER_MANAGER = re.compile(r'conflicts? with "([^"]*)"')


@dataclass(frozen=True, slots=True)
class _Seen:
    """The other writer's payload as a digest, when it was first seen, and the writer's name."""

    digest: bytes
    since_s: float
    who: str


@dataclass(slots=True, eq=False)
class Contention:
    """Follows the other writers of one Secret.

    Attributes:
        quiet_period_s: Another writer is overruled once its payload stayed the same so long.
        requested: A SecretRequest names the Secret: only ``takeover`` overrules.
        clock: Seconds that never jump.
    """

    secret: object
    quiet_period_s: float
    takeover: bool
    requested: bool
    clock: Callable[[], float]
    _seen: _Seen | None = field(default=None, init=False)
    _forced_at: tuple[float, ...] = field(default=(), init=False)

    def observe(self, found: FoundSecret | None) -> None:
        """Remember another writer's payload, also where we need not write.

        Raises:
            ConflictError: A SecretRequest names the Secret, and the payload is another writer's.
                Or the Secret is gone, and another writer was there a moment ago: it may be about
                to write the Secret again.
        """
        if found is not None:
            if found.others:
                managers = sorted({other.manager for other in found.others})
                self._note(found, ", ".join(managers))
                if self.requested and not (self.takeover or found.ours):
                    raise self._conflict(managers, _NO_TAKEOVER)
            return
        if self._seen is None or self.takeover:
            return
        if self._note(found, self._seen.who) < self.quiet_period_s:
            raise ConflictError(
                Reason.FIELD_CONFLICT,
                f"{self.secret} is gone, which {self._seen.who} wrote: it is left to that writer"
                f" for {self.quiet_period_s:g} s",
            )

    def resolve(self, found: FoundSecret | None = None) -> None:
        """The Secret is up to date: forget the other writer, unless the payload is its own."""
        if found is None or not found.others:
            self._seen = None

    def require_right_to_force(self, found: FoundSecret | None, exc: Conflict) -> None:
        """Check whether the other writer may be overruled now.

        Raises:
            ConflictError: It may not; the message names it.
        """
        managers = sorted(set(_managers(exc)))
        quiet_s = self._note(found, ", ".join(managers))
        if self.requested and not self.takeover:
            wait = _NO_TAKEOVER
        elif found is None or (not self.takeover and quiet_s < self.quiet_period_s):
            wait = f"waiting until it has not changed for {self.quiet_period_s:g} s"
        elif (
            len(self._forced_at) == MAX_FORCED
            and self.clock() - self._forced_at[0] < FORCED_WINDOW_S
        ):
            wait = f"it came back after {MAX_FORCED} takeovers within {FORCED_WINDOW_S:g} s"
        else:
            return
        raise self._conflict(managers, wait) from exc

    def count_force(self) -> None:
        """Count a forced write, before it is tried."""
        self._forced_at = (*self._forced_at, self.clock())[-MAX_FORCED:]

    def uncount_force(self) -> None:
        """The last forced write failed: no writer was overruled."""
        self._forced_at = self._forced_at[:-1]

    def _note(self, found: FoundSecret | None, who: str) -> float:
        """Remember the payload; for how many seconds it hasn't changed."""
        digest = sha256((found.payload if found is not None else None) or b"").digest()
        if self._seen is None or self._seen.digest != digest:
            self._seen = _Seen(digest, self.clock(), who)
        return self.clock() - self._seen.since_s

    def _conflict(self, managers: list[str], wait: str) -> ConflictError:
        who = ", ".join(managers) or "another field manager"
        return ConflictError(
            Reason.FIELD_CONFLICT,
            f"{self.secret} is also written by {who}: nothing was written, {wait}; stop the other "
            "writer, or configure another name",
        )


_NO_TAKEOVER: Final = "as takeover isn't set in [secret_requests]"


def _managers(exc: Conflict) -> list[str]:
    """The field managers that the causes of an apply conflict name."""
    return [
        found.group(1)
        for cause in exc.causes
        if cause.reason == "FieldManagerConflict"
        and (found := _OTHER_MANAGER.search(cause.message)) is not None
    ]
