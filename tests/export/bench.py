"""One Secret under test: its exporter, both their clocks, and the oracle's view of it."""

import json
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Unpack

import pytest

from telemetryd.errors import (
    ExportError,
    Reason,
)
from telemetryd.export.exporter import ExportContext, Outcome
from telemetryd.export.sinks.secret import SecretExporter
from telemetryd.kube.requests import RequestOptions, Requests
from telemetryd.model import Payload
from tests.apiserver.admin import Admin, Object
from tests.export.doubles import EPOCH_S, render_scc, snapshot

NAME = "rancher-scc-telemetry"
SENTINEL = "SENTINEL-foreign-value"
DAY_S = 86_400.0


@dataclass
class Bench:
    """One Secret, its exporter, the clock of both, and the oracle's view."""

    namespace: str
    oracle: Admin
    client: Requests
    elapsed_s: float = 0.0
    epoch: int = 0

    @property
    def path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/secrets/{NAME}"

    @property
    def collection(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/secrets"

    def exporter(self, **changes: Any) -> SecretExporter:
        options: dict[str, Any] = {
            "namespace": self.namespace,
            "secret": NAME,
            "max_silence_s": DAY_S,
            "timeout_s": 10.0,
            "quiet_period_s": 300.0,
            "takeover": False,
            "now": lambda: EPOCH_S + self.elapsed_s,
            "clock": lambda: self.elapsed_s,
        }
        return SecretExporter(self.client, **{**options, **changes})

    def payload(self, revision: int = 1) -> Payload:
        return render_scc(snapshot(revision, nodes=revision), EPOCH_S + self.elapsed_s)

    async def send(self, exporter: SecretExporter, revision: int = 1) -> Outcome:
        return await exporter.export(self.payload(revision), ExportContext("scc", 1, self.epoch))

    def read(self) -> Object:
        return self.oracle.get(self.path)

    def document(self) -> dict[str, Any]:
        return json.loads(b64decode(self.read()["data"]["payload"]))  # type: ignore[no-any-return]

    def write_foreign(self, body: bytes, **metadata: Any) -> Object:
        """A plain Update by another writer, as Rancher makes it."""
        change = {"metadata": metadata, "data": {"payload": b64encode(body).decode()}}
        return self.oracle.patch(self.path + "?fieldManager=rancher", change)


async def refused(
    kind: type[ExportError], reason: Reason, call: Awaitable[Outcome], *texts: str
) -> ExportError:
    with pytest.raises(kind) as caught:
        await call
    assert type(caught.value) is kind
    assert caught.value.reason == reason
    for text in texts:
        assert text in str(caught.value)
    return caught.value


class Interloper:
    """A client between whose read and write something happens on the server."""

    def __init__(self, client: Requests, act: Callable[[], object]) -> None:
        self._client = client
        self._act = act

    async def request(self, method: str, path: str, **options: Unpack[RequestOptions]) -> bytes:
        if method == "PATCH":
            self._act()
        return await self._client.request(method, path, **options)
