"""The harness: an exporter is run by the real engine, with its timeouts, retries and fence."""

import asyncio
from typing import Any

import anyio
import pytest

from telemetryd.api import (
    ConflictError,
    ExporterState,
    ManagerError,
    Outcome,
    OutrankedError,
    PermanentError,
    Reason,
    RetryableError,
)
from telemetryd.api.testing import FakeSource, driving, make_snapshot
from tests.export.doubles import Sink, always, failing, hang

pytestmark = pytest.mark.anyio

REFUSED = RetryableError(Reason.CONNECT, "nothing listens")


async def test_run_delivers_the_snapshot_and_says_so() -> None:
    sink = Sink()
    async with driving(sink) as drive:
        status = await drive.run()
        assert (status.state, status.last_error) == (ExporterState.IDLE, "")
        (call,) = drive.calls
        assert (call.outcome, call.error) == (Outcome.WRITTEN, None)
        assert call.payload.body in [each.body for each in sink.payloads]
        assert not drive.closed
    assert (drive.closed, sink.closed) == (1, 1)


async def test_content_that_was_delivered_is_not_given_again_until_it_changes() -> None:
    async with driving(Sink()) as drive:
        await drive.run()
        await drive.run()
        assert len(drive.calls) == 1
        drive.source.change()
        await drive.run()
        first, second = drive.calls
        assert second.payload.digest != first.payload.digest
        assert second.context.sequence > first.context.sequence


async def test_retryable_error_is_tried_again_within_the_run() -> None:
    async with driving(Sink(failing(REFUSED, REFUSED))) as drive:
        status = await drive.run()
        assert status.state is ExporterState.IDLE
        assert [call.context.attempt for call in drive.calls] == [1, 2, 3]
        assert {call.context.sequence for call in drive.calls} == {drive.calls[0].context.sequence}


async def test_budget_of_nothing_makes_one_attempt() -> None:
    async with driving(Sink(always(REFUSED)), retry_budget_s=0.0) as drive:
        status = await drive.run()
        assert (status.state, status.last_error_reason) == (ExporterState.FAILED, Reason.CONNECT)
        assert len(drive.calls) == 1


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (PermanentError(Reason.AUTH, "no"), ExporterState.FAILED, Reason.AUTH),
        (ConflictError(Reason.CONFLICT, "no"), ExporterState.CONFLICT, Reason.CONFLICT),
        (KeyError("no"), ExporterState.FAILED, Reason.INTERNAL),
    ],
)
async def test_error_that_is_not_retryable_ends_the_run(
    error: Exception, state: ExporterState, reason: Reason
) -> None:
    async with driving(Sink(always(error))) as drive:
        status = await drive.run()
        assert (status.state, status.last_error_reason) == (state, reason)
        (call,) = drive.calls
        assert call.error is error


async def test_outranked_exporter_sends_above_the_receivers_sequence() -> None:
    above = OutrankedError("it has more", epoch=0, sequence=10**15)
    async with driving(Sink(failing(above))) as drive:
        await drive.run()
        assert [call.context.sequence > 10**15 for call in drive.calls] == [False, True]


async def test_attempt_that_takes_too_long_is_cancelled() -> None:
    async with driving(Sink(hang), timeout_s=0.05, retry_budget_s=0.0) as drive:
        status = await drive.run()
        assert status.last_error_reason is Reason.TIMEOUT
        (call,) = drive.calls
        assert isinstance(call.error, asyncio.CancelledError)


async def test_exporter_is_not_called_while_another_replica_leads() -> None:
    async with driving(Sink()) as drive:
        drive.leads = False
        await drive.run()
        assert not drive.calls
        drive.leads = True
        await drive.run()
        assert len(drive.calls) == 1


async def test_stopped_exporter_is_closed_and_not_run_again() -> None:
    async with driving(Sink()) as drive:
        await drive.run()
        await drive.stop()
        assert drive.closed == 1
        with pytest.raises(ManagerError, match="closed"):
            await drive.run()


@pytest.mark.parametrize("kind", ["scc", "fleet", "fleet-v1"])
async def test_payload_has_the_format_that_is_asked_for(kind: str) -> None:
    async with driving(Sink(), format=kind, snapshot=make_snapshot(nodes=7)) as drive:
        status = await drive.run()
        assert status.schema_valid
        assert (b"schema" in drive.calls[0].payload.body) == (kind != "scc")


async def test_error_of_the_block_is_raised_as_it_is() -> None:
    async def fail_after_a_run() -> None:
        async with driving(sink) as drive:
            await drive.run()
            raise ZeroDivisionError

    sink = Sink()
    with pytest.raises(ZeroDivisionError):
        await fail_after_a_run()
    assert sink.closed == 1


async def test_source_that_waits_is_not_ready_until_it_has_what_it_waits_for() -> None:
    source: Any = FakeSource()
    source.wait_for("informer nodes")
    ready = anyio.Event()

    async def wait() -> None:
        await source.wait_ready()
        ready.set()

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await anyio.sleep(0)
        assert not ready.is_set()
        source.wait_for()
        await ready.wait()
    assert source.snapshot().totals.nodes == 9
