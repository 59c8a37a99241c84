"""The opt-out's mark on the Secret, over restarts, lost state and the exporter's own writes.

The whole daemon in this process, against the embedded API server, with the real reloader.
"""

import random
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
from telemetryd.daemon.notify import Notifier, StatusLog
from telemetryd.daemon.optout import ANNOTATION
from telemetryd.daemon.reload import Reloader
from tests.support.embedded import NAMESPACE, SECRETS, FleetServer, serve_fleet
from tests.support.waiting import until_async

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

SCC = "rancher-scc-telemetry"
PLAIN = '[[exporters]]\nname = "scc"\ntype = "secret"\ninterval = "1s"\n'


@dataclass
class Running:
    """One daemon in this process."""

    file: Path
    server: FleetServer
    reloader: Reloader

    async def secret(self, name: str = SCC) -> dict[str, Any] | None:
        return await to_thread.run_sync(self.server.get, SECRETS, name, NAMESPACE)

    async def until(self, what: Callable[[], Any]) -> None:
        await until_async(what, deadline_s=300)


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
