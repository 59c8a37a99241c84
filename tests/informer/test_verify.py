"""A store held against a server on a real socket: equal, different, and changing meanwhile."""

import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from aiohttp import web

from telemetryd.errors import BadResponse, Forbidden
from telemetryd.informer.informer import Informer
from telemetryd.informer.source import KubeSource
from telemetryd.informer.verify import Verification, verify
from telemetryd.kube.client import KubeClient
from telemetryd.stats import InformerStats, KubeStats
from tests.informer.samples import THINGS, Thing, ThingRecord, deep_thing, listing, thing, until
from tests.informer.scripted import Responder, Scripted, answer, kubeconfig, refuse, serve

pytestmark = pytest.mark.anyio


@dataclass
class Held:
    """A server, and an informer that has synced with it."""

    server: Scripted
    source: KubeSource
    informer: Informer[Thing, ThingRecord]

    async def verify(
        self, patience_s: float = 0.05, rounds: int = 3, page_size: int = 2
    ) -> Verification:
        return await verify(
            THINGS,
            self.informer.reader,
            self.source,
            page_size=page_size,
            patience_s=patience_s,
            rounds=rounds,
        )

    def hide(self, name: str) -> None:
        """Delete an object without a word to watches."""
        del self.server.objects[name]

    def sneak(self, *names: str) -> None:
        """Create objects without a word to watches."""
        self.server.objects |= {name: thing(name) for name in names}


@asynccontextmanager
async def holding(folder: Path, *names: str, served: bool = True) -> AsyncIterator[Held]:
    scripted = Scripted(version=10, served=served)
    scripted.objects = {name: thing(name) for name in names}
    async with serve(scripted) as server:
        config = kubeconfig(folder / "config", server.url)
        async with KubeClient.connect(config, KubeStats(), environ={}) as client:
            source = KubeSource(client, THINGS)
            informer = Informer(
                THINGS,
                source,
                now=time.time,
                rng=random.Random(1),
                stats=InformerStats(THINGS.id),
            )
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(informer.run)
                await until(lambda: informer.reader.synced)
                if served:
                    await until(lambda: server.open)
                yield Held(server, source, informer)
                tasks.cancel_scope.cancel()


async def test_equal_store_is_found_equal_by_one_list_in_pages(tmp_path: Path) -> None:
    async with holding(tmp_path, *"abcde") as held:
        before = len(held.server.queries(watch=False))
        found = await held.verify()
        assert found == Verification(5, "10", (), ())
        assert found.equal
        assert len(held.server.queries(watch=False)) == before + 3


async def test_keys_on_one_side_only_are_named_sorted(tmp_path: Path) -> None:
    async with holding(tmp_path, *"abcde") as held:
        held.hide("c")
        held.hide("a")
        held.sneak("y", "x")
        found = await held.verify()
        assert (found.missing, found.extra) == (("ns/x", "ns/y"), ("ns/a", "ns/c"))
        assert found.listed == 5
        assert not found.equal


async def test_watch_that_lags_behind_the_list_is_waited_for(tmp_path: Path) -> None:
    async with holding(tmp_path, *"abc") as held:
        held.sneak("new")

        async def tell() -> None:
            await anyio.sleep(0.15)
            held.server.put(thing("new"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tell)
            assert (await held.verify(patience_s=5)).equal


async def test_change_that_the_next_list_takes_back_is_none(tmp_path: Path) -> None:
    """An object that was there for the first list only differs then, and never again."""
    async with holding(tmp_path, *"abc") as held:
        gone = listing([*held.server.objects.values(), thing("passing")], 10)
        held.server.lists.append(answer(gone))
        assert (await held.verify()).equal


async def test_fleet_in_turmoil_is_found_equal(tmp_path: Path) -> None:
    async with holding(tmp_path, *map(str, range(50))) as held:
        rng = random.Random(2)

        async def churn() -> None:
            while True:
                name = str(rng.randrange(60))
                if name in held.server.objects:
                    held.server.delete(name)
                else:
                    held.server.put(thing(name))
                await anyio.sleep(0.001)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(churn)
            for _ in range(3):
                assert (await held.verify(patience_s=1)).equal
            held.sneak("missed")
            # One page: this server's pages aren't of one moment, and might skip the very object.
            found = await held.verify(patience_s=0.2, page_size=100)
            assert found.missing == ("ns/missed",)
            tasks.cancel_scope.cancel()


async def test_unreadable_objects_count_by_their_keys(tmp_path: Path) -> None:
    async with holding(tmp_path, "a") as held:
        page = listing([thing("a")], 10).replace(
            b'"items": [', b'"items": [' + deep_thing("d") + b","
        )
        held.server.lists.extend([answer(page)] * 3)
        found = await held.verify()
        assert (found.listed, found.missing) == (2, ("ns/d",))


async def test_objects_without_a_name_count_on_neither_side(tmp_path: Path) -> None:
    async with holding(tmp_path, "a") as held:
        nameless = thing("b")
        del nameless["metadata"]["name"]
        held.server.lists.append(answer(listing([thing("a"), nameless], 10)))
        assert await held.verify() == Verification(1, "10", (), ())


async def test_resource_that_is_not_served_equals_an_empty_store(tmp_path: Path) -> None:
    async with holding(tmp_path, served=False) as held:
        assert await held.verify() == Verification(0, "", (), ())


async def test_resource_that_went_leaves_all_keys_extra(tmp_path: Path) -> None:
    async with holding(tmp_path, "a", "b") as held:
        held.server.served = False
        found = await held.verify()
        assert (found.missing, found.extra) == ((), ("ns/a", "ns/b"))


async def test_expired_pages_are_listed_again(tmp_path: Path) -> None:
    async with holding(tmp_path, *"abc") as held:
        first = answer(listing([thing("a")], 10, token="t"))
        held.server.lists.extend([first, refuse(410, "Expired"), first, refuse(410, "Expired")])
        assert (await held.verify()).equal


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ([refuse(403, "Forbidden")], Forbidden),
        ([answer(listing([thing("a")], 10, token="t"))] * 3, BadResponse),
        ([answer({"kind": "PodList", "items": []})], BadResponse),
    ],
)
async def test_list_that_cant_be_had_is_an_error(
    tmp_path: Path, script: list[Responder], error: type[Exception]
) -> None:
    async with holding(tmp_path, "a") as held:
        held.server.lists.extend(script)
        with pytest.raises(error):
            await held.verify()
        assert isinstance(held.server.requests[-1], web.BaseRequest)
