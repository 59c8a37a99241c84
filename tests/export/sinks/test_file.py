"""The file sink in a real folder: what it writes, keeps and drops, and what it leaves alone."""

import errno
import gzip
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetryd.config import parse_config
from telemetryd.daemon.exporters import ExporterFactory
from telemetryd.errors import ExportError, PermanentError, Reason, RetryableError
from telemetryd.export.exporter import Outcome
from telemetryd.export.sinks.file import FileExporter
from telemetryd.export.sinks.snapshots import LOCK, SnapshotFile, choose_excess
from tests.export.doubles import EPOCH_S, Source, manager_of, render_scc, running, snapshot
from tests.export.filebench import FolderBench, check_folder, names, payload
from tests.support.locks import OTHER_USER, holding

pytestmark = pytest.mark.anyio

FIRST = "scc-2026-09-21T14-13-20.000Z.json"


@pytest.fixture
def bench(tmp_path: Path) -> FolderBench:
    return FolderBench(tmp_path / "out")


@contextmanager
def not_root() -> Iterator[int]:
    """As a user whom permissions bind."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(OTHER_USER)
    try:
        yield os.geteuid()
    finally:
        os.seteuid(user)


async def refused(bench: FolderBench, sink: FileExporter, revision: int = 1) -> ExportError:
    """What an export raises; the folder must be as it was."""
    before = bench.names if bench.folder.is_dir() else []
    with pytest.raises(ExportError) as raised:
        await bench.send(sink, revision)
    assert (bench.names if bench.folder.is_dir() else []) == before
    return raised.value


async def test_first_export_makes_the_folder_and_a_private_snapshot(bench: FolderBench) -> None:
    assert await bench.send(bench.exporter()) is Outcome.WRITTEN
    assert bench.names == ["latest", FIRST]
    assert bench.latest == FIRST
    assert (bench.folder / FIRST).read_bytes() == payload(1).body
    assert (bench.folder / FIRST).stat().st_mode & 0o7777 == 0o600
    assert bench.folder.stat().st_mode & 0o7777 == 0o700


async def test_unchanged_content_isnt_written_again_before_max_silence(bench: FolderBench) -> None:
    sink = bench.exporter(max_silence_s=3600.0)
    await bench.send(sink)
    for bench.now_s, outcome in (
        (EPOCH_S + 3599.0, Outcome.UNCHANGED),
        (EPOCH_S - 3599.0, Outcome.UNCHANGED),
        (EPOCH_S + 3600.0, Outcome.WRITTEN),
        (EPOCH_S + 3660.0, Outcome.UNCHANGED),
    ):
        assert await bench.send(sink) is outcome
        assert await bench.send(bench.exporter(max_silence_s=3600.0)) is Outcome.UNCHANGED
    assert len(bench.dated) == 2


async def test_changed_content_is_written_and_latest_follows(bench: FolderBench) -> None:
    sink = bench.exporter()
    await bench.fill(sink, 3)
    assert bench.dated == [f"scc-2026-09-21T14-{minute}-20.000Z.json" for minute in (13, 14, 15)]
    assert [bench.nodes(name) for name in bench.dated] == [1, 2, 3]
    assert bench.latest == bench.dated[-1]


async def test_what_was_removed_or_altered_is_written_again(bench: FolderBench) -> None:
    sink = bench.exporter()
    await bench.send(sink)
    latest = bench.folder / "latest"

    def empty() -> None:
        latest.write_bytes(b"")

    def cut() -> None:
        latest.write_bytes(payload(1).body[:-1])

    def swell() -> None:
        latest.write_bytes(payload(1).body + b" " * 100_000)

    def nest() -> None:
        latest.write_bytes(b"[" * 400 + b"]" * 400)

    def nest_object() -> None:
        latest.write_bytes(b'{"a":' + b"[" * 400 + b"]" * 400 + b"}")

    def remove_file() -> None:
        latest.resolve().unlink()

    def remove_folder() -> None:
        shutil.rmtree(bench.folder)

    for harm in (
        empty, cut, swell, nest, nest_object, remove_file, latest.unlink, remove_folder
    ):  # fmt: skip
        harm()
        bench.now_s += 60.0
        assert await bench.send(sink) is Outcome.WRITTEN, harm
        assert bench.nodes() == 1
        assert await bench.send(sink) is Outcome.UNCHANGED, harm


async def test_exports_within_a_millisecond_have_names_in_their_order(bench: FolderBench) -> None:
    sink = bench.exporter()
    for revision in range(1, 5):
        await bench.send(sink, revision)
    assert bench.dated == [f"scc-2026-09-21T14-13-20.00{number}Z.json" for number in range(4)]
    assert [bench.nodes(name) for name in bench.dated] == [1, 2, 3, 4]


async def test_compressed_snapshot_is_the_same_bytes_for_the_same_content(
    bench: FolderBench, tmp_path: Path
) -> None:
    sink = bench.exporter(compress=True)
    await bench.send(sink)
    await bench.send(FolderBench(tmp_path / "other").exporter(compress=True))
    assert bench.dated == [f"{FIRST}.gz"]
    content = (bench.folder / "latest").read_bytes()
    assert gzip.decompress(content) == payload(1).body
    assert content == (tmp_path / "other" / "latest").read_bytes()
    assert await bench.send(sink) is Outcome.UNCHANGED
    for harm in (content[:-1], content + b"\0", content + content, gzip.compress(bytes(1 << 26))):
        (bench.folder / "latest").write_bytes(harm)
        assert await bench.send(sink) is Outcome.WRITTEN


async def test_change_of_compress_is_a_change(bench: FolderBench) -> None:
    await bench.send(bench.exporter())
    assert await bench.send(bench.exporter(compress=True)) is Outcome.WRITTEN
    assert bench.latest == "scc-2026-09-21T14-13-20.001Z.json.gz"
    assert await bench.send(bench.exporter()) is Outcome.WRITTEN
    assert bench.latest == "scc-2026-09-21T14-13-20.002Z.json"


async def test_keep_drops_the_oldest(bench: FolderBench) -> None:
    await bench.fill(bench.exporter(keep=3), 5)
    assert [bench.nodes(name) for name in bench.dated] == [3, 4, 5]
    assert await bench.send(bench.exporter(keep=1), 5) is Outcome.UNCHANGED
    assert [bench.nodes(name) for name in bench.dated] == [5]


async def test_max_bytes_drops_the_oldest_but_never_the_newest(bench: FolderBench) -> None:
    size = len(payload(1).body)
    await bench.fill(bench.exporter(max_bytes=3 * size), 5)
    assert [bench.nodes(name) for name in bench.dated] == [3, 4, 5]
    await bench.send(bench.exporter(max_bytes=1), 6)
    assert [bench.nodes(name) for name in bench.dated] == [6]


async def test_clock_set_back_costs_neither_the_newest_nor_the_limits(bench: FolderBench) -> None:
    sink = bench.exporter(keep=3)
    await bench.fill(sink, 3)
    bench.now_s = 0.0
    await bench.send(sink, 4)
    assert bench.latest == "scc-1970-01-01T00-00-00.000Z.json"
    assert [bench.nodes(name) for name in bench.dated] == [4, 2, 3]
    bench.now_s = EPOCH_S + 3600.0
    await bench.send(sink, 5)
    assert [bench.nodes(name) for name in bench.dated] == [2, 3, 5]


@given(
    st.lists(st.builds(SnapshotFile, st.text("abc", min_size=1), st.integers(0, 9)), min_size=1),
    st.integers(0, 99),
    st.integers(1, 9),
    st.none() | st.integers(1, 40),
)
def test_no_more_than_needed_is_dropped_and_never_the_newest(
    given_files: list[SnapshotFile], index: int, keep: int, max_bytes: int | None
) -> None:
    files = list({file.name: file for file in given_files}.values())
    newest = files[index % len(files)]
    dropped = choose_excess(files, newest, keep=keep, max_bytes=max_bytes)

    def fits(kept: list[SnapshotFile]) -> bool:
        total_bytes = sum(file.size_bytes for file in kept)
        return len(kept) <= keep and (max_bytes is None or total_bytes <= max_bytes)

    kept = [file for file in files if file not in dropped]
    assert newest in kept
    assert fits(kept) or kept == [newest]
    assert not dropped or not fits([*kept, dropped[-1]])
    assert all(file.name < newest.name for file in kept if file != newest) or not any(
        file.name < newest.name for file in dropped
    )


async def test_foreign_files_are_neither_touched_nor_counted(bench: FolderBench) -> None:
    bench.folder.mkdir()
    outside = bench.folder.parent / "outside"
    outside.write_text("outside")
    foreign = [
        "notes.txt",
        "scc.json",
        "scc-2020-01-01.json",
        "scc-2020-01-01T00-00-00.000Z.json.bak",
        "other-2020-01-01T00-00-00.000Z.json",
        ".other-2020-01-01T00-00-00.000Z.json.tmp",
        ".scc-2020-01-01T00-00-00.000Z.json.swp",
        "latest.json",
    ]
    for name in foreign:
        (bench.folder / name).write_text(name)
    (bench.folder / "scc-2020-01-01T00-00-00.000Z.json").mkdir()
    (bench.folder / "scc-2020-01-01T00-00-00.001Z.json").symlink_to(outside)
    (bench.folder / ".scc-2020-01-01T00-00-00.000Z.json.tmp").mkdir()
    before = set(bench.names)
    await bench.fill(bench.exporter(keep=2, max_bytes=10_000), 4)
    assert set(bench.names) - before == {"latest", *bench.dated[-2:]}
    assert before < set(bench.names)
    assert all((bench.folder / name).read_text() == name for name in foreign)
    assert outside.read_text() == "outside"


async def test_leftovers_of_dead_runs_are_removed_even_without_a_write(bench: FolderBench) -> None:
    sink = bench.exporter()
    await bench.send(sink)
    outside = bench.folder.parent / "outside"
    outside.write_text("outside")
    (bench.folder / f".{FIRST}.tmp").write_text("half")
    (bench.folder / f".{FIRST}.gz.latest.tmp").symlink_to(outside)
    assert await bench.send(sink) is Outcome.UNCHANGED
    assert bench.names == ["latest", FIRST]
    assert outside.read_text() == "outside"


@pytest.mark.parametrize("target", ["../outside", "/etc/passwd", "gone", ".", "notes.txt", FIRST])
async def test_latest_that_leads_elsewhere_is_replaced_and_never_followed(
    bench: FolderBench, target: str
) -> None:
    bench.folder.mkdir()
    outside = bench.folder.parent / "outside"
    for path in (outside, bench.folder / "notes.txt"):
        path.write_bytes(payload(1).body)
    (bench.folder / FIRST).symlink_to(outside)
    (bench.folder / "latest").symlink_to(target)
    assert await bench.send(bench.exporter()) is Outcome.WRITTEN
    assert bench.latest == "scc-2026-09-21T14-13-20.001Z.json"
    for path in (outside, bench.folder / "notes.txt"):
        assert path.read_bytes() == payload(1).body


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, os.mkfifo])
async def test_latest_that_isnt_a_link_is_left_alone(bench: FolderBench, make: Any) -> None:
    bench.folder.mkdir()
    make(bench.folder / "latest")
    error = await refused(bench, bench.exporter())
    assert isinstance(error, PermanentError)
    assert str(error) == (
        f"{bench.folder}/latest isn't a link and is not changed: move it away, or configure "
        "another directory"
    )


async def test_folder_behind_a_link_is_used(bench: FolderBench, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    bench.folder.symlink_to(tmp_path / "real")
    await bench.send(bench.exporter())
    assert names(tmp_path / "real") == ["latest", FIRST]


async def test_unusable_folders_are_named_with_their_fix(
    bench: FolderBench, tmp_path: Path
) -> None:
    missing, file, loop, dangling = (tmp_path / name for name in ("no", "file", "loop", "dangling"))
    file.touch()
    loop.symlink_to(loop)
    dangling.symlink_to(missing / "inner")
    for path, kind, message in (
        (missing / "out", PermanentError, f"for {missing} doesn't exist: create it"),
        (file, PermanentError, "Not a directory: move away the file"),
        (file / "out", PermanentError, "Not a directory: move away the file"),
        (loop, PermanentError, "Too many levels of symbolic links: fix the links"),
        (tmp_path / ("a" * 300), PermanentError, "File name too long: configure another"),
        (dangling, RetryableError, "a link that leads nowhere"),
    ):
        error = await refused(bench, bench.exporter(directory=str(path)))
        assert isinstance(error, kind), path
        assert error.reason is Reason.STORAGE
        assert str(path) in str(error)
        assert message in str(error)


async def test_folder_of_another_user_names_the_user(bench: FolderBench) -> None:
    bench.folder.mkdir()
    bench.folder.chmod(0o500)
    with not_root() as user, pytest.raises(PermanentError) as raised:
        await bench.send(bench.exporter())
    assert raised.value.reason is Reason.STORAGE
    assert str(raised.value) == (
        f"can't write to {bench.folder}: Permission denied: let user {user} write there, or "
        "configure another directory"
    )


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, RetryableError),
        (errno.EDQUOT, RetryableError),
        (errno.EIO, RetryableError),
        (errno.ESTALE, RetryableError),
        (errno.EPERM, PermanentError),
        (errno.EROFS, PermanentError),
    ],
)
def test_type_of_an_error_says_whether_time_may_fix_it(
    bench: FolderBench, number: int, kind: type[ExportError]
) -> None:
    error = bench.exporter()._translate(OSError(number, "x"))
    assert type(error) is kind
    assert str(error).startswith(f"can't write to {bench.folder}: {os.strerror(number)}")
    assert "{" not in str(error)


async def test_slow_disk_blocks_no_one_and_no_write_starts_beside_it(bench: FolderBench) -> None:
    disk, begun = threading.Event(), threading.Event()

    def slow() -> float:
        begun.set()
        disk.wait(60)
        return bench.now_s

    sink = bench.exporter(now=slow)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(bench.send, sink)
            while not begun.is_set():
                await anyio.sleep(0.001)
            scope.cancel()
    assert scope.cancelled_caught, "the loop was blocked"
    error = await refused(bench, sink, 2)
    assert isinstance(error, RetryableError)
    assert str(error) == (
        f"an earlier write to {bench.folder} still hangs: check the disk or the file server"
    )
    disk.set()
    with anyio.fail_after(30):
        while not (bench.folder / "latest").exists():
            await anyio.sleep(0.001)
    assert bench.nodes() == 1
    with anyio.fail_after(30):
        while True:
            try:
                assert await bench.send(sink) is Outcome.UNCHANGED
                break
            except RetryableError:
                await anyio.sleep(0.001)
    assert bench.names == ["latest", FIRST]


async def test_calls_at_once_take_turns(bench: FolderBench) -> None:
    sink = bench.exporter()
    async with anyio.create_task_group() as group:
        for revision in range(1, 9):
            group.start_soon(bench.send, sink, revision)
    assert check_folder(bench.folder, keep=48) == (8, 0)
    assert {bench.nodes(name) for name in bench.dated} == set(range(1, 9))
    assert bench.latest == bench.dated[-1]


async def test_writers_of_one_folder_never_overwrite_each_other(bench: FolderBench) -> None:
    outcomes: list[Outcome | Reason] = []

    async def write(first: int) -> None:
        sink = bench.exporter()
        for revision in range(first, first + 10):
            try:
                outcomes.append(await bench.send(sink, revision))
            except RetryableError as exc:
                outcomes.append(exc.reason)

    async with anyio.create_task_group() as group:
        for first in (100, 200, 300, 400):
            group.start_soon(write, first)
    assert set(outcomes) <= {Outcome.WRITTEN, Reason.CONFLICT}
    assert check_folder(bench.folder, keep=48) == (outcomes.count(Outcome.WRITTEN), 0)


async def test_folder_in_the_hands_of_another_writer_is_left_to_it(bench: FolderBench) -> None:
    bench.folder.mkdir()
    with holding(bench.folder / LOCK, os.geteuid()):
        error = await refused(bench, bench.exporter())
    assert isinstance(error, RetryableError)
    assert str(bench.folder) in str(error)
    assert await bench.send(bench.exporter()) is Outcome.WRITTEN


async def test_folder_locked_by_another_user_is_written_all_the_same(bench: FolderBench) -> None:
    bench.folder.mkdir(mode=0o755)
    (bench.folder / LOCK).touch(0o600)
    os.chown(bench.folder / LOCK, OTHER_USER, OTHER_USER)
    with holding(bench.folder, OTHER_USER), holding(bench.folder / LOCK, OTHER_USER):
        assert await bench.send(bench.exporter()) is Outcome.WRITTEN


async def test_configured_exporter_writes_under_the_manager(bench: FolderBench) -> None:
    text = f"""
    [[exporters]]
    name = "scc"
    type = "file"
    directory = "{bench.folder}"
    compress = true
    """
    (config,) = parse_config(text, "t.toml", {}).exporters
    factory = ExporterFactory(cast(Any, None), now=lambda: EPOCH_S)
    spec, sink = factory.build(config)
    assert not bench.folder.exists()
    manager = manager_of(Source())
    manager.register(spec, sink)
    async with running(manager):
        with anyio.fail_after(30):
            while (status := manager.status("scc")).last_success_at is None:
                await anyio.sleep(0.01)
    assert (status.type, status.payload_bytes) == ("file", len(render_scc(snapshot(), 0).body))
    assert bench.latest == f"{FIRST}.gz"
