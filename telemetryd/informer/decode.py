"""Decodes the bytes of lists and watches. A bad object costs itself alone.

Objects are decoded into their kind's struct: fields that it doesn't declare never become Python
objects.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import msgspec

from telemetryd.bounds import IDENTIFIER_CHARS, identifier
from telemetryd.errors import BadResponse, UnreadableObject, UnreadableReason
from telemetryd.informer.resource import Resource, T
from telemetryd.informer.scan import (
    LenientMeta,
    ObjectIdentity,
    ScanError,
    ScanNeeded,
    Walker,
    parse_identity,
    scalar,
    unchecked,
    walk_identity,
)
from telemetryd.kube.objects import UNPARSABLE
from telemetryd.model import R, Unreadable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list.

    Attributes:
        items: The objects, not yet decoded; each may keep the whole page alive.
        identities: Theirs, if the page had to be scanned; otherwise None.
    """

    resource_version: str
    continue_token: str
    items: Sequence[msgspec.Raw]
    identities: Sequence[ObjectIdentity] | None = None


class Item(msgspec.Struct, Generic[R], frozen=True, gc=False):
    """One object.

    Attributes:
        key: ``namespace/name`` or ``name``; None if unknown.
        suspect: Its JSON is broken. API servers don't send that, so a proxy may have broken it.
    """

    key: str | None
    resource_version: str | None
    value: R | Unreadable
    suspect: bool = False


class Event(msgspec.Struct, frozen=True, gc=False):
    """One event of a watch, its object not yet decoded.

    Attributes:
        type: ``ADDED``, ``MODIFIED``, ``DELETED``, ``BOOKMARK``, ``ERROR`` or one not known.
    """

    type: str
    object: msgspec.Raw = msgspec.Raw(b"null")


_LIST_END = "k8s.io/initial-events-end"


class Bookmark(msgspec.Struct, frozen=True, gc=False):
    """The object of a BOOKMARK: a position, and annotations if any."""

    class Meta(msgspec.Struct, frozen=True, gc=False):
        """Its metadata."""

        resourceVersion: str  # noqa: N815 - the field's name in JSON
        annotations: dict[str, object] | None = None

    metadata: Meta
    kind: str | None = None

    @property
    def ends_list(self) -> bool:
        """Whether it ends a streamed list."""
        return (self.metadata.annotations or {}).get(_LIST_END) == "true"


class _PageMeta(msgspec.Struct, gc=False):
    resourceVersion: str | None = None  # noqa: N815
    continue_: str | None = msgspec.field(name="continue", default=None)


class _PageBody(msgspec.Struct, gc=False):
    kind: str | None = None
    apiVersion: str | None = None  # noqa: N815
    metadata: _PageMeta | None = None
    items: list[msgspec.Raw] | msgspec.UnsetType | None = msgspec.UNSET


_PAGE = msgspec.json.Decoder(_PageBody)
_EVENT = msgspec.json.Decoder(Event)
_BOOKMARK = msgspec.json.Decoder(Bookmark)

_LARGE_PAGE_BYTES = 4 * 1024 * 1024
_SPARSE_BYTES = 8
"""A large page with a comma for each so many bytes (API objects have 30) may hold millions of tiny
values, each of which takes many times its own size in memory: they are counted first."""

_MAX_PAGE_ITEMS = 500_000


def parse_page(body: bytes, resource: Resource[T, R]) -> Page:
    """One page of a list, its objects still bytes.

    Raises:
        ScanNeeded: Only ``scan_page`` can decode it.
        BadResponse: It isn't a list of the resource's kind with a resource version.
    """
    if len(body) > _LARGE_PAGE_BYTES and body.count(b",") > len(body) // _SPARSE_BYTES:
        raise ScanNeeded
    try:
        page = _PAGE.decode(body)
    except msgspec.ValidationError as error:
        raise BadResponse(f"list of {resource.id}: not a list: {error}") from error
    except UNPARSABLE as error:
        raise ScanNeeded from error
    return _checked(page, resource, None)


def scan_page(body: bytes, resource: Resource[T, R], check: Callable[[], None] = unchecked) -> Page:
    """A page that msgspec refuses as a whole, object by object, so that only bad ones are lost.

    Raises:
        BadResponse: It isn't a list of the resource's kind with a resource version.
    """
    head: dict[str, msgspec.Raw] = {}
    items: list[msgspec.Raw] | None = None
    identities: list[ObjectIdentity] = []
    walker = Walker(body, check=check)
    view = memoryview(body)
    try:
        for name in walker.members():
            if name == "items" and walker.opens(b"["):
                items, identities = [], []
                for _ in walker.elements():
                    if len(items) >= _MAX_PAGE_ITEMS:
                        raise BadResponse(f"list of {resource.id}: too many values on a page")
                    start = walker.at
                    identities.append(walk_identity(walker))
                    items.append(msgspec.Raw(view[start : walker.at]))
            elif name in _PageBody.__struct_fields__:
                head[name] = msgspec.Raw(view[walker.skip()])
        walker.end()
        page = _PAGE.decode(msgspec.json.encode(head))
    except (ScanError, *UNPARSABLE) as error:
        raise BadResponse(f"list of {resource.id}: not JSON") from error
    if items is not None:
        page.items = items
    return _checked(page, resource, identities)


def _checked(
    page: _PageBody, resource: Resource[T, R], identities: list[ObjectIdentity] | None
) -> Page:
    what = f"list of {resource.id}"
    api_version = f"{resource.group}/{resource.version}" if resource.group else resource.version
    if page.kind is None and not page.items:
        raise BadResponse(f"{what}: without kind and items")
    if page.kind not in {None, f"{resource.kind}List"} or page.apiVersion not in {
        None,
        api_version,
    }:
        raise BadResponse(f"{what}: got another kind")
    if page.items is msgspec.UNSET:
        raise BadResponse(f"{what}: without items")
    meta = page.metadata
    version = _version(meta.resourceVersion) if meta is not None else None
    if meta is None or version is None:
        raise BadResponse(f"{what}: without a resource version")
    return Page(version, meta.continue_ or "", page.items or [], identities)


def parse_event(line: bytes) -> Event:
    """One line of a watch.

    Raises:
        ScanNeeded: Only ``scan_event`` can decode it.
        BadResponse: It isn't an event.
    """
    try:
        return _EVENT.decode(line)
    except RecursionError as error:
        raise ScanNeeded from error
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise BadResponse("watch: a line that isn't an event") from error


def scan_event(line: bytes, check: Callable[[], None] = unchecked) -> tuple[Event, ObjectIdentity]:
    """One line of a watch that msgspec refuses, and the identity of its object.

    Raises:
        BadResponse: It isn't an event.
    """
    event_type = None
    raw = msgspec.Raw(b"null")
    identity = ObjectIdentity()
    walker = Walker(line, check=check)
    try:
        for name in walker.members():
            if name == "type":
                event_type = scalar(line[walker.skip()])
            elif name == "object":
                start = walker.at
                identity = walk_identity(walker)
                raw = msgspec.Raw(line[start : walker.at])
        walker.end()
    except ScanError as error:
        raise BadResponse("watch: a line that isn't an event") from error
    if event_type is None:
        raise BadResponse("watch: an event without a type")
    return Event(event_type, raw), identity


def decode_bookmark(raw: bytes | msgspec.Raw) -> Bookmark:
    """The object of a BOOKMARK.

    Raises:
        BadResponse: It carries no position.
    """
    try:
        bookmark = _BOOKMARK.decode(raw)
    except UNPARSABLE as error:
        raise BadResponse("watch: a bookmark without a resource version") from error
    if _version(bookmark.metadata.resourceVersion) is None:
        raise BadResponse("watch: a bookmark without a resource version")
    return bookmark


class ObjectDecoder(Generic[T, R]):
    """Decodes and projects the objects of one resource."""

    __slots__ = ("_decoder", "_events", "_logged", "_resource")

    def __init__(self, resource: Resource[T, R]) -> None:
        self._resource = resource
        self._decoder = msgspec.json.Decoder(resource.object_type)
        fields = [("type", str), ("object", resource.object_type)]
        event_type: Any = msgspec.defstruct("EventInOne", fields, gc=False)
        self._events = msgspec.json.Decoder(event_type)
        self._logged = False

    def decode_event(self, line: bytes) -> tuple[str, Item[R]] | None:
        """Type and object of an ADDED or MODIFIED, of one pass over the line.

        None for any other line, and where anything is wrong with it: ``parse_event`` tells what.

        Raises:
            BadResponse: It is whole, but of another kind.
        """
        try:
            event = self._events.decode(line)
        except UNPARSABLE:
            return None
        if event.type not in {"MODIFIED", "ADDED"}:
            return None
        return event.type, self._item(event.object)

    def decode(self, raw: bytes | msgspec.Raw, known: ObjectIdentity | None = None) -> Item[R]:
        """One object's record, or an ``Unreadable`` in its place.

        Raises:
            ScanNeeded: Its identity isn't known, and only a scan can find it.
            BadResponse: It is whole, but of another kind.
        """
        try:
            decoded = self._decoder.decode(raw)
        except msgspec.ValidationError:
            return self._unreadable(known or parse_identity(raw), UnreadableReason.TYPE)
        except RecursionError:
            return self._unreadable(known or parse_identity(raw), UnreadableReason.MALFORMED)
        except (msgspec.MsgspecError, UnicodeError):
            found = known or parse_identity(raw)
            return self._unreadable(found, UnreadableReason.MALFORMED, suspect=True)
        return self._item(decoded)

    def _item(self, decoded: T) -> Item[R]:
        self._check_kind(decoded.kind)
        meta = decoded.metadata
        if meta is None:
            return Item(None, None, Unreadable("", UnreadableReason.MISSING))
        meta.name, meta.namespace = _identifier(meta.name), _identifier(meta.namespace)
        meta.uid = _identifier(meta.uid)
        key = self._key(meta.namespace, meta.name)
        version = _version(meta.resourceVersion)
        if key is None or not meta.uid or version is None:
            return Item(key, version, Unreadable(meta.uid, UnreadableReason.MISSING))
        return Item(key, version, self._project(key, meta.uid, decoded))

    def identify_deleted(
        self, raw: bytes | msgspec.Raw, known: ObjectIdentity | None = None
    ) -> Item[R]:
        """A deleted object: only its identity is read.

        Raises:
            ScanNeeded: Its identity isn't known, and only a scan can find it.
            BadResponse: It is of another kind.
        """
        return self._unreadable(known or parse_identity(raw), UnreadableReason.TYPE)

    def identify_head(self, head: bytes) -> tuple[str, Item[R]]:
        """Type and object of an event that was too large, from the event's first bytes.

        Raises:
            BadResponse: It is of another kind.
        """
        walker = Walker(head, partial=True)
        event_type = ""
        found = ObjectIdentity()
        try:
            for name in walker.members():
                if name == "type":
                    event_type = scalar(head[walker.skip()]) or ""
                elif name == "object" and walker.opens(b"{"):
                    found = walk_identity(walker)
        except ScanError:
            found = ObjectIdentity()
        return event_type, self._unreadable(found, UnreadableReason.OVERSIZE)

    def _project(self, key: str, uid: str, decoded: T) -> R | Unreadable:
        try:
            return self._resource.project(key, decoded)
        except UnreadableObject as error:
            return Unreadable(uid, error.reason)
        except Exception:
            # A defect in a projection must not stop the informer: only the object is lost.
            level = logging.DEBUG if self._logged else logging.ERROR
            self._logged = True
            log.log(level, "projection failed resource=%s", self._resource.id, exc_info=True)
            return Unreadable(uid, UnreadableReason.TYPE)

    def _check_kind(self, kind: object) -> None:
        if isinstance(kind, str) and kind != self._resource.kind:
            raise BadResponse(f"{self._resource.id}: got an object of another kind")

    def _key(self, namespace: str, name: str) -> str | None:
        if not name:
            return None
        if not self._resource.namespaced:
            return name
        return f"{namespace}/{name}" if namespace else None

    def _unreadable(
        self, found: ObjectIdentity, reason: UnreadableReason, *, suspect: bool = False
    ) -> Item[R]:
        self._check_kind(found.kind)
        meta = found.metadata or LenientMeta()
        key = self._key(_identifier(meta.namespace), _identifier(meta.name))
        unreadable = Unreadable(_identifier(meta.uid), reason)
        return Item(key, _version(meta.resourceVersion), unreadable, suspect)


def _identifier(value: object) -> str:
    """A name, namespace or UID; empty if it isn't text."""
    return identifier(value) if isinstance(value, str) else ""


def _version(value: object) -> str | None:
    """A resource version; None if it isn't one, or too long for a request."""
    return value if isinstance(value, str) and 0 < len(value) <= IDENTIFIER_CHARS else None
