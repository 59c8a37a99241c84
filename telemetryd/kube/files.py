"""Reads small files whole, and never waits for a pipe or a device."""

import errno
import os
import stat

MIB = 1024 * 1024
PEM_BYTES = 16 * MIB
"""A bundle of every authority there is stays far below."""

_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP})

_NULL_DEVICE = os.makedev(1, 3)
"""/dev/null, which is an empty file to its readers."""


def read_small_file(path: str, limit_bytes: int = MIB) -> bytes:
    """A file's content; blocks, but not on a pipe or a device, which may have no end.

    Raises:
        OSError: It can't be read, isn't a regular file, or is longer.
        ValueError: The path can't be one.
    """
    with os.fdopen(_open_regular(path), "rb") as file:
        # One that is longer isn't read first: the memory for it may not be there.
        size_bytes = os.fstat(file.fileno()).st_size
        content = b"" if size_bytes > limit_bytes else file.read(limit_bytes + 1)
    if max(size_bytes, len(content)) > limit_bytes:
        raise OSError(errno.EFBIG, f"larger than {limit_bytes // MIB} MiB", path)
    return content


def check_regular(path: str) -> None:
    """Refuse what another library would wait for.

    Raises:
        OSError: It can't be opened, or isn't a regular file.
        ValueError: The path can't be one.
    """
    os.close(_open_regular(path))


def _open_regular(path: str) -> int:
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    status = os.fstat(opened)
    mode = status.st_mode
    if stat.S_ISREG(mode) or (stat.S_ISCHR(mode) and status.st_rdev == _NULL_DEVICE):
        return opened
    os.close(opened)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    raise OSError(errno.EINVAL, "not a regular file", path)


def show_path(path: str, error: OSError | ValueError) -> str:
    """The path for a message; where nothing is there it may be a credential, given by mistake."""
    is_there = isinstance(error, OSError) and error.errno not in _NOT_THERE
    return path if is_there else "the file"


def why_unreadable(error: OSError | ValueError) -> str:
    """In a few words, without the path."""
    if isinstance(error, OSError):
        return error.strerror or "unreadable"
    return "no file can have such a name"
