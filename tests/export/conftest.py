"""One namespace a test on an API server, and a client of the daemon's own kind."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from itertools import count
from pathlib import Path

import pytest

from telemetryd.config import KubernetesConfig
from telemetryd.kube.client import KubeClient
from telemetryd.stats import KubeStats
from tests.apiserver.admin import Admin
from tests.contract.servers import Server
from tests.export.bench import Bench

_numbers = count(1)

Connect = Callable[[str], AbstractAsyncContextManager[KubeClient]]


def pytest_configure(config: pytest.Config) -> None:
    """Registered like this, the servers are one a session for all packages that use them."""
    config.pluginmanager.import_plugin("tests.contract.plugin")


def real_only(reason: str) -> pytest.MarkDecorator:
    """Keeps a test from the embedded API server; the reason tells the reader why it must."""
    return pytest.mark.parametrize("server", ["real"], indirect=True)


@pytest.fixture(params=["demo", "real"])
def server(request: pytest.FixtureRequest) -> Server:
    """What the tests run against: the embedded API server, and the real one."""
    server: Server = request.getfixturevalue(f"{request.param}_server")
    return server


@pytest.fixture
def oracle(server: Server) -> Admin:
    """The tests' own view of that server, which shares nothing with the daemon."""
    return server.admin


@pytest.fixture
def namespace(oracle: Admin) -> str:
    """A fresh namespace."""
    name = f"export-{next(_numbers)}"
    oracle.create("/api/v1/namespaces", {"metadata": {"name": name}})
    return name


@pytest.fixture
def connect(server: Server, tmp_path: Path) -> Connect:
    """Makes a client with the token given, by a kubeconfig."""

    def make(token: str) -> AbstractAsyncContextManager[KubeClient]:
        cluster = {"server": server.url, "certificate-authority": str(server.ca_file)}
        context = {"cluster": "test", "user": "test"}
        path = tmp_path / "kubeconfig"
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "test", "cluster": cluster}],
                    "users": [{"name": "test", "user": {"token": token}}],
                    "contexts": [{"name": "test", "context": context}],
                    "current-context": "test",
                }
            )
        )
        path.chmod(0o600)
        return KubeClient.connect(KubernetesConfig(kubeconfig=str(path)), KubeStats())

    return make


@pytest.fixture
async def client(connect: Connect, server: Server) -> AsyncIterator[KubeClient]:
    """A client that may do everything."""
    async with connect(server.admin_token) as client:
        yield client


@pytest.fixture
def bench(namespace: str, oracle: Admin, client: KubeClient) -> Bench:
    return Bench(namespace, oracle, client)
