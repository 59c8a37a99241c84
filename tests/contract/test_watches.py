"""WATCH: what comes after a revision, in which order, and how it ends."""

import time
from collections.abc import Iterator
from itertools import islice

import pytest

from tests.apiserver import crds
from tests.apiserver.admin import Admin, Object
from tests.contract.objects import (
    NAMESPACES,
    node,
    nodes_in,
    revision,
    secret,
    secrets_in,
)
from tests.contract.servers import REAL


@pytest.fixture
def path(cluster: str) -> str:
    return nodes_in(cluster)


def take(events: Iterator[Object], count: int) -> list[tuple[str, str]]:
    """Type and name of so many events."""
    return [(event["type"], event["object"]["metadata"]["name"]) for event in islice(events, count)]


def test_watch_tells_all_after_the_revision_of_a_list_in_order(
    api: Admin, cluster: str, path: str
) -> None:
    api.create(path, node(cluster, "before"))
    start = revision(api.get(path))
    written = [
        api.create(path, node(cluster, "a", worker=True)),
        api.patch(f"{path}/a", {"spec": {"worker": False}}),
    ]
    api.patch(f"{path}/a", {"spec": {"worker": False}})  # moves nothing
    api.create(secrets_in(cluster), secret())
    deleted = api.delete(f"{path}/a")
    written.append(api.create(path, node(cluster, "b")))
    with api.watch(path, resourceVersion=start) as events:
        seen = list(islice(events, 4))
    assert [event["type"] for event in seen] == ["ADDED", "MODIFIED", "DELETED", "ADDED"]
    added, modified, gone, last = (event["object"] for event in seen)
    assert [added, modified, last] == written
    assert gone["spec"] == {"worker": False}
    assert gone["metadata"]["uid"] == deleted["details"]["uid"]
    assert revision(added) < revision(modified) < revision(gone) < revision(last)


def test_revision_of_a_deletion_is_one_to_go_on_from(api: Admin, cluster: str, path: str) -> None:
    start = revision(api.create(path, node(cluster, "a")))
    api.delete(f"{path}/a")
    with api.watch(path, resourceVersion=start) as events:
        gone = next(events)["object"]
    assert start < revision(gone) <= revision(api.get(path))
    api.create(path, node(cluster, "b"))
    with api.watch(path, resourceVersion=revision(gone)) as events:
        assert take(events, 1) == [("ADDED", "b")]


def test_open_watch_tells_what_happens_from_now_on(api: Admin, cluster: str, path: str) -> None:
    with api.watch(path, resourceVersion=revision(api.get(path))) as events:
        for name in ("a", "b"):
            created = api.create(path, node(cluster, name))
            assert next(events) == {"type": "ADDED", "object": created}
        api.delete(f"{path}/a")
        assert take(events, 1) == [("DELETED", "a")]


def test_watch_of_a_namespace_hears_of_no_other(api: Admin, cluster: str, path: str) -> None:
    start = revision(api.get(path))
    api.create(nodes_in("default"), node("default", cluster))
    api.create(path, node(cluster, "y"))
    with api.watch(path, resourceVersion=start) as events:
        assert take(events, 1) == [("ADDED", "y")]
    with api.watch(crds.collection(crds.NODES), resourceVersion=start) as events:
        assert take(events, 2) == [("ADDED", cluster), ("ADDED", "y")]
    api.delete(f"{nodes_in('default')}/{cluster}")


@pytest.mark.parametrize("query", [{}, {"resourceVersion": 0}], ids=["unset", "0"])
def test_watch_from_no_revision_begins_with_what_is_there(
    api: Admin, cluster: str, path: str, query: dict[str, int]
) -> None:
    for name in ("a", "b"):
        api.create(path, node(cluster, name))
    with api.watch(path, **query) as events:
        # A cache that lags behind would tell of the rest as it happens.
        seen = {event["object"]["metadata"]["name"]: event for event in islice(events, 2)}
    assert set(seen) == {"a", "b"}
    assert {event["type"] for event in seen.values()} == {"ADDED"}


def test_same_name_made_again_is_a_deletion_and_an_addition_with_another_uid(
    api: Admin, cluster: str, path: str
) -> None:
    old = api.create(path, node(cluster, "a"))
    api.delete(f"{path}/a")
    new = api.create(path, node(cluster, "a"))
    with api.watch(path, resourceVersion=revision(old)) as events:
        seen = [(event["type"], event["object"]["metadata"]["uid"]) for event in islice(events, 2)]
    assert seen == [("DELETED", old["metadata"]["uid"]), ("ADDED", new["metadata"]["uid"])]
    assert old["metadata"]["uid"] != new["metadata"]["uid"]


def test_last_finalizer_that_goes_makes_the_deletion_without_another_change(
    api: Admin, cluster: str
) -> None:
    path = secrets_in(cluster)
    api.create(path, secret("held", metadata={"finalizers": ["example.com/hold"]}))
    start = revision(api.get(path))
    held = api.delete(f"{path}/held")
    api.patch(f"{path}/held", {"metadata": {"finalizers": None}})
    api.create(path, secret("next"))
    with api.watch(path, resourceVersion=start) as events:
        marked, gone, _ = seen = list(islice(events, 3))
    assert [event["type"] for event in seen] == ["MODIFIED", "DELETED", "ADDED"]
    assert marked["object"] == held
    assert gone["object"]["metadata"]["finalizers"] == ["example.com/hold"]
    assert revision(gone["object"]) > revision(held)


def test_selection_by_name_hears_of_one_object_alone(api: Admin, cluster: str) -> None:
    selector = f"metadata.name={cluster}"
    start = revision(api.get(NAMESPACES, fieldSelector=selector))
    api.create(NAMESPACES, {"metadata": {"name": f"{cluster}-other"}})
    api.patch(f"{NAMESPACES}/{cluster}", {"metadata": {"labels": {"a": "b"}}})
    with api.watch(NAMESPACES, fieldSelector=selector, resourceVersion=start) as events:
        assert take(events, 1) == [("MODIFIED", cluster)]


@REAL
def test_what_enters_or_leaves_a_selection_is_added_or_deleted(
    api: Admin, cluster: str, path: str
) -> None:
    start = revision(api.create(path, node(cluster, "a")))
    for step, value in enumerate(("in", "in", "out", "in")):
        labels = {"chosen": value, "step": str(step)}
        api.patch(f"{path}/a", {"metadata": {"labels": labels}})
    with api.watch(path, labelSelector="chosen=in", resourceVersion=start) as events:
        assert take(events, 4) == [
            ("ADDED", "a"),
            ("MODIFIED", "a"),
            ("DELETED", "a"),
            ("ADDED", "a"),
        ]


def test_watches_end_cleanly_in_time_and_who_asks_gets_a_bookmark_before(
    api: Admin, cluster: str, path: str
) -> None:
    start = revision(api.get(path))
    with (
        api.watch(path, resourceVersion=start, timeoutSeconds=6) as plain,
        api.watch(
            path, resourceVersion=start, timeoutSeconds=9, allowWatchBookmarks="true"
        ) as seen,
    ):
        begin = time.monotonic()
        created = api.create(path, node(cluster, "a"))
        # An end in the middle of a chunk would raise IncompleteRead.
        assert list(plain) == [{"type": "ADDED", "object": created}]
        assert time.monotonic() - begin > 3
        assert take(seen, 1) == [("ADDED", "a")]
        bookmark = next(seen)
    assert bookmark["type"] == "BOOKMARK"
    assert bookmark["object"]["kind"] == "Node"
    assert bookmark["object"]["apiVersion"] == "management.cattle.io/v3"
    assert set(bookmark["object"]["metadata"]) == {"resourceVersion"}
    reached = revision(bookmark["object"])
    assert reached >= revision(created)
    api.delete(f"{path}/a")
    with api.watch(path, resourceVersion=reached) as events:
        assert take(events, 1) == [("DELETED", "a")]
