"""Exporters that are held: cut off without a last attempt, and back without a burst."""

from typing import Any

import anyio
import pytest

from telemetryd.errors import ManagerError
from telemetryd.export.engine.manager import ExporterManager
from telemetryd.model import ExporterState
from tests.export.doubles import (
    EPOCH_S,
    Sink,
    Source,
    hang,
    ignoring_cancellation,
    manager_of,
    running,
    spec,
    taking,
)
from tests.support.virtualtime import VirtualTimeLoop

pytestmark = pytest.mark.anyio

OFF = ExporterState.DISABLED
STANDBY = ExporterState.STANDBY
WAITING = ExporterState.WAITING
WHY = "switched off by a test"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return ("asyncio", {"loop_factory": VirtualTimeLoop})


def shown(manager: ExporterManager, name: str = "scc") -> tuple[ExporterState, str, bool]:
    status = manager.status(name)
    return status.state, status.detail, status.enabled


async def test_held_exporter_makes_no_last_attempt_and_says_why() -> None:
    source = Source()
    manager = manager_of(source)
    sink = Sink()
    manager.register(spec(interval_s=10), sink)
    async with running(manager):
        await anyio.sleep(5)
        source.change()
        await manager.hold(OFF, WHY)
        assert anyio.current_time() == 5
        assert shown(manager) == (OFF, WHY, False)
        assert manager.status("scc").next_run_in_s is None
        assert manager.overdue_s() == 0
        await anyio.sleep(100)
        assert manager.overdue_s() == 0
    assert sink.starts == [0.0]
    assert sink.closed == 1


async def test_release_runs_once_at_once_and_keeps_counters_and_last_success() -> None:
    manager = manager_of(Source())
    sink = Sink()
    manager.register(spec(interval_s=10), sink)
    async with running(manager):
        await anyio.sleep(25)
        await manager.hold(OFF, WHY)
        await anyio.sleep(100)
        assert manager.status("scc").last_success_at == EPOCH_S + 20
        manager.release(OFF)
        await anyio.sleep(25)
        assert sink.starts == [0.0, 10.0, 20.0, 125.0, 135.0, 145.0]
        stats = manager.stats()["scc"]
        assert (stats.runs["success"], stats.runs["skipped"]) == (6, 0)
        assert shown(manager) == (ExporterState.IDLE, "", True)


async def test_release_waits_for_the_source_that_is_not_ready_any_more() -> None:
    source = Source()
    manager = manager_of(source)
    sink = Sink()
    manager.register(spec(interval_s=60), sink)
    async with running(manager):
        await anyio.sleep(5)
        source.wait_for("informer nodes")
        await manager.hold(OFF, WHY)
        await anyio.sleep(5)
        manager.release(OFF)
        await anyio.sleep(3)
        assert shown(manager) == (WAITING, "informer nodes", True)
        source.wait_for()
        await anyio.sleep(1)
        assert sink.starts == [0.0, 13.0]
        assert manager.stats()["scc"].runs["skipped"] == 0


async def test_release_asks_a_source_again_that_was_ready_during_the_hold() -> None:
    source = Source()
    manager = manager_of(source)
    sink = Sink()
    manager.register(spec(interval_s=60), sink)
    async with running(manager):
        await anyio.sleep(1)
        await manager.hold(WAITING, "the move")
        await anyio.sleep(4)
        source.wait_for("informer nodes")
        manager.release(WAITING)
        await anyio.sleep(3)
        assert shown(manager) == (WAITING, "informer nodes", True)
        source.wait_for()
        await anyio.sleep(1)
        assert sink.starts == [0.0, 8.0], "not a whole interval later"
        assert manager.stats()["scc"].runs["skipped"] == 0


async def test_run_in_progress_is_cut_off_and_is_no_failure() -> None:
    manager = manager_of(Source())
    sink = Sink(hang)
    manager.register(spec(interval_s=3600, timeout_s=600), sink)
    async with running(manager):
        await anyio.sleep(5)
        await manager.hold(OFF, WHY)
        assert anyio.current_time() <= 5 + 1
        assert sink.in_flight == 0
        status, stats = manager.status("scc"), manager.stats()["scc"]
        assert (status.consecutive_failures, status.last_error) == (0, "")
        assert (stats.runs["failure"], stats.skipped_ticks["held"]) == (0, 1)
        sink.behave = None
        manager.release(OFF)
        await anyio.sleep(1)
        assert manager.status("scc").state is ExporterState.IDLE
    assert len(sink.starts) == 2


async def test_sink_that_ignores_its_cancellation_delays_no_one() -> None:
    manager = manager_of(Source())
    stubborn, healthy = Sink(ignoring_cancellation(30)), Sink()
    manager.register(spec("stubborn", interval_s=3600, timeout_s=600), stubborn)
    manager.register(spec("healthy"), healthy)
    async with running(manager):
        await anyio.sleep(5)
        await manager.hold(OFF, WHY)
        assert anyio.current_time() <= 5 + 1
        assert shown(manager, "healthy")[0] is OFF
        manager.release(OFF)
        await anyio.sleep(1)
        assert len(healthy.starts) == 2
        assert len(stubborn.starts) == 1


async def test_release_while_the_hold_still_ends_a_run_starts_it_again() -> None:
    manager = manager_of(Source())
    sink = Sink(ignoring_cancellation(0.3))
    manager.register(spec(interval_s=3600, timeout_s=600), sink)
    async with running(manager) as group:
        await anyio.sleep(0.1)
        group.start_soon(manager.hold, OFF, WHY)
        await anyio.sleep(0.1)
        manager.release(OFF)
        sink.behave = None
        await anyio.sleep(1)
        assert manager.status("scc").state is ExporterState.IDLE
        assert len(sink.starts) == 2


async def test_several_holds_end_one_by_one_and_the_first_of_their_order_is_shown() -> None:
    manager = manager_of(Source())
    sink = Sink()
    manager.register(spec(interval_s=10), sink)
    await manager.hold(WAITING, "the move")
    async with running(manager):
        assert shown(manager) == (WAITING, "the move", True)
        await manager.hold(STANDBY, "not the leader")
        await manager.hold(STANDBY, "x leads")
        assert shown(manager) == (STANDBY, "x leads", True)
        await manager.hold(OFF, WHY)
        assert shown(manager) == (OFF, WHY, False)
        manager.release(STANDBY)
        manager.release(WAITING)
        manager.release(WAITING)
        await anyio.sleep(30)
        assert sink.starts == []
        manager.release(OFF)
        await anyio.sleep(1)
        assert sink.starts == [30.0]


async def test_only_the_three_states_hold() -> None:
    with pytest.raises(ValueError, match="idle"):
        await manager_of(Source()).hold(ExporterState.IDLE, "")


@pytest.mark.parametrize("state", [OFF, STANDBY])
async def test_start_restart_and_trigger_are_refused_and_say_why(state: ExporterState) -> None:
    manager = manager_of(Source())
    manager.register(spec(), Sink())
    async with running(manager):
        await manager.hold(state, WHY)
        for command in (manager.start, manager.trigger):
            with pytest.raises(ManagerError, match=WHY):
                command("scc")
        with pytest.raises(ManagerError, match=WHY):
            await manager.restart("scc")


async def test_start_and_trigger_while_only_waited_for_are_kept_for_later() -> None:
    manager = manager_of(Source())
    started, triggered = Sink(), Sink()
    manager.register(spec("started"), started)
    manager.register(spec("triggered", initial_delay_max_s=1000, interval_s=3600), triggered)
    async with running(manager):
        await manager.stop("started")
        assert started.starts == [0.0]
        await manager.hold(WAITING, "the move")
        manager.start("started")
        manager.trigger("triggered")
        await anyio.sleep(10)
        assert (started.starts, triggered.starts) == ([0.0], [])
        manager.release(WAITING)
        await anyio.sleep(1)
        assert (started.starts, triggered.starts[0]) == ([0.0, 10.0], 10.0)


async def test_exporter_stopped_by_hand_before_or_during_a_hold_stays_stopped() -> None:
    manager = manager_of(Source())
    before, during = Sink(), Sink()
    manager.register(spec("before"), before)
    manager.register(spec("during"), during)
    async with running(manager):
        await anyio.sleep(1)
        await manager.stop("before")
        await manager.hold(OFF, WHY)
        await manager.stop("during")
        for name in ("before", "during"):
            assert shown(manager, name) == (ExporterState.STOPPED, "by hand", True)
        manager.release(OFF)
        await anyio.sleep(1)
        assert len(before.starts) == len(during.starts) == 1
        manager.start("during")
        await anyio.sleep(1)
        assert len(during.starts) == 2


async def test_restart_that_a_hold_overtakes_ends_with_the_hold() -> None:
    manager = manager_of(Source())
    sink = Sink(taking(4))
    manager.register(spec(), sink)
    async with running(manager) as group:
        await anyio.sleep(1)
        group.start_soon(manager.restart, "scc")
        await anyio.sleep(1)
        await manager.hold(OFF, WHY)
        await anyio.sleep(1)
        assert shown(manager) == (OFF, WHY, False)
        manager.release(OFF)
        await anyio.sleep(1)
        assert len(sink.starts) == 2


async def test_exporters_change_during_a_hold_without_running() -> None:
    manager = manager_of(Source())
    gone, new, moved = Sink(), Sink(), Sink()
    manager.register(spec("gone"), gone)
    manager.register(spec("moved"), moved)
    async with running(manager):
        await anyio.sleep(1)
        await manager.hold(OFF, WHY)
        await manager.exchange(["gone"], [(spec("new"), new)])
        manager.reschedule(spec("moved", interval_s=5))
        assert shown(manager, "new") == (OFF, WHY, False)
        assert not manager.has("gone")
        await anyio.sleep(10)
        assert new.starts == []
        manager.release(OFF)
        await anyio.sleep(6)
        assert new.starts == [11.0]
        assert moved.starts == [0.0, 11.0, 16.0]
    assert (gone.closed, len(gone.starts)) == (1, 1)


async def test_exporter_that_is_disabled_by_its_own_configuration_stays_so() -> None:
    manager = manager_of(Source())
    sink = Sink()
    manager.register(spec(enabled=False), sink)
    async with running(manager):
        await manager.hold(OFF, WHY)
        assert shown(manager) == (OFF, "", False)
        manager.release(OFF)
        await anyio.sleep(1)
        assert shown(manager) == (OFF, "", False)
    assert sink.starts == []


async def test_end_of_the_manager_during_a_hold_sends_nothing() -> None:
    source = Source()
    manager = manager_of(source, drain_timeout_s=10)
    sink = Sink()
    manager.register(spec(), sink)
    async with running(manager):
        await anyio.sleep(1)
        await manager.hold(STANDBY, "not the leader")
        source.change()
    assert (len(sink.starts), sink.closed, anyio.current_time()) == (1, 1, 1.0)


async def test_hold_during_a_drain_cuts_the_last_attempts_off() -> None:
    source = Source()
    manager = manager_of(source, drain_timeout_s=30)
    sink = Sink()
    manager.register(spec(interval_s=3600, timeout_s=600), sink)

    async def switch_off() -> None:
        await anyio.sleep(6)
        await manager.hold(OFF, WHY)

    async with anyio.create_task_group() as group:
        group.start_soon(switch_off)
        async with running(manager):
            await anyio.sleep(5)
            sink.behave = hang
            source.change()
    assert anyio.current_time() <= 6 + 1
    assert (len(sink.starts), sink.in_flight, sink.closed) == (2, 0, 1)
