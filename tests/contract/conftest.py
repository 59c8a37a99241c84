"""Tests run against the embedded API server and the real one, or as ``REAL`` against that alone."""

from collections.abc import Iterator
from itertools import count

import pytest

from tests.apiserver import crds
from tests.apiserver.admin import Admin
from tests.contract.objects import absent
from tests.contract.servers import Server

_numbers = count(1)


def pytest_configure(config: pytest.Config) -> None:
    """Registered like this, the servers are one a session for all packages that use them."""
    config.pluginmanager.import_plugin("tests.contract.plugin")


@pytest.fixture(params=["demo", "real"])
def server(request: pytest.FixtureRequest) -> Server:
    """The API server under test."""
    server: Server = request.getfixturevalue(f"{request.param}_server")
    return server


@pytest.fixture
def api(server: Server) -> Admin:
    """A client of that server that may do everything."""
    return server.admin


@pytest.fixture
def name() -> str:
    """A name of the test's own: the servers are shared by the whole session."""
    return f"contract-{next(_numbers)}"


@pytest.fixture
def namespace(api: Admin, name: str) -> str:
    """A fresh namespace of that name."""
    api.create("/api/v1/namespaces", {"metadata": {"name": name}})
    return name


@pytest.fixture
def cluster(api: Admin, namespace: str) -> Iterator[str]:
    """A fresh namespace whose nodes and projects go with the test: others count what there is."""
    yield namespace
    for definition in (crds.NODES, crds.PROJECTS):
        path = crds.collection(definition, namespace)
        for item in api.list(path):
            api.delete(f"{path}/{item['metadata']['name']}")


@pytest.fixture
def setting_path(api: Admin, name: str) -> Iterator[str]:
    """The path of a setting that doesn't exist yet; whatever becomes of it goes with the test."""
    path = f"{crds.collection(crds.SETTINGS)}/{name}"
    yield path
    if not absent(api, path):
        api.delete(path)
