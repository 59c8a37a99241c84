"""Each field of a login that changes is taken up: at once when a request fails, else in time."""

import base64
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web

from telemetryd.config.settings import KubernetesConfig
from telemetryd.errors import Unauthorized, Unavailable
from telemetryd.kube.client import KubeClient
from telemetryd.kube.credentials import TokenFile
from telemetryd.kube.stream import ByteStream
from telemetryd.kube.tls import TlsContext
from tests.informer.samples import Json
from tests.informer.scripted import answer, kubeconfig, refuse, serve
from tests.kube.test_connection import connected, failure, get, inline, only
from tests.support.certificates import Authority, server_side

pytestmark = pytest.mark.anyio

OK = answer({"kind": "Thing"})


def ca_of(authority: Authority) -> Json:
    data = base64.b64encode(authority.ca.read_bytes()).decode()
    return {"certificate-authority-data": data}


@pytest.mark.parametrize("by_file", [True, False])
async def test_ca_that_changes_is_taken_up_by_the_request_whose_handshake_fails(
    tmp_path: Path, *, by_file: bool
) -> None:
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    file = tmp_path / "ca.crt"
    shutil.copy(old.ca, file)
    path = tmp_path / "config"
    cluster = {"certificate-authority": "ca.crt"} if by_file else ca_of(old)
    tls = server_side(old.issue("server"))
    async with serve(tls=tls) as server:
        server.others["/x"] = closing
        config = kubeconfig(path, server.url, cluster=cluster)
        async with connected(config) as client:
            await get(client)
            pair = new.issue("server-2")
            tls.load_cert_chain(pair.cert, pair.key)
            assert isinstance(await failure(client), Unavailable)
            if by_file:
                shutil.copy(new.ca, file)
            else:
                kubeconfig(path, server.url, cluster=ca_of(new))
            await get(client)
            assert client.login_problem == ""


async def closing(request: web.BaseRequest) -> web.StreamResponse:
    """An answer after which the next request needs another connection."""
    response = await OK(request)
    response.force_close()
    return response


async def test_body_is_sent_once_where_the_first_connection_does_not_come_about(
    tmp_path: Path,
) -> None:
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    path = tmp_path / "config"
    async with serve(tls=server_side(new.issue("server"))) as server:
        server.others["/x"] = OK
        config = kubeconfig(path, server.url, cluster=ca_of(old))
        async with connected(config) as client:
            kubeconfig(path, server.url, cluster=ca_of(new))
            await client.request("PATCH", "/x", body=b"{}", timeout_s=10.0)
            assert [request.method for request in server.requests] == ["PATCH"]


async def test_client_certificate_in_files_is_taken_up_by_the_request_that_is_refused(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path)
    tls = server_side(authority.issue("server"), client_ca=authority.ca)
    one, two = authority.issue("one"), authority.issue("two")
    mine = tmp_path / "mine.crt", tmp_path / "mine.key"
    user = {"client-certificate": mine[0].name, "client-key": mine[1].name}

    def put(pair: Any) -> None:
        shutil.copy(pair.cert, mine[0])
        shutil.copy(pair.key, mine[1])

    async def guarded(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport
        (name,) = request.transport.get_extra_info("peercert")["subject"][0]
        return await (OK if name[1] == "two" else refuse(401, "Unauthorized"))(request)

    put(one)
    async with serve(tls=tls) as server:
        server.others["/x"] = guarded
        cluster = {"certificate-authority": "ca.crt"}
        config = kubeconfig(tmp_path / "config", server.url, cluster=cluster, user=user)
        async with connected(config) as client:
            assert isinstance(await failure(client), Unauthorized)
            shutil.copy(two.cert, mine[0])  # its key is still on its way
            assert isinstance(await failure(client), Unauthorized)
            assert "client certificate and key can't be loaded" in client.login_problem
            put(two)
            await get(client)
            assert client.login_problem == ""


async def test_proxy_that_changes_is_taken_up_by_the_request_that_does_not_get_through(
    tmp_path: Path,
) -> None:
    path = tmp_path / "config"
    target = "http://api.invalid"
    async with serve() as proxy:
        proxy.others["/x"] = OK
        config = kubeconfig(path, target, cluster={"proxy-url": "http://127.0.0.1:1"})
        async with connected(config) as client:
            assert isinstance(await failure(client), Unavailable)
            kubeconfig(path, target, cluster={"proxy-url": proxy.url})
            await get(client)


@pytest.mark.parametrize("field", ["tls-server-name", "proxy-url", "user"])
async def test_change_that_no_request_fails_for_is_taken_up_in_time(
    tmp_path: Path, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetryd.kube.login.RECHECK_S", 0.0)
    authority = Authority(tmp_path)
    tls = server_side(authority.issue("server", also=["127.0.0.2"]))
    path = tmp_path / "config"
    async with serve(tls=tls) as server:
        server.others["/x"] = only(lambda: "good")
        cluster, user = ca_of(authority), {"token": "good"}
        async with connected(kubeconfig(path, server.url, cluster=cluster, user=user)) as client:
            await get(client)
            if field == "user":
                user = {"token": "other"}
            else:
                value = {"tls-server-name": "127.0.0.9", "proxy-url": "http://127.0.0.1:1"}
                cluster |= {field: value[field]}
            kubeconfig(path, server.url, cluster=cluster, user=user)
            assert isinstance(await failure(client), Unauthorized | Unavailable)


async def endless(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(b"one\n")
    while True:
        await anyio.sleep(0.01)
        await response.write(b"")


@asynccontextmanager
async def followed(
    config: KubernetesConfig, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[KubeClient, ByteStream]]:
    """A client that asks nothing, and what it has open."""
    monkeypatch.setattr("telemetryd.kube.login.RECHECK_S", 0.0)
    monkeypatch.setattr("telemetryd.kube.login._FOLLOW_S", 0.01)
    monkeypatch.setattr("telemetryd.kube.credentials.REREAD_S", 0.0)
    monkeypatch.setattr(TlsContext.__init__, "__kwdefaults__", {"recheck_s": 0.0})
    async with connected(config) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(client.follow)
        async with client.stream("/x", {}, open_timeout_s=30.0) as stream:
            assert await stream.read(30.0) == b"one\n"
            yield client, stream
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    "what", ["ca file", "ca", "certificate file", "tls-server-name", "proxy-url", "token"]
)
async def test_open_answer_ends_soon_after_the_login_it_was_asked_for_with(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    ca, pair = tmp_path / "mine-ca.crt", authority.issue("one")
    shutil.copy(authority.ca, ca)
    cluster: Json = {"certificate-authority": ca.name}
    user: Json = {"client-certificate": pair.cert.name, "client-key": pair.key.name}
    async with serve(tls=server_side(authority.issue("server"))) as server:
        server.others["/x"] = endless
        path = tmp_path / "config"
        config = kubeconfig(path, server.url, cluster=cluster, user=user)
        async with followed(config, monkeypatch) as (client, stream):
            if what == "ca file":
                shutil.copy(other.ca, ca)
            elif what == "certificate file":
                new = authority.issue("two")
                shutil.copy(new.key, pair.key)
                shutil.copy(new.cert, pair.cert)
            elif what == "token":
                kubeconfig(path, server.url, cluster=cluster, user={"token": "other"})
            else:
                value = {"tls-server-name": "127.0.0.9", "proxy-url": "http://127.0.0.1:1"}
                cluster = ca_of(other) if what == "ca" else cluster | {what: value[what]}
                kubeconfig(path, server.url, cluster=cluster, user=user)
            assert await stream.read(30.0) == b""
            assert await stream.read(30.0) == b"", "it stays ended"
            assert client.login_problem == ""


async def test_open_answer_goes_on_while_a_token_is_renewed_or_a_change_can_not_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, token = Authority(tmp_path), tmp_path / "token"
    token.write_text("one")
    cluster, user = ca_of(authority), {"tokenFile": token.name}
    path = tmp_path / "config"
    async with serve(tls=server_side(authority.issue("server"))) as server:
        server.others["/x"] = endless
        config = kubeconfig(path, server.url, cluster=cluster, user=user)
        async with followed(config, monkeypatch) as (client, stream):
            token.write_text("two")
            await until(client, "Bearer two")
            token.unlink()
            await until(client, "Bearer two", "token file")
            token.write_text("three")
            await until(client, "Bearer three")
            kubeconfig(path, "https://127.0.0.1:1", cluster=cluster, user=user)
            await until(client, "Bearer three", "names another API server: restart")
            path.write_text("{")
            await until(client, "Bearer three", "not YAML")
            kubeconfig(path, server.url, cluster=cluster, user=user)
            await until(client, "Bearer three")
            with pytest.raises(Unavailable, match="nothing for"):
                await stream.read(0.1)
    assert len(server.requests) == 1, "nothing was asked meanwhile"


async def test_login_is_followed_again_once_threads_can_be_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    tried: list[object] = []
    path = tmp_path / "config"
    async with serve(tls=server_side(authority.issue("server"))) as server:
        server.others["/x"] = endless
        config = kubeconfig(path, server.url, cluster=ca_of(authority))
        async with followed(config, monkeypatch) as (_, stream):
            with monkeypatch.context() as patch:
                patch.setattr("telemetryd.sharedread.threading.Thread", refusing(tried))
                kubeconfig(path, server.url, cluster=ca_of(other))
                with anyio.fail_after(30):
                    while len(tried) < 3:
                        await anyio.sleep(0.01)
            assert await stream.read(30.0) == b""


def refusing(tried: list[object]) -> Any:
    def start(**options: object) -> None:
        tried.append(options)
        raise RuntimeError("can't start new thread")

    return start


async def until(client: KubeClient, value: str, problem: str = "") -> None:
    """The client has come to this by itself."""
    credential = client._current.login.credential
    assert isinstance(credential, TokenFile)
    with anyio.fail_after(30):
        while credential._value != value or (
            problem not in client.login_problem if problem else client.login_problem
        ):
            await anyio.sleep(0.01)


async def test_file_that_comes_later_than_the_kubeconfig_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetryd.kube.login._RETRY_S", 0.0)
    authority = Authority(tmp_path)
    pair = authority.issue("two")
    path = tmp_path / "config"
    async with serve(tls=server_side(authority.issue("server"))) as server:
        server.others["/x"] = only(lambda: "new")
        cluster = ca_of(authority)
        config = kubeconfig(path, server.url, cluster=cluster, user={"token": "old"})
        async with connected(config) as client:
            assert isinstance(await failure(client), Unauthorized)
            user = {"tokenFile": "later"} | inline(pair)
            kubeconfig(path, server.url, cluster=cluster, user=user)
            assert isinstance(await failure(client), Unauthorized)
            assert "tokenFile" in client.login_problem
            (tmp_path / "later").write_text("new\n")
            await get(client)
            assert client.login_problem == ""


async def test_plugin_of_a_new_kubeconfig_that_fails_leaves_the_login_before(
    tmp_path: Path,
) -> None:
    path = tmp_path / "config"
    async with serve(tls=server_side(Authority(tmp_path).issue("server"))) as server:
        server.others["/x"] = only(lambda: "good")
        cluster = {"certificate-authority": "ca.crt"}
        config = kubeconfig(path, server.url, cluster=cluster, user={"token": "good"})
        async with connected(config) as client:
            api = "client.authentication.k8s.io/v1"
            plugin = {"apiVersion": api, "command": "false", "interactiveMode": "Never"}
            kubeconfig(path, server.url, cluster=cluster, user={"exec": plugin})
            assert await client._current.check_again(client._current.login) is False
            assert "ended with status 1" in client.login_problem
            await get(client)
