"""Who an object is, whatever state its JSON is in.

What the object holds beyond that doesn't belong here.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from telemetryd.informer.scan import ScanError, Walker, unchecked

UNPARSABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""What msgspec raises for JSON that it can't make sense of."""

_META_NAMES = ("name", "namespace", "uid", "resourceVersion")


class LenientMeta(msgspec.Struct, gc=False):
    """The part of ``metadata`` that tells who an object is, of any type."""

    name: Any = None
    namespace: Any = None
    uid: Any = None
    resourceVersion: Any = None  # noqa: N815 - the field's name in JSON


class Identity(msgspec.Struct, gc=False):
    """Kind and name of an object, of any type."""

    kind: Any = None
    metadata: LenientMeta | None = None


class _Kind(msgspec.Struct, gc=False):
    kind: Any = None


class Tangled(Exception):
    """JSON that only a scan makes sense of: the caller chooses where that is done."""


_IDENTITY = msgspec.json.Decoder(Identity)
_KIND = msgspec.json.Decoder(_Kind)
_STRING = msgspec.json.Decoder(str)


def parse_identity(raw: bytes | msgspec.Raw) -> Identity:
    """Who the object is.

    Raises:
        Tangled: Only ``scan_identity`` can tell.
    """
    try:
        return _IDENTITY.decode(raw)
    except msgspec.ValidationError:
        return _parse_kind(raw)
    except UNPARSABLE as error:
        raise Tangled from error


def _parse_kind(raw: bytes | msgspec.Raw) -> Identity:
    """What can be told of JSON that is no object, or whose metadata isn't one.

    Raises:
        Tangled: It breaks off, or isn't JSON, further on.
    """
    try:
        return Identity(_KIND.decode(raw).kind)
    except msgspec.ValidationError:
        return Identity()
    except UNPARSABLE as error:
        raise Tangled from error


def scan_identity(raw: bytes, check: Callable[[], None] = unchecked) -> Identity:
    """Who the object is, as far as its text can be followed.

    Args:
        raw: The object; it may be broken or break off.
        check: Called every few milliseconds; what it raises ends the scan.
    """
    walker = Walker(raw, partial=True, check=check)
    found = Identity()
    try:
        _walk_into(walker, found)
    except ScanError:
        return found
    return found


def walk_identity(walker: Walker) -> Identity:
    """Walk through the value that the walker stands at, an object or not.

    Raises:
        ScanError: It breaks off.
    """
    found = Identity()
    if walker.opens(b"{"):
        _walk_into(walker, found)
    else:
        walker.skip()
    return found


def _walk_into(walker: Walker, found: Identity) -> None:
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
    """The string that the JSON holds, None where it holds another thing."""
    try:
        return _STRING.decode(value)
    except UNPARSABLE:
        return None
