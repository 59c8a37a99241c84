"""The store in a real PostgreSQL: as a file's, for replicas, and through whatever may go wrong."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from telemetryd.history.postgresql import PostgresStore
from telemetryd.history.report import DAY, make_report
from telemetryd.history.slots import (
    DAY_S,
    HOUR_S,
    MINUTE_S,
    SIZES,
    Cell,
    Gap,
    Moment,
    Slot,
    join,
    piece,
)
from telemetryd.history.sqlite import open_store
from tests.history.replay import Life, recount
from tests.history.test_sqlite import ONE, OTHER, START, minute
from tests.history.test_year import RULES, check, live
from tests.support.postgres import (
    Database,
)

EVER = (0, 2**40)
NODES = "nodes.all"


def store_of(database: Database, writer: str = "", timeout_s: float = 15.0) -> PostgresStore:
    return PostgresStore(str(database.dsn_file), writer=writer, timeout_s=timeout_s)


def store_by(database: Database, dsn: str, timeout_s: float = 15.0) -> PostgresStore:
    file = database.dsn_file.with_name(f"{uuid4()}.dsn")
    file.write_text(dsn)
    return PostgresStore(str(file), timeout_s=timeout_s)


def part(index: int, seconds: float, nodes: int, *, complete: bool = True) -> Slot:
    moment = Moment({NODES: nodes, "clusters.all": 1}, complete, "v2.14.1")
    return piece(MINUTE_S, START + index * MINUTE_S, seconds, moment)


def test_slots_come_back_as_they_were_written(database: Database) -> None:
    store = store_of(database)
    gap = Slot(MINUTE_S, START + 60, 10.0, 0.0, gaps={Gap.OFF: 30.0, Gap.INCOMPLETE: 10.0})
    store.write(ONE, [minute(0), gap])
    store.write(OTHER, [minute(7)])
    assert store.read(ONE, MINUTE_S, START, START + HOUR_S) == [minute(0), gap]
    assert store.read(ONE, MINUTE_S, START + 60, START + 61) == [gap]
    assert store.read(ONE, MINUTE_S, START + 0.5, float("inf")) == [gap]
    assert store.read(ONE, MINUTE_S, *EVER, most=1) == [minute(0)]
    (hour,) = store.read(ONE, HOUR_S, *EVER, series=NODES)
    assert hour.cells == {NODES: minute(0).cells[NODES]}
    assert store.installations() == [ONE, OTHER]
    assert store.known_until(ONE) == START + 100
    assert store.known_until("33333333-3333-4333-8333-333333333333") is None


def test_database_without_a_history_is_empty_and_reading_makes_nothing(database: Database) -> None:
    store = store_of(database)
    assert (store.installations(), store.read(ONE, DAY_S, *EVER)) == ([], [])
    assert store.known_until(ONE) is None
    assert database.ask("SELECT to_regnamespace('telemetryd')::text") == [(None,)]


# -- as a file's

SERIES = ("nodes.all", "nodes.managed", "clusters.provider.rke2")


@st.composite
def slots(draw: st.DrawFn) -> Slot:
    """A part of a slot as a recorder makes them: seen, seen in part, or missed."""
    size_s = draw(st.sampled_from((MINUTE_S, MINUTE_S, MINUTE_S, HOUR_S, DAY_S)))
    start = START + draw(st.integers(0, 2 * DAY_S - 1)) // size_s * size_s
    if size_s == MINUTE_S:
        start = START + draw(st.integers(55, 64)) * MINUTE_S
    seconds = draw(st.integers(0, 60)) / 1
    if size_s != MINUTE_S or draw(st.booleans()):
        gap = draw(st.sampled_from((Gap.OFF, Gap.DOWN, Gap.CLOCK)))
        return Slot(size_s, start, gaps={gap: seconds + 1})
    values = draw(st.dictionaries(st.sampled_from(SERIES), st.integers(0, 2**40)))
    version = draw(st.sampled_from(("", "v2.13.0", "v2.14.1")))
    return piece(size_s, start, seconds, Moment(values, draw(st.booleans()), version))


CALLS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.lists(slots(), min_size=1, max_size=6)),
        st.tuples(st.just("merge"), st.lists(slots(), min_size=1, max_size=4)),
        st.tuples(st.just("prune"), st.integers(0, 3 * DAY_S)),
    ),
    min_size=1,
    max_size=6,
)


def tidy(slot: Slot) -> Slot:
    """Without cells that say what a missing one says, which a file leaves out."""
    missing = replace(slot, cells={}).cell("")
    cells = {name: cell for name, cell in slot.cells.items() if cell != missing}
    return replace(slot, cells=cells)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=CALLS)
def test_one_writer_leaves_the_same_slots_as_in_a_file(
    database: Database, calls: list[tuple[str, list[Slot] | int]]
) -> None:
    installation = str(uuid4())
    ours = store_of(database)
    with TemporaryDirectory() as folder:
        file = open_store(Path(folder), now=lambda: 0.0)
        for name, given_ in calls:
            for store in (ours, file):
                if isinstance(given_, int):
                    removed = store.prune(
                        START + given_,
                        keep_s=DAY_S,
                        keep_daily_s=2 * DAY_S,
                        installation=installation,
                    )
                    assert removed >= 0
                elif name == "write":
                    store.write(installation, given_, epoch=3, batch=f"{uuid4()}")
                else:
                    assert store.merge([(installation, each) for each in given_]) == len(given_)
        for size_s in SIZES:
            expected = file.read(installation, size_s, *EVER)
            found = ours.read(installation, size_s, *EVER)
            assert [tidy(each) for each in found] == [tidy(each) for each in expected]
        assert ours.known_until(installation) == file.known_until(installation)
        file.close()


def test_prune_leaves_other_installations_alone_and_clear_leaves_nothing(
    database: Database,
) -> None:
    store = store_of(database)
    for each in (ONE, OTHER):
        store.write(each, [minute(0)])
        assert store.note_digest(each, START, "one")
    late = START + 400.0 * DAY_S
    prune = partial(store.prune, late, keep_s=2.0 * DAY_S, keep_daily_s=2.0 * DAY_S)
    assert prune(installation=ONE) == 3
    assert (store.installations(), len(store.read(OTHER, MINUTE_S, *EVER))) == ([OTHER], 1)
    assert (store.digests(ONE), store.digests(OTHER)) == ({}, {START: "one"})
    assert prune() == 3
    store.write(ONE, [minute(0)])
    store.note_digest(ONE, START, "one")
    store.clear()
    tables = ("installations", "slots", "cells", "writers", "digests")
    assert [database.ask(f"SELECT * FROM telemetryd.{table}") for table in tables] == [[]] * 5


def test_digest_of_a_month_is_noted_once_by_whichever_store(
    database: Database, tmp_path: Path
) -> None:
    with closing(open_store(tmp_path, now=lambda: 0.0)) as file:
        for store in (store_of(database), file):
            noted = [store.note_digest(ONE, START, each) for each in ("a", "a", "b", "b", "a")]
            assert noted == [True, False, True, False, True]
            assert store.note_digest(ONE, START + 31 * DAY_S, "c")
            assert store.note_digest(OTHER, START, "a")
            assert store.digests(ONE) == {START: "a", START + 31 * DAY_S: "c"}
            assert store.digests("33333333-3333-4333-8333-333333333333") == {}
            keep = {"keep_s": DAY_S, "keep_daily_s": DAY_S}
            store.prune(START + 3.0 * DAY_S, **keep, installation=ONE)
            assert store.digests(ONE) == {START + 31 * DAY_S: "c"}
            assert store.digests(OTHER) == {START: "a"}


def test_replicas_that_note_a_digest_at_once_learn_which_of_them_was_first(
    database: Database,
) -> None:
    stores = [store_of(database, f"replica-{number}") for number in range(6)]
    stores[0].write(ONE, [minute(0)])
    with ThreadPoolExecutor(6) as pool:
        noted = list(pool.map(lambda store: store.note_digest(ONE, START, "a"), stores))
    assert sorted(noted) == [False] * 5 + [True]


# -- replicas


def test_report_of_two_replicas_is_what_a_recount_of_the_log_says(database: Database) -> None:
    """Both write each minute, and lead by turns; the one that isn't sees half of a minute less."""
    rng, epochs, waiting = Random(11), {"a": 1, "b": 0}, list[Slot]()
    stores = {name: store_of(database, name) for name in epochs}

    def write(slots: list[Slot]) -> None:
        waiting.extend(slots)
        if len(waiting) >= 400:
            flush()

    def flush() -> None:
        if rng.randrange(3) == 0:
            epochs[min(epochs, key=lambda each: epochs[each])] = max(epochs.values()) + 1
        for name in rng.sample(sorted(stores), 2):
            leads = epochs[name] == max(epochs.values())
            seen = [each if leads else replace(each, known_s=each.known_s / 2) for each in waiting]
            stores[name].write(ONE, seen, epoch=epochs[name], batch=f"{uuid4()}")
        waiting.clear()

    life = Life(float(START), write)
    live(life, Random(3), 10, steps=(3, 7200))
    life.pass_time(60 - life.wall % 60)
    flush()
    end = datetime.fromtimestamp(life.wall + DAY_S, UTC)
    for rule in RULES:
        report = make_report(
            stores["a"], rule, installation=ONE, instance="", begin=None, end=end, by=DAY
        )
        assert len(report.periods) > 9
        check(report, rule, recount(life.log))


def test_the_same_batch_counts_once_and_another_one_again(database: Database) -> None:
    store = store_of(database, "a")
    for _ in range(3):
        store.write(ONE, [part(0, 20.0, 5)], batch="first")
    assert [each.known_s for each in store.read(ONE, MINUTE_S, *EVER)] == [20.0]
    store.write(ONE, [part(0, 20.0, 7)], batch="second")
    (slot,) = store.read(ONE, MINUTE_S, *EVER)
    assert (slot.known_s, slot.cell(NODES)) == (40.0, Cell(7, 5, 5, 7, 6.0))


def test_of_two_replicas_the_one_with_the_higher_epoch_counts_with_the_peaks_of_both(
    database: Database,
) -> None:
    a, b = store_of(database, "a"), store_of(database, "b")
    a.write(ONE, [part(0, 60.0, 90)], epoch=1)
    b.write(ONE, [part(0, 30.0, 5)], epoch=2)
    a.write(ONE, [part(0, 60.0, 99)], epoch=1, batch="late")
    for size_s in (MINUTE_S, HOUR_S, DAY_S):
        (slot,) = a.read(ONE, size_s, *EVER)
        assert slot.cell(NODES).high == 99
    (slot,) = a.read(ONE, MINUTE_S, *EVER)
    assert (slot.known_s, slot.cell(NODES)) == (30.0, Cell(99, 5, 5, 5, 5.0))


def test_among_equal_epochs_the_record_that_knows_more_counts(database: Database) -> None:
    a, b = store_of(database, "a"), store_of(database, "b")
    a.write(ONE, [part(0, 40.0, 5)], epoch=2)
    b.write(ONE, [part(0, 50.0, 6)], epoch=2)
    a.write(ONE, [part(0, 10.0, 8)], epoch=2, batch="more")
    (slot,) = a.read(ONE, MINUTE_S, *EVER)
    assert (slot.known_s, slot.cell(NODES)) == (50.0, Cell(8, 6, 6, 6, 6.0))


def test_leader_that_knows_nothing_yet_takes_nothing_away(database: Database) -> None:
    store_of(database, "a").write(ONE, [part(0, 60.0, 5)], epoch=1)
    store_of(database, "b").write(ONE, [Slot(MINUTE_S, START, gaps={Gap.DOWN: 60.0})], epoch=2)
    assert store_of(database).read(ONE, MINUTE_S, *EVER) == [part(0, 60.0, 5)]


@pytest.mark.parametrize("both_write", [True, False], ids=["each writes", "only the leader writes"])
def test_hand_over_in_the_middle_of_an_hour_leaves_the_hour_of_one_observer(
    database: Database, both_write: bool
) -> None:
    """The leader ends at half past, and the other one goes on; the fleet grows by the minute."""
    a, b = store_of(database, "a"), store_of(database, "b")
    for index in range(60):
        seen = [part(index, 60.0, 10 + index)]
        if index < 30:
            a.write(ONE, seen, epoch=1, batch=f"a{index}")
        if index >= 30 or both_write:
            b.write(ONE, seen, epoch=2 if index >= 30 else 1, batch=f"b{index}")
    expected = join(HOUR_S, START, [part(index, 60.0, 10 + index) for index in range(60)])
    assert a.read(ONE, HOUR_S, *EVER) == [expected]
    (day,) = b.read(ONE, DAY_S, *EVER)
    assert (day.known_s, day.cell(NODES)[:4]) == (HOUR_S, (69, 10, 10, 69))


def test_replicas_that_write_at_once_lose_and_double_nothing(database: Database) -> None:
    def live(writer: str) -> None:
        store = store_of(database, writer)
        for index in range(12):
            store.write(ONE, [part(index, 60.0, 10 + index)], epoch=1, batch=f"{index}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(live, "abcd"))
    expected = [part(index, 60.0, 10 + index) for index in range(12)]
    assert store_of(database).read(ONE, MINUTE_S, *EVER) == expected
    assert store_of(database).read(ONE, HOUR_S, *EVER) == [join(HOUR_S, START, expected)]
    assert database.ask("SELECT count(*) FROM telemetryd.installations") == [(1,)]
