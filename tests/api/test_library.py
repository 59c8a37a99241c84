"""The library: what a program uses without the daemon, against an API server."""

import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from telemetryd.api import (
    API_VERSION,
    ExporterManager,
    ExporterSpec,
    ExporterState,
    Gatherer,
    IdentityConfig,
    KubeClient,
    KubeError,
    KubernetesConfig,
    ManagerError,
    NotReady,
    PrivacyConfig,
    gathering,
    make_renderer,
)
from tests.export.doubles import Sink
from tests.support.embedded import FleetServer, serve_fleet

pytestmark = pytest.mark.anyio

PATIENCE_S = 60.0
OF_RANCHER = ("clusters", "nodes", "settings", "features", "projects")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetServer]:
    with serve_fleet(tmp_path_factory.mktemp("rancher"), clusters=2, nodes=3) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetServer]:
    """An API server without a Rancher."""
    with serve_fleet(tmp_path_factory.mktemp("plain")) as fleet:
        for plural in OF_RANCHER:
            fleet.stop_serving(f"{plural}.management.cattle.io")
        yield fleet


@asynccontextmanager
async def connected(server: FleetServer) -> AsyncIterator[KubeClient]:
    config = KubernetesConfig(kubeconfig=str(server.kubeconfig))
    async with KubeClient.connect(config) as client:
        yield client


async def ready(gatherer: Gatherer) -> None:
    with anyio.fail_after(PATIENCE_S):
        await gatherer.wait_ready()


async def missing(gatherer: Gatherer) -> str:
    """What it waits for, once that isn't a first answer any more."""
    with anyio.fail_after(PATIENCE_S):
        while True:
            named = ", ".join(gatherer.missing())
            if "informer " not in named:
                return named
            await anyio.sleep(0.01)


async def test_gatherer_counts_the_fleet_and_follows_it(server: FleetServer) -> None:
    async with connected(server) as client, gathering(client) as gatherer:
        await ready(gatherer)
        snapshot = gatherer.snapshot()
        assert (snapshot.totals.managed_clusters, snapshot.totals.nodes) == (2, 9)
        assert snapshot.complete
        assert snapshot is gatherer.snapshot()


async def test_snapshot_before_the_first_answers_is_an_error_that_names_them(
    server: FleetServer,
) -> None:
    async with connected(server) as client, gathering(client, source="rancher") as gatherer:
        with pytest.raises(NotReady) as raised:
            gatherer.snapshot()
        assert "informer nodes.management.cattle.io" in raised.value.waiting_for


async def test_snapshot_has_the_detail_identity_and_privacy_that_are_asked_for(
    server: FleetServer,
) -> None:
    identity = IdentityConfig(product="mine")
    privacy = PrivacyConfig(server_url="omit")
    async with (
        connected(server) as client,
        gathering(client, identity=identity, privacy=privacy, detailed=True) as gatherer,
    ):
        await ready(gatherer)
        snapshot = gatherer.snapshot()
        assert (snapshot.identity.product, snapshot.identity.server_url) == ("mine", "")
        assert snapshot.detail is not None
        assert len(snapshot.detail.clusters) == 3


async def test_source_is_found_where_there_is_no_rancher(plain: FleetServer) -> None:
    async with connected(plain) as client, gathering(client) as gatherer:
        await ready(gatherer)
        assert gatherer.snapshot().identity.product == "kubernetes"


async def test_rancher_that_is_not_there_is_waited_for_by_name(plain: FleetServer) -> None:
    async with connected(plain) as client, gathering(client, source="rancher") as gatherer:
        named = await missing(gatherer)
        assert "resource clusters.management.cattle.io (not served)" in named
        manager = ExporterManager(gatherer, now=time.time, rng=random.Random(1))
        manager.register(ExporterSpec("mine", "test", make_renderer("scc")), Sink())
        async with anyio.create_task_group() as group:
            await group.start(manager.run)
            status = manager.status("mine")
            assert status.state is ExporterState.WAITING
            assert "resource clusters.management.cattle.io (not served)" in status.detail
            group.cancel_scope.cancel()


async def test_source_that_does_not_exist_is_refused(server: FleetServer) -> None:
    async with connected(server) as client:
        with pytest.raises(ValueError, match='must be one of "auto", "rancher", "kubernetes"'):
            async with gathering(client, source="ranger"):
                pytest.fail("entered")


async def test_server_that_does_not_answer_is_an_error_at_once(tmp_path: Path) -> None:
    with serve_fleet(tmp_path) as gone:
        pass
    async with connected(gone) as client:
        with pytest.raises(KubeError):
            async with gathering(client):
                pytest.fail("entered")


async def test_error_of_the_block_is_raised_as_it_is(server: FleetServer) -> None:
    async with connected(server) as client:
        with pytest.raises(ZeroDivisionError):
            async with gathering(client):
                raise ZeroDivisionError


async def test_manager_runs_two_exporters_of_its_own_on_a_gatherer(server: FleetServer) -> None:
    first, second = Sink(), Sink()
    async with (
        connected(server) as client,
        gathering(client, detailed=True) as gatherer,
        anyio.create_task_group() as group,
    ):
        manager = ExporterManager(gatherer, now=time.time, rng=random.Random(1))
        await group.start(manager.run)
        manager.register(ExporterSpec("scc", "test", make_renderer("scc")), first)
        manager.register(ExporterSpec("fleet", "test", make_renderer("fleet")), second)
        with pytest.raises(ManagerError, match="'scc' is registered already"):
            manager.register(ExporterSpec("scc", "test", make_renderer("scc")), Sink())
        with anyio.fail_after(PATIENCE_S):
            while not (first.payloads and second.payloads):
                await anyio.sleep(0.01)
        await manager.unregister("scc")
        assert (manager.has("scc"), manager.has("fleet")) == (False, True)
        group.cancel_scope.cancel()
    assert (first.closed, second.closed) == (1, 1)
    assert b'"managedSystems"' in first.payloads[0].body
    assert b'"clusters"' in second.payloads[0].body


def test_telemetryd_itself_does_not_import_the_api() -> None:
    code = (
        "import sys, telemetryd.__main__, telemetryd.cli.commands, telemetryd.daemon.app\n"
        "sys.exit(','.join(name for name in sys.modules if name.startswith('telemetryd.api')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


def test_api_needs_no_test_framework() -> None:
    code = (
        "import sys, telemetryd.api.testing\n"
        "sys.exit(','.join({'pytest', '_pytest', 'hypothesis'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


def test_version_has_two_numbers() -> None:
    assert all(isinstance(number, int) for number in API_VERSION)
    assert len(API_VERSION) == 2
