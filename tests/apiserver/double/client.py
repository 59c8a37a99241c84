"""What the tests of the demo talk to it with, and the objects they send."""

import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from random import Random
from typing import Any

import aiohttp
import anyio
import orjson

from tests.apiserver.double.apiserver import ApiServer, ServerOptions

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
SETTINGS = "/apis/management.cattle.io/v3/settings"
SECRETS = "/api/v1/namespaces/default/secrets"
DEADLINE_S = 10.0


def new_server(**options: Any) -> ApiServer:
    """A server with a standing clock and repeatable UIDs."""
    options.setdefault("fresh_wait_s", 0.01)
    return ApiServer(ServerOptions(**options), now=fixed_now, rng=Random(7))


def fixed_now() -> datetime:
    return datetime(2026, 11, 1, 12, tzinfo=UTC)


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def setting(name: str, value: str = "", **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "management.cattle.io/v3",
        "kind": "Setting",
        "metadata": {"name": name, **metadata},
        "value": value,
    }


def secret(name: str = "s", /, **fields: Any) -> dict[str, Any]:
    """A Secret; ``metadata`` among the fields is added to its name."""
    metadata = {"name": name, **fields.pop("metadata", {})}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, **fields}


@dataclass(frozen=True)
class Answer:
    code: int
    body: Any

    @property
    def revision(self) -> str:
        revision: str = self.body["metadata"]["resourceVersion"]
        return revision

    @property
    def names(self) -> list[str]:
        return [item["metadata"]["name"] for item in self.body["items"]]


class Watch:
    """The events of one watch."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._lines = response.content

    async def next(self) -> dict[str, Any] | None:
        """The next event, None at the end."""
        with anyio.fail_after(DEADLINE_S):
            line = await self._lines.readline(max_line_length=1 << 20)
        if not line:
            return None
        event: dict[str, Any] = orjson.loads(line)
        return event

    async def take(self, count: int) -> list[tuple[str, str]]:
        """Type and name of so many events."""
        taken = []
        for _ in range(count):
            event = await self.next()
            assert event is not None
            taken.append((event["type"], event["object"]["metadata"].get("name", "")))
        return taken

    async def rest(self) -> list[dict[str, Any]]:
        """Everything up to the end."""
        events = []
        while (event := await self.next()) is not None:
            events.append(event)
        return events


class Api:
    """A plain client: paths in, codes and decoded bodies out."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session = session
        self.url = url

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        raw_body = body if isinstance(body, bytes) else orjson.dumps(body)
        # A stream: aiohttp warns of large bodies that are sent as bytes.
        data = None if body is None else BytesIO(raw_body)
        with anyio.fail_after(DEADLINE_S):
            async with self.session.request(
                method, self.url + path, data=data, params=params, headers=headers, ssl=False
            ) as response:
                raw = await response.read()
        try:
            return Answer(response.status, orjson.loads(raw))
        except orjson.JSONDecodeError:
            return Answer(response.status, raw.decode())

    async def get(self, path: str, **params: str) -> Answer:
        return await self.request("GET", path, params=params)

    async def post(self, path: str, body: Any) -> Answer:
        return await self.request("POST", path, body)

    async def delete(self, path: str, body: Any = None) -> Answer:
        return await self.request("DELETE", path, body)

    async def merge(self, path: str, body: Any, **params: str) -> Answer:
        headers = {"Content-Type": MERGE}
        return await self.request("PATCH", path, body, params=params, headers=headers)

    async def apply(self, path: str, body: Any, manager: str = "telemetryd", **p: str) -> Answer:
        params = {"fieldManager": manager, **p} if manager else p
        headers = {"Content-Type": APPLY}
        return await self.request("PATCH", path, body, params=params, headers=headers)

    @asynccontextmanager
    async def watch(self, path: str, **params: str) -> AsyncIterator[Watch]:
        query = {"watch": "true", **params}
        async with self.session.get(self.url + path, params=query) as response:
            assert response.status == 200, await response.text()
            yield Watch(response)
