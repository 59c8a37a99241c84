"""Finds members and elements of JSON that msgspec refuses as a whole, such as very deep nesting.

Only their boundaries are found, without recursion; the values are decoded on their own. So the
kind, name and UID of an object are found even if its JSON is broken.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import msgspec

from telemetryd.kube.objects import UNPARSABLE, decode_or_none

_SPACE = re.compile(rb"[ \t\n\r]*")
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_SCALAR = re.compile(rb"[^\s,\[\]{}\":]+")
# Brackets match in runs, which makes plain deep nesting one token. A lone quote opens a string that
# never ends; the pattern is possessive, so that this takes linear time.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[{]++|[\]}]++|"', re.DOTALL)

_OPENING = frozenset(b"[{")
_CLOSING = frozenset(b"]}")
_STEPS_PER_CHECK = 0x4000
"""Tokens between two calls of ``check``: a few milliseconds."""

SCAN_AT_ONCE_BYTES = 16 * 1024
"""Longer texts are scanned in a worker thread: this much takes 3 ms at worst."""

V = TypeVar("V")


class ScanNeeded(Exception):
    """msgspec can't decode this JSON: the caller chooses where to scan it."""


class ScanError(ValueError):
    """The bytes aren't JSON of the expected shape."""


def unchecked() -> None:
    """The check of a scan that can't be cancelled."""


async def scan_in_turn(scan: Callable[[bytes, Callable[[], None]], V], text: bytes) -> V:
    """The result of the scan; other tasks of the event loop run meanwhile, or after it if short.

    Cancellation ends the scan itself, by its check: no thread is left behind.
    """
    if len(text) <= SCAN_AT_ONCE_BYTES:
        found = scan(text, unchecked)
        await anyio.lowlevel.checkpoint()
        return found
    return await anyio.to_thread.run_sync(scan, text, anyio.from_thread.check_cancelled)


class Walker:
    """Walks once through JSON text; ``at`` is its position.

    While ``members`` or ``elements`` are iterated it stands at the value of each. The caller may
    walk through that value, by ``skip``, ``members`` or ``elements``; otherwise it is skipped.
    """

    def __init__(
        self, data: bytes, *, partial: bool = False, check: Callable[[], None] = unchecked
    ) -> None:
        self.data = data
        self._partial = partial
        self._check = check
        self._steps = 0
        self._broken = False
        self.at = self._past_space(0)

    def opens(self, bracket: bytes) -> bool:
        """Whether the value it stands at begins with this bracket."""
        return self._byte() == bracket

    def members(self) -> Iterator[str]:
        """Names of the members of the object that it stands at.

        Raises:
            ScanError: It isn't an object, or (unless partial) it breaks off.
        """
        for _ in self._entries(b"{", b"}"):
            name = _STRING.match(self.data, self.at)
            colon = self._past_space(name.end()) if name else self.at
            if name is None or self.data[colon : colon + 1] != b":":
                self._break(f"no member at byte {self.at}")
                return
            self.at = start = self._past_space(colon + 1)
            yield scalar(name.group()) or ""
            if self.at == start and not self._broken:
                self.skip()

    def elements(self) -> Iterator[None]:
        """One turn for each element of the array that it stands at.

        Raises:
            ScanError: It isn't an array, or (unless partial) it breaks off.
        """
        for _ in self._entries(b"[", b"]"):
            start = self.at
            yield
            if self.at == start and not self._broken:
                self.skip()

    def skip(self) -> slice:
        """Go past the value; returns where it lies.

        Raises:
            ScanError: There is none, or (unless partial) it breaks off.
        """
        start = self.at
        end = self._value_end()
        if end is None:
            self._break(f"no value ends at byte {start}")
            end = len(self.data)
        self.at = end
        return slice(start, end)

    def end(self) -> None:
        """Make sure that nothing follows.

        Raises:
            ScanError: Something does.
        """
        if self._past_space(self.at) != len(self.data):
            raise ScanError(f"something follows the end at byte {self.at}")

    def _entries(self, opening: bytes, closing: bytes) -> Iterator[None]:
        """Stand at the beginning of each entry in turn, and in the end behind the closing bracket.

        Raises:
            ScanError: It doesn't stand at such a value, or that breaks off.
        """
        if self._byte() != opening:
            raise ScanError(f"no {opening.decode()} at byte {self.at}")
        self.at = self._past_space(self.at + 1)
        ended = self._byte() == closing
        while not ended:
            self._step()
            yield
            if self._broken:
                return
            self.at = self._past_space(self.at)
            ended = self._byte() == closing
            if not ended:
                if self._byte() != b",":
                    self._break(f"no comma or end at byte {self.at}")
                    return
                self.at = self._past_space(self.at + 1)
        self.at += 1

    def _value_end(self) -> int | None:
        """Index just after the value that it stands at, None where none ends."""
        first = self._byte()
        if first in {b"{", b"["}:
            return self._nested_end()
        match = (_STRING if first == b'"' else _SCALAR).match(self.data, self.at)
        return match.end() if match else None

    def _nested_end(self) -> int | None:
        data = self.data
        depth = 0
        for count, token in enumerate(_TOKEN.finditer(data, self.at), 1):
            start, end = token.span()
            first = data[start]
            if first in _OPENING:
                depth += end - start
            elif first in _CLOSING:
                depth -= end - start
                if depth <= 0:
                    return end + depth  # the rest of the run closes what is around it
            elif end - start == 1:
                return None
            if not count % _STEPS_PER_CHECK:
                self._check()
        return None

    def _step(self) -> None:
        self._steps += 1
        if not self._steps % _STEPS_PER_CHECK:
            self._check()

    def _break(self, why: str) -> None:
        """The text breaks off here.

        Raises:
            ScanError: It mustn't.
        """
        if not self._partial:
            raise ScanError(why)
        self._broken = True

    def _byte(self) -> bytes:
        return self.data[self.at : self.at + 1]

    def _past_space(self, at: int) -> int:
        match = _SPACE.match(self.data, at)
        return match.end() if match else at


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
_TEXT = msgspec.json.Decoder(str)


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
    """The identity of an object, as far as its text can be read."""
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
    return decode_or_none(_TEXT, value)
