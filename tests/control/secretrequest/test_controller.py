"""The controller's loop: transient errors, wars, restarts and takeovers, on virtual time."""

from collections.abc import Callable
from functools import partial

import anyio
import pytest

from telemetryd.control.secretrequest.decision import SecretRef
from telemetryd.errors import (
    Conflict,
    Forbidden,
    KubeError,
    Reason,
    Throttled,
    Unavailable,
)
from telemetryd.export.exporter import ExportContext, Exporter, Outcome
from telemetryd.model import ExporterState, Payload, ProjectRecord, RequestState
from tests.control.secretrequest.bench import EXPORTER, Bench, with_settings
from tests.export.doubles import running
from tests.support.virtualtime import VirtualTimeLoop
from tests.system.scc import NAMESPACE, REQUEST, SECRET, SYSTEM_PROJECT

pytestmark = pytest.mark.anyio

SERVED = {"Progressing": "False", "Done": "True"}
FAILED = {**SERVED, "Failure": "True"}
STATUS_PATH = f"secretrequests/{REQUEST}/status"
NAMESPACE_PATH = f"/api/v1/namespaces/{NAMESPACE}"

TRANSIENT: dict[str, Callable[[], KubeError]] = {
    "timeout": partial(Unavailable, "no answer", kind=Reason.TIMEOUT),
    "refused": partial(Unavailable, "refused", kind=Reason.CONNECT),
    "server": partial(Unavailable, "500", kind=Reason.SERVER, status=500),
    "throttled": partial(Throttled, "429", retry_after_s=2.0),
    "forbidden": partial(Forbidden, "403", status=403),
    "conflict": partial(Conflict, "409", status=409),
}


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "asyncio", {"loop_factory": VirtualTimeLoop}


def failing_on(path: str, error: Callable[[], Exception]) -> Callable[[str, str], Exception | None]:
    return lambda _method, asked: error() if asked.endswith(path) else None


def failing_to(method: str) -> Callable[[str, str], Exception | None]:
    error = Unavailable("500", kind=Reason.SERVER, status=500)
    return lambda asked, _path: error if asked == method else None


def ready(**settings: object) -> Bench:
    bench = Bench(with_settings(**settings))
    bench.populate()
    bench.sync()
    return bench


@pytest.mark.parametrize("error", TRANSIENT.values(), ids=TRANSIENT)
async def test_namespace_that_cannot_be_read_is_never_the_requests_fault(
    error: Callable[[], KubeError],
) -> None:
    bench = ready()
    async with bench.serving():
        bench.ask()
        await anyio.sleep(5)
        assert bench.conditions() == SERVED
        before = bench.request()
        bench.api.fault = failing_on(NAMESPACE_PATH, error)
        bench.api.calls.clear()
        await anyio.sleep(600)
        assert bench.request() == before
        assert bench.shown().state is RequestState.UNDECIDED
        assert bench.exporters() == [EXPORTER]
        looks = bench.api.count("GET", NAMESPACE_PATH) - bench.api.count("GET", "/secrets/")
        # A backoff of up to 30 s, half of that on average: neither a storm nor a standstill.
        assert 15 <= looks <= 90
        assert bench.api.count("GET", "/secrets/") == 10, "it goes on once a minute"
        bench.api.fault = lambda _method, _path: None
        await anyio.sleep(35)
        assert bench.shown().state is RequestState.SERVED
        assert bench.request() == before
    assert bench.built == [EXPORTER]


@pytest.mark.parametrize("error", TRANSIENT.values(), ids=TRANSIENT)
async def test_request_that_cannot_be_judged_at_first_is_served_once_it_can(
    error: Callable[[], KubeError],
) -> None:
    bench = ready()
    bench.api.fault = failing_on(NAMESPACE_PATH, error)
    async with bench.serving():
        bench.ask()
        await anyio.sleep(120)
        assert bench.conditions() == {"Progressing": "True"}
        assert bench.exporters() == []
        bench.api.fault = lambda _method, _path: None
        await anyio.sleep(35)
        assert bench.conditions() == SERVED


async def test_edits_ten_times_a_second_for_a_minute_disturb_nothing() -> None:
    bench = ready(interval_s=5.0)
    async with bench.serving():
        bench.ask()
        await anyio.sleep(1)
        before = bench.status()
        bench.api.calls.clear()
        for number in range(600):
            await anyio.sleep(0.1)
            bench.edit(
                lambda obj, number=number: obj["metadata"].update(  # type: ignore[misc]
                    annotations={"edit": str(number)}
                )
            )
        assert bench.api.count("GET", f"secrets/{SECRET}") == 12, "every 5 s, for 60 s"
        assert bench.api.count("PATCH", STATUS_PATH) == 0
        assert bench.status() == before
    assert bench.built == [EXPORTER]


async def test_time_of_the_last_sync_is_that_of_the_last_write_not_of_a_run() -> None:
    bench = ready()
    async with bench.serving():
        bench.ask()
        await anyio.sleep(1)
        first = bench.status()["lastSyncTS"]
        await anyio.sleep(600)
        assert bench.status()["lastSyncTS"] == first, "ten runs wrote nothing"
        bench.source.change()
        await anyio.sleep(61)
        assert bench.status()["lastSyncTS"] > first


async def test_status_that_meets_a_change_in_between_is_read_again_at_once() -> None:
    bench = ready()
    meddled: list[int] = []

    def meddle() -> None:
        if len(meddled) < 3 and bench.api.calls[-1][1].endswith("/status"):
            meddled.append(1)
            bench.edit(lambda obj: obj["metadata"].update(annotations={"n": str(len(meddled))}))

    bench.api.interlude = meddle
    async with bench.serving():
        bench.ask()
        await anyio.sleep(0.5)
        assert bench.conditions() == SERVED
    assert len(meddled) == 3


@pytest.mark.parametrize("error", TRANSIENT.values(), ids=TRANSIENT)
async def test_status_that_cannot_be_written_is_tried_at_a_falling_pace_while_exports_go_on(
    error: Callable[[], KubeError],
) -> None:
    bench = ready()
    bench.api.fault = failing_on(STATUS_PATH, error)
    async with bench.serving():
        bench.ask()
        await anyio.sleep(600)
        assert bench.secret() is not None
        assert bench.conditions() == {}
        tries = bench.api.count("PATCH", STATUS_PATH)
        assert 10 <= tries <= (150 if error is TRANSIENT["conflict"] else 40)
        bench.api.fault = lambda _method, _path: None
        await anyio.sleep(61)
        assert bench.conditions() == SERVED


async def test_war_over_the_conditions_is_not_fought() -> None:
    """Rancher's own controller takes `Failure` off with every event it sees."""
    bench = ready()
    bench.put(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "Opaque",
            "metadata": {"name": SECRET, "namespace": NAMESPACE},
            "data": {"payload": "e30="},
        }
    )
    async with bench.serving():
        bench.ask()
        await anyio.sleep(2)
        assert bench.failure()["reason"] == "Secret can't be written: not_telemetry"
        bench.api.calls.clear()
        for _ in range(600):
            await anyio.sleep(0.5)
            bench.edit(_without_failure)
        assert bench.api.count("PATCH", STATUS_PATH) <= 6, "once a minute for five"


def _without_failure(obj: dict[str, object]) -> None:
    status: dict[str, object] = obj["status"]  # type: ignore[assignment]
    listed: list[dict[str, object]] = status["conditions"]  # type: ignore[assignment]
    status["conditions"] = [each for each in listed if each["type"] != "Failure"]


async def test_exporters_stay_while_collection_is_off_and_are_put_right_once_it_is_on() -> None:
    bench = ready()
    async with running(bench.manager):
        async with bench.controlling():
            bench.ask()
            bench.ask("other", name="other")
            await anyio.sleep(1)
        bench.remove("other")
        bench.forget()
        await anyio.sleep(60)
        assert bench.exporters() == ["secretrequest/other", EXPORTER]
        async with bench.controlling():
            await anyio.sleep(5)
            assert len(bench.exporters()) == 2, "nothing is known before the informers have synced"
            bench.sync()
            await anyio.sleep(1)
            assert bench.exporters() == [EXPORTER]
    assert bench.built.count(EXPORTER) == 1


class SlowToEnd:
    """A sink that hangs when it must end, until its time is up."""

    def __init__(self, sink: Exporter) -> None:
        self._sink = sink
        self._calls = 0

    async def export(self, payload: Payload, context: ExportContext) -> Outcome:
        self._calls += 1
        if self._calls > 1:
            await anyio.sleep(60)
        return await self._sink.export(payload, context)

    async def aclose(self) -> None:
        await self._sink.aclose()


async def test_end_that_was_cut_short_is_made_good_by_the_next_run() -> None:
    bench = ready(interval_s=30.0)
    bench.wrap = SlowToEnd
    async with running(bench.manager):
        async with bench.controlling():
            bench.ask()
            await anyio.sleep(31)
            bench.edit(lambda obj: obj["spec"].update(secretType="other"))
            await anyio.sleep(1)
        assert bench.exporters() == [EXPORTER]
        bench.edit(lambda obj: obj["spec"].update(secretType="scc"))
        async with bench.controlling():
            await anyio.sleep(10)
            state = bench.manager.status(EXPORTER).state
            assert state in {ExporterState.IDLE, ExporterState.RUNNING}, "made again, not stopped"
    assert bench.built == [EXPORTER, EXPORTER]


async def test_secret_claimed_while_the_former_exporter_ends_is_not_taken() -> None:
    bench = ready(interval_s=30.0)
    bench.wrap = SlowToEnd
    async with bench.serving():
        bench.ask()
        await anyio.sleep(31)
        bench.retarget(name="other")
        await anyio.sleep(1)
        claimed = {SecretRef(NAMESPACE, "other"): "mine"}
        assert bench.controller.configure(with_settings(), claimed) == []
        await anyio.sleep(30)
        assert bench.built == [EXPORTER]
        assert "the configured exporter mine" in bench.failure()["message"]


async def test_fault_of_ours_costs_a_pause_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = ready()
    faults = [ValueError("a fault of the test")]

    def wrap(sink: Exporter) -> Exporter:
        if faults:
            raise faults.pop()
        return sink

    bench.wrap = wrap
    async with bench.serving():
        bench.ask()
        await anyio.sleep(31)
        assert bench.conditions() == SERVED
    assert "secret requests failed" in caplog.text


async def test_other_takeover_replaces_the_exporter_and_another_interval_does_not() -> None:
    bench = ready()
    async with bench.serving():
        bench.ask()
        await anyio.sleep(1)
        bench.controller.configure(with_settings(interval_s=5.0), {})
        await anyio.sleep(61)
        assert bench.built == [EXPORTER, EXPORTER], "one for its schedule alone"
        assert bench.manager.status(EXPORTER).interval_s == 5.0
        assert bench.manager.stats()[EXPORTER].runs["unchanged"] >= 10
        bench.controller.configure(with_settings(interval_s=5.0, takeover=True), {})
        await anyio.sleep(1)
        assert bench.built == [EXPORTER] * 3
        assert bench.conditions() == SERVED


async def test_restart_writes_nothing_where_nothing_has_changed() -> None:
    bench = ready()
    async with bench.serving():
        bench.ask()
        await anyio.sleep(1)
    before = bench.request(), bench.secret()
    again = Bench()
    again.api.store, again.api.writer = bench.api.store, bench.api.writer
    again.sync()
    async with again.serving():
        await anyio.sleep(600)
        assert again.exporters() == [EXPORTER]
        assert (again.request(), again.secret()) == before
        assert again.api.count("PATCH", "") == 0


async def test_requests_that_swap_their_secrets_are_both_served_again() -> None:
    bench = ready()
    async with bench.serving():
        bench.ask("a", name="one")
        bench.ask("b", name="two")
        await anyio.sleep(1)
        bench.retarget("a", name="two")
        bench.retarget("b", name="one")
        await anyio.sleep(20)
        assert bench.conditions("a") == bench.conditions("b") == SERVED
        assert {each.target for each in bench.controller.statuses()} == {
            f"{NAMESPACE}/one", f"{NAMESPACE}/two"
        }  # fmt: skip


async def test_oldest_of_those_that_want_a_secret_gets_it_after_a_start() -> None:
    bench = Bench()
    bench.populate()
    bench.ask("b")
    await anyio.sleep(2)
    bench.ask("a")
    bench.sync()
    async with bench.serving():
        await anyio.sleep(2)
        assert bench.exporters() == ["secretrequest/b"]
        assert "kept by SecretRequest b" in bench.failure("a")["message"]


async def test_configured_exporter_is_never_joined_by_a_requests() -> None:
    bench = ready()
    async with bench.serving():
        bench.ask()
        await anyio.sleep(1)
        claimed = {SecretRef(NAMESPACE, SECRET): "mine"}
        assert bench.controller.configure(with_settings(), claimed) == [EXPORTER]
        await bench.manager.unregister(EXPORTER)
        await anyio.sleep(1)
        assert bench.exporters() == []
        assert "the configured exporter mine" in bench.failure()["message"]


async def test_clean_up_is_tried_until_it_succeeds_and_dropped_where_the_secret_is_wanted() -> None:
    bench = ready(cleanup="delete")
    async with bench.serving():
        bench.ask()
        await anyio.sleep(1)
        bench.api.fault = failing_to("DELETE")
        bench.remove()
        await anyio.sleep(120)
        secret = bench.secret()
        assert secret is not None
        assert "data" not in secret
        assert bench.api.count("DELETE", "/secrets/") > 3
        bench.api.fault = lambda _method, _path: None
        await anyio.sleep(301)
        assert bench.secret() is None
        bench.ask()
        await anyio.sleep(1)
        bench.api.fault = failing_to("GET")
        bench.remove()
        await anyio.sleep(0.5)
        bench.ask()
        bench.api.fault = lambda _method, _path: None
        await anyio.sleep(400)
        assert bench.secret() is not None


async def test_takeover_of_a_requests_secret_is_forced_three_times_in_ten_minutes_at_most() -> None:
    bench = ready(takeover=True)
    async with bench.serving():
        bench.ask()
        for number in range(25):
            await anyio.sleep(60)
            bench.write_as_rancher(number)
    forced = bench.api.forced_at_s
    assert len(forced) >= 6, "it doesn't give in for good"
    for begin in forced:
        assert sum(begin <= time < begin + 600 for time in forced) <= 3


async def test_rancher_that_writes_every_minute_is_left_alone_until_takeover_is_set() -> None:
    bench = ready()
    async with bench.serving():
        bench.ask()
        await anyio.sleep(30)
        bench.write_as_rancher(0)
        await anyio.sleep(2 * 60)
        assert bench.shown().state is RequestState.CONFLICT, "within two intervals"
        for number in range(15):
            bench.write_as_rancher(number + 1)
            await anyio.sleep(60)
        assert bench.api.forced_at_s == []
        assert "also written by rancher" in bench.shown().detail
        assert bench.conditions() == SERVED, "the request isn't written either"
        await anyio.sleep(4 * 3600)
        assert bench.api.forced_at_s == [], "nor once it is quiet"
        bench.controller.configure(with_settings(takeover=True), {})
        await anyio.sleep(60)
        assert len(bench.api.forced_at_s) == 1
        assert bench.conditions() == SERVED


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"secretType": 5}, "spec can't be read"),
        ({"secretType": "x" * 20_000}, "spec can't be read: it has 20"),
        ({"secretType": ""}, "secretType is missing"),
        ({"targetSecretRef": None}, "targetSecretRef is missing"),
        ({"targetSecretRef": {"namespace": "x"}}, "name is empty"),
        ({"targetSecretRef": {"name": "x"}}, "namespace is empty"),
        ({"targetSecretRef": {"name": "../x", "namespace": "a"}}, "DNS subdomain"),
        ({"targetSecretRef": {"name": "x", "namespace": "../../v1"}}, "DNS label"),
    ],
)
async def test_invalid_spec_takes_the_exporter_and_is_reported_until_fixed(
    change: dict[str, object], part: str
) -> None:
    bench = ready()
    async with bench.serving():
        bench.ask()
        await anyio.sleep(1)
        bench.edit(lambda obj: obj["spec"].update(change))
        await anyio.sleep(1)
        assert bench.conditions() == FAILED
        assert part in bench.failure()["message"]
        assert bench.failure()["reason"] == "Secret Request is in an invalid state"
        assert bench.exporters() == []
        assert bench.secret() is not None
        assert not any(".." in path for _, path in bench.api.calls)
        bench.edit(lambda obj: obj.update(spec={
            "secretType": "scc", "targetSecretRef": {"namespace": NAMESPACE, "name": SECRET}
        }))  # fmt: skip
        await anyio.sleep(1)
        assert bench.conditions() == SERVED
        assert all("reason" not in each for each in bench.status()["conditions"])


async def test_project_of_another_cluster_or_of_that_name_alone_is_no_system_project() -> None:
    bench = Bench()
    bench.put_namespace()
    bench.put_project(namespace="c-m-other")
    bench.put_project(just="a label")
    bench.ask()
    bench.sync()
    async with bench.serving():
        await anyio.sleep(1)
        assert bench.conditions() == {"Progressing": "True"}
        assert bench.shown().state is RequestState.WAITING
        bench.put_project()
        await anyio.sleep(1)
        assert bench.conditions() == SERVED


async def test_deletion_takes_the_exporter_and_leaves_every_finalizer() -> None:
    bench = ready()
    async with bench.serving():
        bench.ask()
        await anyio.sleep(1)
        bench.delete()
        before = bench.request()
        await anyio.sleep(200)
        assert bench.exporters() == []
        assert bench.request() == before
        assert bench.built == [EXPORTER]


async def test_two_hundred_terms_leave_no_listener_behind() -> None:
    bench = ready()
    stores = (bench.requests, bench.projects)
    async with running(bench.manager):
        for _ in range(200):
            async with bench.controlling():
                await anyio.sleep(0.001)
    for store in stores:
        called: list[str] = []
        store.on_change(lambda called=called: called.append("ours"))  # type: ignore[misc]
        # Only what this test added is called.
        assert len(store._listeners) == 1
        assert store._handlers == []
        store.set_error("a change")
        store.flush()
        assert called == ["ours"]


async def test_an_event_looks_at_no_other_project(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = ready()
    looked: list[str] = []
    async with bench.serving():
        bench.ask()
        await anyio.sleep(5)
        assert bench.conditions() == SERVED
        for number in range(1000):
            bench.projects.upsert(f"c-m-{number:04d}/p", ProjectRecord(str(number), system=True))
        bench.projects.flush()
        projects = bench.projects
        monkeypatch.setattr(projects, "keys", partial(looked.append, "keys"))
        monkeypatch.setattr(projects, "get", looked.append)
        bench.api.calls.clear()
        for number in range(100):
            bench.projects.upsert(f"c-m-{number:04d}/p", ProjectRecord(str(number), system=False))
            bench.projects.flush()
            bench.requests.set_error(f"event {number}")
            bench.requests.flush()
            await anyio.sleep(0.1)
        assert looked == []
        assert bench.api.count("PATCH", STATUS_PATH) == 0
    assert bench.conditions() == SERVED


async def test_system_project_that_comes_goes_and_changes_is_followed() -> None:
    bench = Bench()
    bench.put_namespace()
    bench.sync()
    async with bench.serving():
        bench.ask()
        await anyio.sleep(1)
        assert bench.shown().state is RequestState.WAITING
        bench.put_project("p-other", namespace="c-m-1")
        await anyio.sleep(1)
        assert bench.shown().state is RequestState.WAITING, "another cluster's"
        bench.put_project()
        await anyio.sleep(1)
        assert bench.shown().state is RequestState.SERVED
        bench.put_project(SYSTEM_PROJECT, no="label")
        await anyio.sleep(1)
        assert bench.shown().state is RequestState.WAITING
        bench.put_project()
        await anyio.sleep(1)
        assert bench.shown().state is RequestState.SERVED


async def test_request_that_is_made_again_shows_when_its_unchanged_secret_was_written() -> None:
    """The Secret stays when its request goes, and may not be written again for a day."""
    bench = ready()
    async with bench.serving():
        bench.ask()
        await anyio.sleep(30)
        first = bench.status()["lastSyncTS"]
        bench.remove()
        await anyio.sleep(30)
        assert bench.exporters() == []
        bench.api.calls.clear()
        bench.ask()
        await anyio.sleep(30)
        assert bench.conditions() == SERVED
        assert bench.status()["lastSyncTS"] == first
        assert bench.api.count("PATCH", f"/secrets/{SECRET}") == 0, "it is unchanged"
        writes = bench.api.count("PATCH", STATUS_PATH)
        await anyio.sleep(600)
        assert bench.api.count("PATCH", STATUS_PATH) == writes, "ten runs have no news"
