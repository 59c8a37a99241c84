"""The client against servers that are absent, slow, busy, or something else altogether."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from telemetryd.errors import CommandRefused, NoDaemon
from telemetryd.serve.control.client import ask
from telemetryd.serve.control.protocol import CommandAnswer, Request
from telemetryd.serve.control.text import render_result

STATUS = Request("status")
OK = b'{"ok":true}\n'


@pytest.fixture
def path(short_path: Path) -> str:
    return str(short_path / "control.sock")


@contextmanager
def serving(path: str, behave: Callable[[socket.socket], None], backlog: int = 5) -> Iterator[None]:
    """A server of one connection at a time, on a thread."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(backlog)

        def serve() -> None:
            while True:
                stream, _ = listener.accept()
                with stream:
                    if not stream.recv(4096):
                        return
                    behave(stream)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            with socket.socket(socket.AF_UNIX) as last:
                last.connect(path)
            thread.join()


def test_answer_comes_back_whole(path: str) -> None:
    long = "x" * 1_000_000
    line = b'{"ok":false,"error":"no","result":{"a":"' + long.encode() + b'"}}\n'

    def behave(stream: socket.socket) -> None:
        for start in range(0, len(line), 50_000):
            stream.sendall(line[start : start + 50_000])

    with serving(path, behave):
        assert ask((path,), STATUS, timeout_s=5) == CommandAnswer(False, "no", {"a": long})


def test_answer_of_a_later_version_is_read_as_far_as_it_is_known(path: str) -> None:
    line = b'{"ok":true,"later":[1],"result":{"run":"a#1","more":{}},"error":"","took_s":1.5}\n'
    with serving(path, lambda stream: stream.sendall(line)):
        answer = ask((path,), Request("trigger", "a"), timeout_s=5)
    assert answer == CommandAnswer(True, result={"run": "a#1", "more": {}})
    assert render_result(Request("trigger", "a"), answer, as_json=False) == "a#1\n"


def test_first_that_listens_is_asked(path: str) -> None:
    stale = f"{path}.stale"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(stale)
    with serving(path, lambda stream: stream.sendall(OK)):
        paths = (f"{path}.none", stale, f"{path}/below", path, "/nonexistent")
        assert ask(paths, STATUS, timeout_s=5).ok


@pytest.mark.parametrize("paths", [(), ("/nonexistent/a",), ("/nonexistent/a", "/nonexistent/b")])
def test_no_daemon_is_reported_with_the_places_looked_at(paths: tuple[str, ...]) -> None:
    with pytest.raises(NoDaemon) as raised:
        ask(paths, STATUS)
    assert (" or ".join(paths) or "any place") in str(raised.value)
    assert "--config" in str(raised.value)


def test_path_no_socket_can_have_is_reported() -> None:
    with pytest.raises(NoDaemon, match="path too long"):
        ask(("/" + "x" * 120,), STATUS)


def test_regular_file_is_no_daemon(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.touch()
    with pytest.raises(NoDaemon):
        ask((str(file),), STATUS)


@pytest.mark.parametrize(
    ("behave", "message"),
    [
        (lambda _stream: None, "hung up without an answer"),
        (lambda stream: stream.sendall(b'{"ok":tr'), "hung up without an answer"),
        (lambda stream: stream.sendall(b"HTTP/1.1 400 Bad Request\r\n"), "is no telemetryd"),
        (lambda stream: stream.sendall(b'{"yes":true}\n'), "is no telemetryd"),
        (lambda stream: stream.sendall(b"[" * 5000 + b"\n"), "is no telemetryd"),
        (lambda stream: stream.recv(1), "gave no answer within 0.3 s"),
    ],
)
def test_useless_answer_is_reported(
    path: str, behave: Callable[[socket.socket], None], message: str
) -> None:
    with serving(path, behave), pytest.raises(NoDaemon, match=message):
        ask((path,), STATUS, timeout_s=0.3)


def test_dripping_answer_ends_in_time(path: str) -> None:
    def drip(stream: socket.socket) -> None:
        with suppress(OSError):
            while True:
                stream.sendall(b" ")
                time.sleep(0.02)

    with serving(path, drip), pytest.raises(NoDaemon, match="no answer within"):
        ask((path,), STATUS, timeout_s=0.3)


def test_full_queue_is_waited_for(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as other:
        listener.bind(path)
        listener.listen(0)
        other.connect(path)

        def drain() -> None:
            time.sleep(0.2)
            listener.accept()[0].close()
            stream, _ = listener.accept()
            with stream:
                stream.recv(4096)
                stream.sendall(OK)

        thread = threading.Thread(target=drain)
        thread.start()
        assert ask((path,), STATUS, timeout_s=5).ok
        thread.join()


def test_queue_that_stays_full_is_reported(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as other:
        listener.bind(path)
        listener.listen(0)
        other.connect(path)
        with pytest.raises(NoDaemon, match="takes no connection"):
            ask((path,), STATUS, timeout_s=0.2)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_another_user_is_reported_whom_to_be(path: str) -> None:
    code = (
        "import os, sys\n"
        "from telemetryd.errors import CommandRefused\n"
        "from telemetryd.serve.control.client import ask\n"
        "from telemetryd.serve.control.protocol import Request\n"
        "os.setuid(65534)\n"
        "try: ask(('/nonexistent/x', sys.argv[1]), Request('status'))\n"
        "except CommandRefused as error: print(error)\n"
    )
    Path(path).parent.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        Path(path).chmod(0o600)
        done = subprocess.run(
            [sys.executable, "-c", code, path],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    assert done.stdout == (
        f"user 65534 may not connect to {path}: run it as root or as the daemon's user\n"
    )
    assert issubclass(CommandRefused, Exception)
