"""Lists as streams: what is there as events, their end, and what follows them on the same watch."""

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
    refused,
    revision,
    secret,
    secrets_in,
)
from tests.contract.servers import REAL, Server

STREAM = {
    "sendInitialEvents": "true",
    "resourceVersionMatch": "NotOlderThan",
    "allowWatchBookmarks": "true",
}
END = {"k8s.io/initial-events-end": "true"}


@pytest.fixture
def path(cluster: str) -> str:
    return nodes_in(cluster)


@pytest.fixture
def streaming(server: Server) -> Server:
    """The server; those that don't stream lists have their own test."""
    if not server.streams_lists:
        pytest.skip("this API server does not stream lists: older than 1.34, or WatchList=false")
    return server


def initial(events: Iterator[Object]) -> tuple[list[Object], Object]:
    """The events of the list, and the bookmark that ends it."""
    sent: list[Object] = []
    for event in events:
        if event["type"] == "BOOKMARK" and event["object"]["metadata"].get("annotations") == END:
            return sent, event["object"]
        sent.append(event)
    raise AssertionError(f"no end: {sent}")


def next_change(events: Iterator[Object]) -> Object:
    """The next event but for bookmarks, which may come at any time."""
    return next(event for event in events if event["type"] != "BOOKMARK")


def test_server_without_streams_refuses_them(server: Server, api: Admin, path: str) -> None:
    if server.streams_lists:
        with api.watch(path, **STREAM) as events:
            assert initial(events)[0] == []
        return
    with (
        refused(422, "Invalid", "unless the WatchList feature gate is enabled"),
        api.watch(path, **STREAM),
    ):
        pass


@pytest.mark.usefixtures("streaming")
@pytest.mark.parametrize("query", [{}, {"resourceVersion": "0"}], ids=["unset", "0"])
def test_stream_brings_what_is_there_then_its_end_then_what_changes(
    api: Admin, cluster: str, path: str, query: dict[str, str]
) -> None:
    written = {name: api.create(path, node(cluster, name)) for name in ("b", "a", "c")}
    newest = revision(written["c"])
    if query:  # of any age, which may be before the nodes
        with api.watch(path, resourceVersion=newest - 1) as events:
            next(events)
    with api.watch(path, **STREAM, **query) as events:
        sent, end = initial(events)
        assert {event["type"] for event in sent} == {"ADDED"}
        assert {event["object"]["metadata"]["name"]: event["object"] for event in sent} == written
        assert revision(end) >= newest
        changed = api.patch(f"{path}/b", {"spec": {"worker": True}})
        assert next_change(events) == {"type": "MODIFIED", "object": changed}
        api.delete(f"{path}/a")
        assert next_change(events)["type"] == "DELETED"


@pytest.mark.usefixtures("streaming")
def test_stream_is_as_new_as_the_moment_it_was_asked_for(
    api: Admin, cluster: str, path: str
) -> None:
    for number in range(10):
        api.create(path, node(cluster, f"n{number}"))
        with api.watch(path, **STREAM) as events:
            assert len(initial(events)[0]) == number + 1


@pytest.mark.usefixtures("streaming")
def test_end_of_a_stream_is_a_bookmark_of_the_kind(api: Admin, cluster: str, path: str) -> None:
    api.create(secrets_in(cluster), secret())
    for collection, kind in ((path, "Node"), (secrets_in(cluster), "Secret")):
        with api.watch(collection, **STREAM) as events:
            sent, end = initial(events)
        assert end["kind"] == kind
        assert set(end["metadata"]) >= {"resourceVersion", "annotations"}
        assert {event["object"]["kind"] for event in sent} <= {kind}


@pytest.mark.usefixtures("streaming")
def test_stream_of_one_name_brings_that_object_alone(api: Admin, namespace: str) -> None:
    with api.watch(NAMESPACES, **STREAM, fieldSelector=f"metadata.name={namespace}") as events:
        sent, _ = initial(events)
    assert [event["object"]["metadata"]["name"] for event in sent] == [namespace]


@pytest.mark.usefixtures("streaming")
def test_stream_over_all_namespaces_equals_the_list(api: Admin, cluster: str, path: str) -> None:
    for number in range(5):
        api.create(path, node(cluster, f"n{number}"))
    everything = crds.collection(crds.NODES)
    with api.watch(everything, **STREAM) as events:
        sent, _ = initial(events)
    by_key = {
        (event["object"]["metadata"]["namespace"], event["object"]["metadata"]["name"]): event
        for event in sent
    }
    listed = api.list(everything)
    assert len(sent) == len(by_key) == len(listed)
    for item in listed:
        assert by_key[item["metadata"]["namespace"], item["metadata"]["name"]]["object"] == item


@pytest.mark.usefixtures("streaming")
def test_stream_that_sends_nothing_initially_is_a_watch(
    api: Admin, cluster: str, path: str
) -> None:
    made = api.create(path, node(cluster, "a"))
    query = {**STREAM, "sendInitialEvents": "false", "resourceVersion": str(revision(made))}
    with api.watch(path, **query) as events:
        later = api.create(path, node(cluster, "b"))
        assert next_change(events) == {"type": "ADDED", "object": later}


@REAL
@pytest.mark.usefixtures("streaming")
@pytest.mark.parametrize(
    ("query", "why"),
    [
        ({"sendInitialEvents": "true"}, "requires setting resourceVersionMatch to NotOlderThan"),
        (
            {"sendInitialEvents": "true", "resourceVersionMatch": "Exact"},
            "requires setting resourceVersionMatch to NotOlderThan",
        ),
        (
            {"resourceVersionMatch": "NotOlderThan"},
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ),
    ],
    ids=["no-match", "exact", "match-alone"],
)
def test_unfit_parameters_of_a_stream_are_refused(
    api: Admin, path: str, query: dict[str, str], why: str
) -> None:
    with refused(422, "Invalid", why), api.watch(path, **query):
        pass


@pytest.mark.usefixtures("streaming")
def test_list_takes_no_parameter_of_a_stream(api: Admin, path: str) -> None:
    with refused(422, "Invalid", "sendInitialEvents is forbidden for list"):
        api.get(path, sendInitialEvents="true")


@pytest.mark.usefixtures("streaming")
def test_stream_from_the_future_is_an_error_in_a_good_answer(api: Admin, path: str) -> None:
    future = revision(api.get(path)) + 1_000_000
    with api.watch(path, **STREAM, resourceVersion=future) as events:
        (event,) = events
    status = event["object"]
    assert (event["type"], status["code"], status["reason"]) == ("ERROR", 504, "Timeout")
    assert "Too large resource version" in status["message"]
    assert status["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"


@pytest.mark.usefixtures("streaming")
def test_stream_keeps_its_server_timeout(api: Admin, cluster: str, path: str) -> None:
    api.create(path, node(cluster, "a"))
    begun_s = time.monotonic()
    with api.watch(path, **STREAM, timeoutSeconds=2) as events:
        sent = list(islice(events, 100))
    assert sent[0]["object"]["metadata"]["name"] == "a"
    assert {event["type"] for event in sent[1:]} == {"BOOKMARK"}
    assert time.monotonic() - begun_s >= 1
