"""The embedded API server: HTTP around the object store.

Binds a port of 127.0.0.1, plain or with TLS, checks the bearer token, and hands each request to
``listing``, ``watching`` or ``writes``. It has no switches for faults beyond what an administrator
could do to a real one: compaction, ended watches, a removed CRD; faults of the wire belong into a
proxy. ``serve`` may be entered again after it was left: the objects stay, as in etcd.
"""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from random import Random
from typing import TypeAlias

import anyio
import orjson
from aiohttp import web

from tests.apiserver.double import status
from tests.apiserver.double.handlers import MAX_BODY_BYTES, Handlers
from tests.apiserver.double.objects import ObjectStore, StoredObject
from tests.apiserver.double.resources import (
    NAMESPACES,
    RESOURCES,
    JsonObject,
    RequestTarget,
    resource_by_id,
    resource_of,
)
from tests.apiserver.double.routes import PlainNotFound, Routes
from tests.apiserver.double.watching import Watches
from tests.apiserver.double.writes import Writer

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

_PUBLIC_PATHS = frozenset({"/healthz", "/livez", "/readyz", "/version"})
_RANCHER_PATH = "/rancherversion"
_FIRST_NAMESPACES = ("default", "kube-node-lease", "kube-public", "kube-system")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """How the server presents itself.

    Attributes:
        token: Bearer token to ask for; None accepts every request.
        certificate: PEM files of certificate chain and key; None serves plain HTTP.
        git_version: What ``/version`` answers.
        rancher_version: What ``/rancherversion`` answers; None answers it with 404, as plain
            Kubernetes does.
        watch_list: Serve streaming lists (``sendInitialEvents``).
        list_end: Say where a streaming list ends; some servers fail to.
        bookmark_interval_s: Between bookmarks of a watch.
        history_events: Changes kept per resource for watches and pages.
        fresh_wait_s: How long a revision from the future is waited for (3 s in cacher.go).
    """

    token: str | None = None
    certificate: tuple[Path, Path] | None = None
    git_version: str = "v1.34.1"
    rancher_version: str | None = "v2.15.0"
    rancher_commit: str = "59bd052e"
    watch_list: bool = True
    list_end: bool = True
    bookmark_interval_s: float = 60.0
    history_events: int = 10_000
    fresh_wait_s: float = 3.0

    def __post_init__(self) -> None:
        if self.bookmark_interval_s <= 0 or self.fresh_wait_s < 0:
            raise ValueError("bookmark_interval_s must be above 0, fresh_wait_s at least 0")
        if self.history_events < 1:
            raise ValueError("history_events must be at least 1")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server listens: ``url`` has no trailing slash."""

    url: str
    port: int


class ApiServer:
    """A Kubernetes API server in memory."""

    def __init__(self, options: ServerOptions, *, now: Callable[[], datetime], rng: Random) -> None:
        """Hold the namespaces that every cluster begins with, and serve nothing yet.

        Args:
            options: How it presents itself.
            now: Clock for the timestamps of objects.
            rng: Source of their UIDs.
        """
        self._options = options
        self._store = ObjectStore(RESOURCES, history_events=options.history_events)
        self._writer = Writer(self._store, now=now, rng=rng)
        self._watches = Watches(self._store, options.bookmark_interval_s, list_end=options.list_end)
        self._handlers = Handlers(
            store=self._store,
            writer=self._writer,
            watches=self._watches,
            routes=Routes(self._store.serves),
            watch_list=options.watch_list,
            fresh_wait_s=options.fresh_wait_s,
        )
        for name in _FIRST_NAMESPACES:
            namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            self._writer.create(RequestTarget(NAMESPACES), namespace, "kube-apiserver")

    @property
    def revision(self) -> int:
        """The resourceVersion of the last write."""
        return self._store.revision

    @property
    def open_watches(self) -> int:
        """How many watches are being served."""
        return len(self._watches)

    @asynccontextmanager
    async def serve(self, port: int = 0) -> AsyncIterator[Endpoint]:
        """Listen on 127.0.0.1 until the context is left; watches are ended then.

        Args:
            port: 0 takes a free one.
        """
        certificate = self._options.certificate
        context = None
        if certificate is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(*certificate)
        runner = web.AppRunner(
            self._application(),
            access_log=None,
            handle_signals=False,
            handler_cancellation=True,
            shutdown_timeout=1.0,
        )
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", port, ssl_context=context)
            await site.start()
            bound: int = runner.addresses[0][1]
            scheme = "http" if context is None else "https"
            yield Endpoint(f"{scheme}://127.0.0.1:{bound}", bound)
        finally:
            self._watches.drop()
            with anyio.CancelScope(shield=True):
                await runner.cleanup()

    def put_object(self, obj: JsonObject) -> StoredObject:
        """Create or replace an object past every rule, as with etcdctl; its type says where.

        UID and creation time are filled in where they are missing. Another UID than that of the
        object in place makes it a delete and an add.
        """
        metadata = obj["metadata"]
        target = RequestTarget(resource_of(obj), metadata.get("namespace", ""), metadata["name"])
        return self._writer.seed(target, obj)

    def delete_object(self, resource_id: str, name: str, namespace: str = "") -> None:
        """Delete an object at once, whatever its finalizers.

        Args:
            resource_id: ``plural.group``.
            name: Name of the object.
            namespace: Its namespace, empty for cluster scope.

        Raises:
            KeyError: There is none.
        """
        resource = resource_by_id(resource_id)
        self._store.remove(resource, RequestTarget(resource, namespace, name).key)

    def get_object(self, resource_id: str, name: str, namespace: str = "") -> JsonObject:
        """A copy of an object.

        Raises:
            KeyError: There is none.
        """
        resource = resource_by_id(resource_id)
        table = self._store.table(resource)
        return table.objects[RequestTarget(resource, namespace, name).key].decode()

    def count_objects(self, resource_id: str) -> int:
        """How many objects of a resource there are."""
        return len(self._store.table(resource_by_id(resource_id)).objects)

    def compact(self) -> None:
        """Forget all history: older watches and continue tokens get 410."""
        self._store.compact()

    def drop_watches(self) -> None:
        """End every open watch without an ERROR event."""
        self._watches.drop()

    def remove_resource(self, resource_id: str) -> None:
        """Take a CRD away: its objects are deleted, its watches end, its paths answer 404."""
        resource = resource_by_id(resource_id)
        self._store.remove_table(resource)
        self._watches.drop(resource)

    def restore_resource(self, resource_id: str) -> None:
        """Bring a removed CRD back, without objects."""
        self._store.add_table(resource_by_id(resource_id))

    def _application(self) -> web.Application:
        app = web.Application(
            middlewares=[_answer_errors, self._authenticate], client_max_size=MAX_BODY_BYTES
        )
        app.router.add_get("/version", self._version)
        app.router.add_get(_RANCHER_PATH, self._rancher_version)
        for path in ("/healthz", "/livez", "/readyz"):
            app.router.add_get(path, _healthy)
        app.router.add_route("*", "/{path:.*}", self._handlers.handle)
        return app

    @web.middleware
    async def _authenticate(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let the right token pass; without any, a request is anonymous and may see little.

        Raises:
            UnknownToken: Another token.
            ForbiddenPath: No token where one is needed.
        """
        if self._options.token is not None and request.path != _RANCHER_PATH:
            given = _bearer_token(request)
            if given and given != self._options.token:
                raise status.UnknownToken
            if not given and request.path not in _PUBLIC_PATHS:
                raise status.ForbiddenPath(request.method.lower(), request.path)
        return await handler(request)

    async def _version(self, _request: web.Request) -> web.Response:
        version = self._options.git_version
        major, minor = version.removeprefix("v").split(".")[:2]
        return json_response(
            {
                "major": major,
                "minor": minor,
                "gitVersion": version,
                "gitCommit": "0" * 40,
                "gitTreeState": "clean",
                "buildDate": "1970-01-01T00:00:00Z",
                "goVersion": "go1.24.6",
                "compiler": "gc",
                "platform": "linux/amd64",
            }
        )

    async def _rancher_version(self, _request: web.Request) -> web.Response:
        version = self._options.rancher_version
        if version is None:
            raise PlainNotFound
        body = {
            "Version": version,
            "GitCommit": self._options.rancher_commit,
            "RancherPrime": "true",
        }
        # Rancher sets no Content-Type; Go's server then guesses this one.
        return web.Response(body=orjson.dumps(body), headers={"Content-Type": _TEXT})


_TEXT = "text/plain; charset=utf-8"


def _bearer_token(request: web.Request) -> str:
    """The token of a request; empty where it brings none, which is no reason to refuse it."""
    scheme, _, token = request.headers.get("Authorization", "").strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


async def _healthy(_request: web.Request) -> web.Response:
    return web.Response(body=b"ok", headers={"Content-Type": _TEXT})


def json_response(body: Mapping[str, object], code: int = 200) -> web.Response:
    """A JSON body with an HTTP status."""
    return web.Response(
        body=orjson.dumps(body), status=code, headers={"Content-Type": "application/json"}
    )


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn what handlers raise into the answers of the real server."""
    try:
        return await handler(request)
    except status.ApiError as refused:
        return json_response(refused.status, refused.code)
    except PlainNotFound:
        headers = {"Content-Type": _TEXT, "X-Content-Type-Options": "nosniff"}
        return web.Response(body=b"404 page not found\n", status=404, headers=headers)
    except web.HTTPRequestEntityTooLarge:
        too_large = status.RequestTooLarge(f"Request entity too large: limit is {MAX_BODY_BYTES}")
        return json_response(too_large.status, too_large.code)
