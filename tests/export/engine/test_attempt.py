"""What a sink does wrong stays with it: its run fails, and no other notices."""

import asyncio
import copy
import gc
import threading
import tracemalloc
from itertools import pairwise
from random import Random
from typing import Any

import anyio
import pytest

from telemetryd.errors import (
    PermanentError,
    Reason,
    RetryableError,
)
from telemetryd.export.exporter import ExportContext, Outcome
from telemetryd.model import Delivery, ExporterState, Payload, Snapshot
from tests.export.doubles import (
    EPOCH_S,
    Sink,
    Source,
    always,
    failing,
    hang,
    ignoring_cancellation,
    manager_of,
    render,
    run_for,
    running,
    spec,
)
from tests.support.virtualtime import VirtualTimeLoop

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return ("asyncio", {"loop_factory": VirtualTimeLoop})


async def test_hanging_sink_is_cut_off_at_its_timeout() -> None:
    sink = Sink(hang)
    status, stats = await run_for(59, sink, interval_s=60, timeout_s=5, retry_budget_s=0)
    assert sink.starts == [0.0]
    assert (status.last_error_reason, status.last_error) == ("timeout", "no answer within 5 s")
    assert stats.attempts["failure", "timeout"] == 1
    assert stats.in_flight == 0


async def test_unexpected_exception_is_internal_and_logged_with_its_traceback_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sink = Sink(always(ZeroDivisionError("division by zero")))
    status, stats = await run_for(125, sink)
    assert (status.state, status.last_error_reason) == (ExporterState.FAILED, "internal")
    assert status.last_error == "ZeroDivisionError: division by zero"
    assert len(sink.starts) == 3
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError
    assert stats.attempts["failure", "internal"] == 3


async def test_reasons_that_take_turns_are_logged_once_each(
    caplog: pytest.LogCaptureFixture,
) -> None:
    errors = [
        PermanentError(reason, "no") for reason in (Reason.FORBIDDEN, Reason.OVERSIZE) for _ in "ab"
    ]
    sink = Sink(failing(*errors[::2], *errors[1::2], *errors))
    await run_for(450, sink)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert len(sink.starts) == 8


async def test_render_that_fails_is_internal_and_reaches_no_sink() -> None:
    def broken(snapshot: Snapshot, delivery: Delivery) -> Payload:
        raise PermanentError(Reason.INTERNAL, "doesn't fit its schema")

    sink = Sink()
    manager = manager_of(Source())
    manager.register(
        type(spec())(name="scc", type="test", render=broken, verifies_destination=True), sink
    )
    async with running(manager):
        await anyio.sleep(61)
        status = manager.status("scc")
    assert (status.state, status.last_error_reason) == (ExporterState.FAILED, "internal")
    assert sink.starts == []


async def test_deviation_from_the_schema_is_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def deviant(snapshot: Snapshot, delivery: Delivery) -> Payload:
        good = render(snapshot, delivery)
        return Payload(
            good.body, good.content_type, good.digest, good.revision, False, "version 'dev'"
        )

    sink = Sink()
    manager = manager_of(Source())
    manager.register(
        type(spec())(name="scc", type="test", render=deviant, verifies_destination=True), sink
    )
    async with running(manager):
        await anyio.sleep(200)
        assert manager.status("scc").schema_valid is False
    assert len(sink.starts) == 4
    assert len(caplog.records) == 1


async def leak_cancelled_error(payload: Payload, context: ExportContext) -> Outcome:
    raise asyncio.CancelledError


async def cancel_itself(payload: Payload, context: ExportContext) -> Outcome:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    return Outcome.WRITTEN


async def exit_process(payload: Payload, context: ExportContext) -> Outcome:
    raise SystemExit(3)


async def leak_group(payload: Payload, context: ExportContext) -> Outcome:
    raise BaseExceptionGroup("several", [asyncio.CancelledError(), ValueError()])


async def return_nonsense(payload: Payload, context: ExportContext) -> Outcome:
    return None  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("behave", "reason"),
    [
        (leak_cancelled_error, "internal"),
        (exit_process, "internal"),
        (leak_group, "internal"),
        (return_nonsense, "internal"),
        (always(TimeoutError("slow")), "timeout"),
        (cancel_itself, ""),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
async def test_sink_that_misbehaves_harms_itself_alone(behave: Any, reason: str) -> None:
    manager = manager_of(Source())
    odd, healthy = Sink(behave), Sink()
    manager.register(spec("odd", interval_s=10, retry_budget_s=0), odd)
    manager.register(spec("healthy", interval_s=10), healthy)
    async with running(manager):
        await anyio.sleep(35)
        assert healthy.starts == [0.0, 10.0, 20.0, 30.0]
        assert odd.starts == [0.0, 10.0, 20.0, 30.0]
        assert manager.status("odd").last_error_reason == reason


async def test_sink_that_ignores_its_cancellation_is_named_and_never_doubled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sink = Sink(ignoring_cancellation(25))
    manager = manager_of(Source())
    manager.register(spec(interval_s=10, timeout_s=2), sink)
    async with running(manager):
        await anyio.sleep(5)
        status, stats = manager.status("scc"), manager.stats()["scc"]
        assert (status.state, status.last_error_reason) == (ExporterState.FAILED, "timeout")
        assert stats.in_flight == 1
        await anyio.sleep(23)
        assert stats.in_flight == 0
        assert stats.skipped_ticks["overrun"] == 2
        sink.behave = None
        await anyio.sleep(5)
        assert sink.starts == [0.0, 30.0]
        assert manager.status("scc").state is ExporterState.IDLE
    assert sink.most_in_flight == 1
    messages = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert messages == ["exporter ignores its cancellation exporter=scc run=scc#1"]


async def test_stopping_a_stray_returns_in_time_and_its_next_start_never_overlaps() -> None:
    sink = Sink(ignoring_cancellation(50))
    manager = manager_of(Source(), drain_timeout_s=3)
    manager.register(spec(interval_s=10, timeout_s=2), sink)
    async with running(manager):
        await anyio.sleep(1)
        await manager.stop("scc")
        assert anyio.current_time() < 5
        manager.start("scc")
        await anyio.sleep(40)
        assert sink.most_in_flight == 1
        assert len(sink.starts) == 1
        sink.behave = None
        await anyio.sleep(20)
        assert len(sink.starts) == 2


@pytest.mark.parametrize("number", [40, pytest.param(200, marks=pytest.mark.long)])
async def test_many_exporters_run_beside_three_that_misbehave(number: int) -> None:
    manager = manager_of(Source())
    sinks = {f"e{n:03}": Sink() for n in range(number)}
    for name, sink in sinks.items():
        manager.register(spec(name, interval_s=1), sink)
    odd = {
        "hanging": Sink(hang),
        "raising": Sink(always(ValueError("odd"))),
        "ignoring": Sink(ignoring_cancellation(5.1)),  # its end and a slot never coincide
    }
    for name, sink in odd.items():
        manager.register(spec(name, interval_s=1), sink)
    threads = threading.active_count()
    async with running(manager):
        await anyio.sleep(30.5)
        for sink in sinks.values():
            assert sink.starts == [float(n) for n in range(31)]
            assert sink.most_in_flight == 1
        assert all(sink.most_in_flight == 1 for sink in odd.values())
        # The stubborn one is called again at the first slot after each of its ends.
        assert odd["ignoring"].starts == [0.0, 6.0, 12.0, 18.0, 24.0, 30.0]
        assert len(odd["raising"].starts) == 31
        assert odd["hanging"].starts == [float(n) for n in range(31)]
        assert threading.active_count() <= threads  # another test's may end late


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 3))])
async def test_a_day_of_random_failures_keeps_every_promise(seed: int) -> None:  # noqa: C901
    """24 hours of failures, Retry-After, hangs, suspends and clock steps; then all is well."""
    rng = Random(seed)
    asleep, stepped = [0.0], [0.0]
    not_before = {"a": 0.0, "b": 0.0, "c": 0.0}
    early: list[tuple[str, float]] = []

    def moody(name: str) -> Sink:
        async def behave(payload: Payload, context: ExportContext) -> Outcome:
            if anyio.current_time() + asleep[0] < not_before[name]:
                early.append((name, anyio.current_time()))
            await anyio.sleep(rng.uniform(0, 3))
            match rng.randrange(8):
                case 0:
                    raise RetryableError(Reason.CONNECT, "refused")
                case 1:
                    asked_s = rng.choice((1.0, 30.0, 300.0, 5000.0))
                    not_before[name] = anyio.current_time() + asleep[0] + min(asked_s, 600.0)
                    raise RetryableError(Reason.THROTTLED, "busy", retry_after_s=asked_s)
                case 2:
                    raise PermanentError(Reason.REJECTED, "no")
                case 3:
                    raise KeyError(name)
                case 4:
                    await anyio.sleep_forever()
            return Outcome.WRITTEN

        return Sink(behave)

    manager = manager_of(
        Source(),
        suspended_s=lambda: asleep[0],
        now=lambda: EPOCH_S + anyio.current_time() + stepped[0],
    )
    sinks = {name: moody(name) for name in not_before}
    manager.register(spec("a", interval_s=60, jitter=0.1), sinks["a"])
    manager.register(spec("b", interval_s=10, splay_max_s=5), sinks["b"])
    manager.register(spec("c", interval_s=1800), sinks["c"])
    async with running(manager):
        for _ in range(24):
            await anyio.sleep(3000 + rng.uniform(0, 600))
            asleep[0] += rng.choice((0.0, 5.0, 900.0))
            stepped[0] += rng.choice((0.0, -3600.0, 3600.0))
            for name, sink in sinks.items():
                status, stats = manager.status(name), manager.stats()[name]
                assert stats.in_flight == sink.in_flight
                assert status.consecutive_failures <= stats.runs["failure"]
                if status.state not in {ExporterState.RUNNING, ExporterState.BACKOFF}:
                    assert status.next_run_in_s is not None
                    assert status.next_run_in_s <= max(status.interval_s * 1.5, 660)
        totals = copy.deepcopy(manager.stats())
        for sink in sinks.values():
            sink.behave = None
        await anyio.sleep(2 * 1800 + 660)
        for name in sinks:
            assert manager.status(name).state is ExporterState.IDLE, "it runs again once healed"
            assert manager.stats()[name].runs["success"] > totals[name].runs["success"]
    assert early == []
    for name, interval_s in (("a", 60.0), ("b", 10.0), ("c", 1800.0)):
        assert sinks[name].most_in_flight == 1
        runs, attempts = totals[name].runs, totals[name].attempts
        assert runs["success"] > 0
        assert runs["failure"] > 0
        made = runs["success"] + runs["failure"]
        assert made <= 24 * 3600 / interval_s * 1.1 + 30
        assert sum(attempts.values()) == made + sum(totals[name].retries.values())
        # Each pause between two attempts is half a second at least, within the budget of the run.
        assert max(context.attempt for context in sinks[name].contexts) <= 300 / 0.5 + 1
        first_attempts = [
            start
            for start, context in zip(sinks[name].starts, sinks[name].contexts, strict=True)
            if context.attempt == 1
        ]
        gaps = [later - earlier for earlier, later in pairwise(first_attempts)]
        assert sum(gap < interval_s * 0.49 for gap in gaps) <= 24 + runs["failure"] // 2


@pytest.mark.parametrize("number", [200, pytest.param(1000, marks=pytest.mark.long)])
async def test_many_exporters_stay_small_and_on_time(number: int) -> None:
    manager = manager_of(Source())
    sinks = [Sink() for _ in range(number)]
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for each, sink in enumerate(sinks):
            manager.register(spec(f"e{each}", interval_s=60), sink)
        async with running(manager):
            await anyio.sleep(30)
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
            assert (after - before) / len(sinks) < 15_000
    finally:
        tracemalloc.stop()
    assert all(sink.starts == [0.0] for sink in sinks)
