"""Remembered restrictions on a real disk: stored, read back, and damaged in every way."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from telemetryd import __version__
from telemetryd.config.restrictions import FILE, Statement
from telemetryd.daemon.restrictionfile import (
    FILE_NAME,
    DamagedRestrictions,
    RestrictionFiles,
    restriction_folders,
)
from telemetryd.daemon.restrictions import Restrictions
from telemetryd.model import Restriction

pytestmark = pytest.mark.anyio

OFF = Restriction("file", "enabled", "/etc/t.toml", 5.0, written=False)
GOOD = '{"version":1,"restrictions":[{"source":"file","key":"enabled","where":"f","since":1}]}'

LATER = '{"version":2,"restrictions":{"enabled":{}},"more":1}'
DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_text(""),
    "cut": lambda path: path.write_text(GOOD[:-20]),
    "no JSON": lambda path: path.write_bytes(b"\xff\xfe"),
    "wrong type": lambda path: path.write_text(GOOD.replace('"enabled"', "1")),
    "an array": lambda path: path.write_text("[]"),
    "no version": lambda path: path.write_text(GOOD.replace('"version":1', '"version":0')),
    "later version": lambda path: path.write_text(LATER),
    "unknown key": lambda path: path.write_text(GOOD.replace('"enabled"', '"other"')),
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "a dangling link": lambda path: path.symlink_to("nowhere"),
    "nested": lambda path: path.write_text("[" * 100_000),
}


async def test_what_is_stored_is_read_back_from_each_folder(tmp_path: Path) -> None:
    folders = (f"{tmp_path}/a", f"{tmp_path}/b")
    memory = RestrictionFiles(folders)
    assert await memory.load() == ()
    await memory.store((OFF,))
    assert memory.stored == tuple(f"{each}/{FILE_NAME}" for each in folders)
    for folder in folders:
        assert await RestrictionFiles((folder,)).load() == (OFF,)
    await memory.store(())
    assert await RestrictionFiles(folders).load() == ()


async def test_no_file_is_made_where_nothing_is_remembered(tmp_path: Path) -> None:
    await RestrictionFiles((str(tmp_path),)).store(())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", list(DAMAGES))
async def test_damaged_file_keeps_collection_off_until_an_opt_in(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / FILE_NAME
    DAMAGES[damage](path)
    with pytest.raises(DamagedRestrictions, match=r"remove (it|the file) and reload, or run"):
        await RestrictionFiles((str(tmp_path),)).load()
    restrictions = Restrictions((), {}, now=lambda: 9.0)
    await restrictions.recall(RestrictionFiles((str(tmp_path),)))
    await restrictions.accept((Statement(FILE, "privacy.server_url", True, "f"),))
    await restrictions.recall_damaged()
    assert restrictions.remembered_switches == {"enabled"}
    (line,) = [each for each in caplog.records if each.levelname == "ERROR"]
    assert str(path) in line.message
    assert path.is_symlink() or path.exists(), "a restart finds it again"

    (ended,) = await restrictions.opt_in()
    assert ended.restriction.source == "memory"
    assert restrictions.remembered_switches == frozenset()
    assert [each.name for each in tmp_path.glob("*.damaged-*")]
    found = await RestrictionFiles((str(tmp_path),)).load()
    assert [each.key for each in found] == ["privacy.server_url"]


async def test_file_of_a_later_version_says_so(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    path.write_text(LATER)
    with pytest.raises(DamagedRestrictions) as raised:
        await RestrictionFiles((str(tmp_path),)).load()
    assert str(raised.value) == (
        f"{path}: has format 2, of a later telemetryd; this one, {__version__}, knows format 1:"
        " run the later one, or remove the file and reload, or run telemetryd ctl opt-in"
    )
    assert path.read_text() == LATER


async def test_file_that_is_fixed_is_taken_up(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    path.write_text("")
    restrictions = Restrictions((), {}, now=lambda: 9.0)
    await restrictions.recall(RestrictionFiles((str(tmp_path),)))
    path.write_text(GOOD)
    await restrictions.recall_damaged()
    assert restrictions.damaged == ""
    assert [each.restriction.key for each in restrictions.statuses()] == ["enabled"]


async def test_nothing_durable_is_said() -> None:
    restrictions = Restrictions((), {}, now=lambda: 9.0)
    await restrictions.recall(RestrictionFiles(()))
    assert restrictions.warning == ""
    await restrictions.accept((Statement(FILE, "enabled", True, "f"),))
    assert "no state folder is usable" in restrictions.warning
    await restrictions.recall(RestrictionFiles(("/proc/none",)))
    await restrictions.store()
    assert "not remembered after a restart" in restrictions.warning


async def test_setting_is_remembered_until_it_says_otherwise(tmp_path: Path) -> None:
    restrictions = Restrictions((), {}, now=lambda: 9.0)
    await restrictions.recall(RestrictionFiles((str(tmp_path),)))
    for value, held in (("out", True), (None, True), ("", True), ("Out", True), ("in", False)):
        restrictions.note_setting(value)
        assert (restrictions.opted_out_since is not None) is held
    restrictions.note_setting("out")
    await restrictions.store()
    document = json.loads((tmp_path / FILE_NAME).read_text())
    assert [each["key"] for each in document["restrictions"]] == ["telemetry-opt"]


async def test_opt_in_elsewhere_ends_an_earlier_opt_out_that_nothing_says_any_more(
    tmp_path: Path,
) -> None:
    restrictions = Restrictions((), {}, now=lambda: 9.0)

    def since() -> float | None:
        return restrictions.opted_out_since

    await restrictions.recall(RestrictionFiles((str(tmp_path),)))
    restrictions.note_setting("out")
    restrictions.note_opt_in("secret", 99.0)
    assert since() == 9.0, "the Setting still says so"
    restrictions.note_setting(None)
    restrictions.note_opt_in("secret", 9.0)
    assert since() == 9.0, "it isn't later"
    restrictions.note_opt_in("secret", 10.0)
    assert since() is None
    await restrictions.store()
    assert await RestrictionFiles((str(tmp_path),)).load() == ()
    restrictions.note_setting("out")
    restrictions.note_setting(None)
    restrictions.note_opt_in("secret", 99.0)
    assert since() == 100.0, "an opt-in that was known before ends nothing"


async def test_opt_in_is_later_than_all_it_ends_by_whatever_clock() -> None:
    restrictions = Restrictions((), {}, now=lambda: 9.0)
    restrictions.marked_since = 50.0
    restrictions.note_mark("secret", 50.0)
    await restrictions.opt_in()
    assert restrictions.ended_at(50.0) == restrictions.opted_in_at == 51.0
    assert restrictions.ended_at(60.0) is None, "another opt-out has followed"


def test_folders_are_wherever_the_next_start_may_look() -> None:
    environ = {"STATE_DIRECTORY": "/s:/t"}
    assert restriction_folders("/x", environ, "/s") == ("/x", "/s")
    assert restriction_folders(None, {}, None) == ()
