"""The file that remembers the highest epoch, on a real disk and on one that hangs or fails."""

import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from telemetryd.control import epochs as module
from telemetryd.control.epochs import MAX_EPOCH, EpochFile, Epochs, parse_epoch
from telemetryd.kube.files import read_small_file

pytestmark = pytest.mark.anyio


def written(epoch: int) -> str:
    return f"telemetryd-epoch 1 {epoch}\n"


@asynccontextmanager
async def kept(path: Path | None) -> AsyncIterator[tuple[Epochs, EpochFile]]:
    """The epochs of one process, and the file that it keeps."""
    epochs = Epochs()
    file = EpochFile(None if path is None else str(path), epochs)
    await file.load()
    async with anyio.create_task_group() as group:
        group.start_soon(file.run)
        yield epochs, file
        group.cancel_scope.cancel()


async def test_epoch_outlives_the_process_and_never_falls(tmp_path: Path) -> None:
    path = tmp_path / "state" / "epoch"
    async with kept(path) as (epochs, file):
        assert (epochs.highest, epochs.next) == (0, 1)
        epochs.saw(5)
        await file.keep(10)
        assert path.read_text() == written(5)
    async with kept(path) as (epochs, file):
        assert epochs.highest == 5
        assert not epochs.saw(4)
        await file.keep(10)
        assert path.read_text() == written(5)
        epochs.saw(epochs.next)
        await file.keep(10)
    assert path.read_text() == written(6)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"-3\n",
        b"1e3",
        b"99999999999",
        b"4294967296",
        b"\xff\xfe",
        b"7 8",
        b"7" * 99,
        b"7" * (2 << 20),
        b"telemetryd-epoch 1\n",
        b"telemetryd-epoch 1 seven\n",
        b"telemetryd-epoch",
    ],
    ids=lambda content: repr(content[:12]),
)
async def test_damaged_file_is_named_and_written_over(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "epoch"
    path.write_bytes(content)
    async with kept(path) as (epochs, file):
        assert epochs.highest == 0
        assert [record.getMessage() for record in caplog.records] == [
            f"epoch file is damaged, ignoring it file={path}"
        ]
        epochs.saw(2)
        await file.keep(10)
        assert path.read_text() == written(2)


async def test_disk_that_fails_is_named_once_and_used_once_it_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.05)
    path = tmp_path / "epoch"
    path.mkdir()
    async with kept(path) as (epochs, file):
        epochs.saw(3)
        await file.keep(0.3)
        assert [record.getMessage() for record in caplog.records] == [
            f"cannot keep the leadership epoch file={path} error='Is a directory: check state_dir'"
        ]
        path.rmdir()
        await file.keep(30)
        assert path.read_text() == written(3)


@pytest.mark.parametrize("content", ["11\n", "11", "telemetryd-epoch 1 11\n"])
async def test_epoch_of_an_earlier_version_is_read(tmp_path: Path, content: str) -> None:
    path = tmp_path / "epoch"
    path.write_text(content)
    async with kept(path) as (epochs, file):
        assert epochs.highest == 11
        epochs.saw(epochs.next)
        await file.keep(30)
    assert path.read_text() == written(12)


@pytest.mark.parametrize("content", ["telemetryd-epoch 2 11 more\n", "telemetryd-epoch 2\n{}\n"])
async def test_file_of_a_later_version_is_named_once_and_stays(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "epoch"
    path.write_text(content)
    async with kept(path) as (epochs, file):
        epochs.saw(epochs.next)
        with anyio.fail_after(30):
            await file.keep(1000)
        assert epochs.highest == 1
    assert path.read_text() == content
    (message,) = (record.getMessage() for record in caplog.records)
    assert message.startswith(
        f"cannot keep the leadership epoch file={path} error='it has format 2"
    )
    assert "run the later one, or move the file away" in message


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to(path)])
async def test_pipe_or_link_in_its_place_is_named_and_replaced(
    tmp_path: Path, make: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "epoch"
    make(path)
    async with kept(path) as (epochs, file):
        epochs.saw(2)
        await file.keep(30)
        assert path.read_text() == written(2)
        assert [record.getMessage() for record in caplog.records] == [
            f"epoch file is damaged, ignoring it file={path}"
        ]


async def test_disk_that_hangs_costs_the_caller_its_patience_and_is_used_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DISK_TIMEOUT_S", 0.2)
    monkeypatch.setattr(module, "RETRY_S", 0.05)
    path = tmp_path / "epoch"
    path.write_text(written(11))
    works = threading.Event()

    def read_once_it_works(path: str) -> bytes:
        works.wait()
        return read_small_file(path)

    monkeypatch.setattr(module, "read_small_file", read_once_it_works)
    begun = threading.active_count()
    async with kept(path) as (epochs, file):
        epochs.saw(4)
        await file.keep(0.5)
        assert threading.active_count() <= begun + 8
        assert path.read_text() == written(11)
        works.set()
        with anyio.fail_after(60):
            while epochs.highest < 11:
                await anyio.sleep(0.05)
        epochs.saw(12)
        await file.keep(30)
        assert path.read_text() == written(12)


async def test_without_a_state_folder_nothing_is_waited_for() -> None:
    async with kept(None) as (epochs, file):
        epochs.saw(4)
        with anyio.fail_after(30):
            await file.keep(1000)


def test_epoch_is_written_in_digits_and_no_other_way() -> None:
    assert parse_epoch("0") == 0
    assert parse_epoch(str(MAX_EPOCH)) == MAX_EPOCH
    for text in ("", " 1", "+1", "-1", "1.0", "\u0661", str(MAX_EPOCH + 1)):
        assert parse_epoch(text) is None
