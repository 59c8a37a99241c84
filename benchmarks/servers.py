"""The API servers that everything is measured against, and how a fleet gets into them.

A pair of our own (etcd and kube-apiserver, as the tests start them) is filled through etcd, which
takes seconds where the API would take minutes; a server that a kubeconfig leads to, through its
API. What is measured is ``scenarios``'s.
"""

import base64
import contextlib
import http.client
import itertools
import json
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

from benchmarks.errors import ServerError
from benchmarks.fleet import BenchFleet, Stored
from tests.apiserver.admin import Admin, AdminError
from tests.apiserver.crds import CRDS, MANAGEMENT, collection, delete_crd, install_crds
from tests.apiserver.process import ApiServer

NAMESPACE: Final = "telemetryd-benchmark"
"""Where the daemon's Secrets go."""

_PUTS_A_TRANSACTION = 50
"""At 25 KB each, as large as they come, what etcd takes as one request."""
_ETCD_FLAGS = (f"--quota-backend-bytes={8 << 30}", "--watch-progress-notify-interval=5s")
"""The second is what kubeadm, k3s and RKE2 set: without it etcd so seldom tells an API server at
rest where it stands that watches get no bookmarks."""
_WRITERS = 8
_REQUEST_TIMEOUT_S = 60.0
_START_TIMEOUT_S = 600.0
_POLL_S = 0.05
_PATHS = {definition["spec"]["names"]["plural"]: definition for definition in CRDS}


@dataclass(frozen=True, slots=True)
class Server:
    """A server that holds a fleet.

    Attributes:
        kind: What it is, in words, with its version.
        kubeconfig: How to reach it.
        streams: Whether it sends lists as streams.
        update: Stores another state of each of these nodes, so many a second.
        restart: Ends every watch for good, so that each holder must list anew; None where that
            can't be done to this server.
    """

    kind: str
    kubeconfig: Path
    streams: bool
    update: Callable[[Iterable[Stored], float], None] | None = None
    restart: Callable[[], None] | None = None


@contextlib.contextmanager
def own_pair(assets: Path, fleet: BenchFleet) -> Iterator[Server]:
    """Runs etcd and kube-apiserver with this fleet until the block is left.

    Args:
        assets: The folder of the two binaries.
        fleet: What it holds.
    """
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="telemetryd-bench-server-"))
        pair = ApiServer(assets, Path(folder), etcd_flags=_ETCD_FLAGS)
        stack.callback(pair.stop)
        pair.start()
        admin = Admin(pair.url, pair.admin_token, pair.ca_file)
        stack.callback(admin.close)
        install_crds(admin)
        _prepare(admin)
        etcd = stack.enter_context(contextlib.closing(_Etcd(pair.etcd_endpoint)))
        etcd.load(fleet.objects())
        _await_nodes(admin, fleet)
        version = admin.get("/version")["gitVersion"]

        def restart() -> None:
            pair.compact()
            pair.kill_apiserver()
            pair.start_apiserver()

        yield Server(
            kind=f"kube-apiserver {version} and etcd, TLS on loopback",
            kubeconfig=pair.kubeconfig(Path(folder, "kubeconfig")),
            streams=_streams(admin),
            update=etcd.update,
            restart=restart,
        )


@contextlib.contextmanager
def given(kubeconfig: Path, fleet: BenchFleet) -> Iterator[Server]:
    """Fills the server that a kubeconfig leads to, and removes the CRDs in the end.

    Raises:
        ServerError: The kubeconfig has no token, or a Rancher may live there.
    """
    with tempfile.TemporaryDirectory(prefix="telemetryd-bench-given-") as folder:
        admin = _admin_of(kubeconfig, Path(folder))
        with contextlib.closing(admin):
            _refuse_rancher(admin)
            version = admin.get("/version")["gitVersion"]
            try:
                install_crds(admin)
                _prepare(admin)
                _create_all(admin, fleet)
                _await_nodes(admin, fleet)

                def update(nodes: Iterable[Stored], per_s: float) -> None:
                    _at_rate(nodes, per_s, lambda node: _beat(admin, node))

                kind = f"API server {version} of {kubeconfig}"
                yield Server(kind, kubeconfig, _streams(admin), update)
            finally:
                for definition in CRDS:
                    with contextlib.suppress(AdminError):
                        delete_crd(admin, definition)
                for name in (NAMESPACE, *_cluster_names(fleet)):
                    with contextlib.suppress(AdminError):
                        admin.delete(f"/api/v1/namespaces/{name}")


class _Etcd:
    """Writes objects where the API server keeps them, through etcd's JSON gateway."""

    def __init__(self, endpoint: str) -> None:
        self._netloc = urlsplit(endpoint).netloc
        self._idle: deque[http.client.HTTPConnection] = deque()

    def load(self, objects: Iterable[Stored]) -> None:
        """Stores all of them."""
        with ThreadPoolExecutor(_WRITERS) as pool:
            batches = _batched(objects, _PUTS_A_TRANSACTION)
            while wave := list(itertools.islice(batches, _WRITERS * 2)):
                for _ in pool.map(self._put, wave):
                    pass

    def update(self, nodes: Iterable[Stored], per_s: float) -> None:
        """Stores each in a revision of its own."""
        _at_rate(nodes, per_s, lambda node: self._put([node]))

    def close(self) -> None:
        """Close the connections."""
        while self._idle:
            self._idle.pop().close()

    def _put(self, batch: list[Stored]) -> None:
        puts = [
            {"requestPut": {"key": _encoded(_key(o)), "value": _encoded(o.body)}} for o in batch
        ]
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = http.client.HTTPConnection(self._netloc, timeout=_REQUEST_TIMEOUT_S)
        connection.request("POST", "/v3/kv/txn", json.dumps({"success": puts}))
        response = connection.getresponse()
        answer = response.read()
        self._idle.append(connection)
        if response.status != http.HTTPStatus.OK:
            raise ServerError(f"etcd refuses objects: {response.status} {answer[:500]!r}")


def _key(stored: Stored) -> bytes:
    """Where the API server keeps it; core nodes are called minions there."""
    if not stored.group:
        return f"/registry/minions/{stored.name}".encode()
    parts = ["/registry", stored.group, stored.plural, stored.namespace, stored.name]
    return "/".join(part for part in parts if part).encode()


def _encoded(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _batched(objects: Iterable[Stored], size: int) -> Iterator[list[Stored]]:
    iterator = iter(objects)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _at_rate(nodes: Iterable[Stored], per_s: float, write: Callable[[Stored], None]) -> None:
    """Calls ``write`` with each node, so many a second; returns when all is in."""
    begin = time.monotonic()
    with ThreadPoolExecutor(_WRITERS) as pool:
        pending = []
        for number, node in enumerate(nodes):
            time.sleep(max(0.0, begin + number / per_s - time.monotonic()))
            pending.append(pool.submit(write, node))
        for future in pending:
            future.result()


def _prepare(admin: Admin) -> None:
    for name in (NAMESPACE, "local"):
        with contextlib.suppress(AdminError):  # it may be there
            admin.create("/api/v1/namespaces", {"metadata": {"name": name}})


def _await_nodes(admin: Admin, fleet: BenchFleet) -> None:
    """Returns once the API server knows all nodes, and its watch cache does.

    Raises:
        ServerError: That isn't so after minutes.
    """
    deadline = time.monotonic() + _START_TIMEOUT_S
    while (
        seen := _count_nodes(admin, fleet.nodes_path)
    ) != fleet.nodes:  # from a cache that etcd's own writes reach later
        if time.monotonic() > deadline:
            raise ServerError(f"{seen} of {fleet.nodes} nodes are listed")
        time.sleep(_POLL_S)
    beside = fleet.beside_path
    one = f"{beside}/{admin.get(beside, limit=1)['items'][0]['metadata']['name']}"
    # The last change of all: answered from the watch cache, once that has come as far.
    last = admin.patch(one, {"metadata": {"annotations": {"benchmark": "last"}}})
    while not _is_cached(admin, one, last["metadata"]["resourceVersion"]):
        if time.monotonic() > deadline:
            raise ServerError("the watch cache does not come as far as the last node")


def _streams(admin: Admin) -> bool:
    """Whether this server sends lists as streams: it refuses to if it does not know them.

    Raises:
        AdminError: It refuses for another reason.
    """
    try:
        admin.get(
            "/api/v1/namespaces",
            fieldSelector="metadata.name=none",  # so that one event is all that comes
            watch="true",
            sendInitialEvents="true",
            allowWatchBookmarks="true",
            resourceVersionMatch="NotOlderThan",
            timeoutSeconds=1,
        )
    except AdminError as error:
        if error.status == http.HTTPStatus.UNPROCESSABLE_ENTITY:
            return False
        raise
    return True


def _count_nodes(admin: Admin, path: str) -> int:
    page = admin.get(path, limit=1)
    return len(page["items"]) + int(page["metadata"].get("remainingItemCount", 0))


def _is_cached(admin: Admin, path: str, version: str) -> bool:
    """Whether the watch cache, which informers are answered from, has come as far.

    Raises:
        AdminError: Any other answer.
    """
    try:
        admin.get(path, resourceVersion=version)
    except AdminError as error:
        if error.status == http.HTTPStatus.GATEWAY_TIMEOUT:
            return False
        raise
    return True


def _create_all(admin: Admin, fleet: BenchFleet) -> None:
    """Creates everything through the API, namespaces first."""
    with ThreadPoolExecutor(_WRITERS * 2) as pool:
        namespaces = ({"metadata": {"name": name}} for name in _cluster_names(fleet))
        for _ in pool.map(lambda body: admin.create("/api/v1/namespaces", body), namespaces):
            pass
        for _ in pool.map(lambda stored: _create(admin, stored), fleet.objects()):
            pass


def _cluster_names(fleet: BenchFleet) -> list[str]:
    """Names of the managed clusters, whose namespaces are the benchmark's own."""
    names = (stored.name for stored in fleet.objects() if stored.plural == "clusters")
    return [name for name in names if name != "local"]


def _create(admin: Admin, stored: Stored) -> None:
    admin.create_raw(collection(_PATHS[stored.plural], stored.namespace or None), stored.body)


def _beat(admin: Admin, node: Stored) -> None:
    path = f"{collection(_PATHS['nodes'], node.namespace)}/{node.name}"
    conditions = json.loads(node.body)["status"]["internalNodeStatus"]["conditions"]
    admin.patch(path, {"status": {"internalNodeStatus": {"conditions": conditions}}})


def _refuse_rancher(admin: Admin) -> None:
    try:
        admin.get(f"/apis/{MANAGEMENT}/v3")
    except AdminError as error:
        if error.status == http.HTTPStatus.NOT_FOUND:
            return
        raise
    raise ServerError(f"{MANAGEMENT} is served there already: give it a cluster without Rancher")


def _admin_of(kubeconfig: Path, folder: Path) -> Admin:
    """A client for the current context of a kubeconfig.

    Raises:
        ServerError: It can't be read, or has no token or CA.
    """
    cluster, user = _load_access(kubeconfig)
    ca_file = kubeconfig.parent / cluster.get("certificate-authority", "")
    if "certificate-authority-data" in cluster:
        ca_file = folder / "ca.crt"
        ca_file.write_bytes(base64.b64decode(cluster["certificate-authority-data"]))
    if "token" not in user or not ca_file.is_file():
        message = "needs a user with `token` and a cluster with `certificate-authority(-data)`"
        raise ServerError(f"{kubeconfig}: the current context {message}")
    return Admin(cluster["server"], user["token"], ca_file)


def _load_access(kubeconfig: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Cluster and user of the current context.

    Raises:
        ServerError: It can't be read, or names none.
    """
    try:
        text = kubeconfig.read_text(encoding="utf-8")
        config = yaml.safe_load(text)  # type: ignore[no-untyped-call]
        context = _named(config, "contexts", config["current-context"])["context"]
        cluster: dict[str, Any] = _named(config, "clusters", context["cluster"])["cluster"]
        user: dict[str, Any] = _named(config, "users", context["user"])["user"]
    except OSError as error:
        raise ServerError(f"{kubeconfig}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ServerError(f"{kubeconfig}: not YAML") from error
    except (LookupError, TypeError, StopIteration) as error:
        raise ServerError(f"{kubeconfig}: without a current context") from error
    return cluster, user


def _named(config: dict[str, Any], kind: str, name: str) -> dict[str, Any]:
    return next(entry for entry in config[kind] if entry["name"] == name)
