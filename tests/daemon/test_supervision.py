"""What the service manager is told, and when, on virtual time over a real datagram socket."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

from telemetryd.daemon.notify import Notifier
from telemetryd.daemon.supervision import Supervision
from tests.virtualtime import VirtualTimeLoop

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualTimeLoop}


@dataclass
class Told:
    """A daemon's state, and what has been told of it."""

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
def told(tmp_path: Path) -> Iterator[Told]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.setblocking(False)
        yield Told(receiver)


async def test_status_is_told_when_it_changes_and_at_most_every_few_seconds(told: Told) -> None:
    supervision = told.supervision()
    supervision.ready()
    assert told.messages() == ["READY=1\nSTATUS=clusters=1"]
    async with anyio.create_task_group() as group:
        group.start_soon(supervision.run)
        await anyio.sleep(60)
        assert told.messages() == []
        for number in range(60):
            told.summary = f"clusters={number}"
            await anyio.sleep(0.1)
        assert len(told.messages()) == 2
        group.cancel_scope.cancel()


async def test_after_a_reload_the_status_of_before_it_is_told_again(told: Told) -> None:
    supervision = told.supervision()
    supervision.ready()
    supervision.reloading()
    supervision.ready()
    *_, reloading, ready = told.messages()
    assert reloading.startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert ready == "READY=1\nSTATUS=clusters=1"


async def test_watchdog_is_fed_only_while_alive(
    told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    supervision = told.supervision(watchdog_period_s=20.0)
    supervision.ready()
    told.messages()
    async with anyio.create_task_group() as group:
        group.start_soon(supervision.run)
        await anyio.sleep(50)
        assert told.messages() == ["WATCHDOG=1"] * 3
        told.alive = False
        await anyio.sleep(120)
        assert told.messages() == []
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        told.alive = True
        await anyio.sleep(20)
        assert told.messages() == ["WATCHDOG=1"]
        group.cancel_scope.cancel()


async def test_failing_summary_is_said_once_and_raises_nothing(
    told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> str:
        raise RuntimeError("no idea")

    supervision = Supervision(
        Notifier(told.receiver.getsockname()), summary=fail, alive=lambda: True
    )
    supervision.ready()
    async with anyio.create_task_group() as group:
        group.start_soon(supervision.run)
        await anyio.sleep(30)
        group.cancel_scope.cancel()
    assert told.messages() == ["READY=1\nSTATUS=status unknown: the log says why"]
    assert len(caplog.records) == 1


async def test_without_a_service_manager_it_ends_at_once(told: Told) -> None:
    supervision = Supervision(Notifier(), summary=lambda: "", alive=lambda: True)
    with anyio.fail_after(30):
        await supervision.run()
