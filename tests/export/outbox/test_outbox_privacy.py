"""What leaves obeys the [privacy] settings in force at that moment, whenever they were changed."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from telemetryd.export.exporter import ExportContext, Outcome
from telemetryd.model import Disclosure, ExporterState, Payload
from tests.export.doubles import Sink, Source, always, failing
from tests.export.outbox.test_outbox import LOST, REFUSED, Bench
from tests.export.outbox.test_spool import OLD_LABEL, framed

pytestmark = pytest.mark.anyio

URL, IDS = "server_url", "cluster_ids"
BOTH = frozenset({URL, IDS})
QUICK = {"interval_s": 1.0, "timeout_s": 0.9}
"""One interval is waited for a snapshot; a quarter of the timeout is for the disk."""


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def restrict(bench: Bench, *keys: str) -> None:
    """What a reload does: from now on these are omitted, from snapshots too."""
    bench.omitted = frozenset(keys)
    current = bench.source.current
    bench.source.current = replace(current, revision=current.revision + 1, omitted=bench.omitted)


async def leave_payload(bench: Bench, *keys: str) -> None:
    """A daemon whose receiver is down leaves a pending payload made with these omitted."""
    restrict(bench, *keys)
    async with bench.daemon(always(REFUSED)):
        await bench.run_over()
    assert bench.spool.peek().pending is not None


@pytest.mark.parametrize("before", [(), (URL,), (IDS,)])
@pytest.mark.parametrize("ready", [False, True])
async def test_payload_made_under_weaker_settings_is_dropped_after_a_restart(
    bench: Bench, before: tuple[str, ...], ready: bool, caplog: pytest.LogCaptureFixture
) -> None:
    await leave_payload(bench, *before)
    restrict(bench, *BOTH)
    newest = bench.source.current
    if not ready:
        bench.source = Source(ready=False)
    async with bench.daemon(**QUICK):
        await bench.until(lambda: bench.stats.spool_dropped)
        bench.source.current = newest
        bench.source.become_ready()
        await bench.until(lambda: bench.stats.runs["success"])
        assert bench.stats.spool_dropped == {"privacy": 1}
        assert bench.stats.spool_items == 0
    assert {payload.digest for payload in bench.sink.payloads} == {f"digest-{newest.revision}"}
    assert not (bench.spool.path / "pending").exists()
    assert "pending payload dropped exporter=it reason=privacy" in caplog.messages


@pytest.mark.parametrize("now", [(), (URL,)])
async def test_payload_made_under_the_same_or_stricter_settings_is_delivered(
    bench: Bench, now: tuple[str, ...]
) -> None:
    await leave_payload(bench, *BOTH)
    left = bench.sink.payloads[0].body
    bench.omitted = frozenset(now)
    bench.source = Source(ready=False)
    async with bench.daemon(**QUICK):
        await bench.until(lambda: bench.sink.payloads)
        assert bench.stats.spool_dropped == {}
    assert bench.sink.payloads[0].body == left


@pytest.mark.parametrize("omitted", [frozenset(), frozenset({URL})])
async def test_file_of_an_earlier_version_counts_as_made_without_any(
    bench: Bench, omitted: frozenset[str]
) -> None:
    bench.spool.path.mkdir(parents=True)
    label = json.dumps(OLD_LABEL | {"epoch": 0}).encode()
    (bench.spool.path / "pending").write_bytes(framed(label + b"\nthe old one"))
    bench.omitted = omitted
    bench.source = Source(ready=False)
    async with bench.daemon(**QUICK):
        await bench.until(lambda: bench.stats.spool_dropped or bench.sink.payloads)
    assert [payload.body for payload in bench.sink.payloads] == (
        [] if omitted else [b"the old one"]
    )


async def test_payload_of_another_format_is_dropped(bench: Bench) -> None:
    await leave_payload(bench)
    bench.source = Source(ready=False)
    async with bench.daemon(**QUICK, disclosure=Disclosure(format="fleet")):
        await bench.until(lambda: bench.stats.spool_dropped)
        assert bench.stats.spool_dropped == {"format": 1}
    assert bench.sink.payloads == []
    assert not (bench.spool.path / "pending").exists()


async def test_reload_between_two_attempts_of_a_run_drops_what_was_to_be_retried(
    bench: Bench,
) -> None:
    """Even where both payloads hold the same: their format may have no such field."""

    async def fail_and_reload(payload: Payload, context: ExportContext) -> Outcome:
        bench.sink.behave = None
        bench.omitted = frozenset({URL})
        bench.source.current = replace(bench.source.current, omitted=bench.omitted)
        raise LOST

    async with bench.daemon(fail_and_reload, retry_base_s=0.001):
        await bench.run_over()
        assert bench.stats.spool_dropped == {"privacy": 1}
    first, second = bench.sequences
    assert first < second


async def test_reload_while_a_sink_prepares_keeps_the_bytes_from_going_out(bench: Bench) -> None:
    sent = []

    async def prepare(payload: Payload, context: ExportContext) -> Outcome:
        if not bench.omitted:
            restrict(bench, URL)
        await anyio.sleep(0)
        context.fence()
        sent.append(payload.digest)
        return Outcome.WRITTEN

    async with bench.daemon(prepare, retry_base_s=0.001):
        await bench.run_over()
        assert bench.status.state is ExporterState.IDLE
    assert sent == ["digest-2"]


@pytest.mark.parametrize("verifies", [False, True])
async def test_snapshot_that_is_not_as_strict_as_the_settings_never_leaves(
    bench: Bench, verifies: bool
) -> None:
    """Whatever the sink: one that reads its destination is held to it too."""
    bench.omitted = frozenset({IDS})
    async with bench.daemon(verifies_destination=verifies, retry_budget_s=0.0):
        await bench.run_over()
        assert bench.stats.runs["failure"] == 1
        assert bench.status.last_error.startswith("[privacy] has become stricter")
        bench.source.current = replace(bench.source.current, omitted=bench.omitted)
        await bench.run_again()
        assert bench.stats.runs["success"] == 1
    assert len(bench.sink.payloads) == 1


async def test_last_attempt_of_a_shutdown_obeys_too(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with bench.daemon(failing(REFUSED)):
        await bench.run_over()
        bench.source.change()
        bench.omitted = frozenset({URL})
    assert len(bench.sink.payloads) == 1
    assert isinstance(bench.sink, Sink)
