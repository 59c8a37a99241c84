"""Which payloads reach a sink, under which sequence, over failures and restarts; on a real disk.

What leaves obeys the [privacy] settings in force at that moment, whenever they were changed.
"""

import json
import logging
import shutil
import time
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from telemetryd.export.exporter import ExportContext, Outcome
from telemetryd.export.outbox.spool import MAX_SEQUENCE, LastDelivery
from telemetryd.model import Disclosure, ExporterState, Payload
from tests.export.doubles import INSTALL_UUID, Sink, Source, always, failing
from tests.export.outbox.bench import LOST, REFUSED, Bench
from tests.export.outbox.test_spool import OLD_LABEL, framed

pytestmark = pytest.mark.anyio


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_highest_sequence_of_all_on_disk_is_followed_by_the_next_epoch(bench: Bench) -> None:
    bench.spool.settle(
        LastDelivery(
            installation_id=INSTALL_UUID,
            destination="there",
            sequence=MAX_SEQUENCE,
            epoch=4,
            digest="another",
            at=time.time(),
        )
    )
    async with bench.daemon():
        await bench.run_over()
    (sent,) = bench.sink.contexts
    assert (sent.epoch, sent.sequence <= MAX_SEQUENCE) == (5, True)
    assert bench.seen_epochs[-1] == 5
    contents = bench.spool.load()
    assert contents.damaged == ()
    assert contents.delivered is not None
    assert contents.delivered.sequence == sent.sequence


async def test_retry_sends_the_same_bytes_under_the_same_sequence(bench: Bench) -> None:
    async with bench.daemon(failing(LOST), retry_base_s=0.001):
        await bench.run_over()
    first, second = bench.sink.payloads
    assert first.body == second.body
    assert bench.sequences[0] == bench.sequences[1]
    assert [context.attempt for context in bench.sink.contexts] == [1, 2]
    assert {context.installation_id for context in bench.sink.contexts} == {
        bench.source.current.identity.install_uuid
    }


async def test_newer_content_takes_the_place_of_what_is_pending(bench: Bench) -> None:
    async with bench.daemon(failing(REFUSED)):
        await bench.run_over()
        pending = bench.spool.load().pending
        assert pending is not None
        assert pending.payload.body == bench.sink.payloads[0].body
        assert (bench.stats.spool_items, bench.stats.spool_bytes > 100) == (1, True)
        bench.source.change()
        await bench.run_again()
        assert bench.stats.runs["superseded"] == 1
        assert (bench.stats.spool_items, bench.stats.spool_bytes) == (0, 0)
    assert bench.sequences[0] < bench.sequences[1]
    assert bench.spool.load().pending is None
    delivered = bench.spool.load().delivered
    assert delivered is not None
    assert (delivered.sequence, delivered.digest) == (bench.sequences[1], "digest-2")


async def test_content_that_comes_back_outdoes_what_no_one_knows_of(bench: Bench) -> None:
    """The receiver may have taken what it gave no answer to."""
    first = bench.source.current
    async with bench.daemon():
        await bench.run_over()
        bench.sink.behave = always(REFUSED)
        bench.source.change()
        await bench.run_again()
        bench.sink.behave = None
        bench.source.current = first
        await bench.run_again()
        await bench.run_again()
    assert [payload.digest for payload in bench.sink.payloads] == [
        "digest-1",
        "digest-2",
        "digest-1",
    ]
    assert bench.sequences == sorted(set(bench.sequences))


async def test_content_that_comes_back_is_sent_before_the_end_too(bench: Bench) -> None:
    first = bench.source.current
    async with bench.daemon():
        await bench.run_over()
        bench.sink.behave = always(LOST)
        bench.source.change()
        assert bench.manager is not None
        bench.manager.trigger("it")
        await bench.until(lambda: len(bench.sink.payloads) > 1)
        bench.sink.behave = None
        bench.source.current = first
        await bench.manager.stop("it")
    assert bench.sink.payloads[-1].digest == "digest-1"
    assert len(bench.sink.payloads) > 2


async def test_pending_payload_whose_file_is_removed_is_kept_again(bench: Bench) -> None:
    async with bench.daemon(always(REFUSED)):
        await bench.run_over()
        shutil.rmtree(bench.folder / "spool")
        await bench.run_again()
        kept = bench.spool.peek().pending
    assert kept is not None
    assert kept.delivery.sequence == bench.sequences[0]


async def test_undelivered_payload_is_delivered_after_a_restart_as_it_was(bench: Bench) -> None:
    async with bench.daemon(always(REFUSED)):
        await bench.run_over()
    first = (bench.sink.payloads[0], bench.sequences[0])
    async with bench.daemon():
        await bench.run_over()
    assert [(bench.sink.payloads[0].body, bench.sequences[0])] == [(first[0].body, first[1])]
    assert len(bench.sink.payloads) == 1


async def test_after_a_restart_the_newest_content_wins(bench: Bench) -> None:
    async with bench.daemon(always(REFUSED)):
        await bench.run_over()
    former = bench.sequences[0]
    bench.source.change()
    async with bench.daemon():
        await bench.run_over()
        assert bench.stats.runs["superseded"] == 1
    assert [payload.digest for payload in bench.sink.payloads] == ["digest-2"]
    assert bench.sequences[0] > former


async def test_crash_loop_does_not_send_unchanged_content_again(bench: Bench) -> None:
    async with bench.daemon():
        await bench.run_over()
    for _ in range(3):
        async with bench.daemon():
            await bench.run_over()
            assert bench.status.last_success_at is not None
            assert bench.stats.runs["unchanged"] == 1
        assert bench.sink.payloads == []
    later = time.time() + 90_000
    bench.now = lambda: later
    async with bench.daemon():
        await bench.run_over()
    assert len(bench.sink.payloads) == 1


async def test_sequence_rises_over_a_restart_with_the_clock_set_back(bench: Bench) -> None:
    async with bench.daemon():
        await bench.run_over()
    former = bench.sequences[0]
    bench.now = lambda: 1_000_000.0
    bench.source.change()
    async with bench.daemon():
        await bench.run_over()
    assert bench.sequences == [former + 1]


async def test_sequence_rises_over_a_lost_state_folder(bench: Bench) -> None:
    async with bench.daemon():
        await bench.run_over()
    former = bench.sequences[0]
    shutil.rmtree(bench.folder / "spool")
    async with bench.daemon():
        await bench.run_over()
    assert bench.sequences[0] > former


async def test_other_destination_gets_what_the_former_has(bench: Bench) -> None:
    async with bench.daemon(failing(REFUSED)):
        await bench.run_over()
    async with bench.daemon(destination="elsewhere"):
        await bench.run_over()
        assert bench.stats.spool_dropped == {"destination": 1}
    assert len(bench.sink.payloads) == 1
    async with bench.daemon():
        await bench.run_over()
    assert len(bench.sink.payloads) == 1


async def test_payload_of_a_former_leadership_is_sent_as_a_new_one(bench: Bench) -> None:
    async with bench.daemon(always(REFUSED)):
        await bench.run_over()
    former = bench.sequences[0]
    bench.epoch = 5
    async with bench.daemon():
        await bench.run_over()
    assert bench.sequences[0] > former
    assert bench.sink.contexts[0].epoch == 5


@pytest.mark.parametrize("name", ["pending", "state"])
async def test_damaged_file_is_one_error_and_sends_nothing_that_it_held(
    bench: Bench, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with bench.daemon(failing(REFUSED) if name == "pending" else None):
        await bench.run_over()
    (bench.spool.path / name).write_bytes(b"garbage")
    bench.source.change()
    caplog.clear()
    async with bench.daemon():
        await bench.run_over()
        await bench.run_again()
        assert bench.stats.spool_dropped == {"corrupt": 1}
    assert [payload.digest for payload in bench.sink.payloads] == ["digest-2"]
    (error,) = [record for record in caplog.records if record.levelname == "ERROR"]
    path = bench.spool.path / name
    assert error.getMessage() == (
        f"spooled file is damaged and ignored exporter=it file={path} "
        f"error='it is cut off or altered' moved_to={path}.corrupt"
    )
    assert (bench.spool.path / f"{name}.corrupt").read_bytes() == b"garbage"


async def test_what_was_left_is_delivered_where_nothing_newer_can_come(bench: Bench) -> None:
    async with bench.daemon(always(REFUSED)):
        await bench.run_over()
    former = bench.sequences[0]
    bench.source = Source(ready=False)
    async with bench.daemon(interval_s=0.2, timeout_s=0.15):
        await bench.until(lambda: bench.sink.payloads)
        await bench.until(lambda: bench.status.state is ExporterState.WAITING)
        await anyio.sleep(0.3)
        assert bench.status.detail == "informer nodes"
        assert bench.status.last_success_at is not None
    assert bench.sequences == [former]


async def test_id_of_a_run_that_was_asked_for_is_its_own(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """Though runs without a snapshot come before it."""
    current, bench.source = bench.source.current, Source(ready=False)
    async with bench.daemon(always(REFUSED), interval_s=0.2, timeout_s=0.15):
        assert bench.manager is not None
        asked = bench.manager.trigger("it")
        assert bench.manager.trigger("it") == asked
        await anyio.sleep(0.5)
        bench.source.current = current
        bench.source.wait_for()
        await bench.until(lambda: bench.stats.runs["failure"])
        failing_line = next(line for line in caplog.messages if "exporter failing" in line)
        assert failing_line.endswith(f" run={asked}")
        again = bench.manager.trigger("it")
        assert again != asked


async def test_nothing_is_sent_where_nothing_was_left_and_nothing_can_come(bench: Bench) -> None:
    bench.source = Source(ready=False)
    async with bench.daemon(interval_s=0.02, timeout_s=0.01):
        await bench.until(lambda: bench.status.state is ExporterState.WAITING)
        await anyio.sleep(0.2)
        assert bench.status.last_attempt_at is None
    assert bench.sink.payloads == []


async def test_content_that_may_have_been_replaced_is_sent_again_after_a_restart(
    bench: Bench,
) -> None:
    """Nothing was spooled of what the receiver may have taken since the last delivery."""
    first = bench.source.current
    async with bench.daemon(spooled=False):
        await bench.run_over()
        bench.sink.behave = always(REFUSED)
        bench.source.change()
        await bench.run_again()
    bench.source.current = first
    async with bench.daemon(spooled=False):
        await bench.run_over()
    assert [payload.digest for payload in bench.sink.payloads] == ["digest-1"]


async def test_exporter_that_spools_nothing_still_remembers_what_it_delivered(
    bench: Bench,
) -> None:
    async with bench.daemon(always(REFUSED), spooled=False):
        await bench.run_over()
        assert not bench.spool.path.exists()
    async with bench.daemon(spooled=False):
        await bench.run_over()
    async with bench.daemon(spooled=False):
        await bench.run_over()
    assert bench.sink.payloads == []


async def test_exporter_without_a_destination_keeps_nothing_on_disk(bench: Bench) -> None:
    async with bench.daemon(failing(LOST), destination="", retry_base_s=0.001):
        await bench.run_over()
    assert bench.sequences[0] == bench.sequences[1]
    assert not (bench.folder / "spool").exists()


URL, IDS = "server_url", "cluster_ids"


BOTH = frozenset({URL, IDS})


QUICK = {"interval_s": 1.0, "timeout_s": 0.9}


"""One interval is waited for a snapshot; a quarter of the timeout is for the disk."""


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
        bench.source.wait_for()
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
