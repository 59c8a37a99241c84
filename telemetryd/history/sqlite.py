"""The store of one machine: a SQLite file. Everything here blocks: call it in a worker thread."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from telemetryd.errors import HistoryError
from telemetryd.history.slots import (
    DAY_S,
    HOUR_S,
    MINUTE_S,
    MINUTES_KEPT_S,
    NEVER,
    ZERO,
    Slot,
    join,
    parents_of,
)
from telemetryd.history.sqlitefile import MOUNTS, SCHEMA_VERSION, SqliteFile
from telemetryd.history.sqliterows import PUT_SLOT, find_slots, row_of
from telemetryd.history.store import FILE_NAME

_LARGEST: Final = 2**63
"""Beyond the numbers that SQLite has."""


class SqliteStore:
    """Slots in a SQLite file; used by one thread at a time.

    Attributes:
        journal: ``wal``, or ``delete`` on a network's file system.
    """

    def __init__(self, file: SqliteFile) -> None:
        """Made by ``open_store`` and ``read_store``."""
        self._file = file
        self._known_series: dict[str, int] = {}
        self._joined: dict[tuple[int, int], tuple[Slot, int]] = {}
        self._data_version = 0
        file.forget = self._forget
        self.journal: str = file.use(lambda: self._execute("PRAGMA journal_mode").fetchone()[0])

    @property
    def set_aside(self) -> tuple[Path, str] | None:
        """Where a damaged file was moved last, and what was wrong with it; None if none was."""
        return self._file.set_aside

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def migrate(self) -> str:
        """As opening the file has done."""
        return str(SCHEMA_VERSION)

    def write(
        self, installation: str, slots: Sequence[Slot], *, epoch: int = 0, batch: str = ""
    ) -> None:
        """Add slots, and make the larger slots around them again: all of it or nothing.

        Args:
            installation: Install UUID.
            slots: In the order in which they came about.
            epoch: Makes no difference: a file has one writer.
            batch: Names them, where it isn't known whether they were written before: if they are
                the last batch that was, they aren't added again.

        Raises:
            HistoryError: The file can't be written.
        """
        del epoch

        def change() -> None:
            self._notice_others()
            key = self._installation(installation)
            if batch and self._one("SELECT batch FROM installations WHERE id = ?", key) == batch:
                return
            for slot in slots:
                known = self._get(key, slot.size_s, slot.start)
                self._put(key, join(slot.size_s, slot.start, (*known, slot)))
            self._join_parents(key, slots)
            if batch:
                self._execute("UPDATE installations SET batch = ? WHERE id = ?", batch, key)

        self._file.use(change, change=True)

    def merge(self, slots: Iterable[tuple[str, Slot]]) -> int:
        """Add slots of another store, each with its installation: all of them or none.

        Of two records of a slot the one that knows more of it stays, with the peaks of both.
        Returns their number.

        Raises:
            HistoryError: The file can't be written, or a number is too large for it.
        """
        found = list(slots)
        for _, slot in found:
            _check(slot)

        def change() -> int:
            self._forget()
            by_key: dict[int, list[Slot]] = {}
            for installation, slot in found:
                key = self._installation(installation)
                made = slot
                for known in self._get(key, slot.size_s, slot.start):
                    made = known.or_fuller(slot)
                self._put(key, made)
                by_key.setdefault(key, []).append(slot)
            for key, merged in by_key.items():
                self._join_parents(key, merged)
            return len(found)

        return self._file.use(change, change=True)

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
            HistoryError: The file can't be read.
        """

        def find() -> list[Slot]:
            found = self._execute(
                "SELECT id FROM installations WHERE uuid = ?", installation
            ).fetchone()
            if not found:
                return []
            return list(islice(self._slots(found[0], size_s, begin, end, series), most))

        return self._file.use(find)

    def installations(self) -> list[str]:
        """The install UUIDs that there are days of, that with the latest one last."""
        return self._file.use(
            lambda: [
                row[0]
                for row in self._execute(
                    "SELECT uuid FROM installations JOIN slots ON id = installation"
                    " WHERE size = 86400 GROUP BY uuid ORDER BY max(start), uuid"
                )
            ]
        )

    def known_until(self, installation: str, before: float = 2.0**62) -> float | None:
        """To when the minutes reach that begin before a time, in Unix seconds; None without one."""

        def find() -> float | None:
            row = self._execute(
                "SELECT start + min(60.0, known_s + off_s + down_s + clock_s) FROM slots"
                " JOIN installations ON id = installation WHERE uuid = ? AND size = 60"
                " AND start < ? ORDER BY start DESC LIMIT 1",
                *(installation, before),
            ).fetchone()
            return None if row is None else float(row[0])

        return self._file.use(find)

    def digests(self, installation: str) -> dict[int, str]:
        """The digests that were noted, by the beginning of their month in Unix seconds."""
        query = "SELECT start, digest FROM digests JOIN installations ON id = installation"
        return self._file.use(
            lambda: dict(self._execute(f"{query} WHERE uuid = ?", installation).fetchall())
        )

    def note_digest(self, installation: str, start: int, digest: str) -> bool:
        """Whether another one, or none, was noted of the month; now it is this one.

        Raises:
            HistoryError: The file can't be written.
        """

        def change() -> bool:
            noted = self._execute(
                "INSERT INTO digests VALUES (?, ?, ?) ON CONFLICT DO UPDATE"
                " SET digest = excluded.digest WHERE digest <> excluded.digest RETURNING 1",
                *(self._installation(installation), start, digest),
            )
            return bool(noted.fetchall())

        return self._file.use(change, change=True)

    def prune(
        self, now: float, *, keep_s: float, keep_daily_s: float, installation: str = ""
    ) -> int:
        """Remove what isn't kept any more, of one installation or of all; returns how many slots.

        Raises:
            HistoryError: The file can't be written.
        """
        kept = ((MINUTE_S, MINUTES_KEPT_S), (HOUR_S, keep_s), (DAY_S, keep_daily_s))

        def change() -> int:
            self._forget()
            removed = 0
            of = "SELECT id FROM installations WHERE ? IN ('', uuid)"
            for (key,) in self._execute(of, installation).fetchall():
                for size_s, kept_s in kept:
                    for table in ("cells", "slots"):
                        gone = self._execute(
                            f"DELETE FROM {table}"  # noqa: S608 (own names)
                            " WHERE installation = ? AND size = ? AND start < ?",
                            *(key, size_s, int(now - kept_s)),
                        )
                    removed += gone.rowcount
                old = (key, int(now - keep_daily_s))
                self._execute("DELETE FROM digests WHERE installation = ? AND start < ?", *old)
            return removed

        return self._file.use(change, change=True)

    def clear(self) -> None:
        """Remove everything, so that nothing of it is left in the file.

        Raises:
            HistoryError: The file can't be written.
        """

        def change() -> None:
            for table in ("cells", "slots", "series", "digests", "installations"):
                self._execute(f"DELETE FROM {table}")  # noqa: S608 (own names)
            self._forget()

        def shrink() -> None:
            self._execute("VACUUM")
            self._execute("PRAGMA wal_checkpoint(TRUNCATE)")

        self._file.use(change, change=True)
        self._file.use(shrink)

    # -- rows

    def _execute(self, query: str, *values: object) -> sqlite3.Cursor:
        return self._file.connection.execute(query, values)

    def _forget(self) -> None:
        self._known_series.clear()
        self._joined.clear()

    def _notice_others(self) -> None:
        """Forget what is remembered of the content, where another process has changed it."""
        found: int = self._execute("PRAGMA data_version").fetchone()[0]
        if found != self._data_version:
            self._forget()
        self._data_version = found

    def _join_parents(self, key: int, slots: Iterable[Slot]) -> None:
        changed = {(slot.size_s, slot.start) for slot in slots}
        for size_s, part_s, start in parents_of(slots):
            first = min(
                (
                    part
                    for size, part in changed
                    if size == part_s and start <= part < start + size_s
                ),
                default=start,
            )
            made = self._join(key, size_s, part_s, start, first)
            for former in self._get(key, size_s, start):
                made = made.or_fuller(former)
            self._put(key, made)
            changed.add((size_s, start))

    def _join(self, key: int, size_s: int, part_s: int, start: int, changed_from: int) -> Slot:
        """A slot of its parts, of which those before ``changed_from`` are as they were.

        All but the last part are joined once and remembered: an hour is made again each minute.
        """
        before, since = self._joined.get((key, size_s), (Slot(size_s, start), start))
        if before.start != start or since > changed_from:
            before, since = Slot(size_s, start), start
        *over, last = self._slots(key, part_s, since, start + size_s)
        before = join(size_s, start, (before, *over))
        self._joined[key, size_s] = before, last.start
        return join(size_s, start, (before, last))

    def _get(self, key: int, size_s: int, start: int) -> tuple[Slot, ...]:
        return tuple(self._slots(key, size_s, start, start + 1))

    def _slots(
        self, key: int, size_s: int, begin: float, end: float, series: str = ""
    ) -> Iterator[Slot]:
        return find_slots(self._file.connection, (key, size_s, begin, end), series)

    def _put(self, key: int, slot: Slot) -> None:
        self._execute(PUT_SLOT, key, *row_of(slot))
        implied = ZERO if slot.complete else NEVER
        self._file.connection.executemany(
            "INSERT OR REPLACE INTO cells VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (key, slot.size_s, slot.start, self._series(name), *cell)
                for name, cell in slot.cells.items()
                if cell != implied
            ],
        )

    def _installation(self, uuid: str) -> int:
        self._execute("INSERT INTO installations (uuid) VALUES (?) ON CONFLICT DO NOTHING", uuid)
        return int(self._one("SELECT id FROM installations WHERE uuid = ?", uuid))

    def _series(self, name: str) -> int:
        if name not in self._known_series:
            self._execute("INSERT INTO series (name) VALUES (?) ON CONFLICT DO NOTHING", name)
            found = self._one("SELECT id FROM series WHERE name = ?", name)
            self._known_series[name] = int(found)
        return self._known_series[name]

    def _one(self, query: str, value: int | str) -> int | str:
        found: int | str = self._execute(query, value).fetchone()[0]
        return found


def _check(slot: Slot) -> None:
    """Whether SQLite has numbers that large.

    Raises:
        HistoryError: It doesn't.
    """
    numbers = [slot.start, *(number for cell in slot.cells.values() for number in cell)]
    if any(number is not None and abs(number) >= _LARGEST for number in numbers):
        raise HistoryError(f"slot of {slot.size_s} s from {slot.start}: a number is too large")


def open_store(folder: Path, *, now: Callable[[], float], mounts: Path = MOUNTS) -> SqliteStore:
    """The store in a state folder, made where there is none.

    A damaged file is moved aside, and a new one takes its place. One of another program, or of a
    newer telemetryd, is left alone.

    Args:
        folder: Must exist.
        now: Unix time in seconds, for the name of a damaged file.
        mounts: The kernel's table of them, which tells a network's file systems.

    Raises:
        HistoryError: It can't be opened, or another process has it open to write.
    """
    return SqliteStore(SqliteFile(folder / FILE_NAME, writable=True, now=now, mounts=mounts))


def read_store(folder: Path) -> SqliteStore:
    """The store in a state folder, to read it where no daemon runs.

    Raises:
        HistoryError: There is none, or it can't be read.
    """
    place = folder / FILE_NAME
    if not place.exists():
        raise HistoryError(f"no history in {folder}: the daemon writes it there while it runs")
    return SqliteStore(SqliteFile(place, writable=False, now=lambda: 0.0))
