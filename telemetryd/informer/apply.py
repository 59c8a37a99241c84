"""Decodes pages and lines and applies them to the store, a slice at a time."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, Generic

import anyio.lowlevel

from telemetryd.errors import BadResponse, Invalid
from telemetryd.informer.decode import (
    Event,
    Item,
    ObjectDecoder,
    Page,
    decode_bookmark,
    parse_event,
    parse_page,
    scan_event,
    scan_page,
)
from telemetryd.informer.resource import Resource, T
from telemetryd.informer.scan import ObjectIdentity, ScanNeeded, scan_identity, scan_in_turn
from telemetryd.informer.source import Lines, OversizeLine
from telemetryd.informer.store import MAX_LISTED_OBJECTS, SLICE_OBJECTS, Relist, Store
from telemetryd.kube.responses import error_of_event
from telemetryd.model import R, Unreadable
from telemetryd.stats import InformerStats
from telemetryd.timing import boot_time_s

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Progress:
    """How far one watch has come.

    Attributes:
        started_s: When it was requested, on the event loop's clock.
        events: Applied so far, without bookmarks.
        regressed: An event was older than what is held.
    """

    started_s: float
    accepted: bool = False
    events: int = 0
    regressed: bool = False


def is_older(version: str, held: str) -> bool:
    """Whether one resource version of a resource is certainly older than another.

    Only decimals without a leading zero compare (KEP-5504): by length, then as text. For any other
    pair nothing is certain.
    """
    if not (_is_comparable(version) and _is_comparable(held)):
        return False
    return (len(version), version) < (len(held), held)


def _is_comparable(version: str) -> bool:
    return version.isascii() and version.isdigit() and not version.startswith("0")


async def read_page(body: bytes, resource: Resource[Any, Any]) -> Page:
    """Decode the body of one page of a list.

    Raises:
        BadResponse: It isn't a page of this resource.
    """
    try:
        return parse_page(body, resource)
    except ScanNeeded:
        return await scan_in_turn(lambda text, check: scan_page(text, resource, check), body)


@dataclass(slots=True, eq=False)
class Applier(Generic[T, R]):
    """Updates one informer's store and counters."""

    resource: Resource[T, R]
    store: Store[R]
    stats: InformerStats
    now: Callable[[], float]
    _decoder: ObjectDecoder[T, R] = field(init=False)
    _unknown_logged: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._decoder = ObjectDecoder(self.resource)

    def contact(self) -> None:
        """Note that the API server has just answered."""
        self.stats.last_contact_at = self.now()
        self.stats.last_contact_boot_s = boot_time_s()

    def is_older(self, version: str) -> bool:
        """Whether the resource version is certainly older than what is held."""
        held = self.store.resource_version
        return held is not None and is_older(version, held)

    async def take_page(self, page: Page, relist: Relist[R]) -> int:
        """Decode a page into the list; returns how many of its objects have broken JSON.

        Raises:
            BadResponse: One is of another kind.
        """
        suspects = 0
        decode = self._decoder.decode
        identities = page.identities or repeat(None)
        for count, (raw, known) in enumerate(zip(page.items, identities, strict=False), 1):
            try:
                item = decode(raw, known)
            except ScanNeeded:
                item = decode(raw, await scan_in_turn(scan_identity, bytes(raw)))
            suspects += item.suspect
            self._count_unreadable(item.value)
            relist.add(item.key, item.value)
            if count % SLICE_OBJECTS == 0:
                await anyio.lowlevel.checkpoint()
        return suspects

    def take_slice(self, lines: Lines, relist: Relist[R]) -> Lines:
        """Decode some lines of a streamed list into the list: a slice, or up to its end.

        Returns:
            The lines that are left: after the end of the list, which ``relist.ended_at`` tells; or
            for ``take_lines``.

        Raises:
            Invalid: An event that a streamed list doesn't have: the server sends a plain watch.
            BadResponse: A line isn't an event of this resource, or there are too many objects.
            KubeError: An ERROR event.
        """
        return lines[self._take_some(lines, 0, relist) :]

    async def take_lines(self, lines: Lines, relist: Relist[R]) -> Lines:
        """As ``take_slice``, to the end of the list or of the lines, other tasks in between.

        Returns:
            The lines after the end of the list.

        Raises:
            KubeError: As ``take_slice``.
        """
        at = 0
        while not relist.ended_at:
            at = self._take_some(lines, at, relist)
            if at == len(lines) or relist.ended_at:
                break
            await anyio.lowlevel.checkpoint()
            line = lines[at]
            at += 1
            try:
                self._take_listed(self._listed_line(line), relist)
            except ScanNeeded:
                listed = self._listed(*await scan_in_turn(scan_event, _text(line)))
                self._take_listed(listed, relist)
        return lines[at:]

    def _take_some(self, lines: Lines, start: int, relist: Relist[R]) -> int:
        """Take a slice from ``start``; returns the index of the next line.

        It ends early behind the end of the list, and before a line that has to be scanned.
        """
        end = min(start + SLICE_OBJECTS, len(lines))
        for at in range(start, end):
            try:
                self._take_listed(self._listed_line(lines[at]), relist)
            except ScanNeeded:
                return at
            if relist.ended_at:
                return at + 1
        return end

    def _listed_line(self, line: bytes | OversizeLine) -> Item[R] | str:
        """One line as ``_listed`` says.

        Raises:
            ScanNeeded: Only ``scan_event`` can decode it.
            KubeError: As ``_listed``.
        """
        if isinstance(line, OversizeLine):
            return self._listed_oversize(line)
        whole = self._decoder.decode_event(line)
        if whole is not None and whole[0] == "ADDED":
            return whole[1]
        return self._listed(parse_event(line), None)

    def _take_listed(self, listed: Item[R] | str, relist: Relist[R]) -> None:
        """Take an object, or note the end of the list.

        Raises:
            BadResponse: There are too many objects.
        """
        if isinstance(listed, str):
            relist.ended_at = listed
            return
        self._count_unreadable(listed.value)
        relist.add(listed.key, listed.value)
        if len(relist) + relist.keyless > MAX_LISTED_OBJECTS:
            raise BadResponse(f"list: more than {MAX_LISTED_OBJECTS} objects")

    def _listed(self, event: Event, known: ObjectIdentity | None) -> Item[R] | str:
        """One object of a streamed list, or at its end the list's resource version.

        Raises:
            Invalid: The event is neither.
            BadResponse: An object of another kind, or broken JSON.
            KubeError: An ERROR event.
        """
        if event.type == "ADDED":
            item = self._decoder.decode(event.object, known)
            if item.suspect:
                raise BadResponse("list: an object that isn't JSON")
            return item
        if event.type == "ERROR":
            failure = error_of_event(bytes(event.object), f"list of {self.resource.id}")
            raise failure
        if event.type == "BOOKMARK":
            bookmark = decode_bookmark(event.object)
            if bookmark.ends_list:
                return bookmark.metadata.resourceVersion
        raise Invalid("list: stream without an end-of-list bookmark")

    def _listed_oversize(self, line: OversizeLine) -> Item[R] | str:
        event_type, item = self._decoder.identify_head(line.head)
        if event_type != "ADDED":
            raise BadResponse("list: an event that is too large to be an object's")
        return item

    def apply_slice(self, lines: Lines, progress: Progress) -> Lines:
        """Apply some lines of a watch, a slice at most, and call the change handlers once.

        Returns:
            The lines that are left: from an event on that is older than what is held, of which
            ``progress`` tells; or for ``apply_lines``.

        Raises:
            BadResponse: A line isn't an event of this resource; those before it are applied.
            KubeError: An ERROR event; those before it are applied.
        """
        before, at = progress.events, -1
        try:
            at = self._apply_some(lines, 0, progress)
        finally:
            self._finish_batch(progress, before, worked=at >= 0)
        return lines[at:]

    async def apply_lines(self, lines: Lines, progress: Progress) -> bool:
        """As ``apply_slice``, all of them, other tasks in between; the handlers are called once.

        Returns:
            False where an event is older than what is held.

        Raises:
            KubeError: As ``apply_slice``.
        """
        before, worked = progress.events, False
        try:
            at = self._apply_some(lines, 0, progress)
            while at < len(lines) and not progress.regressed:
                await anyio.lowlevel.checkpoint()
                try:
                    self._apply_line(lines[at], progress)
                except ScanNeeded:
                    event, known = await scan_in_turn(scan_event, _text(lines[at]))
                    self._apply_event(event, known, progress)
                if not progress.regressed:
                    at = self._apply_some(lines, at + 1, progress)
            worked = True
        finally:
            self._finish_batch(progress, before, worked=worked)
        return not progress.regressed

    def _finish_batch(self, progress: Progress, before: int, *, worked: bool) -> None:
        applied = progress.events > before
        if applied or (worked and not progress.regressed):
            self.contact()
        if applied:
            self.stats.last_event_at = self.stats.last_contact_at
        self.store.flush()

    def _apply_some(self, lines: Lines, start: int, progress: Progress) -> int:
        """Apply a slice from ``start``; returns the index of the next line.

        It ends early before a line that has to be scanned, and at an event that is older than what
        is held.
        """
        end = min(start + SLICE_OBJECTS, len(lines))
        for at in range(start, end):
            try:
                self._apply_line(lines[at], progress)
            except ScanNeeded:
                return at
            if progress.regressed:
                return at
        return end

    def _apply_line(self, line: bytes | OversizeLine, progress: Progress) -> None:
        """Apply one line.

        Raises:
            ScanNeeded: Only ``scan_event`` can decode it.
            KubeError: As ``apply_slice``.
        """
        if isinstance(line, OversizeLine):
            self._apply_oversize(line, progress)
            return
        whole = self._decoder.decode_event(line)
        if whole is None:
            self._apply_event(parse_event(line), None, progress)
            return
        kind, item = whole
        self._count_unreadable(item.value)
        self.stats.events["modified" if kind == "MODIFIED" else "added"] += 1
        self._apply_item(item, progress, deleted=False)

    def _apply_event(self, event: Event, known: ObjectIdentity | None, progress: Progress) -> None:
        match event.type:
            case "ADDED" | "MODIFIED":
                item = self._decoder.decode(event.object, known)
                if item.suspect:
                    raise BadResponse("watch: an object that isn't JSON")
                self._count_unreadable(item.value)
            case "DELETED":
                item = self._decoder.identify_deleted(event.object, known)
            case "BOOKMARK":
                self.stats.events["bookmark"] += 1
                self._move_to(decode_bookmark(event.object).metadata.resourceVersion, progress)
                return
            case "ERROR":
                self.stats.events["error"] += 1
                raise error_of_event(bytes(event.object), f"watch of {self.resource.id}")
            case _:
                self.stats.events["unknown"] += 1
                if not self._unknown_logged:
                    self._unknown_logged = True
                    log.warning("unknown event type skipped resource=%s", self.resource.id)
                return
        self.stats.events[event.type.lower()] += 1
        self._apply_item(item, progress, deleted=event.type == "DELETED")

    def _apply_oversize(self, line: OversizeLine, progress: Progress) -> None:
        event_type, item = self._decoder.identify_head(line.head)
        self._count_unreadable(item.value)
        if event_type not in {"ADDED", "MODIFIED", "DELETED"}:
            self.stats.events["error" if event_type == "ERROR" else "unknown"] += 1
            raise BadResponse("watch: an event that is too large to be an object's")
        self.stats.events[event_type.lower()] += 1
        self._apply_item(item, progress, deleted=event_type == "DELETED")

    def _apply_item(self, item: Item[R], progress: Progress, *, deleted: bool) -> None:
        """Apply one event, unless it is older than what is held.

        Raises:
            BadResponse: Its object has no name, so that only a list can tell what changed; or
                there are too many objects.
        """
        if item.key is None:
            raise BadResponse("watch: an event without an object name")
        version = item.resource_version
        if version and self.is_older(version):
            progress.regressed = True
            return
        progress.events += 1
        if deleted:
            self.store.remove(item.key)
        elif len(self.store) < MAX_LISTED_OBJECTS or self.store.get(item.key) is not None:
            self.store.upsert(item.key, item.value)
        else:
            raise BadResponse(f"watch: more than {MAX_LISTED_OBJECTS} objects")
        if version:
            self.store.move_to(version)

    def _move_to(self, version: str, progress: Progress) -> None:
        if self.is_older(version):
            progress.regressed = True
        else:
            self.store.move_to(version)

    def _count_unreadable(self, value: R | Unreadable) -> None:
        if isinstance(value, Unreadable):
            self.stats.decode_errors[value.reason] += 1


def _text(line: bytes | OversizeLine) -> bytes:
    return line.head if isinstance(line, OversizeLine) else line
