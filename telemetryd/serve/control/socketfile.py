"""The control socket as a file: private at once, taken over from the dead, removed at the end.

What is said over it doesn't belong here.
"""

import errno
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import anyio

from telemetryd.atomicfile import FOLDER_FLAGS, lock_file
from telemetryd.config import ControlSocket
from telemetryd.config.paths import LONGEST_SOCKET_PATH_BYTES, is_too_long
from telemetryd.errors import ConfigError, Problem, TelemetrydError
from telemetryd.sharedread import SharedRead

log = logging.getLogger(__name__)

_KEY = "server.control_socket"
DISK_TIMEOUT_S = 5.0
"""For the socket's folder: a disk may hang."""
REMOVE_TIMEOUT_S = 1.0
"""For its file, at the end."""
_BACKLOG = 128
_LOCK_TRIES = 40
_LOCK_PAUSE_S = 0.05


class _Unusable(Exception):
    """There can be no socket at this path; the message says why and what would help."""


class _Locked(Exception):
    """Another process of ours is at work at this path."""


class _Taken(Exception):
    """A living daemon has it."""


@asynccontextmanager
async def open_control_socket(
    place: ControlSocket | None, *, where: str
) -> AsyncIterator[socket.socket | None]:
    """A listening socket for as long as the context is open, or none where there can't be one.

    Its mode is 0600 from its first moment on, and a missing folder is made with 0700. A place that
    the configuration doesn't name may be unusable: that is a warning.

    Args:
        place: Where; None where no place was found.
        where: Configuration file, for messages.

    Yields:
        Non-blocking and listening, or None.

    Raises:
        ConfigError: The configuration names an unusable place.
        TelemetrydError: A living daemon listens there, or the place that the configuration names
            stays locked by another start. Both may pass.
    """
    listener = None
    if place is None:
        log.warning("no control socket error=%r", f"no folder for it is writable: set {_KEY}")
    else:
        listener = await _open(place, where)
    if place is None or listener is None:
        yield None
        return
    path = Path(place.path)
    identity = _identity(path)
    try:
        yield listener
    finally:
        # Its file first: while the socket lives, no other file can have its inode number.
        with anyio.move_on_after(REMOVE_TIMEOUT_S, shield=True):
            await SharedRead[None]("control socket").take(partial(_remove, path, identity))
        listener.close()


async def _open(place: ControlSocket, where: str) -> socket.socket | None:
    try:
        return await _bind(Path(place.path))
    except _Taken as taken:
        message = (
            f"another telemetryd listens on {place.path}: stop it, or give each its own"
            " control_socket or state_dir"
        )
        raise TelemetrydError(str(Problem(where, _KEY, message))) from taken
    except _Locked as locked:
        message = f"{_lock_of(Path(place.path))} stays locked: another telemetryd starts there"
        if place.explicit:
            raise TelemetrydError(message) from locked
        log.warning("no control socket path=%s error=%r", place.path, message)
        return None
    except _Unusable as unusable:
        if place.explicit:
            message = f"can't listen on {place.path}: {unusable}"
            raise ConfigError(Problem(where, _KEY, message)) from unusable
        log.warning("no control socket path=%s error=%r", place.path, str(unusable))
        return None


async def _bind(path: Path) -> socket.socket:
    """A listening socket at the path.

    Raises:
        _Locked: Another process of ours judges what is there, all the time.
        _Taken: A living daemon listens there.
        _Unusable: There can't be one.
    """
    if is_too_long(str(path)):
        raise _Unusable(f"the path is longer than {LONGEST_SOCKET_PATH_BYTES} bytes")
    try:
        # No two daemons may judge and replace the same file at a time.
        lock = await _lock_once_free(path)
        try:
            return _replace(path)
        finally:
            os.close(lock)
    except TimeoutError as error:
        why = f"its folder can't be opened within {DISK_TIMEOUT_S:g} s"
        raise _Unusable(f"{why}: check the disk or choose another place") from error
    except FileExistsError as error:
        raise _Unusable("its folder is a file: choose another place") from error
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise _Unusable(f"{why}: choose another place") from error


async def _lock_once_free(path: Path) -> int:
    """The descriptor that holds the lock.

    Raises:
        _Locked: It doesn't become free.
        OSError: It can't be had.
        TimeoutError: The disk hangs.
    """
    for _ in range(_LOCK_TRIES):
        with suppress(BlockingIOError), anyio.fail_after(DISK_TIMEOUT_S):
            return await SharedRead[int]("control socket").take(partial(_lock, path))
        await anyio.sleep(_LOCK_PAUSE_S)
    raise _Locked


def _lock(path: Path) -> int:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = os.open(path.parent, FOLDER_FLAGS)
    try:
        return lock_file(folder, _lock_of(path).name)
    finally:
        os.close(folder)


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _replace(path: Path) -> socket.socket:
    """A listening socket in place of what a dead daemon may have left.

    Raises:
        _Taken: A living daemon listens there.
        _Unusable: Something else is there.
    """
    if _identity(path) is not None:
        _refuse_unless_stale(path)
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        # The file has its mode from the moment it is there: chmod would come too late.
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _refuse_unless_stale(path: Path) -> None:
    """Only a socket that nobody listens on any more may be replaced.

    Raises:
        _Taken: Somebody does.
        _Unusable: It isn't a socket.
        OSError: It can't be told.
    """
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise _Unusable("there is something else than a socket: choose another place")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        code = probe.connect_ex(str(path))
    if code in {0, errno.EAGAIN}:
        raise _Taken
    if code == errno.EPROTOTYPE:
        raise _Unusable("a socket of another kind is there: choose another place")
    if code not in {errno.ECONNREFUSED, errno.ENOENT}:
        raise OSError(code, os.strerror(code))


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of what is there, links not followed; None where nothing is."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _remove(path: Path, identity: tuple[int, int] | None) -> None:
    """Remove our file, unless it has been replaced by another's."""
    try:
        if _identity(path) == identity:
            path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("control socket not removed path=%s error=%r", path, error.strerror)
