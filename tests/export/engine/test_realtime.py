"""The manager on real time, where a sink holds up the whole event loop."""

import asyncio
import os
import threading
import time
from collections.abc import Mapping

import anyio
import pytest

from telemetryd.errors import Reason
from telemetryd.export.engine.manager import ExporterManager
from telemetryd.export.exporter import ExportContext, Outcome
from telemetryd.model import ExporterState, Payload
from telemetryd.timing import Grid
from tests.export.doubles import Sink, Source, hang, manager_of, running, spec

pytestmark = pytest.mark.anyio


async def test_sink_that_blocks_the_loop_delays_the_others_and_moves_no_slot() -> None:
    async def block(payload: Payload, context: ExportContext) -> Outcome:
        time.sleep(0.5)
        return Outcome.WRITTEN

    manager = manager_of(Source())
    blocking, healthy = Sink(block), Sink()
    manager.register(spec("blocking", interval_s=1.0), blocking)
    manager.register(spec("healthy", interval_s=0.2), healthy)
    async with running(manager):
        await until_started(healthy)
        grid = grid_of(manager, "healthy")
        await anyio.sleep(2.05)
        stats = manager.stats()["healthy"]
        assert manager.stats()["blocking"].runs["success"] >= 1
        assert grid_of(manager, "healthy") == grid
        check_no_slot_was_used_twice(manager, {"healthy": healthy})
    assert stats.skipped_ticks["overrun"] >= 1
    assert healthy.most_in_flight == 1


BESIDE_BAD_ONES_S = float(os.environ.get("TELEMETRYD_TEST_MANAGER_S", "4"))
"""How long two hundred exporters run beside bad ones: 30 in a soak, less in every run."""


async def test_two_hundred_exporters_beside_bad_ones_keep_their_slots(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def block(payload: Payload, context: ExportContext) -> Outcome:
        time.sleep(2)
        return Outcome.WRITTEN

    async def crash(payload: Payload, context: ExportContext) -> Outcome:
        raise ZeroDivisionError("a sink's own defect")

    async def ignore_cancellation(payload: Payload, context: ExportContext) -> Outcome:
        until_s = anyio.current_time() + 5
        while (left_s := until_s - anyio.current_time()) > 0:
            try:
                await asyncio.sleep(left_s)
            except asyncio.CancelledError:
                continue
        return Outcome.WRITTEN

    manager = manager_of(Source(), drain_timeout_s=1.0)
    healthy = {f"healthy-{number}": Sink() for number in range(200)}
    bad = {
        "hanging": Sink(hang),
        "raising": Sink(crash),
        "blocking": Sink(block),
        "ignoring": Sink(ignore_cancellation),
    }
    for name, sink in healthy.items():
        manager.register(spec(name, interval_s=1.0, timeout_s=0.5), sink)
    for name, sink in bad.items():
        # The blocking one once, in the middle: what comes after shows that none catches up.
        interval_s = BESIDE_BAD_ONES_S / 2 if name == "blocking" else 1.0
        manager.register(spec(name, interval_s=interval_s, timeout_s=0.5), sink)
    threads = threading.active_count()
    async with running(manager):
        await until_started(*healthy.values())
        grids = {name: grid_of(manager, name) for name in healthy}
        await anyio.sleep(BESIDE_BAD_ONES_S + 0.5)
        assert threading.active_count() <= threads  # another test's may end late
        stats = manager.stats()
        statuses = {status.name: status for status in manager.statuses()}
        assert {name: grid_of(manager, name) for name in healthy} == grids, "no drift"
        check_no_slot_was_used_twice(manager, healthy)
    for sink in (*healthy.values(), *bad.values()):
        assert sink.most_in_flight == 1, "never two runs of one exporter"
    for name in healthy:
        runs = stats[name].runs["success"] + stats[name].runs["unchanged"]
        missed = stats[name].skipped_ticks["overrun"]
        assert runs + missed >= int(BESIDE_BAD_ONES_S) - 1, name
    assert stats["hanging"].attempts["failure", "timeout"] > 0
    assert stats["raising"].attempts["failure", "internal"] > 0
    assert stats["ignoring"].attempts["failure", "timeout"] > 0
    assert stats["blocking"].export.total >= 2
    # Perhaps it runs again just now.
    assert statuses["raising"].state in {ExporterState.FAILED, ExporterState.RUNNING}
    assert statuses["raising"].last_error_reason is Reason.INTERNAL
    logged = "\n".join(record.getMessage() for record in caplog.records)
    assert "exporter blocks the event loop exporter=blocking" in logged
    assert "exporter ignores its cancellation exporter=ignoring" in logged
    assert "exporter failing exporter=raising reason=internal" in logged
    assert "exporter failing exporter=hanging reason=timeout" in logged
    assert "exporter=healthy" not in logged.replace("delivered for the first time", "")


def grid_of(manager: ExporterManager, name: str) -> Grid:
    schedule = manager._runners[name]._schedule
    assert schedule is not None
    return schedule._grid


async def until_started(*sinks: Sink) -> None:
    with anyio.fail_after(30):
        while not all(sink.starts for sink in sinks):
            await anyio.sleep(0.01)


def check_no_slot_was_used_twice(manager: ExporterManager, sinks: Mapping[str, Sink]) -> None:
    """Runs and missed slots are no more than the slots so far and a first run before them."""
    stats = manager.stats()
    for name, sink in sinks.items():
        slots = grid_of(manager, name).first_at_or_after(anyio.current_time()) + 1
        assert len(sink.starts) + stats[name].skipped_ticks["overrun"] <= 1 + slots, name


async def test_scheduler_s_pulse_stops_with_the_wake_ups_and_not_with_a_sink() -> None:
    manager = manager_of(Source(), drain_timeout_s=0.1)
    assert manager.overdue_s() == 0.0
    manager.register(spec("hanging", interval_s=60.0, timeout_s=30.0), Sink(hang))
    manager.register(spec("healthy", interval_s=0.1), Sink())
    async with running(manager):
        await until_on_time(manager)
        time.sleep(0.5)  # no task is woken meanwhile
        assert manager.overdue_s() > 0.3
        await until_on_time(manager)


async def until_on_time(manager: ExporterManager) -> None:
    with anyio.fail_after(30):
        await anyio.sleep(0.2)
        while manager.overdue_s() >= 0.1:
            await anyio.sleep(0.01)
