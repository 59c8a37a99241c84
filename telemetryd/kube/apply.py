"""Pages and lines into a store: the step from bytes to what is held, in slices.

When to list or watch doesn't belong here.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

import anyio.lowlevel

from telemetryd.errors import BadResponse, UnreadableReason
from telemetryd.kube.decode import (
    Event,
    Item,
    ObjectDecoder,
    Page,
    decode_bookmark,
    decode_event,
)
from telemetryd.kube.lines import OversizeLine
from telemetryd.kube.resource import Resource, T
from telemetryd.kube.responses import error_of_event
from telemetryd.kube.store import SLICE_OBJECTS, Relist, Store
from telemetryd.kube.watch import is_older
from telemetryd.model import R, Unreadable
from telemetryd.stats import InformerStats

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Progress:
    """How far one watch has come.

    Attributes:
        started_s: When it was asked for, on the loop's clock.
        accepted: The API server has said yes.
        events: Applied so far, bookmarks left out.
    """

    started_s: float
    accepted: bool = False
    events: int = 0


class Applier(Generic[T, R]):
    """Moves one informer's store and counters."""

    def __init__(
        self,
        resource: Resource[T, R],
        store: Store[R],
        stats: InformerStats,
        now: Callable[[], float],
    ) -> None:
        self._resource = resource
        self._store = store
        self._stats = stats
        self._now = now
        self._decoder = ObjectDecoder(resource)
        self._unknown_logged = False

    def contact(self) -> None:
        """The API server has just been heard."""
        self._stats.last_contact_at = self._now()

    def is_older(self, version: str) -> bool:
        """Whether the resource version is certainly older than what is held."""
        held = self._store.resource_version
        return held is not None and is_older(version, held)

    async def take_page(self, page: Page, relist: Relist[R]) -> int:
        """Number of the page's objects whose JSON is broken."""
        self.contact()
        suspects = 0
        for count, raw in enumerate(page.items, 1):
            item = self._decoder.decode(raw)
            suspects += item.suspect
            self._count_unreadable(item.value)
            relist.add(item.key, item.value)
            if count % SLICE_OBJECTS == 0:
                await anyio.lowlevel.checkpoint()
        return suspects

    async def apply_lines(self, lines: list[bytes | OversizeLine], progress: Progress) -> bool:
        """Apply a batch of a watch and tell of it once.

        Returns:
            Whether it is still in order; False where it goes back behind what is held.

        Raises:
            BadResponse: A line isn't an event of this resource; those before it are applied.
            KubeError: An ERROR event; those before it are applied.
        """
        self.contact()
        before = progress.events
        try:
            for count, line in enumerate(lines, 1):
                if isinstance(line, OversizeLine):
                    in_order = self._apply_oversize(line, progress)
                else:
                    in_order = self._apply_event(decode_event(line), progress)
                if not in_order:
                    return False
                if count % SLICE_OBJECTS == 0:
                    await anyio.lowlevel.checkpoint()
        finally:
            if progress.events > before:
                self._stats.last_event_at = self._stats.last_contact_at
            self._store.flush()
        return True

    def _apply_event(self, event: Event, progress: Progress) -> bool:
        match event.type:
            case "ADDED" | "MODIFIED":
                item = self._decoder.decode(event.object)
                if item.suspect:
                    raise BadResponse("watch: an object that isn't JSON")
                self._count_unreadable(item.value)
            case "DELETED":
                item = self._decoder.identify(event.object, UnreadableReason.TYPE)
                if item.key is None:
                    raise BadResponse("watch: a deletion of nobody knows what")
            case "BOOKMARK":
                self._stats.events["bookmark"] += 1
                version = decode_bookmark(event.object).metadata.resourceVersion
                return self._move_to(version)
            case "ERROR":
                self._stats.events["error"] += 1
                raise error_of_event(bytes(event.object), f"watch of {self._resource.id}")
            case _:
                self._stats.events["unknown"] += 1
                if not self._unknown_logged:
                    self._unknown_logged = True
                    log.warning("unknown event type skipped resource=%s", self._resource.id)
                return True
        self._stats.events[event.type.lower()] += 1
        return self._apply_item(item, progress, deleted=event.type == "DELETED")

    def _apply_oversize(self, line: OversizeLine, progress: Progress) -> bool:
        event_type, item = self._decoder.identify_head(line.head)
        self._count_unreadable(item.value)
        return self._apply_item(item, progress, deleted=event_type == "DELETED")

    def _apply_item(self, item: Item[R], progress: Progress, *, deleted: bool) -> bool:
        version = item.resource_version
        if version and self.is_older(version):
            return False
        progress.events += 1
        if deleted and item.key is not None:
            self._store.remove(item.key)
        else:
            self._store.upsert(item.key, item.value)
        if version:
            self._store.move_to(version)
        return True

    def _move_to(self, version: str) -> bool:
        if self.is_older(version):
            return False
        self._store.move_to(version)
        return True

    def _count_unreadable(self, value: R | Unreadable) -> None:
        if isinstance(value, Unreadable):
            self._stats.decode_errors[value.reason] += 1
