"""A folder of dated snapshots, each written whole in spite of crashes, full disks, other writers.

A snapshot is ``<prefix>-2026-11-22T11-30-00.123Z.json``, with ``.gz`` behind it where compressed:
the time of writing in UTC to the millisecond, so that names sort by time; where two fall into one
millisecond the second counts on. ``latest`` is a link to the newest. Temporary files are hidden and
end in ``.tmp``, and ``.telemetryd.lock`` keeps a second writer out. Other files are never read,
counted or touched. Everything blocks: call it in a worker thread.
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
from telemetryd.kube.requests import Fence

LATEST: Final = "latest"
LOCK: Final = ".telemetryd.lock"
"""Stays, empty, between writes."""

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
    """The files to remove to stay within the limits, oldest first.

    A file dated after the newest was written before the clock was set back. It counts as the
    oldest, or it would never be removed.
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
    """Open the folder, made where it is missing, and lock out all other writers.

    Temporary files of an interrupted run are removed.

    Raises:
        OSError: It can't be opened or made.
        RetryableError: Another writer uses it.
        PermanentError: Its parent is missing, or ``latest`` is not a link.
    """
    with ExitStack() as opened:
        fd = _open_folder(path)
        opened.callback(os.close, fd)
        opened.callback(os.close, _lock(fd, path))
        yield SnapshotFolder(fd, path, prefix)


class SnapshotFolder:
    """The open folder, used by its descriptor: its path may lead elsewhere meanwhile."""

    def __init__(self, fd: int, path: str, prefix: str) -> None:
        """Read the folder's entries.

        Raises:
            OSError: The folder can't be read.
            PermanentError: ``latest`` is not a link.
        """
        self._fd = fd
        self._prefix = prefix
        self._latest = self._read_link(path)
        self._taken: set[str] = set()
        self._files: dict[str, SnapshotFile] = {}
        name = re.escape(prefix) + "-" + _STAMP + r"\.json(?:\.gz)?"
        self._take_stock(re.compile(name), re.compile(rf"\.{name}(?:\.{LATEST})?\.tmp"))

    def read_latest(self, limit_bytes: int, *, compressed: bool) -> bytes | None:
        """The content of ``latest``, decompressed.

        Returns:
            None where a new snapshot must be written: ``latest`` is missing, isn't one of our
            snapshots in that form, is larger than the limit, or can't be read.
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
        """Add a snapshot and let ``latest`` lead to it; all or nothing, and synced.

        The fence is called as the last thing before a file becomes visible; its exceptions are
        raised here, and the folder is as it was.

        Raises:
            OSError: It can't be written; the folder is as it was.
        """
        if compress:
            content = gzip.compress(content, mtime=0)
        name = self._free_name(now_s) + (_GZIP if compress else "")
        data, link = f".{name}.tmp", f".{name}.{LATEST}.tmp"
        try:
            # Everything that takes space comes before anything is visible.
            write_synced(self._fd, data, content)
            os.symlink(name, link, dir_fd=self._fd)
            fence()
            self._rename(data, name)
            # ``latest`` may only lead to a snapshot that outlives a loss of power.
            sync_folder(self._fd)
            fence()  # again, as the disk may have been slow
            self._rename(link, LATEST)
        except Exception:
            self._roll_back(name, data, link)
            raise
        self._latest = name
        self._files[name] = SnapshotFile(name, len(content))
        sync_folder(self._fd)

    def drop_excess(self, *, keep: int, max_bytes: int | None) -> None:
        """Remove the oldest snapshots beyond the limits; that of ``latest`` always stays.

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
        try:
            return os.readlink(LATEST, dir_fd=self._fd)
        except FileNotFoundError:
            return ""
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
            raise PermanentError(
                Reason.STORAGE,
                f"{path}/{LATEST} isn't a link and is not changed: move it away, or configure "
                "another directory",
            ) from exc

    def _take_stock(self, name: re.Pattern[str], temporary: re.Pattern[str]) -> None:
        with os.scandir(self._fd) as entries:
            for entry in entries:
                self._taken.add(entry.name)
                if temporary.fullmatch(entry.name):
                    # A temporary file that can't be removed doesn't keep us from writing.
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
    """Lock out others until the returned descriptor is closed, or its process dies.

    Raises:
        OSError: The folder can't be locked.
        RetryableError: Another writer holds the lock.
    """
    try:
        return lock_file(fd, LOCK)
    except BlockingIOError as exc:
        raise RetryableError(
            Reason.CONFLICT,
            f"another telemetryd, or an earlier write, uses {path}: if that lasts, give each its "
            "own directory",
        ) from exc
    except OSError as exc:
        if exc.errno != errno.EROFS:
            raise
        return os.dup(fd)  # nothing can be written here, but the content can still be compared


def _decompress(content: bytes, limit_bytes: int) -> bytes:
    """The content of gzip, cut off at the limit; empty where its end is missing."""
    stream = zlib.decompressobj(_GZIP_WINDOW)
    plain = stream.decompress(content, limit_bytes)
    return plain if stream.eof and not stream.unused_data else b""
