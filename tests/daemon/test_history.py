"""The keeper of the history: what it writes, and what not while it is off or a disk fails."""

import math
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from aiohttp import ClientSession

from telemetryd.config import Config, EntitlementConfig, HistoryConfig
from telemetryd.config.history import DEFAULT_HISTORY
from telemetryd.daemon.history import HistoryKeeper
from telemetryd.errors import HistoryError, NotReady
from telemetryd.history.slots import DAY_S, HOUR_S, MINUTE_S, Gap, Slot
from telemetryd.history.sqlite import read_store
from telemetryd.history.store import FILE_NAME
from telemetryd.model import (
    MANAGED,
    ClusterGroup,
    GroupKey,
    Identity,
    Snapshot,
    Sums,
    Switch,
    Switches,
    Totals,
)
from telemetryd.serve.http.server import serve
from tests.serve.facts import Facts
from tests.serve.http.test_server import Served
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio

INSTALLATION = "7f2c7d1e-0d9d-4c3f-8a0e-0d3b0b6f0f11"
START = 1_800_000_000.0 // DAY_S * DAY_S
KEY = GroupKey(MANAGED, "rke2", "", "imported", "1.33", active=True, deleting=False, stale=False)
EVERYTHING = "nodes.entitled"


def fleet_of(nodes: int, *, complete: bool = True, installation: str = INSTALLATION) -> Snapshot:
    groups = (ClusterGroup(KEY, Sums(clusters=1, nodes=nodes)),)
    return Snapshot(
        1,
        START,
        complete,
        (),
        Identity(installation, "", "https://secret.example.com", "v2.14.1", "abc", "rancher"),
        (),
        (),
        (),
        Totals(groups=groups),
    )


class FakeFleet:
    """A collector of one snapshot, and its clocks, which move only when a test lets them."""

    def __init__(self) -> None:
        self.wall, self.boot = START, 100.0
        self.switches = Switches()
        self.now_is: Snapshot | None = None
        self._event = anyio.Event()
        self.waits = False

    def snapshot(self) -> Snapshot:
        if self.now_is is None:
            raise NotReady(("nodes",))
        return self.now_is

    async def changed(self) -> None:
        self.waits = True
        await self._event.wait()

    async def go(self, seconds: float, nodes: int | None = None) -> None:
        """Let time pass, and the fleet be another; the keeper looks at once."""
        await until_async(lambda: self.waits, "the keeper, which looks or writes")
        self.wall += seconds
        self.boot += seconds
        if nodes is not None:
            self.now_is = fleet_of(nodes)
        await self.tell()

    def wake(self) -> None:
        self.waits = False
        self._event.set()
        self._event = anyio.Event()

    async def tell(self) -> None:
        await until_async(lambda: self.waits, "the keeper, which looks or writes")
        self.wake()
        await until_async(lambda: self.waits, "the keeper")


@asynccontextmanager
async def keeping(
    fleet: FakeFleet,
    folder: Path,
    history: HistoryConfig = DEFAULT_HISTORY,
    look_s: float = 0,
) -> AsyncIterator[HistoryKeeper]:
    keeper = HistoryKeeper(
        fleet,
        Config(state_dir=str(folder), history=history),
        now=lambda: fleet.wall,
        clock=lambda: fleet.boot,
        look_s=look_s,
    )
    async with anyio.create_task_group() as group:
        group.start_soon(keeper.run)
        await anyio.wait_all_tasks_blocked()
        yield keeper
        group.cancel_scope.cancel()


def kept(folder: Path, size_s: int = MINUTE_S, installation: str = INSTALLATION) -> list[Slot]:
    try:
        store = read_store(folder)
    except HistoryError:  # not yet
        return []
    try:
        return store.read(installation, size_s, 0, 2**40)
    finally:
        store.close()


async def until_kept(folder: Path, minutes: int) -> list[Slot]:
    await until_async(lambda: len(kept(folder)) >= minutes, f"{minutes} minutes")
    return kept(folder)


async def test_minute_is_written_when_it_is_over_and_the_rest_at_the_end(tmp_path: Path) -> None:
    fleet = FakeFleet()
    async with keeping(fleet, tmp_path) as keeper:
        await fleet.go(0, nodes=7)
        await fleet.go(30, nodes=9)
        await fleet.go(31)
        (minute,) = await until_kept(tmp_path, 1)
        assert minute.cell(EVERYTHING)[:4] == (9, 7, 7, 9)
        await fleet.go(9)
        assert keeper.status.trouble == ""
        assert keeper.status.samples == 5
        assert keeper.status.last_sample_at == START + 70
    first, second = kept(tmp_path)
    assert (first.known_s, second.known_s) == (60.0, 10.0)
    assert [slot.known_s for slot in kept(tmp_path, HOUR_S)] == [70.0]


async def test_no_name_no_url_and_no_id_of_a_cluster_is_kept(tmp_path: Path) -> None:
    fleet = FakeFleet()
    async with keeping(fleet, tmp_path):
        await fleet.go(0, nodes=7)
        await fleet.go(61)
        await until_kept(tmp_path, 1)
    content = b"".join(each.read_bytes() for each in tmp_path.iterdir())
    assert b"secret.example.com" not in content
    assert INSTALLATION.encode() in content


async def test_nothing_is_kept_while_collection_is_off(tmp_path: Path) -> None:
    fleet = FakeFleet()
    async with keeping(fleet, tmp_path):
        await fleet.go(0, nodes=7)
        await fleet.go(61)
        await until_kept(tmp_path, 1)
        before = (tmp_path / FILE_NAME).stat().st_mtime_ns, len(kept(tmp_path))
        fleet.switches = Switches(frozenset({Switch.SETTING}))
        await fleet.tell()
        for _ in range(5):
            await fleet.go(61, nodes=100)
        assert ((tmp_path / FILE_NAME).stat().st_mtime_ns, len(kept(tmp_path))) == before
        fleet.switches = Switches()
        await fleet.go(0, nodes=8)
        await fleet.go(61)
        minutes = await until_kept(tmp_path, 7)
        assert max(slot.cell(EVERYTHING).high for slot in minutes) == 8
        assert sum(slot.gaps.get(Gap.OFF, 0.0) for slot in minutes) == 5 * 61


async def test_fleet_that_is_not_ready_is_a_gap(tmp_path: Path) -> None:
    fleet = FakeFleet()
    async with keeping(fleet, tmp_path):
        await fleet.go(0, nodes=7)
        await fleet.go(30)
        fleet.now_is = None
        await fleet.go(0)
        await fleet.go(31)
        (minute,) = await until_kept(tmp_path, 1)
        assert (minute.known_s, minute.gaps) == (30.0, {Gap.DOWN: 30.0})


async def test_next_process_says_what_it_missed(tmp_path: Path) -> None:
    fleet = FakeFleet()
    async with keeping(fleet, tmp_path):
        await fleet.go(0, nodes=7)
        await fleet.go(60)
        await until_kept(tmp_path, 1)
    fleet.wall += 2 * HOUR_S
    async with keeping(fleet, tmp_path):
        await fleet.go(0, nodes=7)
        await fleet.go(60)
        await until_kept(tmp_path, 3)
    hours = kept(tmp_path, HOUR_S)
    assert sum(slot.gaps.get(Gap.DOWN, 0.0) for slot in hours) == 2 * HOUR_S


async def test_another_installation_has_a_history_of_its_own(tmp_path: Path) -> None:
    other = INSTALLATION.replace("7", "8")
    fleet = FakeFleet()
    async with keeping(fleet, tmp_path):
        await fleet.go(0, nodes=7)
        fleet.now_is = fleet_of(70, installation=other)
        await fleet.go(10)
        await fleet.go(60)
    assert max(slot.cell(EVERYTHING).high for slot in kept(tmp_path)) == 7
    assert max(slot.cell(EVERYTHING).high for slot in kept(tmp_path, MINUTE_S, other)) == 70


async def test_store_that_fails_is_tried_again_and_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = FakeFleet()
    (tmp_path / FILE_NAME).mkdir()
    async with keeping(fleet, tmp_path) as keeper:
        await fleet.go(0, nodes=7)
        await until_async(lambda: bool(keeper.status.trouble), "a failure")
        for _ in range(3):
            await fleet.go(60)
        (tmp_path / FILE_NAME).rmdir()
        await fleet.go(60)
        minutes = await until_kept(tmp_path, 4)
        assert [slot.known_s for slot in minutes] == [60.0] * 4
        assert (keeper.status.trouble, keeper.status.lost_slots) == ("", 0)
    assert len([each for each in caplog.records if "cannot keep" in each.message]) == 1


async def test_damaged_file_is_moved_aside_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"rubbish" * 1000)
    fleet = FakeFleet()
    async with keeping(fleet, tmp_path):
        await fleet.go(0, nodes=7)
        await fleet.go(61)
        await until_kept(tmp_path, 1)
    assert any("history is damaged" in each.message for each in caplog.records)
    assert [each.read_bytes()[:7] for each in tmp_path.glob("*damaged*")] == [b"rubbish"]


async def test_what_could_not_be_written_stays_with_its_installation(tmp_path: Path) -> None:
    other = INSTALLATION.replace("7", "8")
    fleet = FakeFleet()
    (tmp_path / FILE_NAME).mkdir()
    async with keeping(fleet, tmp_path) as keeper:
        await fleet.go(0, nodes=7)
        await fleet.go(60)
        fleet.now_is = fleet_of(70, installation=other)
        await fleet.go(10)
        await fleet.go(60)
        assert keeper.status.trouble
        (tmp_path / FILE_NAME).rmdir()
        await fleet.go(60)
        await until_async(lambda: bool(kept(tmp_path, MINUTE_S, other)), "the other's minutes")
    assert [each.known_s for each in kept(tmp_path)] == [60.0, 10.0]
    assert {each.cell(EVERYTHING).high for each in kept(tmp_path)} == {7}
    others = kept(tmp_path, MINUTE_S, other)
    assert {each.cell(EVERYTHING).high for each in others} == {70}
    assert sum(each.known_s for each in others) == 120.0


async def test_oldest_slots_go_where_none_is_taken_for_long(tmp_path: Path) -> None:
    fleet = FakeFleet()
    (tmp_path / FILE_NAME).mkdir()
    async with keeping(fleet, tmp_path) as keeper:
        await fleet.go(0, nodes=7)
        for _ in range(60):
            await fleet.go(DAY_S - 61)
        lost = keeper.status.lost_slots
        assert lost > 0
        last = fleet.wall
        (tmp_path / FILE_NAME).rmdir()
        await fleet.go(60)
        await until_kept(tmp_path, 1)
    hours = kept(tmp_path, HOUR_S)
    assert hours[0].start > START + 20 * DAY_S
    assert hours[-1].start > last - HOUR_S


async def test_lock_that_is_held_for_long_loses_and_doubles_nothing(tmp_path: Path) -> None:
    fleet = FakeFleet()
    async with keeping(fleet, tmp_path) as keeper:
        await fleet.go(0, nodes=7)
        await fleet.go(75)
        await until_kept(tmp_path, 1)
        other = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        fleet.wall, fleet.boot = fleet.wall + 60, fleet.boot + 60
        fleet.wake()
        await until_async(lambda: "has held its lock" in keeper.status.trouble, "the lock")
        other.close()
        await fleet.go(60)
        await until_kept(tmp_path, 3)
        assert keeper.status.trouble == ""
    assert sum(each.known_s for each in kept(tmp_path)) == 195.0
    assert sum(each.known_s for each in kept(tmp_path, HOUR_S)) == 195.0


async def test_peak_is_seen_while_the_store_takes_its_time(tmp_path: Path) -> None:
    fleet = FakeFleet()
    async with keeping(fleet, tmp_path, look_s=0.01) as keeper:
        await fleet.go(0, nodes=7)
        await fleet.go(60)
        await until_kept(tmp_path, 1)
        other = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        await until_async(lambda: fleet.waits, "the keeper")
        fleet.wall, fleet.boot = fleet.wall + 60, fleet.boot + 60
        fleet.wake()
        for nodes in (99, 7):
            fleet.now_is, before = fleet_of(nodes), keeper.status.samples
            await until_async(lambda: keeper.status.samples > before + 3, "looks")  # noqa: B023
        other.close()
        await fleet.go(60)
        minutes = await until_kept(tmp_path, 3)
    assert [each.cell(EVERYTHING).high for each in minutes[:3]] == [7, 7, 99]
    assert [each.cell(EVERYTHING).last for each in minutes[:3]] == [7, 7, 7]


async def test_downtime_is_known_to_a_process_that_is_not_ready_at_once(tmp_path: Path) -> None:
    fleet = FakeFleet()
    async with keeping(fleet, tmp_path):
        await fleet.go(0, nodes=7)
        await fleet.go(60)
        await until_kept(tmp_path, 1)
    fleet.wall += HOUR_S
    fleet.now_is = None
    async with keeping(fleet, tmp_path):
        await fleet.go(20)
        await fleet.go(40, nodes=7)
        await fleet.go(60)
        await until_kept(tmp_path, 3)
    hours = kept(tmp_path, HOUR_S)
    assert sum(slot.gaps.get(Gap.DOWN, 0.0) for slot in hours) == HOUR_S + 60
    assert sum(slot.known_s for slot in hours) == 120


def test_sqlite_takes_no_memory_before_a_store_is_opened() -> None:
    script = "import sys, telemetryd.daemon.app; print('sqlite3' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


@pytest.mark.parametrize("why", ["history", "collection"])
async def test_no_file_is_made_while_it_is_off(tmp_path: Path, why: str) -> None:
    fleet = FakeFleet()
    fleet.now_is = fleet_of(7)
    if why == "collection":
        fleet.switches = Switches(frozenset({Switch.CONFIG}))
    async with keeping(fleet, tmp_path, HistoryConfig(enabled=why != "history")):
        for _ in range(3):
            await fleet.go(60)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [0.0, -7e8, 4.2e9, 3e11])
async def test_clock_that_cannot_be_right_writes_and_removes_nothing(
    tmp_path: Path, wrong: float
) -> None:
    fleet = FakeFleet()
    async with keeping(fleet, tmp_path) as keeper:
        await fleet.go(0, nodes=7)
        await fleet.go(60)
        await until_kept(tmp_path, 1)
        fleet.wall = wrong
        await fleet.go(0)
        before = kept(tmp_path)
        for _ in range(3 * 24):
            await fleet.go(HOUR_S)
        assert kept(tmp_path) == before
        assert keeper.status.trouble == ""
        fleet.wall = START + 120
        await fleet.go(60)
        minutes = await until_kept(tmp_path, 3)
        assert [each.start - START for each in minutes] == [0, 60, 120]


async def test_clock_that_is_wrong_for_less_than_an_hour_removes_nothing(tmp_path: Path) -> None:
    fleet = FakeFleet()
    async with keeping(fleet, tmp_path):
        await fleet.go(0, nodes=7)
        await fleet.go(60)
        await until_kept(tmp_path, 1)
    fleet.wall += 20 * 365 * DAY_S
    async with keeping(fleet, tmp_path):
        await fleet.go(0)
        for _ in range(50):
            await fleet.go(60)
        fleet.wall = START + 2 * HOUR_S
        await fleet.go(60)
        for _ in range(50):
            await fleet.go(60)
    assert kept(tmp_path)[0].start == START
    assert kept(tmp_path, HOUR_S)[0].known_s == 60


async def test_old_hours_are_removed_once_a_day(tmp_path: Path) -> None:
    fleet = FakeFleet()
    async with keeping(fleet, tmp_path, HistoryConfig(keep_s=3 * DAY_S, keep_daily_s=10 * DAY_S)):
        await fleet.go(0, nodes=7)
        await fleet.go(60)
        await until_kept(tmp_path, 1)
        await fleet.go(5 * DAY_S)
        await fleet.go(60)
        await until_async(lambda: kept(tmp_path)[0].start > START, "the removal of old minutes")
        assert kept(tmp_path, HOUR_S)[0].start > START
        assert kept(tmp_path, DAY_S)[0].start == START


async def test_what_is_removed_does_not_come_back_from_memory(tmp_path: Path) -> None:
    fleet = FakeFleet()
    async with keeping(fleet, tmp_path) as keeper:
        with pytest.raises(HistoryError, match="no history in"):
            await keeper.ask(lambda store: store.installations())
        assert not (tmp_path / FILE_NAME).exists()
        await fleet.go(0, nodes=70)
        await fleet.go(61)
        await until_kept(tmp_path, 1)
        assert await keeper.ask(lambda store: store.installations()) == [INSTALLATION]
        await keeper.clear()
        assert await keeper.ask(lambda store: store.installations()) == []
        await fleet.go(0, nodes=7)
        await fleet.go(60)
        (minute,) = await until_kept(tmp_path, 1)
        assert minute.cell(EVERYTHING).high == 7
        assert await keeper.prune(2.0 * DAY_S, 2.0 * DAY_S) == 0
        fleet.wall += 3 * DAY_S
        assert await keeper.prune(2.0 * DAY_S, 2.0 * DAY_S) == 3


async def test_history_without_a_state_folder_says_so() -> None:
    keeper = HistoryKeeper(FakeFleet(), Config(state_dir=None), now=lambda: START)
    with pytest.raises(HistoryError, match="no usable state_dir"):
        await keeper.ask(lambda store: store.installations())


async def test_licenses_of_this_month_are_known(tmp_path: Path) -> None:
    fleet = FakeFleet()
    async with keeping(fleet, tmp_path) as keeper:
        keeper.follow(
            Config(
                state_dir=str(tmp_path), entitlement=EntitlementConfig(preset="aws-csp", limit=2)
            )
        )
        assert keeper.status.licenses is None
        await fleet.go(0, nodes=21)
        await fleet.go(61)
        assert [keeper.status.licenses, keeper.status.limit] == [2, 2]
        await fleet.go(1, nodes=20)
        await fleet.go(60)
        assert keeper.status.licenses == 1


async def test_history_is_read_while_it_is_written_and_not_while_it_is_off(tmp_path: Path) -> None:
    fleet = FakeFleet()
    async with keeping(fleet, tmp_path) as keeper:
        assert keeper.facts().installation == ""
        assert await keeper.read(MINUTE_S, 0, math.inf, EVERYTHING) == []
        await fleet.go(0, nodes=7)
        await fleet.go(61)
        await until_kept(tmp_path, 1)
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(keeper.read, MINUTE_S, 0, math.inf, EVERYTHING)
            await fleet.go(58, nodes=8)
            await fleet.go(1)
            await until_kept(tmp_path, 2)
        first, second = await keeper.read(MINUTE_S, 0, math.inf, EVERYTHING)
        assert [set(each.cells) for each in (first, second)] == [{EVERYTHING}] * 2
        assert [each.cell(EVERYTHING).high for each in (first, second)] == [7, 8]
        facts = keeper.facts()
        assert (facts.installation, facts.off) == (INSTALLATION, "")
        assert facts.store == f"SQLite, {tmp_path / FILE_NAME}"
        fleet.switches = Switches(frozenset({Switch.SETTING}))
        assert await keeper.read(MINUTE_S, 0, math.inf, EVERYTHING) == []
        assert "telemetry-opt" in keeper.facts().off


async def test_read_that_succeeds_leaves_the_trouble_of_writing(tmp_path: Path) -> None:
    fleet = FakeFleet()
    async with keeping(fleet, tmp_path) as keeper:
        await fleet.go(0, nodes=7)
        await fleet.go(61)
        await until_kept(tmp_path, 1)
        with closing(sqlite3.connect(tmp_path / FILE_NAME)) as other:
            other.execute(
                "CREATE TRIGGER full BEFORE INSERT ON slots BEGIN SELECT RAISE(FAIL, 'full'); END"
            )
            await fleet.go(60)
            await until_async(lambda: bool(keeper.status.trouble), "a failure")
            assert len(await keeper.read(MINUTE_S, 0, math.inf, EVERYTHING)) == 1
            assert "full" in keeper.status.trouble
            other.execute("DROP TRIGGER full")
        await fleet.go(60)
        await until_kept(tmp_path, 3)
        assert keeper.status.trouble == ""


async def test_pages_show_what_the_keeper_wrote(tmp_path: Path) -> None:
    fleet = FakeFleet()
    async with keeping(fleet, tmp_path) as keeper:
        await fleet.go(0, nodes=7)
        await fleet.go(61, nodes=9)
        await fleet.go(60)
        await until_kept(tmp_path, 2)
        endpoints = replace(Served(Facts()).endpoints(), history=keeper.facts, slots=keeper.read)
        async with serve("127.0.0.1", 0, endpoints) as listening, ClientSession() as session:
            async with session.get(f"http://{listening}/history.json") as answer:
                found = await answer.json()
            async with session.get(f"http://{listening}/history") as answer:
                page = await answer.text()
    (period,) = found["periods"]
    assert (period["figure"], period["peak"]["value"]) == (9, 9)
    assert [point["high"] for point in found["charts"]["day"]][-1] == 9
    assert "This month counts 9 licenses; no limit is configured." in page
