"""LIST over HTTP: pages, continue tokens and resource versions."""

import base64

import orjson
import pytest

from tests.apiserver.double.apiserver import ApiServer
from tests.apiserver.double.client import SECRETS, SETTINGS, Api, secret, setting

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def seven_settings(server: ApiServer) -> None:
    for index in range(7):
        server.put_object(setting(f"s{index}", str(index)))


def token(**fields: object) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(fields)).decode().rstrip("=")


async def test_pages_show_one_moment_whatever_happens_between(api: Api, server: ApiServer) -> None:
    first = await api.get(SETTINGS, limit="3")
    assert first.names == ["s0", "s1", "s2"]
    assert first.body["metadata"]["remainingItemCount"] == 4
    server.delete_object("settings.management.cattle.io", "s4")
    server.put_object(setting("s5", "changed"))
    server.put_object(setting("s55"))
    second = await api.get(SETTINGS, limit="3", **{"continue": first.body["metadata"]["continue"]})
    assert [item["value"] for item in second.body["items"]] == ["3", "4", "5"]
    assert second.revision == first.revision
    last = await api.get(SETTINGS, limit="3", **{"continue": second.body["metadata"]["continue"]})
    assert (last.names, last.body["metadata"]["continue"]) == (["s6"], "")


async def test_expired_token_is_answered_with_one_that_goes_on_inconsistently(
    api: Api, server: ApiServer
) -> None:
    first = await api.get(SETTINGS, limit="3")
    server.delete_object("settings.management.cattle.io", "s4")
    server.compact()
    expired = await api.get(SETTINGS, limit="3", **{"continue": first.body["metadata"]["continue"]})
    assert (expired.code, expired.body["reason"]) == (410, "Expired")
    assert "too old to display a consistent list result" in expired.body["message"]
    rest = await api.get(SETTINGS, **{"continue": expired.body["metadata"]["continue"]})
    assert rest.names == ["s3", "s5", "s6"]
    assert int(rest.revision) > int(first.revision)


@pytest.mark.parametrize(
    ("params", "code", "text"),
    [
        ({"continue": "garbage"}, 400, "continue key is not valid"),
        ({"continue": token(v="x")}, 400, "encoded version"),
        ({"continue": token(v="meta.k8s.io/v1", rv=0, start="a")}, 400, "continue key"),
        (
            {"continue": token(v="meta.k8s.io/v1", rv=5, start="s1"), "resourceVersion": "5"},
            400,
            "specifying resource version is not allowed when using continue",
        ),
        ({"limit": "x"}, 400, "invalid syntax"),
        ({"resourceVersion": "x"}, 400, "invalid syntax"),
        ({"fieldSelector": "value=1"}, 400, "selects by metadata.name alone"),
        ({"labelSelector": "odd=1"}, 400, "selects by metadata.name alone"),
        ({"sendInitialEvents": "true"}, 422, "sendInitialEvents is forbidden for list"),
        ({"resourceVersion": "999"}, 504, "Too large resource version: 999"),
        ({"resourceVersion": "1", "resourceVersionMatch": "Exact"}, 410, "too old"),
    ],
)
async def test_unfit_parameters_are_refused(
    api: Api, server: ApiServer, params: dict[str, str], code: int, text: str
) -> None:
    server.compact()
    answer = await api.get(SETTINGS, **params)
    assert answer.code == code
    assert text in answer.body["message"]


async def test_revision_in_the_future_names_its_cause(api: Api) -> None:
    for path in (SETTINGS, f"{SETTINGS}/s1"):
        answer = await api.get(path, resourceVersion="999")
        assert (answer.code, answer.body["reason"]) == (504, "Timeout")
        (cause,) = answer.body["details"]["causes"]
        assert cause["reason"] == "ResourceVersionTooLarge"


async def test_revision_zero_knows_no_pages(api: Api) -> None:
    answer = await api.get(SETTINGS, limit="3", resourceVersion="0")
    assert len(answer.names) == 7
    assert answer.body["metadata"]["continue"] == ""


async def test_exact_revision_shows_the_past(api: Api, server: ApiServer) -> None:
    then = str(server.revision)
    server.delete_object("settings.management.cattle.io", "s0")
    exact = await api.get(SETTINGS, resourceVersion=then, resourceVersionMatch="Exact")
    limited = await api.get(SETTINGS, resourceVersion=then, limit="50")
    newer = await api.get(SETTINGS, resourceVersion=then, resourceVersionMatch="NotOlderThan")
    assert (len(exact.names), exact.revision) == (7, then)
    assert limited.body == exact.body
    assert len(newer.names) == 6


async def test_one_object_can_be_listed_by_its_name(api: Api) -> None:
    named = await api.get(SETTINGS, fieldSelector="metadata.name=s1", limit="1")
    assert (named.names, named.body["metadata"]["continue"]) == (["s1"], "")


async def test_built_in_items_lack_their_type_and_custom_ones_have_it(
    api: Api, server: ApiServer
) -> None:
    server.put_object(secret(metadata={"namespace": "default"}))
    (item,) = (await api.get(SECRETS)).body["items"]
    assert "kind" not in item
    assert "apiVersion" not in item
    item = (await api.get(SETTINGS)).body["items"][0]
    assert (item["apiVersion"], item["kind"]) == ("management.cattle.io/v3", "Setting")


async def test_list_over_all_namespaces_and_within_one(api: Api, server: ApiServer) -> None:
    for namespace in ("default", "kube-system"):
        server.put_object(secret(metadata={"namespace": namespace}))
    everywhere = await api.get("/api/v1/secrets")
    assert [item["metadata"]["namespace"] for item in everywhere.body["items"]] == [
        "default",
        "kube-system",
    ]
    assert len((await api.get(SECRETS)).names) == 1
    chosen = await api.get("/api/v1/secrets", fieldSelector="metadata.name=s", limit="1")
    assert chosen.body["metadata"]["continue"]
    assert "remainingItemCount" not in chosen.body["metadata"]
    assert (await api.get("/api/v1/namespaces/none/secrets")).names == []
    paged = await api.get("/api/v1/secrets", limit="1")
    rest = await api.get("/api/v1/secrets", **{"continue": paged.body["metadata"]["continue"]})
    assert rest.body["items"][0]["metadata"]["namespace"] == "kube-system"


async def test_large_list_is_compressed_where_the_client_takes_it(
    api: Api, server: ApiServer
) -> None:
    server.put_object(setting("big", "x" * 200_000))
    async with api.session.get(api.url + SETTINGS) as response:
        assert response.headers["Content-Encoding"] == "gzip"
        assert len(orjson.loads(await response.read())["items"]) == 8
    headers = {"Accept-Encoding": "identity"}
    async with api.session.get(api.url + SETTINGS, headers=headers) as response:
        assert "Content-Encoding" not in response.headers
