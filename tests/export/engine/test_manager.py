"""Registering, starting, stopping and the state of exporters, on virtual time.

The end is bounded and orderly, with a last attempt where something is unsent.
"""

import asyncio
import inspect
from typing import Any

import anyio
import pytest

from telemetryd.errors import ConflictError, ManagerError, PermanentError, Reason, RetryableError
from telemetryd.export.exporter import ExportContext, Outcome
from telemetryd.model import ExporterState, Payload
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


async def test_exporters_registered_before_run_all_run_at_once() -> None:
    """Upstream's table: two exporters, not running before start, both exporting within 1 s."""
    manager = manager_of(Source())
    sinks = {"a1": Sink(), "a2": Sink()}
    manager.register(spec("a1", interval_s=0.010), sinks["a1"])
    manager.register(spec("a2", interval_s=0.005), sinks["a2"])
    assert [status.state for status in manager.statuses()] == [ExporterState.WAITING] * 2
    assert manager.status("a1").detail == "the manager to run"
    async with running(manager):
        await anyio.sleep(1)
        assert [status.state for status in manager.statuses()] == [ExporterState.IDLE] * 2
        assert len(sinks["a1"].starts) == pytest.approx(100, abs=1)
        assert len(sinks["a2"].starts) == pytest.approx(200, abs=1)
        assert sinks["a1"].starts[0] == 0.0


async def test_register_and_unregister_while_running_take_effect_at_once() -> None:
    manager = manager_of(Source())
    async with running(manager):
        sinks = {f"a{n}": Sink() for n in range(3, 10)}
        for name, sink in sinks.items():
            manager.register(spec(name, interval_s=3600), sink)
        await anyio.sleep(1)
        assert all(len(sink.starts) == 1 for sink in sinks.values())
        assert all(manager.has(name) for name in sinks)
        async with anyio.create_task_group() as group:
            for name in sinks:
                group.start_soon(manager.unregister, name)
        assert not any(manager.has(name) for name in sinks)
        assert all(sink.closed == 1 for sink in sinks.values())


async def test_register_and_unregister_race_with_the_end_without_harm() -> None:
    manager = manager_of(Source())
    sinks = [Sink() for _ in range(7)]
    async with running(manager) as group:
        for number, sink in enumerate(sinks):
            manager.register(spec(f"a{number}", interval_s=3600), sink)
            if number % 2:
                group.start_soon(manager.unregister, f"a{number}")
    assert {sink.closed for sink in sinks} == {1}


async def test_second_registration_of_a_name_is_refused() -> None:
    manager = manager_of(Source())
    manager.register(spec("scc"), Sink())
    with pytest.raises(ManagerError, match="'scc' is registered already"):
        manager.register(spec("scc"), Sink())


@pytest.mark.parametrize(
    "operation", ["unregister", "status", "start", "stop", "restart", "trigger"]
)
async def test_unknown_name_is_refused_by_every_operation(operation: str) -> None:
    manager = manager_of(Source())
    assert not manager.has("scc")

    async def call() -> None:
        result = getattr(manager, operation)("scc")
        if inspect.isawaitable(result):
            await result

    with pytest.raises(ManagerError, match="no exporter 'scc'"):
        await call()


@pytest.mark.parametrize(
    "changes",
    [
        {"interval_s": 0.0},
        {"interval_s": -1.0},
        {"interval_s": float("inf")},
        {"interval_s": 10.0, "timeout_s": 10.0},
        {"retry_base_s": 31.0},
        {"jitter": 0.6},
        {"splay_max_s": -1.0},
        {"name": ""},
    ],
)
async def test_spec_that_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="exporter"):
        spec(**changes)


async def test_second_run_is_refused_while_it_runs() -> None:
    manager = manager_of(Source())
    async with running(manager):
        with pytest.raises(ManagerError, match="runs already"):
            await manager.run()


async def test_exporter_waits_for_the_source_and_names_what_for() -> None:
    source = Source(ready=False)
    manager = manager_of(source)
    sink = Sink()
    manager.register(spec(), sink)
    async with running(manager):
        await anyio.sleep(100)
        status = manager.status("scc")
        assert (status.state, status.detail) == (ExporterState.WAITING, "informer nodes")
        assert status.next_run_in_s is None
        assert not sink.starts
        source.wait_for()
        await anyio.sleep(1)
        assert sink.starts == [100.0]
        status = manager.status("scc")
        assert (status.state, status.detail) == (ExporterState.IDLE, "")
        assert status.next_run_in_s == pytest.approx(59)


async def test_source_that_is_lost_is_waited_for_again() -> None:
    source = Source()
    manager = manager_of(source)
    sink = Sink()
    manager.register(spec(interval_s=10), sink)
    async with running(manager):
        await anyio.sleep(1)
        source.wait_for("setting install-uuid")
        await anyio.sleep(34)
        status = manager.status("scc")
        assert (status.state, status.detail) == (ExporterState.WAITING, "setting install-uuid")
        assert sink.starts == [0.0]
        source.wait_for()
        await anyio.sleep(10)
        assert sink.starts == [0.0, 35.0, 40.0]
        stats = manager.stats()["scc"]
        assert stats.skipped_ticks == {"not_ready": 2}
        assert stats.runs["skipped"] == 2


async def test_source_that_fails_is_asked_again_and_harms_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = Source()
    source.error = RuntimeError("broken")
    manager = manager_of(source)
    sink = Sink()
    manager.register(spec(), sink)
    async with running(manager):
        await anyio.sleep(60)
        assert manager.status("scc").detail == "a snapshot, which fails with RuntimeError"
        source.error = None
        await anyio.sleep(10)
        assert len(sink.starts) == 1
    assert [record.message for record in caplog.records].count(
        "snapshot source failed error=RuntimeError('broken')"
    ) == 1


async def test_status_tells_the_truth_in_every_state() -> None:
    manager = manager_of(Source())
    sink = Sink(taking(2))
    manager.register(spec(interval_s=10, timeout_s=5), sink)
    async with running(manager):
        await anyio.sleep(1)
        status = manager.status("scc")
        assert status.state is ExporterState.RUNNING
        assert status.last_attempt_at == EPOCH_S
        assert status.last_success_at is None
        assert status.next_run_in_s == pytest.approx(9)
        assert manager.stats()["scc"].in_flight == 1
        await anyio.sleep(2)
        status = manager.status("scc")
        assert status.state is ExporterState.IDLE
        assert status.last_success_at == EPOCH_S + 2
        assert status.digest == "digest-1"
        assert status.payload_bytes == len(sink.payloads[0].body)
        assert status.schema_valid is True
        assert manager.stats()["scc"].in_flight == 0
        sink.behave = always(RetryableError(Reason.CONNECT, "refused"))
        await anyio.sleep(7.1)
        status = manager.status("scc")
        assert status.state is ExporterState.BACKOFF
        assert (status.last_error, status.last_error_reason) == ("refused", "connect")
        await anyio.sleep(6)
        status = manager.status("scc")
        assert (status.state, status.consecutive_failures) == (ExporterState.FAILED, 1)
        sink.behave = always(ConflictError(Reason.FIELD_CONFLICT, "owned by rancher"))
        await anyio.sleep(7)
        status = manager.status("scc")
        assert (status.state, status.detail) == (ExporterState.CONFLICT, "owned by rancher")
        sink.behave = None
        await anyio.sleep(10)
        status = manager.status("scc")
        assert (status.state, status.consecutive_failures) == (ExporterState.IDLE, 0)
        assert (status.last_error, status.last_error_reason) == ("", "")
        await manager.stop("scc")
        assert manager.status("scc").state is ExporterState.STOPPED
    assert manager.status("scc").state is ExporterState.STOPPED


async def test_stop_is_idempotent_and_start_after_stop_works() -> None:
    manager = manager_of(Source())
    sink = Sink()
    manager.register(spec(interval_s=10), sink)
    async with running(manager):
        await anyio.sleep(1)
        await manager.stop("scc")
        await manager.stop("scc")
        await anyio.sleep(100)
        assert len(sink.starts) == 1
        assert manager.status("scc").next_run_in_s is None
        manager.start("scc")
        manager.start("scc")
        await anyio.sleep(1)
        assert sink.starts == [0.0, 101.0]
        assert manager.status("scc").state is ExporterState.IDLE
        assert sink.closed == 0
    assert sink.closed == 1


async def test_stop_before_run_holds_the_exporter_back() -> None:
    manager = manager_of(Source())
    sinks = Sink(), Sink()
    manager.register(spec("held"), sinks[0])
    manager.register(spec("let-go"), sinks[1])
    await manager.stop("held")
    await manager.stop("let-go")
    assert manager.status("held").state is ExporterState.STOPPED
    manager.start("let-go")
    async with running(manager):
        await anyio.sleep(1)
        assert [len(sink.starts) for sink in sinks] == [0, 1]


async def test_run_after_run_works_with_exporters_registered_again() -> None:
    manager = manager_of(Source())
    manager.register(spec(), Sink())
    async with running(manager):
        await anyio.sleep(1)
    with pytest.raises(ManagerError, match="closed"):
        manager.start("scc")
    await manager.unregister("scc")
    sink = Sink()
    manager.register(spec(), sink)
    async with running(manager):
        await anyio.sleep(1)
        assert len(sink.starts) == 1


async def test_unregister_before_run_closes_the_exporter() -> None:
    manager = manager_of(Source())
    sink = Sink()
    manager.register(spec(), sink)
    await manager.unregister("scc")
    assert sink.closed == 1
    assert not manager.has("scc")


async def test_unregister_during_a_run_lets_it_end_first() -> None:
    manager = manager_of(Source())
    sink = Sink(taking(3))
    manager.register(spec(), sink)
    async with running(manager):
        await anyio.sleep(1)
        async with anyio.create_task_group() as group:
            group.start_soon(manager.unregister, "scc")
            await anyio.sleep(1)
            assert manager.status("scc").state is ExporterState.STOPPING
            with pytest.raises(ManagerError, match="registered already"):
                manager.register(spec(), Sink())
            with pytest.raises(ManagerError, match="being unregistered"):
                await manager.unregister("scc")
            for refused in (manager.trigger, manager.start):
                with pytest.raises(ManagerError, match="stopping"):
                    refused("scc")
        assert anyio.current_time() == pytest.approx(3)
        assert (len(sink.starts), sink.in_flight, sink.closed) == (1, 0, 1)


async def test_unregister_that_is_cancelled_can_be_made_again() -> None:
    manager = manager_of(Source())
    manager.register(spec(), Sink(taking(9)))
    async with running(manager):
        await anyio.sleep(1)
        with anyio.move_on_after(1):
            await manager.unregister("scc")
        assert manager.has("scc")
        await manager.unregister("scc")
        assert not manager.has("scc")


async def test_restart_makes_a_first_run_again() -> None:
    manager = manager_of(Source())
    sink = Sink()
    manager.register(spec(interval_s=60), sink)
    async with running(manager):
        await anyio.sleep(7)
        await manager.restart("scc")
        await anyio.sleep(61)
        assert sink.starts == [0.0, 7.0, 67.0]


async def test_disabled_exporter_is_listed_and_never_runs() -> None:
    manager = manager_of(Source())
    sink = Sink()
    manager.register(spec(enabled=False), sink)
    async with running(manager):
        await anyio.sleep(120)
        status = manager.status("scc")
        assert (status.state, status.enabled) == (ExporterState.DISABLED, False)
        for refused in (manager.start, manager.trigger):
            with pytest.raises(ManagerError, match="disabled"):
                refused("scc")
        await manager.stop("scc")
        assert manager.status("scc").state is ExporterState.DISABLED
    assert (sink.starts, sink.closed) == ([], 1)


async def test_trigger_runs_at_once_and_leaves_the_grid_alone() -> None:
    manager = manager_of(Source())
    sink = Sink()
    manager.register(spec(interval_s=60), sink)
    async with running(manager):
        await anyio.sleep(20)
        assert manager.trigger("scc") == "scc#2"
        await anyio.sleep(45)
        assert sink.starts == [0.0, 20.0, 60.0]


async def test_triggers_during_a_run_make_one_more_run() -> None:
    manager = manager_of(Source())
    sink = Sink(taking(4))
    manager.register(spec(interval_s=60), sink)
    async with running(manager):
        await anyio.sleep(1)
        assert {manager.trigger("scc") for _ in range(5)} == {"scc#2"}
        await anyio.sleep(30)
        assert sink.starts == [0.0, 4.0]
        assert sink.most_in_flight == 1


async def test_trigger_of_a_stopped_exporter_is_refused() -> None:
    manager = manager_of(Source())
    manager.register(spec(), Sink())
    await manager.stop("scc")
    with pytest.raises(ManagerError, match="is stopped"):
        manager.trigger("scc")


async def test_trigger_before_run_names_the_first_run() -> None:
    manager = manager_of(Source())
    sink = Sink()
    manager.register(spec(), sink)
    assert manager.trigger("scc") == "scc#1"
    async with running(manager):
        await anyio.sleep(1)
        assert sink.starts == [0.0]


async def test_fault_of_an_exporters_own_task_harms_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    faults = [OSError("no clock")]

    def suspended_s() -> float:
        if faults:
            raise faults.pop()
        return 0.0

    manager = manager_of(Source(), suspended_s=suspended_s)
    first, second = Sink(), Sink()
    manager.register(spec("first", interval_s=10), first)
    manager.register(spec("second", interval_s=10), second)
    async with running(manager):
        await anyio.sleep(5)
        status = manager.status("first")
        assert (status.state, status.last_error_reason) == (ExporterState.FAILED, "")
        await anyio.sleep(10)
        assert (first.starts, second.starts) == ([10.0], [0.0, 10.0])
        assert manager.status("first").state is ExporterState.IDLE
    assert "exporter task failed exporter=first" in [record.message for record in caplog.records]


async def test_payload_is_the_one_written_last_until_its_content_changes() -> None:
    outcomes = [Outcome.WRITTEN, Outcome.UNCHANGED, Outcome.WRITTEN]

    async def behave(payload: Payload, context: ExportContext) -> Outcome:
        return outcomes.pop(0)

    manager = manager_of(Source())
    manager.register(spec(interval_s=60.0), Sink(behave))
    assert manager.payload("scc") is None
    async with running(manager):
        shown = []
        for _ in range(3):
            await anyio.sleep(1)
            payload = manager.payload("scc")
            assert payload is not None
            shown.append(payload.body)
            await anyio.sleep(59)
    first, third = (f"revision 1 at {EPOCH_S + seconds}".encode() for seconds in (0, 120))
    assert shown == [first, first, third]


async def test_payload_that_fails_is_shown_while_it_is_being_tried() -> None:
    source = Source()
    manager = manager_of(source)
    fails = RetryableError(Reason.CONNECT, "no route")
    manager.register(spec(interval_s=60.0), Sink(always(fails)))
    async with running(manager):
        await anyio.sleep(1)
        source.change()
        await anyio.sleep(60)
        payload = manager.payload("scc")
    assert payload is not None
    assert payload.revision == 2


def test_payload_of_an_unknown_exporter_is_refused() -> None:
    with pytest.raises(ManagerError, match="there is no exporter 'other'"):
        manager_of(Source()).payload("other")


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
