"""Sizes of pages: smaller where objects are large, for later lists too, never a whole list."""

from collections.abc import Mapping
from typing import Any

import pytest

from telemetryd.errors import TooLarge
from telemetryd.gather.requests import SECRET_REQUESTS
from telemetryd.informer.source import MAX_FULL_LIST_BYTES, MAX_PAGE_BYTES, KubeSource

pytestmark = pytest.mark.anyio


class Objects:
    """An API server whose objects have that size; it notes how many were asked for."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.asked: list[str | None] = []
        self.most_bytes: list[int] = []

    async def request(
        self,
        _method: str,
        _path: str,
        *,
        params: Mapping[str, str] | None = None,
        max_bytes: int = 0,
        **_more: Any,
    ) -> bytes:
        """As of ``KubeClient``."""
        limit = (params or {}).get("limit")
        self.asked.append(limit)
        self.most_bytes.append(max_bytes)
        if int(limit or 3000) * self.size > max_bytes:
            raise TooLarge("too large", status=200)
        return b"{}"


def source_of(server: Any) -> KubeSource:
    return KubeSource(server, SECRET_REQUESTS)


async def ask(source: KubeSource, limit: int | None, token: str = "") -> bytes:
    return await source.list_page(limit=limit, continue_token=token, timeout_s=1)


async def test_next_list_begins_with_twice_the_pages_that_fitted() -> None:
    server = Objects(2**20)
    source = source_of(server)
    await ask(source, 500)
    await ask(source, 500, "next")
    assert server.asked == ["500", "250", "125", "62", "31", "15", "7", "7"]
    server.asked.clear()
    await ask(source, 500)
    assert server.asked == ["14", "7"]
    server.size = 1000
    server.asked.clear()
    for _ in range(8):
        await ask(source, 500)
    assert server.asked == ["14", "28", "56", "112", "224", "448", "500", "500"]


async def test_large_objects_are_never_listed_as_one() -> None:
    server = Objects(2**20)
    source = source_of(server)
    await ask(source, 500)
    with pytest.raises(TooLarge):
        await ask(source, None)
    assert max(server.most_bytes) == MAX_PAGE_BYTES


async def test_small_objects_may_be_listed_as_one() -> None:
    server = Objects(10)
    await ask(source_of(server), None)
    assert server.most_bytes == [MAX_FULL_LIST_BYTES]
