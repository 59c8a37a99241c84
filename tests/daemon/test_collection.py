"""Which source there is: when an answer is believed, and what never says anything."""

import json
import random
from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from telemetryd.daemon.collection import FinderTiming, SourceFinder
from telemetryd.errors import Forbidden, KubeError, NotFound, Reason, Unavailable
from telemetryd.kube.requests import Fence
from telemetryd.model import SourceKind
from tests.support.virtualtime import VirtualTimeLoop

pytestmark = pytest.mark.anyio

RANCHER, KUBERNETES = SourceKind.RANCHER, SourceKind.KUBERNETES
TIMING = FinderTiming(poll_s=100, confirm_s=3, confirmations=3, retry_s=2)
DOWN = Unavailable("refused", kind=Reason.CONNECT)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return ("asyncio", {"loop_factory": VirtualTimeLoop})


def groups(*names: str, version: str = "v3", kind: str = "APIGroupList") -> bytes:
    listed = [{"name": name, "versions": [{"version": version}]} for name in names]
    return json.dumps({"kind": kind, "groups": listed}).encode()


THERE = groups("apps", "management.cattle.io")
GONE = groups("apps")


class Discovery:
    """An API server of which only the list of groups is asked; the last answer repeats."""

    def __init__(self, *answers: bytes | KubeError) -> None:
        self.answers = list(answers)
        self.asked_at: list[float] = []

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str | None = None,
        timeout_s: float,
        max_bytes: int = 0,
        fence: Fence | None = None,
    ) -> bytes:
        assert (method, path) == ("GET", "/apis")
        self.asked_at.append(anyio.current_time())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, KubeError):
            raise answer
        return answer


class Bench:
    """A finder and the moments at which it found something else."""

    def __init__(self, *answers: bytes | KubeError) -> None:
        self.discovery = Discovery(*answers)
        self.changes: list[tuple[float, SourceKind | None]] = []
        self.finder = SourceFinder(
            self.discovery, rng=random.Random(1), changed=self._changed, timing=TIMING
        )

    def _changed(self) -> None:
        self.changes.append((anyio.current_time(), self.finder.found))

    async def run_for(self, seconds: float, *, look_at_s: tuple[float, ...] = ()) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self.finder.run)
            for at_s in look_at_s:
                group.start_soon(self._look, at_s)
            await anyio.sleep(seconds)
            group.cancel_scope.cancel()

    async def _look(self, at_s: float) -> None:
        await anyio.sleep(at_s)
        self.finder.look()


async def test_rancher_is_believed_at_once() -> None:
    bench = Bench(THERE)
    await bench.run_for(50)
    assert bench.changes == [(0.0, RANCHER)]
    assert len(bench.discovery.asked_at) == 1


async def test_absence_is_believed_after_three_looks() -> None:
    bench = Bench(GONE)
    await bench.run_for(50)
    assert bench.changes == [(6.0, KUBERNETES)]


@pytest.mark.parametrize(
    "answer",
    [
        groups("management.cattle.io", version="v2"),
        groups("project.cattle.io"),
        json.dumps({"kind": "APIGroupList", "groups": None}).encode(),
    ],
)
async def test_another_group_or_version_is_no_rancher(answer: bytes) -> None:
    bench = Bench(answer)
    await bench.run_for(50)
    assert bench.changes == [(6.0, KUBERNETES)]


@pytest.mark.parametrize(
    "answer",
    [
        DOWN,
        Forbidden("no", status=403),
        NotFound("no", status=404),
        b"<html>",
        groups(kind="Status"),
    ],
)
async def test_answer_that_tells_nothing_finds_nothing_and_is_named(
    answer: bytes | KubeError,
) -> None:
    bench = Bench(answer)
    await bench.run_for(50)
    assert bench.finder.found is None
    assert bench.changes == []
    assert bench.finder.error
    assert len(bench.discovery.asked_at) == 25, "while nothing is known it is asked often"


async def test_api_server_that_does_not_know_its_crds_yet_is_not_believed() -> None:
    bench = Bench(DOWN, GONE, GONE, THERE)
    await bench.run_for(50)
    assert [source for _, source in bench.changes] == [RANCHER]


async def test_error_between_absences_begins_the_count_again() -> None:
    bench = Bench(GONE, GONE, DOWN, GONE, GONE, THERE)
    await bench.run_for(50)
    assert [source for _, source in bench.changes] == [RANCHER]


async def test_errors_never_change_what_is_known() -> None:
    for answer in (THERE, GONE):
        bench = Bench(answer, answer, answer, DOWN)
        await bench.run_for(1000)
        assert len(bench.changes) == 1
        assert bench.finder.error


async def test_rancher_that_comes_is_noticed_by_the_next_poll() -> None:
    bench = Bench(GONE, GONE, GONE, THERE)
    await bench.run_for(200)
    (_, first), (moved_at_s, second) = bench.changes
    assert (first, second) == (KUBERNETES, RANCHER)
    assert 80 <= moved_at_s - 6 <= 120


async def test_loss_that_informers_report_is_looked_at_at_once_and_confirmed_in_time() -> None:
    bench = Bench(THERE, GONE)
    await bench.run_for(60, look_at_s=(20.0, 20.1, 20.2, 24.0))
    assert bench.changes == [(0.0, RANCHER), (26.0, KUBERNETES)]


async def test_loss_that_informers_report_and_discovery_denies_changes_nothing() -> None:
    bench = Bench(THERE)
    await bench.run_for(60, look_at_s=(20.0, 21.0))
    assert bench.changes == [(0.0, RANCHER)]
    assert bench.discovery.asked_at == [0.0, 20.0, 21.0]


async def test_rancher_that_comes_and_goes_again_is_followed_each_time() -> None:
    bench = Bench(THERE, GONE, GONE, GONE, THERE, GONE, GONE, GONE)
    await bench.run_for(1000)
    assert [source for _, source in bench.changes] == [RANCHER, KUBERNETES, RANCHER, KUBERNETES]


async def test_find_waits_for_the_first_certain_answer() -> None:
    assert await Bench(DOWN, DOWN, THERE).finder.find() is RANCHER
    assert anyio.current_time() == 4
    assert await Bench(DOWN, GONE).finder.find() is KUBERNETES
    assert anyio.current_time() == 4 + 2 + 6
