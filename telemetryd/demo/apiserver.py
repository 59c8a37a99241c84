"""The demo's API server: lists, watches, and the few writes that telemetryd makes, over HTTP.

It holds nothing that matters, and is no API server to test against.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, TypeAlias

import anyio
import orjson
from aiohttp import web

from telemetryd.demo.catalogue import RANCHER_VERSION
from telemetryd.demo.objects import (
    RESOURCES,
    DemoResource,
    JsonObject,
    Key,
    ObjectStore,
    RefusedRequest,
    render_event,
)

_Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

_OPEN_PATHS: Final = frozenset({"/livez", "/readyz", "/version", "/rancherversion"})
_WATCH_S: Final = 1800.0
"""A watch that names no timeout ends after this time."""
_BOOKMARK_S: Final = 60.0
_MOST_BODY_BYTES: Final = 3 << 20
_NAME: Final = "metadata.name="
_LIST_END: Final = {"k8s.io/initial-events-end": "true"}
_JSON: Final = {"Content-Type": "application/json"}
_GROUPS: Final = {each.group: each for each in RESOURCES if each.group}
_DOCUMENTS: Final[dict[str, Mapping[str, Any]]] = {
    "/livez": {"status": "ok"},
    "/readyz": {"status": "ok"},
    "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.1", "gitCommit": "0" * 40},
    "/rancherversion": {
        "Version": RANCHER_VERSION,
        "GitCommit": "59bd052e",
        "RancherPrime": "true",
    },
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [
            {
                "name": name,
                "versions": [{"groupVersion": each.api_version, "version": each.version}],
                "preferredVersion": {"groupVersion": each.api_version, "version": each.version},
            }
            for name, each in _GROUPS.items()
        ],
    },
}


@asynccontextmanager
async def serve(store: ObjectStore, token: str) -> AsyncIterator[str]:
    """Serve the objects on a free port of 127.0.0.1 while the context is open.

    Yields:
        The URL, without a trailing slash.
    """
    handlers = _Handlers(store, token)
    app = web.Application(middlewares=[handlers.guard], client_max_size=_MOST_BODY_BYTES)
    for path, document in _DOCUMENTS.items():
        app.router.add_get(path, partial(_show, document))
    for base in ("/api/{version}", "/apis/{group}/{version}"):
        app.router.add_get(base, _list_resources)
        app.router.add_route("*", base + "/{rest:.+}", handlers.handle)
    runner = web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        handler_cancellation=True,
        shutdown_timeout=0.1,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        with anyio.CancelScope(shield=True):
            await runner.cleanup()


class _Handlers:
    """Answers requests."""

    def __init__(self, store: ObjectStore, token: str) -> None:
        self._store = store
        self._authorization = f"Bearer {token}"

    @web.middleware
    async def guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Check the token, and render what is refused."""
        given = request.headers.get("Authorization")
        if request.path not in _OPEN_PATHS and given != self._authorization:
            return _refuse(RefusedRequest(401, "Unauthorized", "Unauthorized"))
        try:
            return await handler(request)
        except RefusedRequest as refused:
            return _refuse(refused)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a request for objects.

        Raises:
            RefusedRequest: It can't be answered.
        """
        resource, (namespace, name), subresource = _target_of(request)
        if request.query.get("dryRun"):
            raise RefusedRequest(400, "BadRequest", "dryRun is not supported by the demo")
        match request.method:
            case "GET" if name:
                return _answer(self._store.get(resource, (namespace, name)))
            case "GET" if request.query.get("watch") in {"true", "1"}:
                return await self._watch(request, resource, namespace)
            case "GET":
                return self._list(request, resource, namespace)
            case "PATCH" if name:
                return await self._patch(request, resource, (namespace, name), subresource)
            case "DELETE" if name and not subresource:
                wanted = orjson.loads(await request.read() or b"{}").get("preconditions") or {}
                return _answer(self._store.delete(resource, (namespace, name), wanted))
        raise RefusedRequest(405, "MethodNotAllowed", "the demo doesn't support this method here")

    async def _patch(
        self, request: web.Request, resource: DemoResource, key: Key, subresource: str
    ) -> web.Response:
        try:
            document: JsonObject = orjson.loads(await request.read())
        except orjson.JSONDecodeError as error:
            raise RefusedRequest(400, "BadRequest", f"the demo takes only JSON: {error}") from error
        match request.content_type:
            case "application/apply-patch+yaml" if not subresource:
                manager = request.query.get("fieldManager", "unknown")
                body = self._store.apply(resource, key, document, manager)
            case "application/merge-patch+json":
                body = self._store.patch(resource, key, document, subresource=subresource)
            case _:
                message = f"the demo doesn't support {request.content_type}"
                raise RefusedRequest(415, "UnsupportedMediaType", message)
        return web.Response(body=body, headers=_JSON)

    def _list(self, request: web.Request, resource: DemoResource, namespace: str) -> web.Response:
        """A page; a continue token has the revision of the first page and the next key."""
        query, revision, start = request.query, str(self._store.revision), ""
        if token := query.get("continue"):
            revision, _, start = token.partition(":")
        found = [each for each in self._select(request, resource, namespace) if each[0] >= start]
        limit = int(query.get("limit", 0)) or len(found)
        metadata = {"resourceVersion": revision}
        if len(found) > limit:
            metadata["continue"] = f"{revision}:{found[limit][0]}"
        head = {
            "kind": f"{resource.kind}List",
            "apiVersion": resource.api_version,
            "metadata": metadata,
        }
        items = b",".join(body for _, body in found[:limit])
        return web.Response(
            body=b'%b,"items":[%b]}' % (orjson.dumps(head)[:-1], items), headers=_JSON
        )

    async def _watch(
        self, request: web.Request, resource: DemoResource, namespace: str
    ) -> web.StreamResponse:
        query, table = request.query, self._store.tables[resource]
        position, name = int(query.get("resourceVersion") or 0), _selected_name(request)
        lists = query.get("sendInitialEvents") == "true"
        opening: list[bytes] = []
        if lists or not position:
            position = self._store.revision
            found = self._select(request, resource, namespace)
            opening = [render_event("ADDED", body) for _, body in found]
        if lists:
            opening.append(_bookmark(resource, position, _LIST_END))
        response = web.StreamResponse(headers=_JSON)
        await response.prepare(request)
        with anyio.move_on_after(float(query.get("timeoutSeconds") or _WATCH_S)):
            for line in opening:
                await response.write(line)
            while position >= table.dropped:
                for revision, key, line in table.since(position):
                    position = revision
                    if namespace in {"", key[0]} and name in {"", key[1]}:
                        await response.write(line)
                if table.since(position):
                    continue
                with anyio.move_on_after(_BOOKMARK_S) as waiting:
                    await table.wait_changed()
                if waiting.cancelled_caught:
                    position = self._store.revision
                    await response.write(_bookmark(resource, position, {}))
            expired = RefusedRequest(410, "Expired", f"too old resource version: {position}")
            await response.write(render_event("ERROR", orjson.dumps(expired.status)))
        return response

    def _select(
        self, request: web.Request, resource: DemoResource, namespace: str
    ) -> list[tuple[str, bytes]]:
        """The objects that are asked for, by their keys as text."""
        name = _selected_name(request)
        return sorted(
            ("/".join(key), body)
            for key, body in self._store.tables[resource].bodies.items()
            if namespace in {"", key[0]} and name in {"", key[1]}
        )


async def _show(document: Mapping[str, Any], _request: web.Request) -> web.Response:
    return _answer(document)


async def _list_resources(request: web.Request) -> web.Response:
    """The kinds of a group."""
    served = _served(request)
    resources = []
    for each in served:
        entry = {"singularName": "", "namespaced": each.namespaced, "kind": each.kind}
        verbs = ["delete", "get", "list", "patch", "watch"]
        resources.append({"name": each.plural, **entry, "verbs": verbs})
        resources.append({"name": f"{each.plural}/status", **entry, "verbs": ["get", "patch"]})
    version = {"apiVersion": "v1", "groupVersion": served[0].api_version}
    return _answer({"kind": "APIResourceList", **version, "resources": resources})


def _answer(document: Mapping[str, Any], code: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(document), status=code, headers=_JSON)


def _refuse(refused: RefusedRequest) -> web.Response:
    return _answer(refused.status, refused.code)


def _bookmark(resource: DemoResource, revision: int, annotations: Mapping[str, str]) -> bytes:
    metadata = {"resourceVersion": str(revision), "annotations": annotations}
    head = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}
    return render_event("BOOKMARK", orjson.dumps(head))


def _served(request: web.Request) -> list[DemoResource]:
    """The resources of the group and version in the path.

    Raises:
        RefusedRequest: There are none.
    """
    wanted = (request.match_info.get("group", ""), request.match_info["version"])
    served = [each for each in RESOURCES if (each.group, each.version) == wanted]
    if not served:
        raise RefusedRequest(404, "NotFound", "the server could not find the requested resource")
    return served


def _target_of(request: web.Request) -> tuple[DemoResource, Key, str]:
    """What a path names: a kind, an object or all of them, and its subresource.

    Raises:
        RefusedRequest: Nothing that is served.
    """
    namespace, parts = "", request.match_info["rest"].split("/")
    if parts[0] == "namespaces" and len(parts) > 2 and parts[2] != "status":  # noqa: PLR2004
        namespace, parts = parts[1], parts[2:]
    plural, name, subresource = (*parts, "", "")[:3]
    for resource in _served(request):
        if resource.plural == plural and subresource in {"", "status"}:
            return resource, (namespace, name), subresource
    raise RefusedRequest(404, "NotFound", "the server could not find the requested resource")


def _selected_name(request: web.Request) -> str:
    """The one name that is selected, empty for all.

    Raises:
        RefusedRequest: Something else is selected.
    """
    selector = request.query.get("fieldSelector", "")
    if request.query.get("labelSelector") or (selector and not selector.startswith(_NAME)):
        raise RefusedRequest(400, "BadRequest", "the demo selects only by metadata.name")
    return selector.removeprefix(_NAME)
