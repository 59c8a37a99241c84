"""The embedded API server, with SecretRequests of any number and size, made as they are asked for.

Nothing of them is held but the statuses that are written: three thousand of a megabyte cost the
test no memory.
"""

import json
from typing import Any

import anyio
from aiohttp import web

from tests.apiserver.double.apiserver import ApiServer, Handler

COLLECTION = "/apis/telemetry.cattle.io/v1/secretrequests"
_JSON = {"Content-Type": "application/json"}
_REVISION = "900000"


@web.middleware
async def _leave_quietly(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A client that wants no more of a page ends the connection."""
    try:
        return await handler(request)
    except ConnectionResetError:
        return web.Response()


class HugeRequests(ApiServer):
    """Serves made-up SecretRequests beside the fleet.

    Attributes:
        count: How many there are.
        members: JSON members that each of them has, beside ``metadata``.
        metadata: The same of ``metadata``, after its resource version, with a comma.
        largest_answer: Bytes of the largest page that was sent whole.
        patches: Bodies of the status patches, by the request's name.
    """

    count = 0
    members: bytes = b'"spec":{}'
    metadata: bytes = b""
    largest_answer = 0

    def _application(self) -> web.Application:
        self.patches: dict[str, list[dict[str, Any]]] = {}
        app = super()._application()
        app.middlewares.append(_leave_quietly)
        app.router.add_get(COLLECTION, self._many)
        app.router.add_get(COLLECTION + "/{name}", self._one)
        app.router.add_patch(COLLECTION + "/{name}/status", self._patched)
        return app

    def render(self, number: int) -> bytes:
        """One of them, as JSON."""
        name = f"huge-{number:06}"
        members = self.members
        if patches := self.patches.get(name):
            status = {key: value for each in patches for key, value in each["status"].items()}
            members += b',"status":%b' % json.dumps(status).encode()
        return (
            b'{"apiVersion":"telemetry.cattle.io/v1","kind":"SecretRequest","metadata":{"name":"%b",'
            b'"uid":"uid-%d","resourceVersion":"7"%b},%b}'
            % (name.encode(), number, self.metadata, members)
        )

    async def _many(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("watch") == "true":
            return await self._stream(request)
        begin = int(request.query.get("continue") or 0)
        end = min(self.count, begin + int(request.query.get("limit") or self.count))
        response = web.StreamResponse(headers=_JSON)
        await response.prepare(request)
        more = {"continue": str(end)} if end < self.count else {}
        metadata = {"resourceVersion": _REVISION} | more
        head = {
            "kind": "SecretRequestList",
            "apiVersion": "telemetry.cattle.io/v1",
            "metadata": metadata,
            "items": [],
        }
        await response.write(json.dumps(head).encode().removesuffix(b"]}"))
        sent = 0
        for number in range(begin, end):
            piece = (b"," if number > begin else b"") + self.render(number)
            sent += len(piece)
            await response.write(piece)
        await response.write(b"]}")
        await response.write_eof()
        self.largest_answer = max(self.largest_answer, sent)
        return response

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=_JSON)
        await response.prepare(request)
        if request.query.get("sendInitialEvents") == "true":
            for number in range(self.count):
                await response.write(b'{"type":"ADDED","object":%b}\n' % self.render(number))
            end = {"k8s.io/initial-events-end": "true"}
            bookmark = {
                "kind": "SecretRequest",
                "apiVersion": "telemetry.cattle.io/v1",
                "metadata": {"resourceVersion": _REVISION, "annotations": end},
            }
            line = json.dumps({"type": "BOOKMARK", "object": bookmark})
            await response.write(line.encode() + b"\n")
        await anyio.sleep_forever()
        return response

    async def _one(self, request: web.Request) -> web.Response:
        number = int(request.match_info["name"].removeprefix("huge-"))
        return web.Response(body=self.render(number), headers=_JSON)

    async def _patched(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        self.patches.setdefault(name, []).append(await request.json())
        return web.Response(body=self.render(int(name.removeprefix("huge-"))), headers=_JSON)
