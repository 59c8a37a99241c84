"""Remembered restrictions on a real disk: stored, read back, and damaged in every way."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from telemetryd.config.restrictions import FILE, Statement
from telemetryd.daemon.memory import FILE_NAME, DamagedMemory, Memory, memory_folders
from telemetryd.daemon.restrictions import Restrictions
from telemetryd.model import Restriction

pytestmark = pytest.mark.anyio

OFF = Restriction("file", "enabled", "/etc/t.toml", 5.0, written=False)
GOOD = '{"version":1,"restrictions":[{"source":"file","key":"enabled","where":"f","since":1}]}'

DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_text(""),
    "cut": lambda path: path.write_text(GOOD[:-20]),
    "no JSON": lambda path: path.write_bytes(b"\xff\xfe"),
    "wrong type": lambda path: path.write_text(GOOD.replace('"enabled"', "1")),
    "an array": lambda path: path.write_text("[]"),
    "unknown version": lambda path: path.write_text(GOOD.replace('"version":1', '"version":2')),
    "unknown key": lambda path: path.write_text(GOOD.replace('"enabled"', '"other"')),
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "a dangling link": lambda path: path.symlink_to("nowhere"),
    "nested": lambda path: path.write_text("[" * 100_000),
}


async def test_what_is_stored_is_read_back_from_each_folder(tmp_path: Path) -> None:
    folders = (f"{tmp_path}/a", f"{tmp_path}/b")
    memory = Memory(folders)
    assert await memory.load() == ()
    await memory.store((OFF,))
    assert memory.stored == tuple(f"{each}/{FILE_NAME}" for each in folders)
    for folder in folders:
        assert await Memory((folder,)).load() == (OFF,)
    await memory.store(())
    assert await Memory(folders).load() == ()


async def test_no_file_is_made_where_nothing_is_remembered(tmp_path: Path) -> None:
    await Memory((str(tmp_path),)).store(())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", list(DAMAGES))
async def test_damaged_file_keeps_collection_off_until_an_opt_in(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / FILE_NAME
    DAMAGES[damage](path)
    with pytest.raises(DamagedMemory, match="fix or remove it and reload, or run"):
        await Memory((str(tmp_path),)).load()
    restrictions = Restrictions((), {}, now=lambda: 9.0)
    await restrictions.recall(Memory((str(tmp_path),)))
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
    found = await Memory((str(tmp_path),)).load()
    assert [each.key for each in found] == ["privacy.server_url"]


async def test_file_that_is_fixed_is_taken_up(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    path.write_text("")
    restrictions = Restrictions((), {}, now=lambda: 9.0)
    await restrictions.recall(Memory((str(tmp_path),)))
    path.write_text(GOOD)
    await restrictions.recall_damaged()
    assert restrictions.damaged == ""
    assert [each.restriction.key for each in restrictions.statuses()] == ["enabled"]


async def test_nothing_durable_is_said(tmp_path: Path) -> None:
    restrictions = Restrictions((), {}, now=lambda: 9.0)
    await restrictions.recall(Memory(()))
    assert restrictions.warning == ""
    await restrictions.accept((Statement(FILE, "enabled", True, "f"),))
    assert "no state folder is usable" in restrictions.warning
    (tmp_path / "file").touch()
    await restrictions.recall(Memory((f"{tmp_path}/file",)))
    await restrictions.store()
    assert "not remembered after a restart" in restrictions.warning


async def test_setting_is_remembered_until_it_says_otherwise(tmp_path: Path) -> None:
    restrictions = Restrictions((), {}, now=lambda: 9.0)
    await restrictions.recall(Memory((str(tmp_path),)))
    for value, held in (("out", True), (None, True), ("", True), ("in", False), ("out", True)):
        restrictions.note_setting(value)
        assert (restrictions.opted_out_since is not None) is held
    await restrictions.store()
    document = json.loads((tmp_path / FILE_NAME).read_text())
    assert [each["key"] for each in document["restrictions"]] == ["telemetry-opt"]


def test_folders_are_wherever_the_next_start_may_look() -> None:
    environ = {"STATE_DIRECTORY": "/s:/t"}
    assert memory_folders("/x", environ, "/s") == ("/x", "/s")
    assert memory_folders(None, {}, None) == ()
