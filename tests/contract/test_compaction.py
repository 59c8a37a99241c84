"""What was begun before the server forgot its history, of lists and watches; it forgets once."""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.apiserver.admin import Admin, Object
from tests.contract.objects import (
    NAMESPACES,
    names,
    node,
    nodes_in,
    refused,
    revision,
    secret,
    secrets_in,
)
from tests.contract.servers import Server


@dataclass(frozen=True, slots=True)
class Begun:
    """Before the compaction; since then o2 of each collection is gone.

    Attributes:
        api: A client of the server.
        namespace: Of four nodes and four Secrets, o0 to o3.
        pages: The first of each collection, of two objects.
    """

    api: Admin
    namespace: str
    pages: dict[str, Object]


@pytest.fixture(scope="module", params=["demo", pytest.param("real", marks=pytest.mark.long)])
def begun(request: pytest.FixtureRequest) -> Iterator[Begun]:
    """With a server that has forgotten all that was before."""
    server: Server = request.getfixturevalue(f"{request.param}_server")
    api, namespace = server.admin, f"compacted-{uuid.uuid4()}"
    api.create(NAMESPACES, {"metadata": {"name": namespace}})
    nodes, secrets = nodes_in(namespace), secrets_in(namespace)
    for name in ("o0", "o1", "o2", "o3"):
        api.create(nodes, node(namespace, name))
        api.create(secrets, secret(name))
    pages = {path: api.get(path, limit=2) for path in (nodes, secrets)}
    for path in pages:
        api.delete(f"{path}/o2")
    server.compact()
    yield Begun(api, namespace, pages)
    for item in api.list(nodes):
        api.delete(f"{nodes}/{item['metadata']['name']}")


@pytest.mark.parametrize("collection", [nodes_in, secrets_in], ids=["custom", "built-in"])
def test_token_is_expired_and_its_substitute_inconsistent(
    begun: Begun, collection: Callable[[str], str]
) -> None:
    api, path = begun.api, collection(begun.namespace)
    first = begun.pages[path]
    with refused(410, "Expired", "continue parameter is too old") as status:
        api.get(path, limit=2, **{"continue": first["metadata"]["continue"]})
    assert "details" not in status
    rest = api.get(path, limit=2, **{"continue": status["metadata"]["continue"]})
    assert names(rest) == ["o3"]
    assert revision(rest) > revision(first)


def test_exact_revision_shows_the_past_no_more(begun: Begun) -> None:
    path = nodes_in(begun.namespace)
    then = revision(begun.pages[path])
    with refused(410, "Expired", "too old"):
        begun.api.get(path, resourceVersion=then, resourceVersionMatch="Exact")


def test_watch_is_an_error_in_a_good_answer(begun: Begun) -> None:
    api, path = begun.api, nodes_in(begun.namespace)
    with api.watch(path, resourceVersion=revision(begun.pages[path])) as events:
        (event,) = list(events)
    assert event["type"] == "ERROR"
    status = event["object"]
    assert (status["kind"], status["status"]) == ("Status", "Failure")
    assert (status["code"], status["reason"]) == (410, "Expired")
    assert "details" not in status
    with api.watch(path, resourceVersion=revision(api.get(path))) as events:
        api.create(path, node(begun.namespace, "p"))
        event = next(events)
    assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "p")
    api.delete(f"{path}/p")
