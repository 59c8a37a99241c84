"""The store for replicas, and for many installations in one database: PostgreSQL.

Everything here blocks for a bounded time: call it in a worker thread.
"""

import math
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar

from telemetryd.bounds import VERSION_CHARS, free_text
from telemetryd.errors import HistoryError
from telemetryd.history.database import run
from telemetryd.history.replicas import Key, Records, SlotRecord
from telemetryd.history.slots import (
    DAY_S,
    HOUR_S,
    MINUTE_S,
    MINUTES_KEPT_S,
    Cell,
    Gap,
    Slot,
    grown,
    parents_of,
)
from telemetryd.history.store import CALL_S

T = TypeVar("T")

_AT_A_TIME: Final = 2000
"""Slots in one statement."""
_GAPS: Final = tuple(Gap)
_LATEST: Final = 2**62

_Range = tuple[int, int, int]
_SLOT: Final = (
    "size, start, known_s, complete_s, complete, off_s, down_s, incomplete_s, clock_s, version,"
    " epoch, writer"
)
_CELL: Final = "size, start, series, high, low, first, last, mean"
_RANGES: Final = """
  FROM telemetryd.{table} AS kept
  JOIN unnest($2::integer[], $3::bigint[], $4::bigint[]) AS wanted (of_size, lower, upper)
    ON kept.size = wanted.of_size AND kept.start >= lower AND kept.start < upper
 WHERE kept.installation = $1 {more} ORDER BY size, start
"""
_PUT_SLOTS: Final = f"""
INSERT INTO telemetryd.slots (installation, {_SLOT})
SELECT $1::bigint, *
  FROM unnest($2::integer[], $3::bigint[], $4::float8[], $5::float8[], $6::boolean[],
  $7::float8[], $8::float8[], $9::float8[], $10::float8[], $11::text[], $12::bigint[], $13::text[])
ON CONFLICT (installation, size, start) DO UPDATE SET
  known_s = excluded.known_s, complete_s = excluded.complete_s, complete = excluded.complete,
  off_s = excluded.off_s, down_s = excluded.down_s, incomplete_s = excluded.incomplete_s,
  clock_s = excluded.clock_s, version = excluded.version, epoch = excluded.epoch,
  writer = excluded.writer
"""  # noqa: S608 (own names)
_PUT_CELLS: Final = f"""
INSERT INTO telemetryd.cells AS kept (installation, {_CELL})
SELECT $1::bigint, *
  FROM unnest($2::integer[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[],
  $7::bigint[], $8::bigint[], $9::float8[])
ON CONFLICT (installation, size, start, series) DO UPDATE SET
  high = GREATEST(kept.high, excluded.high), low = excluded.low, first = excluded.first,
  last = excluded.last, mean = excluded.mean
"""  # noqa: S608 (own names)


class PostgresStore:
    """Slots in a PostgreSQL database, in its schema ``telemetryd``, which the first write makes."""

    def __init__(self, dsn_file: str, *, writer: str = "", timeout_s: float = CALL_S) -> None:
        """Nothing is read before the first call.

        Args:
            dsn_file: Holds the DSN; see ``read_dsn``.
            writer: Tells replicas apart; left out: the name of this host.
            timeout_s: For each call.
        """
        self._dsn_file = dsn_file
        self._writer = writer or os.uname().nodename
        self._timeout_s = timeout_s

    def close(self) -> None:
        """Nothing is open between calls."""

    def write(
        self, installation: str, slots: Sequence[Slot], *, epoch: int = 0, batch: str = ""
    ) -> None:
        """Add slots, and make the larger slots around them again: all of it or nothing.

        Args:
            installation: Install UUID.
            slots: In the order in which they came about.
            epoch: Of leadership.
            batch: See ``HistoryStore``.

        Raises:
            HistoryError: The database can't be reached or written.
        """
        self._run(partial(self._write, installation, slots, epoch, batch), writes=True)

    def merge(self, slots: Iterable[tuple[str, Slot]]) -> int:
        """Add slots of another store, each with its installation: all of them or none.

        Of two records of a slot the one that knows more of it stays, with the peaks of both.
        Returns their number.

        Raises:
            HistoryError: The database can't be reached or written.
        """
        by_installation: dict[str, list[Slot]] = {}
        for installation, slot in slots:
            by_installation.setdefault(installation, []).append(slot)
        self._run(partial(self._merge, by_installation), writes=True)
        return sum(map(len, by_installation.values()))

    def read(
        self,
        installation: str,
        size_s: int,
        begin: float,
        end: float,
        *,
        series: str = "",
        most: int | None = None,
    ) -> list[Slot]:
        """The slots of a size that begin in [begin, end), in the order of time.

        With ``series`` they have the cells of that one alone, which is faster. With ``most`` there
        are no more than so many, the first ones.

        Raises:
            HistoryError: The database can't be reached or read.
        """
        ranges = [(size_s, _whole(begin), _whole(end))]
        rows = self._run(partial(_read, installation, ranges, series, most)) or {}
        return [row.slot for row in rows.values()]

    def installations(self) -> list[str]:
        """The install UUIDs that this role may see the days of, that with the latest one last."""
        query = (
            "SELECT uuid FROM telemetryd.installations JOIN telemetryd.slots ON id = installation"
            " WHERE size = 86400 GROUP BY uuid ORDER BY max(start), uuid"
        )
        rows = self._run(lambda connection: connection.fetch(query))
        return [row[0] for row in rows or ()]

    def known_until(self, installation: str, before: float = 2.0**62) -> float | None:
        """To when the minutes of any replica reach that begin before a time; None without one."""
        query = (
            "SELECT start + least(60.0, known_s + off_s + down_s + clock_s) FROM telemetryd.slots"
            " JOIN telemetryd.installations ON id = installation WHERE uuid = $1 AND size = 60"
            " AND start < $2::float8 ORDER BY start DESC LIMIT 1"
        )
        found = self._run(lambda connection: connection.fetchval(query, installation, before))
        return None if found is None else float(found)

    def digests(self, installation: str) -> dict[int, str]:
        """The digests that were noted, by the beginning of their month in Unix seconds."""
        query = (
            "SELECT start, digest FROM telemetryd.digests"
            " JOIN telemetryd.installations ON id = installation WHERE uuid = $1"
        )
        rows = self._run(lambda connection: connection.fetch(query, installation))
        return {row[0]: row[1] for row in rows or ()}

    def note_digest(self, installation: str, start: int, digest: str) -> bool:
        """Whether another one, or none, was noted of the month by any replica; now it is this one.

        Raises:
            HistoryError: The database can't be reached or written.
        """

        async def note(connection: Any) -> bool:
            key = await _lock(connection, installation)
            noted = await connection.fetchval(
                "INSERT INTO telemetryd.digests AS kept VALUES ($1, $2, $3)"
                " ON CONFLICT (installation, start) DO UPDATE SET digest = excluded.digest"
                " WHERE kept.digest <> excluded.digest RETURNING true",
                *(key, start, digest),
            )
            return bool(noted)

        return bool(self._run(note, writes=True))

    def prune(
        self, now: float, *, keep_s: float, keep_daily_s: float, installation: str = ""
    ) -> int:
        """Remove what isn't kept any more, of one installation or of all; returns how many slots.

        Raises:
            HistoryError: The database can't be reached or written.
        """
        kept = ((MINUTE_S, MINUTES_KEPT_S), (HOUR_S, keep_s), (DAY_S, keep_daily_s))
        where = (
            "WHERE start < $1 AND installation IN"
            " (SELECT id FROM telemetryd.installations WHERE $2 IN ('', uuid))"
        )

        async def prune(connection: Any) -> int:
            removed = 0
            for size_s, kept_s in kept:
                of_size = (f"{where} AND size = $3", int(now - kept_s), installation, size_s)
                await _delete(connection, "cells", *of_size)
                removed += await _delete(connection, "slots", *of_size)
            await _delete(connection, "digests", where, int(now - keep_daily_s), installation)
            await connection.execute(
                "DELETE FROM telemetryd.writers WHERE at < now() - interval '7 days'"
            )
            return removed

        return self._run(prune, writes=True) or 0

    def clear(self) -> None:
        """Remove everything that this role may see.

        Raises:
            HistoryError: The database can't be reached or written.
        """
        tables = ("cells", "slots", "digests", "writers", "installations")
        query = "; ".join(f"DELETE FROM telemetryd.{table}" for table in tables)  # noqa: S608
        self._run(lambda connection: connection.execute(query), writes=True)

    def migrate(self) -> str:
        """Make the tables, or add what this version needs; returns the number of the schema.

        Raises:
            HistoryError: This role may not, or the database can't be reached.
        """
        query = "SELECT major || '.' || minor FROM telemetryd.version"
        return str(self._run(lambda connection: connection.fetchval(query), writes=True))

    def _run(self, work: Callable[[Any], Awaitable[T]], *, writes: bool = False) -> T | None:
        return run(self._dsn_file, work, timeout_s=self._timeout_s, writes=writes)

    async def _write(
        self, installation: str, slots: Sequence[Slot], epoch: int, batch: str, connection: Any
    ) -> None:
        key = await _lock(connection, installation)
        if batch and not await connection.fetchval(
            "INSERT INTO telemetryd.writers AS kept (installation, writer, batch)"
            " VALUES ($1, $2, $3) ON CONFLICT (installation, writer) DO UPDATE"
            " SET batch = excluded.batch, at = now() WHERE kept.batch <> excluded.batch"
            " RETURNING true",
            *(key, self._writer, batch),
        ):
            return
        rows = Records(await _rows(connection, key, _around(slots)), self._writer, epoch)
        for made in grown(slots, rows.stored, rows.add):
            rows.put(made)
        await _put(connection, key, rows.changed)

    async def _merge(self, by_installation: dict[str, list[Slot]], connection: Any) -> None:
        for installation in sorted(by_installation):
            key = await _lock(connection, installation)
            slots = by_installation[installation]
            rows = Records(await _rows(connection, key, _around(slots)))
            for slot in slots:
                former = rows.kept.get((slot.size_s, slot.start), SlotRecord(slot))
                rows.keep(replace(former, slot=former.slot.or_fuller(slot)))
            for made in grown((), rows.stored, changed=slots):
                rows.put(made)
            await _put(connection, key, rows.changed)


# -- rows


def _around(slots: Sequence[Slot]) -> "set[_Range]":
    """What is read before slots are added: these, and what the larger ones are made of."""
    parents = list(parents_of(slots))
    ranges = {(part_s, start, start + size_s) for size_s, part_s, start in parents}
    ranges |= {(DAY_S, start, start + 1) for size_s, _, start in parents if size_s == DAY_S}
    return ranges | {(DAY_S, each.start, each.start + 1) for each in slots if each.size_s == DAY_S}


async def _lock(connection: Any, installation: str) -> int:
    """The key of an installation, which no other replica writes before this transaction ends.

    Raises:
        HistoryError: It is another role's.
    """
    select = "SELECT id FROM telemetryd.installations WHERE uuid = $1 FOR UPDATE"
    found = await connection.fetchval(select, installation)
    if found is None:
        await connection.execute(
            "INSERT INTO telemetryd.installations (uuid) VALUES ($1) ON CONFLICT DO NOTHING",
            installation,
        )
        found = await connection.fetchval(select, installation)
    if found is None:
        raise HistoryError(f"this role may not see installation {free_text(installation)}")
    return int(found)


async def _read(
    installation: str, ranges: list[_Range], series: str, most: int | None, connection: Any
) -> dict[Key, SlotRecord]:
    query = "SELECT id FROM telemetryd.installations WHERE uuid = $1"
    key = await connection.fetchval(query, installation)
    return {} if key is None else await _rows(connection, key, ranges, series, most)


async def _rows(
    connection: Any,
    key: int,
    ranges: Iterable[_Range],
    series: str = "",
    most: int | None = None,
) -> dict[Key, SlotRecord]:
    """The slots that begin in these ranges, in the order of size and time."""
    columns = [list(each) for each in zip(*ranges, strict=True)] or [[], [], []]
    query = f"SELECT {_SLOT} {_RANGES.format(table='slots', more='')} LIMIT $5"
    slots = await connection.fetch(query, key, *columns, most)
    if most is not None and slots:
        columns[2] = [slots[-1]["start"] + 1]
    more = "AND $5 IN ('', series)"
    query = f"SELECT {_CELL} {_RANGES.format(table='cells', more=more)}"
    cells: dict[Key, dict[str, Cell]] = {}
    for size, start, name, *cell in await connection.fetch(query, key, *columns, series):
        cells.setdefault((size, start), {})[name] = Cell(*cell)
    found = {}
    for size, start, known_s, complete_s, complete, *gaps, version, epoch, writer in slots:
        missed = {gap: seconds for gap, seconds in zip(_GAPS, gaps, strict=True) if seconds}
        of_slot = cells.get((size, start), {})
        slot = Slot(size, start, known_s, complete_s, complete, missed, version, of_slot)
        found[size, start] = SlotRecord(slot, epoch, writer)
    return found


async def _delete(connection: Any, table: str, where: str, *values: object) -> int:
    done = await connection.execute(f"DELETE FROM telemetryd.{table} {where}", *values)  # noqa: S608
    return int(done.rpartition(" ")[2])


async def _put(connection: Any, key: int, changed: dict[Key, SlotRecord]) -> None:
    rows = [changed[each] for each in sorted(changed)]
    for at in range(0, len(rows), _AT_A_TIME):
        some = rows[at : at + _AT_A_TIME]
        slots = [list(each) for each in zip(*map(_columns, some), strict=True)]
        await connection.execute(_PUT_SLOTS, key, *slots)
        cells = [list(each) for each in zip(*_cells(some), strict=True)]
        if cells:
            await connection.execute(_PUT_CELLS, key, *cells)


def _columns(row: SlotRecord) -> tuple[Any, ...]:
    slot = row.slot
    gaps = (slot.gaps.get(gap, 0.0) for gap in _GAPS)
    version = free_text(slot.version, VERSION_CHARS)  # PostgreSQL takes no NUL
    known = (slot.size_s, slot.start, slot.known_s, slot.complete_s, slot.complete)
    return (*known, *gaps, version, row.epoch, row.writer)


def _cells(rows: Iterable[SlotRecord]) -> Iterator[tuple[Any, ...]]:
    for slot in (row.slot for row in rows):
        for name, cell in sorted(slot.cells.items()):
            yield (slot.size_s, slot.start, name, *cell)


def _whole(at: float) -> int:
    """A bound in whole seconds that PostgreSQL's integers have."""
    return _LATEST if at >= _LATEST else max(-_LATEST, math.ceil(at))
