"""Which payloads reach a sink, under which sequence, over failures and restarts; on a real disk."""

import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest

from telemetryd.errors import NotLeading, PermanentError, Reason, RetryableError
from telemetryd.export.engine.manager import ExporterManager
from telemetryd.export.outbox.spool import MAX_SEQUENCE, LastDelivery, SpoolFolder
from telemetryd.model import ExporterState, ExporterStatus
from telemetryd.stats import ExporterStats
from tests.export.doubles import INSTALL_UUID, Sink, Source, always, failing, running, spec
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio

LOST = RetryableError(Reason.CONNECT, "no server there")
REFUSED = PermanentError(Reason.REJECTED, "no")


@dataclass
class Bench:
    """One exporter, whose daemon is started over and over on the same folder."""

    folder: Path
    now: Callable[[], float] = time.time
    epoch: int = 0
    leads: bool = True
    omitted: frozenset[str] = frozenset()
    seen_epochs: list[int] = field(default_factory=list)
    sink: Sink = field(default_factory=Sink)
    source: Source = field(default_factory=Source)
    manager: ExporterManager | None = None

    @property
    def spool(self) -> SpoolFolder:
        return SpoolFolder(str(self.folder / "spool"), "it")

    @property
    def status(self) -> ExporterStatus:
        assert self.manager is not None
        return self.manager.status("it")

    @property
    def stats(self) -> ExporterStats:
        assert self.manager is not None
        return self.manager.stats()["it"]

    def require_leading(self) -> None:
        if not self.leads:
            raise NotLeading

    @property
    def sequences(self) -> list[int]:
        return [context.sequence for context in self.sink.contexts]

    @asynccontextmanager
    async def daemon(self, behave: Any = None, **changes: Any) -> AsyncIterator["Bench"]:
        """A daemon from here to the end of the block."""
        self.sink = Sink(behave)
        self.manager = ExporterManager(
            self.source,
            now=self.now,
            rng=Random(7),
            epoch=lambda: self.epoch,
            drain_timeout_s=5.0,
            spool_dir=str(self.folder / "spool"),
            require_leading=self.require_leading,
            saw_epoch=self.seen_epochs.append,
            omitted=lambda: self.omitted,
        )
        given = {"verifies_destination": False, "destination": "there", "spooled": True, **changes}
        self.manager.register(spec("it", **given), self.sink)
        async with running(self.manager):
            yield self

    async def until(self, holds: Callable[[], object]) -> None:
        await until_async(holds)

    async def run_over(self) -> None:
        """Until the first run is over."""
        over = {ExporterState.IDLE, ExporterState.FAILED}
        await self.until(lambda: self.status.last_attempt_at and self.status.state in over)

    async def run_again(self) -> None:
        """Ask for one more run, and see it through."""
        assert self.manager is not None
        runs = self.stats.runs

        def over() -> int:
            return sum(runs[result] for result in ("success", "unchanged", "failure"))

        before = over()
        self.manager.trigger("it")
        await self.until(lambda: over() > before)


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
        bench.source.become_ready()
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
