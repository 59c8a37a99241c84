"""The whole daemon as a process, with exporters that send to receivers over TLS."""

import json
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio.to_thread
import pytest

from tests.support.certificates import Authority, server_side
from tests.support.daemon import Daemon
from tests.support.embedded import FleetServer, serve_fleet
from tests.support.receiver import receiving, status

pytestmark = pytest.mark.anyio

T = TypeVar("T")

UNCHANGED = 'telemetryd_exporter_runs_total{exporter="it",result="unchanged"}'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetServer]:
    with serve_fleet(tmp_path_factory.mktemp("embedded")) as fleet:
        yield fleet


async def aside(call: Callable[[], T]) -> T:
    """What blocks, away from the receivers' loop."""
    return await anyio.to_thread.run_sync(call)


@asynccontextmanager
async def running(folder: Path, server: FleetServer, config: str) -> AsyncIterator[Daemon]:
    daemon = await aside(lambda: Daemon(folder, server.kubeconfig, config))
    try:
        yield daemon
    finally:
        with anyio.CancelScope(shield=True):
            ended = await aside(daemon.stop)
    assert ended == 0, daemon.log()[-4000:]


def settled(daemon: Daemon, *names: str) -> bool:
    """All of them have succeeded, and are idle."""
    if daemon.get("/status.json")[0] != 200:
        return False
    shown = [daemon.exporter(name) for name in names]
    return all(each["state"] == "idle" and each["last_success_at"] for each in shown)


def remote(name: str, **keys: object) -> str:
    given = {"name": name, "interval": "1s", "splay_max": "0s", **keys}
    return "[[exporters]]\n" + "".join(f"{key} = {json.dumps(it)}\n" for key, it in given.items())


async def test_payloads_and_metrics_arrive_once_however_often_the_daemon_starts(
    tmp_path: Path, server: FleetServer
) -> None:
    authority = Authority(tmp_path)
    tls = server_side(authority.issue("server"))
    async with receiving(tls=tls) as receiver, receiving(tls=tls) as collector:
        base = collector.url.removesuffix("/v1/payloads")
        ca_file = str(authority.ca)
        config = remote("it", type="http", url=receiver.url, ca_file=ca_file, format="fleet")
        config += remote("otel", type="otlp", endpoint=base, ca_file=ca_file)
        for start in range(2):
            async with running(tmp_path, server, config) as daemon:
                await aside(
                    partial(daemon.wait_for, "ok", lambda: settled(daemon, "it", "otel"), 30)
                )
                if start == 0:
                    # A second run finds that nothing has changed.
                    again = partial(daemon.metric, UNCHANGED)
                    await aside(partial(daemon.wait_for, "a second run", again, 10))
            assert len(receiver.requests) == 1, start
            assert len(collector.requests) == 1, start
    (request,) = receiver.requests
    document = json.loads(request.body)
    delivery = document["delivery"]
    assert request.key == f"{document['installation']['install_uuid']}:{delivery['sequence']}"
    assert request.headers["telemetryd-digest"] == f"sha256:{delivery['digest']}"
    assert request.headers["telemetryd-collected-at"] == delivery["timestamp"]
    assert collector.requests[0].target == "/v1/metrics"
    assert b"telemetryd.fleet.nodes" in collector.requests[0].body


@pytest.mark.long
async def test_what_was_refused_waits_on_disk_and_is_shown(
    tmp_path: Path, server: FleetServer
) -> None:
    async with receiving(default=status(400)) as receiver:
        config = remote("it", type="http", url=receiver.url)
        async with running(tmp_path, server, config) as daemon:
            await aside(partial(daemon.wait_for, "tried", lambda: receiver.requests, 30))
            await aside(
                partial(
                    daemon.wait_for,
                    "failed",
                    lambda: daemon.exporter("it")["state"] == "failed",
                    10,
                )
            )
            series = 'telemetryd_exporter_spool_items{exporter="it"}'
            assert await aside(lambda: daemon.metric(series)) == 1
    assert (tmp_path / "spool" / "it" / "pending").exists()


@pytest.mark.long
async def test_reload_with_a_ca_that_is_not_there_is_rejected_whole(
    tmp_path: Path, server: FleetServer
) -> None:
    async with receiving() as receiver:
        config = remote("it", type="http", url=receiver.url)
        async with running(tmp_path, server, config) as daemon:
            await aside(partial(daemon.wait_for, "ok", lambda: settled(daemon, "it"), 30))
            url = receiver.url.replace("http:", "https:")
            daemon.configure(remote("it", type="http", url=url, ca_file="/nonexistent/ca.pem"))

            daemon.signal(signal.SIGHUP)
            successful = partial(daemon.metric, "telemetryd_config_last_reload_successful")
            await aside(partial(daemon.wait_for, "rejected", lambda: successful() == 0, 10))
            assert "exporters.it.ca_file: CA can't be loaded" in await aside(daemon.whole_log)
            assert (await aside(lambda: daemon.exporter("it")))["state"] == "idle"
