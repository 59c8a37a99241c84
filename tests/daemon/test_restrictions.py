"""Whatever happens to the configuration file: what is in force permits nothing that wasn't before.

Every kind of restriction, every damage, a reload and each way to start again, on real files. What
a whole daemon sends meanwhile is shown by ``test_restrictions_table``.
"""

import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import pytest

from telemetryd.config import Config, ConfigSource, SecretExporterConfig
from telemetryd.daemon.reload import Reloader, ReloadTarget
from telemetryd.daemon.restrictionfile import FILE_NAME
from telemetryd.daemon.restrictions import recall_restrictions
from telemetryd.errors import ConfigError
from telemetryd.serve.http.security import Security
from tests.daemon.damage import DAMAGES, cuts_of, is_broken, restore
from tests.daemon.test_reload import Bench
from tests.daemon.test_restrictions_table import KINDS, WAYS
from tests.export.doubles import Source, manager_of

pytestmark = pytest.mark.anyio

NOW_S = 1_800_000_000.0
Permitted = frozenset[tuple[str, str, str]]
"""What may be sent: where to, in which format, and which of the texts that can be omitted."""


def permitted(config: Config) -> Permitted:
    if not config.enabled:
        return frozenset()
    sent = {"all else"}
    sent |= {"server_url"} if config.privacy.server_url == "send" else set()
    sent |= {"cluster_ids"} if config.privacy.cluster_ids != "omit" else set()
    return frozenset(
        (place_of(exporter), str(getattr(exporter, "format", "")), text)
        for exporter in config.exporters
        if exporter.enabled
        for text in sent
    )


def place_of(exporter: object) -> str:
    if isinstance(exporter, SecretExporterConfig):
        return f"{exporter.namespace}/{exporter.secret}"
    return str(getattr(exporter, "url", exporter))


@dataclass
class Restricted:
    """A file with a restriction, a state folder that remembers it, and what they permit."""

    folder: Path
    content: bytes
    permitted: Permitted = frozenset()

    @property
    def file(self) -> Path:
        return self.folder / "etc" / "config.toml"

    def source(self, way: str = "option") -> ConfigSource:
        """Where a start by this way looks for the file."""
        environ = {"STATE_DIRECTORY": str(self.folder / "state"), "HOME": str(self.folder)}
        match way:
            case "option":
                return ConfigSource(str(self.file), environ, self.folder / "none")
            case "variable":
                named = environ | {"TELEMETRYD_CONFIG": str(self.file)}
                return ConfigSource(None, named, self.folder / "none")
        return ConfigSource(None, environ, self.file)

    def damages(self) -> dict[str, Callable[[Path, bytes], object]]:
        """Those whose outcome is known: whoever may read everything is kept out by no mode."""
        found = DAMAGES | cuts_of(self.content)
        return {name: found[name] for name in found if name != "locked" or os.geteuid()}

    async def start(self, way: str = "option") -> Config:
        """What a start puts in force.

        Raises:
            ConfigError: It is refused.
        """
        source = self.source(way)
        file = source.read()
        config = source.parse(file)
        restrictions = await recall_restrictions(source, file, config, now=lambda: NOW_S)
        return restrictions.restrict(config, source.statements(file))

    @asynccontextmanager
    async def reloading(self) -> AsyncIterator[Reloader]:
        """The reloader of a daemon that was started with the whole file."""
        source = self.source()
        file = source.read()
        reloader = Reloader(source, file, configure_logging=print, now=lambda: NOW_S)
        await reloader.recall(source.parse(file))
        bench = Bench(self.file, reloader, manager_of(Source()))
        for exporter in reloader.config.exporters:
            bench.manager.register(*bench.build(exporter))
        target = ReloadTarget(
            manager=bench.manager,
            build=bench.build,
            spec=bench.spec,
            look=bench.look,
            follow=bench.follow,
            configure_requests=lambda _config: (),
            security=Security(),
            begin=partial(bench.moments.append, "begin"),
            end=partial(bench.moments.append, "end"),
        )
        async with anyio.create_task_group() as group:
            group.start_soon(bench.manager.run)
            group.start_soon(reloader.run, target)
            yield reloader
            group.cancel_scope.cancel()


@pytest.fixture(params=list(KINDS))
async def restricted(request: pytest.FixtureRequest, tmp_path: Path) -> Restricted:
    text = KINDS[request.param].replace("URL", "http://127.0.0.1:9")
    restricted = Restricted(tmp_path, text.encode())
    restricted.file.parent.mkdir()
    restore(restricted.file, restricted.content)
    async with restricted.reloading() as reloader:
        restricted.permitted = permitted(reloader.config)
    assert (tmp_path / "state" / FILE_NAME).exists()
    return restricted


async def test_damaged_file_permits_nothing_at_a_reload(restricted: Restricted) -> None:
    refused = 0
    async with restricted.reloading() as reloader:
        before = reloader.stats.status.hash
        for damage, harm in restricted.damages().items():
            harm(restricted.file, restricted.content)
            result = await reloader.reload("control")
            assert not (result.ok and is_broken(damage, restricted.content)), damage
            assert permitted(reloader.config) <= restricted.permitted, damage
            restore(restricted.file, restricted.content)
            if result.ok:
                assert (await reloader.reload("control")).ok, damage
            else:
                refused += 1
                assert str(restricted.file) in result.problems[0], damage
            assert permitted(reloader.config) == restricted.permitted, damage
            assert reloader.stats.status.hash == before, damage
        assert (await reloader.reload("control")).ok
    assert refused >= len(DAMAGES) - 1


@pytest.mark.parametrize("way", WAYS)
async def test_damaged_file_permits_nothing_at_a_start(restricted: Restricted, way: str) -> None:
    kept = restricted.folder / "kept"
    shutil.copytree(restricted.folder / "state", kept)
    refused, problems = 0, list[str]()
    for damage, harm in restricted.damages().items():
        restore(restricted.file, restricted.content)
        harm(restricted.file, restricted.content)
        try:
            config = await restricted.start(way)
        except ConfigError as error:
            problems += map(str, error.problems)
            refused += 1
            continue
        gone = damage in {"removed", "renamed"} and way == "system"
        assert gone or not is_broken(damage, restricted.content), damage
        assert permitted(config) <= restricted.permitted, damage
    assert refused >= len(DAMAGES) - 3
    assert [each for each in problems if not each.startswith(f"{restricted.file}:")] == []
    remembered = (restricted.folder / "state" / FILE_NAME).read_bytes()
    assert remembered == (kept / FILE_NAME).read_bytes(), "a look stores nothing"
