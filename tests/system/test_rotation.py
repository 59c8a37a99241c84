"""Whatever of a login changes while the daemon runs, contact to a real API server comes back."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import anyio.to_thread
import pytest

from telemetryd.config.settings import KubernetesConfig
from telemetryd.errors import KubeError
from telemetryd.kube.client import KubeClient
from telemetryd.stats import KubeStats
from tests.apiserver.admin import Admin, AdminError
from tests.apiserver.fixtures import namespace
from tests.apiserver.process import ApiServer
from tests.faults.proxy import FaultProxy
from tests.support.certificates import Authority, Contexts
from tests.support.daemon import Daemon
from tests.support.sink import receiving
from tests.system.late import ACCOUNT
from tests.system.rancher import SECRET, TARGET_NAMESPACE
from tests.system.rotation import (
    BACK_WITHIN_S,
    USERS,
    Front,
    Rotating,
    Running,
    Tunnel,
    inline,
    serving,
    write_kubeconfig,
)

pytestmark = pytest.mark.timeout(600)

CONFIG = """
[[exporters]]
name = "scc"
type = "secret"
interval = "1s"
retry_base = "200ms"

[[exporters]]
name = "sink"
type = "http"
format = "fleet"
url = "{url}"
interval = "1s"
splay_max = "0s"
spool = false
retry_base = "200ms"
"""
IDLE_CONFIG = """
[[exporters]]
name = "scc"
type = "http"
format = "fleet"
url = "{url}"
interval = "1s"
splay_max = "0s"
spool = false
retry_base = "200ms"
"""


@pytest.fixture(scope="module")
def running(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rotating]:
    folder = tmp_path_factory.mktemp("daemon")
    temporary = folder / "tmp"
    temporary.mkdir()
    with serving(assets, tmp_path_factory.mktemp("server")) as server, receiving() as sink:
        made = Running(server, folder, sink)
        config = CONFIG.format(url=sink.url("a"))
        environ = {"TMPDIR": str(temporary)}
        made.daemon = Daemon(folder, made.kubeconfig, config, environ=environ)
        try:
            made.daemon.wait_for("the first export", sink.posts, 120)
            assert list(temporary.iterdir()) == [], "nothing of the login lies in files"
            temporary.rmdir()
            yield made
        finally:
            status = made.daemon.stop()
        assert status == 0, made.daemon.log()[-4000:]


@pytest.fixture
def idle(running: Rotating, tmp_path: Path) -> Iterator[Rotating]:
    """A second daemon on the same server, which asks nothing of it but its watches."""
    with receiving() as sink:
        yield from _idle(Running(running.server, tmp_path, sink))


def _idle(made: Rotating) -> Iterator[Rotating]:
    made.nodes = 1000  # names of their own
    pair = made.server.clients.issue(USERS[0])
    shutil.copy(made.server.authority.ca, made.folder / "ca.crt")
    made.cluster = {"server": made.server.url, "certificate-authority": "ca.crt"}
    made.user = {
        "client-certificate-data": inline(pair.cert),
        "client-key-data": inline(pair.key),
    }
    made.write()
    config = IDLE_CONFIG.format(url=made.sink.url("idle"))
    made.daemon = Daemon(made.folder, made.kubeconfig, config)
    try:
        made.daemon.wait_for("all lists", made.daemon.ready, 120)
        yield made
    finally:
        status = made.daemon.stop()
    assert status == 0, made.daemon.log()[-4000:]


@pytest.fixture
def fronted(apiserver: ApiServer, admin: Admin, tmp_path: Path) -> Iterator[Running[Front]]:
    """A daemon that reads nodes of Kubernetes from the session's server, behind a proxy."""
    with suppress(AdminError):
        admin.create("/api/v1/namespaces", namespace(TARGET_NAMESPACE))
    with (
        FaultProxy(apiserver.url, apiserver.ca_file, tmp_path).running() as proxy,
        receiving() as sink,
    ):
        made = Running(Front(apiserver, admin, proxy, tmp_path), tmp_path, sink)
        config = CONFIG.format(url=sink.url("a"))
        plain = 'source = "kubernetes"'
        made.daemon = Daemon(tmp_path, made.kubeconfig, config, kubernetes=plain)
        try:
            made.daemon.wait_for("the first export", sink.posts, 120)
            yield made
        finally:
            status = made.daemon.stop()
            for number in range(made.nodes):
                admin.delete(f"/api/v1/nodes/sentinel-r-{number}")
            for path in (SECRET, ACCOUNT):
                with suppress(AdminError):
                    admin.delete(path)
        assert status == 0, made.daemon.log()[-4000:]


def test_ca_and_token_are_replaced_as_a_whole(fronted: Running[Front]) -> None:
    fronted.server.change()
    fronted.wait_for_loss()
    fronted.cluster = {"server": fronted.server.url, **fronted.ca()}
    fronted.user = {"token": fronted.server.token}
    fronted.write()
    fronted.check_contact()


@pytest.mark.long
@pytest.mark.anyio
async def test_ca_and_token_of_the_server_itself_are_replaced_as_a_whole(
    running: Rotating, tmp_path: Path
) -> None:
    """Inline for the daemon, and in the files of a pod for another client."""
    server = running.server

    def mount() -> None:
        shutil.copy(server.authority.ca, tmp_path / "ca.crt")
        (tmp_path / "token").write_text(server.token)

    mount()
    port = server.url.rpartition(":")[2]
    environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": port}
    async with KubeClient.connect(
        KubernetesConfig(), KubeStats(), environ=environ, service_account=str(tmp_path)
    ) as client:
        ask = partial(client.request, "GET", "/api/v1/nodes", timeout_s=10.0)
        await ask()
        authority = Authority(server.folder, f"ca-{running.nodes}")
        restart = partial(server.restart, authority, token=f"token-{running.nodes}")
        await anyio.to_thread.run_sync(restart)
        with pytest.raises(KubeError):
            await ask()
        mount()
        await ask()  # at once
    await anyio.to_thread.run_sync(running.wait_for_loss)
    running.cluster = {"server": server.url, **running.ca()}
    running.user = {"token": server.token}
    running.write()
    await anyio.to_thread.run_sync(running.check_contact)


@pytest.mark.long
def test_ca_in_a_file_is_replaced(running: Rotating) -> None:
    ca = running.folder / "ca.crt"
    shutil.copy(running.server.authority.ca, ca)
    running.cluster = {"server": running.server.url, "certificate-authority": str(ca)}
    running.write()
    running.server.restart(Authority(running.server.folder, f"ca-{running.nodes}"))
    running.wait_for_loss()
    shutil.copy(running.server.authority.ca, ca)
    running.check_contact()


@pytest.mark.long
def test_token_alone_is_replaced(running: Rotating) -> None:
    running.server.restart(running.server.authority, token=f"token-{running.nodes}")
    if "token" in running.user:
        running.wait_for_loss()
    running.user = {"token": running.server.token}
    running.write()
    running.check_contact()


@pytest.mark.long
def test_client_certificate_is_replaced(running: Rotating) -> None:
    """A token by a certificate first, and that by another which another CA has signed."""
    server = running.server
    for name in USERS[:2]:
        if name != USERS[0]:
            server.clients = Authority(server.folder, f"clients-{running.nodes}")
            server.restart(server.authority)
            running.wait_for_loss()
        pair = server.clients.issue(name)
        running.user = {
            "client-certificate-data": inline(pair.cert),
            "client-key-data": inline(pair.key),
        }
        running.write()
        running.check_contact()
    assert list(running.folder.glob("tmp*")) == [], "no folder for temporary files is needed"


@pytest.mark.long
def test_name_of_the_server_is_replaced(running: Rotating) -> None:
    for name in (running.server.name, "127.0.0.3"):
        if name != running.server.name:
            running.server.restart(running.server.authority, name=name)
            running.wait_for_loss()
        running.cluster = {**running.cluster, "tls-server-name": name}
        running.write()
        running.check_contact()
    del running.cluster["tls-server-name"]
    running.write()
    running.check_contact()


@pytest.mark.long
def test_proxy_is_replaced(running: Rotating) -> None:
    tunnels = [Tunnel(), Tunnel()]
    try:
        for tunnel in tunnels:
            running.cluster = {**running.cluster, "proxy-url": tunnel.url}
            running.write()
            running.daemon.wait_for("the tunnel is used", partial(getattr, tunnel, "tunnels"), 120)
            running.check_contact()
            if tunnel is tunnels[0]:
                tunnel.close()
                running.wait_for_loss()
    finally:
        del running.cluster["proxy-url"]
        running.write()
        for tunnel in tunnels:
            tunnel.close()
    running.check_contact()


@pytest.mark.long
def test_kubeconfig_that_names_another_server_is_reported_and_the_login_stays(
    running: Rotating,
) -> None:
    before = running.cluster
    running.cluster = {**before, "server": "https://127.0.0.1:1"}
    running.write()
    try:
        problem = running.daemon.wait_for(
            "the report", lambda: running.daemon.status()["login_problem"], 120
        )
        assert "names another API server: restart telemetryd to use it" in problem
        running.add_node()
    finally:
        running.cluster = before
        running.write()
    running.check_contact()


@pytest.mark.faults
def test_idle_daemon_takes_up_in_time_what_no_request_of_its_own_would_find(
    idle: Rotating,
) -> None:
    daemon, cluster = idle.daemon, idle.cluster

    def watches(more_than: float = -1.0) -> float:
        series = 'telemetryd_informer_watches_total{resource="nodes",result="success"}'
        asked = daemon.metric(series)
        assert asked is not None
        return asked if asked > more_than else 0.0

    asked = watches()

    def problem(text: str) -> None:
        daemon.wait_for(text, lambda: text in daemon.status()["login_problem"], BACK_WITHIN_S)

    idle.kubeconfig.write_text("{")
    problem("not YAML")
    idle.cluster = {**cluster, "server": "https://127.0.0.1:1"}
    idle.write()
    problem("names another API server: restart telemetryd to use it")
    assert watches() == asked, "its watches were open all along"

    idle.cluster = cluster
    pair = idle.server.clients.issue(USERS[1])
    tunnel = Tunnel()
    try:
        for change in (
            {"client-certificate-data": inline(pair.cert), "client-key-data": inline(pair.key)},
            {"proxy-url": tunnel.url},
            {"tls-server-name": "127.0.0.1"},
        ):
            again = partial(watches, more_than=watches())
            if "client-key-data" in change:
                idle.user = change
            else:
                idle.cluster = {**idle.cluster, **change}
            idle.write()
            daemon.wait_for("another watch", again, BACK_WITHIN_S)
            idle.check_contact()
        assert tunnel.tunnels
    finally:
        tunnel.close()
    idle.cluster = cluster
    idle.write()
    idle.check_contact()

    ca = idle.folder / "ca.crt"
    shutil.copy(Authority(idle.folder, "unfit").ca, ca)
    daemon.wait_for("the handshake that fails", lambda: not idle.is_read(), BACK_WITHIN_S)
    shutil.copy(idle.server.authority.ca, ca)
    idle.check_contact()


PLUGIN = """#!/bin/sh
echo run >> {folder}/runs
turn=$(($(wc -l < {folder}/runs) % 2))
cat {folder}/granted-$turn
"""


@pytest.mark.long
@pytest.mark.anyio
async def test_plugin_whose_certificates_are_renewed_200_times_leaves_nothing(
    running: Rotating, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = running.server
    monkeypatch.setattr("telemetryd.kube.client._IDLE_S", 1.0)
    monkeypatch.setattr("telemetryd.kube.credentials._RETRY_S", 0.0)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    for turn, name in enumerate(USERS[:2]):
        pair = server.clients.issue(name)
        status = {
            "clientCertificateData": pair.cert.read_text(),
            "clientKeyData": pair.key.read_text(),
            "expirationTimestamp": "2026-01-01T00:00:00Z",  # each request asks for another
        }
        credential = {"apiVersion": "client.authentication.k8s.io/v1", "status": status}
        (tmp_path / f"granted-{turn}").write_text(json.dumps(credential))
    plugin = tmp_path / "plugin"
    plugin.write_text(PLUGIN.format(folder=tmp_path))
    plugin.chmod(0o755)
    run = {"apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never"}
    kubeconfig = tmp_path / "kubeconfig"
    cluster = {"server": server.url, **running.ca()}
    write_kubeconfig(kubeconfig, cluster, {"exec": run | {"command": str(plugin)}})
    config = KubernetesConfig(kubeconfig=str(kubeconfig))
    contexts = Contexts(monkeypatch)
    async with KubeClient.connect(config, KubeStats(), environ={}) as client:
        before = _descriptors()
        while len((tmp_path / "runs").read_text().split()) <= 200:
            await client.request("GET", "/api/v1/nodes", timeout_s=30.0)
        # The connections of earlier grants end once they have been idle for a second.
        with anyio.fail_after(60):
            while _descriptors() > before + 5:
                await anyio.sleep(0.1)
        assert contexts.built >= 200
        assert contexts.alive() <= 3, "those of the last grants"


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208
