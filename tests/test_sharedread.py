"""Reads that hang: one thread, shared by its callers, and no deadline that it could hold up."""

import threading
from collections.abc import Iterator

import anyio
import pytest

from telemetryd.sharedread import SharedRead

pytestmark = pytest.mark.anyio


class Disk:
    """Hangs until it is let go."""

    def __init__(self) -> None:
        self.reads = 0
        self.released = threading.Event()

    def read(self) -> int:
        self.reads += 1
        number = self.reads
        assert self.released.wait(60)
        return number


@pytest.fixture
def disk() -> Iterator[Disk]:
    disk = Disk()
    yield disk
    disk.released.set()


async def test_callers_share_one_read_and_one_that_leaves_does_not_end_it(
    disk: Disk,
) -> None:
    shared = SharedRead[int]("test")
    results: list[int] = []

    async def ask() -> None:
        results.append(await shared.take(disk.read))

    async with anyio.create_task_group() as group:
        with anyio.move_on_after(0.05):
            await shared.take(disk.read)
        for _ in range(20):
            group.start_soon(ask)
        await anyio.sleep(0.05)
        disk.released.set()
    assert (results, disk.reads) == ([1] * 20, 1)
    assert not shared.is_running


async def test_disk_that_hangs_costs_one_thread_and_waits_of_one_patience(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetryd.sharedread.PATIENCE_S", 0.1)
    settled: list[int] = []
    shared = SharedRead[int]("a disk that hangs", settled.append)
    for _ in range(20):
        with pytest.raises(TimeoutError):
            await shared.take_soon(disk.read)
    threads = [each for each in threading.enumerate() if each.name == "a disk that hangs"]
    assert (disk.reads, len(threads)) == (1, 1)
    disk.released.set()
    with anyio.fail_after(30):
        while shared.is_running:
            await anyio.sleep(0.01)
    assert settled == [1]  # though no caller was left
    assert await shared.begin(disk.read) == 2


async def test_error_reaches_each_caller_and_the_next_read_starts_again() -> None:
    shared = SharedRead[int]("test")

    def fail() -> int:
        raise FileNotFoundError("gone")

    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            await shared.take(fail)
    assert await shared.take(lambda: 3) == 3
