"""When the daemon reads Registrations, and what it makes of answers that are none."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from telemetryd.daemon.secretrequests import POLL_S, RegistrationReader
from telemetryd.errors import BadResponse, Forbidden, KubeError, Reason, Unauthorized, Unavailable
from telemetryd.gather.consumer import GROUP_PATH, PATH, Registrations
from telemetryd.model import SourceKind
from tests.apiserver.registrations import registration
from tests.gather.test_consumer import page
from tests.support.virtualtime import VirtualTimeLoop

pytestmark = pytest.mark.anyio

HOUR_S = 3600.0


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return ("asyncio", {"loop_factory": VirtualTimeLoop})


class Server:
    """An API server of which only Registrations are asked."""

    def __init__(self) -> None:
        self.answer: bytes | KubeError = page(registration())
        self.asked: list[str] = []

    async def request(self, method: str, path: str, **options: Any) -> bytes:
        assert method == "GET"
        self.asked.append(path)
        if path == GROUP_PATH:
            return b"{}"
        if isinstance(self.answer, KubeError):
            raise self.answer
        return self.answer


@asynccontextmanager
async def reading(
    server: Server, source: SourceKind | None = SourceKind.RANCHER
) -> AsyncIterator[RegistrationReader]:
    reader = RegistrationReader(
        server, source=lambda: source, now=anyio.current_time, rng=random.Random(1)
    )
    async with anyio.create_task_group() as group:
        group.start_soon(reader.run)
        await anyio.sleep(1)
        yield reader
        group.cancel_scope.cancel()
    assert reader.known is None, "nothing is held once it has ended"


def known(reader: RegistrationReader) -> Registrations:
    assert reader.known is not None
    return reader.known


async def test_registrations_are_read_at_once_and_seldom() -> None:
    server = Server()
    async with reading(server) as reader:
        assert server.asked == [GROUP_PATH, PATH]
        assert len(known(reader).found) == 1
        await anyio.sleep(HOUR_S)
        assert 2 * 10 <= len(server.asked) <= 2 * 16
        server.answer = page()
        await anyio.sleep(2 * POLL_S)
        assert known(reader).never


@pytest.mark.parametrize("source", [SourceKind.KUBERNETES, None])
async def test_nothing_is_asked_but_beside_a_rancher(source: SourceKind | None) -> None:
    server = Server()
    async with reading(server, source) as reader:
        await anyio.sleep(HOUR_S)
        assert (server.asked, reader.known) == ([], None)


@pytest.mark.parametrize(
    "error",
    [
        Forbidden("User cannot list\n\x1b[2J" + "x" * 5000, status=403),
        Unauthorized("who?", status=401),
        Unavailable("no answer", kind=Reason.TIMEOUT),
        BadResponse("not a list"),
        b"<html>",
        b"[" * 100_000,
    ],
)
async def test_failure_is_shown_beside_what_was_known_until_it_is_over(error: Any) -> None:
    server = Server()
    async with reading(server) as reader:
        before = known(reader)
        server.answer = error
        await anyio.sleep(3 * POLL_S)
        after = known(reader)
        assert after.error
        assert after.error.isprintable()
        assert len(after.error) <= 301
        assert (after.found, after.checked_at) == (before.found, before.checked_at)
        server.answer = page(registration())
        await anyio.sleep(2 * POLL_S)
        assert known(reader).error == ""


async def test_failure_from_the_start_says_nothing_of_registrations() -> None:
    server = Server()
    server.answer = Forbidden("no", status=403)
    async with reading(server) as reader:
        assert known(reader) == Registrations(served=None, error=known(reader).error)
        assert known(reader).error
