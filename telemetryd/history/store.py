"""Which store keeps the history, as the configuration says: a file, or a database.

It has the file of a machine in ``sqlite`` and PostgreSQL in ``postgresql``, which is imported only
where it is configured: its driver is an optional part of telemetryd.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from telemetryd.config import Config
from telemetryd.errors import HistoryError
from telemetryd.history.slots import Slot

POSTGRESQL = "postgresql"
FILE_NAME = "history.db"
"""Of the file, in the state folder."""
CALL_S = 15.0
"""For a call of a database; less than the daemon waits for it."""
COMMAND_S = 120.0
"""For each call of a command: a database may be far away, and an import large."""


class HistoryStore(Protocol):
    """What keeps slots. Each call blocks for a bounded time: make it in a worker thread.

    All raise HistoryError where the store can't be read or written.
    """

    def write(
        self, installation: str, slots: Sequence[Slot], *, epoch: int = 0, batch: str = ""
    ) -> None:
        """Add slots, and make the larger slots around them again: all of it or nothing.

        Args:
            installation: Install UUID.
            slots: In the order in which they came about.
            epoch: Of leadership: among replicas the record of the highest one counts.
            batch: The same whenever the same slots are written again, because it isn't known
                whether they were written; empty for slots that are written once.
        """

    def merge(self, slots: Iterable[tuple[str, Slot]]) -> int:
        """Add slots of another store, each with its installation: all of them or none."""

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

        Args:
            installation: Install UUID.
            size_s: Of the slots.
            begin: Unix time in seconds.
            end: Unix time in seconds.
            series: They have the cells of this one alone; empty for all.
            most: No more slots than that; None for all.
        """

    def installations(self) -> list[str]:
        """The install UUIDs that there are days of, that with the latest one last."""

    def known_until(self, installation: str, before: float = 2.0**62) -> float | None:
        """To when the minutes that begin before a time reach; None where there is none."""

    def digests(self, installation: str) -> dict[int, str]:
        """The digests that were noted, by the beginning of their month in Unix seconds."""

    def note_digest(self, installation: str, start: int, digest: str) -> bool:
        """Whether another one, or none, was noted of the month; now it is this one."""

    def prune(
        self, now: float, *, keep_s: float, keep_daily_s: float, installation: str = ""
    ) -> int:
        """Remove what isn't kept any more, of one installation or of all."""

    def clear(self) -> None:
        """Remove everything."""

    def migrate(self) -> str:
        """Bring the store to the form of this version; returns the number of its schema."""

    def close(self) -> None:
        """Close what is open."""


def is_shared(config: Config) -> bool:
    """Whether replicas, and other installations, have their history in the same store."""
    return config.history.store == POSTGRESQL


def instance_of(config: Config) -> str:
    """Whose record the store has: this host's, or empty for one that replicas share."""
    return "" if is_shared(config) else os.uname().nodename


def describe_store(config: Config) -> str:
    """Where the history is kept, in words; empty where it is kept nowhere."""
    if is_shared(config):
        return "PostgreSQL"
    return "" if config.state_dir is None else f"SQLite, {config.state_dir}/{FILE_NAME}"


def open_history(
    config: Config, *, now: Callable[[], float], timeout_s: float = CALL_S
) -> HistoryStore:
    """The store to write to, made where there is none.

    Args:
        config: Names the store.
        now: Unix time in seconds.
        timeout_s: For each call of a database.

    Raises:
        HistoryError: It can't be opened.
    """
    if config.history.dsn_file is not None and is_shared(config):
        return _database(config.history.dsn_file, timeout_s)
    from telemetryd.history.sqlite import open_store  # noqa: PLC0415 - it takes a megabyte

    folder = _folder(config)
    if not folder.is_dir():
        raise HistoryError(f"no history in {folder}: there is no such folder")
    return open_store(folder, now=now)


def read_history(config: Config) -> HistoryStore:
    """The store to read, for a command.

    Raises:
        HistoryError: There is none, or it can't be read.
    """
    if config.history.dsn_file is not None and is_shared(config):
        return _database(config.history.dsn_file, COMMAND_S)
    from telemetryd.history.sqlite import read_store  # noqa: PLC0415 - it takes a megabyte

    return read_store(_folder(config))


def _database(dsn_file: str, timeout_s: float) -> HistoryStore:
    from telemetryd.history.postgresql import PostgresStore  # noqa: PLC0415 - an optional part

    return PostgresStore(dsn_file, timeout_s=timeout_s)


def _folder(config: Config) -> Path:
    if config.state_dir is None:
        raise HistoryError("no history: there is no usable state_dir: configure one")
    return Path(config.state_dir)
