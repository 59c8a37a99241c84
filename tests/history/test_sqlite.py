"""The store in a file: whole or untouched, moved aside if damaged, refused if foreign."""

import os
import signal
import sqlite3
import stat
import sys
from contextlib import closing
from pathlib import Path
from random import Random
from subprocess import PIPE, Popen

import pytest

from telemetryd.errors import HistoryError
from telemetryd.history.slots import (
    DAY_S,
    HOUR_S,
    MINUTE_S,
    MINUTES_KEPT_S,
    Cell,
    Gap,
    Moment,
    Slot,
    join,
    piece,
)
from telemetryd.history.sqlite import SqliteStore, open_store, read_store
from telemetryd.history.store import FILE_NAME

ONE, OTHER = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
START = 1_800_000_000 // DAY_S * DAY_S


def minute(index: int, nodes: int = 5) -> Slot:
    moment = Moment({"nodes.all": nodes, "clusters.all": 1}, complete=True, version="v2.14.1")
    return piece(MINUTE_S, START + index * MINUTE_S, 60.0, moment)


def opened(folder: Path) -> SqliteStore:
    return open_store(folder, now=lambda: float(START))


def test_slots_come_back_as_they_were_written(tmp_path: Path) -> None:
    store = opened(tmp_path)
    gap = Slot(MINUTE_S, START + 60, 10.0, 0.0, gaps={Gap.OFF: 30.0, Gap.INCOMPLETE: 10.0})
    store.write(ONE, [minute(0), gap])
    store.write(OTHER, [minute(7)])
    store.close()
    read = read_store(tmp_path)
    assert read.read(ONE, MINUTE_S, START, START + HOUR_S) == [minute(0), gap]
    assert read.read(ONE, MINUTE_S, START + 60, START + 61) == [gap]
    assert read.read(ONE, HOUR_S, 0, 2**40) == [join(HOUR_S, START, (minute(0), gap))]
    assert read.installations() == [ONE, OTHER]
    assert read.known_until(ONE) == START + 100
    assert read.known_until("33333333-3333-4333-8333-333333333333") is None


def test_only_its_user_can_read_it(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.write(ONE, [minute(0)])
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()}
    assert modes
    assert set(modes.values()) == {0o600}
    assert store.journal == "wal"


def test_old_slots_go_by_their_size(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.write(ONE, [minute(0), minute(24 * 60 * 30)])
    now = START + 30 * DAY_S + 60.0
    assert store.prune(now, keep_s=20 * DAY_S, keep_daily_s=400 * DAY_S) == 2
    left = {size: store.read(ONE, size, 0, 2**40) for size in (MINUTE_S, HOUR_S, DAY_S)}
    assert [len(slots) for slots in left.values()] == [1, 1, 2]
    assert store.prune(now + MINUTES_KEPT_S + 60, keep_s=DAY_S, keep_daily_s=DAY_S) == 4


def test_clear_leaves_nothing_in_the_file(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.write(ONE, [minute(0)])
    store.note_digest(ONE, START, "digest of a month")
    store.clear()
    assert store.installations() == []
    store.close()
    for each in tmp_path.iterdir():
        content = each.read_bytes()
        assert ONE.encode() not in content
        assert b"nodes.all" not in content
        assert b"v2.14.1" not in content
        assert b"digest of a month" not in content


def test_file_without_a_table_that_was_added_goes_on(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.write(ONE, [minute(0)])
    store.close()
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as former:
        former.execute("DROP TABLE digests")
    assert len(read_store(tmp_path).read(ONE, MINUTE_S, 0, 2**40)) == 1
    store = opened(tmp_path)
    assert store.digests(ONE) == {}
    assert store.note_digest(ONE, START, "a")
    assert (len(store.read(ONE, MINUTE_S, 0, 2**40)), store.set_aside) == (1, None)


@pytest.mark.parametrize(
    "content", [b"not a database" * 100, b"SQLite format 3\0" + b"\xff" * 8000]
)
def test_damaged_file_is_moved_aside(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(HistoryError, match=r"damaged.*start the daemon"):
        read_store(tmp_path)
    store = opened(tmp_path)
    assert store.set_aside is not None
    aside, why = store.set_aside
    assert aside.read_bytes() == content
    assert why
    store.write(ONE, [minute(0)])
    assert len(store.read(ONE, MINUTE_S, 0, 2**40)) == 1


def test_any_damaged_page_is_found_or_harmless(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.write(ONE, [minute(index) for index in range(300)])
    store.close()
    whole = (tmp_path / FILE_NAME).read_bytes()
    rng = Random(5)
    for trial in range(12):
        folder = tmp_path / str(trial)
        folder.mkdir()
        broken = bytearray(whole)
        begin = rng.randrange(len(whole) - 512)
        broken[begin : begin + 512] = rng.randbytes(512)
        (folder / FILE_NAME).write_bytes(broken)
        again = opened(folder)
        again.write(ONE, [minute(1000)])
        assert again.read(ONE, MINUTE_S, START + 60_000, START + 60_001) == [minute(1000)]
        again.close()


def test_file_of_another_program_is_left_alone(tmp_path: Path) -> None:
    place = tmp_path / FILE_NAME
    foreign = sqlite3.connect(place)
    foreign.execute("CREATE TABLE theirs (x)")
    foreign.commit()
    foreign.close()
    before = place.read_bytes()
    with pytest.raises(HistoryError, match="another program"):
        opened(tmp_path)
    assert place.read_bytes() == before


def test_file_of_a_newer_telemetryd_is_left_alone(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.write(ONE, [minute(0)])
    store.close()
    newer = sqlite3.connect(tmp_path / FILE_NAME)
    newer.execute("PRAGMA user_version = 9")
    newer.close()
    for open_it in (opened, read_store):
        with pytest.raises(HistoryError, match="has schema 9"):
            open_it(tmp_path)


def test_link_in_the_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    (tmp_path / FILE_NAME).symlink_to(target)
    with pytest.raises(HistoryError):
        opened(tmp_path)
    assert not target.exists()


def test_no_history_says_where_it_would_be(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="no history in"):
        read_store(tmp_path)


def test_reader_sees_the_last_transaction_while_the_daemon_writes(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.write(ONE, [minute(0)])
    read = read_store(tmp_path)
    store.write(ONE, [minute(1)])
    assert len(read.read(ONE, MINUTE_S, 0, 2**40)) == 2


def test_batch_that_was_cut_off_is_not_added_twice(tmp_path: Path) -> None:
    part = piece(MINUTE_S, START, 20.0, Moment({"nodes.all": 5}, complete=True))
    store = opened(tmp_path)
    for _ in range(3):
        store.write(ONE, [part], batch="a")
    store.close()
    store = opened(tmp_path)
    store.write(ONE, [part], batch="a")
    assert [each.known_s for each in store.read(ONE, HOUR_S, 0, 2**40)] == [20.0]
    store.write(OTHER, [part], batch="a")
    store.write(ONE, [part], batch="b")
    assert [each.known_s for each in store.read(ONE, HOUR_S, 0, 2**40)] == [40.0]
    assert [each.known_s for each in store.read(OTHER, DAY_S, 0, 2**40)] == [20.0]


def lives(rng: Random) -> list[list[Slot]]:
    """Batches of minutes that go on, are missing, come again, and lie days back."""
    at, found = 0, []
    for _ in range(120):
        at += rng.choice((1, 1, 1, 1, 2, 40, -1, -70, -1500))
        moments = [
            Moment(
                {"nodes.all": rng.randrange(9), "gpus.amd": rng.randrange(2)}, rng.random() > 0.2
            )
            for _ in range(rng.randrange(1, 3))
        ]
        start = START + 2 * DAY_S + at * MINUTE_S
        batch = [piece(MINUTE_S, start, rng.choice((0.0, 7.5, 30.0)), each) for each in moments]
        if rng.random() < 0.1:
            hour = START + (2 * 24 + at // 60 - 3) * HOUR_S
            batch.insert(0, Slot(HOUR_S, hour, gaps={Gap.DOWN: 3600.0}))
        found.append(batch)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_what_is_remembered_of_an_hour_changes_nothing(tmp_path: Path, seed: int) -> None:
    for name in ("kept", "fresh"):
        (tmp_path / name).mkdir()
    kept = opened(tmp_path / "kept")
    for batch in lives(Random(seed)):
        kept.write(ONE, batch)
        fresh = opened(tmp_path / "fresh")
        fresh.write(ONE, batch)
        fresh.close()
    fresh = opened(tmp_path / "fresh")
    for size_s in (MINUTE_S, HOUR_S, DAY_S):
        found = kept.read(ONE, size_s, 0, 2**40)
        assert found == fresh.read(ONE, size_s, 0, 2**40)
        for name in ("nodes.all", "gpus.amd", "gpus.intel"):
            alone = kept.read(ONE, size_s, 0, 2**40, series=name)
            assert [each.cell(name) for each in alone] == [each.cell(name) for each in found]
            assert all(each.cells.keys() <= {name} for each in alone)


def test_hour_is_made_of_the_minutes_of_both_halves_that_were_merged(tmp_path: Path) -> None:
    for name, indices in (("one", range(20)), ("other", range(20, 60))):
        (tmp_path / name).mkdir()
        store = opened(tmp_path / name)
        store.write(ONE, [minute(index, 5 + index) for index in indices])
        store.close()
    other, one = read_store(tmp_path / "other"), opened(tmp_path / "one")
    slots = [
        (ONE, slot)
        for size_s in (DAY_S, HOUR_S, MINUTE_S)
        for slot in other.read(ONE, size_s, 0, 2**40)
    ]
    for _ in range(2):
        assert one.merge(slots) == 42
        for size_s in (HOUR_S, DAY_S):
            (made,) = one.read(ONE, size_s, 0, 2**40)
            assert (made.known_s, made.cell("nodes.all")[:4]) == (3600.0, (64, 5, 5, 64))


def test_clock_that_comes_back_to_an_hour_without_its_minutes_makes_it_no_poorer(
    tmp_path: Path,
) -> None:
    store = opened(tmp_path)
    store.write(ONE, [minute(index, 5) for index in range(60)])
    assert store.prune(START + 3 * DAY_S, keep_s=9 * DAY_S, keep_daily_s=9 * DAY_S) == 60
    store.write(ONE, [minute(7, 2)])
    store.write(ONE, [minute(8, 30)])
    for size_s in (HOUR_S, DAY_S):
        (slot,) = store.read(ONE, size_s, 0, 2**40)
        assert (slot.known_s, slot.cell("nodes.all")) == (3600.0, Cell(30, 5, 5, 5, 5.0))


def test_number_that_is_too_large_is_refused_and_damages_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.write(ONE, [minute(0)])
    with pytest.raises(HistoryError, match="too large"):
        store.merge([(ONE, minute(1)), (ONE, minute(2, 2**64))])
    assert len(store.read(ONE, MINUTE_S, 0, 2**40)) == 1
    assert store.set_aside is None


def test_series_that_another_process_removed_are_written_again(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.write(ONE, [minute(0)])
    other = sqlite3.connect(tmp_path / FILE_NAME)
    for table in ("cells", "slots", "series", "installations"):
        other.execute(f"DELETE FROM {table}")
    other.execute("INSERT INTO series (name) VALUES ('gpus.amd')")
    other.commit()
    other.close()
    store.write(ONE, [minute(1, 8)])
    (hour,) = store.read(ONE, HOUR_S, 0, 2**40)
    assert (hour.known_s, sorted(hour.cells)) == (60.0, ["clusters.all", "nodes.all"])
    assert hour.cell("nodes.all").high == 8


def test_series_at_zero_take_no_room_and_are_known(tmp_path: Path) -> None:
    store = opened(tmp_path)
    gone = {f"nodes.provider.{number}": 0 for number in range(40)}
    store.write(ONE, [piece(MINUTE_S, START, 60.0, Moment({"nodes.all": 1, **gone}, True))])
    with sqlite3.connect(tmp_path / FILE_NAME) as file:
        assert file.execute("SELECT count(*) FROM cells").fetchone() == (3,)
    file.close()
    (slot,) = store.read(ONE, MINUTE_S, 0, 2**40)
    assert slot.cell("nodes.provider.7") == (0, 0, 0, 0, 0.0)


def test_minutes_that_a_wrong_clock_left_ahead_are_not_the_last_ones(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.write(ONE, [minute(0), minute(10**6)])
    assert store.known_until(ONE, START + 3600) == START + 60
    assert store.known_until(ONE, START) is None


WRITER = """
import sys
from pathlib import Path
from tests.history.test_sqlite import ONE, minute, opened
store = opened(Path(sys.argv[1]))
index = int(sys.argv[2])
while True:
    store.write(ONE, [minute(index, index + 1)])
    print(index, flush=True)
    index += 1
"""


@pytest.mark.parametrize(
    "kills", [8, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_kill_while_it_writes_loses_no_slot_and_doubles_none(tmp_path: Path, kills: int) -> None:
    rng, index = Random(3), 0
    for _ in range(kills):
        argv = [sys.executable, "-c", WRITER, str(tmp_path), str(index)]
        with Popen(argv, stdout=PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(rng.randrange(1, 12)):
                index = int(writer.stdout.readline()) + 1
            os.kill(writer.pid, signal.SIGKILL)
            for line in writer.stdout:
                index = int(line) + 1
        store = read_store(tmp_path)
        slots = store.read(ONE, MINUTE_S, 0, 2**40)
        # The one whose line was not printed may be there, too, and will be written again.
        assert [slot.start for slot in slots[:index]] == [
            minute(each).start for each in range(index)
        ]
        assert len(slots) - index in (0, 1)
        assert all(slot.known_s == 60.0 for slot in slots)
        store.close()
