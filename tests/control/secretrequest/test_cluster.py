"""Requests that get in each other's way: thousands, rivals of scc-operator's, forged projects."""

import itertools

import anyio
import pytest

from telemetryd.control.secretrequest import cluster
from telemetryd.control.secretrequest.status import LINES_AT_ONCE
from telemetryd.errors import Reason, Unavailable
from telemetryd.model import RequestState
from tests.apiserver.double.resources import JsonObject
from tests.control.secretrequest.bench import EXPORTER, Bench, with_settings
from tests.support.virtualtime import VirtualTimeLoop
from tests.system.scc import NAMESPACE, REQUEST, SECRET, SYSTEM_PROJECT

pytestmark = pytest.mark.anyio

SERVED = {"Progressing": "False", "Done": "True"}
FAILED = {**SERVED, "Failure": "True"}
RIVAL = "a-rival"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "asyncio", {"loop_factory": VirtualTimeLoop}


def ready(**settings: object) -> Bench:
    bench = Bench(with_settings(**settings))
    bench.populate()
    bench.sync()
    return bench


def crowd(bench: Bench, number: int, *, valid: bool = False) -> None:
    """So many requests: each for a Secret of its own, or for a namespace that doesn't exist."""
    bench.tell, tell = (lambda: None), bench.tell  # type: ignore[method-assign]
    for each in range(number):
        target = {"name": f"s-{each}"} if valid else {"namespace": f"n-{each}"}
        bench.ask(f"a-{each:04d}", **target)
    bench.tell = tell  # type: ignore[method-assign]
    bench.tell()


async def test_operators_request_takes_its_secret_from_an_earlier_one() -> None:
    bench = ready(cleanup="delete")
    async with bench.serving():
        bench.ask(RIVAL)
        await anyio.sleep(2)
        assert bench.exporters() == [f"secretrequest/{RIVAL}"]
        bench.ask()
        await anyio.sleep(2)
        assert bench.exporters() == [EXPORTER]
        assert bench.conditions() == SERVED
        assert bench.conditions(RIVAL) == FAILED
        assert f"kept by SecretRequest {REQUEST}" in bench.failure(RIVAL)["message"]
        bench.remove(RIVAL)
        await anyio.sleep(600)
        assert bench.secret() is not None, "it isn't cleaned up under the operator"
        assert bench.conditions() == SERVED


async def test_operators_request_comes_first_after_a_start_however_young_it_is() -> None:
    bench = Bench()
    bench.populate()
    bench.ask(RIVAL)
    await anyio.sleep(2)
    bench.ask()
    bench.sync()
    async with bench.serving():
        await anyio.sleep(2)
        assert bench.exporters() == [EXPORTER]
        assert bench.built == [EXPORTER]


async def test_request_of_the_operators_name_for_another_secret_has_no_precedence() -> None:
    bench = ready()
    async with bench.serving():
        bench.ask(RIVAL, name="other")
        await anyio.sleep(2)
        bench.ask(name="other")
        await anyio.sleep(2)
        assert bench.exporters() == [f"secretrequest/{RIVAL}"]
        assert bench.conditions() == FAILED


async def test_only_the_oldest_project_with_the_mark_counts_and_others_are_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench()
    bench.populate()
    await anyio.sleep(2)
    bench.put_project("p-aaaaa")
    bench.put_namespace("theirs", project="p-aaaaa")
    bench.ask()
    bench.ask("b", namespace="theirs")
    bench.sync()
    async with bench.serving():
        await anyio.sleep(2)
        assert bench.conditions() == SERVED
        assert bench.conditions("b") == FAILED
        assert "is newer than it" in bench.failure("b")["message"]
        assert bench.failure("b")["message"].endswith(f"must be {SYSTEM_PROJECT}")
        bench.put_project("p-aaaab")
        await anyio.sleep(2)
        assert bench.secret(namespace="theirs") is None
    begin = "several projects are marked as the System project used=p-abcde ignored="
    said = [each.message for each in caplog.records if each.message.startswith("several")]
    assert said == [f"{begin}1", f"{begin}2"]


async def test_crowd_fills_no_log_neither_when_it_comes_nor_when_it_goes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = ready()
    caplog.set_level("INFO")
    async with bench.serving():
        crowd(bench, 130)
        await anyio.sleep(70)
        came = one_by_one_and_counted(caplog)
        caplog.clear()
        for each in range(130):
            bench.remove(f"a-{each:04d}")
        await anyio.sleep(70)
        went = one_by_one_and_counted(caplog)
    assert LINES_AT_ONCE <= came[0] < 120
    assert sum(came) == 130
    assert went[0] < 100
    assert sum(went) == 130


async def test_crowd_whose_statuses_cannot_be_written_fills_no_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = ready()
    down = Unavailable("refused", kind=Reason.CONNECT)
    bench.api.fault = lambda method, _path: down if method == "PATCH" else None
    async with bench.serving():
        crowd(bench, 130)
        await anyio.sleep(70)
    alone, counted = one_by_one_and_counted(caplog)
    assert alone < 120
    assert alone + counted > 130


def one_by_one_and_counted(caplog: pytest.LogCaptureFixture) -> tuple[int, int]:
    """Lines about one request each, and the number of those left out."""
    lines = [each.message for each in caplog.records]
    left_out = [line.partition("count=")[2] for line in lines if "left out" in line]
    alone = sum("name=a-" in line for line in lines)
    return alone, sum(map(int, left_out))


async def test_projects_that_take_and_lose_the_mark_fill_no_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = ready()
    async with bench.serving():
        for number in range(300):
            bench.put_project(f"p-b{number:04d}")
            await anyio.sleep(0.01)
    said = [each.message for each in caplog.records if each.message.startswith("several")]
    assert len(said) == LINES_AT_ONCE


async def test_deleted_request_that_was_never_served_cleans_nothing_up() -> None:
    """Its author makes it with a finalizer and deletes it before anybody has seen it."""
    first = ready()
    async with first.serving():
        first.ask()
        await anyio.sleep(2)
        first.remove()
        await anyio.sleep(1)
    again = Bench(with_settings(cleanup="delete"))
    again.api.store, again.api.writer = first.api.store, first.api.writer
    before = again.secret()
    assert before is not None
    again.ask(RIVAL)
    again.delete(RIVAL)
    again.sync()
    async with again.serving():
        await anyio.sleep(5)
        again.remove(RIVAL)
        await anyio.sleep(60)
    assert again.secret() == before
    assert again.api.count("GET", "/secrets/") == 0


async def test_request_that_was_served_before_a_restart_is_cleaned_up_in_its_namespace_alone() -> (
    None
):
    for project, kept in ((SYSTEM_PROJECT, False), ("p-other", True)):
        first = ready()
        async with first.serving():
            first.ask()
            await anyio.sleep(2)
        first.put_namespace(project=project)
        again = Bench(with_settings(cleanup="delete"))
        again.api.store, again.api.writer = first.api.store, first.api.writer
        again.delete()
        again.sync()
        async with again.serving():
            await anyio.sleep(5)
            again.remove()
            await anyio.sleep(60)
        assert (again.secret() is not None) is kept


async def test_limit_of_requests_is_reported_and_leaves_the_operators_out() -> None:
    bench = ready()
    async with bench.serving():
        crowd(bench, cluster.MAX_SERVED + 6, valid=True)
        await anyio.sleep(120)
        assert len(bench.exporters()) == cluster.MAX_SERVED
        waiting = [each for each in bench.controller.statuses() if each.state == "waiting"]
        assert len(waiting) == 6
        assert {each.detail for each in waiting} == {cluster.TOO_MANY}
        last = f"a-{cluster.MAX_SERVED + 5:04d}"
        assert bench.conditions(last) == {"Progressing": "True"}
        bench.ask()
        await anyio.sleep(2)
        assert bench.conditions() == SERVED
        bench.remove("a-0000")
        await anyio.sleep(60)
        assert len(bench.exporters()) == cluster.MAX_SERVED + 1


@pytest.mark.parametrize(
    "number",
    [
        150,
        pytest.param(500, marks=pytest.mark.long),
        pytest.param(1000, marks=pytest.mark.slow),
    ],
)
async def test_hundreds_of_requests_cost_a_bounded_number_and_hold_up_no_one(number: int) -> None:
    bench = ready()
    async with bench.serving():
        crowd(bench, number)
        await anyio.sleep(20)
        before = len(bench.api.calls)
        bench.ask()
        bench.ask("z-valid", name="other")
        await anyio.sleep(4)
        assert bench.conditions() == SERVED
        mine = [path for _, path in bench.api.calls[before:]]
        done = next(place for place, path in enumerate(mine) if path.endswith(f"{REQUEST}/status"))
        assert done <= 3 * cluster.PASS_COST
        assert bench.shown("z-valid").state is RequestState.SERVED
        for _ in range(3):
            before = len(bench.api.calls)
            await anyio.sleep(60)
            assert len(bench.api.calls) - before <= 60 * cluster.RATE + cluster.BURST + 10


async def test_rejected_requests_are_looked_at_more_and_more_seldom() -> None:
    bench = ready()
    async with bench.serving():
        crowd(bench, 20)
        await anyio.sleep(3600)
        bench.api.calls.clear()
        await anyio.sleep(3600)
        assert bench.api.count("GET", "/namespaces/") <= 20 * 7
        bench.put_namespace("n-3")
        await anyio.sleep(601)
        assert bench.conditions("a-0003") == SERVED


async def test_secret_given_up_in_a_crowd_is_cleaned_up_once_the_next_has_its_turn() -> None:
    bench = ready(cleanup="delete")
    async with bench.serving():
        bench.ask(RIVAL, name="given-up")
        await anyio.sleep(2)
        assert bench.secret("given-up") is not None
        crowd(bench, 100)
        await anyio.sleep(1)
        bench.retarget(RIVAL, name="next")
        await anyio.sleep(60)
        assert bench.secret("next") is not None
        assert bench.secret("given-up") is None


async def test_request_that_changes_all_the_time_costs_a_bounded_number_of_requests() -> None:
    bench = ready(cleanup="delete")
    async with bench.serving():
        turn = itertools.count()

        def other(obj: JsonObject) -> None:
            obj["spec"]["targetSecretRef"]["name"] = f"s-{next(turn)}"

        bench.ask(RIVAL)
        await anyio.sleep(60)
        before = len(bench.api.calls)
        for _ in range(600):
            await anyio.sleep(0.1)
            bench.edit(other, RIVAL)
        assert len(bench.api.calls) - before <= 60 * cluster.RATE + cluster.BURST + 10
        bench.ask()
        await anyio.sleep(2)
        assert bench.conditions() == SERVED
        assert bench.secret(SECRET, NAMESPACE) is not None
