"""The store of one machine: a SQLite file. Everything here blocks: call it in a worker thread."""

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Final

from telemetryd.errors import HistoryError
from telemetryd.history.slots import (
    DAY_S,
    HOUR_S,
    MINUTE_S,
    Cell,
    Gap,
    Slot,
    join,
    parents_of,
)

SCHEMA_VERSION: Final = 1
APPLICATION_ID: Final = 0x746C6D64
"""``tlmd``, in the header of the file (SQLite's ``application_id``)."""
FILE_NAME: Final = "history.db"
MINUTES_KEPT_S: Final = 48.0 * HOUR_S
BUSY_S: Final = 5.0
"""Another process that reads may hold a lock for so long."""

_NETWORK: Final = (
    "nfs",
    "cifs",
    "smb",
    "9p",
    "ceph",
    "glusterfs",
    "fuse",
    "afs",
    "lustre",
    "virtiofs",
)
"""Types of file systems whose locks or shared memory SQLite can't trust, by how they begin."""
_DAMAGED: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_PRIMARY: Final = 0xFF
"""The part of an extended result code that names its kind (sqlite.org/rescode.html)."""
_GAPS: Final = tuple(Gap)
_SCHEMA: Final = """
CREATE TABLE installations (id INTEGER PRIMARY KEY, uuid TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE series (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE slots (
  installation INTEGER NOT NULL, size INTEGER NOT NULL, start INTEGER NOT NULL,
  known_s REAL NOT NULL, complete_s REAL NOT NULL, complete INTEGER NOT NULL,
  off_s REAL NOT NULL, down_s REAL NOT NULL, incomplete_s REAL NOT NULL, clock_s REAL NOT NULL,
  version TEXT NOT NULL,
  PRIMARY KEY (installation, size, start)) STRICT, WITHOUT ROWID;
CREATE TABLE cells (
  installation INTEGER NOT NULL, size INTEGER NOT NULL, start INTEGER NOT NULL,
  series INTEGER NOT NULL,
  high INTEGER NOT NULL, low INTEGER, first INTEGER, last INTEGER, mean REAL,
  PRIMARY KEY (installation, size, start, series)) STRICT, WITHOUT ROWID;
"""
_SLOT: Final = (
    "size, start, known_s, complete_s, complete, off_s, down_s, incomplete_s, clock_s, version"
)


class SqliteStore:
    """Slots in a SQLite file; used by one thread at a time.

    Attributes:
        journal: ``wal``, or ``delete`` on a network's file system.
        set_aside: Where a damaged file was moved when this one was opened, and what was wrong with
            it; None if none was.
    """

    def __init__(
        self, connection: sqlite3.Connection, set_aside: tuple[Path, str] | None = None
    ) -> None:
        """Made by ``open_store`` and ``read_store``."""
        self._connection = connection
        self._known_series: dict[str, int] = {}
        self.set_aside = set_aside
        self.journal: str = connection.execute("PRAGMA journal_mode").fetchone()[0]

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def write(self, installation: str, slots: Sequence[Slot]) -> None:
        """Add slots, and make the larger slots around them again: all of it or nothing.

        Raises:
            HistoryError: The file can't be written.
        """
        with self._transaction():
            key = self._installation(installation)
            for slot in slots:
                known = self._get(key, slot.size_s, slot.start)
                self._put(key, join(slot.size_s, slot.start, (*known, slot)))
            for size_s, part_s, start in parents_of(slots):
                parts = self._slots(key, part_s, start, start + size_s)
                made = join(size_s, start, parts)
                for former in self._get(key, size_s, start):
                    made = made.or_fuller(former)
                self._put(key, made)

    def merge(self, slots: Iterable[tuple[str, Slot]]) -> int:
        """Add slots of another store, each with its installation: all of them or none.

        Of two records of a slot the one that knows more of it stays, with the peaks of both.
        Returns their number.

        Raises:
            HistoryError: The file can't be written.
        """
        count = 0
        with self._transaction():
            for installation, slot in slots:
                key = self._installation(installation)
                made = slot
                for known in self._get(key, slot.size_s, slot.start):
                    made = known.or_fuller(slot)
                self._put(key, made)
                count += 1
        return count

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
        with _translated():
            found = self._connection.execute(
                "SELECT id FROM installations WHERE uuid = ?", (installation,)
            ).fetchone()
            if not found:
                return []
            return list(islice(self._slots(found[0], size_s, begin, end, series), most))

    def installations(self) -> list[str]:
        """The install UUIDs that there are days of, that with the latest one last."""
        with _translated():
            rows = self._connection.execute(
                "SELECT uuid FROM installations JOIN slots ON id = installation"
                " WHERE size = 86400 GROUP BY uuid ORDER BY max(start), uuid"
            )
            return [row[0] for row in rows]

    def known_until(self, installation: str) -> float | None:
        """To when the minutes reach, in Unix seconds; None where there is none."""
        with _translated():
            row = self._connection.execute(
                "SELECT start + min(60.0, known_s + off_s + down_s + clock_s) FROM slots"
                " JOIN installations ON id = installation WHERE uuid = ? AND size = 60"
                " ORDER BY start DESC LIMIT 1",
                (installation,),
            ).fetchone()
            return None if row is None else float(row[0])

    def prune(self, now: float, *, keep_s: float, keep_daily_s: float) -> int:
        """Remove what isn't kept any more; returns the number of slots.

        Raises:
            HistoryError: The file can't be written.
        """
        kept = ((MINUTE_S, MINUTES_KEPT_S), (HOUR_S, keep_s), (DAY_S, keep_daily_s))
        removed = 0
        with self._transaction():
            for size_s, kept_s in kept:
                where = (size_s, int(now - kept_s))
                self._connection.execute("DELETE FROM cells WHERE size = ? AND start < ?", where)
                gone = self._connection.execute(
                    "DELETE FROM slots WHERE size = ? AND start < ?", where
                )
                removed += gone.rowcount
        return removed

    def clear(self) -> None:
        """Remove everything, so that nothing of it is left in the file.

        Raises:
            HistoryError: The file can't be written.
        """
        with self._transaction():
            for table in ("cells", "slots", "series", "installations"):
                self._connection.execute(f"DELETE FROM {table}")  # noqa: S608 (own names)
            self._known_series.clear()
        with _translated():
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    # -- rows

    def _get(self, key: int, size_s: int, start: int) -> tuple[Slot, ...]:
        return tuple(self._slots(key, size_s, start, start + 1))

    def _slots(
        self, key: int, size_s: int, begin: float, end: float, series: str = ""
    ) -> Iterator[Slot]:
        where = (key, size_s, begin, end)
        cells = self._connection.execute(
            "SELECT start, name, high, low, first, last, mean FROM cells"
            " JOIN series ON series.id = series"
            " WHERE installation = ? AND size = ? AND start >= ? AND start < ?"
            " AND ? IN ('', name) ORDER BY start",
            (*where, series),
        )
        cell = cells.fetchone()
        rows = self._connection.execute(
            f"SELECT {_SLOT} FROM slots"  # noqa: S608 (own names)
            " WHERE installation = ? AND size = ? AND start >= ? AND start < ? ORDER BY start",
            where,
        )
        for size, start, known_s, complete_s, complete, *gaps, version in rows:
            of_slot = {}
            while cell is not None and cell[0] == start:
                of_slot[cell[1]] = Cell(*cell[2:])
                cell = cells.fetchone()
            missed = {gap: seconds for gap, seconds in zip(_GAPS, gaps, strict=True) if seconds}
            yield Slot(size, start, known_s, complete_s, bool(complete), missed, version, of_slot)

    def _put(self, key: int, slot: Slot) -> None:
        gaps = [slot.gaps.get(gap, 0.0) for gap in _GAPS]
        row = (slot.size_s, slot.start, slot.known_s, slot.complete_s, slot.complete, *gaps)
        self._connection.execute(
            f"INSERT OR REPLACE INTO slots (installation, {_SLOT})"  # noqa: S608 (own names)
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (key, *row, slot.version),
        )
        self._connection.executemany(
            "INSERT OR REPLACE INTO cells VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (key, slot.size_s, slot.start, self._series(name), *cell)
                for name, cell in slot.cells.items()
            ],
        )

    def _installation(self, uuid: str) -> int:
        self._connection.execute(
            "INSERT INTO installations (uuid) VALUES (?) ON CONFLICT DO NOTHING", (uuid,)
        )
        return self._one("SELECT id FROM installations WHERE uuid = ?", uuid)

    def _series(self, name: str) -> int:
        if name not in self._known_series:
            self._connection.execute(
                "INSERT INTO series (name) VALUES (?) ON CONFLICT DO NOTHING", (name,)
            )
            self._known_series[name] = self._one("SELECT id FROM series WHERE name = ?", name)
        return self._known_series[name]

    def _one(self, query: str, value: str) -> int:
        found: int = self._connection.execute(query, (value,)).fetchone()[0]
        return found

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with _translated():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                self._known_series.clear()
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise


def is_on_network(place: Path) -> bool:
    """Whether a file is on a file system of a network, by the kernel's table of mounts.

    See proc_pid_mountinfo(5): the device's numbers are the third field, the type follows ``-``.
    """
    device = place.stat().st_dev
    numbers = f"{os.major(device)}:{os.minor(device)}"
    with suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            fields = line.split(" ")
            if fields[2] == numbers:
                return fields[fields.index("-") + 1].startswith(_NETWORK)
    return False


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as exc:
        raise HistoryError(f"history: {exc}") from exc


def open_store(folder: Path, *, now: Callable[[], float]) -> SqliteStore:
    """The store in a state folder, made where there is none.

    A damaged file is moved aside, and a new one takes its place. One of another program, or of a
    newer telemetryd, is left alone.

    Args:
        folder: Must exist.
        now: Unix time in seconds, for the name of a damaged file.

    Raises:
        HistoryError: It can't be opened.
    """
    place = folder / FILE_NAME
    try:
        return SqliteStore(_open(place, _url(place, "rwc")))
    except _DamagedError as exc:
        aside = place.with_name(f"{FILE_NAME}.damaged-{int(now())}")
        with _translated():
            # What SQLite keeps beside a file belongs to it.
            for suffix in ("-wal", "-shm", "-journal"):
                with suppress(FileNotFoundError):
                    Path(f"{place}{suffix}").rename(f"{aside}{suffix}")
            place.rename(aside)
            return SqliteStore(_open(place, _url(place, "rwc")), (aside, str(exc)))


def read_store(folder: Path) -> SqliteStore:
    """The store in a state folder, to read it where no daemon runs.

    Raises:
        HistoryError: There is none, or it can't be read.
    """
    place = folder / FILE_NAME
    if not place.exists():
        raise HistoryError(f"no history in {folder}: the daemon writes it there while it runs")
    try:
        return SqliteStore(_open(place, _url(place, "ro"), writable=False))
    except _DamagedError as exc:
        raise HistoryError(
            f"{place}: damaged ({exc}): restore it from a copy, or start the daemon, which moves it"
            " aside and begins a new one"
        ) from exc


class _DamagedError(Exception):
    """The file isn't a whole database."""


def _url(place: Path, mode: str) -> str:
    return f"{place.as_uri()}?mode={mode}"


def _open(place: Path, url: str, *, writable: bool = True) -> sqlite3.Connection:
    with _translated():
        if writable:
            # As all that telemetryd keeps; SQLite gives its files beside it the same mode.
            os.close(os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        connection = sqlite3.connect(
            url, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )
        try:
            _prepare(connection, place, writable=writable)
        except BaseException:
            connection.close()
            raise
        return connection


def _prepare(connection: sqlite3.Connection, place: Path, *, writable: bool) -> None:
    try:
        owner = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if tables and owner != APPLICATION_ID:
            raise HistoryError(
                f"{place}: is the database of another program: move it away, or set state_dir"
            )
        if version > SCHEMA_VERSION:
            raise HistoryError(
                f"{place}: has schema {version}, and this telemetryd knows {SCHEMA_VERSION}: run"
                " the newer telemetryd that wrote it, or move the file away to begin a new history"
            )
        problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if problem != "ok":
            raise _DamagedError(problem)
        if not writable:
            if not tables:
                raise HistoryError(f"no history in {place.parent} yet")
            return
        network = is_on_network(place)
        # WAL needs memory that is shared between processes, which file systems of a network lack.
        connection.execute(f"PRAGMA journal_mode = {'DELETE' if network else 'WAL'}")
        connection.execute(f"PRAGMA locking_mode = {'EXCLUSIVE' if network else 'NORMAL'}")
        connection.execute("PRAGMA synchronous = FULL")
        if not tables:
            connection.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA application_id = {APPLICATION_ID};"
                f" PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
    except sqlite3.DatabaseError as exc:
        if exc.sqlite_errorcode & _PRIMARY in _DAMAGED:
            raise _DamagedError(str(exc)) from exc
        raise
