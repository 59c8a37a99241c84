"""The file that SQLite opens: locked, checked, followed where it goes, replaced where it fails."""

import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest

from telemetryd.errors import HistoryError
from telemetryd.history.slots import HOUR_S, MINUTE_S
from telemetryd.history.sqlite import SqliteStore, read_store
from telemetryd.history.sqlitefile import MOST_ASIDE
from telemetryd.history.store import FILE_NAME
from tests.history.test_sqlite import ONE, START, minute, opened
from tests.support.locks import OTHER_USER

ROOT = Path(__file__).parents[2]
BESIDE = ("-wal", "-shm", "-journal")


def starts(store: SqliteStore) -> list[int]:
    return [(slot.start - START) // MINUTE_S for slot in store.read(ONE, MINUTE_S, 0, 2**40)]


def aside(folder: Path) -> list[Path]:
    found = folder.glob(f"{FILE_NAME}.damaged-*")
    return sorted(each for each in found if not each.name.endswith(BESIDE))


def filled(folder: Path, minutes: int = 400) -> SqliteStore:
    """A store whose pages are in the file, and not in SQLite's memory."""
    store = opened(folder)
    store.write(ONE, [minute(index) for index in range(minutes)])
    store.close()
    store = opened(folder)
    with sqlite3.connect(folder / FILE_NAME) as other:
        other.execute("UPDATE installations SET batch = 'another'")
    other.close()
    return store


def overwrite(place: Path, begin: int, content: bytes) -> None:
    """Write past SQLite, as a failing disk does."""
    with place.open("r+b") as file:
        file.seek(begin)
        file.write(content)


def test_file_that_is_damaged_while_it_is_open_is_replaced_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = filled(tmp_path)
    place = tmp_path / FILE_NAME
    overwrite(place, 4096, b"\xff" * (place.stat().st_size - 4096))
    store.write(ONE, [minute(500)])
    store.write(ONE, [minute(501)])
    assert starts(store) == [500, 501]
    (moved,) = aside(tmp_path)
    assert store.set_aside is not None
    assert store.set_aside[0] == moved
    assert b"\xff" * 4096 in moved.read_bytes()
    said = [each for each in caplog.records if "history is damaged" in each.message]
    assert [each.levelno for each in said] == [logging.ERROR]


def test_read_of_a_file_that_is_damaged_meanwhile_finds_nothing_and_goes_on(tmp_path: Path) -> None:
    store = filled(tmp_path)
    place = tmp_path / FILE_NAME
    overwrite(place, 4096, b"\xff" * (place.stat().st_size - 4096))
    assert store.read(ONE, HOUR_S, 0, 2**40) == []
    store.write(ONE, [minute(1)])
    assert starts(store) == [1]
    assert len(aside(tmp_path)) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE slots SET start = start + 1",
        "DROP TABLE cells",
        "ALTER TABLE slots RENAME COLUMN known_s TO unknown_s",
        "UPDATE installations SET uuid = CAST(x'ff' AS TEXT)",
    ],
)
def test_content_that_makes_no_sense_is_replaced(tmp_path: Path, statement: str) -> None:
    store = filled(tmp_path, 3)
    with sqlite3.connect(tmp_path / FILE_NAME) as other:
        other.execute(statement)
    other.close()
    store.installations()
    store.write(ONE, [minute(1)])
    assert starts(store) == [1]
    assert len(aside(tmp_path)) == 1


def test_call_that_would_fail_with_any_file_moves_none_aside(tmp_path: Path) -> None:
    store = filled(tmp_path, 3)
    wrong = replace(minute(3), known_s=None)  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(HistoryError, match="NoneType"):
            store.write(ONE, [minute(2), wrong])
    store.write(ONE, [minute(4)])
    assert starts(store) == [0, 1, 2, 4]
    assert (aside(tmp_path), store.set_aside) == ([], None)


@pytest.mark.parametrize("seed", range(30))
def test_bytes_that_change_under_an_open_file_raise_no_other_error(
    tmp_path: Path, seed: int
) -> None:
    rng, store, place = Random(seed), filled(tmp_path), tmp_path / FILE_NAME
    for turn in range(4):
        length = rng.choice((1, 16, 512, 4096))
        begin = rng.randrange(max(1, place.stat().st_size - length))
        overwrite(place, begin, rng.randbytes(length))
        try:
            store.write(ONE, [minute(600 + turn)])
        except HistoryError as error:
            assert "another program" in str(error) or "has schema" in str(error)  # noqa: PT017
            return
        if 600 + turn not in starts(store) and store.set_aside is None:
            # An order of keys that is wrong shows when the file is next opened.
            store.close()
            store = opened(tmp_path)
            assert store.set_aside is not None
        store.installations()
        if rng.random() < 0.5:
            store.close()
            store = opened(tmp_path)


def test_disk_that_damages_every_file_is_not_filled_with_them(tmp_path: Path) -> None:
    for number in range(MOST_ASIDE):
        (tmp_path / FILE_NAME).write_bytes(b"rubbish %d" % number * 1000)
        opened(tmp_path).close()
    (tmp_path / FILE_NAME).write_bytes(b"more of it" * 1000)
    with pytest.raises(HistoryError, match=r"3 files before it.*check the disk, then move"):
        opened(tmp_path)
    assert len(aside(tmp_path)) == MOST_ASIDE
    assert aside(tmp_path)[0].read_bytes().startswith(b"rubbish 0")
    assert (tmp_path / FILE_NAME).read_bytes().startswith(b"more")


def test_file_that_is_removed_is_begun_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = filled(tmp_path)
    store.write(ONE, [minute(400)])
    (tmp_path / FILE_NAME).unlink()
    store.write(ONE, [minute(401)])
    store.write(ONE, [minute(402)])
    store.close()
    assert starts(read_store(tmp_path)) == [401, 402]
    assert [each.message for each in caplog.records if "history" in each.message] == [
        f"history file was removed or replaced file={tmp_path / FILE_NAME}"
    ]


def test_backup_in_the_place_of_the_file_is_gone_on_with(tmp_path: Path) -> None:
    store = filled(tmp_path, 3)
    store.close()
    shutil.copy(tmp_path / FILE_NAME, tmp_path / "backup")
    store = opened(tmp_path)
    store.write(ONE, [minute(index, 90) for index in range(300)])  # stays in the log beside it
    assert (tmp_path / f"{FILE_NAME}-wal").stat().st_size
    (tmp_path / "backup").rename(tmp_path / FILE_NAME)
    store.write(ONE, [minute(7)])
    assert starts(store) == [0, 1, 2, 7]
    assert aside(tmp_path) == []
    store.close()
    with sqlite3.connect(tmp_path / FILE_NAME) as whole:
        assert whole.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    whole.close()


def test_folder_that_is_gone_fails_clearly_until_it_is_back(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    store = filled(folder, 3)
    folder.rename(tmp_path / "away")
    for _ in range(2):
        with pytest.raises(HistoryError, match=r"history\.db: No such file or directory"):
            store.write(ONE, [minute(8)])
    (tmp_path / "away").rename(folder)
    store.write(ONE, [minute(9)])
    assert starts(store) == [0, 1, 2, 9]


def test_second_writer_is_refused_and_takes_over_once_the_first_has_ended(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.write(ONE, [minute(0)])
    with pytest.raises(HistoryError, match="another telemetryd keeps its history there"):
        opened(tmp_path)
    first.write(ONE, [minute(1)])
    first.close()
    second = opened(tmp_path)
    second.write(ONE, [minute(2)])
    assert starts(second) == [0, 1, 2]


@contextmanager
def locked(place: Path) -> Iterator[None]:
    """Another process holds the write lock."""
    script = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "c.execute('BEGIN EXCLUSIVE'); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(place)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield
        process.communicate()


def test_lock_of_another_process_is_an_error_after_a_while_and_loses_nothing(
    tmp_path: Path,
) -> None:
    store = filled(tmp_path, 3)
    with locked(tmp_path / FILE_NAME):
        with pytest.raises(HistoryError, match=r"locked: another process has held its lock"):
            store.write(ONE, [minute(3)], batch="a")
        assert starts(store) == [0, 1, 2]
    store.write(ONE, [minute(3)], batch="a")
    assert starts(store) == [0, 1, 2, 3]


def test_writer_waits_for_a_lock_that_is_held_briefly(tmp_path: Path) -> None:
    store = filled(tmp_path, 3)
    wait = threading.Event()
    with locked(tmp_path / FILE_NAME):

        def write() -> None:
            wait.set()
            store.write(ONE, [minute(3)])

        thread = threading.Thread(target=write)
        thread.start()
        wait.wait()
    thread.join()
    assert starts(store) == [0, 1, 2, 3]


def test_empty_file_is_begun_and_has_nothing_to_read_before(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).touch()
    with pytest.raises(HistoryError, match="no history in"):
        read_store(tmp_path)
    store = opened(tmp_path)
    store.write(ONE, [minute(0)])
    assert starts(store) == [0]
    assert aside(tmp_path) == []


OTHERS = """
import os, sys
from pathlib import Path
from telemetryd.errors import HistoryError
from tests.history.test_sqlite import opened
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[2]))
try:
    opened(Path(sys.argv[1]))
except HistoryError as error:
    print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
def test_files_of_another_user_are_named_and_left_alone(suffix: str) -> None:
    with TemporaryDirectory() as name:  # which that user may enter
        folder, place = Path(name), Path(name, FILE_NAME)
        store = filled(folder, 3)
        (folder / "history.lock").unlink()
        for each in (folder, *folder.iterdir()):
            os.chown(each, OTHER_USER, OTHER_USER)
        os.chown(f"{place}{suffix}", 0, 0)
        command = [sys.executable, "-c", OTHERS, name, str(OTHER_USER)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert str(place) in done.stdout
        assert "check the owner and the rights of the file" in done.stdout
        assert starts(store) == [0, 1, 2]
        store.close()
