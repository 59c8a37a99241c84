"""An iterative look at JSON that a recursive parser refuses: where members and elements lie.

It finds boundaries and judges nothing: what it yields is decoded, and judged, on its own. Nesting
costs no stack here, whatever its depth.
"""

import re
from collections.abc import Iterator

import msgspec

_SPACE = re.compile(rb"[ \t\n\r]*")
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_SCALAR = re.compile(rb"[^\s,\[\]{}\":]+")
# A lone quote opens a string that never ends; possessive, so that finding that out stays linear.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{}"]', re.DOTALL)

_OPENING = frozenset(b"[{")
_CLOSING = frozenset(b"]}")


class ScanError(ValueError):
    """The bytes aren't JSON of the shape that was expected."""


def _skip_space(data: bytes, at: int) -> int:
    match = _SPACE.match(data, at)
    return match.end() if match else at


def _byte(data: bytes, at: int) -> bytes:
    return data[at : at + 1]


def _value_end(data: bytes, at: int) -> int:
    """Index just after the value that starts at ``at``.

    Raises:
        ScanError: None does, or it doesn't end.
    """
    first = _byte(data, at)
    if first == b'"':
        match = _STRING.match(data, at)
    elif first in {b"{", b"["}:
        depth = 0
        for token in _TOKEN.finditer(data, at):
            char = data[token.start()]
            if char in _OPENING:
                depth += 1
            elif char in _CLOSING:
                depth -= 1
                if depth == 0:
                    return token.end()
            elif token.end() - token.start() == 1:
                break
        match = None
    else:
        match = _SCALAR.match(data, at)
    if match is None:
        raise ScanError(f"no value ends at byte {at}")
    return match.end()


def members(data: bytes, *, partial: bool = False) -> Iterator[tuple[str, bytes]]:
    """The members of the object that ``data`` holds, as name and the value's bytes.

    Args:
        data: JSON text of one object.
        partial: The text may break off anywhere; what was whole until there is given, and of a
            value that breaks off, its beginning.

    Raises:
        ScanError: It isn't an object, or (unless partial) it breaks off.
    """
    at = _skip_space(data, 0)
    if _byte(data, at) != b"{":
        raise ScanError("not an object")
    at = _skip_space(data, at + 1)
    while _byte(data, at) != b"}":
        match = _STRING.match(data, at)
        colon = _skip_space(data, match.end()) if match else at
        if match is None or _byte(data, colon) != b":":
            if partial:
                return
            raise ScanError(f"no member at byte {at}")
        start = _skip_space(data, colon + 1)
        name = _name(match.group())
        try:
            end = _value_end(data, start)
        except ScanError:
            if partial:
                yield name, data[start:]
                return
            raise
        yield name, data[start:end]
        at = _next(data, end, b"}", partial=partial)
    _end(data, at)


def elements(data: bytes) -> Iterator[bytes]:
    """The elements of the array that ``data`` holds, each as its bytes.

    Raises:
        ScanError: It isn't an array, or it breaks off.
    """
    at = _skip_space(data, 0)
    if _byte(data, at) != b"[":
        raise ScanError("not an array")
    at = _skip_space(data, at + 1)
    while _byte(data, at) != b"]":
        end = _value_end(data, at)
        yield data[at:end]
        at = _next(data, end, b"]", partial=False)
    _end(data, at)


def _next(data: bytes, end: int, closing: bytes, *, partial: bool) -> int:
    """Index of the next member or element after one that ends at ``end``, or of the closing.

    Raises:
        ScanError: There is neither.
    """
    at = _skip_space(data, end)
    if _byte(data, at) == b",":
        after = _skip_space(data, at + 1)
        if _byte(data, after) != closing:
            return after
    elif _byte(data, at) == closing or partial:
        return at
    raise ScanError(f"no comma or end at byte {at}")


def _end(data: bytes, closing: int) -> None:
    if _skip_space(data, closing + 1) != len(data):
        raise ScanError(f"something follows the end at byte {closing}")


def _name(token: bytes) -> str:
    try:
        return msgspec.json.decode(token, type=str)
    except (msgspec.MsgspecError, UnicodeError):
        return ""
