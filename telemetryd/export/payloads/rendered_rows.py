"""Arrays of a document whose rows are rendered once: what changes costs, not what there is."""

from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, TypeVar

import msgspec
import orjson

from telemetryd.errors import PermanentError, Reason
from telemetryd.export.payloads.payload import canonical_bytes

R = TypeVar("R")

_RUNS: Final = (256, 16, 1)
"""So many rows are compared at once: a run that stayed costs a few comparisons, not one a row."""


class RenderedRows(Generic[R]):
    """The rows of one array of a document, sorted; those that stay are rendered and checked once.

    Costs: rendering of rows that are new; comparing and joining references to all.
    """

    __slots__ = ("_decoder", "_order", "_rows", "_texts", "_write")

    def __init__(
        self, write: Callable[[R], Mapping[str, Any]], struct: type, order: Callable[[R], Any]
    ) -> None:
        """Without a row.

        Args:
            write: A row as JSON has it.
            struct: Declares the row; it is the row's schema.
            order: What rows are sorted by. Equal rows are written alike.
        """
        self._write = write
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(struct)
        self._order = order
        self._rows: tuple[R, ...] = ()
        self._texts: list[bytes] = []

    def __call__(self, rows: tuple[R, ...]) -> orjson.Fragment:
        """The array; the rows may have any order, and cost least in their own.

        Raises:
            PermanentError: A row doesn't fit its schema.
        """
        texts = self._merge(rows)
        if texts is None:
            rows = tuple(sorted(rows, key=self._order))
            texts = self._merge(rows) or []
        self._rows, self._texts = rows, texts
        return orjson.Fragment(b"[%b]" % b",".join(texts))

    def _merge(self, rows: tuple[R, ...]) -> list[bytes] | None:
        """The texts of rows, taken from those before where these stayed; None if not sorted."""
        before, order = self._rows, self._order
        texts: list[bytes] = []
        at = 0
        while len(texts) < len(rows):
            new = len(texts)
            if new and order(rows[new]) < order(rows[new - 1]):
                return None
            stayed = _common(before, at, rows, new)
            texts += self._texts[at : at + stayed]
            at += stayed
            if stayed:
                continue
            place = order(rows[new])
            while at < len(before) and order(before[at]) < place:
                at += 1
            if at == len(before) or before[at] != rows[new]:
                texts.append(self._render(rows[new]))
        return texts

    def _render(self, row: R) -> bytes:
        text = canonical_bytes(self._write(row))
        try:
            self._decoder.decode(text)
        except msgspec.MsgspecError as exc:
            raise PermanentError(
                Reason.INTERNAL, f"a row of the payload doesn't fit its schema: {exc}"
            ) from exc
        # A copy: bytes that orjson made occupy some 4 KB, whatever their length.
        return bytes(memoryview(text))


def _common(one: tuple[R, ...], at: int, other: tuple[R, ...], there: int) -> int:
    """How many rows are the same from these places on."""
    found = 0
    for run in _RUNS:
        while part := one[at + found : at + found + run]:
            if part != other[there + found : there + found + run]:
                break
            found += len(part)
    return found
