"""One namespace a test on an API server, and a client of the daemon's own kind."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from telemetryd.config import KubernetesConfig
from telemetryd.kube.client import KubeClient
from telemetryd.stats import KubeStats
from tests.apiserver.admin import Admin
from tests.export.bench import Bench

_numbers = count(1)

Connect = Callable[[str], AbstractAsyncContextManager[KubeClient]]


@pytest.fixture(params=["apiserver"])
def server(request: pytest.FixtureRequest) -> Any:
    """What the tests run against: a fixture that has ``url``, ``admin_token`` and ``ca_file``."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def oracle(server: Any) -> Any:
    """The tests' own view of that server, which shares nothing with the daemon."""
    client = Admin(server.url, server.admin_token, server.ca_file)
    yield client
    client.close()


@pytest.fixture
def namespace(oracle: Admin) -> str:
    """A fresh namespace."""
    name = f"export-{next(_numbers)}"
    oracle.create("/api/v1/namespaces", {"metadata": {"name": name}})
    return name


@pytest.fixture
def connect(server: Any, tmp_path: Path) -> Connect:
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
async def client(connect: Connect, server: Any) -> AsyncIterator[KubeClient]:
    """A client that may do everything."""
    async with connect(server.admin_token) as client:
        yield client


@pytest.fixture
def bench(namespace: str, oracle: Admin, client: KubeClient) -> Bench:
    return Bench(namespace, oracle, client)
