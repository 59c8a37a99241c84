"""Writes the status of a SecretRequest: read, settle, patch what differs and only that.

What the conditions are to say is ``conditions``'s; when they are written is ``controller``'s.
"""

from collections.abc import Callable
from typing import Any

import msgspec
import orjson

from telemetryd.control.secretrequest.conditions import (
    Conditions,
    Verdict,
    render_conditions,
    settle,
)
from telemetryd.errors import Conflict, NotFound
from telemetryd.export.payloads.payload import render_rfc3339
from telemetryd.gather.requests import (
    MAX_CONDITIONS,
    SECRET_REQUESTS,
    RequestCondition,
    other_of,
    own_conditions,
)
from telemetryd.kube import objects
from telemetryd.kube.requests import Requests
from telemetryd.model import OtherController

REQUEST_TIMEOUT_S = 10.0
MAX_TRIES = 5
"""How often a write that met a change in between is begun anew before there is a pause."""


class _Metadata(msgspec.Struct, gc=False):
    uid: str
    resourceVersion: str  # noqa: N815 - the field's name in JSON
    managedFields: msgspec.Raw = msgspec.Raw()  # noqa: N815 - the field's name in JSON


class _Request(msgspec.Struct, gc=False):
    metadata: _Metadata
    status: msgspec.Raw = msgspec.Raw()


_DECODER = msgspec.json.Decoder(_Request)


class StatusWriter:
    """Writes statuses through the ``status`` subresource.

    Attributes:
        writes: So many patches have been made.
    """

    def __init__(self, requests: Requests, *, now: Callable[[], float]) -> None:
        """Nothing is asked before ``write``.

        Args:
            requests: To the API server, under the fence of leadership.
            now: Unix time in seconds.
        """
        self._requests = requests
        self._now = now
        self.writes = 0

    async def write(
        self,
        name: str,
        uid: str,
        verdict: Verdict,
        *,
        synced_at: float | None,
        other: OtherController | None,
    ) -> bool:
        """Make the status say this; nothing is written where it does.

        Args:
            name: Of the request, a DNS subdomain.
            uid: Its UID: another of the same name is left alone.
            verdict: What the conditions are to say.
            synced_at: Unix time in seconds of a write of the Secret; None where there is no news.
            other: The controller that is known to have written it last.

        Returns:
            Whether it says so now; not where the request is gone, or another controller has
            written the status since.

        Raises:
            Conflict: It changes all the time.
            KubeError: It can't be read or written now.
        """
        for attempt in range(1, MAX_TRIES + 1):
            found = await objects.get(
                self._requests,
                f"{SECRET_REQUESTS.path}/{name}",
                _DECODER.decode,
                timeout_s=REQUEST_TIMEOUT_S,
            )
            if found is None or found.metadata.uid != uid:
                return False
            if other_of(found.metadata.managedFields, found.status) != other:
                return False
            status = self._render(found, verdict, synced_at)
            if status is None:
                return True
            try:
                await objects.merge_patch(
                    self._requests,
                    f"{SECRET_REQUESTS.path}/{name}/status",
                    {"status": status},
                    resource_version=found.metadata.resourceVersion,
                    timeout_s=REQUEST_TIMEOUT_S,
                )
            except Conflict:
                if attempt == MAX_TRIES:
                    raise
                continue
            except NotFound:
                return False
            self.writes += 1
            return True
        return False

    def _render(
        self, found: _Request, verdict: Verdict, synced_at: float | None
    ) -> dict[str, Any] | None:
        """The part of the status that must be written, None where nothing must."""
        status = _document(found.status)
        listed = status.get("conditions")
        existing = listed if isinstance(listed, list) else []
        held = _held(existing)
        wanted = settle(held, verdict, now_s=self._now())
        changed: dict[str, Any] = {}
        if wanted != held:
            changed["conditions"] = render_conditions(existing, wanted)
        if synced_at is not None and status.get("lastSyncTS") != render_rfc3339(synced_at):
            changed["lastSyncTS"] = render_rfc3339(synced_at)
        return changed or None


def _document(raw: msgspec.Raw) -> dict[str, Any]:
    """A status as it is; one that is none, or holds more than any should, is replaced."""
    text = bytes(raw)
    if text.count(b"{") > MAX_CONDITIONS:
        return {}
    try:
        status = orjson.loads(text) if text else {}
    except orjson.JSONDecodeError:  # nested too deeply
        return {}
    return status if isinstance(status, dict) else {}


def _held(existing: list[Any]) -> Conditions:
    """Our conditions as they are; those that can't be read aren't held, and are written anew."""
    readable = []
    for entry in existing:
        try:
            readable.append(msgspec.convert(entry, RequestCondition))
        except msgspec.ValidationError:
            continue
    return {condition.type: condition for condition in own_conditions(readable)}
