"""A server on a real socket, and a client that speaks its paths."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.apiserver.double.apiserver import ApiServer
from tests.apiserver.double.client import Api, new_server


@pytest.fixture
def server() -> ApiServer:
    return new_server()


@pytest.fixture
async def api(anyio_backend: str, server: ApiServer) -> AsyncIterator[Api]:
    async with server.serve() as endpoint, aiohttp.ClientSession() as session:
        yield Api(session, endpoint.url)
