"""Many callers of one API server share few connections, and delay no others."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from aiohttp import web

from telemetryd.errors import NotFound, Reason, Unavailable
from telemetryd.kube.client import KubeClient
from telemetryd.kube.requests import MOST_REQUESTS, Requests, request_limiter
from telemetryd.stats import KubeStats
from tests.informer.scripted import Scripted, answer, hang, kubeconfig, serve

pytestmark = pytest.mark.anyio

OK = answer({"kind": "Thing"})
EXPORTERS = 300
NEVER_S = 3600.0


@asynccontextmanager
async def connected(folder: Path, server: Scripted) -> AsyncIterator[KubeClient]:
    config = kubeconfig(folder / "config", server.url)
    async with KubeClient.connect(config, KubeStats(), environ={}) as client:
        yield client


async def test_hundreds_of_requests_at_once_take_few_connections(tmp_path: Path) -> None:
    peers: set[object] = set()

    async def take(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        await anyio.sleep(0.001)
        return await OK(request)

    async with serve() as server, connected(tmp_path, server) as client:
        server.others["/x"] = take
        limited = client.requests(limiter=request_limiter(patience_s=NEVER_S))

        async def ask() -> None:
            assert await limited.request("PATCH", "/x", body=b"{}", timeout_s=60.0)

        async with anyio.create_task_group() as group:
            for _ in range(EXPORTERS):
                group.start_soon(ask)
        assert len(server.requests) == EXPORTERS
    assert 0 < len(peers) <= MOST_REQUESTS


async def test_requests_that_hang_hold_up_neither_informers_nor_for_long_the_others(
    tmp_path: Path,
) -> None:
    async with serve() as server, connected(tmp_path, server) as client:
        server.others |= {"/hanging": hang, "/x": OK}
        limited = client.requests(limiter=request_limiter(patience_s=0.05))
        async with anyio.create_task_group() as group:
            for _ in range(2 * MOST_REQUESTS):
                group.start_soon(_ask_in_vain, limited, "/hanging", NEVER_S)
            await _until_asked(server, MOST_REQUESTS)
            with anyio.fail_after(30):
                assert await client.request("GET", "/x", timeout_s=5.0)
                assert await limited.request("GET", "/x", timeout_s=5.0)
            assert len(server.requests) == 2 * MOST_REQUESTS + 2
            group.cancel_scope.cancel()


async def test_wait_for_a_turn_counts_against_the_deadline_and_is_named(tmp_path: Path) -> None:
    async with serve() as server, connected(tmp_path, server) as client:
        server.others |= {"/hanging": hang, "/x": OK}
        limited = client.requests(limiter=request_limiter(patience_s=NEVER_S))
        async with anyio.create_task_group() as group:
            for _ in range(MOST_REQUESTS):
                group.start_soon(_ask_in_vain, limited, "/hanging", NEVER_S)
            await _until_asked(server, MOST_REQUESTS)
            error = await _ask_in_vain(limited, "/x", 0.05)
            group.cancel_scope.cancel()
    assert str(error) == "GET /x: no turn beside 16 other requests within 0.05 s"
    assert error.kind is Reason.TIMEOUT


async def test_deadline_and_errors_of_the_request_itself_are_the_clients(tmp_path: Path) -> None:
    async with serve() as server, connected(tmp_path, server) as client:
        server.others["/hanging"] = hang
        limited = client.requests(limiter=request_limiter())
        said = str(await _ask_in_vain(limited, "/hanging", 0.25))
        # What is left of the deadline after a turn came.
        assert re.fullmatch(r"GET /hanging: no answer within 0\.[012]\d* s", said)
        server.others["/x"] = answer({"kind": "Status"}, 404)
        for _ in range(2 * MOST_REQUESTS):
            with pytest.raises(NotFound):
                await limited.request("GET", "/x", timeout_s=5.0)


async def _ask_in_vain(limited: Requests, path: str, timeout_s: float) -> Unavailable:
    with pytest.raises(Unavailable) as caught:
        await limited.request("GET", path, timeout_s=timeout_s)
    return caught.value


async def _until_asked(server: Scripted, times: int) -> None:
    with anyio.fail_after(30):
        while len(server.requests) < times:
            await anyio.sleep(0.005)
