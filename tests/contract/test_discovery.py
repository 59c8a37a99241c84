"""What is served at all: discovery, paths that nobody serves, and CRDs that go and come back."""

from functools import partial

import pytest

from tests.apiserver import crds
from tests.apiserver.admin import Admin, AdminError, Object
from tests.contract.objects import REQUESTS, node, refused, revision
from tests.contract.servers import Server
from tests.support.waiting import until


def plurals(api: Admin, group_version: str) -> set[str]:
    return {entry["name"] for entry in api.get(group_version)["resources"]}


def plainly_missing(api: Admin, path: str, **query: str | int) -> bool:
    """Whether a path is answered like one that never was: 404, and as text."""
    try:
        api.get(path, **query)
    except AdminError as error:
        return (error.status, error.body) == (404, "404 page not found\n")
    return False


def project(namespace: str, name: str) -> Object:
    return node(namespace, name) | {"kind": "Project"}


def test_discovery_names_groups_versions_and_resources(api: Admin) -> None:
    groups = api.get("/apis")
    assert groups["kind"] == "APIGroupList"
    versions = {
        group["name"]: [version["version"] for version in group["versions"]]
        for group in groups["groups"]
    }
    assert versions["management.cattle.io"] == ["v3"]
    listed = api.get("/apis/management.cattle.io/v3")
    assert (listed["kind"], listed["groupVersion"]) == (
        "APIResourceList",
        "management.cattle.io/v3",
    )
    entries = {entry["name"]: entry for entry in listed["resources"]}
    assert {"clusters", "features", "nodes", "projects", "settings"} <= set(entries)
    assert entries["nodes"]["kind"] == "Node"
    assert entries["nodes"]["namespaced"] is True
    assert {"get", "list", "watch"} <= set(entries["nodes"]["verbs"])
    assert {"namespaces", "nodes", "secrets", "nodes/status"} <= plurals(api, "/api/v1")
    assert "secretrequests/status" in plurals(api, "/apis/telemetry.cattle.io/v1")
    group = api.get("/apis/management.cattle.io")
    assert (group["kind"], group["preferredVersion"]["version"]) == ("APIGroup", "v3")
    assert api.get("/api")["versions"] == ["v1"]


def test_version_is_reported(api: Admin) -> None:
    version = api.get("/version")
    assert version["gitVersion"].startswith(f"v{version['major']}.{version['minor'].rstrip('+')}.")


@pytest.mark.parametrize(
    "path",
    [
        "/apis/absent.example.com",
        "/apis/absent.example.com/v1",
        "/apis/absent.example.com/v1/things",
        "/apis/management.cattle.io/v3/things",
        "/apis/management.cattle.io/v1/nodes",
        "/apis/management.cattle.io/v3/namespaces/default/things/a",
    ],
)
def test_path_of_an_absent_group_or_crd_is_a_404_without_a_status(api: Admin, path: str) -> None:
    assert plainly_missing(api, path)
    assert plainly_missing(api, path, watch=1, resourceVersion=1)


def test_absent_resource_of_the_core_group_is_a_404_with_a_status(api: Admin) -> None:
    with refused(404, "NotFound", "could not find the requested resource"):
        api.get("/api/v1/things")


def test_removed_crd_ends_its_watches_and_is_missing_everywhere_until_restored(
    server: Server, api: Admin, cluster: str
) -> None:
    path = crds.collection(crds.PROJECTS, cluster)
    old = api.create(path, project(cluster, "a"))
    with api.watch(path, resourceVersion=revision(old), timeoutSeconds=30) as events:
        with server.without(crds.PROJECTS):
            assert [(event["type"], event["object"]["metadata"]["name"]) for event in events] == [
                ("DELETED", "a")
            ]
            for gone in (path, f"{path}/a", crds.collection(crds.PROJECTS)):
                assert plainly_missing(api, gone)
            assert plainly_missing(api, path, watch=1, resourceVersion=revision(old))
            with pytest.raises(AdminError, match="404"):
                api.create(path, project(cluster, "b"))
            served = plurals(api, "/apis/management.cattle.io/v3")
            assert "projects" not in served
            assert {"clusters", "features", "nodes", "settings"} <= served
        assert "projects" in plurals(api, "/apis/management.cattle.io/v3")
    empty = api.get(path)
    assert empty["items"] == []
    assert revision(empty) > revision(old)
    with api.watch(path, resourceVersion=revision(old)) as events:
        assert next(events)["object"]["code"] == 410
    new = api.create(path, project(cluster, "a"))
    assert new["metadata"]["uid"] != old["metadata"]["uid"]
    with api.watch(path, resourceVersion=revision(empty)) as events:
        assert next(events)["object"] == new


def test_group_goes_with_its_only_crd_and_comes_back(server: Server, api: Admin) -> None:
    def is_listed() -> bool:
        return any(group["name"] == crds.TELEMETRY for group in api.get("/apis")["groups"])

    with server.without(crds.SECRET_REQUESTS):
        until(lambda: not is_listed())
        for path in ("/apis/telemetry.cattle.io/v1", "/apis/telemetry.cattle.io", REQUESTS):
            until(partial(plainly_missing, api, path))
    until(is_listed)
    assert api.get(REQUESTS)["items"] == []
