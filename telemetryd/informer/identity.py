"""Kind, name and UID of an object, even if its JSON is broken."""

from collections.abc import Callable
from typing import Any

import msgspec

from telemetryd.informer.scan import ScanError, ScanNeeded, Walker, unchecked

UNPARSABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""Exceptions of msgspec for JSON that it can't decode."""

_META_NAMES = ("name", "namespace", "uid", "resourceVersion")


class LenientMeta(msgspec.Struct, gc=False):
    """The fields of ``metadata`` that identify an object, of any type."""

    name: Any = None
    namespace: Any = None
    uid: Any = None
    resourceVersion: Any = None  # noqa: N815 - the field's name in JSON


class ObjectIdentity(msgspec.Struct, gc=False):
    """Kind and name of an object, of any type."""

    kind: Any = None
    metadata: LenientMeta | None = None


class _Kind(msgspec.Struct, gc=False):
    kind: Any = None


_IDENTITY = msgspec.json.Decoder(ObjectIdentity)
_KIND = msgspec.json.Decoder(_Kind)
_STRING = msgspec.json.Decoder(str)


def parse_identity(raw: bytes | msgspec.Raw) -> ObjectIdentity:
    """The identity of an object.

    Raises:
        ScanNeeded: Only ``scan_identity`` can find it.
    """
    try:
        return _IDENTITY.decode(raw)
    except msgspec.ValidationError:
        return _parse_kind(raw)
    except UNPARSABLE as error:
        raise ScanNeeded from error


def _parse_kind(raw: bytes | msgspec.Raw) -> ObjectIdentity:
    """The kind at most, of JSON that isn't an object or whose metadata isn't one.

    Raises:
        ScanNeeded: It breaks off, or isn't JSON, further on.
    """
    try:
        return ObjectIdentity(_KIND.decode(raw).kind)
    except msgspec.ValidationError:
        return ObjectIdentity()
    except UNPARSABLE as error:
        raise ScanNeeded from error


def scan_identity(raw: bytes, check: Callable[[], None] = unchecked) -> ObjectIdentity:
    """The identity of an object, as far as its text can be read.

    Args:
        raw: The object; it may be broken or break off.
        check: Called every few milliseconds; an exception from it ends the scan.
    """
    walker = Walker(raw, partial=True, check=check)
    found = ObjectIdentity()
    try:
        _walk_into(walker, found)
    except ScanError:
        return found
    return found


def walk_identity(walker: Walker) -> ObjectIdentity:
    """Walk through the walker's value, an object or not.

    Raises:
        ScanError: It breaks off.
    """
    found = ObjectIdentity()
    if walker.opens(b"{"):
        _walk_into(walker, found)
    else:
        walker.skip()
    return found


def _walk_into(walker: Walker, found: ObjectIdentity) -> None:
    for name in walker.members():
        if name == "kind":
            found.kind = scalar(walker.data[walker.skip()])
        elif name == "metadata":
            found.metadata = meta = LenientMeta()
            if walker.opens(b"{"):
                for field in walker.members():
                    if field in _META_NAMES:
                        setattr(meta, field, scalar(walker.data[walker.skip()]))


def scalar(value: bytes) -> str | None:
    """The string that the JSON holds, None if it is another type."""
    try:
        return _STRING.decode(value)
    except UNPARSABLE:
        return None
