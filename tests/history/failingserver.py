"""A folder through FUSE whose locks, reads and writes can be made to fail, as of a file server.

``/usr/bin/python3 failingserver.py BEHIND MOUNTPOINT FAULT`` shows what is BEHIND. While there is a
file FAULT, such as ``lock 37`` or ``io 116``, these calls fail with that errno. It runs by the
system's Python, for which Debian has python3-fusepy.
"""

import os
import sys
from typing import Any

from fusepy import FUSE, FuseOSError, Operations  # type: ignore[import-not-found,unused-ignore]

BEHIND, MOUNTPOINT, FAULT = sys.argv[1:4]


def check(kind: str) -> None:
    try:
        with open(FAULT) as file:  # noqa: PTH123
            failing, number = file.read().split()
    except FileNotFoundError:
        return
    if failing == kind:
        raise FuseOSError(int(number))


class FailingServer(Operations):  # type: ignore[misc,unused-ignore]
    """Each call by the one of the same name of ``os``; the lock is the file server's alone."""

    def getattr(self, path: str, _handle: int | None = None) -> dict[str, Any]:
        try:
            found = os.lstat(BEHIND + path)
        except OSError as error:
            raise FuseOSError(error.errno) from error
        names = ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid", "st_mtime", "st_ctime")
        return {name: getattr(found, name) for name in names}

    def readdir(self, path: str, _handle: int) -> list[str]:
        return [".", "..", *os.listdir(BEHIND + path)]  # noqa: PTH208

    def open(self, path: str, flags: int) -> int:
        check("io")
        return os.open(BEHIND + path, flags)

    def create(self, path: str, mode: int, _info: object = None) -> int:
        check("io")
        return os.open(BEHIND + path, os.O_RDWR | os.O_CREAT, mode)

    def read(self, _path: str, size: int, at: int, handle: int) -> bytes:
        check("io")
        return os.pread(handle, size, at)

    def write(self, _path: str, data: bytes, at: int, handle: int) -> int:
        check("io")
        return os.pwrite(handle, data, at)

    def truncate(self, path: str, length: int, _handle: int | None = None) -> None:
        check("io")
        os.truncate(BEHIND + path, length)

    def fsync(self, _path: str, _only_data: int, handle: int) -> None:
        check("io")
        os.fsync(handle)

    def fsyncdir(self, _path: str, _only_data: int, _handle: int) -> None:
        check("io")

    def lock(self, _path: str, _handle: int, _command: int, _lock: object) -> int:
        check("lock")
        return 0

    def release(self, _path: str, handle: int) -> None:
        os.close(handle)

    def unlink(self, path: str) -> None:
        os.unlink(BEHIND + path)  # noqa: PTH108

    def rename(self, old: str, new: str) -> None:
        os.rename(BEHIND + old, BEHIND + new)  # noqa: PTH104

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(BEHIND + path, mode)  # noqa: PTH101

    def chown(self, _path: str, _user: int, _group: int) -> None:
        pass


FUSE(FailingServer(), MOUNTPOINT, foreground=True, nothreads=True, fsname="far:/", subtype="sshfs")
