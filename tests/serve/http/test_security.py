"""Who may look, over real sockets with real certificates: each mode, changes of mode.

Each example of docs/security.md is taken by what it is for, and its numbers are true.
"""

import json
import os
import re
import shutil
import signal
import ssl
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
import yaml
from cryptography.x509.oid import ExtendedKeyUsageOID

from telemetryd.config import ServerConfig, parse_config
from telemetryd.errors import Reason, Unavailable
from telemetryd.serve.http.connection import LONGEST_LINE_BYTES, MOST_HEADERS, ConnectionLimits
from telemetryd.serve.http.reviews import ALLOWED_S, DENIED_S, MOST_REVIEWS, REVIEW_S, Reviews
from telemetryd.serve.http.security import LOOK_S, OPEN_PATHS
from telemetryd.serve.http.server import MOST_ANSWERS, MOST_WAITING, TAKING_S
from tests.charts.checks import environ_of
from tests.deploy.kustomize import DEPLOY, build
from tests.serve.guarded import (
    Guarded,
    connect,
    guarded,
    tls,
)
from tests.serve.http.test_reviews import USER, ApiServer
from tests.support.certificates import Authority, Pair
from tests.support.daemon import free_port
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio

HEALTH = ("/livez", "/healthz", "/readyz", "/readyz?verbose")
GUARDED = (
    "/", "/history", "/metrics", "/status.json", "/payload/scc", "/nothing-here", "//livez",
    "/livez/",
)  # fmt: skip
DAY_S = 86400.0


def newest(context: ssl.SSLContext, version: ssl.TLSVersion) -> ssl.SSLContext:
    context.maximum_version = version
    return context


async def test_tls_serves_everyone_who_speaks_it_and_no_one_in_clear(
    authority: Authority, pair: Pair
) -> None:
    async with guarded(authority, tls(pair)) as served:
        for path in ("/", "/metrics", "/livez"):
            assert (await served.get(path, served.trusting())).status == 200, path
        with pytest.raises(aiohttp.ClientError):
            await served.get("/livez")
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            old = newest(served.trusting(), version)
            assert (await served.get("/metrics", old)).status == 200, version


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_client_certificate_is_needed_for_all_but_health(
    authority: Authority, pair: Pair, clients: Authority, version: ssl.TLSVersion
) -> None:
    async with guarded(authority, tls(pair, client_ca=clients.ca)) as served:
        without = newest(served.trusting(), version)
        for path in GUARDED:
            reply = await served.get(path, without)
            assert reply.status == 401, path
            assert "client certificate" in reply.text
            assert reply.headers["content-type"] == "text/plain; charset=utf-8"
        for path in HEALTH:
            assert (await served.get(path, without)).status != 401, path
        assert (await served.get("/metrics", without, method="POST")).status == 401
        issued = clients.issue("prometheus", purposes=[ExtendedKeyUsageOID.CLIENT_AUTH])
        shown = newest(served.trusting(issued), version)
        assert "telemetryd_fleet_nodes" in (await served.get("/metrics", shown)).text
        assert (await served.get("/", shown)).status == 200
        assert (await served.get("/nothing-here", shown)).status == 404


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    "which", ["expired", "for servers", "of the server's authority", "of its own making"]
)
async def test_client_certificate_that_is_not_vouched_for_fails_the_handshake(
    authority: Authority, pair: Pair, clients: Authority, which: str, version: ssl.TLSVersion
) -> None:
    shown = {
        "expired": lambda: clients.issue("late", days=-1),
        "for servers": lambda: clients.issue("x", purposes=[ExtendedKeyUsageOID.SERVER_AUTH]),
        "of the server's authority": lambda: authority.issue("not-a-client"),
        "of its own making": lambda: Authority(clients.ca.parent, "own").issue("client"),
    }[which]()
    async with guarded(authority, tls(pair, client_ca=clients.ca)) as served:
        context = newest(served.trusting(shown), version)
        for path in ("/metrics", "/livez"):
            with pytest.raises((aiohttp.ClientError, ssl.SSLError, OSError)):
                await served.get(path, context)
        assert (await served.get("/livez", served.trusting())).status == 200


async def test_client_certificate_that_expires_on_an_open_connection_lets_in_no_more(
    authority: Authority, pair: Pair, clients: Authority
) -> None:
    ahead_s = 0.0
    config = tls(pair, client_ca=clients.ca)
    async with (
        guarded(authority, config, now=lambda: time.time() + ahead_s) as served,
        served.client(served.trusting(clients.issue("prometheus", days=1))) as client,
    ):
        assert (await client.get("/metrics")).status == 200
        ahead_s = DAY_S + 60
        assert (await client.get("/metrics")).status == 401
        assert (await client.get("/livez")).status == 200


@pytest.mark.parametrize("over_tls", [True, False])
async def test_token_is_needed_for_all_but_health(
    authority: Authority, pair: Pair, over_tls: bool
) -> None:
    cluster = ApiServer(paths={"/metrics"})
    config = tls(pair, tokens=True) if over_tls else ServerConfig(kubernetes_auth=True)
    async with guarded(authority, config, reviews=Reviews(cluster)) as served:
        context = served.trusting() if over_tls else None
        for path in GUARDED:
            reply = await served.get(path, context)
            assert reply.status == 401, path
            assert reply.headers["www-authenticate"] == 'Bearer realm="telemetryd"'
            assert "needed: a bearer token" in reply.text
        for path in HEALTH:
            assert (await served.get(path, context)).status != 401, path
        assert not cluster.asked
        reply = await served.get("/metrics", context, "unknown")
        assert (reply.status, "www-authenticate" in reply.headers) == (401, True)
        assert "isn't valid" in reply.text
        reply = await served.get("/status.json", context, "good")
        assert reply.status == 403
        assert f"'{USER}' isn't allowed to get the nonResourceURL '/status.json'" in reply.text
        for method in ("GET", "HEAD"):
            assert (await served.get("/metrics", context, "good", method)).status == 200
        assert (await served.get("/metrics", context, "good", "POST")).status == 405


@pytest.mark.parametrize("by", ["certificate", "token", "nothing", "TLS alone"])
async def test_history_is_shown_on_every_address_to_clients_that_are_let_in(
    authority: Authority, pair: Pair, clients: Authority, by: str
) -> None:
    cluster = ApiServer(paths={"/history"})
    config = {
        "certificate": tls(pair, client_ca=clients.ca),
        "token": tls(pair, tokens=True),
        "TLS alone": tls(pair),
        "nothing": ServerConfig(),
    }[by]
    async with guarded(authority, config, reviews=Reviews(cluster), host="0.0.0.0") as served:
        shown = clients.issue("reader", purposes=[ExtendedKeyUsageOID.CLIENT_AUTH])
        context = served.trusting(shown if by == "certificate" else None)
        reply = await served.get(
            "/history",
            None if by == "nothing" else context,
            "good" if by == "token" else None,
        )
        if by in {"certificate", "token"}:
            assert reply.status == 200
            assert "<h1" in reply.text
        else:
            assert reply.status == 403
            assert "set expose_history = true in [server] and reload" in reply.text


def failing(served: Guarded, why: str) -> None:
    (informer, more), *rest = served.facts.informers
    served.facts.informers[:] = [(replace(informer, synced=False, last_error=why), more), *rest]


async def test_health_says_why_a_check_fails_only_to_clients_that_may_see_the_status(
    authority: Authority, pair: Pair
) -> None:
    cluster = ApiServer(paths={"/status.json", "/metrics"})
    cluster.tokens["other"] = {"username": "other"}
    why = f'nodes is forbidden: User "{USER}" cannot list'
    async with guarded(authority, tls(pair, tokens=True), reviews=Reviews(cluster)) as served:
        failing(served, why)
        for path in ("/readyz", "/readyz?verbose"):
            for token in (None, "made-up"):
                reply = await served.get(path, served.trusting(), token)
                assert reply.status == 503, path
                assert (
                    "[-]informer/nodes.management.cattle.io failed: reason withheld\n" in reply.text
                )
                assert "forbidden" not in reply.text
                assert "[+]config ok\n" in reply.text
            reply = await served.get(path, served.trusting(), "good")
            assert (reply.status, why in reply.text) == (503, True)
        cluster.paths = {"/readyz", "/metrics"}
        reply = await served.get("/readyz?verbose", served.trusting(), "other")
        assert "forbidden" not in reply.text, "every user may get /readyz by Kubernetes' own roles"
        cluster.error = Unavailable("down", kind=Reason.CONNECT)
        reply = await served.get("/readyz", served.trusting(), "third")
        assert (reply.status, "reason withheld" in reply.text) == (503, True)


async def test_health_says_why_a_check_fails_to_a_client_certificate(
    authority: Authority, pair: Pair, clients: Authority
) -> None:
    async with guarded(authority, tls(pair, client_ca=clients.ca)) as served:
        failing(served, "words of the API server")
        reply = await served.get("/readyz", served.trusting())
        assert (reply.status, "words of" in reply.text) == (503, False)
        shown = served.trusting(clients.issue("prometheus"))
        assert "words of the API server" in (await served.get("/readyz", shown)).text


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic Z29vZA==",
        "good",
        "Bearer good good",
        "Bearer g\xf6od",
        "B good",
    ],
)
async def test_header_without_a_bearer_token_is_asked_nowhere(
    authority: Authority, header: str
) -> None:
    cluster = ApiServer()
    config = ServerConfig(kubernetes_auth=True)
    async with (
        guarded(authority, config, reviews=Reviews(cluster)) as served,
        aiohttp.ClientSession() as session,
        session.get(
            f"http://127.0.0.1:{served.port}/metrics", headers={"Authorization": header}
        ) as response,
    ):
        assert response.status == 401
    assert not cluster.asked


@pytest.mark.parametrize(
    "token",
    [
        "k8s-aws-v1.aHR0cHM6Ly9zdHMuYW1hem9uYXdzLmNvbS8_QWN0aW9uPUdldA",
        "ya29.a0AfH6SMBx-Y_z",
        "sha256~Tl0rRbnCFkzJ8lJtd9ZTJAKTyqpRg2wrlRNtrj2Z5oU",
        "kubeconfig-u-x2k4c7rbx9:8fk2vxwlqnb5jx",
        "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln" + "x" * 6000,
        "!#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
    ],
    ids=["EKS", "GKE", "OpenShift", "Rancher", "long JWT", "any"],
)
async def test_token_of_any_form_is_asked_about(authority: Authority, token: str) -> None:
    cluster = ApiServer(tokens={token: {"username": USER}})
    async with guarded(
        authority, ServerConfig(kubernetes_auth=True), reviews=Reviews(cluster)
    ) as served:
        assert (await served.get("/metrics", token=token)).status == 200
    assert cluster.asked[0] == ("tokenreviews", {"token": token})


async def test_nothing_but_health_is_shown_while_no_one_can_be_reviewed(
    authority: Authority, pair: Pair
) -> None:
    cluster = ApiServer(error=Unavailable("down", kind=Reason.CONNECT))
    async with guarded(authority, tls(pair, tokens=True), reviews=Reviews(cluster)) as served:
        for path in GUARDED:
            reply = await served.get(path, served.trusting(), "good")
            assert (reply.status, reply.headers["retry-after"]) == (503, "1"), path
            assert "down" not in reply.text
        assert (await served.get("/livez", served.trusting(), "good")).status == 200
        cluster.error = None
        assert (await served.get("/metrics", served.trusting(), "good")).status == 200


async def test_fault_of_the_reviews_shows_nothing(authority: Authority) -> None:
    class Broken(ApiServer):
        async def request(self, *args: object, **kwargs: object) -> bytes:
            raise RuntimeError("a fault of ours")

    reviews = Reviews(Broken())
    async with guarded(authority, ServerConfig(kubernetes_auth=True), reviews=reviews) as served:
        reply = await served.get("/metrics", token="good")
        assert (reply.status, "fault" in reply.text) == (500, False)


async def test_without_reviews_tokens_let_no_one_in(authority: Authority) -> None:
    async with guarded(authority, ServerConfig(kubernetes_auth=True)) as served:
        assert (await served.get("/metrics", token="good")).status == 401


async def test_certificate_or_token_suffices_where_both_are_asked_for(
    authority: Authority, pair: Pair, clients: Authority
) -> None:
    cluster = ApiServer(paths={"/metrics"})
    config = tls(pair, client_ca=clients.ca, tokens=True)
    async with guarded(authority, config, reviews=Reviews(cluster)) as served:
        reply = await served.get("/metrics", served.trusting())
        assert reply.status == 401
        assert "a bearer token" in reply.text
        assert "client certificate" in reply.text
        shown = served.trusting(clients.issue("prometheus"))
        assert (await served.get("/metrics", shown)).status == 200
        assert not cluster.asked
        assert (await served.get("/metrics", served.trusting(), "good")).status == 200


async def test_no_log_line_holds_a_token(
    authority: Authority, pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    cluster = ApiServer(tokens={"s3cret.good": {"username": USER}})
    async with guarded(authority, tls(pair, tokens=True), reviews=Reviews(cluster)) as served:
        for token in ("s3cret.good", "s3cret.bad", "s3cret {bad"):
            for path in ("/metrics", "/status.json"):
                await served.get(path, served.trusting(), token)
        cluster.error = Unavailable("down", kind=Reason.CONNECT)
        await served.get("/", served.trusting(), "s3cret.good")
    assert "request refused path" in caplog.text
    assert "s3cret" not in caplog.text


async def test_rules_change_while_it_serves_and_earlier_connections_end(
    authority: Authority, pair: Pair, clients: Authority
) -> None:
    async with guarded(authority, ServerConfig()) as served:
        async with connect(served.port) as plain:
            assert await plain.ask() == 200
            await served.change(tls(pair))
            assert await plain.end() == b""
        assert (await served.get("/metrics", served.trusting())).status == 200
        async with connect(served.port, served.trusting()) as over_tls:
            assert await over_tls.ask() == 200
            await served.change(tls(pair, client_ca=clients.ca))
            assert await over_tls.end() == b""
        assert (await served.get("/metrics", served.trusting())).status == 401
        await served.change(ServerConfig())
        assert (await served.get("/metrics")).status == 200


async def test_answer_under_way_is_given_before_its_connection_ends(
    authority: Authority, pair: Pair
) -> None:
    cluster = ApiServer(takes_s=0.2)
    config = tls(pair, tokens=True)
    async with (
        guarded(authority, config, reviews=Reviews(cluster)) as served,
        connect(served.port, served.trusting()) as held,
    ):
        lines = (
            b"GET /metrics HTTP/1.1",
            b"Host: localhost",
            b"Authorization: Bearer good",
            b"",
            b"",
        )
        await held.stream.send(b"\r\n".join(lines))
        await until_async(lambda: bool(cluster.asked), "it is being reviewed")
        await served.change(tls(pair))
        received = await held.end()
        assert received.startswith(b"HTTP/1.1 200 OK")
        assert b"telemetryd_fleet_nodes" in received


@pytest.mark.parametrize("path", ["/%ff", "/%ed%a0%80", "/a%00b%0a", "/%e4%bd%a0", "//metrics"])
async def test_path_is_asked_about_whatever_it_holds(authority: Authority, path: str) -> None:
    cluster = ApiServer(paths={"/"})
    config = ServerConfig(kubernetes_auth=True)
    async with (
        guarded(authority, config, reviews=Reviews(cluster)) as served,
        connect(served.port) as held,
    ):
        lines = (
            f"GET {path} HTTP/1.1",
            "Host: localhost",
            "Authorization: Bearer good",
            "Connection: close",
        )
        await held.stream.send("\r\n".join((*lines, "", "")).encode())
        assert (await held.end()).startswith(b"HTTP/1.1 403 ")


TEXT = (DEPLOY.parent / "docs" / "security.md").read_text()


TOKEN_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/token"


def examples(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


SCRAPES = [text for text in examples("yaml") if text.startswith("scrape_configs:")]


def documents() -> list[Any]:
    load: Any = yaml.safe_load_all
    return [each for text in examples("yaml") if text not in SCRAPES for each in load(text)]


@pytest.mark.parametrize("text", examples("toml"))
def test_configuration_is_valid(text: str) -> None:
    assert parse_config(text, "docs/security.md", {}).server.tls_cert_file


def test_configuration_of_the_component_is_the_documented_one() -> None:
    environ = environ_of(build("tls"))
    documented = tomllib.loads(examples("toml")[1])["server"]
    for key, value in documented.items():
        text = environ[f"TELEMETRYD_SERVER__{key.upper()}"]
        assert text == ("true" if value is True else value)


def local(text: str, folder: Path, port: int) -> dict[str, Any]:
    """A scrape configuration with its files in the folder, and a server on loopback to scrape."""
    for place in ("/etc/prometheus/telemetryd", TOKEN_FILE.removesuffix("/token")):
        text = text.replace(place, str(folder))
    load: Any = yaml.safe_load
    (job,) = load(text)["scrape_configs"]
    job.pop("kubernetes_sd_configs", None)  # which Debian's Prometheus is built without
    job["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    if "server_name" in job["tls_config"]:
        job["tls_config"]["server_name"] = "127.0.0.1"
    return {"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}


def program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        missing = f"{name} isn't installed (Debian package prometheus)"
        assert os.environ.get("CI") != "true", missing
        pytest.skip(missing)
    return path


async def health(api: str) -> tuple[str, str]:
    """How the only target fares, and its last error."""
    try:
        async with aiohttp.ClientSession() as session, session.get(f"{api}/targets") as response:
            targets = (await response.json())["data"]["activeTargets"]
    except aiohttp.ClientError:
        return "", ""
    return (targets[0]["health"], targets[0]["lastError"]) if targets else ("", "")


@pytest.mark.anyio
@pytest.mark.parametrize("text", SCRAPES)
async def test_prometheus_scrapes_with_each_example_and_not_without_its_credential(
    text: str, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("server")
    authority.issue("client")
    (tmp_path / "token").write_text("the-token")
    tokens = "authorization" in text
    cluster = ApiServer(tokens={"the-token": {"username": "prometheus"}})
    config = tls(pair, client_ca=None if tokens else authority.ca, tokens=tokens)
    file = tmp_path / "prometheus.yml"
    port = free_port()
    command = [
        program("prometheus"),
        f"--config.file={file}",
        f"--storage.tsdb.path={tmp_path}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    async with guarded(authority, config, reviews=Reviews(cluster)) as served:
        document = local(text, tmp_path, served.port)
        file.write_text(json.dumps(document))
        checked = await anyio.run_process([program("promtool"), "check", "config", str(file)])
        assert b"SUCCESS" in checked.stdout
        (job,) = document["scrape_configs"]
        job.pop("relabel_configs", None)  # of what is discovered
        file.write_text(json.dumps(document))
        with (tmp_path / "log").open("wb") as log:
            async with await anyio.open_process(command, stdout=log, stderr=log) as process:
                try:
                    await until_fares(port, "up", "")
                    job.pop("authorization", None)
                    job["tls_config"].pop("cert_file", None)
                    job["tls_config"].pop("key_file", None)
                    file.write_text(json.dumps(document))
                    process.send_signal(signal.SIGHUP)
                    await until_fares(port, "down", "401 Unauthorized")
                finally:
                    process.terminate()
                    await process.wait()


async def until_fares(port: int, how: str, error: str) -> None:
    seen = ("", "")
    with anyio.move_on_after(30):
        while True:
            seen = await health(f"http://127.0.0.1:{port}/api/v1")
            if seen[0] == how and error in seen[1]:
                return
            await anyio.sleep(0.1)
    raise AssertionError(seen)


def test_role_that_is_bound_is_that_of_the_component() -> None:
    (binding,) = [each for each in documents() if each["kind"] == "ClusterRoleBinding"]
    (role,) = [
        obj
        for obj in build("tls")
        if (obj["kind"], obj["metadata"]["name"]) == ("ClusterRole", binding["roleRef"]["name"])
    ]
    assert role["rules"] == [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]


def test_certificate_goes_where_the_pod_looks_for_it() -> None:
    (certificate,) = [each for each in documents() if each["kind"] == "Certificate"]
    (deployment,) = [obj for obj in build("tls") if obj["kind"] == "Deployment"]
    (volume,) = [
        each for each in deployment["spec"]["template"]["spec"]["volumes"] if each["name"] == "tls"
    ]
    assert certificate["spec"]["secretName"] == volume["secret"]["secretName"]
    assert certificate["metadata"]["namespace"] == deployment["metadata"]["namespace"]
    (name,) = certificate["spec"]["dnsNames"]
    assert f"server_name: {name}" in TEXT


def test_numbers_are_those_of_the_code() -> None:
    limits = ConnectionLimits()
    said = " ".join(TEXT.split())
    for number in (
        f"for the handshake | {limits.request_timeout_s:g} s |",
        f"until it is let in or refused | {limits.request_timeout_s:g} s |",
        f"for its answer to be made | {limits.making_timeout_s:g} s |",
        f"to take an answer | {limits.answer_timeout_s:g} s |",
        f"an idle connection | {limits.keep_alive_s:g} s |",
        f"handshakes included | {limits.connections} |",
        f"there are {limits.connections} connections",
        f"{limits.head_bytes // 1024} KiB together, at most {MOST_HEADERS} headers",
        f"headers of {LONGEST_LINE_BYTES} bytes each",
        f"hold at most {limits.connections * limits.head_bytes >> 20} MiB",
        f"in its first {limits.grace_s:g} s",
        f"others have waited for | {TAKING_S:g} s |",
        f"are sent | {MOST_ANSWERS}; {MOST_WAITING} more requests wait",
        f"kept for {ALLOWED_S:g} s where it lets in, for {DENIED_S:g} s where it doesn't",
        f"at most {MOST_REVIEWS} are under way",
        f"doesn't answer within {REVIEW_S:g} s",
        f"looks at them every {LOOK_S:g} s",
    ):
        assert number in said, number
    for path in OPEN_PATHS:
        assert f"`{path}`" in TEXT
