"""The keeper of the history: what it writes, and what not while it is off or a disk fails."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from telemetryd.config import Config, EntitlementConfig, HistoryConfig
from telemetryd.config.history import DEFAULT_HISTORY
from telemetryd.daemon.history import HistoryKeeper
from telemetryd.errors import HistoryError, NotReady
from telemetryd.history.slots import DAY_S, HOUR_S, MINUTE_S, Gap, Slot
from telemetryd.history.sqlite import FILE_NAME, SqliteStore, read_store
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
        self._waiting = False

    def snapshot(self) -> Snapshot:
        if self.now_is is None:
            raise NotReady(("nodes",))
        return self.now_is

    async def changed(self) -> None:
        self._waiting = True
        await self._event.wait()

    async def go(self, seconds: float, nodes: int | None = None) -> None:
        """Let time pass, and the fleet be another; the keeper looks at once."""
        await until_async(lambda: self._waiting, "the keeper, which looks or writes")
        self.wall += seconds
        self.boot += seconds
        if nodes is not None:
            self.now_is = fleet_of(nodes)
        await self.tell()

    async def tell(self) -> None:
        await until_async(lambda: self._waiting, "the keeper, which looks or writes")
        self._waiting = False
        self._event.set()
        self._event = anyio.Event()
        await until_async(lambda: self._waiting, "the keeper")


@asynccontextmanager
async def keeping(
    fleet: FakeFleet, folder: Path, history: HistoryConfig = DEFAULT_HISTORY
) -> AsyncIterator[HistoryKeeper]:
    keeper = HistoryKeeper(
        fleet,
        Config(state_dir=str(folder), history=history),
        now=lambda: fleet.wall,
        clock=lambda: fleet.boot,
        look_s=0,
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
            await keeper.ask(SqliteStore.installations)
        assert not (tmp_path / FILE_NAME).exists()
        await fleet.go(0, nodes=70)
        await fleet.go(61)
        await until_kept(tmp_path, 1)
        assert await keeper.ask(SqliteStore.installations) == [INSTALLATION]
        await keeper.clear()
        assert await keeper.ask(SqliteStore.installations) == []
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
        await keeper.ask(SqliteStore.installations)


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
