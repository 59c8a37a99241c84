"""The object store: one revision counter as etcd has it, current objects, and recent history.

Objects are kept as encoded JSON and never change; history makes older snapshots and watches
possible until it is compacted. The rules of the API (preconditions, finalizers, ownership) are
``writes``'s, paging ``listing``'s.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import anyio
import orjson

from tests.apiserver.double.resources import JsonObject, ServedResource

_AFTER_ANY_KEY = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object at one revision.

    Attributes:
        key: ``namespace/name`` or ``name``; sorted as text, as etcd sorts keys.
        revision: Its resourceVersion.
        body: Encoded JSON, type first (``ServedResource.encode``).
    """

    key: str
    revision: int
    uid: str
    body: bytes

    def decode(self) -> JsonObject:
        """A fresh copy that the caller may change."""
        obj: JsonObject = orjson.loads(self.body)
        return obj

    @property
    def namespace(self) -> str:
        """Empty for cluster-scoped objects."""
        return self.key.rpartition("/")[0]

    @property
    def name(self) -> str:
        """``metadata.name``."""
        return self.key.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Change:
    """One step of history: ``old`` is None for an add, ``new`` for a delete."""

    key: str
    revision: int
    old: StoredObject | None
    new: StoredObject | None


@dataclass(frozen=True, slots=True)
class TableSnapshot:
    """The keys of one range at one revision, in order, and a way to the objects."""

    keys: list[str]
    current: Mapping[str, StoredObject]
    overlay: Mapping[str, StoredObject | None]

    def __getitem__(self, key: str) -> StoredObject:
        if key in self.overlay:
            older = self.overlay[key]
            if older is None:
                raise KeyError(key)
            return older
        return self.current[key]


class ObjectTable:
    """The objects of one resource and their recent history.

    Attributes:
        objects: What exists now, by key.
        dropped_revision: Revision of the newest change that history no longer holds; a watch that
            has not seen it can't go on.
    """

    def __init__(self, resource: ServedResource, *, history_events: int) -> None:
        self.resource = resource
        self.objects: dict[str, StoredObject] = {}
        self.dropped_revision = 0
        self._keys: list[str] = []
        self._history: deque[Change] = deque()
        self._history_events = history_events
        self._changed: anyio.Event | None = None

    def since(self, revision: int) -> list[Change] | None:
        """Changes after a revision in order; None when some of them are gone from history."""
        if revision < self.dropped_revision:
            return None
        newer: list[Change] = []
        for change in reversed(self._history):
            if change.revision <= revision:
                break
            newer.append(change)
        newer.reverse()
        return newer

    async def wait_changed(self, revision: int) -> None:
        """Return once there is a change after this revision; at once if there is one already."""
        while not (self._history and self._history[-1].revision > revision):
            if self.dropped_revision > revision:
                return
            if self._changed is None:
                self._changed = anyio.Event()
            await self._changed.wait()

    def snapshot(self, revision: int, *, prefix: str = "", start: str = "") -> TableSnapshot:
        """Keys from ``start`` on that begin with ``prefix``, as they were at ``revision``.

        The caller has made sure that history reaches back that far.
        """
        overlay: dict[str, StoredObject | None] = {}
        for change in reversed(self._history):
            if change.revision <= revision:
                break
            overlay[change.key] = change.old
        first, end = max(prefix, start), prefix + _AFTER_ANY_KEY
        keys = self._keys[bisect_left(self._keys, first) : bisect_left(self._keys, end)]
        if overlay:
            then = {key for key in overlay if first <= key < end}
            keys = sorted(
                {key for key in keys if key not in then}
                | {key for key in then if overlay[key] is not None}
            )
        return TableSnapshot(keys, self.objects, overlay)

    def record(self, change: Change) -> None:
        """Make a change the newest one. Only the store calls this."""
        if change.new is None:
            del self.objects[change.key]
            del self._keys[bisect_left(self._keys, change.key)]
        else:
            if change.old is None:
                insort(self._keys, change.key)
            self.objects[change.key] = change.new
        self._history.append(change)
        while len(self._history) > self._history_events:
            self.dropped_revision = self._history.popleft().revision
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def forget_history(self) -> None:
        """Drop all history; watches that have seen everything go on."""
        if self._history:
            self.dropped_revision = self._history[-1].revision
            self._history.clear()


class ObjectStore:
    """All tables under one revision counter.

    Attributes:
        revision: Of the last write; the first write gets 2, as with etcd.
        compacted_revision: Below this, nothing can be read or watched from.
    """

    def __init__(self, resources: Iterable[ServedResource], *, history_events: int) -> None:
        self.revision = 1
        self.compacted_revision = 0
        self._history_events = history_events
        self._tables: dict[str, ObjectTable] = {}
        for resource in resources:
            self.add_table(resource)

    def add_table(self, resource: ServedResource) -> None:
        """Start to serve a resource, with no objects."""
        self._tables[resource.id] = ObjectTable(resource, history_events=self._history_events)
        # What came before belongs to another table: a watch from then can't be answered.
        self._tables[resource.id].dropped_revision = self.revision if self.revision > 1 else 0

    def remove_table(self, resource: ServedResource) -> None:
        """Delete every object of a resource and serve it no more."""
        for key in list(self._tables[resource.id].objects):
            self.remove(resource, key)
        del self._tables[resource.id]

    def serves(self, resource: ServedResource) -> bool:
        """Whether the resource has a table."""
        return resource.id in self._tables

    def table(self, resource: ServedResource) -> ObjectTable:
        """The table of a resource.

        Raises:
            LookupError: It isn't served.
        """
        return self._tables[resource.id]

    def oldest_revision(self, resource: ServedResource) -> int:
        """The first revision from which this resource can still be watched or listed."""
        return max(self.compacted_revision, self._tables[resource.id].dropped_revision)

    def put(self, resource: ServedResource, key: str, obj: JsonObject) -> StoredObject:
        """Store an object under the next revision; another UID replaces it by delete and add."""
        table = self._tables[resource.id]
        uid = obj["metadata"]["uid"]
        old = table.objects.get(key)
        if old is not None and old.uid != uid:
            self.remove(resource, key)
            old = None
        self.revision += 1
        metadata = {**obj["metadata"], "resourceVersion": str(self.revision)}
        new = StoredObject(
            key=key,
            revision=self.revision,
            uid=uid,
            body=resource.encode({**obj, "metadata": metadata}),
        )
        table.record(Change(key, self.revision, old, new))
        return new

    def remove(self, resource: ServedResource, key: str) -> StoredObject:
        """Delete an object; its last state is what it was.

        Raises:
            KeyError: There is none.
        """
        table = self._tables[resource.id]
        old = table.objects[key]
        self.revision += 1
        table.record(Change(key, self.revision, old, None))
        return old

    def compact(self) -> None:
        """Forget all history up to now, as ``etcdctl compact`` does."""
        self.compacted_revision = self.revision
        for table in self._tables.values():
            table.forget_history()
