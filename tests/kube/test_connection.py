"""Logins that come late, change or run out, against a real server on a real socket."""

import base64
import json
import logging
import os
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web

from telemetryd.config.settings import KubernetesConfig
from telemetryd.errors import ConfigError, KubeError, Reason, Unauthorized, Unavailable
from telemetryd.kube.client import KubeClient
from telemetryd.stats import KubeStats
from tests.informer.samples import Json
from tests.informer.scripted import Scripted, answer, kubeconfig, refuse, serve
from tests.support.certificates import Authority, Pair, server_side

pytestmark = pytest.mark.anyio

OK = answer({"kind": "Thing"})
VERSION = "client.authentication.k8s.io/v1"


@asynccontextmanager
async def connected(config: KubernetesConfig) -> AsyncIterator[KubeClient]:
    async with KubeClient.connect(config, KubeStats(), environ={}) as client:
        yield client


async def get(client: KubeClient, timeout_s: float = 30.0) -> bytes:
    return await client.request("GET", "/x", timeout_s=timeout_s)


async def failure(client: KubeClient, timeout_s: float = 30.0) -> KubeError:
    with pytest.raises(KubeError) as caught:
        await get(client, timeout_s)
    return caught.value


def only(token: Callable[[], str]) -> Any:
    async def guarded(request: web.BaseRequest) -> web.StreamResponse:
        right = request.headers.get("Authorization") == f"Bearer {token()}"
        return await (OK if right else refuse(401, "Unauthorized"))(request)

    return guarded


def logged(caplog: pytest.LogCaptureFixture, text: str = "") -> list[str]:
    return [
        entry.getMessage()
        for entry in caplog.records
        if entry.name.startswith("telemetryd")
        and entry.levelno >= logging.INFO
        and text in entry.getMessage()
    ]


def plugin(path: Path, script: str) -> Json:
    """A user whose plugin is this script."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    command = f"./{path.name}"
    return {"exec": {"apiVersion": VERSION, "command": command, "interactiveMode": "Never"}}


def granting(**granted: str) -> str:
    credential = {"apiVersion": VERSION, "kind": "ExecCredential", "status": granted}
    return f"cat <<'END'\n{json.dumps(credential)}\nEND"


async def test_plugin_that_fails_at_the_start_is_waited_for_and_named_meanwhile(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetryd.kube.credentials._BACKOFF_BASE_S", 0.01)
    caplog.set_level(logging.INFO)
    async with serve() as server:
        server.others["/x"] = only(lambda: "good")
        user = plugin(tmp_path / "plugin", "echo SENTINEL >&2; exit 1")
        async with connected(kubeconfig(tmp_path / "config", server.url, user=user)) as client:
            for _ in range(3):
                error = await failure(client)
                assert isinstance(error, Unavailable)
                assert error.kind is Reason.AUTH
                assert f"exec plugin {tmp_path}/plugin" in str(error)
                assert "ended with status 1" in str(error)
                assert "ended with status 1" in client.login_problem
            assert server.requests == []
            plugin(tmp_path / "plugin", granting(token="good"))
            await anyio.sleep(0.2)
            await get(client)
            assert client.login_problem == ""
    lines = logged(caplog, "exec plugin")
    assert len(lines) == 2
    assert "ended with status 1" in lines[0]
    assert "recovered" in lines[1]
    assert "SENTINEL" not in caplog.text + str(error)


async def test_plugin_that_hangs_at_the_start_is_stopped_and_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetryd.kube.execplugin.RUN_TIMEOUT_S", 0.3)
    marker = tmp_path / "pid"
    user = plugin(tmp_path / "plugin", f"echo $$ > {marker}; exec sleep 60")
    config = kubeconfig(tmp_path / "config", "http://127.0.0.1:1", user=user)
    async with connected(config) as client:
        with pytest.raises(ProcessLookupError):
            os.kill(int(marker.read_text()), 0)
        error = await failure(client)
        assert isinstance(error, Unavailable)
        assert error.kind is Reason.AUTH
        assert "no answer within 0.3 s" in str(error)


async def test_identity_provider_that_is_away_is_waited_for(tmp_path: Path) -> None:
    config = {
        "client-id": "x",
        "client-secret": "SENTINEL",
        "refresh-token": "SENTINEL",
        "idp-issuer-url": "http://127.0.0.1:1",
    }
    user = {"auth-provider": {"name": "oidc", "config": config}}
    async with connected(
        kubeconfig(tmp_path / "config", "http://127.0.0.1:1", user=user)
    ) as client:
        error = await failure(client)
        assert isinstance(error, Unavailable)
        assert error.kind is Reason.AUTH
        assert "auth-provider oidc" in str(error)
        assert "SENTINEL" not in str(error)


async def test_kubeconfig_that_comes_with_another_user_ends_a_plugins_failure(
    tmp_path: Path,
) -> None:
    async with serve() as server:
        server.others["/x"] = only(lambda: "good")
        path = tmp_path / "config"
        config = kubeconfig(path, server.url, user=plugin(tmp_path / "plugin", "exit 1"))
        async with connected(config) as client:
            assert isinstance(await failure(client), Unavailable)
            kubeconfig(path, server.url, user={"token": "good\r\n"})
            await get(client)


async def test_inline_token_is_chosen_again_when_it_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetryd.kube.login._RETRY_S", 0.0)
    caplog.set_level(logging.INFO)
    path = tmp_path / "config"
    good = ["SENTINEL-one"]
    async with serve() as server:
        server.others["/x"] = only(lambda: good[0])
        config = kubeconfig(path, server.url, user={"token": "SENTINEL-one"})
        async with connected(config) as client:
            await get(client)
            good[0] = "SENTINEL-two"
            assert isinstance(await failure(client), Unauthorized)
            assert len(server.requests) == 2

            path.write_text("not: [SENTINEL")
            for _ in range(3):
                assert isinstance(await failure(client), Unauthorized)
            assert len(logged(caplog, "last good login stays")) == 1
            kubeconfig(path, "http://127.0.0.1:1", user={"token": "SENTINEL-two"})
            assert isinstance(await failure(client), Unauthorized)
            assert "another API server" in logged(caplog, "last good login stays")[1]
            path.unlink()
            assert isinstance(await failure(client), Unauthorized)
            good[0] = "SENTINEL-one"
            await get(client)  # what was good is still used

            good[0] = "SENTINEL-two"
            kubeconfig(path, server.url, user={"token": "SENTINEL-two"})
            await get(client)
            assert server.requests[-1].headers["Authorization"] == "Bearer SENTINEL-two"
    assert len(logged(caplog, "its login is used")) == 1
    assert "SENTINEL" not in caplog.text


def inline(pair: Pair) -> Json:
    return {
        "client-certificate-data": base64.b64encode(pair.cert.read_bytes()).decode(),
        "client-key-data": base64.b64encode(pair.key.read_bytes()).decode(),
    }


async def test_inline_client_certificate_is_chosen_again_when_it_is_refused(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path)
    tls = server_side(authority.issue("server"), client_ca=authority.ca)
    cluster = {"certificate-authority": "ca.crt"}
    path = tmp_path / "config"

    async def guarded(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport
        (name,) = request.transport.get_extra_info("peercert")["subject"][0]
        return await (OK if name[1] == "two" else refuse(401, "Unauthorized"))(request)

    async with serve(tls=tls) as server:
        server.others["/x"] = guarded
        one, two = (inline(authority.issue(name)) for name in ("one", "two"))
        config = kubeconfig(path, server.url, cluster=cluster, user=one)
        async with connected(config) as client:
            assert isinstance(await failure(client), Unauthorized)
            mismatch = {**two, "client-key-data": one["client-key-data"]}
            kubeconfig(path, server.url, cluster=cluster, user=mismatch)
            assert isinstance(await failure(client), Unauthorized)
            kubeconfig(path, server.url, cluster=cluster, user=two)
            await get(client)


async def test_scheme_in_capitals_is_tls_like_any_other(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    mine = authority.issue("client")
    tls = server_side(authority.issue("server"), client_ca=authority.ca)
    user = {"client-certificate": mine.cert.name, "client-key": mine.key.name}
    cluster = {"certificate-authority": "ca.crt"}
    async with serve(tls=tls) as server:
        server.others["/x"] = OK
        url = server.url.replace("https", "HTTPS")
        config = kubeconfig(tmp_path / "config", url, cluster=cluster, user=user)
        async with connected(config) as client:
            await get(client)


@pytest.mark.parametrize("skip", [True, False])
async def test_verification_that_is_off_is_reported_once_and_a_word_for_it_refused(
    tmp_path: Path, skip: bool, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority(tmp_path)
    tls = server_side(authority.issue("server"))
    path = tmp_path / "config"
    async with serve(tls=tls) as server:
        server.others["/x"] = OK
        cluster: Json = {"insecure-skip-tls-verify": skip}
        async with connected(kubeconfig(path, server.url, cluster=cluster)) as client:
            if skip:
                await get(client)
                await get(client)
            else:
                assert isinstance(await failure(client), Unavailable)
        lines = logged(caplog, "NOT checked")
        assert len(lines) == skip
        assert all("insecure-skip-tls-verify" in line for line in lines)
        cluster = {"insecure-skip-tls-verify": str(skip).lower()}
        with pytest.raises(ConfigError, match="insecure-skip-tls-verify"):
            async with connected(
                kubeconfig(path, server.url, cluster=cluster, user={"token": "SENTINEL"})
            ):
                pass
        assert all("Authorization" not in request.headers for request in server.requests)


@pytest.mark.parametrize(("days", "says"), [(-1, ["has expired on 20"]), (1, [])])
async def test_client_certificate_that_has_expired_is_reported_once(
    tmp_path: Path, days: int, says: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority(tmp_path)
    user = inline(authority.issue("client", days=days))
    async with serve(Scripted(), tls=server_side(authority.issue("server"))) as server:
        server.others["/x"] = OK
        cluster = {"certificate-authority": "ca.crt"}
        config = kubeconfig(tmp_path / "config", server.url, cluster=cluster, user=user)
        async with connected(config) as client:
            await get(client)
            tls = client._current.login.tls
            assert tls
            tls._check_at_s = 0.0
            await get(client)
    lines = logged(caplog, "the client certificate")
    assert len(lines) == len(says)
    for line, text in zip(lines, says, strict=True):
        assert text in line
        assert "users[name=it].user.client-certificate" in line


HOMELESS = """
import pwd, sys
def absent(user_id):
    raise KeyError(user_id)
pwd.getpwuid = absent
from telemetryd.cli import run_command
from telemetryd.daemon.signals import EarlySignals
sys.exit(run_command(["payload"], EarlySignals()))
"""


def test_user_without_a_home_is_reported_that_the_library_wants_one(tmp_path: Path) -> None:
    oidc = {"id-token": "a.b.c", "client-id": "x", "idp-issuer-url": "https://127.0.0.1:1"}
    user = {"auth-provider": {"name": "oidc", "config": oidc}}
    kubeconfig(tmp_path / "config", "https://127.0.0.1:1", user=user)
    environ = {name: value for name, value in os.environ.items() if name != "HOME"}
    done = subprocess.run(
        [sys.executable, "-c", HOMELESS],
        env={**environ, "KUBECONFIG": str(tmp_path / "config")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 78, done.stderr
    assert done.stderr.startswith("$HOME: is not set")
