"""The files of the spool: what is written is read back, and nothing else is taken for it.

No disk that is full, read-only, damaged or hangs keeps a payload from being sent, nor does kill -9.
"""

import asyncio
import json
import os
import shutil
import stat
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetryd.atomicfile import write_file
from telemetryd.export.outbox import spool as module
from telemetryd.export.outbox.spool import (
    MAX_SEQUENCE,
    LastDelivery,
    PendingPayload,
    SpoolFolder,
    exporters_in,
    parse_pending,
    render_pending,
)
from telemetryd.model import Delivery, ExporterState, Payload
from tests.export.doubles import always, spec
from tests.export.outbox.bench import REFUSED, Bench
from tests.export.sinks.test_snapshots import outcome, quick_folder, seen_with_mounts
from tests.support.receiver import Request, Writer, receiving, status

pytestmark = pytest.mark.anyio

DELIVERED = LastDelivery(
    installation_id="8d6f8b1e",
    destination="there",
    sequence=7,
    epoch=2,
    digest="ab",
    at=3.5,
    exporter="it",
)


def pending_payload(body: bytes = b'{"a":1}\n{"b":2}', sequence: int = 7) -> PendingPayload:
    return PendingPayload(
        payload=Payload(
            body=body,
            content_type="application/json",
            digest="ab",
            revision=3,
            schema_valid=True,
            schema_error="",
        ),
        delivery=Delivery(at=1_790_000_000.25, sequence=sequence, epoch=2),
        installation_id="8d6f8b1e",
        destination="there",
    )


def framed(content: bytes) -> bytes:
    """Content with the checksum that a file begins with."""
    return b"telemetryd-spool 1 %b\n%b" % (sha256(content).hexdigest().encode(), content)


OLD_LABEL = {
    "installation_id": "8d6f8b1e",
    "destination": "there",
    "sequence": 7,
    "epoch": 2,
    "collected_at": 1_790_000_000.25,
    "digest": "ab",
    "content_type": "application/json",
    "revision": 3,
}


@given(
    body=st.binary(max_size=200),
    sequence=st.integers(0, MAX_SEQUENCE),
    omitted=st.frozensets(st.sampled_from(["server_url", "cluster_ids"])),
)
def test_pending_payload_is_read_back_as_it_was(
    body: bytes, sequence: int, omitted: frozenset[str]
) -> None:
    given = replace(pending_payload(body, sequence), omitted=omitted, format="fleet")
    assert parse_pending(render_pending(given)) == (given, "")


@pytest.mark.parametrize(
    ("body", "format_"), [(b'{"a":1}', "scc"), (b'{"schema_version":1}', "fleet"), (b"{", "scc")]
)
def test_file_of_an_earlier_version_is_read_as_made_under_no_omission(
    body: bytes, format_: str
) -> None:
    read, _ = parse_pending(framed(json.dumps(OLD_LABEL).encode() + b"\n" + body))
    assert (read.payload.body, read.omitted, read.format) == (body, frozenset(), format_)


@given(data=st.data())
def test_pending_payload_that_is_cut_or_altered_anywhere_is_refused(data: st.DataObject) -> None:
    whole = render_pending(pending_payload())
    position = data.draw(st.integers(0, len(whole) - 1))
    altered = bytearray(whole)
    altered[position] ^= data.draw(st.integers(1, 255))
    for damaged in (bytes(altered), whole[:position], whole + whole[: position + 1]):
        with pytest.raises(ValueError, match="cut off or altered"):
            parse_pending(damaged)


@given(content=st.binary(max_size=300))
def test_other_bytes_are_not_a_pending_payload(content: bytes) -> None:
    with pytest.raises(ValueError, match="cut off or altered"):
        parse_pending(content)
    with pytest.raises(ValueError, match="not a pending payload"):
        parse_pending(framed(content))


@pytest.mark.parametrize("number", [-1, MAX_SEQUENCE + 1, 2**70, 1.5, "7", None])
@pytest.mark.parametrize("key", ["sequence", "epoch"])
def test_number_that_no_receiver_can_hold_is_refused(key: str, number: object) -> None:
    label = json.dumps(OLD_LABEL | {key: number}).encode()
    with pytest.raises(ValueError, match="not a pending payload"):
        parse_pending(framed(label + b"\n{}"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("collected_at", 1e308),
        ("collected_at", -1.0),
        ("epoch", 2**31),
        ("digest", "a\r\nX-Other: b"),
        ("content_type", "text/plain\n"),
        ("exporter", "x" * 513),
        ("format", "\x1b[2J"),
    ],
)
def test_label_that_no_header_or_date_can_show_is_refused(key: str, value: object) -> None:
    label = json.dumps(OLD_LABEL | {key: value}).encode()
    with pytest.raises(ValueError, match="not a pending payload"):
        parse_pending(framed(label + b"\n{}"))


def test_file_far_too_long_is_put_aside_without_being_read(tmp_path: Path) -> None:
    folder = SpoolFolder(str(tmp_path), "it")
    folder.path.mkdir()
    (folder.path / "pending").touch()
    os.truncate(folder.path / "pending", 2**40)
    tracemalloc.start()
    (damage,) = folder.load().damaged
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert damage.moved_to.endswith("pending.corrupt")
    assert peak_bytes < 2**20


def test_folder_keeps_one_payload_and_the_last_delivery_for_their_owner_alone(
    tmp_path: Path,
) -> None:
    folder = SpoolFolder(str(tmp_path / "spool"), "it")
    assert folder.load().pending is None
    folder.store(pending_payload(sequence=6))
    folder.settle(DELIVERED)
    size_bytes = folder.store(pending_payload(sequence=8))
    contents = folder.load()
    assert contents.pending == pending_payload(sequence=8)
    assert (contents.delivered, contents.damaged) == (DELIVERED, ())
    assert contents.pending_bytes == size_bytes == (folder.path / "pending").stat().st_size
    assert {path.name for path in folder.path.iterdir()} == {"pending", "state"}
    for made in (folder.path, folder.path.parent):
        assert stat.S_IMODE(made.stat().st_mode) == 0o700
    for path in folder.path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    folder.settle(DELIVERED)
    assert folder.load().pending is None


@pytest.mark.parametrize(("sequence", "pending"), [(6, False), (7, False), (8, True)])
@pytest.mark.parametrize("epoch", [None, 2])
def test_payload_that_is_delivered_is_not_pending_though_its_file_is_still_there(
    tmp_path: Path, sequence: int, pending: bool, epoch: int | None
) -> None:
    """A crash between the note of the delivery and the removal of the payload."""
    folder = SpoolFolder(str(tmp_path), "it")
    folder.store(pending_payload(sequence=sequence))
    stored = (folder.path / "pending").read_bytes()
    note = {
        "installation_id": "8d6f8b1e",
        "destination": "there",
        "sequence": 7,
        "digest": "ab",
        "at": 3.5,
        **({} if epoch is None else {"epoch": epoch}),
    }
    (folder.path / "state").write_bytes(framed(json.dumps(note).encode()))
    for contents in (folder.peek(), folder.load()):
        assert (contents.pending is not None) is pending
        assert contents.damaged == ()
    assert (folder.path / "pending").read_bytes() == stored


def _folder(path: Path) -> None:
    path.unlink()
    (path / "x").mkdir(parents=True)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _swapped(path: Path) -> None:
    other = path.parent / ("state" if path.name == "pending" else "pending")
    path.write_bytes(other.read_bytes())


def _of_another_exporter(path: Path) -> None:
    folder = SpoolFolder(str(path.parent.parent), "other")
    folder.settle(DELIVERED)
    folder.store(pending_payload(sequence=8))
    path.write_bytes((folder.path / path.name).read_bytes())


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "garbage": lambda path: path.write_bytes(b"\0" * 100),
    "larger": lambda path: os.truncate(path, 257 * 1024 * 1024),
    "format that never was": lambda path: path.write_bytes(
        path.read_bytes().replace(b" 1 ", b" 0 ", 1)
    ),
    "folder": _folder,
    "pipe": _pipe,
    "loop": _loop,
    "swapped": _swapped,
    "of another exporter": _of_another_exporter,
}


@pytest.mark.parametrize("name", ["pending", "state"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_file_is_named_moved_aside_and_touches_nothing_else(
    tmp_path: Path, damage: str, name: str
) -> None:
    folder = SpoolFolder(str(tmp_path), "it")
    folder.settle(DELIVERED)
    folder.store(pending_payload(sequence=8))
    path = folder.path / name
    DAMAGES[damage](path)
    (seen,) = folder.peek().damaged
    assert (seen.file, seen.moved_to) == (str(path), "")
    contents = folder.load()
    (damaged,) = contents.damaged
    assert (damaged.file, damaged.why) == (seen.file, seen.why)
    assert damaged.moved_to == f"{path}.corrupt"
    assert damaged.why
    assert (contents.pending is None) is (name == "pending")
    assert (contents.delivered is None) is (name == "state")
    assert folder.load().damaged == ()
    kept = {"pending", "state", f"{name}.corrupt"} - {name}
    assert {each.name for each in folder.path.iterdir()} == kept


@pytest.mark.parametrize("rest", [b"0" * 64 + b"\n{}", b"\n", b"sha512 x\n"])
@pytest.mark.parametrize("name", ["pending", "state"])
def test_file_of_a_later_version_is_set_aside_and_never_replaced(
    tmp_path: Path, name: str, rest: bytes
) -> None:
    folder = SpoolFolder(str(tmp_path), "it")
    contents = [b"telemetryd-spool 2 " + rest, b"telemetryd-spool 2 another " + rest]
    for content in contents:
        folder.settle(DELIVERED)
        folder.store(pending_payload(sequence=8))
        (folder.path / name).write_bytes(content)
        assert [each.newer for each in folder.peek().damaged] == [True]
        (found,) = folder.load().damaged
        assert found.newer
        assert found.why.startswith("it has format 2, of a later telemetryd; this one, ")
        assert folder.load().damaged == ()
    aside = sorted(folder.path.glob(f"{name}.*"))
    assert [each.name for each in aside] == [f"{name}.format-2", f"{name}.format-2.2"]
    assert [each.read_bytes() for each in aside] == contents


def test_damaged_file_goes_to_the_next_free_name_where_one_is_in_its_way(tmp_path: Path) -> None:
    folder = SpoolFolder(str(tmp_path), "it")
    (folder.path / "pending.corrupt" / "x").mkdir(parents=True)
    (folder.path / "pending").write_bytes(b"x")
    (damaged,) = folder.load().damaged
    assert damaged.moved_to == f"{folder.path}/pending.corrupt.2"


def test_delivery_before_is_forgotten_where_the_next_cannot_be_noted(tmp_path: Path) -> None:
    """Otherwise its content would count as delivered, though the receiver has another since."""
    folder = SpoolFolder(str(tmp_path), "it")
    folder.settle(DELIVERED)
    for name in (".pending.tmp", ".pending.2.tmp"):
        (folder.path / name / "something").mkdir(parents=True)
    with pytest.raises(OSError, match="not empty"):
        folder.store(pending_payload(sequence=8))
    assert folder.load().delivered is None


def test_half_a_file_of_a_killed_process_is_in_nobodys_way(tmp_path: Path) -> None:
    folder = SpoolFolder(str(tmp_path), "it")
    folder.path.mkdir()
    (folder.path / ".pending.tmp").write_bytes(b"telemetryd-spo")
    assert folder.load().pending is None
    folder.store(pending_payload())
    assert [path.name for path in folder.path.iterdir()] == ["pending"]


@pytest.mark.parametrize("name", ["..", ".", "a/b", "../x", "secretrequest/a", "a b"])
def test_no_name_of_an_exporter_leads_out_of_the_spool(tmp_path: Path, name: str) -> None:
    folder = SpoolFolder(str(tmp_path / "spool"), name)
    folder.store(pending_payload())
    assert folder.path.parent == tmp_path / "spool"
    assert list(exporters_in(str(tmp_path / "spool"))) == [name]
    assert [path.name for path in tmp_path.iterdir()] == ["spool"]


def test_no_spool_is_an_empty_one(tmp_path: Path) -> None:
    assert list(exporters_in(str(tmp_path / "spool"))) == []


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


__all__ = ["quick_folder"]


ROOT = Path(__file__).parents[3]


class Flaky:
    """Takes a payload or not, says so or not; drops what it has seen, and keeps account."""

    def __init__(self) -> None:
        self._rng = Random(17)
        self.bodies: dict[str, bytes] = {}
        self.newest = b""
        self.highest = 0
        self.repeated = self.unsaid = 0
        self.wrong: list[str] = []

    async def answer(self, request: Request, writer: Writer) -> None:
        chance = self._rng.random()
        if chance < 0.2:
            await status(503)(request, writer)
            return
        self._take(request)
        if chance < 0.4:
            self.unsaid += 1
            writer.transport.abort()
            return
        await asyncio.sleep(self._rng.uniform(0.0, 0.002))
        await status(200)(request, writer)

    def _take(self, request: Request) -> None:
        if request.sequence < self.highest:
            self.wrong.append(f"{request.sequence} after {self.highest}")
        known = self.bodies.get(request.key)
        if known is not None:
            self.repeated += 1
            if known != request.body:
                self.wrong.append(f"{request.key} with two bodies")
            return
        self.bodies[request.key] = request.body
        self.highest = request.sequence
        self.newest = request.body


@pytest.mark.parametrize("times", [60, pytest.param(200, marks=pytest.mark.long)])
async def test_exporters_killed_while_they_send_lose_nothing_and_never_go_back(
    quick_folder: Path, times: int
) -> None:
    flaky = Flaky()
    async with receiving(default=flaky.answer) as receiver:
        command = [sys.executable, "-m", "tests.export.outboxkiller", "random"]
        done = await anyio.run_process(
            [*command, str(quick_folder), receiver.url, str(times)], cwd=ROOT, check=False
        )
    assert done.returncode == 0, done.stderr.decode()
    seen: dict[str, Any] = json.loads(done.stdout)
    assert flaky.wrong == []
    assert flaky.newest.startswith(b"revision %d " % seen["newest"])
    assert (seen["killed"], seen["at end"]) == (times, False)
    assert seen["left"] > times // 10, "the kills have missed what they are for"
    assert flaky.repeated > 0
    assert len(flaky.bodies) > times // 10


def test_exporter_killed_at_each_step_of_a_write_keeps_the_old_payload_or_the_new(
    tmp_path: Path,
) -> None:
    command = outcome("outboxkiller", "steps", str(tmp_path))
    assert command["steps"] > 5
    assert command["kept"] == [0, 1, 2]


@pytest.mark.parametrize(
    ("scenario", "why"),
    [
        ("full", "No space left on device: free space or inodes there"),
        ("readonly", "Read-only file system: mount it writable, or configure another state_dir"),
    ],
)
def test_unusable_disk_is_shown_leaves_the_old_file_intact_and_is_recovered_from(
    tmp_path: Path, scenario: str, why: str
) -> None:
    folder = tmp_path / "spool"
    seen = seen_with_mounts(scenario, folder, module="outboxfaults")
    assert seen == {
        "detail": f"storage: keeps nothing over a restart: can't use {folder}/it: {why}",
        "dropped": {"storage": 1},
        "kept": "digest-1",
        "sent": ["digest-1", "digest-2", "digest-2"],
        "state": "idle",
        "detail after": "",
        "noted after": "digest-2",
        "pending after": False,
    }
