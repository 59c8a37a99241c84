"""Slots, runs and attempts of one exporter, on virtual time."""

from itertools import pairwise
from random import Random
from typing import Any

import anyio
import pytest

from telemetryd.errors import (
    ConflictError,
    ExportError,
    PermanentError,
    Reason,
    RetryableError,
)
from telemetryd.export.exporter import ExportContext, ExporterSpec, Outcome
from telemetryd.model import Delivery, ExporterState, Payload, Snapshot
from tests.export.doubles import (
    EPOCH_S,
    INSTALL_UUID,
    Sink,
    Source,
    always,
    failing,
    ignoring_cancellation,
    manager_of,
    render,
    run_for,
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


async def test_runs_fall_on_the_grid_forever() -> None:
    sink = Sink(taking(0.3))
    await run_for(10_000.5, sink, interval_s=10)
    assert sink.starts == [10.0 * n for n in range(1001)]


async def test_splay_moves_the_grid_and_not_the_first_run() -> None:
    sink = Sink()
    await run_for(3000, sink, interval_s=600, splay_max_s=300)
    assert sink.starts[0] == 0.0
    offset_s = sink.starts[1] % 600
    assert 0 < offset_s < 300
    assert [start % 600 for start in sink.starts[1:]] == pytest.approx([offset_s] * 4)


async def test_initial_delay_puts_off_the_first_run_only() -> None:
    sink = Sink()
    await run_for(300, sink, interval_s=60, initial_delay_max_s=30)
    assert 0 < sink.starts[0] < 30
    assert sink.starts[1:] == [60.0, 120.0, 180.0, 240.0]


async def test_jitter_delays_runs_within_its_bound_and_moves_no_slot() -> None:
    sink = Sink()
    await run_for(60_000, sink, interval_s=60, jitter=0.1)
    delays = [start - 60 * n for n, start in enumerate(sink.starts)]
    assert len(sink.starts) == 1000
    assert all(0 <= delay < 6 for delay in delays)
    assert max(delays) > 5


async def test_slots_missed_by_a_long_run_are_skipped_and_counted() -> None:
    sink = Sink(ignoring_cancellation(35))
    _, stats = await run_for(45, sink, interval_s=10, timeout_s=9)
    assert sink.starts == [0.0, 40.0]
    # Three slots found the sink at work still.
    assert stats.skipped_ticks == {"overrun": 3}
    assert sink.most_in_flight == 1


async def test_failed_attempts_are_repeated_within_the_budget() -> None:
    sink = Sink(always(CONNECT))
    status, stats = await run_for(59, sink, interval_s=60, timeout_s=10)
    assert 3 < len(sink.starts) < 40
    assert sink.starts[-1] <= 50
    gaps = [later - earlier for earlier, later in pairwise(sink.starts)]
    assert all(0 <= gap <= 30 for gap in gaps)
    assert status.state is ExporterState.FAILED
    assert stats.runs["failure"] == 1
    assert stats.attempts["failure", "connect"] == len(sink.starts)
    assert stats.retries["connect"] == len(sink.starts) - 1
    assert [context.attempt for context in sink.contexts[: len(gaps) + 1]] == list(
        range(1, len(gaps) + 2)
    )


async def test_attempt_that_succeeds_at_last_ends_the_run(caplog: pytest.LogCaptureFixture) -> None:
    sink = Sink(failing(CONNECT, CONNECT))
    status, stats = await run_for(50, sink)
    assert len(sink.starts) == 3
    assert status.state is ExporterState.IDLE
    assert stats.runs["success"] == 1
    assert stats.sent_bytes == len(sink.payloads[-1].body)
    assert caplog.records == []


@pytest.mark.parametrize(
    "error",
    [
        PermanentError(Reason.FORBIDDEN, "no"),
        PermanentError(Reason.AUTH, "who"),
        ExportError(Reason.REJECTED, "neither kind"),
    ],
    ids=lambda error: str(error.reason),
)
async def test_permanent_error_is_tried_again_at_the_next_slot_only(error: ExportError) -> None:
    sink = Sink(always(error))
    status, _ = await run_for(125, sink)
    assert sink.starts == [0.0, 60.0, 120.0]
    assert (status.state, status.last_error_reason) == (ExporterState.FAILED, error.reason)
    assert status.consecutive_failures == 3


async def test_conflict_is_a_state_of_its_own_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sink = Sink(failing(*[ConflictError(Reason.FIELD_CONFLICT, "owned by rancher")] * 3))
    caplog.set_level("INFO")
    status, _ = await run_for(185, sink)
    assert status.state is ExporterState.IDLE
    assert [record.message for record in caplog.records] == [
        "exporter conflict exporter=scc reason=field_conflict error='owned by rancher' run=scc#1",
        "exporter recovered exporter=scc failed_runs=3 run=scc#4",
    ]


async def test_retry_after_within_the_budget_is_waited_for() -> None:
    sink = Sink(failing(RetryableError(Reason.THROTTLED, "busy", retry_after_s=20)))
    await run_for(59, sink)
    assert len(sink.starts) == 2
    assert 20 <= sink.starts[1] <= 22


async def test_retry_after_beyond_the_budget_parks_the_exporter() -> None:
    sink = Sink(failing(RetryableError(Reason.THROTTLED, "busy", retry_after_s=200)))
    status, stats = await run_for(301, sink)
    assert 200 <= sink.starts[1] <= 220
    assert sink.starts[2:] in ([240.0, 300.0], [300.0])
    assert stats.skipped_ticks["retry_after"] == 3
    assert status.state is ExporterState.IDLE


async def test_retry_after_is_capped() -> None:
    sink = Sink(failing(RetryableError(Reason.THROTTLED, "busy", retry_after_s=1e9)))
    await run_for(661, sink, interval_s=60)
    assert 600 <= sink.starts[1] <= 660


async def test_retry_after_shorter_than_a_long_interval_doesnt_wait_for_the_slot() -> None:
    sink = Sink(failing(RetryableError(Reason.THROTTLED, "busy", retry_after_s=400)))
    await run_for(7300, sink, interval_s=3600)
    assert 400 <= sink.starts[1] <= 440
    assert sink.starts[2:] == [3600.0, 7200.0]


async def test_breaker_leaves_one_attempt_a_slot_until_success() -> None:
    sink = Sink(always(CONNECT))
    source = Source()
    manager = manager_of(source)
    manager.register(spec(), sink)
    async with running(manager):
        await anyio.sleep(175)
        before = len(sink.starts)
        assert before > 9
        await anyio.sleep(600)
        assert sink.starts[before:] == [180.0 + 60 * n for n in range(10)]
        sink.behave = failing()
        await anyio.sleep(30)
        await anyio.sleep(60)
        sink.behave = always(CONNECT)
        before = len(sink.starts)
        await anyio.sleep(59)
        assert len(sink.starts) - before > 3


async def test_trigger_resets_the_breaker() -> None:
    sink = Sink(always(CONNECT))
    manager = manager_of(Source())
    manager.register(spec(), sink)
    async with running(manager):
        await anyio.sleep(425)
        before = len(sink.starts)
        manager.trigger("scc")
        await anyio.sleep(50)
        assert len(sink.starts) - before > 2
        await manager.stop("scc")


async def test_each_attempt_uses_the_newest_snapshot() -> None:
    source = Source()

    async def fail_and_change(payload: Payload, context: ExportContext) -> Outcome:
        if payload.revision < 3:
            source.change()
            raise RetryableError(Reason.SERVER, "busy")
        return Outcome.WRITTEN

    sink = Sink(fail_and_change)
    _, stats = await run_for(50, sink, source)
    assert [payload.revision for payload in sink.payloads] == [1, 2, 3]
    assert stats.runs["superseded"] == 2
    assert stats.runs["success"] == 1


async def test_unchanged_digest_is_not_sent_again_before_max_silence() -> None:
    source = Source()
    sink = Sink()
    manager = manager_of(source)
    manager.register(spec(verifies_destination=False, max_silence_s=600), sink)
    async with running(manager):
        await anyio.sleep(1330)
        assert sink.starts == [0.0, 600.0, 1200.0]
        status, stats = manager.status("scc"), manager.stats()["scc"]
        assert status.last_success_at is not None
        assert (stats.runs["success"], stats.runs["unchanged"]) == (3, 20)
        assert stats.attempts["success", ""] == 3
        source.change()
        await anyio.sleep(60)
        assert sink.starts[3:] == [1380.0]


async def test_sink_that_verifies_is_called_at_every_slot() -> None:
    async def unchanged(payload: Payload, context: ExportContext) -> Outcome:
        return Outcome.UNCHANGED

    sink = Sink(unchanged)
    status, stats = await run_for(185, sink)
    assert len(sink.starts) == 4
    assert stats.runs["unchanged"] == 4
    assert stats.sent_bytes == 0
    assert status.state is ExporterState.IDLE


async def test_epoch_and_name_reach_the_sink() -> None:
    sink = Sink()
    await run_for(1, sink, epoch=lambda: 42)
    assert sink.contexts == [
        ExportContext("scc", 1, 42, INSTALL_UUID, int(EPOCH_S * 1000), collected_at=EPOCH_S)
    ]


async def test_suspend_makes_one_run_soon_after_and_skips_the_rest() -> None:
    sink = Sink()
    asleep = [0.0]
    manager = manager_of(Source(), suspended_s=lambda: asleep[0])
    manager.register(spec(interval_s=3600), sink)
    async with running(manager):
        await anyio.sleep(100)
        asleep[0] = 8 * 3600.0
        await anyio.sleep(7200)
        assert 100 < sink.starts[1] <= 120 + 30
        assert [sink.starts[0], *sink.starts[2:]] == [0.0, 3600.0, 7200.0]
        assert manager.stats()["scc"].skipped_ticks == {"suspend": 8}


async def test_clocks_that_disagree_a_little_are_no_suspend() -> None:
    sink = Sink()
    rng = Random(3)
    await run_for(7300, sink, interval_s=3600, suspended_s=lambda: rng.uniform(-0.4, 0.4))
    assert sink.starts == [0.0, 3600.0, 7200.0]


async def test_each_delivery_says_when_in_which_sequence_and_under_which_leadership() -> None:
    deliveries: list[Delivery] = []
    times = iter([EPOCH_S, EPOCH_S + 1, EPOCH_S - 3600, EPOCH_S - 3590, EPOCH_S + 60])
    now_s = EPOCH_S

    def note(snapshot: Snapshot, delivery: Delivery) -> Payload:
        nonlocal now_s
        deliveries.append(delivery)
        now_s = next(times, now_s)
        return render(snapshot, delivery)

    manager = manager_of(Source(), now=lambda: now_s, epoch=lambda: 4)
    manager.register(ExporterSpec("fleet", "test", note, interval_s=10), Sink())
    async with running(manager):
        await anyio.sleep(51)
        made = list(deliveries)
    first_ms = int(EPOCH_S * 1000)
    assert [delivery.sequence for delivery in made] == [
        first_ms,
        first_ms + 1,  # within the same millisecond
        first_ms + 1000,
        first_ms + 1001,  # the clock was set back
        first_ms + 1002,
        first_ms + 60_000,
    ]
    assert [delivery.at - EPOCH_S for delivery in made] == [0, 0, 1, -3600, -3590, 60]
    assert {delivery.epoch for delivery in made} == {4}
