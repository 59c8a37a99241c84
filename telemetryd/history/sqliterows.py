"""Slots as rows of the SQLite file."""

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, Final

from telemetryd.history.slots import Cell, Gap, Slot

_GAPS: Final = tuple(Gap)
_KNOWN: Final = "known_s, complete_s, complete, off_s, down_s, incomplete_s, clock_s, version"
_INSIDE: Final = (
    " WHERE slots.installation = ? AND slots.size = ? AND slots.start >= ? AND slots.start < ?"
    " ORDER BY slots.start"
)
_SLOTS: Final = f"SELECT size, start, {_KNOWN} FROM slots{_INSIDE}"  # noqa: S608 (own names)
_CELLS: Final = (
    "SELECT start, series, high, low, first, last, mean FROM cells"
    " WHERE installation = ? AND size = ? AND start >= ? AND start < ? ORDER BY start"
)
_OF_SERIES: Final = (
    f"SELECT slots.size, slots.start, {_KNOWN}, high, low, first, last, mean"  # noqa: S608
    " FROM slots LEFT JOIN cells ON cells.installation = slots.installation"
    " AND cells.size = slots.size AND cells.start = slots.start"
    f" AND series = (SELECT id FROM series WHERE name = ?){_INSIDE}"
)
PUT_SLOT: Final = (
    f"INSERT OR REPLACE INTO slots (installation, size, start, {_KNOWN})"  # noqa: S608 (own names)
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
"""Takes the key of the installation, and ``row_of`` a slot."""

Where = tuple[int, int, float, float]
"""The key of an installation, the size of the slots, and the first and the last beginning."""


def row_of(slot: Slot) -> tuple[object, ...]:
    """A slot without its cells."""
    gaps = (slot.gaps.get(gap, 0.0) for gap in _GAPS)
    known = (slot.size_s, slot.start, slot.known_s, slot.complete_s, slot.complete)
    return (*known, *gaps, slot.version)


def find_slots(connection: sqlite3.Connection, where: Where, series: str) -> Iterator[Slot]:
    """Slots in the order of time, with the cells of one series, or of all for an empty one."""
    if series:
        # One row for each slot, its cell looked up: a report reads ten thousand.
        for *known, high, low, first, last, mean in connection.execute(
            _OF_SERIES, (series, *where)
        ):
            yield _slot(known, {} if high is None else {series: Cell(high, low, first, last, mean)})
        return
    names = dict(connection.execute("SELECT id, name FROM series"))
    of_all = connection.execute(_CELLS, where)
    cell = next(of_all, None)
    for known in connection.execute(_SLOTS, where):
        start, cells = known[1], {}
        while cell is not None and cell[0] <= start:
            if cell[0] == start and cell[1] in names:
                cells[names[cell[1]]] = Cell._make(cell[2:])
            cell = next(of_all, None)
        yield _slot(known, cells)


def _slot(row: Sequence[Any], cells: dict[str, Cell]) -> Slot:
    size_s, start, known_s, complete_s, complete, off_s, down_s, incomplete_s, clock_s, version = (
        row
    )
    gaps = {}
    if off_s or down_s or incomplete_s or clock_s:
        lost = zip(_GAPS, (off_s, down_s, incomplete_s, clock_s), strict=True)
        gaps = {gap: seconds for gap, seconds in lost if seconds}
    return Slot(size_s, start, known_s, complete_s, complete == 1, gaps, version, cells)
