"""An API server that does what a test tells it, on a real socket."""

import json
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from aiohttp import web

from telemetryd.config.settings import KubernetesConfig
from tests.informer.samples import Json, event, list_end, listing, status

Responder = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def answer(
    body: bytes | Json, code: int = 200, content_type: str = "application/json", **headers: str
) -> Responder:
    """A whole answer."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def respond(_request: web.BaseRequest) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(body=raw, status=code, headers={"Content-Type": content_type, **named})

    return respond


def refuse(code: int, reason: str = "", message: str = "", **headers: str) -> Responder:
    """A Status."""
    return answer(status(code, reason, message), code, **headers)


def stream(*chunks: bytes, then: str = "end", content_type: str = "application/json") -> Responder:
    """A watch that brings these bytes and then ends: ``end``, ``reset`` or ``hang``."""

    async def respond(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": content_type})
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
        if then == "hang":
            await anyio.sleep_forever()
        if then == "reset":
            await anyio.sleep(0.02)
            transport = request.transport
            assert transport
            transport.abort()
        return response

    return respond


async def hang(_request: web.BaseRequest) -> web.StreamResponse:
    """No answer at all."""
    await anyio.sleep_forever()
    raise AssertionError


@dataclass
class Scripted:
    """Answers by script, and once a script is over as an API server would.

    Attributes:
        objects: What a list gives, by name.
        version: The present resource version.
        streamed: Its informers ask for lists as streams; it serves them either way.
        served: Whether discovery names the resource.
        lists: Answers of the next lists in pages; ``streams``, ``watches`` and ``discoveries``
            likewise.
        others: Answers by path.
        requests: All that came, in order.
        open: Watches that are being served.
        pages: By continue token, the version and the objects that are left of a list.
    """

    objects: dict[str, Json] = field(default_factory=dict)
    version: int = 1
    streamed: bool = False
    served: bool = True
    lists: deque[Responder] = field(default_factory=deque)
    streams: deque[Responder] = field(default_factory=deque)
    watches: deque[Responder] = field(default_factory=deque)
    discoveries: deque[Responder] = field(default_factory=deque)
    others: dict[str, Responder] = field(default_factory=dict)
    requests: list[web.BaseRequest] = field(default_factory=list)
    events: list[tuple[int, bytes]] = field(default_factory=list)
    url: str = ""
    open: list[web.StreamResponse] = field(default_factory=list)
    pages: dict[str, tuple[int, list[Json]]] = field(default_factory=dict)
    _news: anyio.Event = field(default_factory=anyio.Event)

    def put(self, body: Json) -> None:
        """Create or change an object; watches hear of it."""
        self.version += 1
        name = body["metadata"]["name"]
        kind = "MODIFIED" if name in self.objects else "ADDED"
        body["metadata"]["resourceVersion"] = str(self.version)
        self.objects[name] = body
        self.tell(event(kind, body))

    def delete(self, name: str) -> None:
        """Delete an object; watches hear of it."""
        self.version += 1
        body = self.objects.pop(name)
        version = {"resourceVersion": str(self.version)}
        self.tell(event("DELETED", body | {"metadata": body["metadata"] | version}))

    def tell(self, line: bytes) -> None:
        """Send a line to watches, now and to those that ask for what came before it."""
        self.events.append((self.version, line))
        news, self._news = self._news, anyio.Event()
        news.set()

    async def inject(self, line: bytes) -> None:
        """Send a line to the watches that are open now, and to no later one."""
        for response in self.open:
            await response.write(line)

    def queries(self, *, watch: bool) -> list[dict[str, str]]:
        """Queries of the lists, or of the watches, so far."""
        return [
            dict(request.query)
            for request in self.requests
            if request.path.endswith("/things")
            and ("watch" in request.query) is watch
            and "sendInitialEvents" not in request.query
        ]

    def streams_asked(self) -> list[dict[str, str]]:
        """Queries of the lists as streams so far."""
        return [
            dict(request.query) for request in self.requests if "sendInitialEvents" in request.query
        ]

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests.append(request)
        if request.path in self.others:
            return await self.others[request.path](request)
        if request.path == "/version":
            return await answer({"major": "1", "minor": "34"})(request)
        if request.path.endswith("/things"):
            if "sendInitialEvents" in request.query:
                responder = self.streams.popleft() if self.streams else self._watch
            elif "watch" in request.query:
                responder = self.watches.popleft() if self.watches else self._watch
            else:
                responder = self.lists.popleft() if self.lists else self._list
            return await responder(request)
        if self.discoveries:
            return await self.discoveries.popleft()(request)
        return await self._discover(request)

    async def _list(self, request: web.BaseRequest) -> web.StreamResponse:
        if not self.served:
            return await refuse(404, "NotFound")(request)
        # All pages of a list are of the moment of its first, as a real server's.
        taken = request.query.get("continue")
        if taken is None:
            version, rest = self.version, [self.objects[name] for name in sorted(self.objects)]
        else:
            version, rest = self.pages[taken]
        limit = int(request.query.get("limit") or len(rest) + 1)
        token = f"{version}-{len(rest) - limit}" if limit < len(rest) else ""
        if token:
            self.pages[token] = version, rest[limit:]
        return await answer(listing(rest[:limit], version, token))(request)

    async def _watch(self, request: web.BaseRequest) -> web.StreamResponse:
        if not self.served:
            return await refuse(404, "NotFound")(request)
        first = []
        if "sendInitialEvents" in request.query:
            after = self.version
            first = [event("ADDED", self.objects[name]) for name in sorted(self.objects)]
            first.append(list_end(after))
        else:
            after = int(request.query["resourceVersion"])
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(b"".join(first))
        sent = 0
        self.open.append(response)
        try:
            while True:
                news = self._news
                for version, line in self.events[sent:]:
                    if version > after:
                        await response.write(line)
                sent = len(self.events)
                await news.wait()
        finally:
            self.open.remove(response)

    async def _discover(self, request: web.BaseRequest) -> web.StreamResponse:
        versions = [{"groupVersion": "example.io/v1", "version": "v1"}] if self.served else []
        if request.path == "/apis":
            groups = [{"name": "example.io", "versions": versions}] if versions else []
            return await answer({"kind": "APIGroupList", "groups": groups})(request)
        if not self.served:
            return await answer(b"404 page not found\n", 404, "text/plain")(request)
        resources = [{"name": "things", "kind": "Thing"}]
        return await answer({"kind": "APIResourceList", "resources": resources})(request)


@asynccontextmanager
async def serve(
    server: Scripted | None = None, *, tls: ssl.SSLContext | None = None, port: int = 0
) -> AsyncIterator[Scripted]:
    """Serve until the block is left."""
    server = server or Scripted()
    runner = web.ServerRunner(web.Server(server.handle, access_log=None), shutdown_timeout=0.01)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls, reuse_address=True)
        await site.start()
        scheme = "https" if tls else "http"
        server.url = f"{scheme}://127.0.0.1:{runner.addresses[0][1]}"
        yield server
    finally:
        with anyio.CancelScope(shield=True):
            await runner.cleanup()


def kubeconfig(
    path: Path, server: str, *, cluster: Json | None = None, user: Json | None = None
) -> KubernetesConfig:
    """A configuration that names a kubeconfig for this server."""
    path.write_text(
        json.dumps(
            {
                "current-context": "it",
                "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
                "clusters": [{"name": "it", "cluster": {"server": server, **(cluster or {})}}],
                "users": [{"name": "it", "user": user or {}}],
            }
        )
    )
    return KubernetesConfig(kubeconfig=str(path))
