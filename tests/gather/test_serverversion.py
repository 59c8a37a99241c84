"""The API server's version: asked at once, after trouble and slowly, the last good one kept."""

import random
from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from telemetryd.config import IdentityConfig
from telemetryd.errors import KubeError, Reason, Unavailable
from telemetryd.gather.plain import ServerVersion, VersionTiming
from telemetryd.kube.requests import Fence
from telemetryd.model import NodeRecord
from tests.gather.readers import FilledStore
from tests.support.virtualtime import VirtualTimeLoop

pytestmark = pytest.mark.anyio

GOOD = b'{"major":"1","minor":"33","gitVersion":"v1.33.4","gitCommit":"a3e5a7cc"}'
NEWER = b'{"gitVersion":"v1.34.0","gitCommit":"0123abc"}'
DOWN = Unavailable("refused", kind=Reason.CONNECT)
TIMING = VersionTiming(refresh_s=100, retry_base_s=1, retry_cap_s=8)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return ("asyncio", {"loop_factory": VirtualTimeLoop})


class Bench:
    """An API server that gives these answers, the last one for ever."""

    def __init__(self, *answers: bytes | KubeError, git_hash: str | None = None) -> None:
        self.answers = list(answers)
        self.asked_at: list[float] = []
        self.nodes = FilledStore[NodeRecord]("nodes")
        self.changes = 0
        self.version = ServerVersion(
            self,
            nodes=self.nodes,
            overrides=IdentityConfig(git_hash=git_hash),
            rng=random.Random(1),
            timing=TIMING,
        )
        self.version.on_change(self._changed)

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
        assert (method, path) == ("GET", "/version")
        self.asked_at.append(anyio.current_time())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, KubeError):
            raise answer
        return answer

    def _changed(self) -> None:
        self.changes += 1

    async def run_for(self, seconds: float, *, trouble_at_s: float | None = None) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self.version.run)
            if trouble_at_s is not None:
                await anyio.sleep(trouble_at_s)
                for error in ("refused", "refused again", ""):
                    self.nodes.set_error(error)
                    self.nodes.flush()
                    await anyio.sleep(1)
                seconds -= trouble_at_s + 3
            await anyio.sleep(seconds)
            group.cancel_scope.cancel()


async def test_version_and_commit_are_known_at_once_and_reported_once() -> None:
    bench = Bench(GOOD)
    assert (bench.version.version, bench.version.git_hash()) == (None, None)
    await bench.run_for(1000)
    assert (bench.version.version, bench.version.git_hash()) == ("v1.33.4", "a3e5a7cc")
    assert bench.changes == 1
    assert 10 <= len(bench.asked_at) <= 14


async def test_upgrade_is_noticed() -> None:
    bench = Bench(GOOD, NEWER)
    await bench.run_for(150)
    assert (bench.version.version, bench.version.git_hash()) == ("v1.34.0", "0123abc")
    assert bench.changes == 2


@pytest.mark.parametrize(
    "bad", [DOWN, b"<html>", b"[]", b'{"gitVersion":""}', b'{"gitVersion":7}', b"{}", b"[" * 10_000]
)
async def test_bad_answers_are_retried_and_change_nothing(bad: bytes | KubeError) -> None:
    bench = Bench(bad, bad, GOOD, bad)
    await bench.run_for(10)
    assert bench.version.version == "v1.33.4"
    await bench.run_for(500)
    assert (bench.version.version, bench.version.git_hash()) == ("v1.33.4", "a3e5a7cc")
    assert bench.changes == 1


async def test_retries_come_less_and_less_often() -> None:
    bench = Bench(DOWN)
    await bench.run_for(1000)
    assert 1000 / 8 <= len(bench.asked_at) <= 1000 / 6 + 5


async def test_it_is_asked_again_after_each_loss_of_contact() -> None:
    bench = Bench(GOOD, NEWER)
    await bench.run_for(30, trouble_at_s=10)
    assert bench.asked_at == [0.0, 12.0]
    assert bench.version.version == "v1.34.0"


@pytest.mark.parametrize("commit", [b"null", b'""', b'"a b"', b'"' + b"a" * 129 + b'"'])
async def test_answer_without_a_usable_commit_has_an_unknown_one(commit: bytes) -> None:
    bench = Bench(b'{"gitVersion":"v1.33.4","gitCommit":' + commit + b"}")
    await bench.run_for(1)
    assert (bench.version.version, bench.version.git_hash()) == ("v1.33.4", "unknown")


async def test_texts_of_no_known_form_are_other_and_nothing_logs_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    bench = Bench(b'{"gitVersion":"v1.33.4-acme","gitCommit":"acme"}')
    await bench.run_for(1)
    assert (bench.version.version, bench.version.git_hash()) == ("other", "other")
    assert "acme" not in caplog.text


async def test_override_of_the_commit_needs_no_answer() -> None:
    bench = Bench(DOWN, git_hash="mine")
    assert bench.version.git_hash() == "mine"
    bench.version.override(IdentityConfig())
    assert bench.version.git_hash() is None
    assert bench.changes == 1
