"""The manager on real time, where a sink holds up the whole event loop."""

import time

import anyio
import pytest

from telemetryd.export.exporter import ExportContext, Outcome
from telemetryd.model import ExporterState, Payload
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
        await anyio.sleep(2.05)
        stats = manager.stats()["healthy"]
        assert manager.status("blocking").state is ExporterState.IDLE
    began_s = blocking.starts[0]
    slots = [(start - began_s) / 0.2 for start in healthy.starts[1:]]
    # On its slot, or late by at most the half second and never twice for one slot.
    assert all(slot - int(slot + 0.05) >= -0.05 for slot in slots)
    assert len({int(slot + 0.05) for slot in slots}) == len(slots)
    assert sum(slot - int(slot + 0.05) < 0.2 for slot in slots) >= len(slots) / 2
    assert stats.skipped_ticks["overrun"] >= 1
    assert healthy.most_in_flight == 1


async def test_scheduler_s_pulse_stops_with_the_wake_ups_and_not_with_a_sink() -> None:
    manager = manager_of(Source(), drain_timeout_s=0.1)
    assert manager.overdue_s() == 0.0
    manager.register(spec("hanging", interval_s=60.0, timeout_s=30.0), Sink(hang))
    manager.register(spec("healthy", interval_s=0.1), Sink())
    async with running(manager):
        await anyio.sleep(0.3)
        assert manager.overdue_s() < 0.1
        time.sleep(0.5)  # no task is woken meanwhile
        assert manager.overdue_s() > 0.3
        await anyio.sleep(0.2)
        assert manager.overdue_s() < 0.1
