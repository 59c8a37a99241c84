"""Gives a Secret up: our fields go, and the Secret too where nothing of anyone else is left.

Only a Secret whose payload is ours is touched: where others have written the payload since, it is
theirs. Finalizers of others hold the Secret as they hold any. No value of the Secret is read.
"""

import msgspec

from telemetryd.control.secretrequest.decision import Target
from telemetryd.errors import Invalid, NotFound
from telemetryd.kube import objects
from telemetryd.kube.objects import FIELD_MANAGER, Preconditions
from telemetryd.kube.requests import Requests

REQUEST_TIMEOUT_S = 10.0


class _Ignored(msgspec.Struct, gc=False):
    pass


class _OwnedData(msgspec.Struct, gc=False):
    payload: _Ignored | None = msgspec.field(name="f:payload", default=None)


class _OwnedFields(msgspec.Struct, gc=False):
    data: _OwnedData | None = msgspec.field(name="f:data", default=None)


class _Owner(msgspec.Struct, gc=False):
    manager: str | None = None
    operation: str | None = None
    fieldsV1: _OwnedFields | None = None  # noqa: N815 - the field's name in JSON

    @property
    def wrote_our_payload(self) -> bool:
        if (self.manager, self.operation) != (FIELD_MANAGER, "Apply"):
            return False
        data = self.fieldsV1.data if self.fieldsV1 is not None else None
        return data is not None and data.payload is not None


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
    def version(self) -> Preconditions:
        return Preconditions(self.metadata.uid, self.metadata.resource_version)

    @property
    def ours(self) -> bool:
        """We own its payload."""
        return any(owner.wrote_our_payload for owner in self.metadata.managed_fields or ())

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

    def __init__(self, requests: Requests, target: Target) -> None:
        """Nothing is asked before ``attempt``.

        Args:
            requests: To the API server, under the fence of leadership.
            target: The Secret.
        """
        self._requests = requests
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
        found = await objects.get(
            self._requests, self._path, _DECODER.decode, timeout_s=REQUEST_TIMEOUT_S
        )
        if found is None:
            return "gone"
        if found.ours:
            names = {"name": self._target.secret, "namespace": self._target.namespace}
            answer = await objects.apply(
                self._requests,
                self._path,
                {"apiVersion": "v1", "kind": "Secret", "metadata": names},
                over=found.version,
                timeout_s=REQUEST_TIMEOUT_S,
            )
            self._given_up_uid = found.metadata.uid
            found = objects.parsed(answer, _DECODER.decode, f"PATCH {self._path}")
        if found.metadata.uid != self._given_up_uid or not found.bare:
            return "kept"
        await objects.delete(self._requests, self._path, found.version, timeout_s=REQUEST_TIMEOUT_S)
        return "deleted"
