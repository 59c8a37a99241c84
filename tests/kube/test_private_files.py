"""Keys that a plugin grants or a kubeconfig holds lie in files only as long as they are in use."""

import os
import stat
import subprocess
import sys
import tempfile
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import anyio
import pytest

from telemetryd.errors import KubeError
from telemetryd.kube.client import KubeClient
from tests.informer.samples import Json
from tests.informer.scripted import kubeconfig, serve
from tests.kube.certificates import Authority
from tests.kube.test_connection import connected, get, granting, inline, only, plugin

pytestmark = pytest.mark.anyio


def granted(folder: Path, authority: Authority, token: str) -> Json:
    """A user whose plugin grants a certificate of its own with each token."""
    pair = authority.issue(token)
    script = granting(
        token=token,
        clientCertificateData=pair.cert.read_text(),
        clientKeyData=pair.key.read_text(),
    )
    return plugin(folder / "plugin", script)


async def get_in_the_end(client: KubeClient) -> None:
    """Ask until the plugin, which isn't run at each refusal, has been run again."""
    with anyio.fail_after(60):
        while True:
            with suppress(KubeError):
                await get(client)
                return
            await anyio.sleep(0.05)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", os.fspath(folder))
    return folder


async def test_key_of_the_grant_before_is_gone_once_there_is_another(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetryd.kube.credentials._RETRY_S", 0.01)
    authority = Authority(tmp_path)
    token = "t0"
    seen: list[set[str]] = []
    async with serve() as server:
        server.others["/x"] = only(lambda: token)
        user = granted(tmp_path, authority, token)
        async with connected(kubeconfig(tmp_path / "config", server.url, user=user)) as client:
            for number in range(4):
                token = f"t{number}"
                granted(tmp_path, authority, token)
                await get_in_the_end(client)
                files = list(scratch.iterdir())
                assert len(files) == 2
                assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
                seen.append({file.name for file in files})
    assert all(before.isdisjoint(after) for before, after in pairwise(seen))


async def test_inline_key_lies_in_one_private_file(tmp_path: Path, scratch: Path) -> None:
    pair = Authority(tmp_path).issue("client")
    async with serve() as server:
        server.others["/x"] = only(lambda: "x")
        user = inline(pair) | {"token": "x"}
        async with connected(kubeconfig(tmp_path / "config", server.url, user=user)) as client:
            await get(client)
            files = list(scratch.iterdir())
    assert len(files) == 2
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


@pytest.mark.parametrize("hanging", [False, True])
def test_keys_are_gone_when_the_process_has_ended(tmp_path: Path, *, hanging: bool) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    user = granted(tmp_path, Authority(tmp_path), "t")
    kubeconfig(tmp_path / "config", "http://127.0.0.1:1", user=user)
    ended = subprocess.run(
        [sys.executable, "-c", CONNECTS, str(tmp_path / "config"), str(hanging)],
        env={**os.environ, "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 7, ended.stderr
    assert ended.stdout == "2\n"
    assert list(scratch.iterdir()) == []


CONNECTS = """
import os, sys, threading
import anyio
from telemetryd.__main__ import _leave
from telemetryd.config.settings import KubernetesConfig
from telemetryd.kube.client import KubeClient
from telemetryd.stats import KubeStats

async def main():
    config = KubernetesConfig(kubeconfig=sys.argv[1])
    async with KubeClient.connect(config, KubeStats(), environ={}):
        print(len(os.listdir(os.environ["TMPDIR"])), flush=True)

if sys.argv[2] == "True":
    threading.Thread(target=threading.Event().wait).start()  # as one that hangs in a disk
anyio.run(main)
_leave(7)
"""
