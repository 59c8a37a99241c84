"""The client against a real server on a real socket."""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web
from anyio.abc import SocketAttribute, SocketStream
from multidict import CIMultiDict

from telemetryd.errors import (
    BadResponse,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    KubeError,
    NotFound,
    Reason,
    Throttled,
    Unauthorized,
    Unavailable,
)
from telemetryd.kube.client import KubeClient
from telemetryd.stats import KubeStats
from tests.informer.samples import Json, status
from tests.informer.scripted import Scripted, answer, hang, kubeconfig, refuse, serve, stream
from tests.support.certificates import Authority, server_side

pytestmark = pytest.mark.anyio

OK = answer({"kind": "Thing"})


@asynccontextmanager
async def connected(
    folder: Path,
    server: Scripted,
    *,
    stats: KubeStats | None = None,
    environ: dict[str, str] | None = None,
    compression: bool = False,
    **kubeconfig_parts: Json,
) -> AsyncIterator[KubeClient]:
    config = kubeconfig(folder / "config", server.url, **kubeconfig_parts)
    object.__setattr__(config, "compression", compression)
    async with KubeClient.connect(config, stats or KubeStats(), environ=environ or {}) as client:
        yield client


async def get(client: KubeClient, **options: Any) -> bytes:
    return await client.request("GET", "/x", **{"timeout_s": 5.0, **options})


async def failure(client: KubeClient, **options: Any) -> KubeError:
    with pytest.raises(KubeError) as caught:
        await get(client, **options)
    return caught.value


async def test_request_carries_token_query_body_and_its_type(tmp_path: Path) -> None:
    async with serve() as server, connected(tmp_path, server, user={"token": "t"}) as client:
        seen: list[bytes] = []

        async def take(request: web.BaseRequest) -> web.StreamResponse:
            seen.append(await request.read())
            return await OK(request)

        server.others["/x"] = take
        body = await client.request(
            "PATCH",
            "/x",
            params={"a": "b c+d/e=&"},
            body=b"{}",
            content_type="application/apply-patch+yaml",
            timeout_s=5.0,
        )
        assert json.loads(body) == {"kind": "Thing"}
        request = server.requests[0]
        assert seen == [b"{}"]
        assert request.headers["Authorization"] == "Bearer t"
        assert request.headers["Content-Type"] == "application/apply-patch+yaml"
        assert request.headers["Accept-Encoding"] == "identity"
        assert dict(request.query) == {"a": "b c+d/e=&"}


async def test_basic_auth_and_none_are_sent_as_such(tmp_path: Path) -> None:
    async with serve() as server:
        server.others["/x"] = OK
        user = {"username": "me", "password": "p"}
        async with connected(tmp_path, server, user=user) as client:
            await get(client)
        async with connected(tmp_path, server) as client:
            await get(client)
        sent = [request.headers.get("Authorization") for request in server.requests]
        assert sent == ["Basic bWU6cA==", None]


async def test_compression_is_asked_for_where_configured(tmp_path: Path) -> None:
    async with serve() as server, connected(tmp_path, server, compression=True) as client:

        async def compressed(request: web.BaseRequest) -> web.StreamResponse:
            response = web.Response(body=b'{"a":1}' * 500, content_type="application/json")
            response.enable_compression()
            assert request.headers["Accept-Encoding"] == "gzip"
            return response

        server.others["/x"] = compressed
        assert await get(client) == b'{"a":1}' * 500


async def test_connection_that_does_not_come_about_is_no_watch_that_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Headers may be held back for long; a handshake may not."""
    monkeypatch.setattr("telemetryd.kube.client.CONNECT_TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = Scripted(url=f"https://127.0.0.1:{silent.getsockname()[1]}")
        async with connected(tmp_path, server) as client:
            with pytest.raises(Unavailable, match="no connection") as caught:
                async with client.stream("/x", {}, open_timeout_s=30.0):
                    pass
            assert caught.value.kind is Reason.CONNECT


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (400, Invalid),
        (401, Unauthorized),
        (403, Forbidden),
        (404, NotFound),
        (409, Conflict),
        (410, Gone),
        (422, Invalid),
        (429, Throttled),
        (500, Unavailable),
        (503, Unavailable),
        (504, Unavailable),
    ],
)
async def test_status_code_is_its_error_for_requests_and_streams(
    tmp_path: Path, code: int, kind: type[KubeError]
) -> None:
    async with serve() as server, connected(tmp_path, server) as client:
        server.others["/x"] = refuse(code, "Why", "text", Retry_After="7")
        error = await failure(client)
        assert type(error) is kind
        assert (error.status, error.reason) == (code, "Why")
        assert str(error) == f"GET /x: {code} text"
        if isinstance(error, Throttled | Unavailable):
            assert error.retry_after_s == 7.0
        with pytest.raises(kind):
            async with client.stream("/x", {}, open_timeout_s=5.0):
                pass


async def test_causes_of_a_conflict_are_kept(tmp_path: Path) -> None:
    async with serve() as server, connected(tmp_path, server) as client:
        causes = [{"reason": "FieldManagerConflict", "message": "by x", "field": ".data"}]
        server.others["/x"] = answer(status(409, "Conflict", "no", causes=causes), 409)
        error = await failure(client)
        assert error.has_cause("FieldManagerConflict")


async def test_retry_after_as_a_date_counts_from_the_servers_clock(tmp_path: Path) -> None:
    async with serve() as server, connected(tmp_path, server) as client:
        server.others["/x"] = refuse(
            429,
            Retry_After="Thu, 01 Jan 1970 00:16:50 GMT",
            Date="Thu, 01 Jan 1970 00:16:40 GMT",
        )
        error = await failure(client)
        assert isinstance(error, Throttled)
        assert error.retry_after_s == 10.0


@pytest.mark.parametrize(
    "body", [b"\xff\xfe", b"<html>SENTINEL</html>", b"x" * 1_000_000, b"[" * 100_000, b""]
)
async def test_error_with_any_body_is_still_its_error(tmp_path: Path, body: bytes) -> None:
    async with serve() as server, connected(tmp_path, server) as client:
        server.others["/x"] = answer(body, 503, "text/html")
        error = await failure(client)
        assert isinstance(error, Unavailable)
        assert str(error) == "GET /x: 503"


async def test_long_message_is_cut(tmp_path: Path) -> None:
    async with serve() as server, connected(tmp_path, server) as client:
        server.others["/x"] = refuse(403, "Forbidden", "x" * 50_000)
        assert len(str(await failure(client))) < 1100


@pytest.mark.parametrize("content_type", ["text/html", "text/plain", "application/json+x"])
async def test_success_that_is_not_json_is_a_bad_response(
    tmp_path: Path, content_type: str
) -> None:
    async with serve() as server, connected(tmp_path, server) as client:
        server.others["/x"] = answer(b"{}", 200, content_type)
        assert isinstance(await failure(client), BadResponse)
        with pytest.raises(BadResponse):
            async with client.stream("/x", {}, open_timeout_s=5.0):
                pass


async def test_redirect_is_not_followed(tmp_path: Path) -> None:
    async with serve() as server, connected(tmp_path, server, user={"token": "t"}) as client:
        server.others["/x"] = answer(b"", 302, Location=f"{server.url}/elsewhere")
        assert isinstance(await failure(client), BadResponse)
        assert [request.path for request in server.requests] == ["/x"]


async def test_body_above_the_limit_is_a_bad_response(tmp_path: Path) -> None:
    async with serve() as server, connected(tmp_path, server) as client:
        server.others["/x"] = answer(b"[" + b"1" * 5000 + b"]")
        assert isinstance(await failure(client, max_bytes=1000), BadResponse)
        assert len(await get(client, max_bytes=6000)) == 5002


async def test_hung_server_is_a_timeout(tmp_path: Path) -> None:
    stats = KubeStats()
    async with serve() as server, connected(tmp_path, server, stats=stats) as client:
        server.others["/x"] = hang
        error = await failure(client, timeout_s=0.05)
        assert isinstance(error, Unavailable)
        assert error.kind is Reason.TIMEOUT
        with pytest.raises(Unavailable) as caught:
            async with client.stream("/x", {}, open_timeout_s=0.05):
                pass
        assert caught.value.kind is Reason.TIMEOUT
        server.others["/x"] = stream(b"{", then="hang")
        error = await failure(client, timeout_s=0.05)
        assert isinstance(error, Unavailable)
        assert error.kind is Reason.TIMEOUT


async def test_reset_in_the_middle_of_a_body_is_unavailable(tmp_path: Path) -> None:
    async with serve() as server, connected(tmp_path, server) as client:
        server.others["/x"] = stream(b'{"a":', then="reset")
        error = await failure(client)
        assert isinstance(error, Unavailable)
        assert error.kind is Reason.CONNECT


async def test_refused_connection_and_unknown_host_are_unavailable(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        server = Scripted(url=f"http://127.0.0.1:{taken.getsockname()[1]}")
        async with connected(tmp_path, server) as client:
            error = await failure(client)
            assert isinstance(error, Unavailable)
            assert error.kind is Reason.CONNECT
            assert "refused" in str(error)
    async with connected(tmp_path, Scripted(url="http://no.invalid:1")) as client:
        error = await failure(client)
        assert isinstance(error, Unavailable)
        assert error.kind is Reason.CONNECT


async def test_server_that_is_no_http_server_is_unavailable(tmp_path: Path) -> None:
    async def talk(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.send(b"SSH-2.0-nonsense\r\n\r\n")

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, talk)
        async with connected(tmp_path, Scripted(url=f"http://127.0.0.1:{port}")) as client:
            assert isinstance(await failure(client), Unavailable)
        tasks.cancel_scope.cancel()
    await listener.aclose()


async def test_stream_gives_bytes_as_they_come_and_its_end(tmp_path: Path) -> None:
    async with serve() as server, connected(tmp_path, server) as client:
        server.others["/x"] = stream(b"one\n", b"two\n")
        async with client.stream("/x", {"watch": "true"}, open_timeout_s=5.0) as body:
            received = b""
            while chunk := await body.read(5.0):
                received += chunk
            assert received == b"one\ntwo\n"
            assert await body.read(5.0) == b""


async def test_stream_that_is_silent_times_out_and_can_be_read_on(tmp_path: Path) -> None:
    async with serve() as server, connected(tmp_path, server) as client:
        go_on = anyio.Event()

        async def slow(request: web.BaseRequest) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            await response.prepare(request)
            await go_on.wait()
            await response.write(b"late\n")
            return response

        server.others["/x"] = slow
        async with client.stream("/x", {}, open_timeout_s=5.0) as body:
            with pytest.raises(Unavailable) as caught:
                await body.read(0.02)
            assert caught.value.kind is Reason.TIMEOUT
            go_on.set()
            assert await body.read(5.0) == b"late\n"


async def test_stream_that_is_reset_is_unavailable(tmp_path: Path) -> None:
    async with serve() as server, connected(tmp_path, server) as client:
        server.others["/x"] = stream(b"one\n", b"tw", then="reset")
        async with client.stream("/x", {}, open_timeout_s=5.0) as body:

            async def read_all() -> None:
                while await body.read(5.0):
                    pass

            with pytest.raises(Unavailable) as caught:
                await read_all()
            assert caught.value.kind is Reason.CONNECT


async def test_watches_never_exhaust_the_pool(tmp_path: Path) -> None:
    async with serve() as server, connected(tmp_path, server) as client:
        server.others["/w"] = stream(b"\n", then="hang")
        server.others["/x"] = OK
        held = anyio.Event()

        async def hold(*, task_status: anyio.abc.TaskStatus[None]) -> None:
            async with client.stream("/w", {}, open_timeout_s=5.0):
                task_status.started()
                await held.wait()

        async with anyio.create_task_group() as tasks:
            for _ in range(120):
                await tasks.start(hold)
            await get(client)
            held.set()


async def test_connections_are_kept_alive_and_watched_by_the_kernel(tmp_path: Path) -> None:
    async with serve() as server, connected(tmp_path, server) as client:
        server.others["/x"] = OK
        for _ in range(3):
            await get(client)
        (connections,) = client._session.connector._conns.values()  # type: ignore[union-attr]
        transport = connections[0][0].transport
        assert transport
        sock = transport.get_extra_info("socket")
        options = {
            name: sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
            for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
        }
        assert list(options.values()) == [20, 5, 3, 30_000]
        assert len(connections) == 1


async def test_rotated_token_file_is_read_again_on_401_and_the_request_repeated_once(
    tmp_path: Path,
) -> None:
    token = tmp_path / "token"
    token.write_text("one\n")
    async with (
        serve() as server,
        connected(tmp_path, server, user={"tokenFile": str(token)}) as client,
    ):
        good = ["Bearer one"]

        async def guarded(request: web.BaseRequest) -> web.StreamResponse:
            right = request.headers["Authorization"] == good[0]
            return await (OK if right else refuse(401, "Unauthorized"))(request)

        server.others["/x"] = guarded
        await get(client)
        good[0] = "Bearer two"
        assert isinstance(await failure(client), Unauthorized)
        assert len(server.requests) == 2
        token.write_text("two")
        await get(client)
        assert len(server.requests) == 4
        good[0] = "Bearer three"
        token.write_text("three")
        async with client.stream("/x", {}, open_timeout_s=5.0):
            pass


PLUGIN = """#!/bin/sh
head -c 300000 /dev/zero | tr '\\0' x >&2
count=$(cat "$COUNT" 2>/dev/null || echo 0)
count=$((count + 1))
echo $count > "$COUNT"
printf '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential",'
printf '"status":{"token":"t%s","expirationTimestamp":"2100-01-01T00:00:00Z"}}' $count
"""


async def test_exec_plugin_is_run_again_on_401_and_may_chatter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetryd.kube.credentials._RETRY_S", 0.0)
    plugin = tmp_path / "plugin"
    plugin.write_text(PLUGIN)
    plugin.chmod(0o755)
    user = {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "./plugin",
            "interactiveMode": "Never",
            "env": [{"name": "COUNT", "value": str(tmp_path / "count")}],
        }
    }
    async with serve() as server, connected(tmp_path, server, user=user) as client:

        async def guarded(request: web.BaseRequest) -> web.StreamResponse:
            right = request.headers["Authorization"] == "Bearer t2"
            return await (OK if right else refuse(401, "Unauthorized"))(request)

        server.others["/x"] = guarded
        await get(client)
        await get(client)
        sent = [request.headers["Authorization"] for request in server.requests]
        assert sent == ["Bearer t1", "Bearer t2", "Bearer t2"]


async def test_certificate_of_the_ca_is_trusted_and_the_clients_is_shown(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    mine = authority.issue("client")
    tls = server_side(authority.issue("server"), client_ca=authority.ca)
    cluster = {"certificate-authority": "ca.crt"}
    user = {"client-certificate": mine.cert.name, "client-key": mine.key.name}
    async with (
        serve(tls=tls) as server,
        connected(tmp_path, server, cluster=cluster, user=user) as client,
    ):
        server.others["/x"] = OK
        await get(client)
    async with serve(tls=tls) as server, connected(tmp_path, server, cluster=cluster) as client:
        assert isinstance(await failure(client), Unavailable)


@pytest.mark.parametrize(
    ("pair", "ca", "says"),
    [
        ({"days": -1}, "ca.crt", "expired"),
        ({"address": "127.0.0.2"}, "ca.crt", "mismatch"),
        ({}, "other.crt", "certificate"),
        ({}, "", "certificate"),
    ],
)
async def test_certificate_that_is_wrong_is_refused_in_clear_words(
    tmp_path: Path, pair: dict[str, Any], ca: str, says: str
) -> None:
    authority = Authority(tmp_path)
    Authority(tmp_path, "other")
    tls = server_side(authority.issue("server", **pair))
    cluster: Json = {"certificate-authority": ca} if ca else {}
    async with serve(tls=tls) as server, connected(tmp_path, server, cluster=cluster) as client:
        server.others["/x"] = OK
        error = await failure(client)
        assert isinstance(error, Unavailable)
        assert error.kind is Reason.CONNECT
        assert "the server's certificate: " in str(error)
        assert says in str(error)
        assert server.requests == []


async def test_plain_http_on_a_tls_port_is_unavailable(tmp_path: Path) -> None:
    async with serve() as server:
        server.url = server.url.replace("http:", "https:")
        async with connected(tmp_path, server) as client:
            assert "TLS" in str(await failure(client))


async def test_insecure_and_server_name_are_honoured(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    tls = server_side(authority.issue("server", address="127.0.0.2"))
    named = {"certificate-authority": "ca.crt", "tls-server-name": "127.0.0.2"}
    for cluster in ({"insecure-skip-tls-verify": True}, named):
        async with serve(tls=tls) as server, connected(tmp_path, server, cluster=cluster) as client:
            server.others["/x"] = OK
            await get(client)


async def test_rotated_ca_takes_effect_without_a_restart(
    tmp_path: Path,
) -> None:
    old = Authority(tmp_path, "old")
    new = Authority(tmp_path, "new")
    ca = tmp_path / "ca.pem"
    ca.write_bytes(old.ca.read_bytes())
    tls = server_side(new.issue("server"))
    cluster = {"certificate-authority": "ca.pem"}
    async with serve(tls=tls) as server, connected(tmp_path, server, cluster=cluster) as client:
        server.others["/x"] = OK
        assert isinstance(await failure(client), Unavailable)
        ca.write_text("junk")
        assert isinstance(await failure(client), Unavailable)
        ca.write_bytes(new.ca.read_bytes())
        await get(client)


async def test_proxy_of_the_kubeconfig_is_used_and_its_password_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with serve() as proxy:
        seen: list[str] = []

        async def relay(request: web.BaseRequest) -> web.StreamResponse:
            seen.append(request.headers["Proxy-Authorization"])
            return await OK(request)

        proxy.others["/x"] = relay
        cluster = {"proxy-url": proxy.url.replace("http://", "http://me:SENTINEL@")}
        target = Scripted(url="http://api.invalid")
        async with connected(tmp_path, target, cluster=cluster) as client:
            await get(client)
            assert seen == ["Basic bWU6U0VOVElORUw="]
            assert "SENTINEL" not in repr(client._current)
    assert "SENTINEL" not in caplog.text


@pytest.mark.parametrize("in_kubeconfig", [True, False])
async def test_proxy_of_a_tls_server_gets_its_password_in_utf8(
    tmp_path: Path, in_kubeconfig: bool
) -> None:
    heads: list[bytes] = []

    async def refuse_tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    proxy = await asyncio.start_server(refuse_tunnel, "127.0.0.1", 0)
    async with proxy:
        port = proxy.sockets[0].getsockname()[1]
        url = f"http://user:p%E2%82%ACss@127.0.0.1:{port}"
        cluster = {"proxy-url": url} if in_kubeconfig else {}
        environ = {} if in_kubeconfig else {"HTTPS_PROXY": url}
        target = Scripted(url="https://api.invalid")
        async with connected(tmp_path, target, cluster=cluster, environ=environ) as client:
            assert "the proxy says 407" in str(await failure(client))
    assert heads[0].startswith(b"CONNECT api.invalid:443 ")
    assert b"\r\nProxy-Authorization: Basic dXNlcjpw4oKsc3M=\r\n" in heads[0]


async def test_zone_of_an_ipv6_address_reaches_the_socket_and_not_the_server(
    tmp_path: Path,
) -> None:
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"
        writer.write(head.encode() + b"{}")
        writer.close()

    server = await asyncio.start_server(answer, "::1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        zone = socket.if_nametoindex("lo")
        target = Scripted(url=f"http://[::1%25{zone}]:{port}/a//b/")
        async with connected(tmp_path, target) as client:
            assert await get(client) == b"{}"
    assert heads[0].startswith(b"GET /a/b/x ")
    assert f"\r\nHost: [::1]:{port}\r\n".encode() in heads[0]


@pytest.mark.parametrize(
    ("server", "cluster", "name"),
    [
        ("https://h", {}, None),
        ("https://h.", {}, "h"),
        ("https://h", {"tls-server-name": "other."}, "other"),
        ("https://[::1]", {}, None),
        ("https://[::ffff:127.0.0.1]", {}, "127.0.0.1"),
        ("https://[fe80::1%25lo]", {}, None),
        ("https://[fe80::1%25lo]", {"insecure-skip-tls-verify": True}, "fe80::1"),
    ],
)
async def test_certificate_is_checked_for_the_name_that_go_checks(
    tmp_path: Path, server: str, cluster: Json, name: str | None
) -> None:
    async with connected(tmp_path, Scripted(url=server), cluster=cluster) as client:
        assert client._current.login.server_name == name


async def test_user_acts_as_another_by_impersonation(tmp_path: Path) -> None:
    user = {
        "token": "mine",
        "as": "system:serviceaccount:ns:b\u00f6b",
        "as-uid": "7",
        "as-groups": ["one", "two"],
        "as-user-extra": {"example.org/a b%": ["x", "y"]},
    }
    async with serve() as server, connected(tmp_path, server, user=user) as client:
        server.others["/x"] = OK
        await get(client)
        assert await client.service_account() == ("ns", "b\u00f6b")
    sent = server.requests[0].headers
    assert sent["Authorization"] == "Bearer mine"
    assert sent["Impersonate-User"] == "system:serviceaccount:ns:b\u00f6b"
    assert sent["Impersonate-Uid"] == "7"
    assert sent.getall("Impersonate-Group") == ["one", "two"]
    assert sent.getall("Impersonate-Extra-example.org%2Fa%20b%25") == ["x", "y"]


async def test_proxy_of_the_environment_is_used_and_netrc_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine api.invalid login me password SENTINEL\n")
    monkeypatch.setenv("NETRC", str(netrc))
    async with serve() as proxy:
        proxy.others["/x"] = OK
        target = Scripted(url="http://api.invalid")
        async with connected(tmp_path, target, environ={"HTTP_PROXY": proxy.url}) as client:
            await get(client)
        assert "Authorization" not in proxy.requests[0].headers


async def test_requests_are_counted_by_method_and_code(tmp_path: Path) -> None:
    stats = KubeStats()
    async with serve() as server, connected(tmp_path, server, stats=stats) as client:
        server.others["/x"] = OK
        await get(client)
        server.others["/x"] = refuse(404)
        await failure(client)
        server.others["/x"] = hang
        await failure(client, timeout_s=0.02)
    async with connected(tmp_path, server, stats=stats) as client:
        await failure(client)
    assert dict(stats.requests) == {("GET", "200"): 1, ("GET", "404"): 1, ("GET", "error"): 2}
    assert sum(stats.duration["GET"].counts) == 4


async def test_nothing_secret_is_logged_even_at_debug(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with (
        serve() as server,
        connected(tmp_path, server, user={"token": "SENTINEL-token"}) as client,
    ):
        server.others["/x"] = answer({"kind": "Secret", "data": "SENTINEL-data"}, 403)
        error = await failure(client)
        assert "SENTINEL" not in str(error) + repr(error)
    assert "SENTINEL" not in caplog.text


async def test_server_time_is_that_of_its_date(tmp_path: Path) -> None:
    server = Scripted(others={"/version": answer({}, Date="Thu, 01 Jan 2026 00:00:07 GMT")})
    async with serve(server), connected(tmp_path, server) as client:
        assert await client.server_time(timeout_s=5) == 1767225607
        server.others["/version"] = answer({}, Date="soon")
        assert await client.server_time(timeout_s=5) is None
        server.others["/version"] = refuse(401)
        with pytest.raises(Unauthorized):
            await client.server_time(timeout_s=5)
        server.others["/version"] = hang
        with pytest.raises(Unavailable) as caught:
            await client.server_time(timeout_s=0.05)
        assert caught.value.kind is Reason.TIMEOUT


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ([("X-Long", "a" * 1_100_000)], "headers have more than 1048576 bytes"),
        ([(f"X-{n}", "a" * 9_000) for n in range(200)], "headers have more than 1048576 bytes"),
    ],
)
async def test_answer_with_oversized_headers_is_reported_plainly(
    tmp_path: Path, headers: list[tuple[str, str]], why: str
) -> None:
    async def oversized(_request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(
            body=b"{}", content_type="application/json", headers=CIMultiDict(headers)
        )

    async with serve() as server, connected(tmp_path, server) as client:
        server.others["/x"] = oversized
        error = await failure(client)
    assert isinstance(error, Unavailable)
    assert why in str(error)


@pytest.mark.parametrize(
    "given",
    [
        [("Set-Cookie", "a" * 9_000)],
        [("Set-Cookie", "a" * 1_000_000)],
        [(f"X-{number}", "a" * 9_000) for number in range(100)],
        [(f"X-{number}", "a") for number in range(20_000)],
    ],
    ids=["line", "long line", "long lines", "lines"],
)
async def test_answer_with_headers_that_client_go_takes_is_read(
    tmp_path: Path, given: list[tuple[str, str]]
) -> None:
    async def warned(_request: web.BaseRequest) -> web.StreamResponse:
        headers = CIMultiDict(given)
        return web.Response(body=b"{}", content_type="application/json", headers=headers)

    async with serve() as server, connected(tmp_path, server) as client:
        server.others["/x"] = warned
        for _ in range(3):  # over one connection
            assert await get(client) == b"{}"


async def test_proxy_that_opens_a_tunnel_with_a_long_header_is_used(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with serve(tls=server_side(authority.issue("server"))) as server:
        server.others["/x"] = OK
        port = int(server.url.rpartition(":")[2])

        async def tunnel(client: SocketStream) -> None:
            async with client, await anyio.connect_tcp("127.0.0.1", port) as target:
                await client.receive()
                cookie = b"Set-Cookie: " + b"a" * 100_000
                await client.send(b"HTTP/1.1 200 OK\r\n" + cookie + b"\r\n\r\n")
                async with anyio.create_task_group() as group:
                    group.start_soon(pump, client, target)
                    await pump(target, client)
                    group.cancel_scope.cancel()

        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
            anyio.create_task_group() as group,
        ):
            group.start_soon(listener.serve, tunnel)
            proxy = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
            cluster = {"certificate-authority": str(authority.ca), "proxy-url": proxy}
            async with connected(tmp_path, server, cluster=cluster) as client:
                assert b"Thing" in await get(client)
            group.cancel_scope.cancel()


async def pump(source: SocketStream, sink: SocketStream) -> None:
    with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
        while True:
            await sink.send(await source.receive())
