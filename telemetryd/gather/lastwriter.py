"""Who wrote the status of a SecretRequest last: telemetryd, or another controller.

The API server records it in ``metadata.managedFields``. Where it doesn't, the content tells:
Rancher's controller leaves ``lastTransitionTime`` out of the conditions that it makes.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from telemetryd.bounds import identifier
from telemetryd.kube.objects import FIELD_MANAGER
from telemetryd.model import ConditionRecord, OtherController

MAX_OWNERS_BYTES: Final = 64 << 10
"""Of ``managedFields``; what is longer is read as none."""

UNNAMED: Final = "another controller"


class _OwnedStatus(msgspec.Struct, gc=False):
    """Of a list that is a map by type each item has a key; of another list there is none."""

    conditions: dict[str, msgspec.Raw] | None = msgspec.field(name="f:conditions", default=None)
    last_sync: msgspec.Raw = msgspec.field(name="f:lastSyncTS", default=msgspec.Raw())


class _OwnedFields(msgspec.Struct, gc=False):
    status: _OwnedStatus | None = msgspec.field(name="f:status", default=None)


class _Owner(msgspec.Struct, gc=False):
    manager: str | None = None
    subresource: str | None = None
    time: str | None = None
    fieldsV1: _OwnedFields | None = None  # noqa: N815 - the field's name in JSON

    @property
    def syncs(self) -> bool:
        """It wrote ``lastSyncTS`` last."""
        status = self.fieldsV1.status if self.fieldsV1 is not None else None
        return self.subresource == "status" and status is not None and bool(status.last_sync)

    def serves(self, keys: Sequence[str]) -> bool:
        """Whether it wrote anything that only a controller of SecretRequests writes."""
        status = self.fieldsV1.status if self.fieldsV1 is not None else None
        if self.subresource != "status" or status is None or status.conditions is None:
            return self.syncs
        listed = status.conditions
        return self.syncs or not listed or any(key in listed for key in keys)


_OWNERS = msgspec.json.Decoder(list[_Owner] | None)


def other_controller(
    managed_fields: msgspec.Raw, conditions: Sequence[ConditionRecord], kinds: Sequence[str]
) -> OtherController | None:
    """The controller other than telemetryd that wrote a status last, None for none.

    A write of the same second as ours counts, and so does a ``lastSyncTS`` that isn't ours: the
    clocks of API servers differ.

    Args:
        managed_fields: ``metadata.managedFields``.
        conditions: Those of these kinds that the status has.
        kinds: Types of the conditions that a controller of SecretRequests writes.
    """
    keys = [f'k:{{"type":"{kind}"}}' for kind in kinds]
    owners = [owner for owner in _read(managed_fields) if owner.serves(keys)]
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


def _read(managed_fields: msgspec.Raw) -> list[_Owner]:
    if not managed_fields or memoryview(managed_fields).nbytes > MAX_OWNERS_BYTES:
        return []
    try:
        return _OWNERS.decode(managed_fields) or []
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return []
