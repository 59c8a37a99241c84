"""telemetryd's client and informers against both: the cache ends up equal to a fresh list."""

import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import msgspec
import pytest

from telemetryd.config import KubernetesConfig
from telemetryd.errors import Conflict, Gone, Invalid, KubeError, NotFound, Unauthorized
from telemetryd.gather.project import KUBE_SYSTEM, NODES, NodeObject
from telemetryd.informer.backoff import WatchTiming
from telemetryd.informer.informer import Informer
from telemetryd.informer.resource import Resource, T
from telemetryd.informer.source import KubeSource
from telemetryd.kube.client import KubeClient
from telemetryd.model import Delta, NodeRecord, R
from telemetryd.stats import InformerStats, KubeStats
from tests.apiserver import crds, fixtures
from tests.apiserver.admin import Admin
from tests.contract.objects import NAMESPACES, b64, nodes_in, secret, secrets_in
from tests.contract.servers import Server
from tests.informer.scripted import kubeconfig
from tests.support.waiting import until_async
from tests.system.partition import Partition

pytestmark = pytest.mark.anyio

PAGE_SIZE = 3
QUICK = WatchTiming(
    backoff_base_s=0.02, backoff_cap_s=0.2, short_watch_s=0.02, absence_recheck_s=0.05
)
WARY = replace(QUICK, quiet_s=0.3, look_s=1, look_again_s=0.6, doubt_s=1.0, idle_limit_s=600.0)
"""Looks for what a stream misses after moments, and never gives one up for its silence alone."""


@pytest.fixture
def wire(server: Server) -> Iterator[Partition]:
    """What lies between the daemon's side and the server; the tests' own requests go past it."""
    wire = Partition(urlsplit(server.url).port or 0)
    yield wire
    wire.close()


@pytest.fixture
def config(server: Server, wire: Partition, tmp_path: Path) -> KubernetesConfig:
    return config_of(server, tmp_path, f"https://127.0.0.1:{wire.port}")


def config_of(server: Server, folder: Path, url: str) -> KubernetesConfig:
    return kubeconfig(
        folder / "kubeconfig",
        url,
        cluster={"certificate-authority": str(server.ca_file)},
        user={"token": server.admin_token},
    )


@pytest.fixture
async def client(config: KubernetesConfig, wire: Partition) -> AsyncIterator[KubeClient]:
    async with KubeClient.connect(config, KubeStats(), environ={}) as client:
        yield client
        wire.cut()


@pytest.fixture
def path(api: Admin, cluster: str) -> str:
    """A cluster of seven nodes, n0 to n6: three pages."""
    for number in range(7):
        add(api, cluster, f"n{number}")
    return nodes_in(cluster)


def add(api: Admin, cluster: str, name: str, cpu: str = "4") -> str:
    """Creates a node of real size; returns its UID."""
    made = api.create(nodes_in(cluster), fixtures.rancher_node(cluster, name, cpu=cpu))
    return str(made["metadata"]["uid"])


@pytest.fixture(params=[False, True], ids=["pages", "stream"])
def streamed(request: pytest.FixtureRequest) -> bool:
    """Lists are asked for as streams; a server that refuses is then asked for pages."""
    return bool(request.param)


@pytest.fixture
def first(server: Server, streamed: bool) -> str:
    """Why the first list that succeeds is made."""
    return reason(server, streamed=streamed)


def reason(server: Server, *, streamed: bool) -> str:
    """That of the first list that succeeds."""
    return "fallback" if streamed and not server.streams_lists else "initial"


class Watched:
    """An informer of nodes that runs, and its deltas."""

    def __init__(self, informer: Informer[NodeObject, NodeRecord], stats: InformerStats) -> None:
        self.reader = informer.reader
        self.stats = stats
        self.deltas: list[Delta[NodeRecord]] = []
        self.reader.subscribe(self.deltas.append)

    @property
    def lists(self) -> dict[tuple[str, str], int]:
        """Lists by result and reason."""
        return dict(self.stats.lists)

    def uid(self, key: str) -> str:
        """UID of what is held under the key, empty where nothing is."""
        held = self.reader.get(key)
        return held.uid if held is not None else ""

    def holds(self, key: str, uid: str) -> bool:
        """Whether this object is held under the key."""
        return self.uid(key) == uid

    def changes_of(self, key: str) -> list[tuple[str, str]]:
        """UIDs before and after of every delta of the key."""
        return [
            (delta.old.uid if delta.old else "", delta.new.uid if delta.new else "")
            for delta in self.deltas
            if delta.key == key
        ]

    async def equals_a_fresh_list(self, api: Admin) -> None:
        """Returns once keys and UIDs are what the server lists, and nothing is unreadable."""

        def difference() -> set[tuple[str, str]]:
            listed = {
                (
                    f"{item['metadata']['namespace']}/{item['metadata']['name']}",
                    item["metadata"]["uid"],
                )
                for item in api.list(crds.collection(crds.NODES))
            }
            return listed ^ {(key, self.uid(key)) for key in self.reader.keys()}  # noqa: SIM118

        await until_async(lambda: not difference())
        assert self.reader.unreadable == 0
        assert self.reader.synced


def _is_at_least(count: Callable[[], int], least: int) -> bool:
    return count() >= least


@asynccontextmanager
async def running(
    resource: Resource[T, R],
    source: KubeSource,
    stats: InformerStats,
    streamed: bool,
    timing: WatchTiming = QUICK,
) -> AsyncIterator[Informer[T, R]]:
    """An informer that runs until the block is left."""
    informer = Informer(
        resource,
        source,
        now=time.time,
        rng=random.Random(1),
        stats=stats,
        page_size=PAGE_SIZE,
        streamed=streamed,
        timing=timing,
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(informer.run)
        yield informer
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def watching(
    client: KubeClient,
    streamed: bool,
    source: KubeSource | None = None,
    timing: WatchTiming = QUICK,
) -> AsyncIterator[Watched]:
    """An informer of nodes that has synced."""
    stats = InformerStats(NODES.id)
    source = source or KubeSource(client, NODES)
    async with running(NODES, source, stats, streamed, timing) as informer:
        watched = Watched(informer, stats)
        await until_async(lambda: watched.reader.synced)  # the API server may restart meanwhile
        yield watched


async def test_first_list_is_all_there_is_and_comes_as_the_server_has_it(
    client: KubeClient,
    server: Server,
    api: Admin,
    cluster: str,
    path: str,
    streamed: bool,
    first: str,
) -> None:
    async with watching(client, streamed) as watched:
        await watched.equals_a_fresh_list(api)
        assert watched.stats.list_method == (
            "stream" if streamed and server.streams_lists else "pages"
        )
        assert watched.lists == {("success", first): 1}
        assert {f"{cluster}/n{number}" for number in range(7)} <= set(watched.reader.keys())
        held = watched.reader.get(f"{cluster}/n0")
        assert isinstance(held, NodeRecord)
        assert held.shape.cpu_nano == 4 * 10**9


async def test_live_changes_arrive_without_another_list(
    client: KubeClient, api: Admin, cluster: str, path: str, streamed: bool, first: str
) -> None:
    async with watching(client, streamed) as watched:
        added = add(api, cluster, "new", cpu="8")
        api.patch(f"{path}/n1", {"spec": {"etcd": True}})
        api.patch(f"{path}/n2", {"metadata": {"annotations": {"seen": "not by us"}}})
        api.delete(f"{path}/n3")
        await watched.equals_a_fresh_list(api)
        await until_async(lambda: len(watched.changes_of(f"{cluster}/n1")) == 2)
        assert watched.uid(f"{cluster}/new") == added
        changed = watched.reader.get(f"{cluster}/n1")
        assert isinstance(changed, NodeRecord)
        assert "etcd" in changed.shape.roles
        assert len(watched.changes_of(f"{cluster}/n2")) == 1  # nothing that is read has changed
        assert [after for _, after in watched.changes_of(f"{cluster}/n3")][1:] == [""]
        assert watched.lists == {("success", first): 1}


async def test_node_made_again_while_disconnected_is_a_deletion_and_an_addition(
    client: KubeClient,
    wire: Partition,
    api: Admin,
    cluster: str,
    path: str,
    streamed: bool,
    first: str,
) -> None:
    async with watching(client, streamed) as watched:
        key = f"{cluster}/n1"
        old = watched.uid(key)
        wire.cut()
        api.delete(f"{path}/n1")
        new = add(api, cluster, "n1")
        await until_async(lambda: watched.reader.status().last_error)
        assert watched.uid(key) == old
        wire.heal()
        await until_async(lambda: watched.uid(key) == new)
        assert watched.changes_of(key) == [("", old), (old, ""), ("", new)]
        await watched.equals_a_fresh_list(api)
        assert watched.lists == {("success", first): 1}


class Interrupted(KubeSource):
    """A source between whose first two pages the server forgets its history."""

    def __init__(self, client: KubeClient, server: Server, change: str) -> None:
        super().__init__(client, NODES)
        self._server = server
        self._change = change
        self.pages: list[str] = []

    async def list_page(self, *, limit: int | None, continue_token: str, timeout_s: float) -> bytes:
        if len(self.pages) == 1:
            self._server.admin.delete(self._change)
            self._server.compact()
        self.pages.append("page" if continue_token else "first" if limit else "whole")
        return await super().list_page(
            limit=limit, continue_token=continue_token, timeout_s=timeout_s
        )


async def test_stream_that_is_swallowed_is_noticed_by_what_it_misses_and_costs_no_list(
    client: KubeClient,
    wire: Partition,
    api: Admin,
    cluster: str,
    path: str,
    streamed: bool,
    first: str,
) -> None:
    async with watching(client, streamed, timing=WARY) as watched:
        await until_async(lambda: sum(watched.stats.watches.values()) == 1)
        wire.swallow()
        added = add(api, cluster, "new")
        await until_async(lambda: watched.uid(f"{cluster}/new") == added)
        assert watched.stats.watch_terminations == {"idle": 1}
        assert watched.stats.watches == {"success": 2}
        await watched.equals_a_fresh_list(api)
        assert watched.lists == {("success", first): 1}
        assert watched.reader.status().last_error == ""


@pytest.mark.parametrize("bookmarks", [False, True], ids=["no bookmarks", "bookmarks"])
async def test_quiet_stream_that_is_healthy_is_looked_at_and_never_given_up(
    client: KubeClient, api: Admin, cluster: str, path: str, streamed: bool, bookmarks: bool
) -> None:
    """A server marks a stream two seconds before it ends it, and before that once a minute."""
    timing = replace(WARY, watch_timeout_min_s=6, watch_timeout_max_s=6) if bookmarks else WARY
    async with watching(client, streamed, timing=timing) as watched:
        await until_async(lambda: sum(watched.stats.watches.values()) == 1)
        answers = client.stats.requests
        for number in range(3):
            looks = partial(answers.__getitem__, ("GET", "200"))
            await until_async(partial(_is_at_least, looks, looks() + 2))
            added = add(api, cluster, f"late{number}")
            await until_async(partial(watched.holds, f"{cluster}/late{number}", added))
        if bookmarks:
            await until_async(lambda: watched.stats.events["bookmark"])
        assert not watched.stats.watch_terminations.keys() - {"timeout"}
        assert watched.reader.status().last_error == ""
        await watched.equals_a_fresh_list(api)


async def test_history_that_is_forgotten_is_made_good_by_one_list(
    client: KubeClient,
    server: Server,
    wire: Partition,
    api: Admin,
    cluster: str,
    path: str,
    tmp_path: Path,
) -> None:
    """By informers that were cut off meanwhile, and by one that was between two pages."""
    begun = msgspec.json.decode(
        await client.request("GET", path, params={"limit": "2"}, timeout_s=5.0)
    )
    async with watching(client, False) as pages, watching(client, True) as stream:
        old = pages.uid(f"{cluster}/n1")
        wire.cut()
        api.delete(f"{path}/n0")
        api.delete(f"{path}/n1")
        new = add(api, cluster, "n1")
        add(api, cluster, "n9")
        (tmp_path / "direct").mkdir()
        direct = config_of(server, tmp_path / "direct", server.url)
        async with KubeClient.connect(direct, KubeStats(), environ={}) as other:
            source = Interrupted(other, server, f"{path}/n6")
            async with watching(other, False, source) as amid:
                assert source.pages == ["first", "page", "whole"]
                assert amid.lists == {("error", "initial"): 1, ("success", "expired"): 1}
                assert amid.changes_of(f"{cluster}/n6") == []  # nothing of the broken list
                await amid.equals_a_fresh_list(api)
        wire.heal()
        for watched, first in ((pages, "initial"), (stream, reason(server, streamed=True))):
            await watched.equals_a_fresh_list(api)
            assert watched.changes_of(f"{cluster}/n1") == [("", old), (old, ""), ("", new)]
            assert watched.changes_of(f"{cluster}/n0")[-1][1] == ""
            assert watched.lists == {("success", first): 1, ("success", "expired"): 1}
            assert watched.stats.watch_terminations["expired"] == 1
        query = {"limit": "2", "continue": begun["metadata"]["continue"]}
        with pytest.raises(Gone) as caught:
            await client.request("GET", path, params=query, timeout_s=5.0)
        assert caught.value.reason == "Expired"
        add(api, cluster, "later")
        for watched in (pages, stream):
            await watched.equals_a_fresh_list(api)


async def test_crd_that_goes_empties_the_cache_and_fills_it_when_it_is_back(
    client: KubeClient, server: Server, api: Admin, cluster: str, path: str, streamed: bool
) -> None:
    async with watching(client, streamed) as watched:
        old = watched.uid(f"{cluster}/n0")
        with server.without(crds.NODES):
            await until_async(lambda: watched.reader.status().absent)
            assert (len(watched.reader), watched.reader.synced) == (0, True)
            assert watched.reader.status().last_error == ""
        new = add(api, cluster, "n0")
        await until_async(lambda: not watched.reader.status().absent)
        await watched.equals_a_fresh_list(api)
        assert watched.changes_of(f"{cluster}/n0") == [("", old), (old, ""), ("", new)]
        add(api, cluster, "n7")
        await watched.equals_a_fresh_list(api)


async def test_crd_that_is_missing_from_the_start_counts_as_synced_until_it_comes(
    client: KubeClient, server: Server, api: Admin, cluster: str, streamed: bool
) -> None:
    with server.without(crds.NODES):
        async with watching(client, streamed) as watched:
            assert watched.reader.status().absent
    async with watching(client, streamed) as watched:
        add(api, cluster, "n0")
        await watched.equals_a_fresh_list(api)
        assert not watched.reader.status().absent


async def test_one_object_by_name_is_all_that_is_held_of_its_kind(
    client: KubeClient, api: Admin, namespace: str, streamed: bool
) -> None:
    stats = InformerStats(KUBE_SYSTEM.id)
    async with running(KUBE_SYSTEM, KubeSource(client, KUBE_SYSTEM), stats, streamed) as informer:
        await until_async(lambda: stats.watches["success"])
        api.patch(f"{NAMESPACES}/{namespace}", {"metadata": {"labels": {"a": "b"}}})
        kube_system = api.patch(
            f"{NAMESPACES}/kube-system", {"metadata": {"labels": {"seen": namespace}}}
        )["metadata"]
        version = kube_system["resourceVersion"]
        await until_async(lambda: informer.reader.status().resource_version == version)
        assert stats.events == {"modified": 1}
        assert informer.reader.keys() == ["kube-system"]
        held = informer.reader.get("kube-system")
        assert held is not None
        assert held.uid == kube_system["uid"]


@pytest.mark.parametrize(
    ("method", "path", "error", "reason"),
    [
        ("GET", "/api/v1/namespaces/no-such-namespace", NotFound, "NotFound"),
        ("GET", "/apis/absent.example.com/v1/things", NotFound, ""),
        ("GET", "/apis/management.cattle.io/v3/things", NotFound, ""),
        ("PUT", "/api/v1/namespaces", Invalid, "MethodNotAllowed"),
    ],
)
async def test_refusal_becomes_an_error_of_the_tree(
    client: KubeClient, method: str, path: str, error: type[KubeError], reason: str
) -> None:
    with pytest.raises(error) as caught:
        await client.request(method, path, timeout_s=5.0)
    assert type(caught.value) is error
    assert caught.value.reason == reason


async def test_causes_of_a_refusal_reach_the_error(
    client: KubeClient, api: Admin, namespace: str
) -> None:
    api.create(secrets_in(namespace), secret(data={"payload": b64("theirs")}))

    async def apply(key: str, **metadata: str) -> None:
        await client.request(
            "PATCH",
            f"{secrets_in(namespace)}/s",
            params={"fieldManager": "us"},
            body=msgspec.json.encode(secret(data={key: b64("ours")}, metadata=metadata)),
            content_type="application/apply-patch+yaml",
            timeout_s=5.0,
        )

    with pytest.raises(Conflict) as conflict:
        await apply("payload")
    assert conflict.value.has_cause("FieldManagerConflict")
    assert conflict.value.causes[0].field == ".data.payload"
    with pytest.raises(Invalid) as invalid:
        await apply("own", uid="another")
    # 1.31 says it twice.
    causes = {(cause.reason, cause.field) for cause in invalid.value.causes}
    assert causes == {("FieldValueInvalid", "metadata.uid")}


async def test_wrong_credential_is_unauthorized(
    config: KubernetesConfig, server: Server, path: str
) -> None:
    assert config.kubeconfig
    kubeconfig_path = Path(config.kubeconfig)
    kubeconfig_path.write_text(kubeconfig_path.read_text().replace(server.admin_token, "wrong"))
    async with KubeClient.connect(config, KubeStats(), environ={}) as stranger:
        with pytest.raises(Unauthorized):
            await stranger.request("GET", path, timeout_s=5.0)
