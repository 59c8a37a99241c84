"""Notifications over real datagram sockets, and from a real daemon; when they are sent."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

from telemetryd.daemon.notify import Notifier, Supervision
from tests.support.service import ServiceManager
from tests.support.virtualtime import VirtualTimeLoop

pytestmark = pytest.mark.anyio


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[socket.socket]:
    """A bound datagram socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(tmp_path / "notify"))
        bound.settimeout(30)
        yield bound


def received(receiver: socket.socket) -> list[str]:
    return receiver.recv(65536).decode().split("\n")


def test_each_notification_is_one_datagram(receiver: socket.socket) -> None:
    notifier = Notifier(receiver.getsockname())
    notifier.ready("all is well")
    assert received(receiver) == ["READY=1", "STATUS=all is well"]
    notifier.status("as before")
    assert received(receiver) == ["STATUS=as before"]
    notifier.watchdog()
    assert received(receiver) == ["WATCHDOG=1"]
    notifier.stopping()
    assert received(receiver) == ["STOPPING=1", "STATUS=draining"]


def test_reloading_carries_the_monotonic_time(receiver: socket.socket) -> None:
    before_us = time.monotonic_ns() // 1000
    Notifier(receiver.getsockname()).reloading()
    first, second, _ = received(receiver)
    name, _, value = second.partition("=")
    assert (first, name) == ("RELOADING=1", "MONOTONIC_USEC")
    assert before_us <= int(value) <= time.monotonic_ns() // 1000


def test_status_of_foreign_text_stays_one_short_line(receiver: socket.socket) -> None:
    Notifier(receiver.getsockname()).status("a\nREADY=1\r\n\udcff" + "ü" * 4000)
    (line,) = received(receiver)
    assert line.startswith("STATUS=a READY=1 ?ü")
    assert len(line.encode()) <= 1024 + len("STATUS=")


def test_abstract_socket_is_reported() -> None:
    name = f"telemetryd-notify-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(f"\0{name}")
        bound.settimeout(30)
        Notifier(f"@{name}").watchdog()
        assert received(bound) == ["WATCHDOG=1"]


def test_full_or_absent_socket_loses_the_notification_without_waiting(
    receiver: socket.socket, tmp_path: Path
) -> None:
    notifier = Notifier(receiver.getsockname())
    for _ in range(5000):  # more than any queue of a datagram socket holds
        notifier.watchdog()
    Notifier(str(tmp_path / "nobody")).ready("")
    Notifier("/" + "x" * 200).ready("")
    # It is read at the end alone: a daemon that waits for room never comes here.


@pytest.mark.parametrize(
    "environ",
    [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}, {"NOTIFY_SOCKET": "here"}],
)
def test_without_a_usable_address_no_one_is_reported(environ: dict[str, str]) -> None:
    notifier = Notifier.from_environ(environ, 1)
    assert not notifier
    notifier.ready("")


@pytest.mark.parametrize(
    ("environ", "period_s"),
    [
        ({"WATCHDOG_USEC": "60000000"}, 20.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "7"}, 20.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_PID": "7"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_watchdog_is_fed_at_a_third_of_its_time(
    environ: dict[str, str], period_s: float | None
) -> None:
    assert Notifier.from_environ(environ, 7).watchdog_period_s == period_s


@pytest.mark.parametrize("abstract", [False, pytest.param(True, marks=pytest.mark.long)])
def test_daemon_tells_its_life_without_an_api_server(tmp_path: Path, abstract: bool) -> None:
    begin = time.monotonic()
    with ServiceManager(
        tmp_path, abstract=abstract, environ={"WATCHDOG_USEC": "600000"}
    ) as service:
        message = service.next()
        assert message["READY"] == "1"
        assert "informers_synced=0/" in message["STATUS"]
        # It is bound by now, whatever the API server does.
        socket.create_connection(("127.0.0.1", service.port), timeout=30).close()
        for _ in range(6):
            service.next_with("WATCHDOG")
        assert time.monotonic() - begin > 0.9  # five times 0.2 s
        assert service.end() == 0
        assert service.next_with("STOPPING") == {"STOPPING": "1", "STATUS": "draining"}


@pytest.mark.long
def test_daemon_of_another_watchdog_pid_feeds_none(tmp_path: Path) -> None:
    environ = {"WATCHDOG_USEC": "300000", "WATCHDOG_PID": "1"}
    with ServiceManager(tmp_path, environ=environ) as service:
        assert "READY" in service.next()
        time.sleep(0.5)
        assert service.end() == 0
        assert "STOPPING" in service.next()  # nothing else came between


def test_daemon_with_a_bad_configuration_is_never_ready(tmp_path: Path) -> None:
    with ServiceManager(tmp_path, config="frobnicate = 1") as service:
        assert service.process.wait(timeout=60) == 78
        with pytest.raises(AssertionError, match="no notification within"):
            service.next(timeout_s=0.1)


def test_reload_is_reported_and_so_is_its_end_whatever_comes_of_it(tmp_path: Path) -> None:
    with ServiceManager(tmp_path) as service:
        assert "READY" in service.next()
        for config, rejected in (
            ('log_level = "debug"', False),
            ("frobnicate = 1", True),
            ('log_level = "info"', False),
        ):
            service.write_config(config)
            before_us = time.monotonic_ns() // 1000
            service.process.send_signal(signal.SIGHUP)
            message = service.next_with("RELOADING")
            assert before_us <= int(message["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
            # The status may be sent between, but nothing of a reload.
            message = service.next_with("READY")
            assert ("config=rejected" in message["STATUS"]) == rejected
        assert service.end() == 0


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualTimeLoop}


@dataclass
class Observed:
    """A daemon's state, and what has been seen of it."""

    receiver: socket.socket
    summary: str = "clusters=1"
    alive: bool = True
    heard: list[str] = field(default_factory=list)

    def supervision(self, watchdog_period_s: float | None = None) -> Supervision:
        return Supervision(
            Notifier(self.receiver.getsockname(), watchdog_period_s),
            summary=lambda: self.summary,
            alive=lambda: self.alive,
        )

    def messages(self) -> list[str]:
        """What came since the last look."""
        came = []
        while True:
            try:
                came.append(self.receiver.recv(4096).decode())
            except BlockingIOError:
                return came


@pytest.fixture
def seen(tmp_path: Path) -> Iterator[Observed]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.setblocking(False)
        yield Observed(receiver)


async def test_status_is_sent_when_it_changes_and_at_most_every_few_seconds(
    seen: Observed,
) -> None:
    supervision = seen.supervision()
    supervision.ready()
    assert seen.messages() == ["READY=1\nSTATUS=clusters=1"]
    async with anyio.create_task_group() as group:
        group.start_soon(supervision.run)
        await anyio.sleep(60)
        assert seen.messages() == []
        for number in range(60):
            seen.summary = f"clusters={number}"
            await anyio.sleep(0.1)
        assert len(seen.messages()) == 2
        group.cancel_scope.cancel()


async def test_after_a_reload_the_status_of_before_it_is_reported_again(seen: Observed) -> None:
    supervision = seen.supervision()
    supervision.ready()
    supervision.reloading()
    supervision.ready()
    *_, reloading, ready = seen.messages()
    assert reloading.startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert ready == "READY=1\nSTATUS=clusters=1"


async def test_watchdog_is_fed_only_while_alive(
    seen: Observed, caplog: pytest.LogCaptureFixture
) -> None:
    supervision = seen.supervision(watchdog_period_s=20.0)
    supervision.ready()
    seen.messages()
    async with anyio.create_task_group() as group:
        group.start_soon(supervision.run)
        await anyio.sleep(50)
        assert seen.messages() == ["WATCHDOG=1"] * 3
        seen.alive = False
        await anyio.sleep(120)
        assert seen.messages() == []
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        seen.alive = True
        await anyio.sleep(20)
        assert seen.messages() == ["WATCHDOG=1"]
        group.cancel_scope.cancel()


async def test_failing_summary_is_said_once_and_raises_nothing(
    seen: Observed, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> str:
        raise RuntimeError("no idea")

    supervision = Supervision(
        Notifier(seen.receiver.getsockname()), summary=fail, alive=lambda: True
    )
    supervision.ready()
    async with anyio.create_task_group() as group:
        group.start_soon(supervision.run)
        await anyio.sleep(30)
        group.cancel_scope.cancel()
    assert seen.messages() == ["READY=1\nSTATUS=status unknown: the log says why"]
    assert len(caplog.records) == 1


async def test_without_a_service_manager_it_ends_at_once(seen: Observed) -> None:
    supervision = Supervision(Notifier(), summary=lambda: "", alive=lambda: True)
    with anyio.fail_after(30):
        await supervision.run()
