"""Small files are read whole; what may have no end is refused, and no path is shown by mistake."""

import errno
import os
import socket
from pathlib import Path

import pytest

from telemetryd.kube.files import MIB, check_regular, read_small_file, show_path, why_unreadable


def test_file_is_read_whole_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "it"
    path.write_bytes(b"x" * MIB)
    assert read_small_file(str(path)) == b"x" * MIB
    with path.open("ab") as file:
        file.write(b"x")
    with pytest.raises(OSError, match="larger than 1 MiB"):
        read_small_file(str(path))
    assert len(read_small_file(str(path), 2 * MIB)) == MIB + 1


def test_file_of_a_terabyte_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "it"
    path.touch()
    os.truncate(path, 2**40)
    with pytest.raises(OSError, match="larger than 16 MiB"):
        read_small_file(str(path), 16 * MIB)


def test_null_device_is_an_empty_file() -> None:
    assert read_small_file("/dev/null") == b""
    check_regular("/dev/null")


@pytest.mark.parametrize("kind", ["pipe", "folder", "/dev/zero", "socket", "loop"])
def test_what_is_no_file_is_refused_at_once(short_path: Path, kind: str) -> None:
    path = short_path / "it"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "socket":
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(str(path))
        case "loop":
            path.symlink_to(path)
        case _:
            path.symlink_to(kind)
    for read in (read_small_file, check_regular):
        with pytest.raises(OSError, match=r".") as refused:
            read(str(path))
        assert "\n" not in why_unreadable(refused.value)
    assert path not in [_target_of(each) for each in Path("/proc/self/fd").iterdir()], "left open"


def _target_of(descriptor: Path) -> Path | None:
    try:
        return descriptor.readlink()
    except OSError:
        return None


@pytest.mark.parametrize(
    ("error", "shown", "why"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), "the file", "No such file"),
        (OSError(errno.ENAMETOOLONG, "File name too long"), "the file", "File name too long"),
        (ValueError("embedded null byte"), "the file", "no file can have such a name"),
        (PermissionError(errno.EACCES, "Permission denied"), "hunter2", "Permission denied"),
        (OSError("odd"), "hunter2", "unreadable"),
    ],
)
def test_path_is_shown_only_where_something_is_there(
    error: OSError | ValueError, shown: str, why: str
) -> None:
    assert show_path("hunter2", error) == shown
    assert why_unreadable(error).startswith(why)
