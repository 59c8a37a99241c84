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
from telemetryd.errors import BadResponse, Conflict, NotFound
from telemetryd.export.payload import render_rfc3339
from telemetryd.export.secret import FIELD_MANAGER, KubeRequests
from telemetryd.gather.requests import SECRET_REQUESTS, Condition, own_conditions

REQUEST_TIMEOUT_S = 10.0
MAX_TRIES = 5
"""How often a write that met a change in between is begun anew before there is a pause."""

_MERGE_PATCH = "application/merge-patch+json"


class _Metadata(msgspec.Struct, gc=False):
    uid: str
    resourceVersion: str  # noqa: N815 - the field's name in JSON


class _Request(msgspec.Struct, gc=False):
    metadata: _Metadata
    status: Any = None


_DECODER = msgspec.json.Decoder(_Request)


class StatusWriter:
    """Writes statuses through the ``status`` subresource.

    Attributes:
        writes: So many patches have been made.
    """

    def __init__(self, client: KubeRequests, *, now: Callable[[], float]) -> None:
        """Nothing is asked before ``write``.

        Args:
            client: The API server; stays the caller's.
            now: Unix time in seconds.
        """
        self._client = client
        self._now = now
        self.writes = 0

    async def write(
        self, name: str, uid: str, verdict: Verdict, *, synced_at: float | None
    ) -> None:
        """Make the status say this; nothing is written where it does, or the request is gone.

        Args:
            name: Of the request, a DNS subdomain.
            uid: Its UID: another of the same name is left alone.
            verdict: What the conditions are to say.
            synced_at: Unix time in seconds of a write of the Secret; None where there is no news.

        Raises:
            Conflict: It changes all the time.
            KubeError: It can't be read or written now.
        """
        for attempt in range(1, MAX_TRIES + 1):
            found = await self._read(name)
            if found is None or found.metadata.uid != uid:
                return
            status = self._render(found, verdict, synced_at)
            if status is None:
                return
            # Of another object of this name it is another: a uid isn't heeded in a status.
            metadata = {"resourceVersion": found.metadata.resourceVersion}
            try:
                await self._client.request(
                    "PATCH",
                    f"{SECRET_REQUESTS.path}/{name}/status",
                    params={"fieldManager": FIELD_MANAGER},
                    body=orjson.dumps({"metadata": metadata, "status": status}),
                    content_type=_MERGE_PATCH,
                    timeout_s=REQUEST_TIMEOUT_S,
                )
            except Conflict:
                if attempt == MAX_TRIES:
                    raise
                continue
            except NotFound:
                return
            self.writes += 1
            return

    async def _read(self, name: str) -> _Request | None:
        path = f"{SECRET_REQUESTS.path}/{name}"
        try:
            answer = await self._client.request("GET", path, timeout_s=REQUEST_TIMEOUT_S)
        except NotFound:
            return None
        try:
            return _DECODER.decode(answer)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise BadResponse(f"GET {path}: isn't a SecretRequest: {error}") from error

    def _render(
        self, found: _Request, verdict: Verdict, synced_at: float | None
    ) -> dict[str, Any] | None:
        """The part of the status that must be written, None where nothing must."""
        status = found.status if isinstance(found.status, dict) else {}
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


def _held(existing: list[Any]) -> Conditions:
    """Our conditions as they are; those that can't be read aren't held, and are written anew."""
    readable = []
    for entry in existing:
        try:
            readable.append(msgspec.convert(entry, Condition))
        except msgspec.ValidationError:
            continue
    return {condition.type: condition for condition in own_conditions(readable)}
