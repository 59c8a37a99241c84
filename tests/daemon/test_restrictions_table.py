"""Whatever happens to the configuration file: nothing is sent that was not sent before.

The whole daemon in this process, against the embedded API server, with the real reloader. What
the file's cuts do is in ``tests/config/test_restrictions.py`` for each byte.
"""

import random
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread

from telemetryd.config import ConfigSource
from telemetryd.daemon.app import run_until
from telemetryd.daemon.notify import Notifier
from telemetryd.daemon.optoutmark import ANNOTATION
from telemetryd.daemon.reload import Reloader
from telemetryd.daemon.signals import StatusLog
from telemetryd.errors import ConfigError
from tests.daemon.embedded import NAMESPACE, SECRETS, FleetServer, serve_fleet

pytestmark = pytest.mark.anyio

SCC = "rancher-scc-telemetry"
PLAIN = '[[exporters]]\nname = "scc"\ntype = "secret"\ninterval = "1s"\n'
FILES = {
    "enabled": f"enabled = false\n{PLAIN}",
    "server_url": f'[privacy]\nserver_url = "omit"\n{PLAIN}',
    "cluster_ids": f'[privacy]\ncluster_ids = "omit"\n{PLAIN.replace("scc", "fleet")}'
    'secret = "fleet"\nformat = "fleet"\n',
    "exporter": f"{PLAIN}enabled = false\n",
    "no scc": PLAIN.replace("scc", "other") + 'secret = "other"\n',
}


def put_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def put_dangling_link(file: Path) -> None:
    """As a ConfigMap whose key is gone."""
    file.unlink()
    file.symlink_to("..data/config.toml")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "removed": Path.unlink,
    "renamed": lambda file: file.rename(file.with_suffix(".old")),
    "emptied": lambda file: file.write_text(""),
    "comments": lambda file: file.write_text("# nothing\n"),
    "folder": put_folder,
    "not text": lambda file: file.write_bytes(b"\xff"),
    "dangling": put_dangling_link,
    "lost key": lambda file: file.write_text('log_level = "info"\n'),
}


@dataclass
class Running:
    """One daemon in this process."""

    file: Path
    server: FleetServer
    reloader: Reloader

    async def secret(self, name: str = SCC) -> dict[str, Any] | None:
        return await to_thread.run_sync(self.server.get, SECRETS, name, NAMESPACE)

    async def payload(self, name: str = SCC) -> dict[str, Any] | None:
        return await to_thread.run_sync(self.server.payload, name)

    async def until(self, what: Callable[[], Any]) -> None:
        with anyio.fail_after(20):
            while not await what():
                await anyio.sleep(0.05)


@asynccontextmanager
async def running(
    server: FleetServer, folder: Path, monkeypatch: pytest.MonkeyPatch, state: str = "state"
) -> AsyncIterator[Running]:
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
    environ = {
        "HOME": str(folder),
        "STATE_DIRECTORY": f"{folder}/{state}",
        "RUNTIME_DIRECTORY": str(folder),
        "TELEMETRYD_LISTEN": "127.0.0.1:0",
    }
    source = ConfigSource(None, environ, folder / "config.toml")
    file = source.read()
    reloader = Reloader(source, file, configure_logging=lambda _config: None, now=time.time)
    stop = anyio.Event()

    async def daemon(*, task_status: Any) -> None:
        await run_until(
            stop,
            source.parse(file),
            reloader,
            StatusLog(),
            now=time.time,
            rng=random.Random(1),
            notifier=Notifier(),
            task_status=task_status,
        )

    async with anyio.create_task_group() as group:
        await group.start(daemon)
        try:
            yield Running(source.system_path, server, reloader)
        finally:
            stop.set()


async def assert_no_more(daemon: Running, which: str, *, quiet_s: float = 1.5) -> None:
    """Nothing is sent that the whole file kept from being sent."""
    await anyio.sleep(quiet_s)
    if which in {"enabled", "exporter", "no scc"}:
        assert await daemon.secret() is None
    else:
        document = await daemon.payload()
        assert (
            document is None
            or not document["subscription"]["server_url"]
            or which != ("server_url")
        )
        config = daemon.reloader.config
        assert getattr(config.privacy, which) == "omit"


@pytest.mark.parametrize("which", list(FILES))
async def test_damaged_file_permits_nothing_at_reloads_and_restarts(
    tmp_path: Path, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_fleet(tmp_path, clusters=2, nodes=1) as server:
        file = tmp_path / "config.toml"
        for damage, spoil in DAMAGES.items():
            if file.is_dir():
                file.rmdir()
            file.unlink(missing_ok=True)
            shutil.rmtree(tmp_path / "state", ignore_errors=True)
            file.write_text(FILES[which])
            async with running(server, tmp_path, monkeypatch) as daemon:
                in_force = daemon.reloader.config
                spoil(file)
                for trigger in ("signal", "control", "file"):
                    result = await daemon.reloader.reload(trigger)
                    assert result.ok is (damage == "lost key"), damage
                    assert len(result.problems) == (damage != "lost key")
                if damage != "lost key":
                    assert daemon.reloader.config == in_force
                await assert_no_more(daemon, which, quiet_s=0.3)
            try:
                async with running(server, tmp_path, monkeypatch) as daemon:
                    await assert_no_more(daemon, which)
            except ConfigError:
                assert damage in {"emptied", "comments", "folder", "not text", "dangling"}


@pytest.mark.parametrize("lost", ["nothing", "state"])
async def test_setting_that_was_out_and_is_deleted_stays_out_until_an_opt_in(
    tmp_path: Path, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_fleet(tmp_path, clusters=1, nodes=1) as server:
        (tmp_path / "config.toml").write_text(PLAIN)
        setting = {
            "apiVersion": "management.cattle.io/v3",
            "kind": "Setting",
            "metadata": {"name": "telemetry-opt"},
            "value": "out",
        }
        async with running(server, tmp_path, monkeypatch) as daemon:
            await daemon.until(daemon.secret)
            await to_thread.run_sync(server.put, setting)

            async def is_marked() -> bool:
                found = await daemon.secret()
                return found is not None and ANNOTATION in found["metadata"]["annotations"]

            await daemon.until(is_marked)
            await to_thread.run_sync(
                server.remove, "settings.management.cattle.io", "telemetry-opt"
            )
        before = await daemon.secret()
        state = "state" if lost == "nothing" else "other"
        async with running(server, tmp_path, monkeypatch, state) as daemon:
            restrictions = daemon.reloader.restrictions

            async def is_held() -> bool:
                return restrictions.remembered_switches == {"telemetry-opt"}

            await daemon.until(is_held)
            await anyio.sleep(2.5)
            assert await daemon.secret() == before
            (shown,) = restrictions.statuses()
            assert any("annotation" in each for each in shown.remembered_in)
            await restrictions.opt_in()
            await daemon.reloader.reapplied()

            async def is_unmarked() -> bool:
                found = await daemon.secret()
                return found is not None and ANNOTATION not in found["metadata"]["annotations"]

            await daemon.until(is_unmarked)
            assert restrictions.statuses() == ()
        async with running(server, tmp_path, monkeypatch, state) as daemon:
            await anyio.sleep(1)
            assert daemon.reloader.restrictions.statuses() == ()


async def test_exporters_own_writes_leave_the_mark_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_fleet(tmp_path, clusters=1, nodes=1) as server:
        (tmp_path / "config.toml").write_text(PLAIN)
        async with running(server, tmp_path, monkeypatch) as daemon:
            await daemon.until(daemon.secret)
            found = await daemon.secret()
            assert found is not None
            found["metadata"]["annotations"][ANNOTATION] = "2026-01-01T00:00:00Z"
            del found["data"]["payload"]
            await to_thread.run_sync(server.put, found)

            async def is_whole() -> bool:
                now = await daemon.secret()
                return now is not None and "payload" in now.get("data", {})

            await daemon.until(is_whole)
            healed = await daemon.secret()
            assert healed is not None
            assert ANNOTATION in healed["metadata"]["annotations"]
