"""Files and locks that nothing holds up, whatever others put in the place of our own files."""

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from telemetryd.atomicfile import FOLDER_FLAGS, lock_file, write_file
from tests.support.locks import OTHER_USER, holding

NAME = ".lock"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    """An open folder that everyone may read."""
    tmp_path.chmod(0o755)
    opened = os.open(tmp_path, FOLDER_FLAGS)
    try:
        yield opened
    finally:
        os.close(opened)


def assert_locked_by_us(folder: int, lock: int) -> None:
    """A private file of ours, which no one else gets while we have it."""
    found = os.stat(NAME, dir_fd=folder, follow_symlinks=False)
    assert stat.S_ISREG(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert (found.st_uid, found.st_nlink) == (os.geteuid(), 1)
    assert found.st_ino == os.fstat(lock).st_ino
    with pytest.raises(BlockingIOError):
        lock_file(folder, NAME)
    os.close(lock)
    os.close(lock_file(folder, NAME))
    assert os.listdir(folder) == [NAME], "nothing else is left"


def test_lock_is_private_whatever_the_mask(folder: int) -> None:
    mask = os.umask(0)
    try:
        lock = lock_file(folder, NAME)
    finally:
        os.umask(mask)
    assert_locked_by_us(folder, lock)


def test_another_process_of_ours_keeps_it(folder: int, tmp_path: Path) -> None:
    with holding(tmp_path / NAME, os.geteuid()):
        before = (tmp_path / NAME).stat().st_ino
        with pytest.raises(BlockingIOError):
            lock_file(folder, NAME)
        assert os.listdir(folder) == [NAME]
        assert (tmp_path / NAME).stat().st_ino == before
    assert_locked_by_us(folder, lock_file(folder, NAME))


def test_folder_locked_by_another_user_is_no_hindrance(folder: int, tmp_path: Path) -> None:
    with holding(tmp_path, OTHER_USER):
        assert_locked_by_us(folder, lock_file(folder, NAME))


@pytest.mark.parametrize("mode", [0o600, 0o666])
def test_file_that_another_user_holds_is_replaced(folder: int, tmp_path: Path, mode: int) -> None:
    (tmp_path / NAME).touch()
    (tmp_path / NAME).chmod(mode)
    os.chown(tmp_path / NAME, OTHER_USER, OTHER_USER)
    with holding(tmp_path / NAME, OTHER_USER):
        assert_locked_by_us(folder, lock_file(folder, NAME))


def test_file_of_ours_that_others_may_open_is_replaced(folder: int, tmp_path: Path) -> None:
    (tmp_path / NAME).touch()
    (tmp_path / NAME).chmod(0o666)
    with holding(tmp_path / NAME, OTHER_USER):
        assert_locked_by_us(folder, lock_file(folder, NAME))


def test_link_to_a_file_that_another_user_holds_is_replaced(folder: int, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.touch()
    os.chown(target, OTHER_USER, OTHER_USER)
    with holding(target, OTHER_USER):
        for link in (os.link, os.symlink):
            link(target, tmp_path / NAME)
            os.close(lock_file(folder, NAME))
            assert stat.S_ISREG((tmp_path / NAME).lstat().st_mode)
            (tmp_path / NAME).unlink()
    assert target.exists()
    assert target.stat().st_size == 0


def test_link_to_nowhere_makes_nothing_there(folder: int, tmp_path: Path) -> None:
    (tmp_path / NAME).symlink_to("elsewhere")
    assert_locked_by_us(folder, lock_file(folder, NAME))


def make_fifo(path: Path) -> None:
    os.mkfifo(path, 0o666)
    path.chmod(0o666)


def make_socket(path: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o666)


def make_full_folder(path: Path) -> None:
    (path / "something").mkdir(parents=True)


def make_link_to_a_pipe(path: Path) -> None:
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


def make_unreadable(path: Path) -> None:
    path.write_bytes(b"half")
    path.chmod(0)


@pytest.mark.parametrize(
    "make",
    [
        make_fifo,
        make_socket,
        make_link_to_a_pipe,
        make_unreadable,
        make_full_folder,
        Path.mkdir,
        lambda path: path.symlink_to("nowhere"),
        lambda path: path.symlink_to(path.parent),
        lambda path: path.write_bytes(b"left by a killed process"),
    ],
)
@pytest.mark.parametrize("name", [".state.tmp", "state"])
def test_whatever_has_the_temporary_or_the_final_name_a_file_is_written(
    folder: int, tmp_path: Path, make: Callable[[Path], None], name: str
) -> None:
    planted = tmp_path / name
    make(planted)
    path = tmp_path / "state"
    if path.is_dir() and not path.is_symlink():
        with pytest.raises(IsADirectoryError):
            write_file(path, b"first")
        assert os.listdir(folder) == ["state"], "nothing else is left"
        return
    for content in (b"first", b"second"):
        write_file(path, content)
        assert path.read_bytes() == content
        assert stat.S_ISREG(path.lstat().st_mode)
        assert path.stat().st_mode & 0o777 == 0o600
    kept = {name} if make is make_full_folder else set()
    assert set(os.listdir(folder)) - {"pipe"} == {"state", *kept}


def test_two_full_folders_with_the_temporary_names_are_an_error_and_the_file_stays(
    tmp_path: Path,
) -> None:
    path = tmp_path / "state"
    write_file(path, b"first")
    for name in (".state.tmp", ".state.2.tmp"):
        make_full_folder(tmp_path / name)
    with pytest.raises(OSError, match="not empty") as raised:
        write_file(path, b"second")
    assert raised.value.errno == errno.ENOTEMPTY
    assert path.read_bytes() == b"first"


@pytest.mark.parametrize("make", [make_fifo, make_socket])
def test_pipe_or_socket_in_its_place_holds_nothing_up(
    folder: int, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / NAME)
    os.chown(tmp_path / NAME, OTHER_USER, OTHER_USER)
    os.close(lock_file(folder, NAME))
    (tmp_path / NAME).unlink(missing_ok=True)
    make(tmp_path / NAME)
    if make is make_fifo:
        with holding(tmp_path / NAME, OTHER_USER):
            os.close(lock_file(folder, NAME))


def test_empty_folder_in_its_place_is_replaced(folder: int, tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    assert_locked_by_us(folder, lock_file(folder, NAME))


def test_full_folder_in_its_place_is_an_error_that_names_it(folder: int, tmp_path: Path) -> None:
    make_full_folder(tmp_path / NAME)
    with pytest.raises(OSError, match=f"{NAME} isn't ours and can't be removed"):
        lock_file(folder, NAME)


def test_foreign_file_that_may_not_be_removed_is_an_error_that_names_it(tmp_path: Path) -> None:
    """In a folder such as /tmp, as a user without privileges."""
    tmp_path.chmod(0o1777)
    for path in (tmp_path, *tmp_path.parents[:3]):
        path.chmod(path.stat().st_mode | 0o005)
    (tmp_path / NAME).touch(0o600)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgid(OTHER_USER)
            os.setuid(OTHER_USER)
            lock_file(os.open(tmp_path, FOLDER_FLAGS), NAME)
        except PermissionError as error:
            code = 0 if error.strerror == f"{NAME} isn't ours and can't be removed" else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_folder_that_may_not_be_written_is_named_in_the_error(tmp_path: Path) -> None:
    folder = os.open("/proc/self", FOLDER_FLAGS)
    try:
        with pytest.raises(OSError) as raised:
            lock_file(folder, NAME)
    finally:
        os.close(folder)
    assert raised.value.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT}


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EBADF, errno.EOPNOTSUPP])
def test_file_system_without_locks_is_used_without(
    folder: int, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    os.close(lock_file(folder, NAME))
    os.close(lock_file(folder, NAME))


@pytest.fixture(params=["links", "no links"])
def _links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system with hard links, and one without, such as that of a USB stick."""

    def refuse(*_args: object, **_options: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    if request.param == "no links":
        monkeypatch.setattr(os, "link", refuse)


def _link_to_nowhere(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.usefixtures("_links")
@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, os.mkfifo, _link_to_nowhere])
def test_file_that_may_replace_nothing_leaves_what_is_there(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "name"
    make(path)
    before = path.lstat()
    with pytest.raises(FileExistsError):
        write_file(path, b"new", replace=False)
    after = path.lstat()
    assert (after.st_ino, after.st_mode, after.st_size) == (
        before.st_ino,
        before.st_mode,
        before.st_size,
    )
    assert [each.name for each in tmp_path.iterdir()] == ["name"], "no temporary file is left"


@pytest.mark.usefixtures("_links")
def test_file_that_may_replace_nothing_is_private_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "name"
    write_file(path, b"new", replace=False)
    assert path.read_bytes() == b"new"
    status = path.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_nlink) == (0o600, 1)
    assert [each.name for each in tmp_path.iterdir()] == ["name"]
