"""The store: revisions, order, history, snapshots and compaction."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.apiserver.double.client import secret, setting
from tests.apiserver.double.objects import ObjectStore, ObjectTable, StoredObject
from tests.apiserver.double.resources import RESOURCES, SECRETS, SETTINGS


def new_store(history_events: int = 1000) -> ObjectStore:
    return ObjectStore(RESOURCES, history_events=history_events)


def put(store: ObjectStore, name: str, value: str = "", uid: str = "u") -> StoredObject:
    return store.put(SETTINGS, name, setting(name, value, uid=f"{uid}-{name}"))


def keys_at(table: ObjectTable, revision: int, **bounds: str) -> list[str]:
    return table.snapshot(revision, **bounds).keys


def test_every_write_takes_the_next_revision_of_all() -> None:
    store = new_store()
    first = put(store, "a")
    other = store.put(SECRETS, "n/s", secret(metadata={"uid": "1"}))
    assert (first.revision, other.revision) == (2, 3)
    assert first.decode()["metadata"]["resourceVersion"] == "2"


def test_keys_are_sorted_as_text_like_etcd_keys() -> None:
    store = new_store()
    for key in ("a/x", "a-b/x", "b/x"):
        store.put(SECRETS, key, secret(metadata={"uid": key}))
    # "-" comes before "/": the namespace a-b sorts before a.
    assert keys_at(store.table(SECRETS), store.revision) == ["a-b/x", "a/x", "b/x"]


def test_prefix_and_start_bound_a_snapshot() -> None:
    store = new_store()
    for key in ("a/1", "a/2", "a/3", "b/1"):
        store.put(SECRETS, key, secret(metadata={"uid": key}))
    table = store.table(SECRETS)
    assert keys_at(table, store.revision, prefix="a/", start="a/1\0") == ["a/2", "a/3"]


def test_snapshot_of_the_past_shows_what_was_there() -> None:
    store = new_store()
    put(store, "a", "old")
    put(store, "b")
    then = store.revision
    put(store, "a", "new")
    store.remove(SETTINGS, "b")
    put(store, "c")
    snapshot = store.table(SETTINGS).snapshot(then)
    assert snapshot.keys == ["a", "b"]
    assert [snapshot[key].decode()["value"] for key in snapshot.keys] == ["old", ""]
    with pytest.raises(KeyError):
        snapshot["c"]


def test_another_uid_under_the_same_key_is_a_delete_and_an_add() -> None:
    store = new_store()
    put(store, "a", uid="1")
    then = store.revision
    put(store, "a", uid="2")
    changes = store.table(SETTINGS).since(then)
    assert changes is not None
    assert [(bool(change.old), bool(change.new)) for change in changes] == [
        (True, False),
        (False, True),
    ]


def test_compaction_ends_what_can_be_read_but_not_who_is_up_to_date() -> None:
    store = new_store()
    put(store, "a")
    behind = store.revision
    put(store, "b")
    store.compact()
    assert store.oldest_revision(SETTINGS) == store.revision
    assert store.table(SETTINGS).since(behind) is None
    assert store.table(SETTINGS).since(store.revision) == []


def test_full_history_drops_the_oldest_change() -> None:
    store = new_store(history_events=2)
    revisions = [put(store, "a", str(index)).revision for index in range(4)]
    table = store.table(SETTINGS)
    assert table.since(revisions[0]) is None
    assert [change.revision for change in table.since(revisions[1]) or ()] == revisions[2:]


def test_removed_and_restored_resource_is_empty_and_its_past_unwatchable() -> None:
    store = new_store()
    put(store, "a")
    then = store.revision
    store.remove_table(SETTINGS)
    assert not store.serves(SETTINGS)
    store.add_table(SETTINGS)
    assert not store.table(SETTINGS).objects
    assert store.oldest_revision(SETTINGS) > then


_steps = st.lists(
    st.tuples(st.sampled_from(["put", "remove"]), st.sampled_from("abcde"), st.integers(0, 9)),
    max_size=40,
)


@given(_steps, st.data())
def test_history_replayed_on_any_snapshot_equals_the_list(
    steps: list[tuple[str, str, int]], data: st.DataObject
) -> None:
    store = new_store()
    table = store.table(SETTINGS)
    states: dict[int, dict[str, Any]] = {store.revision: {}}
    for action, name, value in steps:
        if action == "put":
            put(store, name, str(value))
        elif name in table.objects:
            store.remove(SETTINGS, name)
        states[store.revision] = {key: stored.body for key, stored in table.objects.items()}
    start = data.draw(st.sampled_from(sorted(states)))
    snapshot = table.snapshot(start)
    replayed = {key: snapshot[key].body for key in snapshot.keys}
    assert replayed == states[start]
    for change in table.since(start) or ():
        if change.new is None:
            del replayed[change.key]
        else:
            replayed[change.key] = change.new.body
    assert replayed == states[store.revision]
    assert keys_at(table, store.revision) == sorted(replayed)
