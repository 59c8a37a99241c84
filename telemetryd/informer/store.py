"""The objects held of one resource: one writer, many readers, and a delta for each real change."""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any, Generic

import anyio.lowlevel

from telemetryd.model import Delta, InformerStatus, R, R_co, Unreadable
from telemetryd.stats import InformerStats

log = logging.getLogger(__name__)

SLICE_OBJECTS = 200
"""Objects that are processed before other tasks of the event loop run: 1 to 2 ms."""

MAX_LISTED_OBJECTS = 2_000_000
"""In one list, and held: twenty times the largest fleet that is planned for."""


class Reader(Generic[R_co]):
    """Records by key, as everyone but their informer uses them: for reading. All on one thread."""

    def __init__(self, stats: InformerStats) -> None:
        self._stats = stats
        self._items: dict[str, R_co | Unreadable] = {}
        self._known: int | None = None  # of the items, while the first list is applied
        self._unreadable = 0
        self._keyless = 0
        self._synced = False
        self._absent = False
        self._resource_version: str | None = None
        self._last_error = ""
        self._handlers: list[Callable[[Delta[R_co]], None]] = []
        self._listeners: list[Callable[[], None]] = []
        self._failed: set[int] = set()

    @property
    def synced(self) -> bool:
        """The first list is fully processed, or the resource is confirmed absent; never reverts."""
        return self._synced

    @property
    def unreadable(self) -> int:
        """Objects held that could not be read, those without a key included."""
        return self._unreadable + self._keyless

    @property
    def resource_version(self) -> str | None:
        """The last one applied, None before the first list and while the resource is absent."""
        return self._resource_version

    def get(self, key: str) -> R_co | Unreadable | None:
        """The record under the key, if any."""
        return self._items.get(key)

    def keys(self) -> list[str]:
        """All keys, sorted."""
        return sorted(self._items)

    def held(self) -> Iterator[tuple[str, R_co | Unreadable]]:
        """Keys and records that subscribers know of; stop before the store changes."""
        return islice(self._items.items(), self._known)

    def __len__(self) -> int:
        return len(self._items)

    def subscribe(self, handler: Callable[[Delta[R_co]], None]) -> Callable[[], None]:
        """Call the handler with each delta from now on, after an add for each object held.

        Returns:
            Unsubscribes it.
        """
        for key, value in list(self.held()):
            self._call(handler, Delta(key, None, value))
        self._handlers.append(handler)
        return partial(self._handlers.remove, handler)

    def on_change(self, handler: Callable[[], None]) -> Callable[[], None]:
        """Call the handler after each batch of deltas and whenever ``synced`` turns true.

        Returns:
            Unsubscribes it.
        """
        self._listeners.append(handler)
        return partial(self._listeners.remove, handler)

    def status(self) -> InformerStatus:
        """What the informer shows of itself."""
        return InformerStatus(
            resource=self._stats.resource,
            synced=self._synced,
            absent=self._absent,
            objects=len(self._items),
            unreadable=self.unreadable,
            resource_version=self._resource_version,
            last_contact_at=self._stats.last_contact_at,
            last_contact_boot_s=self._stats.last_contact_boot_s,
            last_error=self._last_error,
            list_method=self._stats.list_method,
        )

    def _call(self, handler: Callable[..., None], *delta: Delta[Any]) -> None:
        """Call a reader's handler; its failure is logged once and affects no other."""
        try:
            handler(*delta)
        except Exception:
            level = logging.DEBUG if id(handler) in self._failed else logging.ERROR
            self._failed.add(id(handler))
            log.log(level, "handler failed resource=%s", self._stats.resource, exc_info=True)


class Store(Reader[R]):
    """The same records for their informer, which alone changes them."""

    def __init__(self, stats: InformerStats) -> None:
        super().__init__(stats)
        self._changed = False

    async def fill(self, listed: dict[str, R | Unreadable]) -> None:
        """Hold the first list, as it is and not as a copy, in an empty store.

        Other tasks run in between.
        """
        self._items, self._known = listed, 0
        try:
            for key, value in listed.items():
                self._known += 1
                self._tell(key, None, value)
                if self._known % SLICE_OBJECTS == 0:
                    await anyio.lowlevel.checkpoint()
        finally:
            if self._known < len(listed):
                self._items = dict(self.held())
            self._known = None

    def upsert(self, key: str, value: R | Unreadable) -> None:
        """Hold a record under the key; an equal one makes no delta."""
        old = self._items.get(key)
        if old == value:
            return
        if old is not None and old.uid and value.uid and old.uid != value.uid:
            self._set(key, old, None)
            old = None
        self._set(key, old, value)

    def remove(self, key: str) -> None:
        """Remove what is held under the key."""
        old = self._items.get(key)
        if old is not None:
            self._set(key, old, None)

    def move_to(self, resource_version: str) -> None:
        """Note that all is applied up to this resource version."""
        self._resource_version = resource_version

    def missing_from(self, listed: dict[str, R | Unreadable]) -> list[str]:
        """Keys held that a list doesn't have."""
        return [key for key in self._items if key not in listed]

    def finish_list(self, resource_version: str, keyless: int) -> None:
        """Note that a whole list is applied, with so many objects whose key is unknown."""
        self._changed |= self._keyless != keyless or not self._synced or self._absent
        self._keyless = keyless
        self._resource_version = resource_version
        self._absent = False
        self._synced = True
        self.flush()

    def finish_absent(self) -> None:
        """Remove everything: the API server doesn't serve the resource."""
        for key in list(self._items):
            self.remove(key)
        self._changed |= not self._absent or not self._synced
        self._keyless = 0
        self._resource_version = None
        self._absent = True
        self._synced = True
        self.flush()

    def set_error(self, text: str) -> None:
        """What is failing now; empty while nothing is."""
        if text != self._last_error:
            self._last_error = text
            self._changed = True

    def flush(self) -> None:
        """End a batch: call the change handlers once, if anything changed."""
        if not self._changed:
            return
        self._changed = False
        for listener in tuple(self._listeners):
            self._call(listener)

    def _set(self, key: str, old: R | Unreadable | None, new: R | Unreadable | None) -> None:
        if new is None:
            del self._items[key]
        else:
            self._items[key] = new
        self._tell(key, old, new)

    def _tell(self, key: str, old: R | Unreadable | None, new: R | Unreadable | None) -> None:
        """Note a change that is applied, and call the handlers."""
        if isinstance(old, Unreadable):
            self._unreadable -= 1
        if isinstance(new, Unreadable):
            self._unreadable += 1
        self._changed = True
        delta = Delta(key, old, new)
        for handler in tuple(self._handlers):
            self._call(handler, delta)


class Relist(Generic[R]):
    """A list that is being made; the store changes only when it is complete.

    It holds keys and references. For an unchanged object that is the store's own record.

    Attributes:
        keyless: Objects so far whose key is unknown: they are only counted.
        ended_at: Resource version of a list as a stream, once its end was read; empty before.
    """

    def __init__(self, store: Store[R]) -> None:
        self._store = store
        self._first = not (store.synced or len(store))
        self._listed: dict[str, R | Unreadable] = {}
        self._changed: list[str] = []
        self.keyless = 0
        self.ended_at = ""

    def __len__(self) -> int:
        return len(self._listed)

    def add(self, key: str | None, value: R | Unreadable) -> None:
        """Add one object of the list."""
        if key is None:
            self.keyless += 1
            return
        old = self._store.get(key)
        if old == value and old is not None:
            self._listed[key] = old
        else:
            self._listed[key] = value
            if not self._first:
                self._changed.append(key)

    async def apply(self, resource_version: str) -> None:
        """Make the store equal to the list.

        Once the store has been synced, all changes are made in one step. Before that nothing
        relies on it, and other tasks run in between.
        """
        atomic = self._store.synced
        if self._first:
            await self._store.fill(self._listed)
        else:
            for key in self._store.missing_from(self._listed):
                self._store.remove(key)
            for count, key in enumerate(self._changed, 1):
                self._store.upsert(key, self._listed[key])
                if not atomic and count % SLICE_OBJECTS == 0:
                    await anyio.lowlevel.checkpoint()
        self._store.finish_list(resource_version, self.keyless)
