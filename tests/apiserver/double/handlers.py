"""From an HTTP request to a verb on a target, and back to a response.

Parses bodies and parameters; what the verbs mean is said in ``listing``, ``watching`` and
``writes``.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import anyio
import orjson
from aiohttp import web

from tests.apiserver.double import rules, status
from tests.apiserver.double.listing import list_objects
from tests.apiserver.double.objects import ObjectStore, StoredObject
from tests.apiserver.double.options import ReadOptions, is_true, parse_read_options, parse_revision
from tests.apiserver.double.resources import JsonObject, RequestTarget
from tests.apiserver.double.routes import PlainNotFound, Routes
from tests.apiserver.double.watching import Watches
from tests.apiserver.double.writes import Writer, Written

MAX_BODY_BYTES = 3 << 20
"""The API server's limit for request bodies (MaxRequestBodyBytes)."""
APPLY_PATCH = "application/apply-patch+yaml"
MERGE_PATCH = "application/merge-patch+json"

_COMPRESS_BYTES = 128 << 10
"""From where on the real server compresses (responsewriters, defaultGzipThresholdBytes)."""
_MAX_MANAGER_CHARS = 128
_Verb: TypeAlias = Callable[[web.Request, RequestTarget], Awaitable[web.StreamResponse]]
_JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Handlers:
    """Everything below ``/api`` and ``/apis``.

    Attributes:
        watch_list: Streaming lists are served.
        fresh_wait_s: How long a revision from the future is waited for.
    """

    store: ObjectStore
    writer: Writer
    watches: Watches
    routes: Routes
    watch_list: bool
    fresh_wait_s: float

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request.

        Raises:
            ApiError: Whatever else is wrong with it.
            BadRequest: It asks for a dry run.
            MethodNotAllowed: The target doesn't take this method.
            PlainNotFound: Nothing is served there.
        """
        target = self.routes.resolve(request.path)
        if not isinstance(target, RequestTarget):
            if request.method != "GET":
                raise status.MethodNotAllowed
            return web.Response(body=orjson.dumps(target), headers=_JSON)
        if request.query.get("dryRun"):
            # Better refused than carried out.
            raise status.BadRequest("dryRun is not supported by the demo")
        handle: _Verb
        match request.method, bool(target.name), target.subresource:
            case "GET", True, "" | "status":
                handle = self._get
            case "GET", False, _:
                handle = self._read
            case "POST", False, _:
                handle = self._post
            case "PATCH", True, "" | "status":
                handle = self._patch
            case "DELETE", True, "":
                handle = self._delete
            case _:
                raise status.MethodNotAllowed
        return await handle(request, target)

    async def _get(self, request: web.Request, target: RequestTarget) -> web.Response:
        await self._await_revision(parse_revision(request.query) or 0)
        stored = self.store.table(target.resource).objects.get(target.key)
        if stored is None:
            raise status.NoSuchObject(target.resource, target.name)
        return _object_response(stored)

    async def _read(self, request: web.Request, target: RequestTarget) -> web.StreamResponse:
        options = parse_read_options(request.query, watch_list=self.watch_list)
        if _needs_freshness(options):
            try:
                await self._await_revision(options.revision or 0)
            except status.VersionTooLarge:
                if not options.watch:  # a stream says so itself
                    raise
        if not self.store.serves(target.resource):
            raise PlainNotFound
        if options.watch:
            return await self.watches.serve(request, target, options)
        body = list_objects(self.store, target, options)
        response = web.Response(body=body, headers=_JSON)
        if len(body) > _COMPRESS_BYTES and "gzip" in request.headers.get("Accept-Encoding", ""):
            response.enable_compression(web.ContentCoding.gzip)
        return response

    async def _await_revision(self, revision: int) -> None:
        """Give the store the time to reach a revision.

        Raises:
            VersionTooLarge: It didn't.
        """
        if revision <= self.store.revision:
            return
        await anyio.sleep(self.fresh_wait_s)
        if revision > self.store.revision:
            raise status.VersionTooLarge(revision, self.store.revision)

    async def _post(self, request: web.Request, target: RequestTarget) -> web.Response:
        if target.resource.namespaced and not target.namespace:
            raise status.MethodNotAllowed
        body = await _read_object(request, target)
        return _written_response(self.writer.create(target, body, _manager(request)))

    async def _patch(self, request: web.Request, target: RequestTarget) -> web.Response:
        content_type = request.headers.get("Content-Type", "").partition(";")[0].strip()
        if content_type not in {APPLY_PATCH, MERGE_PATCH}:
            raise status.UnsupportedMediaType
        raw = await request.read()
        if content_type == MERGE_PATCH:
            patch = _parse(raw, status.InternalError("Invalid JSON Patch"))
            return _written_response(self.writer.merge_patch(target, patch, _manager(request)))
        # JSON is YAML; telemetryd sends nothing else, so no YAML parser is needed here.
        config = _parse(raw, status.BadRequest("error decoding YAML: the demo takes only JSON"))
        if not isinstance(config, dict):
            raise status.BadRequest("error decoding YAML: not an object")
        force = is_true(request.query, "force")
        return _written_response(self.writer.apply(target, config, _manager(request), force=force))

    async def _delete(self, request: web.Request, target: RequestTarget) -> web.Response:
        raw = await request.read()
        delete_options = _parse(raw, status.BadRequest("DeleteOptions: not JSON")) if raw else {}
        deletion = self.writer.delete(target, delete_options.get("preconditions") or {})
        if deletion.held:
            return _object_response(deletion.stored)
        gone = status.deleted(target, deletion.stored.uid)
        return web.Response(body=orjson.dumps(gone), headers=_JSON)


def _needs_freshness(options: ReadOptions) -> bool:
    """Plain watches wait for a future revision in silence, exact lists are refused it at once."""
    return bool(options.send_initial_events) if options.watch else not options.exact


def _manager(request: web.Request) -> str:
    """The field manager of a plain write: named, or what precedes the slash in the User-Agent."""
    named = request.query.get("fieldManager", "")
    agent = request.headers.get("User-Agent", "").partition("/")[0]
    return (named or agent or "unknown")[:_MAX_MANAGER_CHARS]


async def _read_object(request: web.Request, target: RequestTarget) -> JsonObject:
    kind = target.resource.kind
    unreadable = status.BadRequest(
        f"the object provided is unrecognized (must be of type {kind}): couldn't get version/kind;"
        " json parse error"
    )
    body = _parse(await request.read(), unreadable)
    if not isinstance(body, dict):
        raise unreadable
    return rules.complete(target.resource, body)


def _parse(raw: bytes, error: status.ApiError) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise error from None


def _object_response(stored: StoredObject, code: int = 200) -> web.Response:
    return web.Response(body=stored.body, status=code, headers=_JSON)


def _written_response(written: Written) -> web.Response:
    return _object_response(written.stored, 201 if written.created else 200)
