"""Gives a Secret up: our fields go, and the Secret too where nothing of anyone else is left.

Only what telemetryd applied itself is ever touched; finalizers of others hold the Secret as they
hold any. Of the Secret's values nothing is read.
"""

import msgspec
import orjson

from telemetryd.control.secretrequest.decision import Target
from telemetryd.errors import BadResponse, Invalid, NotFound
from telemetryd.export.secret import FIELD_MANAGER, KubeRequests

REQUEST_TIMEOUT_S = 10.0
_APPLY = "application/apply-patch+yaml"


class _Ignored(msgspec.Struct, gc=False):
    pass


class _Owner(msgspec.Struct, gc=False):
    manager: str | None = None
    operation: str | None = None


class _Metadata(msgspec.Struct, gc=False, rename="camel"):
    uid: str
    resource_version: str
    labels: dict[str, msgspec.Raw] | None = None
    annotations: dict[str, msgspec.Raw] | None = None
    owner_references: list[_Ignored] | None = None
    finalizers: list[str] | None = None
    managed_fields: list[_Owner] | None = None


class _Secret(msgspec.Struct, gc=False):
    metadata: _Metadata
    data: dict[str, msgspec.Raw] | None = None

    @property
    def ours(self) -> bool:
        """We own some of its fields."""
        return any(
            (owner.manager, owner.operation) == (FIELD_MANAGER, "Apply")
            for owner in self.metadata.managed_fields or ()
        )

    @property
    def bare(self) -> bool:
        """Nothing of anyone is left in it."""
        meta = self.metadata
        return not (
            self.data
            or meta.labels
            or meta.annotations
            or meta.owner_references
            or meta.finalizers
            or meta.managed_fields
        )


_DECODER = msgspec.json.Decoder(_Secret)


class Release:
    """The giving up of one Secret, which may take several attempts."""

    def __init__(self, client: KubeRequests, target: Target) -> None:
        """Nothing is asked before ``attempt``.

        Args:
            client: The API server; stays the caller's.
            target: The Secret.
        """
        self._client = client
        self._target = target
        self._path = f"/api/v1/namespaces/{target.namespace}/secrets/{target.secret}"
        self._given_up_uid = ""

    async def attempt(self) -> str:
        """Give it up, as far as that hasn't been done.

        Returns:
            What has become of the Secret, in a word for the log: ``deleted``, ``kept`` or ``gone``.

        Raises:
            KubeError: It can't be done now; a Conflict where it changed meanwhile.
        """
        try:
            return await self._try()
        except NotFound:
            return "gone"
        except Invalid:
            return "kept"  # immutable: its fields can't go

    async def _try(self) -> str:
        found = self._decode(await self._request("GET"))
        if found.ours:
            body = {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {
                    "name": self._target.secret,
                    "namespace": self._target.namespace,
                    "uid": found.metadata.uid,
                    "resourceVersion": found.metadata.resource_version,
                },
            }
            answer = await self._request(
                "PATCH", body, params={"fieldManager": FIELD_MANAGER}, content_type=_APPLY
            )
            self._given_up_uid = found.metadata.uid
            found = self._decode(answer)
        if found.metadata.uid != self._given_up_uid or not found.bare:
            return "kept"
        preconditions = {
            "uid": found.metadata.uid,
            "resourceVersion": found.metadata.resource_version,
        }
        await self._request("DELETE", {"preconditions": preconditions})
        return "deleted"

    async def _request(
        self,
        method: str,
        body: object = None,
        *,
        params: dict[str, str] | None = None,
        content_type: str | None = None,
    ) -> bytes:
        return await self._client.request(
            method,
            self._path,
            params=params,
            body=None if body is None else orjson.dumps(body),
            content_type=content_type,
            timeout_s=REQUEST_TIMEOUT_S,
        )

    def _decode(self, answer: bytes) -> _Secret:
        try:
            return _DECODER.decode(answer)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            # The error's text names a path, never a value.
            raise BadResponse(f"the answer for Secret {self._target} isn't one: {error}") from error
