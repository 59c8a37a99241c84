"""Counts by key as sorted rows, of which only those that changed are made again."""

from bisect import bisect_left
from collections.abc import Callable, Hashable
from typing import Any, Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_FEW: Final = 16
"""Where more than one row in so many changed, all are sorted again: faster than one by one."""


class _Count(Generic[K]):
    """How often a key counts; the key is the one that all others share."""

    __slots__ = ("key", "number")

    def __init__(self, key: K) -> None:
        self.key = key
        self.number = 0


class CountedRows(Generic[K, V]):
    """A row for each key that counts, in the order of the keys.

    Costs: a count O(1); the rows as much as moving references to them, and for each row that
    changed the logarithm of their number.
    """

    __slots__ = ("_changed", "_counts", "_keys", "_made", "_make", "_order", "_rows")

    def __init__(
        self, make: Callable[[K, int], V], order: Callable[[K], Any] | None = None
    ) -> None:
        """Without a row.

        Args:
            make: A row, of its key and a number above 0.
            order: What keys are sorted by; None if by themselves.
        """
        self._make = make
        self._order = order
        self._counts: dict[K, _Count[K]] = {}
        self._changed: set[K] = set()
        self._keys: list[K] = []
        self._made: list[V] = []  # a row for each of the keys
        self._rows: tuple[V, ...] = ()

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, key: K, step: int) -> K:
        """Count a key so many times more; returns the equal key that is kept, to be shared."""
        count = self._counts.get(key)
        if count is None:
            count = self._counts[key] = _Count(key)
        count.number += step
        if not count.number:
            del self._counts[key]
        self._changed.add(count.key)
        return count.key

    def add_to(self, part: dict[K, int], key: K, step: int, *, counts: bool) -> None:
        """Count a key in a part, and in all rows if the part counts."""
        if counts:
            key = self.add(key, step)
        left = part.get(key, 0) + step
        if left:
            part[key] = left
        else:
            del part[key]

    def add_part(self, part: dict[K, int], step: int) -> None:
        """Let a part count that did not (+1), its keys shared from now on, or no longer (-1)."""
        shared = {self.add(key, step * number): number for key, number in part.items()}
        part.clear()
        part.update(shared)

    def rows(self) -> tuple[V, ...]:
        """All rows; one that didn't change is the same object as before."""
        if self._changed:
            if len(self._changed) * _FEW > len(self._keys):
                self._place_all()
            else:
                for key in self._changed:
                    self._place(key)
            self._changed.clear()
            self._rows = tuple(self._made)
        return self._rows

    def _place(self, key: K) -> None:
        at = self._find(key)
        there = at < len(self._keys) and self._keys[at] == key
        count = self._counts.get(key)
        if count is None:
            if there:
                del self._keys[at], self._made[at]
            return
        row = self._make(key, count.number)
        if not there:
            self._keys.insert(at, key)
            self._made.insert(at, row)
        elif row != self._made[at]:
            self._made[at] = row

    def _find(self, key: K) -> int:
        if self._order is None:
            keys: Any = self._keys
            return bisect_left(keys, key)
        return bisect_left(self._keys, self._order(key), key=self._order)

    def _place_all(self) -> None:
        before = dict(zip(self._keys, self._made, strict=True))
        keys: Any = self._counts
        self._keys = sorted(keys, key=self._order)
        self._made = []
        for key in self._keys:
            row = before.get(key)
            if row is None or key in self._changed:
                made = self._make(key, self._counts[key].number)
                row = row if row == made else made
            self._made.append(row)
