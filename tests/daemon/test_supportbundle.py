"""The parts that are read from a disk, where that hangs or fails."""

import os
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest

from telemetryd.config import Config, ConfigSource
from telemetryd.daemon import supportbundle as module
from telemetryd.daemon.supportbundle import (
    CONFIG,
    ENVIRONMENT,
    FILES,
    MOST_FILES,
    LocalFacts,
    LocalReads,
    describe_folder,
    local_parts,
)
from telemetryd.sharedread import SharedRead

pytestmark = pytest.mark.anyio


def facts(folder: Path, text: str, works: threading.Event | None = None) -> LocalFacts:
    file = folder / "config.toml"
    file.write_text(text)
    source = ConfigSource(str(file), {"HOME": "/nonexistent", "OTHER": "x"})

    def restrict(config: Config) -> Config:
        if works is not None:
            works.wait()
        return config

    return LocalFacts(source, source.read(), restrict, ())


async def test_disk_that_hangs_costs_its_parts_and_one_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DISK_TIMEOUT_S", 0.1)
    works = threading.Event()
    hanging = facts(tmp_path, f'state_dir = "{tmp_path}"\n', works)
    reads: LocalReads = SharedRead("hanging disk")
    try:
        for _ in range(3):
            found = await local_parts(hanging, reads)
            assert found == {
                ENVIRONMENT: ["HOME"],
                CONFIG: "the disk doesn't answer within 0.1 s",
                FILES: "the disk doesn't answer within 0.1 s",
            }
        assert [each.name for each in threading.enumerate()].count("hanging disk") == 1
    finally:
        works.set()
    monkeypatch.setattr(module, "DISK_TIMEOUT_S", 60.0)
    found = await local_parts(hanging, reads)
    assert isinstance(found[CONFIG], list)
    assert found[CONFIG][0] == f"# {tmp_path}/config.toml"


async def test_configuration_that_is_wrong_is_said_in_place_of_what_it_names(
    tmp_path: Path,
) -> None:
    wrong = facts(tmp_path, "log_levle = 1\n")
    with anyio.fail_after(60):
        found = await local_parts(wrong, SharedRead("test"))
    assert "log_levle" in str(found[CONFIG])
    assert "the configuration can't be used: " in str(found[FILES])


def test_folder_is_listed_to_a_depth_and_a_number(tmp_path: Path) -> None:
    (tmp_path / "spool" / "a" / "below" / "too deep").mkdir(parents=True)
    (tmp_path / "spool" / "a" / "pending").write_bytes(b"12345")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/etc/passwd")
    found: Any = describe_folder(str(tmp_path))
    shown = {each["name"]: (each["kind"], each["bytes"]) for each in found["files"]}
    assert shown["spool/a/pending"] == ("file", 5)
    assert {name: kind for name, (kind, _) in shown.items()} == {
        "link": "other",
        "pipe": "other",
        "spool": "folder",
        "spool/a": "folder",
        "spool/a/below": "folder",
        "spool/a/pending": "file",
    }
    for number in range(MOST_FILES):
        (tmp_path / f"file{number}").touch()
    found = describe_folder(str(tmp_path))
    assert (len(found["files"]), found["left_out"]) == (MOST_FILES, 6)


def test_folder_that_is_missing_is_said(tmp_path: Path) -> None:
    assert describe_folder(None) == "there is no usable state_dir"
    missing = tmp_path / "missing"
    assert describe_folder(str(missing)) == f"{missing}: no such file or directory"
