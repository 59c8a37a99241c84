"""Keys that a plugin grants or a kubeconfig holds leave no file behind, and need no folder."""

import os
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from telemetryd.kube.pem import load_pair_from_memory
from tests.informer.samples import Json
from tests.informer.scripted import answer, kubeconfig, serve
from tests.kube.test_connection import connected, get, granting, inline, plugin
from tests.support.certificates import Authority, Pair, server_side

pytestmark = pytest.mark.anyio

OK = answer({"kind": "Thing"})


def granted(folder: Path, pair: Pair) -> Json:
    """A user whose plugin grants this certificate."""
    script = granting(
        clientCertificateData=pair.cert.read_text(), clientKeyData=pair.key.read_text()
    )
    return plugin(folder / "plugin", script)


@pytest.mark.parametrize("by_plugin", [False, True])
async def test_login_works_without_any_folder_for_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, by_plugin: bool
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    authority = Authority(tmp_path)
    pair = authority.issue("client")
    tls = server_side(authority.issue("server"), client_ca=authority.ca)
    cluster = {"certificate-authority-data": inline_ca(authority)}
    user = granted(tmp_path, pair) if by_plugin else inline(pair)
    async with serve(tls=tls) as server:
        server.others["/x"] = OK
        config = kubeconfig(tmp_path / "config", server.url, cluster=cluster, user=user)
        async with connected(config) as client:
            await get(client)


def inline_ca(authority: Authority) -> str:
    data = inline(Pair(authority.ca, authority.ca))
    return str(data["client-certificate-data"])


def test_pair_passes_through_a_private_folder_where_there_are_no_files_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    monkeypatch.delattr(os, "memfd_create")
    pair = Authority(tmp_path).issue("client")
    cert, key = pair.cert.read_bytes(), pair.key.read_bytes()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with pytest.raises(OSError, match="TMPDIR"):
        load_pair_from_memory(context, cert, key)
    seen: list[int] = []
    load = ssl.SSLContext.load_cert_chain

    def look(self: ssl.SSLContext, *files: str, **options: object) -> None:
        seen.extend(Path(name).stat().st_mode & 0o777 for name in files)
        seen.extend(Path(name).parent.stat().st_mode & 0o777 for name in files)
        load(self, *files, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", look)
    (tmp_path / "scratch").mkdir()
    load_pair_from_memory(context, cert, key)
    assert seen == [0o600, 0o600, 0o700, 0o700]
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("ending", ["returns", "hangs", "is killed"])
def test_no_file_is_left_when_the_process_has_ended(tmp_path: Path, ending: str) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    user = granted(tmp_path, Authority(tmp_path).issue("client"))
    kubeconfig(tmp_path / "config", "http://127.0.0.1:1", user=user)
    ended = subprocess.run(
        [sys.executable, "-c", CONNECTS, str(tmp_path / "config"), ending],
        env={**os.environ, "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == (-9 if ending == "is killed" else 7), ended.stderr
    assert ended.stdout == "[]\n"
    assert list(scratch.iterdir()) == []


CONNECTS = """
import os, signal, sys, threading
import anyio
from telemetryd.__main__ import _leave
from telemetryd.config.settings import KubernetesConfig
from telemetryd.kube.client import KubeClient
from telemetryd.stats import KubeStats

async def main():
    config = KubernetesConfig(kubeconfig=sys.argv[1])
    async with KubeClient.connect(config, KubeStats(), environ={}):
        print(os.listdir(os.environ["TMPDIR"]), flush=True)
        if sys.argv[2] == "is killed":
            os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "hangs":
    threading.Thread(target=threading.Event().wait).start()  # as one that hangs in a disk
anyio.run(main)
_leave(7)
"""
