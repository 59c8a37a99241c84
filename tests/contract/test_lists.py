"""LIST: pages of one moment, the token that leads through them, and where it expires."""

import pytest

from tests.apiserver import crds
from tests.apiserver.admin import Admin
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
from tests.contract.servers import REAL, Server
from tests.support.waiting import until

FROM_CACHE = (1, 34)
"""From this version on, pages and exact revisions are answered by the cache, not by etcd."""


@pytest.fixture
def path(api: Admin, cluster: str) -> str:
    """A collection of five nodes, n0 to n4."""
    path = nodes_in(cluster)
    for number in range(5):
        api.create(path, node(cluster, f"n{number}", worker=True))
    return path


def test_pages_show_the_moment_of_the_first_whatever_changes_meanwhile(
    api: Admin, cluster: str, path: str
) -> None:
    first = api.get(path, limit=2)
    api.delete(f"{path}/n3")
    api.patch(f"{path}/n4", {"spec": {"worker": False}})
    api.create(path, node(cluster, "n2a"))
    second = api.get(path, limit=2, **{"continue": first["metadata"]["continue"]})
    third = api.get(path, limit=2, **{"continue": second["metadata"]["continue"]})
    assert [names(page) for page in (first, second, third)] == [["n0", "n1"], ["n2", "n3"], ["n4"]]
    assert third["items"][0]["spec"] == {"worker": True}
    assert {revision(page) for page in (first, second, third)} == {revision(first)}
    assert [page["metadata"].get("remainingItemCount") for page in (first, second, third)] == [
        3,
        1,
        None,
    ]
    assert not third["metadata"].get("continue")
    now = api.get(path)
    assert names(now) == ["n0", "n1", "n2", "n2a", "n4"]
    assert revision(now) > revision(first)


@pytest.mark.parametrize("limit", [0, 5, 50])
def test_list_that_fits_into_its_page_has_no_token(api: Admin, path: str, limit: int) -> None:
    page = api.get(path, limit=limit)
    assert len(page["items"]) == 5
    assert not page["metadata"].get("continue")
    assert "remainingItemCount" not in page["metadata"]


def test_token_without_a_limit_brings_all_the_rest(api: Admin, path: str) -> None:
    first = api.get(path, limit=2)
    rest = api.get(path, **{"continue": first["metadata"]["continue"]})
    assert names(rest) == ["n2", "n3", "n4"]
    assert revision(rest) == revision(first)


@REAL
def test_selection_hides_how_many_remain(api: Admin, path: str) -> None:
    for number in (1, 3, 4):
        api.patch(f"{path}/n{number}", {"metadata": {"labels": {"odd": "so-so"}}})
    page = api.get(path, limit=1, labelSelector="odd=so-so")
    assert names(page) == ["n1"]
    assert page["metadata"]["continue"]
    assert "remainingItemCount" not in page["metadata"]


def test_list_over_all_namespaces_is_sorted_by_namespace_and_name(api: Admin, path: str) -> None:
    listed = [
        (item["metadata"]["namespace"], item["metadata"]["name"])
        for item in api.list(crds.collection(crds.NODES), page_size=3)
    ]
    assert listed == sorted(listed)
    assert {(path.split("/")[5], f"n{number}") for number in range(5)} <= set(listed)


def test_items_of_built_in_kinds_lack_their_type_and_custom_ones_have_it(
    api: Admin, namespace: str, path: str
) -> None:
    nodes = api.get(path, limit=1)
    assert (nodes["kind"], nodes["apiVersion"]) == ("NodeList", "management.cattle.io/v3")
    assert nodes["items"][0]["kind"] == "Node"
    api.create(secrets_in(namespace), secret())
    secrets = api.get(secrets_in(namespace))
    assert (secrets["kind"], secrets["apiVersion"]) == ("SecretList", "v1")
    assert not {"kind", "apiVersion"} & set(secrets["items"][0])


def test_list_of_nothing_has_a_revision_and_no_items(api: Admin) -> None:
    for path in (nodes_in("no-such-namespace"), secrets_in("no-such-namespace")):
        page = api.get(path, limit=3)
        assert page["items"] == []
        assert revision(page) > 0


def test_token_is_refused_beside_a_revision(server: Server, api: Admin, path: str) -> None:
    first = api.get(path, limit=2)
    query = {"continue": first["metadata"]["continue"], "limit": 2}
    with refused(400, "BadRequest", "resource version is not allowed when using continue"):
        api.get(path, **query, resourceVersion=revision(first))
    # Which answers from the cache, whole; before 1.34 from etcd, in pages.
    rest = ["n2", "n3", "n4"] if server.version >= FROM_CACHE else ["n2", "n3"]
    assert names(api.get(path, **query, resourceVersion=0)) == rest


@pytest.mark.parametrize(
    ("query", "code", "reason"),
    [
        ({"continue": "garbage"}, 400, "BadRequest"),
        ({"limit": "x"}, 400, "BadRequest"),
        ({"fieldSelector": "spec.worker=true"}, 400, "BadRequest"),
    ],
    ids=str,
)
def test_unfit_parameters_are_refused(
    api: Admin, path: str, query: dict[str, str], code: int, reason: str
) -> None:
    with refused(code, reason):
        api.get(path, **query)


@REAL
@pytest.mark.parametrize(
    "query",
    [
        {"resourceVersionMatch": "Exact"},
        {"resourceVersionMatch": "Exact", "resourceVersion": "0"},
        {"resourceVersionMatch": "Exact", "resourceVersion": "1", "continue": "x"},
    ],
    ids=str,
)
def test_match_that_does_not_fit_its_revision_is_invalid(
    api: Admin, path: str, query: dict[str, str]
) -> None:
    with refused(422, "Invalid"):
        api.get(path, **query)


def test_revision_that_is_no_number_is_refused(server: Server, api: Admin, path: str) -> None:
    code, reason = (400, "BadRequest") if server.version >= FROM_CACHE else (500, "")
    with refused(code, reason, "invalid syntax"):
        api.get(path, resourceVersion="x")


@pytest.mark.parametrize("query", [{"resourceVersionMatch": "Exact"}, {"limit": "2"}], ids=str)
def test_exact_revision_in_the_future_is_refused(
    server: Server, api: Admin, path: str, query: dict[str, str]
) -> None:
    code, reason = (504, "Timeout") if server.version >= FROM_CACHE else (500, "")
    with refused(code, reason):
        api.get(path, **query, resourceVersion=999999999)


def test_unset_revision_shows_what_was_just_written_in_pages(
    api: Admin, cluster: str, path: str
) -> None:
    for number in range(5, 15):
        written = api.create(path, node(cluster, f"n{number}"))
        page = api.get(path, limit=3)
        assert revision(page) >= revision(written)
        assert 3 + page["metadata"]["remainingItemCount"] == number + 1


@pytest.mark.parametrize("match", [{}, {"resourceVersionMatch": "NotOlderThan"}], ids=["", "match"])
def test_revision_0_is_answered_from_a_cache_that_knows_no_pages(
    api: Admin, path: str, match: dict[str, str]
) -> None:
    def page() -> dict[str, object]:
        return api.get(path, resourceVersion=0, limit=2, **match)

    until(lambda: len(names(page())) == 5)  # of any age, which may be before the nodes
    assert not api.get(path, resourceVersion=0, limit=2)["metadata"].get("continue")


def test_exact_revision_shows_the_past(api: Admin, path: str) -> None:
    then = revision(api.get(path))
    api.delete(f"{path}/n0")
    for query in ({"resourceVersionMatch": "Exact"}, {"limit": 50}):
        past = api.get(path, resourceVersion=then, **query)
        assert (names(past), revision(past)) == (["n0", "n1", "n2", "n3", "n4"], then)
    newer = api.get(path, resourceVersion=then, resourceVersionMatch="NotOlderThan")
    assert revision(newer) >= then


@pytest.mark.parametrize("query", [{}, {"limit": 1}, {"resourceVersion": 0}], ids=str)
def test_namespaces_can_be_listed_by_name(
    api: Admin, namespace: str, query: dict[str, int]
) -> None:
    selector = f"metadata.name={namespace}"
    until(lambda: names(api.get(NAMESPACES, fieldSelector=selector, **query)) == [namespace])
    only = api.get(NAMESPACES, fieldSelector=f"metadata.name={namespace}", limit=1)
    assert not only["metadata"].get("continue")
    none = api.get(NAMESPACES, fieldSelector="metadata.name=no-such-namespace", limit=1)
    assert none["items"] == []
    assert revision(none) >= revision(only)
