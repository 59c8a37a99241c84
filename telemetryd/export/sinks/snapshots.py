"""A folder of dated snapshots that no crash, full disk or second writer leaves half written.

A snapshot is ``<prefix>-2026-11-22T11-30-00.123Z.json``, with ``.gz`` behind it where compressed:
the time of writing in UTC to the millisecond, so that names sort by time; where two fall into one
millisecond the second counts on. ``latest`` is a link to the newest. Temporary files are hidden and
end in ``.tmp``, and ``.telemetryd.lock`` keeps a second writer out. Whatever is named otherwise is
someone else's: never read, counted or touched.

Everything blocks: this is for a worker thread. What a snapshot holds, and when one is due, doesn't
belong here.
"""

import errno
import gzip
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from telemetryd.atomicfile import FOLDER_FLAGS, lock_file, make_folder, sync_folder, write_synced
from telemetryd.errors import PermanentError, Reason, RetryableError
from telemetryd.kube.fence import Fence

LATEST: Final = "latest"
LOCK: Final = ".telemetryd.lock"
"""Stays, empty, when no one writes."""

_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_GZIP = ".gz"
_STAMP = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}-[0-9]{2}-[0-9]{2}\.[0-9]{3}Z"
_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_GZIP_WINDOW = 31  # zlib's number for its largest window with gzip's header and trailer


@dataclass(frozen=True, slots=True, order=True)
class SnapshotFile:
    """One snapshot in the folder."""

    name: str
    size_bytes: int


def choose_excess(
    files: Iterable[SnapshotFile], newest: SnapshotFile, *, keep: int, max_bytes: int | None
) -> list[SnapshotFile]:
    """Which of the others must go so that all stay within the limits; oldest first.

    What is dated after the newest was written under a clock that has been set back since. It counts
    as older than all else: it would never go otherwise.
    """
    others = sorted(
        (file for file in files if file.name != newest.name),
        key=lambda file: (file.name <= newest.name, file.name),
    )
    total_bytes = newest.size_bytes
    for count, index in enumerate(reversed(range(len(others))), start=2):
        total_bytes += others[index].size_bytes
        if count > keep or (max_bytes is not None and total_bytes > max_bytes):
            return others[: index + 1]
    return []


@contextmanager
def open_snapshots(path: str, prefix: str) -> Iterator["SnapshotFolder"]:
    """Open the folder, made anew where it is missing, and lock all other writers out of it.

    What a dead run has left half written is removed.

    Args:
        path: The folder; the one it is in must exist.
        prefix: What the names of this writer's snapshots begin with.

    Raises:
        OSError: It can't be opened or made.
        RetryableError: Another writer is at work in it.
        PermanentError: The folder that it should be in, or ``latest``, isn't what it must be.
    """
    with ExitStack() as opened:
        fd = _open_folder(path)
        opened.callback(os.close, fd)
        opened.callback(os.close, _lock(fd, path))
        yield SnapshotFolder(fd, path, prefix)


class SnapshotFolder:
    """The open folder. All goes by its descriptor, wherever its path leads meanwhile."""

    def __init__(self, fd: int, path: str, prefix: str) -> None:
        """Take stock.

        Args:
            fd: The folder, locked; stays the caller's.
            path: For messages.
            prefix: What the names of this writer's snapshots begin with.

        Raises:
            OSError: The folder can't be read.
            PermanentError: ``latest`` isn't a link.
        """
        self._fd = fd
        self._prefix = prefix
        self._latest = self._read_link(path)
        self._taken: set[str] = set()
        self._files: dict[str, SnapshotFile] = {}
        name = re.escape(prefix) + "-" + _STAMP + r"\.json(?:\.gz)?"
        self._take_stock(re.compile(name), re.compile(rf"\.{name}(?:\.{LATEST})?\.tmp"))

    def read_latest(self, limit_bytes: int, *, compressed: bool) -> bytes | None:
        """What ``latest`` leads to, decompressed.

        Returns:
            None where there is no such thing, it isn't one of our snapshots or not in that form, it
            is larger than the limit, or it can't be read: all fixed by a new one.
        """
        if self._latest not in self._files or self._latest.endswith(_GZIP) != compressed:
            return None
        try:
            content = self._read(self._latest, limit_bytes + 1)
            if compressed:
                content = _decompress(content, limit_bytes + 1)
        except (OSError, zlib.error):
            return None
        return content if len(content) <= limit_bytes else None

    def write(self, content: bytes, *, compress: bool, now_s: float, fence: Fence) -> None:
        """Add a snapshot and let ``latest`` lead to it; all or nothing, on the disk when done.

        Args:
            content: Of the snapshot.
            compress: Write gzip.
            now_s: Unix time in seconds.
            fence: Called as the last thing before something of it can be seen; what it raises is
                raised here, and the folder is as it was.

        Raises:
            OSError: It can't be written; the folder is as it was.
        """
        if compress:
            content = gzip.compress(content, mtime=0)
        name = self._free_name(now_s) + (_GZIP if compress else "")
        data, link = f".{name}.tmp", f".{name}.{LATEST}.tmp"
        try:
            # All that takes space comes before anything can be seen.
            write_synced(self._fd, data, content)
            os.symlink(name, link, dir_fd=self._fd)
            fence()
            self._rename(data, name)
            # Only a snapshot that outlives a loss of power may be led to.
            sync_folder(self._fd)
            fence()  # again, as a disk may have taken its time
            self._rename(link, LATEST)
        except Exception:
            self._roll_back(name, data, link)
            raise
        self._latest = name
        self._files[name] = SnapshotFile(name, len(content))
        sync_folder(self._fd)

    def drop_excess(self, *, keep: int, max_bytes: int | None) -> None:
        """Remove the oldest snapshots beyond the limits; what ``latest`` leads to always stays.

        Raises:
            OSError: One can't be removed.
        """
        if not self._files:
            return
        newest = self._files.get(self._latest) or max(self._files.values())
        for file in choose_excess(self._files.values(), newest, keep=keep, max_bytes=max_bytes):
            with suppress(FileNotFoundError):
                os.unlink(file.name, dir_fd=self._fd)
            del self._files[file.name]

    def _read_link(self, path: str) -> str:
        """Where ``latest`` leads, empty where there is none.

        Raises:
            OSError: It can't be read.
            PermanentError: It isn't a link.
        """
        try:
            return os.readlink(LATEST, dir_fd=self._fd)
        except FileNotFoundError:
            return ""
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
            raise PermanentError(
                Reason.STORAGE,
                f"{path}/{LATEST} isn't a link and is left alone: move it away, or configure "
                "another directory",
            ) from exc

    def _take_stock(self, name: re.Pattern[str], temporary: re.Pattern[str]) -> None:
        with os.scandir(self._fd) as entries:
            for entry in entries:
                self._taken.add(entry.name)
                if temporary.fullmatch(entry.name):
                    # It is in nobody's way: that it can't be removed is no reason not to write.
                    with suppress(OSError):
                        os.unlink(entry.name, dir_fd=self._fd)
                elif name.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    with suppress(FileNotFoundError):
                        size_bytes = entry.stat(follow_symlinks=False).st_size
                        self._files[entry.name] = SnapshotFile(entry.name, size_bytes)

    def _read(self, name: str, limit_bytes: int) -> bytes:
        fd = os.open(name, _READ_FLAGS, dir_fd=self._fd)
        chunks = []
        try:
            while limit_bytes > 0 and (chunk := os.read(fd, limit_bytes)):
                chunks.append(chunk)
                limit_bytes -= len(chunk)
        finally:
            os.close(fd)
        return b"".join(chunks)

    def _free_name(self, now_s: float) -> str:
        at_ms = round(now_s * 1000)
        while True:
            moment = _UNIX_EPOCH + timedelta(milliseconds=at_ms)
            stamp = moment.replace(tzinfo=None).isoformat(timespec="milliseconds").replace(":", "-")
            name = f"{self._prefix}-{stamp}Z.json"
            if self._taken.isdisjoint((name, name + _GZIP)):
                return name
            at_ms += 1

    def _rename(self, old: str, new: str) -> None:
        os.rename(old, new, src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def _roll_back(self, name: str, *temporary: str) -> None:
        with suppress(OSError):
            for leftover in temporary:
                with suppress(FileNotFoundError):
                    os.unlink(leftover, dir_fd=self._fd)
            # A network file system may have renamed what it reports as failed.
            try:
                target = os.readlink(LATEST, dir_fd=self._fd)
            except FileNotFoundError:
                target = ""
            if target != name:
                os.unlink(name, dir_fd=self._fd)


def _open_folder(path: str) -> int:
    try:
        return os.open(path, FOLDER_FLAGS)
    except FileNotFoundError:
        pass
    parent = Path(path).parent
    try:
        with suppress(FileExistsError):
            make_folder(Path(path), parents=False)
    except FileNotFoundError as exc:
        raise PermanentError(
            Reason.STORAGE,
            f"{path} can't be made, for {parent} doesn't exist: create it, or configure another "
            "directory",
        ) from exc
    return os.open(path, FOLDER_FLAGS)


def _lock(fd: int, path: str) -> int:
    """Keep others out until the returned descriptor is closed, or its process dies.

    Raises:
        OSError: The lock can't be had.
        RetryableError: Another has it.
    """
    try:
        return lock_file(fd, LOCK)
    except BlockingIOError as exc:
        raise RetryableError(
            Reason.CONFLICT,
            f"another telemetryd, or an earlier write, is at work in {path}: if that lasts, give "
            "each a directory of its own",
        ) from exc
    except OSError as exc:
        if exc.errno != errno.EROFS:
            raise
        return os.dup(fd)  # no one can write here: what is there can still be compared


def _decompress(content: bytes, limit_bytes: int) -> bytes:
    """Gzip to what was compressed, cut off behind the limit; empty where its end is missing."""
    stream = zlib.decompressobj(_GZIP_WINDOW)
    plain = stream.decompress(content, limit_bytes)
    return plain if stream.eof and not stream.unused_data else b""
