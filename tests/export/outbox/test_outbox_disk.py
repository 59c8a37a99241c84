"""A disk that cannot be used, or hangs, never keeps a payload from being sent."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from telemetryd.atomicfile import write_file
from telemetryd.export.outbox import spool as module
from telemetryd.model import ExporterState
from tests.export.doubles import always, spec
from tests.export.outbox.test_outbox import REFUSED, Bench
from tests.export.outbox.test_spool import DAMAGES

pytestmark = pytest.mark.anyio


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.mark.parametrize("name", ["pending", "state"])
@pytest.mark.parametrize("damage", DAMAGES)
async def test_damaged_file_of_any_kind_is_one_error_and_what_it_held_is_never_sent(
    bench: Bench, damage: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with bench.daemon():
        await bench.run_over()
        bench.sink.behave = always(REFUSED)
        bench.source.change()
        await bench.run_again()
    former = bench.sequences[-1]
    DAMAGES[damage](bench.spool.path / name)
    bench.source.change()
    caplog.clear()
    async with bench.daemon():
        await bench.run_over()
        await bench.run_again()
        assert bench.stats.runs["failure"] == 0
        assert bench.status.detail == ""
    assert [payload.digest for payload in bench.sink.payloads] == ["digest-3"]
    assert bench.sequences[0] > former
    (error,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert f"file={bench.spool.path / name} " in error.getMessage()
    contents = bench.spool.load()
    assert (contents.damaged, contents.pending) == ((), None)
    assert contents.delivered is not None
    assert contents.delivered.digest == "digest-3"


async def test_folder_that_is_removed_meanwhile_is_made_again(bench: Bench) -> None:
    async with bench.daemon():
        await bench.run_over()
        shutil.rmtree(bench.folder / "spool")
        bench.source.change()
        await bench.run_again()
        assert bench.status.detail == ""
    delivered = bench.spool.load().delivered
    assert delivered is not None
    assert delivered.digest == "digest-2"


async def test_folder_that_cannot_be_made_is_shown_and_no_reason_not_to_send(bench: Bench) -> None:
    (bench.folder / "spool").write_text("in the way")
    async with bench.daemon():
        await bench.run_over()
        assert bench.status.state is ExporterState.IDLE
        assert bench.status.detail.startswith("storage: keeps nothing over a restart: can't use ")
        assert "move away the file that is there" in bench.status.detail
        assert bench.stats.spool_dropped == {"storage": 1}
        (bench.folder / "spool").unlink()
        await bench.run_again()
        assert bench.status.detail == ""
    assert len(bench.sink.payloads) == 1
    delivered = bench.spool.load().delivered
    assert delivered is not None
    assert delivered.digest == "digest-1"


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Writes of payloads hang from when the event is cleared until it is set."""
    works = threading.Event()
    works.set()

    def write_once_it_works(path: Path, content: bytes) -> None:
        works.wait()
        write_file(path, content)

    monkeypatch.setattr(module, "write_file", write_once_it_works)
    yield works
    works.set()


async def test_shorter_timeout_in_place_shortens_the_wait_for_a_disk_that_hangs(
    bench: Bench, hanging: threading.Event
) -> None:
    async with bench.daemon(timeout_s=20.0):
        await bench.run_over()
        hanging.clear()
        assert bench.manager is not None
        given = {"verifies_destination": False, "destination": "there", "spooled": True}
        bench.manager.reschedule(spec("it", timeout_s=2.0, **given))
        bench.source.change()
        await bench.run_again()
        assert "it takes too long" in bench.status.detail
        assert bench.stats.runs["success"] == 2
        hanging.set()
        await bench.until(lambda: bench.sink.payloads[-1].digest == "digest-2")


async def test_disk_that_hangs_is_no_reason_not_to_send(
    bench: Bench, hanging: threading.Event
) -> None:
    hanging.clear()
    async with bench.daemon(timeout_s=0.4):
        await bench.run_over()
        assert bench.status.state is ExporterState.IDLE
        assert "it takes too long" in bench.status.detail
        assert len(bench.sink.payloads) == 1
        hanging.set()
        await anyio.sleep(0.05)
        bench.source.change()
        await bench.run_again()
        await bench.run_again()
        assert bench.status.detail == ""
