"""Changes of the configuration file, made in every way, and how often each is acted upon."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from telemetryd.daemon.filewatch import MISSING_LOOKS, FileWatch
from tests.daemon.test_reload import Bench, secret
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio

POLL_S = 0.02
ON = "reload_on_change = true\n"


class Watched:
    """A bench whose file is watched, and the count of reloads that came of it."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    @property
    def file(self) -> Path:
        return self.bench.file

    @property
    def reloads(self) -> int:
        return sum(self.bench.reloader.stats.reloads.values())

    async def until(self, condition: Callable[[], bool]) -> None:
        await until_async(condition)

    async def until_in_force(self, name: str) -> None:
        await self.until(lambda: self.bench.manager.has(name))
        await self.until(lambda: bool(self.bench.reloader.config.exporters[0].name == name))

    async def rest(self, looks: int = 10) -> None:
        await anyio.sleep(looks * POLL_S)


@asynccontextmanager
async def watching(folder: Path, text: str) -> AsyncIterator[Watched]:
    bench = Bench.make(folder, text)
    async with bench.running(), anyio.create_task_group() as group:
        group.start_soon(FileWatch(bench.reloader, poll_s=POLL_S).run)
        yield Watched(bench)
        group.cancel_scope.cancel()


def replace_file(file: Path, text: str) -> None:
    new = file.with_suffix(".new")
    new.write_text(text)
    new.rename(file)


async def test_file_that_stays_the_same_is_never_reloaded(tmp_path: Path) -> None:
    async with watching(tmp_path, ON) as watched:
        await watched.rest()
        os.utime(watched.file)
        await watched.rest()
        replace_file(watched.file, ON)
        await watched.rest()
        assert watched.reloads == 0


async def test_content_that_changes_in_place_is_seen(tmp_path: Path) -> None:
    async with watching(tmp_path, ON + secret("a")) as watched:
        watched.file.write_text(ON + secret("b"))
        await watched.until_in_force("b")
        await watched.rest()
        assert watched.reloads == 1


async def test_content_of_the_same_size_under_the_same_times_is_seen(tmp_path: Path) -> None:
    async with watching(tmp_path, ON + secret("a")) as watched:
        await watched.rest()
        status = watched.file.stat()
        watched.file.write_text(ON + secret("b"))
        os.utime(watched.file, ns=(status.st_atime_ns, status.st_mtime_ns))
        await watched.until_in_force("b")


async def test_file_that_is_renamed_into_place_is_seen(tmp_path: Path) -> None:
    async with watching(tmp_path, ON + secret("a")) as watched:
        for name in "bcd":
            replace_file(watched.file, ON + secret(name))
            await watched.until_in_force(name)
        assert watched.reloads == 3


async def test_swap_of_a_link_on_the_way_is_seen(tmp_path: Path) -> None:
    """As the kubelet does it for a ConfigMap; the old version goes at once."""
    for name in "ab":
        (tmp_path / f"..{name}").mkdir()
        (tmp_path / f"..{name}" / "config.toml").write_text(ON + secret(name))
    async with watching(tmp_path, ON + secret("a")) as watched:
        (tmp_path / "..data").symlink_to("..a")
        watched.file.unlink()
        watched.file.symlink_to("..data/config.toml")
        await watched.rest()
        assert watched.reloads == 0
        (tmp_path / "..tmp").symlink_to("..b")
        (tmp_path / "..tmp").rename(tmp_path / "..data")
        (tmp_path / "..a" / "config.toml").unlink()
        await watched.until_in_force("b")
        assert watched.reloads == 1


async def test_file_is_reloaded_once_it_is_no_longer_written(tmp_path: Path) -> None:
    async with watching(tmp_path, ON + secret("a")) as watched:
        for number in range(30):
            watched.file.write_text(ON + secret("b") + "#" * number)
            await anyio.sleep(POLL_S / 2)
        watched.file.write_text(ON + secret("c"))
        await watched.until_in_force("c")
        assert watched.reloads <= 2


async def test_file_that_is_away_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    async with watching(tmp_path, ON + secret("a")) as watched:
        watched.file.unlink()
        await watched.rest(MISSING_LOOKS - 3)
        watched.file.write_text(ON + secret("b"))
        await watched.until_in_force("b")
        assert watched.bench.reloader.stats.reloads == {("success", "file"): 1}


async def test_file_that_stays_away_is_rejected_once_and_taken_when_it_is_back(
    tmp_path: Path,
) -> None:
    async with watching(tmp_path, ON + secret("a")) as watched:
        watched.file.unlink()
        await watched.until(lambda: watched.reloads == 1)
        await watched.rest()
        assert watched.bench.reloader.stats.reloads == {("failure", "file"): 1}
        assert "doesn't exist" in watched.bench.reloader.stats.status.problems[0]
        watched.file.write_text(ON + secret("a"))
        await watched.until(lambda: watched.reloads == 2)
        assert watched.bench.reloader.stats.status.problems == ()


async def test_broken_content_is_tried_once(tmp_path: Path) -> None:
    async with watching(tmp_path, ON + secret("a")) as watched:
        watched.file.write_text("nonsense")
        await watched.until(lambda: watched.reloads == 1)
        await watched.rest()
        os.utime(watched.file)
        await watched.rest()
        assert watched.bench.reloader.stats.reloads == {("failure", "file"): 1}
        assert watched.bench.manager.has("a")
        watched.file.write_text(ON + secret("b"))
        await watched.until_in_force("b")


async def test_content_that_was_reloaded_otherwise_is_not_reloaded_again(tmp_path: Path) -> None:
    async with watching(tmp_path, ON + secret("a")) as watched:
        await watched.bench.reload(ON + secret("b"))
        await watched.rest()
        assert watched.bench.reloader.stats.reloads == {("success", "control"): 1}


async def test_link_that_is_swapped_there_and_back_behind_its_back_is_seen(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(ON + secret(name))
    async with watching(tmp_path, ON + secret("a")) as watched:
        watched.file.unlink()
        watched.file.symlink_to("a")
        await watched.rest()
        link = tmp_path / "link"
        link.symlink_to("b")
        link.rename(watched.file)
        await watched.bench.reloader.reload("control")
        link.symlink_to("a")
        link.rename(watched.file)
        await watched.until_in_force("a")


async def test_watch_begins_and_ends_with_the_key(tmp_path: Path) -> None:
    async with watching(tmp_path, secret("a")) as watched:
        watched.file.write_text(ON + secret("b"))
        await watched.rest()
        assert watched.reloads == 0
        await watched.bench.reloader.reload("signal")
        watched.file.write_text(secret("c"))
        await watched.until_in_force("c")
        watched.file.write_text(secret("d"))
        await watched.rest()
        assert watched.bench.reloader.stats.reloads == {
            ("success", "signal"): 1,
            ("success", "file"): 1,
        }
