"""The digest of each month: logged once it is over, on clocks and stores that fail, never twice."""

import logging
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from telemetryd.config import Config, EntitlementConfig, HistoryConfig
from telemetryd.history.entitlement import Entitlement, entitlement_of
from telemetryd.history.report import MONTH, make_report
from telemetryd.history.slots import DAY_S, HOUR_S
from telemetryd.history.sqlite import read_store
from telemetryd.history.store import FILE_NAME
from telemetryd.model import Switches
from tests.daemon.test_history import INSTALLATION, FakeFleet, keeping, until_kept
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio

FEBRUARY = datetime(2027, 2, 1, tzinfo=UTC).timestamp()
ENDED, AGAIN = "month ended", "month counted again"


class Said:
    """What was logged of months: the message, the month and the digest of each line."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    def lines(self) -> list[tuple[str, str, str]]:
        found = []
        for record in self._caplog.records:
            words = record.msg.partition(" month=")[0]
            if words in {ENDED, AGAIN}:
                assert isinstance(record.args, tuple)
                found.append((words, str(record.args[0]), str(record.args[-1])))
        return found

    def words(self) -> list[tuple[str, str]]:
        return [each[:2] for each in self.lines()]


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Said:
    caplog.set_level(logging.INFO, "telemetryd.daemon.history")
    return Said(caplog)


@pytest.fixture
def fleet() -> FakeFleet:
    """Ten minutes before the end of January."""
    made = FakeFleet()
    made.wall = FEBRUARY - 600
    return made


async def live(fleet: FakeFleet, minutes: int) -> None:
    """Let minutes pass, of which each is known."""
    for _ in range(minutes):
        await fleet.go(60)


def digests(folder: Path, now: float, rule: Entitlement | None = None) -> dict[str, str]:
    """By month, as a report of the file has them."""
    with closing(read_store(folder)) as store:
        report = make_report(
            store,
            rule or Entitlement(),
            installation=INSTALLATION,
            instance="",
            begin=None,
            end=datetime.fromtimestamp(now, UTC),
            by=MONTH,
        )
    return {f"{each.begin:%Y-%m}": each.digest for each in report.periods}


async def test_digest_is_logged_at_the_end_of_the_month_and_never_again(
    fleet: FakeFleet, tmp_path: Path, said: Said
) -> None:
    async with keeping(fleet, tmp_path):
        await fleet.go(0, nodes=7)
        await fleet.go(540)
        await until_kept(tmp_path, 1)
        assert said.lines() == []
        await fleet.go(61)
        await until_async(said.lines, "the digest of January")
        for _ in range(3):
            await fleet.go(HOUR_S)
    for later in (DAY_S, 20 * DAY_S):
        fleet.wall += later
        async with keeping(fleet, tmp_path):
            await fleet.go(0, nodes=8)
            await fleet.go(61)
            await fleet.go(61)
    january = digests(tmp_path, fleet.wall)["2027-01"]
    assert said.lines() == [(ENDED, "2027-01", january)]


class LeapingFleet(FakeFleet):
    """Its clock leaps into February between a look and the write after it."""

    reads = 0

    @property
    def switches(self) -> Switches:
        self.reads += self.wall > FEBRUARY - 500  # each look asks, then the write does
        if self.reads == 2:
            self.wall = FEBRUARY + 600
        return Switches()

    @switches.setter
    def switches(self, _: Switches) -> None:
        pass


async def test_clock_that_leaps_over_the_end_after_a_look_costs_the_digest_nothing(
    tmp_path: Path, said: Said
) -> None:
    fleet = LeapingFleet()
    fleet.wall = FEBRUARY - 600
    async with keeping(fleet, tmp_path):
        await fleet.go(0, nodes=7)
        await fleet.go(61)
        await fleet.go(110)
        assert fleet.wall > FEBRUARY
        assert said.lines() == []
        await fleet.go(61)
        await until_async(said.lines, "the digest of January")
        await fleet.go(61)
    january = digests(tmp_path, fleet.wall)["2027-01"]
    assert said.lines() == [(ENDED, "2027-01", january)]


async def test_months_that_ended_while_no_daemon_ran_are_logged_at_the_next_start(
    fleet: FakeFleet, tmp_path: Path, said: Said
) -> None:
    async with keeping(fleet, tmp_path):
        await fleet.go(0, nodes=7)
        await fleet.go(61)
    fleet.wall = FEBRUARY + 10 * DAY_S
    async with keeping(fleet, tmp_path):
        await fleet.go(0, nodes=7)
        await fleet.go(61)
        await until_async(said.lines, "the digest of January")
        await fleet.go(61)
    fleet.wall += 80 * DAY_S
    async with keeping(fleet, tmp_path):
        await fleet.go(0, nodes=7)
        await fleet.go(61)
        await until_async(lambda: len(said.lines()) > 1, "the digest of February")
        await fleet.go(61)
    found = digests(tmp_path, fleet.wall)
    # Of March and April nothing is known.
    assert said.lines() == [(ENDED, month, found[month]) for month in ("2027-01", "2027-02")]


@pytest.mark.parametrize(
    ("back_s", "nodes", "expected"),
    [
        (3, 7, [(ENDED, "2027-01")]),
        (2 * HOUR_S, 7, [(ENDED, "2027-01"), (AGAIN, "2027-01")]),
        (40 * DAY_S, 7, [(ENDED, "2027-01"), (ENDED, "2026-12"), (AGAIN, "2027-01")]),
    ],
)
async def test_clock_that_is_set_back_over_the_end_logs_again_only_what_changed(
    fleet: FakeFleet,
    tmp_path: Path,
    said: Said,
    back_s: int,
    nodes: int,
    expected: list[tuple[str, str]],
) -> None:
    async with keeping(fleet, tmp_path):
        await fleet.go(0, nodes=nodes)
        await fleet.go(601)
        await fleet.go(60)
        await until_async(said.lines, "the digest of January")
        fleet.wall -= back_s
        await fleet.go(30)
        await fleet.go(40)
        fleet.wall = max(fleet.wall, FEBRUARY - 60)
        await fleet.go(30)
        await fleet.go(40)
        await fleet.go(61)
        await fleet.go(61)
        january = digests(tmp_path, fleet.wall)["2027-01"]
        assert said.words() == expected
        assert said.lines()[-1][2] == january
    async with keeping(fleet, tmp_path):
        await fleet.go(0, nodes=8)
        await fleet.go(61)
    assert said.words() == expected


async def test_clock_that_was_ahead_for_a_while_leaves_the_true_digest(
    fleet: FakeFleet, tmp_path: Path, said: Said
) -> None:
    async with keeping(fleet, tmp_path):
        await fleet.go(0, nodes=7)
        fleet.wall += 40 * DAY_S
        await fleet.go(61)
        await until_async(said.lines, "a digest by the wrong clock")
    fleet.wall = FEBRUARY - 300
    async with keeping(fleet, tmp_path):
        await fleet.go(0, nodes=9)
        await fleet.go(61)
        await fleet.go(240)
        await fleet.go(61)
        await until_async(lambda: len(said.lines()) > 1, "the digest of January")
        january = digests(tmp_path, fleet.wall)["2027-01"]
        assert said.words() == [(ENDED, "2027-01"), (AGAIN, "2027-01")]
        assert said.lines()[-1][2] == january


async def test_store_that_fails_at_the_end_of_the_month_delays_the_digest(
    fleet: FakeFleet, tmp_path: Path, said: Said
) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    async with keeping(fleet, folder) as keeper:
        await fleet.go(0, nodes=7)
        await live(fleet, 9)
        await until_kept(folder, 1)
        folder.rename(tmp_path / "away")
        await live(fleet, 2)
        assert keeper.status.trouble
        assert said.lines() == []
        (tmp_path / "away").rename(folder)
        await fleet.go(61)
        await until_async(said.lines, "the digest of January")
    assert said.lines() == [(ENDED, "2027-01", digests(folder, fleet.wall)["2027-01"])]
    with closing(read_store(folder)) as store:
        assert store.read(INSTALLATION, HOUR_S, 0, FEBRUARY)[-1].known_s == 600


async def test_rule_in_force_at_the_end_is_that_of_the_digest(
    fleet: FakeFleet, tmp_path: Path, said: Said
) -> None:
    rule = EntitlementConfig(preset="aws-csp")
    async with keeping(fleet, tmp_path) as keeper:
        await fleet.go(0, nodes=7)
        await fleet.go(300)
        keeper.follow(Config(state_dir=str(tmp_path), entitlement=rule))
        await fleet.go(301)
        await until_async(said.lines, "the digest of January")
        keeper.follow(Config(state_dir=str(tmp_path)))
        await fleet.go(61)
        await fleet.go(61)
    found = digests(tmp_path, fleet.wall, entitlement_of(rule))
    assert said.lines() == [(ENDED, "2027-01", found["2027-01"])]


async def test_history_that_is_off_at_the_end_is_counted_once_it_is_on(
    fleet: FakeFleet, tmp_path: Path, said: Said
) -> None:
    config = Config(state_dir=str(tmp_path))
    async with keeping(fleet, tmp_path) as keeper:
        await fleet.go(0, nodes=7)
        await fleet.go(300)
        await until_kept(tmp_path, 1)
        keeper.follow(replace(config, history=HistoryConfig(enabled=False)))
        for _ in range(3):
            await fleet.go(301)
        assert said.lines() == []
        keeper.follow(config)
        await fleet.go(61)
        await fleet.go(61)
        await until_async(said.lines, "the digest of January")
    assert said.lines() == [(ENDED, "2027-01", digests(tmp_path, fleet.wall)["2027-01"])]


async def test_hours_that_are_kept_for_less_than_a_month_are_counted_as_far_as_they_go(
    fleet: FakeFleet, tmp_path: Path, said: Said
) -> None:
    history = HistoryConfig(keep_s=2 * DAY_S, keep_daily_s=2 * DAY_S)
    fleet.wall = FEBRUARY - 5 * DAY_S
    async with keeping(fleet, tmp_path, history):
        await fleet.go(0, nodes=7)
        for _ in range(5 * 24):
            await fleet.go(HOUR_S)
        await until_async(said.lines, "the digest of January")
        with closing(read_store(tmp_path)) as store:
            assert store.read(INSTALLATION, HOUR_S, 0, FEBRUARY - 3 * DAY_S) == []
        assert said.lines() == [(ENDED, "2027-01", digests(tmp_path, fleet.wall)["2027-01"])]
        for _ in range(3 * 24):
            await fleet.go(HOUR_S)
    fleet.wall += DAY_S
    async with keeping(fleet, tmp_path, history):
        await fleet.go(0, nodes=7)
        await live(fleet, 2)
    assert said.words() == [(ENDED, "2027-01")]


async def test_everything_removed_leaves_no_digest(
    fleet: FakeFleet, tmp_path: Path, said: Said
) -> None:
    async with keeping(fleet, tmp_path) as keeper:
        await fleet.go(0, nodes=7)
        await fleet.go(601)
        await until_async(said.lines, "the digest of January")
        digest = said.lines()[0][2].encode()
        assert digest in b"".join(each.read_bytes() for each in tmp_path.glob(f"{FILE_NAME}*"))
        await keeper.clear()
        left = b"".join(each.read_bytes() for each in tmp_path.glob(f"{FILE_NAME}*"))
        assert digest not in left
        await fleet.go(61)
        await fleet.go(61)
    assert said.words() == [(ENDED, "2027-01")]
