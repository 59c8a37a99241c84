"""Disks that hang while something is read from them again and again: threads don't pile up.

What the whole daemon does meanwhile is shown by ``tests/system/test_hangs.py``.
"""

import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from telemetryd.config import HttpExporterConfig, IdentityConfig
from telemetryd.config.paths import default_state_dir
from telemetryd.daemon.exporters import MOST_CHECKS, build_http
from telemetryd.daemon.restrictionfile import DamagedRestrictions, RestrictionFiles
from telemetryd.errors import ConfigError
from telemetryd.gather.build_info import RancherCommit
from telemetryd.serve.http.security import Security
from tests.gather.readers import Fleet
from tests.serve.guarded import tls
from tests.support.certificates import Authority

pytestmark = pytest.mark.anyio

ROUNDS = 6


class Disk:
    """Hangs until the end of the test; a stand-in, as a real one cannot be made to hang here."""

    def __init__(self) -> None:
        self.works = threading.Event()
        self.reads = 0

    def read(self, *_: Any) -> None:
        self.reads += 1
        assert self.works.wait(120)


@pytest.fixture
def disk() -> Iterator[Disk]:
    disk = Disk()
    yield disk
    disk.works.set()


def threads(name: str) -> int:
    return sum(thread.name == name for thread in threading.enumerate())


async def test_memory_of_restrictions(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetryd.daemon.restrictionfile._read", disk.read)
    memory = RestrictionFiles([str(tmp_path)])
    for _ in range(ROUNDS):
        with pytest.raises(
            DamagedRestrictions, match=r"can't be read within 0\.02 s: check the disk"
        ):
            await memory.load(deadline_s=0.02)
    assert (threads("restrictions"), disk.reads) == (1, 1)


async def test_certificates_of_the_server_at_reloads(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetryd.serve.http.security.READ_TIMEOUT_S", 0.02)
    monkeypatch.setattr("telemetryd.serve.http.security.load_certificates", disk.read)
    config = tls(Authority(tmp_path, "ca").issue("server"))
    security = Security()
    for _ in range(ROUNDS):
        with pytest.raises(ConfigError, match=r"can't be read within 0\.02 s"):
            await security.prepare(config, "f")
    assert (threads("certificates of the server"), disk.reads) == (1, 1)


async def test_certificates_of_the_server_that_are_watched(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = tls(Authority(tmp_path, "ca").issue("server"))
    security = Security(look_s=0.01)
    security.apply(await security.prepare(config, "f"))
    caplog.set_level("DEBUG")
    monkeypatch.setattr("telemetryd.serve.http.security.READ_TIMEOUT_S", 0.02)
    monkeypatch.setattr("telemetryd.serve.http.security.digest_files", disk.read)
    async with anyio.create_task_group() as group:
        group.start_soon(security.watch)
        with anyio.fail_after(60):
            while caplog.text.count("can't be read within 0.02 s") < ROUNDS:
                await anyio.sleep(0.01)
        group.cancel_scope.cancel()
    assert (threads("certificates of the server"), disk.reads) == (1, 1)


async def test_authorities_of_the_system(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.setattr("telemetryd.gather.build_info._ssl_context", disk.read)
    fleet = Fleet()
    fleet.set("server-url", "https://127.0.0.1:1")
    info = RancherCommit(
        settings=fleet.settings,
        overrides=IdentityConfig(),
        api_server=lambda: "https://127.0.0.1:1",
        rng=random.Random(1),
        timeout_s=0.02,
        retry_base_s=0.01,
        retry_cap_s=0.01,
    )
    async with anyio.create_task_group() as group:
        group.start_soon(info.run)
        with anyio.fail_after(60):
            while caplog.text.count("reason=no answer in time") < ROUNDS:
                await anyio.sleep(0.01)
        group.cancel_scope.cancel()
    assert (threads("authorities of Rancher"), disk.reads) == (1, 1)


async def test_certificates_of_many_exporters(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetryd.daemon.exporters.CHECK_PATIENCE_S", 0.05)
    monkeypatch.setattr("telemetryd.daemon.exporters._CHECK_AGAIN_S", 0.01)
    monkeypatch.setattr("telemetryd.daemon.exporters.build_context", disk.read)
    for number in range(5 * MOST_CHECKS):
        url = f"https://127.0.0.1:1/{number}"
        config = HttpExporterConfig(name=f"{number}", url=url, ca_file=f"{tmp_path}/ca.crt")
        build_http(config, now=lambda: 0.0, environ={})
    assert threads("exporter certificates") == MOST_CHECKS


def test_state_folder_counts_while_its_disk_hangs(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next candidate may know nothing of an opt-out that this one remembers."""
    monkeypatch.setattr("telemetryd.config.paths.LOOK_S", 0.05)
    monkeypatch.setattr("telemetryd.config.paths._is_usable", disk.read)
    environ = {"STATE_DIRECTORY": f"{tmp_path}/first", "XDG_STATE_HOME": str(tmp_path)}
    assert default_state_dir(environ) == f"{tmp_path}/first"
