"""WATCH: events as JSON lines, bookmarks, and the ways in which a watch ends.

A watch reads from the table's history at its own pace, so it needs no buffer: one that falls
behind what history holds is dropped without an ERROR event, as the real server does. Query
parameters are ``options``'s.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import anyio
import orjson
from aiohttp import web

from tests.apiserver.double import status
from tests.apiserver.double.objects import Change, ObjectStore, ObjectTable, StoredObject
from tests.apiserver.double.options import ReadOptions
from tests.apiserver.double.resources import JsonObject, RequestTarget, ServedResource

DEFAULT_TIMEOUT_S = 1800.0
"""When the server ends a watch that names no timeout (--min-request-timeout)."""
_LAST_BOOKMARK_S = 2.0
"""How long before the end of a watch its last bookmark is sent (cacher.go)."""
_WRITE_BYTES = 1 << 18


@dataclass(slots=True, eq=False)
class _Watch:
    """One open watch."""

    resource: ServedResource
    scope: anyio.CancelScope
    writing: bool = False


@dataclass(slots=True)
class Watches:
    """The open watches of a server.

    Attributes:
        bookmark_interval_s: Between bookmarks of one watch.
        list_end: Streaming lists end with their bookmark; else with nothing.
    """

    store: ObjectStore
    bookmark_interval_s: float
    list_end: bool = True
    _open: set[_Watch] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self._open)

    def drop(self, resource: ServedResource | None = None) -> None:
        """End the watches of one resource, or all of them, without a word."""
        for watch in self._open:
            if resource is None or watch.resource is resource:
                watch.scope.cancel()

    async def serve(
        self, request: web.Request, target: RequestTarget, options: ReadOptions
    ) -> web.StreamResponse:
        """Answer a watch request until it ends."""
        table = self.store.table(target.resource)
        timeout_s = options.timeout_s or DEFAULT_TIMEOUT_S
        scope = anyio.CancelScope(deadline=anyio.current_time() + timeout_s)
        watch = _Watch(target.resource, scope)
        events = _Events(self.store, table, target, options, list_end=self.list_end)
        opening = events.opening()
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        # Known before the first await, so that an end ordered meanwhile isn't missed.
        self._open.add(watch)
        try:
            await response.prepare(request)
            with watch.scope:
                await self._stream(response, watch, events, opening)
            if not watch.writing:
                await response.write_eof()
            elif request.transport is not None:
                # Half a line is out: the end of the stream must not look like a clean one.
                request.transport.abort()
        except ConnectionResetError:
            # The client went first.
            return response
        finally:
            self._open.discard(watch)
        return response

    async def _stream(
        self,
        response: web.StreamResponse,
        watch: _Watch,
        events: "_Events",
        opening: Iterable[bytes],
    ) -> None:
        await _write(response, watch, opening)
        bookmark_at = self._next_bookmark(watch)
        while (lines := events.pending()) is not None:
            await _write(response, watch, lines)
            if events.options.allow_bookmarks and anyio.current_time() >= bookmark_at:
                await _write(response, watch, [events.bookmark()])
                bookmark_at = self._next_bookmark(watch)
            with anyio.CancelScope(deadline=bookmark_at):
                await events.table.wait_changed(events.position)

    def _next_bookmark(self, watch: _Watch) -> float:
        now, last = anyio.current_time(), watch.scope.deadline - _LAST_BOOKMARK_S
        regular = now + self.bookmark_interval_s
        return min(regular, last) if last > now else regular


@dataclass(slots=True)
class _Events:
    """What one watch has to say.

    Attributes:
        position: Revision up to which everything has been said.
        over: Nothing will follow the opening.
        list_end: The opening of a streaming list has its bookmark.
    """

    store: ObjectStore
    table: ObjectTable
    target: RequestTarget
    options: ReadOptions
    position: int = 0
    over: bool = False
    list_end: bool = True

    def opening(self) -> Iterator[bytes]:
        """Lines that stand before the first change; sets the position."""
        options, current = self.options, self.store.revision
        wanted = options.revision or 0
        if options.send_initial_events or (options.send_initial_events is None and not wanted):
            if wanted > current:
                return self._refuse(status.VersionTooLarge(wanted, current))
            self.position = current
            return self._initial()
        oldest = self.store.oldest_revision(self.target.resource)
        if 0 < wanted < oldest:
            message = f"too old resource version: {wanted} ({oldest})"
            return self._refuse(status.Expired(message))
        # One in the future waits until the store gets there.
        self.position = wanted or current
        return iter(())

    def _refuse(self, error: status.ApiError) -> Iterator[bytes]:
        self.over = True
        return iter([_line("ERROR", orjson.dumps(error.status))])

    def _initial(self) -> Iterator[bytes]:
        """Everything there is at the position, then the bookmark that ends a streaming list."""
        resource = self.target.resource
        snapshot = self.table.snapshot(self.position, prefix=self._prefix)
        # Read now: history may be compacted while a slow client takes the lines.
        selected = [snapshot[key].body for key in snapshot.keys if self._selects(key)]
        options = self.options
        ends_list = options.send_initial_events and options.allow_bookmarks and self.list_end
        closing = [_bookmark(resource, self.position, initial=True)] if ends_list else []
        return iter([*(_line("ADDED", body) for body in selected), *closing])

    @property
    def _prefix(self) -> str:
        return f"{self.target.namespace}/" if self.target.namespace else ""

    def _selects(self, key: str) -> bool:
        name = key.rpartition("/")[2]
        return key.startswith(self._prefix) and self.options.name in {"", name}

    def pending(self) -> Iterator[bytes] | None:
        """Lines for what changed since the position; None once nothing can follow any more."""
        changes = None if self.over else self.table.since(self.position)
        return None if changes is None else self._lines(changes)

    def _lines(self, changes: Iterable[Change]) -> Iterator[bytes]:
        for change in changes:
            self.position = change.revision
            if self._selects(change.key):
                yield self._changed(change)

    def bookmark(self) -> bytes:
        """The line that moves an idle client's revision on, past nothing that is still to come."""
        if self.table.since(self.position) == []:
            self.position = max(self.position, self.store.revision)
        return _bookmark(self.target.resource, self.position)

    def _changed(self, change: Change) -> bytes:
        if change.new is not None:
            return _line("MODIFIED" if change.old else "ADDED", change.new.body)
        assert change.old is not None
        return _line("DELETED", _at_revision(self.target.resource, change.old, change.revision))


async def _write(response: web.StreamResponse, watch: _Watch, lines: Iterable[bytes]) -> None:
    """Send lines in blocks; the flag is set while an end would cut one."""
    watch.writing = True
    block = bytearray()
    for line in lines:
        block += line
        if len(block) >= _WRITE_BYTES:
            await response.write(bytes(block))
            block.clear()
    if block:
        await response.write(bytes(block))
    watch.writing = False


def _line(event_type: str, body: bytes) -> bytes:
    return b'{"type":"%b","object":%b}\n' % (event_type.encode(), body)


def _at_revision(resource: ServedResource, stored: StoredObject, revision: int) -> bytes:
    """The last state of an object under the revision at which it went."""
    obj = stored.decode()
    obj["metadata"]["resourceVersion"] = str(revision)
    return resource.encode(obj)


def _bookmark(resource: ServedResource, revision: int, *, initial: bool = False) -> bytes:
    metadata: JsonObject = {"resourceVersion": str(revision)}
    if initial:
        metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
    return _line("BOOKMARK", resource.encode({"metadata": metadata}))
