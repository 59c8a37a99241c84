"""The control server over a real socket: commands, refusals, and clients that mean harm."""

import errno
import json
import logging
import os
import resource
import socket
import subprocess
import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from telemetryd import __version__
from telemetryd.config import ControlSocket
from telemetryd.serve.control.protocol import MAX_REQUEST_BYTES
from telemetryd.serve.control.server import ControlLimits, ControlServer
from telemetryd.serve.control.socketfile import open_control_socket
from tests.serve.commanding import Asker, Noted, commanded, connected

pytestmark = pytest.mark.anyio

OTHER_USER = 65534
HASTY = ControlLimits(
    request_timeout_s=0.2, command_timeout_s=0.3, answer_timeout_s=0.2, connections=4
)


@pytest.fixture
def path(short_path: Path) -> Path:
    return short_path / "control.sock"


async def answers(path: Path) -> bool:
    """Whether a well-behaved client is served, and soon."""
    with anyio.fail_after(30):
        async with connected(path) as client:
            return bool((await client.ask(command="status"))["ok"])


@pytest.mark.parametrize(
    ("request_", "given", "answer"),
    [
        ({"command": "status"}, ("status",), {"ok": True, "result": {"version": "0"}}),
        (
            {"command": "reload"},
            ("reload",),
            {"ok": False, "result": {"changes": [], "problems": ["f.toml: k: is wrong"]}},
        ),
        (
            {"command": "start", "name": "a"},
            ("start", "a"),
            {"ok": False, "error": "there is no exporter 'a'"},
        ),
        (
            {"command": "stop", "name": "a"},
            ("stop", "a"),
            {"ok": True, "result": {"exporter": {"name": "a", "state": "stopped", "detail": ""}}},
        ),
        (
            {"command": "restart", "name": "a"},
            ("restart", "a"),
            {"ok": True, "result": {"exporter": {"name": "a", "state": "idle", "detail": ""}}},
        ),
        (
            {"command": "trigger", "name": "a"},
            ("trigger", "a"),
            {"ok": True, "result": {"run": "a#1"}},
        ),
        (
            {"command": "cache", "name": "r", "verify": True},
            ("cache", "r", True),
            {"ok": False, "error": "nothing is held"},
        ),
        ({"command": "cache", "name": "r"}, ("cache", "r", False), None),
    ],
)
async def test_command_is_carried_out_and_answered(
    path: Path, request_: dict[str, Any], given: tuple[Any, ...], answer: dict[str, Any] | None
) -> None:
    noted = Noted()
    async with commanded(path, noted), connected(path) as client:
        got = await client.ask(**request_)
        assert noted.given == [given]
        assert answer is None or got == answer


async def test_one_connection_takes_many_requests_in_turn(path: Path) -> None:
    noted = Noted()
    async with commanded(path, noted), connected(path) as client:
        lines = [json.dumps({"command": "trigger", "name": str(n)}).encode() for n in range(50)]
        await client.send(b"\n".join(lines) + b"\n")
        got = [(await client.answer())["result"]["run"] for _ in lines]
        assert got == [f"{n}#1" for n in range(50)]


@pytest.mark.parametrize("command", ["status", "support-bundle"])
async def test_option_of_a_later_version_is_ignored_by_a_command_that_reads(
    path: Path, command: str
) -> None:
    noted = Noted()
    async with commanded(path, noted), connected(path) as client:
        line = {"command": command, "later": {"a": [1]}}
        await client.send(json.dumps(line).encode() + b"\n")
        assert (await client.answer())["ok"] is True
        assert noted.given == [(command,)]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b'{"command": "halt"}', "command 'halt'"),
        (b'{"command": "halt", "name": "a", "now": true}', "command 'halt'"),
        (b'{"command": "' + b"x" * 900 + b'"}', f"command '{'x' * 64}'"),
        (b'{"command": "reload", "later": 1}', "option 'later'"),
        (b'{"command": "stop", "name": "a", "for_s": 5}', "option 'for_s'"),
        (b'{"command": "opt-in", "b": 1, "a": 1}', "option 'a'"),
    ],
)
async def test_what_only_a_later_version_knows_is_refused_with_this_version(
    path: Path, line: bytes, what: str
) -> None:
    noted = Noted()
    async with commanded(path, noted), connected(path) as client:
        await client.send(line + b"\n")
        answer = await client.answer()
        assert answer["ok"] is False
        assert answer["error"] == (
            f"the daemon is telemetryd {__version__} and doesn't know the {what}:"
            " use the telemetryd of its version"
        )
        assert noted.given == []


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\0\xff\xfe",
        b"GET / HTTP/1.1\r",
        b"[]",
        b"null",
        b"{}",
        b'{"command": 1}',
        b'{"command": "status", "name": "a"}',
        b'{"command": "status", "verify": true}',
        b'{"command": "stop"}',
        b'{"command": "stop", "name": 5}',
        b'{"command": "stop", "name": "' + b"x" * 513 + b'"}',
        b'{"command": "status"} {"command": "status"}',
        b"[" * 9000,
    ],
)
async def test_garbage_is_refused_and_the_connection_closed(path: Path, line: bytes) -> None:
    noted = Noted()
    async with commanded(path, noted), connected(path) as client:
        await client.send(line + b"\n")
        answer = await client.answer()
        assert answer["ok"] is False
        assert answer["error"].startswith("not a request: ")
        assert await client.is_closed()
        assert noted.given == []


async def test_endless_line_is_cut_off(path: Path) -> None:
    async with commanded(path, Noted()), connected(path) as client:
        with suppress(anyio.BrokenResourceError):
            for _ in range(64):
                await client.send(b"x" * MAX_REQUEST_BYTES)
        with suppress(anyio.BrokenResourceError):
            assert "longer than" in (await client.answer())["error"]
        assert await client.is_closed()
        assert await answers(path)


async def test_longest_request_is_read(path: Path) -> None:
    async with commanded(path, Noted()), connected(path) as client:
        line = b'{"command": "status"}'
        await client.send(line.ljust(MAX_REQUEST_BYTES) + b"\n")
        assert (await client.answer())["ok"]


async def test_slow_request_ends_in_time(path: Path) -> None:
    async with commanded(path, Noted(), limits=HASTY), connected(path) as client:
        with anyio.fail_after(30), suppress(anyio.BrokenResourceError):
            while True:
                await client.send(b" ")
                await anyio.sleep(0.02)
        assert await client.is_closed()


async def test_idle_connection_is_closed_after_its_answer(path: Path) -> None:
    async with commanded(path, Noted(), limits=HASTY), connected(path) as client:
        assert (await client.ask(command="status"))["ok"]
        assert await client.is_closed()


async def test_answer_that_is_not_taken_is_dropped(path: Path) -> None:
    noted = Noted(state=lambda: {"filler": "x" * 20_000_000})
    async with commanded(path, noted, limits=HASTY), connected(path) as client:
        await client.send(b'{"command": "status"}\n')
        await anyio.sleep(2.0)  # so many bytes are made in moments, unless the machine is busy
        received = 0
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                received += len(await client.stream.receive())
        assert received < 20_000_000


async def test_client_that_leaves_at_once_harms_no_one(path: Path) -> None:
    noted = Noted(state=lambda: {"filler": "x" * 2_000_000})
    async with commanded(path, noted):
        for _ in range(20):
            async with connected(path) as client:
                await client.send(b'{"command": "status"}\n')
        assert await answers(path)


async def test_command_goes_on_when_its_client_leaves(path: Path) -> None:
    noted = Noted(hold=anyio.Event())
    async with commanded(path, noted):
        async with connected(path) as client:
            await client.send(b'{"command": "stop", "name": "a"}\n')
            with anyio.fail_after(30):
                while not noted.given:
                    await anyio.sleep(0.01)
        assert noted.hold
        noted.hold.set()
        assert await answers(path)


async def test_command_without_end_is_cut_off_and_reported(path: Path) -> None:
    noted = Noted(hold=anyio.Event())
    async with commanded(path, noted, limits=HASTY), connected(path) as client:
        answer = await client.ask(command="stop", name="a")
        assert answer == {"ok": False, "error": "stop didn't end within 0.3 s"}


async def test_slow_command_holds_up_no_other(path: Path) -> None:
    noted = Noted(hold=anyio.Event())
    async with commanded(path, noted), connected(path) as client:
        await client.send(b'{"command": "stop", "name": "a"}\n')
        assert await answers(path)
        assert noted.hold
        noted.hold.set()
        assert (await client.answer())["ok"]


async def test_unexpected_error_is_reported_without_its_text(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> dict[str, Any]:
        raise ZeroDivisionError("secret")

    noted = Noted(state=fail)
    with caplog.at_level(logging.ERROR):
        async with commanded(path, noted), connected(path) as client:
            answer = await client.ask(command="status")
            assert answer == {"ok": False, "error": "internal error: the log says more"}
            noted.state = dict
            assert (await client.ask(command="status"))["ok"]
    assert "ZeroDivisionError" in caplog.text


async def test_text_that_is_not_unicode_is_shown_escaped(path: Path) -> None:
    noted = Noted(state=lambda: {"file": "/etc/a\udcff.toml"})
    async with commanded(path, noted), connected(path) as client:
        answer = await client.ask(command="status")
        assert answer == {"ok": True, "result": {"file": "/etc/a\\udcff.toml"}}


async def test_idle_connections_make_room_for_new_ones(path: Path) -> None:
    async with (
        commanded(path, Noted(), limits=ControlLimits(connections=4)),
        AsyncExitStack() as stack,
    ):
        idle = [await stack.enter_async_context(connected(path)) for _ in range(4)]
        assert await answers(path)
        with anyio.fail_after(30):
            assert await idle[0].is_closed()
        assert (await idle[-1].ask(command="status"))["ok"]


async def test_commands_at_work_are_not_pushed_out(path: Path) -> None:
    noted = Noted(hold=anyio.Event())
    async with (
        commanded(path, noted, limits=ControlLimits(connections=4)),
        AsyncExitStack() as stack,
    ):
        busy = [await stack.enter_async_context(connected(path)) for _ in range(4)]
        for client in busy:
            await client.send(b'{"command": "stop", "name": "a"}\n')
        with anyio.fail_after(30):
            while len(noted.given) < 4:
                await anyio.sleep(0.01)
        async with connected(path) as one_more:
            assert (await one_more.answer())["error"] == "too many commands at a time"
        assert noted.hold
        noted.hold.set()
        for client in busy:
            assert (await client.answer())["ok"]


async def test_thousands_of_connections_leave_the_server_answering(path: Path) -> None:
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    async with commanded(path, Noted()):
        held: list[socket.socket] = []
        for number in range(3000):
            stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            stream.setblocking(False)
            if stream.connect_ex(str(path)) == errno.EAGAIN or number % 10:
                stream.close()
            else:
                held.append(stream)
            if number % 20 == 19:
                await anyio.sleep(0)
            if number % 1000 == 999:
                assert await answers(path)
        for stream in held:
            stream.close()
        assert await answers(path)
    with anyio.fail_after(30):
        while len(list(Path("/proc/self/fd").iterdir())) > open_before + 1:
            await anyio.sleep(0.01)


async def test_flood_leaves_the_event_loop_its_turn(path: Path) -> None:
    """Another process connects as fast as it can; timers of the daemon go on in time."""
    code = (
        "import socket, sys\n"
        "while True:\n"
        "    with socket.socket(socket.AF_UNIX) as s:\n"
        "        try: s.connect(sys.argv[1])\n"
        "        except BlockingIOError: pass\n"
        "        except OSError: break\n"
    )
    async with commanded(path, Noted()):
        with subprocess.Popen([sys.executable, "-c", code, str(path)]) as flood:
            try:
                with anyio.fail_after(30):
                    for _ in range(20):
                        await anyio.sleep(0.05)
                assert await answers(path)
                assert flood.poll() is None
            finally:
                flood.kill()


async def test_want_of_file_descriptors_passes(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = ControlSocket(str(path), explicit=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with open_control_socket(place, where="") as listener, connected(path) as client:
        assert listener is not None
        server = ControlServer(listener, Noted().execute)
        await client.send(b'{"command": "status"}\n')
        highest = max(int(each.name) for each in Path("/proc/self/fd").iterdir())
        gaps = [os.dup(0) for _ in range(highest)]
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(gaps) + 1, hard))
            async with anyio.create_task_group() as group:
                group.start_soon(server.run)
                while not caplog.records:
                    await anyio.sleep(0.01)
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                assert (await client.answer())["ok"]
                group.cancel_scope.cancel()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for gap in gaps:
                os.close(gap)
    assert [record.getMessage() for record in caplog.records] == [
        "control connections can't be accepted error='Too many open files'"
    ]


async def test_other_users_are_refused(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    noted = Noted()
    async with commanded(path, noted, users=frozenset({OTHER_USER})), connected(path) as client:
        answer = await client.answer()
        assert answer["error"] == "only root and the daemon's own user may command"
        assert await client.is_closed()
    assert noted.given == []
    assert f"control client refused uid={os.geteuid()}" in caplog.text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
async def test_another_user_can_connect_neither_by_mode_nor_by_credentials(path: Path) -> None:
    code = (
        "import os, socket, sys\n"
        f"os.setuid({OTHER_USER})\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "s.connect(sys.argv[1])\n"
        'try: s.sendall(b\'{"command": "status"}\\n\')\n'
        "except OSError: pass\n"
        "sys.stdout.write(s.recv(4096).decode())\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    path.parent.chmod(0o755)
    async with commanded(path, Noted()):
        denied = await anyio.run_process(command, check=False)
        assert b"PermissionError" in denied.stderr
        path.chmod(0o666)
        refused = await anyio.run_process(command)
        assert json.loads(refused.stdout)["ok"] is False


async def test_connections_end_with_the_server(path: Path) -> None:
    async with AsyncExitStack() as stack:
        async with commanded(path, Noted(hold=anyio.Event())):
            waiting = await stack.enter_async_context(connected(path))
            working = await stack.enter_async_context(connected(path))
            await working.send(b'{"command": "stop", "name": "a"}\n')
            await anyio.sleep(0.05)
        for client in (waiting, working):
            assert isinstance(client, Asker)
            assert await client.is_closed()


async def test_commands_that_change_something_are_logged(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        async with commanded(path, Noted()), connected(path) as client:
            await client.ask(command="status")
            await client.ask(command="stop", name="a\nb")
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == f"control command=stop name='a\\nb' uid={os.geteuid()}"
