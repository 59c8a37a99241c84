"""The two servers as fixtures of the session; registered by the conftests that need them."""

from collections.abc import Iterator

import pytest

from tests.apiserver.admin import Admin
from tests.apiserver.process import ApiServer
from tests.contract.servers import DemoServer, RealServer, serve_demo


@pytest.fixture(scope="session")
def demo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoServer]:
    """The embedded API server."""
    with serve_demo(tmp_path_factory.mktemp("demo")) as server:
        yield server


@pytest.fixture(scope="session")
def real_server(apiserver: ApiServer, admin: Admin) -> RealServer:
    """The real kube-apiserver; skipped or failed as `apiserver` says where there is none."""
    return RealServer(apiserver, admin)
