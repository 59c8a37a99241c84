"""The life of the collecting half against the embedded API server, with a real manager on top."""

import gc
import json
import time
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest

from telemetryd.config import Config, EnvironmentSwitches, IdentityConfig, KubernetesConfig
from telemetryd.daemon.collection import FinderTiming
from telemetryd.daemon.collector import Collector
from telemetryd.demo.fleet import Fleet
from telemetryd.errors import NotReady
from telemetryd.export.engine.manager import ExporterManager
from telemetryd.kube.client import KubeClient
from telemetryd.model import ExporterState, SourceKind, Switch
from telemetryd.stats import KubeStats
from tests.apiserver.double.apiserver import ApiServer, ServerOptions
from tests.apiserver.double.fleets import populate
from tests.apiserver.double.resources import RESOURCES
from tests.apiserver.fixtures import core_node
from tests.export.doubles import Sink, manager_of, spec
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio

RANCHER = "management.cattle.io"
ALL_ON = EnvironmentSwitches(enabled=True, tracking=True)
TIMING = FinderTiming(poll_s=0.1, confirm_s=0.05, retry_s=0.05)
GONE = [each.id for each in RESOURCES if each.group == RANCHER]


@dataclass
class Bench:
    """A collector that runs, and all around it."""

    server: ApiServer
    fleet: Fleet
    collector: Collector
    manager: ExporterManager
    sink: Sink
    config: Config

    def reload(self, **changes: Any) -> None:
        """As a reload would, with these keys changed."""
        self.config = replace(self.config, **changes)
        self.collector.follow(self.config)

    async def until(self, what: Callable[[], object]) -> None:
        await until_async(what)

    async def until_sent(self) -> None:
        """One more payload than there are."""
        before = len(self.sink.payloads)
        await self.until(lambda: len(self.sink.payloads) > before)

    def opt(self, value: object) -> None:
        self.server.put_object(
            {
                "apiVersion": f"{RANCHER}/v3",
                "kind": "Setting",
                "metadata": {"name": "telemetry-opt"},
                "value": value,
            }
        )

    def state(self) -> ExporterState:
        return self.manager.status("scc").state

    def remove_rancher(self) -> None:
        for resource in GONE:
            self.server.remove_resource(resource)

    def restore_rancher(self) -> None:
        for resource in GONE:
            self.server.restore_resource(resource)
        populate(self.server, self.fleet)
        self.point_rancher_nowhere()

    def point_rancher_nowhere(self) -> None:
        """Its build is asked for at a port that nobody listens on, and not over a network."""
        url = self.server.get_object(f"settings.{RANCHER}", "server-url")
        self.server.put_object({**url, "value": "https://127.0.0.1:1"})


@asynccontextmanager
async def collecting(
    folder: Path,
    *,
    config: Config | None = None,
    environment: EnvironmentSwitches = ALL_ON,
    rancher: bool = True,
    opt: object = None,
    interval_s: float = 0.1,
) -> AsyncIterator[Bench]:
    def now() -> datetime:
        return datetime.now(UTC)

    server = ApiServer(ServerOptions(), now=now, rng=Random(1))
    fleet = Fleet(2, 2, 1, now=now)
    async with server.serve() as endpoint:
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(json.dumps(_kubeconfig(endpoint.url)))
        kubernetes = KubernetesConfig(kubeconfig=str(kubeconfig))
        async with KubeClient.connect(kubernetes, KubeStats()) as client:
            config = config or Config()
            collector = Collector(
                config,
                client,
                environment,
                now=lambda: now().timestamp(),
                rng=Random(1),
                timing=TIMING,
            )
            manager = manager_of(collector)  # type: ignore[arg-type]
            bench = Bench(server, fleet, collector, manager, Sink(), config)
            manager.register(spec(interval_s=interval_s), bench.sink)
            populate(server, fleet)
            bench.point_rancher_nowhere()
            for number in range(3):
                server.put_object(core_node(f"core-{number}"))
            if not rancher:
                bench.remove_rancher()
            if opt is not None:
                bench.opt(opt)
            async with anyio.create_task_group() as group:
                group.start_soon(manager.run)
                group.start_soon(collector.run, manager)
                yield bench
                group.cancel_scope.cancel()


def _kubeconfig(url: str) -> dict[str, Any]:
    return {
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": {"server": url}}],
        "users": [{"name": "x", "user": {}}],
    }


async def test_switching_off_refuses_snapshots_at_once_and_frees_what_was_held(
    tmp_path: Path,
) -> None:
    async with collecting(tmp_path) as bench:
        await bench.until_sent()
        (informer,) = (
            each for each in bench.collector.watched() if each.resource.id == f"nodes.{RANCHER}"
        )
        held: list[weakref.ref[Any]] = [weakref.ref(informer), weakref.ref(informer.reader)]
        del informer
        gc.disable()  # what frees them must be the collector itself
        try:
            bench.reload(enabled=False)
            with pytest.raises(NotReady, match="switched off by enabled = false"):
                bench.collector.snapshot()
            await bench.until(lambda: bench.state() is ExporterState.DISABLED)
            await bench.until(lambda: bench.server.open_watches == 0)
            await bench.until(lambda: bench.collector.source is None)
            # A round of the loop after the source is gone.
            await bench.until(lambda: [each() for each in held] == [None, None])
        finally:
            gc.enable()
        assert list(bench.collector.informers()) == []
        assert bench.collector.required() == []
        assert bench.collector.missing() == ()
        assert bench.collector.unsettled() == ""
        bench.reload(enabled=True)
        await bench.until_sent()


async def test_switched_off_from_the_start_asks_for_nothing_and_reloads_leave_it_so(
    tmp_path: Path,
) -> None:
    off = EnvironmentSwitches(enabled=True, tracking=False)
    async with collecting(tmp_path, environment=off) as bench:
        await bench.until(lambda: bench.state() is ExporterState.DISABLED)
        bench.reload(enabled=False)
        bench.reload(enabled=True)
        await anyio.sleep(0.3)
        assert bench.state() is ExporterState.DISABLED
        assert bench.manager.status("scc").detail == "switched off by $DO_NOT_TRACK"
        assert bench.server.open_watches == 0
        assert bench.sink.payloads == []


async def test_setting_that_cannot_be_read_keeps_the_last_state(tmp_path: Path) -> None:
    async with collecting(tmp_path, opt="in") as bench:
        await bench.until_sent()
        bench.opt([1])
        await bench.until_sent()
        bench.opt("out")
        await bench.until(lambda: bench.state() is ExporterState.DISABLED)
        bench.opt({"not": "a text"})
        await anyio.sleep(0.3)
        assert bench.state() is ExporterState.DISABLED
        assert bench.server.open_watches == 1
        bench.reload(enabled=True)  # a reload doesn't forget what is there
        await anyio.sleep(0.3)
        assert bench.state() is ExporterState.DISABLED
        bench.opt("")
        await anyio.sleep(0.3)
        assert bench.state() is ExporterState.DISABLED
        bench.opt("in")
        await bench.until_sent()


@pytest.mark.parametrize("value", ["OUT", " out", "x" * 100_000, [1], {"not": "a text"}])
async def test_setting_that_says_nothing_known_at_the_start_is_waited_for(
    tmp_path: Path, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    async with collecting(tmp_path, opt=value) as bench:
        said = "setting telemetry-opt "
        await bench.until(lambda: bench.manager.status("scc").detail.startswith(said))
        await anyio.sleep(0.3)
        assert bench.state() is ExporterState.WAITING
        assert bench.sink.payloads == []
        (error,) = [each.message for each in caplog.records if each.levelname == "ERROR"]
        assert "give it the value in, prompt or out" in error
        assert len(error) < 300
        bench.opt("out")
        await bench.until(lambda: bench.state() is ExporterState.DISABLED)
        bench.opt(value)
        await anyio.sleep(0.3)
        assert bench.sink.payloads == []
        bench.opt("prompt")
        await bench.until_sent()


@pytest.mark.parametrize("value", ["", "in", "prompt", None])
async def test_other_values_do_not_opt_out(tmp_path: Path, value: object) -> None:
    async with collecting(tmp_path, opt=value) as bench:
        await bench.until_sent()
        assert bench.collector.switches.enabled


async def test_setting_out_at_the_start_is_seen_before_anything_is_sent(tmp_path: Path) -> None:
    async with collecting(tmp_path, opt="out") as bench:
        await bench.until(lambda: bench.state() is ExporterState.DISABLED)
        await anyio.sleep(0.3)
        assert bench.sink.payloads == []
        assert bench.server.open_watches == 1
        bench.server.delete_object(f"settings.{RANCHER}", "telemetry-opt")
        await anyio.sleep(0.3)
        assert bench.state() is ExporterState.DISABLED
        bench.reload(enabled=True)
        await anyio.sleep(0.3)
        assert bench.state() is ExporterState.DISABLED
        assert bench.sink.payloads == []
        await bench.until(lambda: bench.collector.switches.off_by == (Switch.MEMORY,))
        bench.opt("in")
        await bench.until_sent()


async def test_out_that_went_while_it_was_off_is_remembered_when_it_is_on(tmp_path: Path) -> None:
    async with collecting(tmp_path, opt="out") as bench:
        await bench.until(lambda: bench.state() is ExporterState.DISABLED)
        bench.reload(enabled=False)
        await bench.until(lambda: not list(bench.collector.informers()))
        bench.server.delete_object(f"settings.{RANCHER}", "telemetry-opt")
        bench.reload(enabled=True)
        await bench.until(lambda: list(bench.collector.informers()))
        await anyio.sleep(0.3)
        assert bench.sink.payloads == []
        bench.opt("prompt")
        await bench.until_sent()


async def test_source_moves_over_and_back_and_exporters_wait_meanwhile(tmp_path: Path) -> None:
    async with collecting(tmp_path, rancher=False, interval_s=60) as bench:
        collector = bench.collector
        await bench.until_sent()
        assert collector.source is SourceKind.KUBERNETES
        assert collector.snapshot().identity.product == "kubernetes"
        assert collector.snapshot().totals.nodes == 3
        bench.restore_rancher()
        await bench.until(lambda: collector.source is SourceKind.RANCHER)
        assert bench.state() in {ExporterState.WAITING, ExporterState.RUNNING, ExporterState.IDLE}
        await bench.until(lambda: len(bench.sink.payloads) == 2)
        assert collector.snapshot().identity.install_uuid == bench.fleet.install_uuid
        assert collector.snapshot().totals.nodes == bench.fleet.node_count
        bench.remove_rancher()
        await bench.until(lambda: collector.source is SourceKind.KUBERNETES)
        await bench.until(lambda: len(bench.sink.payloads) == 3)
        assert collector.snapshot().totals.nodes == 3
        assert bench.manager.stats()["scc"].runs["failure"] == 0
        assert {status.resource for status, _ in collector.informers()} == {"nodes", "namespaces"}


async def test_one_missing_crd_is_waited_for_and_moves_nothing(tmp_path: Path) -> None:
    async with collecting(tmp_path) as bench:
        await bench.until_sent()
        bench.server.remove_resource(f"features.{RANCHER}")
        await bench.until(
            lambda: f"resource features.{RANCHER} (not served)" in bench.collector.missing()
        )
        await anyio.sleep(0.5)
        assert bench.collector.source is SourceKind.RANCHER
        bench.server.restore_resource(f"features.{RANCHER}")
        await bench.until(lambda: bench.collector.missing() == ())


@pytest.mark.parametrize("source", ["rancher", "kubernetes"])
async def test_configured_source_is_taken_at_its_word(tmp_path: Path, source: str) -> None:
    config = Config(kubernetes=KubernetesConfig(source=source))
    async with collecting(tmp_path, config=config, rancher=source == "kubernetes") as bench:
        await bench.until(lambda: bench.collector.source == source)
        if source == "kubernetes":
            await bench.until_sent()
        else:
            await bench.until(lambda: "(not served)" in str(bench.collector.missing()))
            assert bench.sink.payloads == []


async def test_overrides_outlive_a_collection(tmp_path: Path) -> None:
    async with collecting(tmp_path) as bench:
        await bench.until_sent()
        bench.reload(identity=IdentityConfig(product="mine"))
        assert bench.collector.snapshot().identity.product == "mine"
        bench.reload(enabled=False)
        await bench.until(lambda: bench.collector.source is None)
        bench.reload(enabled=True)
        await bench.until_sent()
        assert bench.collector.snapshot().identity.product == "mine"


async def test_unknown_source_is_named_and_not_ready(tmp_path: Path) -> None:
    async with collecting(tmp_path) as bench:
        assert bench.collector.unsettled() == "source (discovery)"
        with pytest.raises(NotReady, match="source"):
            bench.collector.snapshot()
        await bench.collector.wait_ready()
        assert bench.collector.unsettled() == ""
        assert bench.collector.snapshot().totals.nodes == bench.fleet.node_count


async def test_nothing_runs_before_it_is_known_whether_somebody_opted_out(tmp_path: Path) -> None:
    """Something may have been left undelivered, and the setting be ``out`` by now."""
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(json.dumps(_kubeconfig("http://127.0.0.1:1")))
    kubernetes = KubernetesConfig(kubeconfig=str(kubeconfig), source="rancher")
    async with KubeClient.connect(kubernetes, KubeStats()) as client:
        collector = Collector(
            Config(kubernetes=kubernetes), client, ALL_ON, now=time.time, rng=Random(1)
        )
        manager = manager_of(collector)  # type: ignore[arg-type]
        manager.register(spec(interval_s=0.1), Sink())
        async with anyio.create_task_group() as group:
            group.start_soon(manager.run)
            group.start_soon(collector.run, manager)
            await until_async(lambda: collector.source, "a source")
            await anyio.sleep(0.3)
            status = manager.status("scc")
            assert (status.state, status.detail) == (
                ExporterState.WAITING,
                "setting telemetry-opt (first look)",
            )
            group.cancel_scope.cancel()
