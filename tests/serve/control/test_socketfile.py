"""The control socket as a file: its mode, what may be replaced, what stands in the way."""

import logging
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
from itertools import count
from pathlib import Path

import anyio
import pytest

from telemetryd.config import ControlSocket
from telemetryd.errors import ConfigError, TelemetrydError
from telemetryd.serve.control import socketfile
from telemetryd.serve.control.socketfile import open_control_socket
from tests.support.locks import OTHER_USER, holding

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(short_path: Path) -> Path:
    return short_path / "control.sock"


def explicit(path: Path) -> ControlSocket:
    return ControlSocket(str(path), explicit=True)


async def refusal(place: ControlSocket) -> str:
    with pytest.raises(ConfigError) as raised:
        async with open_control_socket(place, where="t.toml"):
            pass
    (problem,) = raised.value.problems
    assert (problem.where, problem.key) == ("t.toml", "server.control_socket")
    return problem.message


async def taken(place: ControlSocket) -> str:
    """What is said where another daemon has it, which may pass: exit status 1."""
    with pytest.raises(TelemetrydError) as raised:
        async with open_control_socket(place, where="t.toml"):
            pass
    assert not isinstance(raised.value, ConfigError)
    return str(raised.value)


def leave_stale(path: Path) -> None:
    """As a killed daemon leaves it: a file nobody listens behind."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()


async def test_socket_listens_privately_and_goes_at_the_end(path: Path) -> None:
    path = path.parent / "made" / "for" / "it" / path.name
    mask = os.umask(0)
    try:
        async with open_control_socket(explicit(path), where=""):
            found = path.lstat()
            assert stat.S_ISSOCK(found.st_mode)
            assert stat.S_IMODE(found.st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
        assert os.umask(0) == 0, "the process's mask is as it was"
    finally:
        os.umask(mask)
    assert not path.exists()


async def test_socket_is_never_open_to_others_not_for_a_moment(path: Path) -> None:
    """A watcher looks at the mode as often as it can while the socket is made again and again."""
    seen: set[int] = set()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            try:
                seen.add(stat.S_IMODE(os.lstat(path).st_mode))
            except FileNotFoundError:
                continue

    watcher = threading.Thread(target=look)
    mask = os.umask(0)
    watcher.start()
    try:
        for number in count():
            async with open_control_socket(explicit(path), where=""):
                pass
            if number >= 200 and seen:  # the watcher has its own pace
                break
    finally:
        os.umask(mask)
        over.set()
        watcher.join()
    assert seen == {0o600}


async def test_stale_socket_is_replaced(path: Path) -> None:
    leave_stale(path)
    async with open_control_socket(explicit(path), where=""):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    assert not path.exists()


async def test_killed_owner_leaves_a_socket_that_is_replaced(path: Path) -> None:
    code = (
        "import socket, sys, os, signal\n"
        "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False, timeout=60)
    assert path.is_socket()
    async with open_control_socket(explicit(path), where=""):
        pass


@pytest.mark.parametrize("named", [True, False])
async def test_living_daemon_keeps_its_socket(path: Path, named: bool) -> None:
    async with open_control_socket(explicit(path), where="") as listener:
        before = path.lstat()
        message = await taken(ControlSocket(str(path), explicit=named))
        assert message.startswith(
            f"t.toml: server.control_socket: another telemetryd listens on {path}: stop it"
        )
        assert path.lstat().st_ino == before.st_ino
        assert listener is not None
        listener.setblocking(False)
        listener.accept()[0].close()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


async def test_living_daemon_with_a_full_queue_keeps_its_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as client:
        busy.bind(str(path))
        busy.listen(0)
        client.connect(str(path))
        assert "another telemetryd listens" in await taken(explicit(path))


async def test_of_two_that_start_at_once_one_wins(path: Path) -> None:
    leave_stale(path)
    results: list[bool] = []

    async def start() -> None:
        try:
            async with open_control_socket(explicit(path), where=""):
                results.append(True)
                with anyio.move_on_after(20):
                    while len(results) < 8:
                        await anyio.sleep(0.01)
        except TelemetrydError:
            results.append(False)

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(start)
    assert sorted(results) == [False] * 7 + [True]


async def test_other_things_at_the_path_are_left_alone(path: Path) -> None:
    path.write_text("precious")
    assert "something else than a socket" in await refusal(explicit(path))
    assert path.read_text() == "precious"
    path.unlink()
    path.symlink_to(path.parent / "elsewhere.sock")
    assert "something else than a socket" in await refusal(explicit(path))
    path.unlink()
    path.mkdir()
    assert "something else than a socket" in await refusal(explicit(path))


async def test_socket_of_another_kind_is_left_alone(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        assert "another kind" in await refusal(explicit(path))
        assert path.is_socket()


async def test_unusable_folder_is_bad_configuration_where_it_is_named(path: Path) -> None:
    path.parent.joinpath("file").touch()
    assert "not a directory" in await refusal(explicit(path.parent / "file" / "x" / "c.sock"))
    assert "is a file" in await refusal(explicit(path.parent / "file" / "c.sock"))
    assert "choose another place" in await refusal(explicit(Path("/proc/none/c.sock")))


async def test_unusable_default_is_a_warning(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    long = path.parent / ("x" * 120)
    for place, why in (
        (None, "no folder for it is writable: set server.control_socket"),
        (ControlSocket("/proc/none/c.sock", explicit=False), "choose another place"),
        (ControlSocket(str(long), explicit=False), "the path is longer than 107 bytes"),
    ):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            async with open_control_socket(place, where="") as listener:
                assert listener is None
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert why in record.getMessage()


async def test_too_long_path_is_bad_configuration_where_it_is_named(path: Path) -> None:
    message = await refusal(explicit(path.parent / ("x" * 120)))
    assert "longer than 107 bytes" in message


async def test_longest_path_works(path: Path) -> None:
    longest = path.parent / ("x" * (107 - len(str(path.parent)) - 1))
    assert len(str(longest)) == 107
    async with open_control_socket(explicit(longest), where=""):
        assert longest.is_socket()


async def test_place_locked_by_another_start_is_no_bad_configuration(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(socketfile, "_LOCK_TRIES", 2)
    held = path.with_name(".control.sock.lock")
    with holding(held, os.geteuid()):
        with pytest.raises(TelemetrydError, match="stays locked") as raised:
            async with open_control_socket(explicit(path), where=""):
                pass
        assert not isinstance(raised.value, ConfigError), "it may pass: exit status 1"
        async with open_control_socket(ControlSocket(str(path), explicit=False), where="") as none:
            assert none is None
    assert "stays locked" in caplog.text
    async with open_control_socket(explicit(path), where=""):
        assert path.is_socket()


async def test_folder_and_lock_file_held_by_another_user_are_no_hindrance(path: Path) -> None:
    path.parent.chmod(0o755)
    lock = path.with_name(".control.sock.lock")
    lock.touch()
    os.chown(lock, OTHER_USER, OTHER_USER)
    with holding(path.parent, OTHER_USER), holding(lock, OTHER_USER):
        async with open_control_socket(explicit(path), where=""):
            assert path.is_socket()
    assert (lock.stat().st_uid, stat.S_IMODE(lock.stat().st_mode)) == (0, 0o600)


async def test_socket_replaced_by_another_is_not_removed(path: Path) -> None:
    async with open_control_socket(explicit(path), where=""):
        path.unlink()
        leave_stale(path)
    assert path.is_socket()


async def test_socket_removed_by_others_is_no_trouble_at_the_end(path: Path) -> None:
    async with open_control_socket(explicit(path), where=""):
        shutil.rmtree(path.parent)
    path.parent.mkdir()
