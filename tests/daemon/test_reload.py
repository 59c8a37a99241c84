"""The reloader over a real manager: what it applies, refuses, coalesces, and tells."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio
import pytest

from telemetryd.config import (
    Config,
    ConfigSource,
    ExporterConfig,
    SecretExporterConfig,
)
from telemetryd.config.diff import config_hash
from telemetryd.daemon.reload import Reloader, ReloadResult, ReloadTarget
from telemetryd.errors import ConfigError, Problem
from telemetryd.export.engine.manager import ExporterManager
from telemetryd.export.exporter import Exporter, ExporterSpec
from telemetryd.model import ExporterState
from telemetryd.serve.http.security import Security
from tests.export.doubles import Sink, Source, manager_of, spec

pytestmark = pytest.mark.anyio

START = 1_800_000_000.0
REFUSED = "telemetryd is stopping: nothing is reloaded any more"


@dataclass
class Bench:
    """A reloader on a file, and all that it touches."""

    file: Path
    reloader: Reloader
    manager: ExporterManager
    sinks: dict[str, list[Sink]] = field(default_factory=dict)
    logging: list[tuple[str, str]] = field(default_factory=list)
    followed: list[tuple[Config, list[str]]] = field(default_factory=list)
    moments: list[str] = field(default_factory=list)
    unusable: Exception | None = None
    security: Security = field(default_factory=Security)

    @classmethod
    def make(cls, folder: Path, text: str) -> "Bench":
        file = folder / "config.toml"
        file.write_text(text)
        source = ConfigSource(str(file), {}, system_path=folder / "none")
        seconds = iter(range(10_000))
        levels: list[tuple[str, str]] = []
        reloader = Reloader(
            source,
            source.read(),
            configure_logging=lambda config: levels.append((config.log_level, config.log_format)),
            now=lambda: START + next(seconds),
        )
        bench = cls(file, reloader, manager_of(Source()), logging=levels)
        for exporter in reloader.config.exporters:
            bench.manager.register(*bench.build(exporter))
        return bench

    def build(self, config: ExporterConfig) -> tuple[ExporterSpec, Exporter]:
        if self.unusable is not None:
            raise self.unusable
        sink = Sink()
        self.sinks.setdefault(config.name, []).append(sink)
        return self.spec(config), sink

    @staticmethod
    def spec(config: ExporterConfig) -> ExporterSpec:
        return spec(config.name, interval_s=config.interval_s, timeout_s=config.timeout_s)

    def follow(self, config: Config) -> None:
        """Notes what is to be followed, and which exporters there are at that time."""
        self.followed.append((config, [status.name for status in self.manager.statuses()]))

    async def look(self, _config: Config) -> None:
        """Nothing is marked."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        target = ReloadTarget(
            manager=self.manager,
            build=self.build,
            spec=self.spec,
            look=self.look,
            follow=self.follow,
            configure_requests=lambda _config: (),
            security=self.security,
            begin=partial(self.moments.append, "begin"),
            end=partial(self.moments.append, "end"),
        )
        async with anyio.create_task_group() as group:
            group.start_soon(self.manager.run)
            group.start_soon(self.reloader.run, target)
            yield
            group.cancel_scope.cancel()

    async def reload(self, text: str) -> ReloadResult:
        self.file.write_text(text)
        return await self.reloader.reload("control")


def secret(name: str, keys: str = "") -> str:
    return f'[[exporters]]\nname = "{name}"\ntype = "secret"\nsecret = "s-{name}"\n{keys}\n'


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str], Bench]:
    return partial(Bench.make, tmp_path)


Make = Callable[[str], Bench]


async def test_same_file_is_a_success_without_changes(make: Make) -> None:
    bench = make(secret("a"))
    async with bench.running():
        result = await bench.reload(secret("a") + "# a comment")
    assert result == ReloadResult(ok=True)
    assert bench.reloader.stats.reloads == {("success", "control"): 1}
    assert bench.reloader.stats.status.reloaded_at is not None
    assert bench.moments == ["begin", "end"]
    assert len(bench.sinks["a"]) == 1


async def test_differences_are_applied_and_reported(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench = make(secret("a") + secret("b") + secret("c"))
    before = bench.reloader.stats.status
    async with bench.running():
        result = await bench.reload(
            'log_level = "debug"\ndrain_timeout = "7s"\n[identity]\nproduct = "other"\n'
            + secret("a", 'interval = "10s"')
            + secret("c", "takeover = true")
            + secret("d")
        )
        assert result.ok
        assert result.problems == ()
        assert [line.split(" changed")[0] for line in result.changes] == [
            "log_level",
            "drain_timeout",
            "identity.product",
            "exporter b removed",
            "exporter d added (secret)",
            "exporter c replaced (takeover)",
            'exporter a rescheduled (interval from "1m" to "10s", timeout from "10s" to "5s")',
        ]
        assert [status.name for status in bench.manager.statuses()] == ["a", "c", "d"]
        assert bench.manager.status("a").interval_s == 10
    assert bench.logging == [("debug", "auto")]
    assert [config.identity.product for config, _ in bench.followed] == ["other"]
    assert bench.manager.drain_timeout_s == 7
    assert [sink.closed for sink in bench.sinks["c"]] == [1, 1]
    after = bench.reloader.stats.status
    assert after.hash == config_hash(bench.reloader.config) != before.hash
    assert after.in_force_at > before.in_force_at
    (line,) = [record for record in caplog.records if "config reloaded" in record.message]
    assert "exporter b removed; exporter d added" in line.message
    assert f"trigger=control file={bench.file}" in line.message


async def test_what_snapshots_hold_changes_before_the_exporters_do(make: Make) -> None:
    bench = make(secret("a"))
    async with bench.running():
        fleet = secret("b", 'format = "fleet"')
        result = await bench.reload('[privacy]\ncluster_ids = "omit"\n' + fleet)
        assert result.changes[0] == 'privacy.cluster_ids changed from "anonymous" to "omit"'
        assert bench.manager.has("b")
        rejected = await bench.reload('[privacy]\ncluster_ids = "send"\n' + fleet)
        assert not rejected.ok
    assert bench.followed == [(bench.reloader.config, ["a"])]
    assert bench.reloader.config.privacy.cluster_ids == "omit"


async def test_rejected_file_changes_nothing_and_is_one_line_in_the_log(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make(secret("a"))
    before = bench.reloader.stats.status
    async with bench.running():
        result = await bench.reload(
            'log_level = "debug"\n' + secret("b", 'interval = "5"') + '[server]\nlisten = "x"'
        )
        assert [status.name for status in bench.manager.statuses()] == ["a"]
        assert bench.moments == ["begin", "end"]
    assert not result.ok
    assert result.changes == ()
    no_port = 'is "x": must be an address such as "127.0.0.1:10464", "[::1]:10464" or ":10464"'
    assert result.problems == (
        f'{bench.file}:6: exporters.b.interval: "5" has no unit: write "5s" for seconds',
        f"{bench.file}:8: server.listen: {no_port}",
    )
    assert bench.logging == []
    status = bench.reloader.stats.status
    assert (status.where, status.hash, status.in_force_at) == (
        before.where,
        before.hash,
        before.in_force_at,
    )
    assert status.problems == result.problems
    assert bench.reloader.stats.reloads == {("failure", "control"): 1}
    (line,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert line.levelno == logging.ERROR
    assert "exporters.b.interval" in line.message
    assert "server.listen" in line.message


async def test_keys_that_need_a_restart_reject_the_whole_with_their_list(make: Make) -> None:
    bench = make('[kubernetes]\ncontext = "c"\n' + secret("a"))
    async with bench.running():
        result = await bench.reload(
            'state_dir = "/elsewhere"\nlog_level = "debug"\n[server]\nlisten = ":1"\n' + secret("b")
        )
    file, why = bench.file, "can't change while telemetryd runs: restart it, or"
    assert result.problems == (
        f"{file}:1: state_dir: {why} take it out",
        f'{file}: kubernetes.context: {why} put "c" back',
        f'{file}:4: server.listen: {why} put "127.0.0.1:10464" back',
    )
    assert bench.logging == []
    assert list(bench.sinks) == ["a"]


async def test_folders_that_are_left_open_are_not_looked_for_again(make: Make) -> None:
    """What the environment and the disk offer may be another by now: it was chosen at the start."""
    bench = make(secret("a"))
    async with bench.running():
        object.__setattr__(bench.reloader.source, "environ", {"STATE_DIRECTORY": "/tmp"})
        assert (await bench.reload(secret("a"))).ok


@pytest.mark.parametrize(
    "error",
    [ConfigError(Problem("/f/token", "", "can't be read: let the user read it")),
     OSError("disk is gone"), ValueError("no such thing")],
)  # fmt: skip
async def test_exporter_that_cannot_be_built_rejects_before_anything_is_touched(
    make: Make, error: Exception
) -> None:
    bench = make(secret("a"))
    async with bench.running():
        bench.unusable = error
        result = await bench.reload('log_level = "debug"\n' + secret("b"))
        assert [status.name for status in bench.manager.statuses()] == ["a"]
        bench.unusable = None
        assert not result.ok
        assert str(error) in result.problems[0]
        if not isinstance(error, ConfigError):
            assert result.problems[0].startswith(f"{bench.file}:2: exporters.b: ")
        assert bench.logging == []
        assert (await bench.reload(secret("b"))).ok
        assert [status.name for status in bench.manager.statuses()] == ["b"]


async def test_name_of_a_running_exporter_that_is_not_from_the_file_is_taken(make: Make) -> None:
    bench = make(secret("a"))
    bench.manager.register(spec("library"), Sink())
    async with bench.running():
        result = await bench.reload(secret("a") + secret("library"))
    why = '"library" is the name of a running exporter: choose another'
    assert result.problems == (f"{bench.file}:7: exporters.library.name: {why}",)


async def test_fault_of_ours_is_reported_and_survived(make: Make) -> None:
    bench = make(secret("a"))
    async with bench.running():
        bench.unusable = KeyError("oops")
        result = await bench.reload(secret("b"))
        assert result.problems == ("internal error: KeyError",)
        bench.unusable = None
        assert (await bench.reload(secret("b"))).ok


async def test_exporter_stopped_by_hand_stays_stopped_unless_it_is_replaced(make: Make) -> None:
    bench = make(secret("a") + secret("b") + secret("c"))
    async with bench.running():
        for name in "abc":
            await bench.manager.stop(name)
        text = secret("a") + secret("b", 'interval = "10s"') + secret("c", "takeover = true")
        assert (await bench.reload(text + secret("d"))).ok
        states = {status.name: status.state for status in bench.manager.statuses()}
    assert states["a"] is states["b"] is ExporterState.STOPPED
    assert states["c"] is not ExporterState.STOPPED


async def test_who_asks_while_one_is_at_work_shares_the_next(make: Make) -> None:
    bench = make(secret("slow"))
    slow = bench.sinks["slow"][0]

    async def end_late() -> None:
        await anyio.sleep(0.2)

    slow.aclose = end_late  # type: ignore[method-assign]
    results: list[ReloadResult] = []

    async def ask() -> None:
        results.append(await bench.reloader.reload("signal"))

    async with bench.running(), anyio.create_task_group() as group:
        bench.file.write_text(secret("b"))
        group.start_soon(ask)
        await anyio.sleep(0.1)
        bench.file.write_text(secret("c"))
        for _ in range(50):
            group.start_soon(ask)
            bench.reloader.ask("signal")
    assert [result.changes for result in results] == [
        ("exporter slow removed", "exporter b added (secret)"),
        *[("exporter b removed", "exporter c added (secret)")] * 50,
    ]
    assert bench.reloader.stats.reloads == {("success", "signal"): 2}


async def test_reload_goes_on_without_who_asked(make: Make) -> None:
    bench = make(secret("a"))
    async with bench.running():
        bench.file.write_text(secret("b"))
        with anyio.CancelScope() as scope:
            scope.cancel()
            await bench.reloader.reload("control")
        with anyio.fail_after(30):
            while not bench.manager.has("b"):
                await anyio.sleep(0.01)


async def test_what_is_asked_before_it_runs_is_done_then(make: Make) -> None:
    bench = make(secret("a"))
    bench.reloader.ask("signal")
    bench.file.write_text(secret("b"))
    async with bench.running():
        with anyio.fail_after(30):
            while not bench.manager.has("b"):
                await anyio.sleep(0.01)
    assert bench.reloader.stats.reloads == {("success", "signal"): 1}


async def test_end_of_the_daemon_answers_everyone(make: Make) -> None:
    bench = make(secret("a"))
    hangs = anyio.Event()
    bench.sinks["a"][0].aclose = hangs.wait  # type: ignore[method-assign]
    results: list[ReloadResult] = []

    async def ask() -> None:
        results.append(await bench.reloader.reload("control"))

    async with anyio.create_task_group() as group:
        async with bench.running():
            bench.file.write_text(secret("b"))
            group.start_soon(ask)
            await anyio.sleep(0.1)
            group.start_soon(ask)
            await anyio.sleep(0.05)
        assert await bench.reloader.reload("control") == ReloadResult(ok=False, problems=(REFUSED,))
        bench.reloader.ask("signal")
    assert [result.problems for result in results] == [(REFUSED,), (REFUSED,)]
    assert bench.moments == ["begin"]


async def test_explicit_file_that_vanished_is_a_rejection(make: Make) -> None:
    bench = make(secret("a"))
    async with bench.running():
        bench.file.unlink()
        result = await bench.reloader.reload("signal")
        assert result.problems == (
            f"{bench.file}: doesn't exist: create it, or name another with --config",
        )
        assert bench.reloader.tried == ""


async def test_files_are_looked_for_in_the_order_of_the_start(tmp_path: Path) -> None:
    """Without a name the system's file counts where it exists, else the defaults."""
    system = tmp_path / "system.toml"
    source = ConfigSource(None, {}, system_path=system)
    reloader = Reloader(source, source.read(), configure_logging=print, now=lambda: START)
    assert reloader.stats.status.where == "defaults"
    bench = Bench(system, reloader, manager_of(Source()))
    (default,) = Config().exporters
    assert isinstance(default, SecretExporterConfig)
    bench.manager.register(*bench.build(default))
    async with bench.running():
        assert (await bench.reload(secret("a"))).ok
        assert reloader.stats.status.where == str(system)
        assert bench.manager.has("a")
        system.unlink()
        result = await reloader.reload("signal")
        assert result.problems == (
            f"{system}: is gone: put it back; to run by the defaults, restart without it",
        )
        assert reloader.stats.status.where == str(system)
        assert [status.name for status in bench.manager.statuses()] == ["a"]


async def test_each_accepted_reload_tells_what_enabled_says(make: Make) -> None:
    bench = make(secret("a"))
    async with bench.running():
        result = await bench.reload("enabled = false\n" + secret("a"))
        assert result.changes == ("enabled changed from true to false",)
        assert not (await bench.reload("enabled = 1\n" + secret("a"))).ok
        assert (await bench.reload(secret("a"))).ok
        assert (await bench.reload("enabled = true\n" + secret("a"))).ok
    assert [config.enabled for config, _ in bench.followed] == [False, False, True]
    assert len(bench.sinks["a"]) == 1


async def test_exporters_that_are_only_rescheduled_are_not_built_again(make: Make) -> None:
    names = [f"e{number}" for number in range(20)]
    bench = make("".join(secret(name) for name in names))
    async with bench.running():
        text = "".join(secret(name, 'interval = "10s"') for name in names[1:])
        assert (await bench.reload(secret("e0", "takeover = true") + text)).ok
        assert bench.manager.status("e1").interval_s == 10
    assert {name: len(sinks) for name, sinks in bench.sinks.items()} == {
        name: 2 if name == "e0" else 1 for name in names
    }
