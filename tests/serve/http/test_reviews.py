"""Reviews on virtual time: what is asked, shared and kept for how long, what lets nobody in."""

import itertools
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

from telemetryd.errors import KubeError, Reason, Throttled, Unavailable
from telemetryd.kube.requests import Fence
from telemetryd.serve.http.reviews import (
    ALLOWED_S,
    BURST,
    DENIED_S,
    MOST_KEPT,
    MOST_REVIEWS,
    REVIEW_S,
    REVIEWS_PER_S,
    TURN_S,
    Review,
    Reviews,
)
from tests.support.virtualtime import VirtualTimeLoop

pytestmark = pytest.mark.anyio

USER = "system:serviceaccount:monitoring:prometheus"
TOKEN_REVIEW = {"status": {"authenticated": True, "user": {"username": USER}}}


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualTimeLoop}


@dataclass
class ApiServer:
    """Says of every token whose it is, and what that user may see."""

    tokens: dict[str, dict[str, Any]] = field(default_factory=lambda: {"good": {"username": USER}})
    paths: set[str] = field(default_factory=lambda: {"/metrics"})
    takes_s: float = 0.0
    error: KubeError | None = None
    answers: list[bytes] = field(default_factory=list)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

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
        assert method == "POST"
        assert body is not None
        kind = path.rpartition("/")[2]
        document = json.loads(body)
        assert document["kind"].lower() + "s" == kind
        assert path == f"/apis/{document['apiVersion']}/{kind}"
        self.asked.append((kind, document["spec"]))
        with anyio.fail_after(timeout_s):
            await anyio.sleep(self.takes_s)
        if self.error is not None:
            raise self.error
        if self.answers:
            return self.answers.pop(0)
        status = self._whose(document["spec"]) if kind == "tokenreviews" else self._may(document)
        return json.dumps({**document, "status": status}).encode()

    def _whose(self, spec: dict[str, Any]) -> dict[str, Any]:
        user = self.tokens.get(spec["token"])
        return {"authenticated": True, "user": user} if user else {"error": "not a valid token"}

    def _may(self, document: dict[str, Any]) -> dict[str, Any]:
        asked = document["spec"]["nonResourceAttributes"]
        return {"allowed": asked["path"] in self.paths and asked["verb"] == "get"}

    def count(self, kind: str = "tokenreviews") -> int:
        return sum(each == kind for each, _ in self.asked)


async def test_everything_known_of_a_user_is_asked_about() -> None:
    user = {"username": USER, "uid": "7", "groups": ["a", "b"], "extra": {"x/y": ["1", "2"]}}
    server = ApiServer(tokens={"good": user})
    review = await Reviews(server).judge("good", "/metrics")
    assert review == Review(allowed=True, user=USER)
    assert server.asked == [
        ("tokenreviews", {"token": "good"}),
        (
            "subjectaccessreviews",
            {
                "user": USER,
                "uid": "7",
                "groups": ["a", "b"],
                "extra": {"x/y": ["1", "2"]},
                "nonResourceAttributes": {"path": "/metrics", "verb": "get"},
            },
        ),
    ]


async def test_token_of_no_one_and_path_that_is_denied_are_distinguished() -> None:
    server = ApiServer()
    reviews = Reviews(server)
    assert await reviews.judge("bad", "/metrics") == Review(allowed=False)
    assert server.count("subjectaccessreviews") == 0
    assert await reviews.judge("good", "/status.json") == Review(allowed=False, user=USER)
    assert (await reviews.judge("good", "/metrics")).allowed


async def test_explicit_denial_counts_more_than_an_allowance() -> None:
    both = b'{"status": {"allowed": true, "denied": true}}'
    server = ApiServer(answers=[json.dumps(TOKEN_REVIEW).encode(), both])
    assert not (await Reviews(server).judge("good", "/metrics")).allowed


async def test_reviews_are_kept_for_a_moment_and_then_asked_for_again() -> None:
    server = ApiServer()
    reviews = Reviews(server)
    for token, kept_s in (("good", ALLOWED_S), ("bad", DENIED_S)):
        server.asked.clear()
        await reviews.judge(token, "/metrics")
        await anyio.sleep(kept_s - 0.1)
        await reviews.judge(token, "/metrics")
        assert server.count() == 1
        await anyio.sleep(0.2)
        await reviews.judge(token, "/metrics")
        assert server.count() == 2


async def test_right_that_is_granted_or_withdrawn_is_seen_once_the_review_is_old() -> None:
    server = ApiServer(paths=set())
    reviews = Reviews(server)
    assert not (await reviews.judge("good", "/metrics")).allowed
    server.paths.add("/metrics")
    await anyio.sleep(DENIED_S + 0.1)
    assert (await reviews.judge("good", "/metrics")).allowed
    server.paths.clear()
    await anyio.sleep(ALLOWED_S + 0.1)
    assert not (await reviews.judge("good", "/metrics")).allowed


async def test_requests_at_one_time_share_one_review() -> None:
    server = ApiServer(takes_s=1)
    reviews = Reviews(server)
    reviewed = []

    async def ask() -> None:
        reviewed.append(await reviews.judge("good", "/metrics"))

    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(ask)
    assert reviewed == [Review(allowed=True, user=USER)] * 50
    assert (server.count(), server.count("subjectaccessreviews")) == (1, 1)


async def test_errors_reach_all_who_wait_and_are_not_kept() -> None:
    server = ApiServer(takes_s=1, error=Unavailable("down", kind=Reason.CONNECT))
    reviews = Reviews(server)
    failed = []

    async def ask() -> None:
        with pytest.raises(Unavailable):
            await reviews.judge("good", "/metrics")
        failed.append(1)

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(ask)
    assert (len(failed), server.count()) == (3, 1)
    server.error = None
    assert (await reviews.judge("good", "/metrics")).allowed


async def test_api_server_that_does_not_answer_is_waited_for_no_longer_than_its_deadline() -> None:
    reviews = Reviews(ApiServer(takes_s=REVIEW_S * 0.6))  # each in time, both together not
    started_s = anyio.current_time()
    with pytest.raises(Unavailable):
        await reviews.judge("good", "/metrics")
    assert anyio.current_time() - started_s == pytest.approx(REVIEW_S)


async def test_caller_that_hangs_up_leaves_the_review_to_the_next_one() -> None:
    server = ApiServer(takes_s=1)
    reviews = Reviews(server)
    outcomes: list[Review] = []

    async def ask(scope: anyio.CancelScope) -> None:
        with scope:
            outcomes.append(await reviews.judge("good", "/metrics"))

    async with anyio.create_task_group() as group:
        scopes = [anyio.CancelScope() for _ in range(5)]
        for scope in scopes:
            group.start_soon(ask, scope)
            await anyio.sleep(0.1)
        scopes[0].cancel()  # it asks
        scopes[2].cancel()  # it waits
    assert outcomes == [Review(allowed=True, user=USER)] * 3
    assert (server.count(), server.count("subjectaccessreviews")) == (2, 1)


async def test_review_whose_every_caller_hangs_up_is_forgotten() -> None:
    reviews = Reviews(ApiServer(takes_s=1))
    for _ in range(20):  # more than may be under way
        with anyio.move_on_after(0.1):
            await reviews.judge("good", "/metrics")
    assert (await reviews.judge("good", "/metrics")).allowed


@pytest.mark.parametrize(
    "answer",
    [b"{}", b"null", b"[]", b'{"status": {"authenticated": "yes"}}', b"\xff", b'{"status": null}'],
)
async def test_answer_that_is_no_review_lets_no_one_in(answer: bytes) -> None:
    reviews = Reviews(ApiServer(answers=[answer]))
    with pytest.raises(KubeError):
        await reviews.judge("good", "/metrics")


async def test_user_without_a_name_is_no_one() -> None:
    server = ApiServer(answers=[b'{"status": {"authenticated": true}}'])
    assert await Reviews(server).judge("good", "/metrics") == Review(allowed=False)


@dataclass
class Flood:
    """Clients that send one made-up token after the other."""

    reviews: Reviews
    clients: int = 127
    peer: str = "attacker"
    sent: int = 0
    refused: int = 0

    async def _send(self, name: int) -> None:
        for number in itertools.count():
            self.sent += 1
            try:
                await self.reviews.judge(f"made-up-{name}-{number}", "/metrics", self.peer)
            except Throttled:
                self.refused += 1

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:
            for name in range(self.clients):
                group.start_soon(self._send, name)
            await anyio.sleep(10)
            yield
            group.cancel_scope.cancel()


async def test_flood_of_made_up_tokens_costs_a_bounded_number_of_reviews() -> None:
    server = ApiServer()
    flood = Flood(Reviews(server))
    async with flood.going_on():
        await anyio.sleep(50)
        assert server.count() <= BURST + REVIEWS_PER_S * 60 + 1
        assert server.count() >= REVIEWS_PER_S * 60 - 1, "and all turns are used"
        assert flood.refused > 100


async def test_slow_api_server_gets_few_reviews_of_a_flood_at_a_time() -> None:
    server = ApiServer(takes_s=1)
    async with Flood(Reviews(server)).going_on():
        assert server.count() <= MOST_REVIEWS * 11


async def test_token_that_was_good_is_reviewed_at_once_in_a_flood() -> None:
    server = ApiServer()
    reviews = Reviews(server)
    assert (await reviews.judge("good", "/metrics")).allowed
    await anyio.sleep(ALLOWED_S + 1)
    async with Flood(reviews).going_on():
        started_s = anyio.current_time()
        assert (await reviews.judge("good", "/metrics", "attacker")).allowed
        assert anyio.current_time() == started_s


async def test_new_token_of_another_address_is_reviewed_within_two_turns_in_a_flood() -> None:
    server = ApiServer()
    reviews = Reviews(server)
    async with Flood(reviews).going_on():
        started_s = anyio.current_time()
        assert (await reviews.judge("good", "/metrics", "prometheus")).allowed
        assert anyio.current_time() - started_s <= 3 / REVIEWS_PER_S


@pytest.mark.parametrize("number", [12, pytest.param(40, marks=pytest.mark.long)])
async def test_new_tokens_of_the_address_of_a_flood_get_in_within_a_few_scrapes(
    number: int,
) -> None:
    names = [f"good-{each}" for each in range(number)]
    server = ApiServer(tokens={name: {"username": USER} for name in names})
    reviews = Reviews(server)
    scrapes: list[int] = []

    async def gets_in(name: str) -> bool:
        with suppress(Throttled):
            return (await reviews.judge(name, "/metrics", "attacker")).allowed
        return False

    async with Flood(reviews).going_on():
        for name in names:
            scrapes.append(1)
            while not await gets_in(name):
                scrapes[-1] += 1
    assert scrapes.count(1) >= len(names) / 4
    assert max(scrapes) <= 15
    assert sum(scrapes) / len(scrapes) <= 4


async def test_refused_token_is_refused_for_every_path_without_another_review() -> None:
    server = ApiServer()
    reviews = Reviews(server)
    for number in range(100):
        assert not (await reviews.judge("bad", f"/{number}")).allowed
    assert server.count() == 1


async def test_no_more_reviews_than_the_limit_are_kept_and_none_displaces_those_who_may() -> None:
    server = ApiServer()
    reviews = Reviews(server, allowed_s=1000, denied_s=1000)
    await reviews.judge("good", "/metrics")
    for number in range(MOST_KEPT + 1):
        await reviews.judge(f"bad-{number}", "/metrics")
    server.asked.clear()
    await reviews.judge("good", "/metrics")
    await reviews.judge(f"bad-{MOST_KEPT}", "/metrics")
    assert server.count() == 0
    await reviews.judge("bad-0", "/metrics")
    assert server.count() == 1


async def test_trouble_is_logged_once_and_without_the_token(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    server = ApiServer(error=Unavailable("400 the token s3cret-token is bad", kind=Reason.SERVER))
    reviews = Reviews(server)
    for _ in range(3):
        with pytest.raises(Unavailable):
            await reviews.judge("s3cret-token", "/metrics")
    assert [record.levelname for record in caplog.records] == ["WARNING", "DEBUG", "DEBUG"]
    assert "the token [redacted] is bad" in caplog.text
    assert "s3cret-token" not in caplog.text


def test_documented_numbers_are_those_of_the_code() -> None:
    text = " ".join((Path(__file__).parents[3] / "docs" / "security.md").read_text().split())
    assert f"{REVIEWS_PER_S:g} reviews a second in total after a burst of {BURST}," in text
    assert f"at most {MOST_REVIEWS} are under way" in text
    assert f"no turn within {TURN_S:g} s is answered 503" in text
    turns = REVIEWS_PER_S * TURN_S
    once = 1 - (127 / 128) ** turns
    assert round(once, 1) == 0.6
    assert 1 - (1 - once) ** 5 > 0.99
    assert "about 60 % at each attempt, 99 % within five" in text
