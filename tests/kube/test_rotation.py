"""Each field of a login that changes is taken up: at once when a request fails, else in time."""

import base64
import shutil
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from telemetryd.errors import Unauthorized, Unavailable
from tests.informer.samples import Json
from tests.informer.scripted import answer, kubeconfig, refuse, serve
from tests.kube.certificates import Authority, server_side
from tests.kube.test_connection import connected, failure, get, inline, only

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
    monkeypatch.setattr("telemetryd.kube.rechosen.RECHECK_S", 0.0)
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


async def test_file_that_comes_later_than_the_kubeconfig_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetryd.kube.rechosen._RETRY_S", 0.0)
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
            assert await client._connection.look_again(client._connection.login) is False
            assert "ended with status 1" in client.login_problem
            await get(client)
