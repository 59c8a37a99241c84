"""The file of the control socket: private from the start, and removed at the end."""

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
"""For opening the socket's folder: a disk may hang."""
REMOVE_TIMEOUT_S = 1.0
"""For removing the socket's file."""
_BACKLOG = 128
_LOCK_TRIES = 40
_LOCK_PAUSE_S = 0.05


class _UnusablePath(Exception):
    """There can be no socket at this path; the message says why and what would help."""


class _Locked(Exception):
    """Another telemetryd is starting at this path."""


@asynccontextmanager
async def open_control_socket(
    place: ControlSocket | None, *, where: str
) -> AsyncIterator[socket.socket | None]:
    """A listening socket while the context is open.

    Its mode is 0600 from the start, and a missing folder is made with 0700. A default place that
    can't be used is only a warning.

    ``place`` is None where no place was found.

    Yields:
        A non-blocking socket; None where there can't be one.

    Raises:
        ConfigError: The configured place can't be used.
        TelemetrydError: A running daemon listens there, or another start keeps the configured place
            locked. Both may pass.
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
        return await _bind(Path(place.path), where)
    except (_UnusablePath, _Locked) as error:
        if not place.explicit:
            log.warning("no control socket path=%s error=%r", place.path, str(error))
            return None
        if isinstance(error, _Locked):
            raise TelemetrydError(str(error)) from error
        message = f"can't listen on {place.path}: {error}"
        raise ConfigError(Problem(where, _KEY, message)) from error


async def _bind(path: Path, where: str) -> socket.socket:
    """A listening socket at the path.

    Raises:
        _Locked: Another telemetryd keeps it locked.
        TelemetrydError: A running daemon listens there.
        _UnusablePath: There can't be one.
    """
    if is_too_long(str(path)):
        raise _UnusablePath(f"the path is longer than {LONGEST_SOCKET_PATH_BYTES} bytes")
    try:
        # Only one daemon at a time may check and replace the file.
        lock = await _lock_once_free(path)
        try:
            return _replace(path, where)
        finally:
            os.close(lock)
    except TimeoutError as error:
        why = f"its folder can't be opened within {DISK_TIMEOUT_S:g} s"
        raise _UnusablePath(f"{why}: check the disk or choose another place") from error
    except FileExistsError as error:
        raise _UnusablePath("its folder is a file: choose another place") from error
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise _UnusablePath(f"{why}: choose another place") from error


async def _lock_once_free(path: Path) -> int:
    """The descriptor that holds the lock.

    Raises:
        _Locked: It isn't released.
        OSError: It can't be taken.
        TimeoutError: The disk hangs.
    """
    for _ in range(_LOCK_TRIES):
        with suppress(BlockingIOError), anyio.fail_after(DISK_TIMEOUT_S):
            return await SharedRead[int]("control socket").take(partial(_lock, path))
        await anyio.sleep(_LOCK_PAUSE_S)
    raise _Locked(f"{_lock_of(path)} stays locked: another telemetryd starts there")


def _lock(path: Path) -> int:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = os.open(path.parent, FOLDER_FLAGS)
    try:
        return lock_file(folder, _lock_of(path).name)
    finally:
        os.close(folder)


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _replace(path: Path, where: str) -> socket.socket:
    """A listening socket, in place of one that an ended daemon left.

    Raises:
        TelemetrydError: A running daemon listens there.
        _UnusablePath: Something else is there.
    """
    if _identity(path) is not None:
        _refuse_unless_stale(path, where)
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        # The mode must be right when the file appears: chmod would be too late.
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


def _refuse_unless_stale(path: Path, where: str) -> None:
    """Check that it is a socket without a listener: only that may be replaced.

    Raises:
        TelemetrydError: A running daemon listens on it.
        _UnusablePath: It isn't a stream socket.
        OSError: It can't be found out.
    """
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise _UnusablePath("there is something else than a socket: choose another place")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        code = probe.connect_ex(str(path))
    if code in {0, errno.EAGAIN}:
        message = (
            f"another telemetryd listens on {path}: stop it, or give each its own"
            " control_socket or state_dir"
        )
        raise TelemetrydError(str(Problem(where, _KEY, message)))
    if code == errno.EPROTOTYPE:
        raise _UnusablePath("a socket of another kind is there: choose another place")
    if code not in {errno.ECONNREFUSED, errno.ENOENT}:
        raise OSError(code, os.strerror(code))


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of the file, links not followed; None where there is none."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _remove(path: Path, identity: tuple[int, int] | None) -> None:
    """Remove the file, unless another daemon has replaced it."""
    try:
        if _identity(path) == identity:
            path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("control socket not removed path=%s error=%r", path, error.strerror)
