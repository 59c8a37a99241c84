"""Other exporters in the place of some, and other intervals in place, while the rest goes on."""

from itertools import pairwise
from typing import Any

import anyio
import pytest

from telemetryd.errors import ManagerError, Reason, RetryableError
from telemetryd.model import ExporterState
from tests.export.doubles import (
    Sink,
    Source,
    always,
    failing,
    manager_of,
    render,
    running,
    spec,
    taking,
)
from tests.support.virtualtime import VirtualTimeLoop

pytestmark = pytest.mark.anyio

CONNECT = RetryableError(Reason.CONNECT, "refused")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return ("asyncio", {"loop_factory": VirtualTimeLoop})


async def test_exchange_touches_no_one_else() -> None:
    manager = manager_of(Source())
    kept, gone, new = Sink(), Sink(), Sink()
    manager.register(spec("kept", interval_s=10), kept)
    manager.register(spec("gone", interval_s=10), gone)
    async with running(manager):
        await anyio.sleep(25)
        await manager.exchange(["gone"], [(spec("new", interval_s=10), new)])
        await anyio.sleep(11)
        assert [status.name for status in manager.statuses()] == ["kept", "new"]
        assert set(manager.stats()) == {"kept", "new"}
        assert kept.starts == [0.0, 10.0, 20.0, 30.0]
        assert manager.stats()["kept"].runs["success"] == 4
        assert new.starts == [25.0, 35.0]
        assert (gone.closed, kept.closed) == (1, 0)


async def test_exporter_under_the_same_name_starts_again_after_the_end_of_the_old() -> None:
    manager = manager_of(Source())
    old, new = Sink(taking(4)), Sink()
    manager.register(spec(interval_s=10), old)
    async with running(manager):
        await anyio.sleep(11)
        assert old.in_flight == 1
        async with anyio.create_task_group() as group:
            group.start_soon(manager.exchange, ["scc"], [(spec(interval_s=10), new)])
            await anyio.sleep(0.5)
            assert manager.status("scc").state is ExporterState.STOPPING
            assert not new.starts
        assert anyio.current_time() == 14.0
        await anyio.sleep(0.5)
        assert (old.in_flight, old.closed) == (0, 1)
        assert new.starts == [14.0]
        assert manager.stats()["scc"].runs["success"] == 1


async def test_none_begins_before_all_that_go_have_ended() -> None:
    """Two that swap their destinations never write to one at a time."""
    manager = manager_of(Source())
    slow, quick = Sink(taking(9)), Sink()
    manager.register(spec("slow", interval_s=20), slow)
    manager.register(spec("quick", interval_s=20), quick)
    into = [Sink(), Sink()]
    async with running(manager):
        await anyio.sleep(1)
        await manager.exchange(
            ["slow", "quick"], [(spec("quick"), into[0]), (spec("slow"), into[1])]
        )
        await anyio.sleep(1)
        assert [sink.starts for sink in into] == [[9.0], [9.0]]


async def test_exporter_that_hangs_holds_an_exchange_up_for_the_drain_timeout_at_most() -> None:
    manager = manager_of(Source())
    manager.register(spec(interval_s=100, timeout_s=60), Sink(taking(50)))
    manager.drain_timeout_s = 5
    async with running(manager):
        await anyio.sleep(1)
        await manager.exchange(["scc"], [(spec("new"), Sink())])
        assert 6 <= anyio.current_time() <= 8
        assert manager.has("new")


@pytest.mark.parametrize(
    ("out", "into", "text"),
    [
        (["absent"], [], "no exporter 'absent'"),
        ([], ["a"], "'a' is registered already"),
        (["b"], ["a"], "'a' is registered already"),
        (["a", "absent"], ["c"], "no exporter 'absent'"),
    ],
)
async def test_exchange_that_cannot_be_made_whole_touches_nothing(
    out: list[str], into: list[str], text: str
) -> None:
    manager = manager_of(Source())
    sinks = {name: Sink() for name in "ab"}
    for name, sink in sinks.items():
        manager.register(spec(name, interval_s=10), sink)
    async with running(manager):
        await anyio.sleep(1)
        with pytest.raises(ManagerError, match=text):
            await manager.exchange(out, [(spec(name), Sink()) for name in into])
        await anyio.sleep(10)
        assert [status.name for status in manager.statuses()] == ["a", "b"]
        assert all(sink.starts == [0.0, 10.0] and not sink.closed for sink in sinks.values())


async def test_exchange_that_is_cancelled_leaves_the_end_to_the_manager() -> None:
    manager = manager_of(Source())
    old, new = Sink(taking(4)), Sink()
    manager.register(spec(interval_s=10), old)
    async with running(manager):
        await anyio.sleep(1)
        with anyio.move_on_after(1):
            await manager.exchange(["scc"], [(spec(), new)])
        assert manager.has("scc")
    assert (old.closed, new.starts) == (1, [])


async def test_exchange_that_is_cancelled_amid_a_close_that_hangs_ends_that_too() -> None:
    manager = manager_of(Source())
    old = Sink()
    old.aclose = anyio.sleep_forever  # type: ignore[method-assign]
    manager.register(spec(), old)
    async with running(manager):
        await anyio.sleep(1)
        with anyio.move_on_after(0.5):
            await manager.exchange(["scc"], [])
    assert anyio.current_time() < 4


async def test_exchange_before_the_manager_runs_is_as_good() -> None:
    manager = manager_of(Source())
    old, new = Sink(), Sink()
    manager.register(spec(), old)
    await manager.exchange(["scc"], [(spec(), new)])
    assert old.closed == 1
    async with running(manager):
        await anyio.sleep(1)
    assert (old.starts, new.starts) == ([], [0.0])


@pytest.mark.parametrize(
    ("after_s", "interval_s", "starts"),
    [
        (25, 5, [0.0, 10.0, 20.0, 25.0, 30.0]),
        (21, 30, [0.0, 10.0, 20.0, 50.0, 80.0]),
        (29, 4, [0.0, 10.0, 20.0, 32.0, 36.0]),
        (20.5, 1, [0.0, 10.0, 20.0, 21.0, 22.0]),
        (25, 10, [0.0, 10.0, 20.0, 30.0, 40.0]),
    ],
)
async def test_interval_that_changes_moves_the_grid_without_a_burst(
    after_s: float, interval_s: float, starts: list[float]
) -> None:
    manager = manager_of(Source())
    sink = Sink()
    manager.register(spec(interval_s=10), sink)
    async with running(manager):
        await anyio.sleep(after_s)
        manager.reschedule(spec(interval_s=interval_s))
        status = manager.status("scc")
        assert status.interval_s == interval_s
        assert status.next_run_in_s == starts[3] - after_s
        await anyio.sleep(starts[-1] - after_s + 0.1)
        assert sink.starts == starts
        assert manager.stats()["scc"].runs["success"] == 5
        assert manager.stats()["scc"].skipped_ticks == {}


async def test_interval_that_changes_leaves_a_run_alone() -> None:
    manager = manager_of(Source())
    sink = Sink(taking(4))
    manager.register(spec(interval_s=60), sink)
    async with running(manager):
        await anyio.sleep(1)
        manager.reschedule(spec(interval_s=10, timeout_s=1))
        await anyio.sleep(8)
        assert manager.status("scc").state is ExporterState.IDLE
        assert manager.stats()["scc"].runs["success"] == 1
        await anyio.sleep(3)
        # The next one has the new timeout.
        assert manager.status("scc").last_error_reason == "timeout"
        assert sink.starts[:2] == [0.0, 10.0]


async def test_interval_that_changes_leaves_a_pending_retry_as_it_is() -> None:
    manager = manager_of(Source())
    error = RetryableError(Reason.THROTTLED, "busy", retry_after_s=20)
    sink = Sink(failing(error))
    manager.register(spec(interval_s=60, timeout_s=2), sink)
    async with running(manager):
        await anyio.sleep(1)
        assert manager.status("scc").state is ExporterState.BACKOFF
        manager.reschedule(spec(interval_s=300, timeout_s=2))
        assert manager.status("scc").state is ExporterState.BACKOFF
        await anyio.sleep(25)
        assert [context.attempt for context in sink.contexts] == [1, 2]
        assert 20 <= sink.starts[1] <= 22
        assert manager.stats()["scc"].retries == {"throttled": 1}
        assert manager.status("scc").next_run_in_s == 300 - 26


async def test_interval_that_changes_keeps_failures_and_the_breaker() -> None:
    manager = manager_of(Source())
    sink = Sink(always(CONNECT))
    manager.register(spec(interval_s=60), sink)
    async with running(manager):
        await anyio.sleep(60 * 5 - 1)
        failed = manager.status("scc").consecutive_failures
        assert failed >= 4
        attempts = len(sink.starts)
        manager.reschedule(spec(interval_s=100))
        await anyio.sleep(60 * 4 + 1 + 99)
        assert manager.status("scc").consecutive_failures == failed + 3
        assert len(sink.starts) == attempts + 3


async def test_splay_of_the_new_interval_holds() -> None:
    manager = manager_of(Source())
    sink = Sink()
    manager.register(spec(interval_s=60, splay_max_s=600), sink)
    async with running(manager):
        await anyio.sleep(200)
        manager.reschedule(spec(interval_s=600, splay_max_s=600))
        await anyio.sleep(6000)
    fresh = Sink()
    manager = manager_of(Source())
    manager.register(spec(interval_s=600, splay_max_s=600), fresh)
    async with running(manager):
        began_s = anyio.current_time()
        await anyio.sleep(3000)
        offset_s = (fresh.starts[1] - began_s) % 600
    gaps = [later - earlier for earlier, later in pairwise(sink.starts[-8:])]
    assert gaps == pytest.approx([600.0] * 7)
    # Counted from a slot of the old grid, whatever its number.
    assert (sink.starts[-1] - offset_s) % 60 == pytest.approx(0, abs=1e-6) or (
        sink.starts[-1] - offset_s
    ) % 60 == pytest.approx(60, abs=1e-6)


async def test_stopped_exporter_stays_stopped_and_starts_with_the_new_interval() -> None:
    manager = manager_of(Source())
    sink = Sink()
    manager.register(spec("by-hand", interval_s=10), sink)
    manager.register(spec("other"), Sink())
    async with running(manager):
        await anyio.sleep(1)
        await manager.stop("by-hand")
        manager.reschedule(spec("by-hand", interval_s=20))
        await manager.exchange(["other"], [(spec("other"), Sink())])
        await anyio.sleep(60)
        assert manager.status("by-hand").state is ExporterState.STOPPED
        assert sink.starts == [0.0]
        manager.start("by-hand")
        await anyio.sleep(25)
        assert sink.starts == [0.0, 61.0, 81.0]


async def test_disabled_exporter_is_rescheduled_and_never_runs() -> None:
    manager = manager_of(Source())
    sink = Sink()
    manager.register(spec(enabled=False), sink)
    async with running(manager):
        manager.reschedule(spec(enabled=False, interval_s=1))
        await anyio.sleep(10)
        status = manager.status("scc")
        assert (status.state, status.interval_s, sink.starts) == (ExporterState.DISABLED, 1, [])


async def test_interval_that_changes_while_the_source_is_awaited_is_used_from_the_start() -> None:
    source = Source(ready=False)
    manager = manager_of(source)
    sink = Sink()
    manager.register(spec(interval_s=60), sink)
    async with running(manager):
        await anyio.sleep(5)
        manager.reschedule(spec(interval_s=7))
        source.wait_for()
        await anyio.sleep(15)
        assert sink.starts == [5.0, 12.0, 19.0]


async def test_more_than_the_schedule_cannot_change_in_place() -> None:
    manager = manager_of(Source())
    manager.register(spec(), Sink())
    with pytest.raises(ManagerError, match="in place"):
        manager.reschedule(spec(interval_s=30, retry_cap_s=29))
    with pytest.raises(ManagerError, match="no exporter 'other'"):
        manager.reschedule(spec("other"))
    assert manager.status("scc").interval_s == spec().interval_s
    assert spec().render is render
