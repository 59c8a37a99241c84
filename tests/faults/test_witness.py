"""The replay finds deltas that were missing, came twice, or were of another object."""

import pytest

from telemetryd.informer.store import Relist, Store
from telemetryd.model import Delta
from telemetryd.stats import InformerStats
from tests.faults.witness import Replay
from tests.informer.samples import THINGS, ThingRecord, record

pytestmark = pytest.mark.anyio


@pytest.fixture
def store() -> Store[ThingRecord]:
    return Store(InformerStats(THINGS.id))


async def test_replay_of_all_deltas_is_what_is_held(store: Store[ThingRecord]) -> None:
    replay = Replay(THINGS, store)
    for size in (1, 2, 2, 3):
        store.upsert("ns/a", record("a", size))
    store.upsert("ns/a", record("a", 3, uid="another"))
    store.upsert("ns/b", record("b"))
    relist: Relist[ThingRecord] = Relist(store)
    relist.add("ns/c", record("c"))
    await relist.apply("9")
    assert replay.held() == replay.replayed == {"ns/c": record("c")}
    assert replay.deltas == 9
    assert not replay.wrong


async def test_change_without_a_delta_is_found(store: Store[ThingRecord]) -> None:
    replay = Replay(THINGS, store)
    store.upsert("ns/a", record("a", 1))
    store._items["ns/a"] = record("a", 2)
    assert replay.held() != replay.replayed
    store.upsert("ns/a", record("a", 3))
    assert "not what was held" in replay.wrong[0]


@pytest.mark.parametrize(
    ("delta", "why"),
    [
        (Delta("ns/a", record("a"), record("a")), "not what was held"),
        (Delta("ns/a", None, record("a")), "not what was held"),
        (Delta("ns/a", record("a"), record("a", uid="another")), "another uid"),
    ],
)
async def test_delta_that_is_wrong_in_itself_is_found(
    store: Store[ThingRecord], delta: Delta[ThingRecord], why: str
) -> None:
    replay = Replay(THINGS, store)
    store.upsert("ns/a", record("a"))
    assert not replay.wrong
    store._handlers[0](delta)
    assert why in replay.wrong[0]


async def test_synced_that_reverts_is_found(store: Store[ThingRecord]) -> None:
    replay = Replay(THINGS, store)
    store.finish_list("1", 0)
    assert not replay.wrong
    store._synced = False
    store.upsert("ns/a", record("a"))
    store.flush()
    assert replay.wrong == ["synced has reverted"]


async def test_delta_that_a_judge_refuses_is_found(store: Store[ThingRecord]) -> None:
    replay = Replay(THINGS, store, lambda delta: f"no: {delta.key}")
    store.upsert("ns/a", record("a"))
    assert replay.wrong == ["no: ns/a"]
