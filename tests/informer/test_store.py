"""Any order of what an informer does to a store equals a plain dictionary, and its deltas too."""

import logging

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetryd.errors import UnreadableReason
from telemetryd.informer.store import SLICE_OBJECTS, Relist, Store
from telemetryd.model import Delta, Unreadable
from telemetryd.stats import InformerStats
from tests.informer.samples import ThingRecord, record

pytestmark = pytest.mark.anyio

Value = ThingRecord | Unreadable
BROKEN = Unreadable("uid-a", UnreadableReason.TYPE)


def store() -> Store[ThingRecord]:
    return Store(InformerStats("things.example.io"))


async def relist(target: Store[ThingRecord], held: dict[str, Value], *, keyless: int = 0) -> None:
    listed: Relist[ThingRecord] = Relist(target)
    for key, value in held.items():
        listed.add(key, value)
    for _ in range(keyless):
        listed.add(None, BROKEN)
    assert len(listed) == len(held)
    await listed.apply("9")


def recorded(target: Store[ThingRecord]) -> list[Delta[ThingRecord]]:
    deltas: list[Delta[ThingRecord]] = []
    target.subscribe(deltas.append)
    return deltas


VALUES = st.builds(ThingRecord, st.sampled_from(["u1", "u2"]), st.integers(0, 1)) | st.builds(
    Unreadable, st.sampled_from(["", "u1", "u2"]), st.just(UnreadableReason.TYPE)
)
KEYS = st.sampled_from(["ns/a", "ns/b", "ns/c"])
OPERATIONS = st.one_of(
    st.tuples(st.just("upsert"), KEYS, VALUES),
    st.tuples(st.just("remove"), KEYS),
    st.tuples(st.just("relist"), st.dictionaries(KEYS, VALUES)),
    st.tuples(st.just("absent")),
)


@given(st.lists(OPERATIONS, max_size=25))
async def test_any_order_of_operations_equals_a_model(operations: list[tuple[object, ...]]) -> None:
    target = store()
    model: dict[str, Value] = {}
    replayed: dict[str, Value] = {}
    wrong: list[str] = []

    def replay(delta: Delta[ThingRecord]) -> None:
        if replayed.get(delta.key) != delta.old or delta.old == delta.new:
            wrong.append(f"{delta}")
        if target.get(delta.key) != delta.new:
            wrong.append(f"not applied: {delta}")
        old, new = delta.old, delta.new
        if old and new and old.uid and new.uid and old.uid != new.uid:
            wrong.append(f"another uid without a delete: {delta}")
        if new is None:
            del replayed[delta.key]
        else:
            replayed[delta.key] = new

    target.subscribe(replay)
    for operation in operations:
        match operation:
            case ("upsert", str() as key, ThingRecord() | Unreadable() as value):
                target.upsert(key, value)
                model[key] = value
            case ("remove", str() as key):
                target.remove(key)
                model.pop(key, None)
            case ("relist", dict() as held):
                await relist(target, held)
                model = dict(held)
            case _:
                target.finish_absent()
                model = {}
        assert {key: target.get(key) for key in target.keys()} == model == replayed  # noqa: SIM118
        assert len(target) == len(model)
        assert target.unreadable == sum(isinstance(v, Unreadable) for v in model.values())
    assert not wrong
    late = {delta.key: delta.new for delta in recorded(target)}
    assert late == model


async def test_equal_record_makes_no_delta_and_is_not_held_twice() -> None:
    target = store()
    first = record("a")
    await relist(target, {"ns/a": first})
    deltas = recorded(target)
    deltas.clear()
    target.upsert("ns/a", record("a"))
    await relist(target, {"ns/a": record("a")})
    assert deltas == []
    assert target.get("ns/a") is first


async def test_another_uid_is_a_delete_and_an_add() -> None:
    target = store()
    old, new = record("a", uid="u1"), record("a", uid="u2")
    target.upsert("ns/a", old)
    deltas = recorded(target)
    deltas.clear()
    target.upsert("ns/a", new)
    assert deltas == [Delta("ns/a", old, None), Delta("ns/a", None, new)]
    await relist(target, {"ns/a": old})
    assert deltas[2:] == [Delta("ns/a", new, None), Delta("ns/a", None, old)]


async def test_unreadable_object_that_becomes_readable_is_a_change() -> None:
    target = store()
    target.upsert("ns/a", BROKEN)
    deltas = recorded(target)
    assert target.unreadable == 1
    target.upsert("ns/a", record("a"))
    assert deltas[1:] == [Delta("ns/a", BROKEN, record("a"))]
    assert target.unreadable == 0


async def test_synced_never_reverts_and_tells_when_it_turns_true() -> None:
    target = store()
    calls: list[bool] = []
    target.on_change(lambda: calls.append(target.synced))
    target.upsert("ns/a", record("a"))
    target.flush()
    await relist(target, {"ns/a": record("a")})
    target.finish_absent()
    assert calls == [False, True, True]
    await relist(target, {})
    assert target.synced
    assert not target.status().absent


async def test_empty_first_list_tells_that_it_is_synced_and_a_second_tells_nothing() -> None:
    target = store()
    calls: list[bool] = []
    target.on_change(lambda: calls.append(target.synced))
    await relist(target, {})
    await relist(target, {})
    assert calls == [True]


async def test_batch_is_reported_once_and_no_change_is_not_reported() -> None:
    target = store()
    calls: list[int] = []
    target.on_change(lambda: calls.append(len(target)))
    for name in "abc":
        target.upsert(f"ns/{name}", record(name))
    target.flush()
    target.upsert("ns/a", record("a"))
    target.remove("ns/z")
    target.flush()
    assert calls == [3]


async def test_objects_without_a_key_are_counted_until_the_next_list() -> None:
    target = store()
    await relist(target, {"ns/a": BROKEN}, keyless=2)
    assert (target.unreadable, len(target), target.status().unreadable) == (3, 1, 3)
    await relist(target, {})
    assert target.unreadable == 0


async def test_relist_of_a_synced_store_shows_as_a_whole() -> None:
    target = store()
    await relist(target, {f"ns/{n}": record(str(n)) for n in range(1000)})
    seen: list[int] = []
    target.on_change(lambda: seen.append(len(target)))
    await relist(target, {f"ns/{n}": record(str(n)) for n in range(500, 1500)})
    assert seen == [1000]
    assert target.keys()[0] == "ns/1000"


async def test_who_subscribes_during_the_first_list_gets_each_object_once() -> None:
    target = store()
    held: dict[str, Value] = {f"ns/{n}": record(str(n)) for n in range(3 * SLICE_OBJECTS)}
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(relist, target, held)
        while not any(target.held()):
            await anyio.lowlevel.checkpoint()
        early = recorded(target)
        assert SLICE_OBJECTS <= len(early) < len(held)
        assert [(delta.key, delta.new) for delta in early] == list(target.held())
    assert target.synced
    assert early == [Delta(key, None, value) for key, value in held.items()]


async def test_first_list_that_is_given_up_holds_what_subscribers_know() -> None:
    target = store()
    deltas = recorded(target)
    held: dict[str, Value] = {f"ns/{n}": BROKEN for n in range(3 * SLICE_OBJECTS)}
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(relist, target, held)
        while not deltas:
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert SLICE_OBJECTS <= len(target) == len(deltas) == target.unreadable < len(held)
    assert not target.synced
    await relist(target, held)
    assert deltas == [Delta(key, None, value) for key, value in held.items()]


async def test_handlers_that_raise_are_logged_once_and_break_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    target = store()

    def bad_handler(_delta: Delta[ThingRecord]) -> None:
        raise ZeroDivisionError

    def bad_listener() -> None:
        raise ZeroDivisionError

    target.subscribe(bad_handler)
    target.on_change(bad_listener)
    deltas = recorded(target)
    calls: list[int] = []
    target.on_change(lambda: calls.append(1))
    for size in range(3):
        target.upsert("ns/a", record("a", size))
        target.flush()
    assert (len(deltas), len(calls)) == (3, 3)
    errors = [entry for entry in caplog.records if entry.levelno == logging.ERROR]
    assert len(errors) == 2
    assert all(entry.exc_info for entry in errors)


async def test_status_tells_what_is_held() -> None:
    target = store()
    await relist(target, {"ns/a": record("a"), "ns/b": BROKEN})
    target.move_to("12")
    target.set_error("refused")
    status = target.status()
    assert (status.resource, status.synced, status.objects) == ("things.example.io", True, 2)
    assert (status.unreadable, status.resource_version) == (1, "12")
    assert status.last_error == "refused"
    target.finish_absent()
    assert target.status().absent
    assert target.status().resource_version is None
