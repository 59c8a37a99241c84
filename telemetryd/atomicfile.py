"""Files that are whole or absent: written beside their place, synced, renamed; and their lock.

Everything here blocks: call it in a worker thread.
"""

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Final

from telemetryd import __version__

FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NO_LOCKS = {errno.EBADF, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
"""What ``flock`` says on file systems without it."""
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK}
"""What ``link`` says on file systems without hard links, such as that of a USB stick."""
_NO_FOLDER_SYNC = {errno.EINVAL, errno.EBADF, errno.EOPNOTSUPP}
"""What ``fsync`` of a folder says on file systems without it; there it is implied, or hopeless."""


def explain_newer(found: int, known: int, otherwise: str = "move the file away") -> str:
    """Why a file that a later version wrote isn't used, and what to do."""
    return (
        f"has format {found}, of a later telemetryd; this one, {__version__}, knows format {known}:"
        f" run the later one, or {otherwise}"
    )


def write_file(path: Path, content: bytes, *, replace: bool = True) -> None:
    """Put a file in place, mode 0600; a crash or a full disk leaves the old one.

    The folder, and the one above it, are made (mode 0700) where they are missing. Without
    ``replace`` nothing of that name may be there.

    Raises:
        OSError: The file cannot be written; what was there stays.
    """
    folder = _open_folder(path.parent)
    temporary = ""
    try:
        temporary = _free_name(folder, path.name)
        write_synced(folder, temporary, content)
        _put_in_place(folder, temporary, path.name, replace=replace)
        sync_folder(folder)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise
    finally:
        os.close(folder)


def _put_in_place(folder: int, temporary: str, name: str, *, replace: bool) -> None:
    """Give a file its name.

    Raises:
        FileExistsError: Something has the name and must stay.
        OSError: That fails.
    """
    if not replace:
        try:
            os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        except OSError as exc:
            if exc.errno not in _NO_LINKS:
                raise
        else:
            os.unlink(temporary, dir_fd=folder)
            return
        if name in os.listdir(folder):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
    os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)


def write_synced(folder: int, name: str, content: bytes) -> None:
    """Write a new file, mode 0600, in an open folder and sync it.

    Raises:
        OSError: The file cannot be written, or something of that name is there.
    """
    opened = os.open(name, _CREATE_FLAGS, 0o600, dir_fd=folder)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(opened, rest) :]
        os.fsync(opened)
    finally:
        os.close(opened)


def sync_folder(folder: int) -> None:
    """Sync an open folder, where its file system can.

    Raises:
        OSError: The disk failed.
    """
    try:
        os.fsync(folder)
    except OSError as exc:
        if exc.errno not in _NO_FOLDER_SYNC:
            raise


def lock_file(folder: int, name: str) -> int:
    """Lock a file in an open folder, as only processes of this user can.

    Any user who can read a file or a folder can lock it, so the file has mode 0600. It stays when
    the lock ends: if it were removed, two processes could hold it. If another user has put
    something in its place, that is replaced once it is in the way.

    Returns:
        A descriptor. The lock ends when it is closed, or with the process. A file system without
        locks gives none.

    Raises:
        BlockingIOError: Another process of this user has it.
        OSError: The file can't be made, or what is there can't be removed.
    """
    try:
        return _lock(folder, name, _LOCK_FLAGS)
    except OSError:
        if not _is_foreign(folder, name):
            raise
    try:
        _remove(folder, name)
    except OSError as exc:
        raise OSError(exc.errno, f"{name} isn't ours and can't be removed") from exc
    return _lock(folder, name, _LOCK_FLAGS | os.O_EXCL)


def _lock(folder: int, name: str, flags: int) -> int:
    opened = os.open(name, flags, 0o600, dir_fd=folder)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        if exc.errno not in _NO_LOCKS:
            os.close(opened)
            raise
    return opened


def _is_foreign(folder: int, name: str) -> bool:
    """Whether what is there differs from a file that we make.

    A file system can report any owner and mode for our files, so one is made to compare with.
    """
    sample = f"{name}.{token_hex(8)}.tmp"
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        opened = os.open(sample, _LOCK_FLAGS | os.O_EXCL, 0o600, dir_fd=folder)
    except OSError:
        return False
    try:
        ours = os.fstat(opened)
    finally:
        os.close(opened)
        os.unlink(sample, dir_fd=folder)
    return (found.st_mode, found.st_uid, found.st_nlink) != (ours.st_mode, ours.st_uid, 1)


def make_folder(path: Path, *, parents: bool = True) -> None:
    """Make a folder (mode 0700) that outlives a loss of power.

    Raises:
        OSError: The folder cannot be made.
    """
    path.mkdir(mode=0o700, parents=parents, exist_ok=True)
    # The folder above may be unreadable for this user: then its sync is out of our hands.
    with suppress(OSError):
        parent = os.open(path.parent, FOLDER_FLAGS)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)


def _free_name(folder: int, name: str) -> str:
    """A name for the temporary file of that file.

    Whatever has the name is removed: a killed process leaves such a file, and a pipe that another
    program put there would block the write. A folder that isn't empty can't be removed, so there is
    a second name.

    Raises:
        OSError: Both names are taken.
    """
    first, second = f".{name}.tmp", f".{name}.2.tmp"
    with suppress(OSError):
        _remove(folder, first)
        return first
    _remove(folder, second)
    return second


def _remove(folder: int, name: str) -> None:
    """Remove a file of any kind, or an empty folder, where there is one.

    Raises:
        OSError: It cannot be removed.
    """
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        os.rmdir(name, dir_fd=folder)


def _open_folder(path: Path) -> int:
    try:
        return os.open(path, FOLDER_FLAGS)
    except FileNotFoundError:
        make_folder(path.parent)
        make_folder(path)
        return os.open(path, FOLDER_FLAGS)
