"""Sinks by the hundred share few threads, and one whose disk hangs holds up no other."""

import threading
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from telemetryd.export.exporter import ExporterSpec
from telemetryd.export.sinks.file import FileExporter
from telemetryd.export.threads import MOST_THREADS, shared_threads
from telemetryd.limiter import Limiter
from telemetryd.model import ExporterState
from tests.export.doubles import EPOCH_S, Source, manager_of, render, running
from tests.export.filebench import exporter

pytestmark = pytest.mark.anyio

SINKS = 200


class Threads:
    """A clock for sinks, which they read in their threads: counts how many are there at a time."""

    def __init__(self) -> None:
        self.at_work = self.most_at_work = 0
        self._lock = threading.Lock()
        self._others = threading.Event()

    def now_s(self) -> float:
        with self._lock:
            self.at_work += 1
            self.most_at_work = max(self.most_at_work, self.at_work)
        self._others.wait(0.002)
        with self._lock:
            self.at_work -= 1
        return EPOCH_S


def spec(name: str, timeout_s: float = 30.0) -> ExporterSpec:
    return ExporterSpec(
        name=name,
        type="file",
        render=render,
        interval_s=60.0,
        timeout_s=timeout_s,
        verifies_destination=True,
    )


def sink(folder: Path, now: Callable[[], float], threads: Limiter) -> FileExporter:
    return exporter(folder, now=now, threads=threads)


async def test_hundreds_of_sinks_at_once_take_few_threads(tmp_path: Path) -> None:
    manager, clock = manager_of(Source()), Threads()
    threads = Limiter(MOST_THREADS, patience_s=3600.0)
    for number in range(SINKS):
        name = f"e{number}"
        manager.register(spec(name), sink(tmp_path / name, clock.now_s, threads))
    before = threading.active_count()
    async with running(manager):
        with anyio.fail_after(60):
            while any(status.runs["success"] < 1 for status in manager.stats().values()):
                await anyio.sleep(0.005)
        # Those that are idle now; the machine's own are in either number.
        assert threading.active_count() <= before + MOST_THREADS
    assert 1 < clock.most_at_work <= MOST_THREADS
    assert len(list(tmp_path.glob("*/latest"))) == SINKS


async def test_disks_that_hang_hold_up_no_other(tmp_path: Path) -> None:
    disk = threading.Event()

    def hang() -> float:
        disk.wait(60)
        return EPOCH_S

    manager, threads = manager_of(Source(), drain_timeout_s=1.0), shared_threads()
    hung = [f"hung{number}" for number in range(2 * MOST_THREADS)]
    for name in hung:
        manager.register(spec(name, timeout_s=5.0), sink(tmp_path / name, hang, threads))
    manager.register(spec("well"), sink(tmp_path / "well", lambda: EPOCH_S, threads))
    try:
        async with running(manager):
            with anyio.fail_after(30):
                while manager.status("well").last_success_at is None:
                    await anyio.sleep(0.005)
            assert all(manager.status(name).state is ExporterState.RUNNING for name in hung)
            assert not any((tmp_path / name / "latest").exists() for name in hung)
    finally:
        disk.set()


async def test_who_never_had_a_turn_says_so_when_its_time_is_over(tmp_path: Path) -> None:
    disk = threading.Event()

    def hang() -> float:
        disk.wait(60)
        return EPOCH_S

    manager, threads = manager_of(Source(), drain_timeout_s=1.0), Limiter(1, patience_s=3600.0)
    try:
        async with running(manager):
            manager.register(spec("hung", timeout_s=50.0), sink(tmp_path / "a", hang, threads))
            with anyio.fail_after(30):
                while manager.status("hung").state is not ExporterState.RUNNING:
                    await anyio.sleep(0.005)
            manager.register(spec("late", timeout_s=0.2), sink(tmp_path / "b", hang, threads))
            with anyio.fail_after(30):
                while not manager.status("late").last_error:
                    await anyio.sleep(0.005)
            assert manager.status("late").last_error == (
                "no answer within 0.2 s: still waiting for its turn: others are at work"
            )
    finally:
        disk.set()
