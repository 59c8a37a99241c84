"""What a thousand exporters take: no task while they wait, few at a time, one payload for all."""

import asyncio
import gc
import tracemalloc
from typing import Any

import anyio
import pytest

from telemetryd.export.engine.manager import ExporterManager
from telemetryd.export.engine.sinkcall import MOST_BEGINNING
from telemetryd.export.exporter import ExportContext, Outcome
from telemetryd.model import ExporterState, Payload
from tests.export.doubles import Sink, Source, manager_of, running, spec
from tests.support.virtualtime import VirtualTimeLoop

pytestmark = pytest.mark.anyio

FEW, MANY = 100, 1_000
HANGING = 3 * MOST_BEGINNING


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return ("asyncio", {"loop_factory": VirtualTimeLoop})


def crowd(count: int, source: Source, sink: Sink) -> ExporterManager:
    manager = manager_of(source)
    for number in range(count):
        manager.register(spec(f"e{number}"), sink)
    return manager


def states(manager: ExporterManager) -> set[ExporterState]:
    return {each.state for each in manager.statuses()}


@pytest.mark.parametrize("ready", [True, False])
async def test_exporters_that_wait_have_no_task(ready: bool) -> None:
    tasks = {}
    for count in (FEW, MANY):
        manager = crowd(count, Source(ready=ready), sink := Sink())
        async with running(manager):
            await anyio.sleep(5)
            assert states(manager) == {ExporterState.IDLE if ready else ExporterState.WAITING}
            assert len(sink.starts) == count * ready
            tasks[count] = len(asyncio.all_tasks())
    assert tasks[MANY] == tasks[FEW]


async def test_runs_that_are_due_at_once_take_turns_in_their_order() -> None:
    order: list[str] = []

    async def slow(_: Payload, context: ExportContext) -> Outcome:
        order.append(context.name)
        await anyio.sleep(0.1)
        return Outcome.WRITTEN

    sink = Sink(slow)
    async with running(crowd(MANY, Source(), sink)):
        await anyio.sleep(10)
    assert sink.most_in_flight == MOST_BEGINNING
    assert order == [f"e{number}" for number in range(MANY)]


async def test_sinks_that_hang_hold_up_others_only_for_moments() -> None:
    async def hang(_: Payload, context: ExportContext) -> Outcome:
        if int(context.name[1:]) < HANGING:
            await anyio.sleep(9)
        return Outcome.WRITTEN

    sink = Sink(hang)
    async with running(crowd(HANGING + FEW, Source(), sink)):
        begun_s = anyio.current_time()
        await anyio.sleep(5)
        assert len(sink.starts) == HANGING + FEW
        assert sink.in_flight == HANGING
        assert max(sink.starts) - begun_s < 2


async def test_equal_payloads_are_one_object() -> None:
    manager = crowd(FEW, Source(), sink := Sink())
    async with running(manager):
        await anyio.sleep(5)
        held = {id(manager.payload(f"e{number}")) for number in range(FEW)}
    assert len(sink.payloads) == FEW
    assert len(held) == 1


async def test_exporter_that_waits_takes_a_few_kilobytes() -> None:
    """By the allocator's count, which no machine changes; with a task of its own it took twelve."""

    async def traced(count: int) -> int:
        async with running(crowd(count, Source(), Sink())):
            await anyio.sleep(5)
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        await traced(FEW)
        each = (await traced(MANY) - await traced(FEW)) / (MANY - FEW)
    finally:
        tracemalloc.stop()
    assert each < 4_500
