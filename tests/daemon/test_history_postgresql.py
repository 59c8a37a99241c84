"""The keeper of the history with PostgreSQL: it waits for it, in bounds, and exports never do."""

import gc
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from telemetryd.config import Config, HistoryConfig
from telemetryd.daemon import historystore
from telemetryd.daemon.history import HistoryKeeper
from telemetryd.history.backlog import MOST_WAITING
from telemetryd.history.entitlement import Entitlement
from telemetryd.history.months import SETTLED_S
from telemetryd.history.postgresql import PostgresStore
from telemetryd.history.report import MONTH, make_report
from telemetryd.history.slots import HOUR_S, MINUTE_S, Slot
from telemetryd.history.store import CALL_S
from tests.daemon.test_history import EVERYTHING, INSTALLATION, FakeFleet, keeping
from tests.daemon.test_history_months import FEBRUARY
from tests.support.daemon import Daemon
from tests.support.embedded import serve_fleet
from tests.support.postgres import OWNER_PASSWORD, Database
from tests.support.waiting import until, until_async

EVER = (0, 2**40)

# asyncpg leaves a socket to the garbage collector where the server ends in the TLS handshake.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def configured(database: Database) -> HistoryConfig:
    return HistoryConfig(store="postgresql", dsn_file=str(database.dsn_file))


async def kept(database: Database, size_s: int = MINUTE_S) -> list[Slot]:
    store = PostgresStore(str(database.dsn_file))
    return await to_thread.run_sync(lambda: store.read(INSTALLATION, size_s, *EVER))


@contextmanager
def away(database: Database) -> Iterator[None]:
    database.server.kill()
    try:
        yield
    finally:
        database.server.start()
        gc.collect()


@asynccontextmanager
async def away_for(database: Database) -> AsyncIterator[None]:
    """The same for tests with an event loop."""
    context = away(database)
    await to_thread.run_sync(context.__enter__)
    try:
        yield
    finally:
        await to_thread.run_sync(context.__exit__, None, None, None)


@pytest.mark.anyio
async def test_minutes_wait_while_the_server_is_away_and_are_written_once(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = FakeFleet()
    async with keeping(fleet, tmp_path, configured(database)) as keeper:
        await fleet.go(0, nodes=7)
        await fleet.go(60, nodes=8)
        await until_async(lambda: kept(database), "the first minute")
        async with away_for(database):
            for nodes in (9, 10):
                await fleet.go(60, nodes=nodes)
            assert "can't be reached" in keeper.status.trouble
        await fleet.go(60)
        minutes = await kept(database)
        assert [each.cell(EVERYTHING).first for each in minutes] == [7, 8, 9, 10]
        assert {each.known_s for each in minutes} == {60.0}
        assert (keeper.status.trouble, keeper.status.lost_slots) == ("", 0)
        await fleet.go(10)
    (hour,) = await kept(database, HOUR_S)
    assert hour.known_s == 250.0
    warnings = [each.getMessage() for each in caplog.records if "cannot keep" in each.message]
    assert len(warnings) == 1
    assert OWNER_PASSWORD not in "".join(each.getMessage() for each in caplog.records)
    assert not list(tmp_path.glob("history.db*"))


@pytest.mark.anyio
async def test_what_waits_is_bounded_and_what_is_dropped_is_counted(
    database: Database, tmp_path: Path
) -> None:
    assert CALL_S < historystore.STORE_TIMEOUT_S, "its own error comes first, which says more"
    fleet, more = FakeFleet(), 7
    async with keeping(fleet, tmp_path, configured(database)) as keeper:
        await fleet.go(0, nodes=7)
        await fleet.go(60)
        await until_async(lambda: kept(database), "the first minute")
        async with away_for(database):
            # Each minute that the process missed is a slot of its own at the ends of the gap.
            await fleet.go(60)
            later = range(MOST_WAITING + more - 2)
            slots = [Slot(MINUTE_S, int(fleet.wall) + index * MINUTE_S) for index in later]
            lost = keeper._waiting.add(INSTALLATION, 0, slots)
            await fleet.go(60)
            assert len(keeper._waiting) == MOST_WAITING
            assert lost + keeper.status.lost_slots == more
        await fleet.go(60)
        assert (len(keeper._waiting), keeper.status.trouble) == (0, "")


@pytest.mark.anyio
async def test_reload_moves_the_history_to_the_other_store(
    database: Database, tmp_path: Path
) -> None:
    fleet = FakeFleet()
    async with keeping(fleet, tmp_path) as keeper:
        await fleet.go(0, nodes=7)
        await fleet.go(60)
        keeper.follow(Config(state_dir=str(tmp_path), history=configured(database)))
        await fleet.go(60)
        assert [each.start for each in await kept(database)] == [int(fleet.wall) - 60]


@pytest.mark.anyio
async def test_two_replicas_leave_the_hour_of_one(database: Database, tmp_path: Path) -> None:
    """Each writes; the leader ends in the middle, and the other one leads with a new epoch."""
    fleet, epoch = FakeFleet(), 1
    config = Config(state_dir=str(tmp_path), history=configured(database))
    keepers = [
        HistoryKeeper(
            fleet,
            config,
            now=lambda: fleet.wall,
            clock=lambda: fleet.boot,
            look_s=0,
            epoch=lambda: epoch,
        )
        for _ in range(2)
    ]
    for number, each in enumerate(keepers):
        each._store._store = PostgresStore(str(database.dsn_file), writer=f"replica-{number}")
    async with anyio.create_task_group() as group:
        first = anyio.CancelScope()

        async def run_first() -> None:
            with first:
                await keepers[0].run()

        group.start_soon(run_first)
        group.start_soon(keepers[1].run)
        for index in range(20):
            await fleet.go(60, nodes=10 + index)
            if index == 9:
                first.cancel()
                epoch = 2
        await until_async(lambda: keepers[1].status.samples >= 20, "the second one")
        group.cancel_scope.cancel()
    minutes = await kept(database)
    assert [each.known_s for each in minutes if each.known_s] == [60.0] * 19
    (hour,) = await kept(database, HOUR_S)
    assert hour.known_s == 19 * 60
    assert hour.cell(EVERYTHING)[:4] == (29, 10, 10, 29)


@pytest.mark.anyio
async def test_month_that_two_replicas_end_is_logged_by_one(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "telemetryd.daemon.history")
    fleet = FakeFleet()
    fleet.wall = FEBRUARY - 120
    history = configured(database)
    async with keeping(fleet, tmp_path, history), keeping(fleet, tmp_path, history) as other:
        await fleet.go(0, nodes=7)
        for _ in range(10):
            looked = other.status.samples
            await fleet.go(60)
            await until_async(lambda: other.status.samples > looked, "the other one")  # noqa: B023
            said = [each for each in caplog.records if "month ended" in each.message]
            assert not said or fleet.wall >= FEBRUARY + SETTLED_S
        await until_async(lambda: "month ended" in caplog.text, "the digest of January")
    fleet.wall += 60
    async with keeping(fleet, tmp_path, history):
        await fleet.go(0, nodes=7)
        await fleet.go(60)
    assert caplog.text.count("month ended") == 1
    assert "counted again" not in caplog.text
    store = PostgresStore(str(database.dsn_file))
    report = await to_thread.run_sync(
        lambda: make_report(
            store,
            Entitlement(),
            installation=INSTALLATION,
            instance="",
            begin=None,
            end=datetime.fromtimestamp(fleet.wall, UTC),
            by=MONTH,
        )
    )
    assert "month=2027-01 figure=7 licenses=7" in caplog.text
    assert report.periods[0].digest in caplog.text


@pytest.mark.timeout(300)
def test_daemon_goes_on_exporting_while_the_database_is_away(
    database: Database, tmp_path: Path
) -> None:
    with serve_fleet(tmp_path, clusters=2) as server, away(database):
        config = (
            f'[history]\nstore = "postgresql"\ndsn_file = "{database.dsn_file}"\n'
            f'[[exporters]]\nname = "archive"\ntype = "file"\ninterval = "1s"\n'
            f'max_silence = "1s"\ndirectory = "{tmp_path / "archive"}"\n'
        )
        daemon = Daemon(tmp_path, server.kubeconfig, config)
        try:
            daemon.wait_for(
                "the history cannot be kept",
                lambda: daemon.metric("telemetryd_history_writable") == 0,
                60,
            )
            exports = 'telemetryd_exporter_runs_total{exporter="archive",result="success"}'
            before = daemon.metric(exports) or 0.0
            daemon.wait_for("more exports", lambda: (daemon.metric(exports) or 0) > before + 3, 60)
            assert daemon.metric("telemetryd_history_lost_slots_total") == 0
            database.server.start()
            daemon.wait_for(
                "the history is kept", lambda: daemon.metric("telemetryd_history_writable") == 1, 90
            )
        finally:
            assert daemon.stop() == 0
        until(lambda: PostgresStore(str(database.dsn_file)).installations(), "what was kept")
        log = daemon.log()
        said = [json.loads(line).get("error") for line in log.splitlines() if "cannot keep" in line]
        assert 1 <= len(said) == len(set(said)), "each reason once"
        for text in (log, json.dumps(daemon_files(tmp_path))):
            assert OWNER_PASSWORD not in text
        database.server.stop()


def daemon_files(folder: Path) -> list[str]:
    """What the daemon left in its folder, beside the DSN that the test wrote."""
    return [
        each.read_bytes().decode(errors="replace")
        for each in folder.rglob("*")
        if each.is_file() and each.suffix != ".dsn"
    ]
