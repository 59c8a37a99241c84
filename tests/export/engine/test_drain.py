"""The end of the manager: bounded, orderly, with a last attempt where something is unsent."""

import asyncio
from typing import Any

import anyio
import pytest

from telemetryd.errors import ManagerError, PermanentError, Reason, RetryableError
from telemetryd.model import ExporterState
from tests.export.doubles import (
    EPOCH_S,
    Sink,
    Source,
    always,
    failing,
    hang,
    ignoring_cancellation,
    manager_of,
    running,
    spec,
    taking,
)
from tests.support.virtualtime import VirtualTimeLoop

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return ("asyncio", {"loop_factory": VirtualTimeLoop})


async def test_drain_interrupts_backoff_and_makes_one_last_attempt() -> None:
    manager = manager_of(Source())
    sink = Sink(always(RetryableError(Reason.CONNECT, "refused", retry_after_s=30)))
    manager.register(spec(interval_s=3600), sink)
    async with running(manager):
        await anyio.sleep(5)
        assert manager.status("scc").state is ExporterState.BACKOFF
        sink.behave = None
    assert sink.starts == [0.0, 5.0]
    assert manager.status("scc").last_success_at == EPOCH_S + 5
    assert sink.closed == 1


async def test_drain_sends_what_changed_since_the_last_run() -> None:
    source = Source()
    manager = manager_of(source)
    sink = Sink()
    manager.register(spec(interval_s=3600), sink)
    async with running(manager):
        await anyio.sleep(5)
        source.change()
    assert [payload.digest for payload in sink.payloads] == ["digest-1", "digest-2"]


@pytest.mark.parametrize(
    "behave", [None, failing(PermanentError(Reason.REJECTED, "no"))], ids=["sent", "refused"]
)
async def test_drain_with_nothing_unsent_is_immediate(behave: Any) -> None:
    manager = manager_of(Source())
    sink = Sink(behave)
    manager.register(spec(), sink)
    async with running(manager):
        await anyio.sleep(5)
    assert anyio.current_time() == 5
    assert (len(sink.starts), sink.closed) == (1, 1)


async def test_drain_is_bounded_where_an_exporter_hangs() -> None:
    manager = manager_of(Source(), drain_timeout_s=3)
    hanging, healthy = Sink(hang), Sink()
    manager.register(spec("hanging", interval_s=3600), hanging)
    manager.register(spec("healthy"), healthy)
    async with running(manager):
        await anyio.sleep(1)
    assert anyio.current_time() <= 4 + 2
    assert (hanging.in_flight, hanging.closed, healthy.closed) == (0, 1, 1)


async def test_drain_closes_all_where_closing_hangs_or_raises(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Hanging(Sink):
        async def aclose(self) -> None:
            await anyio.sleep_forever()

    class Raising(Sink):
        async def aclose(self) -> None:
            raise OSError("gone")

    manager = manager_of(Source())
    healthy = Sink()
    manager.register(spec("hanging"), Hanging())
    manager.register(spec("raising"), Raising())
    manager.register(spec("healthy"), healthy)
    async with running(manager):
        await anyio.sleep(1)
    assert anyio.current_time() <= 1 + 2
    assert healthy.closed == 1
    messages = sorted(record.message for record in caplog.records)
    assert messages == [
        "exporter not closed exporter=hanging error='no end in time'",
        "exporter not closed exporter=raising error='OSError: gone'",
    ]


async def test_drain_sees_to_all_others_before_it_waits_for_a_stray(
    caplog: pytest.LogCaptureFixture,
) -> None:
    manager = manager_of(Source(), drain_timeout_s=2)
    healthy = Sink()
    manager.register(spec("stubborn", timeout_s=1), Sink(ignoring_cancellation(60)))
    manager.register(spec("healthy"), healthy)
    closed_at: list[float] = []

    async def note() -> None:
        closed_at.append(anyio.current_time())

    healthy.aclose = note  # type: ignore[method-assign]
    async with running(manager):
        await anyio.sleep(5)
    assert closed_at == [5.0]
    assert anyio.current_time() == pytest.approx(60)
    assert "exporters still ignore their cancellation exporters=stubborn" in [
        record.message for record in caplog.records
    ]


async def test_register_while_draining_is_refused() -> None:
    manager = manager_of(Source())
    manager.register(spec(timeout_s=20), Sink(taking(9)))

    async def come_late() -> None:
        await anyio.sleep(2)
        with pytest.raises(ManagerError, match="too late"):
            manager.register(spec("late"), Sink())
        with pytest.raises(ManagerError, match="stopping"):
            manager.trigger("scc")

    async with anyio.create_task_group() as group:
        group.start_soon(come_late)
        async with running(manager):
            await anyio.sleep(1)
        assert not manager.has("late")


async def test_run_that_is_cancelled_natively_drains_too() -> None:
    manager = manager_of(Source())
    sink = Sink()
    manager.register(spec(), sink)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await manager.run()
    assert (len(sink.starts), sink.closed) == (1, 1)
    assert manager.status("scc").state is ExporterState.STOPPED


async def test_native_cancellation_reaches_a_sink_that_is_at_work_at_the_end_of_the_drain() -> None:
    manager = manager_of(Source(), drain_timeout_s=2)
    sink = Sink(hang)
    manager.register(spec(interval_s=3600, timeout_s=60), sink)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await manager.run()
    assert anyio.current_time() <= 5 + 2 + 2
    assert (sink.in_flight, sink.closed) == (0, 1)
