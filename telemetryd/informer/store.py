"""What is held of one resource: one writer, many readers, and a delta for each real change.

Where objects come from doesn't belong here. Readers are given the store as a ``Reader``.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Generic

import anyio.lowlevel

from telemetryd.informer.resource import Reader
from telemetryd.model import Delta, InformerStatus, R, Unreadable
from telemetryd.stats import InformerStats

log = logging.getLogger(__name__)

SLICE_OBJECTS = 200
"""Objects that are worked on before the event loop gets its turn: 1 to 2 ms."""


class Store(Generic[R]):
    """Records by key.

    The informer is the only one that calls ``upsert``, ``remove``, ``relist`` and the like;
    everyone else sees ``reader``. All on one thread.
    """

    def __init__(self, stats: InformerStats) -> None:
        self._stats = stats
        self._items: dict[str, R | Unreadable] = {}
        self._unreadable = 0
        self._keyless = 0
        self._synced = False
        self._absent = False
        self._resource_version: str | None = None
        self._last_error = ""
        self._handlers: list[Callable[[Delta[R]], None]] = []
        self._listeners: list[Callable[[], None]] = []
        self._failed: set[int] = set()
        self._changed = False

    # -- what readers see

    @property
    def reader(self) -> Reader[R]:
        """The store without its writing side."""
        return self

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

    def get(self, key: str) -> R | Unreadable | None:
        """The record under the key, None where there is none."""
        return self._items.get(key)

    def keys(self) -> list[str]:
        """All keys, sorted."""
        return sorted(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def subscribe(self, handler: Callable[[Delta[R]], None]) -> Callable[[], None]:
        """Call the handler with each delta from now on, after an add for each object held.

        Returns:
            Ends that.
        """
        for key, value in list(self._items.items()):
            self._call(handler, Delta(key, None, value))
        self._handlers.append(handler)
        return partial(self._handlers.remove, handler)

    def on_change(self, handler: Callable[[], None]) -> Callable[[], None]:
        """Call the handler after each batch of deltas and whenever ``synced`` turns true.

        Returns:
            Ends that.
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

    # -- what the informer does

    def upsert(self, key: str, value: R | Unreadable) -> None:
        """Hold this under the key; one that is held already makes no delta."""
        old = self._items.get(key)
        if old == value:
            return
        if old is not None and old.uid and value.uid and old.uid != value.uid:
            self._set(key, old, None)
            old = None
        self._set(key, old, value)

    def remove(self, key: str) -> None:
        """Hold nothing under the key any more."""
        old = self._items.get(key)
        if old is not None:
            self._set(key, old, None)

    def move_to(self, resource_version: str) -> None:
        """All up to this resource version is applied."""
        self._resource_version = resource_version

    def missing_from(self, listed: dict[str, R | Unreadable]) -> list[str]:
        """Keys that are held and that a list doesn't hold."""
        return [key for key in self._items if key not in listed]

    def finish_list(self, resource_version: str, keyless: int) -> None:
        """A list has been applied as a whole: this is where the store stands now."""
        self._changed |= self._keyless != keyless or not self._synced or self._absent
        self._keyless = keyless
        self._resource_version = resource_version
        self._absent = False
        self._synced = True
        self.flush()

    def finish_absent(self) -> None:
        """The API server doesn't serve the resource: whatever was held of it is gone."""
        for key in list(self._items):
            self.remove(key)
        self._changed |= not self._absent or not self._synced
        self._keyless = 0
        self._resource_version = None
        self._absent = True
        self._synced = True
        self.flush()

    def set_error(self, text: str) -> None:
        """What stands in the way now; empty while all is well."""
        if text != self._last_error:
            self._last_error = text
            self._changed = True

    def flush(self) -> None:
        """End a batch: tell once that something changed, if anything did."""
        if not self._changed:
            return
        self._changed = False
        for listener in tuple(self._listeners):
            try:
                listener()
            except Exception:  # noqa: BLE001 - a reader's defect is the reader's
                self._log_failure(listener)

    def _set(self, key: str, old: R | Unreadable | None, new: R | Unreadable | None) -> None:
        if isinstance(old, Unreadable):
            self._unreadable -= 1
        if isinstance(new, Unreadable):
            self._unreadable += 1
        if new is None:
            del self._items[key]
        else:
            self._items[key] = new
        self._changed = True
        delta = Delta(key, old, new)
        for handler in tuple(self._handlers):
            self._call(handler, delta)

    def _call(self, handler: Callable[[Delta[R]], None], delta: Delta[R]) -> None:
        try:
            handler(delta)
        except Exception:  # noqa: BLE001 - a reader's defect is the reader's
            self._log_failure(handler)

    def _log_failure(self, handler: object) -> None:
        """A reader's defect is the reader's: it is told once, with its traceback."""
        level = logging.DEBUG if id(handler) in self._failed else logging.ERROR
        self._failed.add(id(handler))
        log.log(level, "handler failed resource=%s", self._stats.resource, exc_info=True)


class Relist(Generic[R]):
    """A list on its way into the store: nothing of it shows before the last page.

    It holds keys and references: of an object that hasn't changed, the store's own record.
    """

    def __init__(self, store: Store[R]) -> None:
        self._store = store
        self._listed: dict[str, R | Unreadable] = {}
        self._changed: list[str] = []
        self._keyless = 0

    def __len__(self) -> int:
        return len(self._listed)

    @property
    def keyless(self) -> int:
        """Objects so far whose key can't be told: they are only counted."""
        return self._keyless

    def add(self, key: str | None, value: R | Unreadable) -> None:
        """One object of the list."""
        if key is None:
            self._keyless += 1
            return
        old = self._store.get(key)
        if old == value and old is not None:
            self._listed[key] = old
        else:
            self._listed[key] = value
            self._changed.append(key)

    async def apply(self, resource_version: str) -> None:
        """The list shows as a whole.

        While the store has never been synced nobody relies on it, and the loop gets its turn in
        between; afterwards all changes are made in one step.
        """
        atomic = self._store.synced
        removed = self._store.missing_from(self._listed)
        for key in removed:
            self._store.remove(key)
        for count, key in enumerate(self._changed, 1):
            self._store.upsert(key, self._listed[key])
            if not atomic and count % SLICE_OBJECTS == 0:
                await anyio.lowlevel.checkpoint()
        self._store.finish_list(resource_version, self._keyless)
