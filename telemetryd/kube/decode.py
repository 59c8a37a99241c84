"""Bytes of lists and watches to objects, where a bad object costs itself alone.

Objects are decoded into their kind's struct: what isn't declared there never becomes a Python
object. What becomes of an object doesn't belong here.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic

import msgspec

from telemetryd.errors import BadResponse, UnreadableObject, UnreadableReason
from telemetryd.kube.resource import Resource, T
from telemetryd.kube.scan import ScanError, elements, members
from telemetryd.model import R, Unreadable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list.

    Attributes:
        resource_version: Of the whole list.
        continue_token: For the next page, empty on the last one.
        items: The objects, not yet decoded; each may keep the whole page alive.
    """

    resource_version: str
    continue_token: str
    items: Iterable[bytes | msgspec.Raw]


class Item(msgspec.Struct, Generic[R], frozen=True, gc=False):
    """One object.

    Attributes:
        key: ``namespace/name`` or ``name``; None where it can't be told.
        resource_version: Its own, None where it can't be told.
        value: Its record, or what stands in for it.
        suspect: Its JSON is broken, which API servers don't send: something in between did it.
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


class Bookmark(msgspec.Struct, frozen=True, gc=False):
    """What a BOOKMARK carries: the position, and annotations where there are any."""

    class Meta(msgspec.Struct, frozen=True, gc=False):
        """Its metadata."""

        resourceVersion: str  # noqa: N815 - the field's name in JSON

    metadata: Meta
    kind: str | None = None


class _ListMeta(msgspec.Struct, gc=False):
    resourceVersion: str | None = None  # noqa: N815
    continue_: str | None = msgspec.field(name="continue", default=None)


class _List(msgspec.Struct, gc=False):
    kind: str | None = None
    apiVersion: str | None = None  # noqa: N815
    metadata: _ListMeta | None = None
    items: list[msgspec.Raw] | msgspec.UnsetType | None = msgspec.UNSET


class _LenientMeta(msgspec.Struct, gc=False):
    name: Any = None
    namespace: Any = None
    uid: Any = None
    resourceVersion: Any = None  # noqa: N815


class _Identity(msgspec.Struct, gc=False):
    kind: Any = None
    metadata: _LenientMeta | None = None


_LIST = msgspec.json.Decoder(_List)
_EVENT = msgspec.json.Decoder(Event)
_IDENTITY = msgspec.json.Decoder(_Identity)
_BOOKMARK = msgspec.json.Decoder(Bookmark)
_STRING = msgspec.json.Decoder(str)
_UNPARSEABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)
_META_NAMES = ("name", "namespace", "uid", "resourceVersion")


def decode_page(body: bytes, resource: Resource[T, R]) -> Page:
    """One page of a list, its objects still bytes.

    Raises:
        BadResponse: It isn't a list of the resource's kind with a resource version.
    """
    what = f"list of {resource.id}"
    try:
        page = _LIST.decode(body)
    except msgspec.ValidationError as error:
        raise BadResponse(f"{what}: not a list: {error}") from error
    except _UNPARSEABLE:
        page = _split_page(body, what)
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
    if meta is None or not meta.resourceVersion:
        raise BadResponse(f"{what}: without a resource version")
    return Page(meta.resourceVersion, meta.continue_ or "", page.items or [])


def _split_page(body: bytes, what: str) -> _List:
    """What msgspec refuses as a whole, taken apart, so that only its bad objects are lost.

    Raises:
        BadResponse: It can't be taken apart either.
    """
    try:
        parts = dict(members(body))
        items = [msgspec.Raw(item) for item in elements(parts["items"])]
        head = {name: msgspec.Raw(parts[name]) for name in _List.__struct_fields__ if name in parts}
        head.pop("items")
        page = _LIST.decode(msgspec.json.encode(head))
    except (KeyError, ScanError, *_UNPARSEABLE) as error:
        raise BadResponse(f"{what}: not JSON") from error
    page.items = items
    return page


def decode_event(line: bytes) -> Event:
    """One line of a watch.

    Raises:
        BadResponse: It isn't an event.
    """
    try:
        return _EVENT.decode(line)
    except RecursionError as error:
        try:
            parts = dict(members(line))
            return Event(_STRING.decode(parts["type"]), msgspec.Raw(parts["object"]))
        except (KeyError, ScanError, *_UNPARSEABLE):
            raise BadResponse("watch: a line that isn't an event") from error
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise BadResponse("watch: a line that isn't an event") from error


def decode_bookmark(raw: bytes | msgspec.Raw) -> Bookmark:
    """The object of a BOOKMARK.

    Raises:
        BadResponse: It carries no position.
    """
    try:
        return _BOOKMARK.decode(raw)
    except _UNPARSEABLE as error:
        raise BadResponse("watch: a bookmark without a resource version") from error


class ObjectDecoder(Generic[T, R]):
    """Decodes and projects the objects of one resource."""

    __slots__ = ("_decoder", "_logged", "_resource")

    def __init__(self, resource: Resource[T, R]) -> None:
        self._resource = resource
        self._decoder = msgspec.json.Decoder(resource.object_type)
        self._logged = False

    def decode(self, raw: bytes | msgspec.Raw) -> Item[R]:
        """One object's record, or what stands in for it.

        Raises:
            BadResponse: It is whole, but of another kind.
        """
        try:
            decoded = self._decoder.decode(raw)
        except msgspec.ValidationError:
            return self._unreadable(raw, UnreadableReason.TYPE)
        except RecursionError:
            return self._unreadable(raw, UnreadableReason.MALFORMED)
        except (msgspec.MsgspecError, UnicodeError):
            return self._unreadable(raw, UnreadableReason.MALFORMED, suspect=True)
        self._check_kind(decoded.kind)
        meta = decoded.metadata
        if meta is None:
            return Item(None, None, Unreadable("", UnreadableReason.MISSING))
        key = self._key(meta.namespace, meta.name)
        if key is None or not meta.uid or not meta.resourceVersion:
            unreadable = Unreadable(meta.uid or "", UnreadableReason.MISSING)
            return Item(key, meta.resourceVersion or None, unreadable)
        return Item(key, meta.resourceVersion, self._project(key, meta.uid, decoded))

    def identify(self, raw: bytes | msgspec.Raw, reason: UnreadableReason) -> Item[R]:
        """An object whose content isn't looked at, for it is deleted.

        Raises:
            BadResponse: It is of another kind.
        """
        return self._unreadable(raw, reason)

    def identify_head(self, head: bytes) -> tuple[str, Item[R]]:
        """Type and object of an event that was too large, from the event's first bytes.

        Raises:
            BadResponse: It is of another kind.
        """
        try:
            parts = dict(members(head, partial=True))
        except ScanError:
            parts = {}
        item = self._unreadable(parts.get("object", b""), UnreadableReason.OVERSIZE)
        return _scalar(parts.get("type", b"")) or "", item

    def _project(self, key: str, uid: str, decoded: T) -> R | Unreadable:
        try:
            return self._resource.project(key, decoded)
        except UnreadableObject as error:
            return Unreadable(uid, error.reason)
        except Exception:
            # A defect in a projection must not stop the informer: the object alone is lost.
            level = logging.DEBUG if self._logged else logging.ERROR
            self._logged = True
            log.log(level, "projection failed resource=%s", self._resource.id, exc_info=True)
            return Unreadable(uid, UnreadableReason.TYPE)

    def _check_kind(self, kind: object) -> None:
        if isinstance(kind, str) and kind != self._resource.kind:
            raise BadResponse(f"{self._resource.id}: got an object of another kind")

    def _key(self, namespace: object, name: object) -> str | None:
        if not isinstance(name, str) or not name:
            return None
        if not self._resource.namespaced:
            return name
        if not isinstance(namespace, str) or not namespace:
            return None
        return f"{namespace}/{name}"

    def _unreadable(
        self, raw: bytes | msgspec.Raw, reason: UnreadableReason, *, suspect: bool = False
    ) -> Item[R]:
        kind, meta = _find_identity(raw)
        self._check_kind(kind)
        key = self._key(meta.namespace, meta.name)
        uid = meta.uid if isinstance(meta.uid, str) else ""
        version = meta.resourceVersion if isinstance(meta.resourceVersion, str) else None
        return Item(key, version or None, Unreadable(uid, reason), suspect)


def _find_identity(raw: bytes | msgspec.Raw) -> tuple[object, _LenientMeta]:
    try:
        found = _IDENTITY.decode(raw)
    except _UNPARSEABLE:
        return _scan_identity(bytes(raw))
    return found.kind, found.metadata or _LenientMeta()


def _scan_identity(raw: bytes) -> tuple[object, _LenientMeta]:
    meta = _LenientMeta()
    kind = None
    try:
        for name, value in members(raw, partial=True):
            if name == "kind":
                kind = _scalar(value)
            elif name == "metadata":
                meta = _LenientMeta()
                for field, part in members(value, partial=True):
                    if field in _META_NAMES:
                        setattr(meta, field, _scalar(part))
    except ScanError:
        return kind, meta
    return kind, meta


def _scalar(value: bytes) -> str | None:
    try:
        return _STRING.decode(value)
    except _UNPARSEABLE:
        return None
