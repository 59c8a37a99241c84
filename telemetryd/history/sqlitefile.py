"""The file under the store of one machine: checked when it is opened, and replaced once it fails.

Everything here blocks: call it in a worker thread.
"""

import errno
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

from telemetryd.atomicfile import FOLDER_FLAGS, lock_file
from telemetryd.errors import HistoryError

T = TypeVar("T")

log = logging.getLogger(__name__)

SCHEMA_VERSION: Final = 1
APPLICATION_ID: Final = 0x746C6D64
"""``tlmd``, in the header of the file (SQLite's ``application_id``)."""
BUSY_S: Final = 5.0
"""Another process that reads may hold a lock for so long."""
MOST_ASIDE: Final = 3
"""Damaged files that are kept. A disk that damages each new file must not be filled with them."""

MOUNTS: Final = Path("/proc/self/mountinfo")

_NETWORK: Final = (
    *("nfs", "cifs", "smb", "9p", "ceph", "glusterfs", "fuse", "afs", "lustre", "virtiofs"),
    *("ocfs2", "gfs2", "gpfs", "beegfs", "vboxsf"),
)
"""Types of file systems whose locks or shared memory SQLite can't trust, by how they begin."""
_BESIDE: Final = ("-wal", "-shm", "-journal")
"""What SQLite keeps beside a file, and what belongs to it."""
_DAMAGED: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}
"""``SQLITE_ERROR`` is a statement that doesn't fit the tables; ours fit the ones that we make."""
_LOCKED = (
    "another process has held its lock for long, or the file server gives no locks:"
    " end that process, or check the server"
)
_RIGHTS = "check the owner and the rights of the file, of its -wal and -shm, and of the folder"
_ROOM = "make room on its disk"
_OWN_FIXES: Final = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EROFS: "mount it writable, or set state_dir",
    errno.ELOOP: "is a link: put the file itself there",
    errno.EIO: "check the disk or the file server",
    errno.ESTALE: "check the disk or the file server",
}
_FIXES: Final = {
    sqlite3.SQLITE_FULL: _ROOM,
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_PROTOCOL: _LOCKED,
    sqlite3.SQLITE_CANTOPEN: _RIGHTS,
    sqlite3.SQLITE_READONLY: _RIGHTS,
    sqlite3.SQLITE_PERM: _RIGHTS,
    sqlite3.SQLITE_IOERR: "check the disk or the file server",
}
_PRIMARY: Final = 0xFF
"""The part of an extended result code that names its kind (sqlite.org/rescode.html)."""
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS installations (
  id INTEGER PRIMARY KEY, uuid TEXT NOT NULL UNIQUE, batch TEXT NOT NULL DEFAULT '') STRICT;
CREATE TABLE IF NOT EXISTS series (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE IF NOT EXISTS slots (
  installation INTEGER NOT NULL, size INTEGER NOT NULL, start INTEGER NOT NULL,
  known_s REAL NOT NULL, complete_s REAL NOT NULL, complete INTEGER NOT NULL,
  off_s REAL NOT NULL, down_s REAL NOT NULL, incomplete_s REAL NOT NULL, clock_s REAL NOT NULL,
  version TEXT NOT NULL,
  PRIMARY KEY (installation, size, start)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cells (
  installation INTEGER NOT NULL, size INTEGER NOT NULL, start INTEGER NOT NULL,
  series INTEGER NOT NULL,
  high INTEGER NOT NULL, low INTEGER, first INTEGER, last INTEGER, mean REAL,
  PRIMARY KEY (installation, size, start, series)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS digests (
  installation INTEGER NOT NULL, start INTEGER NOT NULL, digest TEXT NOT NULL,
  PRIMARY KEY (installation, start)) STRICT, WITHOUT ROWID;
"""
_PROBE: Final = "SELECT batch, name, clock_s, mean FROM installations, series, slots, cells LIMIT 0"


class DamagedError(HistoryError):
    """The file isn't a whole database, or doesn't hold what telemetryd writes.

    Attributes:
        why: What is wrong with it.
    """

    def __init__(self, place: Path, why: object) -> None:
        self.why = str(why)
        super().__init__(
            f"{place}: damaged ({why}): restore it from a copy, or start the daemon, which moves it"
            " aside and begins a new one"
        )


class SqliteFile:
    """A connection to a file; used by one thread at a time.

    One that is opened to write has a lock that keeps other writers away. If the file is removed or
    replaced, it goes on with the one that is there now, or a new one. If the file is damaged, it is
    moved aside, and a new one takes its place.

    Attributes:
        set_aside: Where a damaged file was moved last, and what was wrong with it; None if none
            was.
        forget: Called when what is known of the content may no longer be so.
    """

    def __init__(
        self, place: Path, *, writable: bool, now: Callable[[], float], mounts: Path = MOUNTS
    ) -> None:
        """Open it.

        Args:
            place: The file; its folder must exist.
            writable: Make it where there is none.
            now: Unix time in seconds, for the name of a damaged file.
            mounts: The kernel's table of them.

        Raises:
            HistoryError: It can't be opened.
        """
        self._mounts = mounts
        self._place = place.absolute()
        self._writable = writable
        self._now = now
        self.set_aside: tuple[Path, str] | None = None
        self.forget: Callable[[], None] = lambda: None
        self.connection: sqlite3.Connection
        self._lock = _lock(self._place) if writable else None
        try:
            self._open()
        except BaseException:
            self._unlock()
            raise

    def close(self) -> None:
        """Close the file, and let others write."""
        self.connection.close()
        self._unlock()

    def use(self, call: Callable[[], T], *, change: bool = False) -> T:
        """What a call returns that uses the connection; with ``change`` in one transaction.

        Raises:
            HistoryError: The file can't be used; nothing is changed.
            DamagedError: Nor could an empty one.
        """
        run = self._transact if change else self._run
        if not self._writable:
            return run(call)
        self._follow()
        try:
            return run(call)
        except DamagedError:
            self._reopen()  # which looks at all of it
        try:
            return run(call)
        except DamagedError as error:
            if not self._is_at_fault(call):
                raise
            self.connection.close()
            self._move_aside(error.why)
            self._reopen()
        return run(call)

    def _is_at_fault(self, call: Callable[[], T]) -> bool:
        """Whether a call fails because of the file: it works with an empty database."""
        kept, self.connection = self.connection, sqlite3.connect(":memory:", isolation_level=None)
        self.forget()
        try:
            self.connection.executescript(_SCHEMA)
            call()
        except (sqlite3.Error, TypeError, ValueError, ArithmeticError):
            return False
        finally:
            self.connection.close()
            self.connection = kept
            self.forget()
        return True

    def _run(self, call: Callable[[], T]) -> T:
        with translated(self._place):
            return call()

    def _transact(self, call: Callable[[], T]) -> T:
        with translated(self._place):
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                found = call()
                self.connection.execute("COMMIT")
            except BaseException:
                self.forget()
                with suppress(sqlite3.Error):
                    self.connection.execute("ROLLBACK")
                raise
            return found

    def _open(self) -> None:
        try:
            self.connection = self._connect()
        except DamagedError as error:
            if not self._writable:
                raise
            self._move_aside(error.why)
            self.connection = self._connect()
        self._seen = _identity(self._place)
        self._seen_wal = _identity(_beside(self._place, "-wal"))

    def _connect(self) -> sqlite3.Connection:
        return _connect(self._place, writable=self._writable, mounts=self._mounts)

    def _reopen(self) -> None:
        self.connection.close()
        self._seen = None
        self.forget()
        self._open()

    def _follow(self) -> None:
        """Go on with the file that is there now."""
        found = _identity(self._place)
        if found is not None and found == self._seen:
            return
        if self._seen is not None:
            log.warning("history file was removed or replaced file=%s", self._place)
        self.connection.close()
        wal = _beside(self._place, "-wal")
        # SQLite would take what the former file left for a part of this one.
        if self._seen_wal is not None and _identity(wal) == self._seen_wal:
            with translated(self._place):
                for suffix in _BESIDE:
                    _beside(self._place, suffix).unlink(missing_ok=True)
        self._reopen()

    def _move_aside(self, why: str) -> None:
        aside = self._place.with_name(f"{self._place.name}.damaged-{int(self._now())}")
        with translated(self._place):
            former = [
                each
                for each in self._place.parent.glob(f"{self._place.name}.damaged-*")
                if not each.name.endswith(_BESIDE)
            ]
            if len(former) >= MOST_ASIDE:
                raise HistoryError(
                    f"{self._place}: damaged ({why}), as {len(former)} files before it were: check"
                    f" the disk, then move {self._place.name}.damaged-* to another folder"
                )
            while aside in former:
                aside = aside.with_name(f"{aside.name}-again")
            for suffix in _BESIDE:
                with suppress(FileNotFoundError):
                    _beside(self._place, suffix).rename(_beside(aside, suffix))
            self._place.rename(aside)
        self.set_aside = aside, why
        log.error("history is damaged, a new one begins moved_to=%s error=%r", str(aside), why)

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def is_on_network(place: Path, mounts: Path) -> bool:
    """Whether a file is on a file system of a network, by the kernel's table of mounts.

    See proc_pid_mountinfo(5): the device's numbers are the third field, the type follows ``-``.
    """
    device = place.stat().st_dev
    numbers = f"{os.major(device)}:{os.minor(device)}"
    with suppress(OSError):
        for line in mounts.read_text(errors="replace").splitlines():
            fields = line.split(" ")
            if fields[2:3] == [numbers] and "-" in fields[:-1]:
                return fields[fields.index("-") + 1].startswith(_NETWORK)
    return False


@contextmanager
def translated(place: Path) -> Iterator[None]:
    """Errors of SQLite, of the disk, and of what makes no sense, as those of the history.

    Raises:
        HistoryError: In their place.
        DamagedError: Where the file is at fault.
    """
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)  # none for text that isn't UTF-8
        undecoded = code is None and isinstance(error, sqlite3.OperationalError)
        kind = sqlite3.SQLITE_CORRUPT if undecoded else (code or 0) & _PRIMARY
        if kind in _DAMAGED:
            raise DamagedError(place, error) from error
        fix = f": {_FIXES[kind]}" if kind in _FIXES else ""
        raise HistoryError(f"{place}: {error}{fix}") from error
    except OSError as error:
        raise HistoryError(_storage(place, error)) from error
    except (TypeError, ValueError, ArithmeticError) as error:
        raise DamagedError(place, error) from error


def _storage(place: Path, error: OSError) -> str:
    return f"{place}: {error.strerror}: {_OWN_FIXES.get(error.errno or 0, _RIGHTS)}"


def _beside(place: Path, suffix: str) -> Path:
    return place.with_name(place.name + suffix)


def _identity(place: Path) -> tuple[int, int] | None:
    try:
        found = place.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _lock(place: Path) -> int:
    folder = place.parent
    try:
        opened = os.open(folder, FOLDER_FLAGS)
        try:
            return lock_file(opened, f"{place.stem}.lock")
        finally:
            os.close(opened)
    except BlockingIOError as error:
        raise HistoryError(
            f"{folder}: another telemetryd keeps its history there: end it, or set state_dir"
        ) from error
    except OSError as error:
        raise HistoryError(_storage(folder, error)) from error


def _connect(place: Path, *, writable: bool, mounts: Path) -> sqlite3.Connection:
    mode = "rwc" if writable else "ro"
    with translated(place):
        if writable:
            # As all that telemetryd keeps; SQLite gives its files beside it the same mode.
            os.close(os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        elif not (os.access(place.parent, os.W_OK) or _beside(place, "-wal").exists()):
            mode = "ro&immutable=1"  # SQLite needs files beside it, and can't make them there
        connection = sqlite3.connect(
            f"{place.as_uri()}?mode={mode}",
            uri=True,
            timeout=BUSY_S,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            network = writable and is_on_network(place, mounts)
            _prepare(connection, place, writable=writable, network=network)
        except BaseException:
            connection.close()
            raise
        return connection


def _prepare(connection: sqlite3.Connection, place: Path, *, writable: bool, network: bool) -> None:
    if network:
        # First of all: WAL needs memory that is shared between processes, which file systems of a
        # network lack. A connection with the lock to itself needs none.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    owner = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
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
        raise DamagedError(place, problem)
    if tables:
        connection.execute(_PROBE)
    elif not writable:
        raise HistoryError(f"no history in {place.parent} yet")
    if writable:
        connection.execute(f"PRAGMA journal_mode = {'DELETE' if network else 'WAL'}")
        connection.execute("PRAGMA synchronous = FULL")
    if writable and "digests" not in tables:
        connection.executescript(
            f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA application_id = {APPLICATION_ID};"
            f" PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )
