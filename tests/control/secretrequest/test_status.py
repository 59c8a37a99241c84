"""Another controller serves the request too: on virtual time, at the pace of Rancher's own."""

import math
from typing import Any

import anyio
import pytest

from telemetryd.control.secretrequest.decision import SecretRef
from telemetryd.model import ExporterState, RequestState
from tests.apiserver.double.resources import RequestTarget as Place
from tests.apiserver.double.resources import resource_of
from tests.control.secretrequest.bench import EXPORTER, Bench, with_settings
from tests.support.virtualtime import VirtualTimeLoop
from tests.system.scc import FAILED, NAMESPACE, REQUEST, SECRET, SERVED, scc_request

pytestmark = pytest.mark.anyio

STATUS_PATH = f"secretrequests/{REQUEST}/status"
HOUR_S = 3600.0


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "asyncio", {"loop_factory": VirtualTimeLoop}


class Rancher:
    """Registers its exporter at each change of the request; writes 60 s (and up to 10) later.

    Attributes:
        writes: Secrets written so far.
        registrations: Exporters registered so far.
    """

    def __init__(self, bench: Bench) -> None:
        self.writes = 0
        self.registrations = 0
        self._bench = bench
        self._seen = ""
        self._due_s: float | None = None

    async def run(self) -> None:
        """Until it is cancelled."""
        table = self._bench.api.store.table(resource_of(scc_request()))
        while True:
            revision = self._bench.api.store.revision
            version = self._bench.request()["metadata"]["resourceVersion"]
            if version != self._seen:
                self._seen = version
                self._on_change()
            if self._due_s is not None and anyio.current_time() >= self._due_s:
                self.writes += 1
                self._bench.write_as_rancher(self.writes)
                self._due_s += 60
            with anyio.CancelScope(deadline=self._due_s or math.inf):
                await table.wait_changed(revision)
            await anyio.sleep(0.1)

    def _on_change(self) -> None:
        self.registrations += 1
        self._due_s = anyio.current_time() + 65
        stamp = self._bench.api.timestamp()
        held = {each["type"]: each for each in self._bench.status().get("conditions", [])}
        held.pop("Failure", None)
        conditions = [
            {"lastUpdateTime": stamp, **held.get(kind, {}), "type": kind, "status": status}
            for kind, status in SERVED.items()
        ]
        write_status(self._bench, "rancher", {"conditions": conditions, "lastSyncTS": stamp})


def write_status(bench: Bench, manager: str, status: dict[str, Any]) -> None:
    place = Place(resource_of(scc_request()), "", REQUEST, "status")
    bench.api.writer.merge_patch(place, {"status": status}, manager)


def with_request(**settings: Any) -> Bench:
    """One whose request has owners, as each that comes through an API server."""
    bench = Bench(with_settings(**settings))
    bench.populate()
    request = scc_request()
    bench.api.writer.create(Place(resource_of(request)), request, "rancher-scc-operator")
    bench.sync()
    return bench


@pytest.mark.parametrize("takeover", [False, True])
async def test_rancher_that_is_alive_keeps_its_pace_and_is_reported_nowhere_but_here(
    takeover: bool,
) -> None:
    bench = with_request(takeover=takeover)
    rancher = Rancher(bench)
    async with bench.serving(), anyio.create_task_group() as group:
        group.start_soon(rancher.run)
        await anyio.sleep(120)
        bench.api.calls.clear()
        writes, registrations = rancher.writes, rancher.registrations
        await anyio.sleep(HOUR_S)
        if takeover:  # bounded: three in ten minutes, and Rancher writes between them
            assert len(bench.api.forced_at_s) <= 3 * 7
            assert rancher.writes - writes >= 30
        else:
            assert rancher.writes - writes == 60
            assert rancher.registrations == registrations
            assert bench.api.count("PATCH", "") == 0, "nothing to the request or the Secret"
            assert bench.shown().state is RequestState.CONFLICT
            assert "rancher" in bench.shown().detail
            assert bench.manager.status(EXPORTER).state is ExporterState.CONFLICT
        group.cancel_scope.cancel()


async def test_status_alone_of_another_controller_is_left_until_it_is_quiet() -> None:
    bench = with_request()
    done = {"type": "Done", "status": "Unknown", "lastUpdateTime": "2026-01-01T00:00:00Z"}
    write_status(bench, "rancher", {"conditions": [done]})
    bench.tell()
    async with bench.serving():
        await anyio.sleep(295)
        assert bench.secret() is None
        assert bench.api.count("PATCH", "") == 0
        assert bench.shown().state is RequestState.CONFLICT
        assert "hasn't changed for 300 s" in bench.shown().detail
        await anyio.sleep(65)
        assert bench.secret() is not None
        assert bench.conditions() == SERVED
        assert bench.shown().state is RequestState.SERVED
        write_status(bench, "kubectl-edit", {"conditions": [done]})
        await anyio.sleep(290)
        assert bench.conditions() == {"Done": "Unknown"}, "any other writer is left alone"
        assert bench.manager.status(EXPORTER).state is ExporterState.CONFLICT
        await anyio.sleep(75)
        assert bench.conditions() == SERVED, "the Secret is ours: no other controller serves it"


async def test_request_that_changes_again_and_again_by_another_controller_stays_its() -> None:
    bench = with_request()
    async with bench.serving():
        for minute in range(60):
            stamp = f"2026-01-01T00:{minute:02}:00Z"
            write_status(bench, "rancher", {"lastSyncTS": stamp})
            await anyio.sleep(60)
            if minute == 0:
                bench.api.calls.clear()
        assert bench.api.count("PATCH", "") == 0
        assert bench.shown().state is RequestState.CONFLICT


async def test_rejection_is_not_reported_where_another_controller_wrote_the_status() -> None:
    bench = with_request()
    rancher = Rancher(bench)
    bench.controller.configure(with_settings(), {SecretRef(NAMESPACE, SECRET): "mine"})
    async with bench.serving(), anyio.create_task_group() as group:
        group.start_soon(rancher.run)
        await anyio.sleep(120)
        bench.api.calls.clear()
        registrations = rancher.registrations
        await anyio.sleep(HOUR_S)
        assert rancher.registrations == registrations
        assert bench.api.count("PATCH", "") == 0
        assert bench.conditions() == SERVED, "as Rancher says"
        assert bench.shown().state is RequestState.REJECTED
        group.cancel_scope.cancel()
    bench = with_request()
    bench.controller.configure(with_settings(), {SecretRef(NAMESPACE, SECRET): "mine"})
    async with bench.serving():
        await anyio.sleep(5)
        assert bench.conditions() == FAILED, "but it is where no other controller did"


async def test_takeover_serves_at_once_and_leaves_the_status_ours_when_it_ends() -> None:
    bench = with_request()
    rancher = Rancher(bench)
    async with bench.serving():
        with anyio.move_on_after(200):
            await rancher.run()
        await anyio.sleep(2 * HOUR_S)
        assert bench.api.forced_at_s == []
        assert bench.shown().state is RequestState.CONFLICT
        bench.controller.configure(with_settings(takeover=True), {})
        await anyio.sleep(5)
        assert len(bench.api.forced_at_s) == 1
        assert bench.shown().state is RequestState.SERVED
        bench.controller.configure(with_settings(), {})
        await anyio.sleep(5)
        assert bench.shown().state is RequestState.SERVED, "no more takeover is needed"
        with anyio.move_on_after(200):
            await rancher.run()
        assert bench.shown().state is RequestState.CONFLICT
        assert len(bench.api.forced_at_s) == 1


async def test_another_process_of_telemetryd_is_no_other_controller() -> None:
    bench = with_request()
    async with bench.serving():
        await anyio.sleep(5)
        asked = bench.api.count("PATCH", STATUS_PATH)
        again = Bench()
        again.api.store, again.api.writer = bench.api.store, bench.api.writer
        again.sync()
        async with again.serving():
            await anyio.sleep(HOUR_S)
            assert again.shown().state is bench.shown().state is RequestState.SERVED
            assert again.api.count("PATCH", "") == 0
        assert bench.api.count("PATCH", STATUS_PATH) == asked


async def test_status_that_another_controller_writes_in_between_is_not_written_over() -> None:
    bench = with_request()
    met: list[str] = []

    def meddle() -> None:
        method, path = bench.api.calls[-1]
        if method == "PATCH" and path.endswith("/status") and not met:
            met.append(path)
            write_status(bench, "rancher", {"lastSyncTS": "2026-01-01T00:00:00Z"})

    bench.api.interlude = meddle
    async with bench.serving():
        await anyio.sleep(100)
        assert met
        assert bench.conditions() == {}
        assert bench.status() == {"lastSyncTS": "2026-01-01T00:00:00Z"}
        assert bench.shown().state is RequestState.CONFLICT
