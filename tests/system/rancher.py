"""A Rancher installation on the real API server, and an independent recount of it."""

import json
import uuid
from base64 import b64decode
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from tests.apiserver.admin import Admin, AdminError, Object
from tests.apiserver.crds import CLUSTERS, FEATURES, NODES, PROJECTS, SETTINGS, collection
from tests.apiserver.fixtures import (
    feature,
    namespace,
    project,
    rancher_cluster,
    rancher_node,
    setting,
)

INSTALL_UUID = "5c6b1b7e-94c5-4f6e-8a0e-2f9d2e1c7a11"
SERVER_URL = "https://127.0.0.1:1"
VERSION = "v2.12.3"
TARGET_NAMESPACE = "cattle-telemetry-system"
SECRET = f"/api/v1/namespaces/{TARGET_NAMESPACE}/secrets/rancher-scc-telemetry"
FLEET_SECRET = f"/api/v1/namespaces/{TARGET_NAMESPACE}/secrets/telemetryd-fleet"
SHAPES = (("4", "16384256Ki", "amd64"), ("8", "32Gi", "amd64"), ("3920m", "129M", "arm64"))


class Rancher:
    """The objects of one Rancher: built on entry, removed on `clear`.

    Names of clusters and nodes begin with `sentinel-`: they must not leave.
    """

    def __init__(self, admin: Admin) -> None:
        self.admin = admin

    @classmethod
    @contextmanager
    def built(cls, admin: Admin, *, clusters: int, nodes: int) -> Iterator["Rancher"]:
        """One that is there until left, as `build` makes it."""
        fleet = cls(admin)
        fleet.build(clusters, nodes)
        try:
            yield fleet
        finally:
            fleet.clear()

    def build(self, clusters: int, nodes: int) -> None:
        """Creates `clusters` clusters (the first is `local`) of `nodes` nodes each."""
        for name in ("kube-system", TARGET_NAMESPACE, "local"):
            self._create("/api/v1/namespaces", namespace(name, sentinel="SENTINEL"))
        settings = {
            "install-uuid": INSTALL_UUID,
            "server-url": SERVER_URL,
            "server-version": VERSION,
            "server-version-type": "prime",
            "internal-secret-thing": "SENTINEL-setting",
        }
        for name, value in settings.items():
            self._create(collection(SETTINGS), setting(name, value))
        self._create(collection(FEATURES), feature("fleet"))
        self._create(collection(FEATURES), feature("legacy", value=True, default=False))
        self._create(collection(FEATURES), feature("harvester", value=False))
        self._create(collection(PROJECTS, "local"), project("p-abcde"))
        names = ["local", *(f"sentinel-c-{number}" for number in range(1, clusters))]
        for name in names[1:]:
            self._create("/api/v1/namespaces", namespace(name))
        for name in names:
            self._create(collection(CLUSTERS), rancher_cluster(name, node_count=None))
        jobs = [(name, number) for name in names for number in range(nodes)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda job: self.add_node(*job), jobs))

    def add_node(self, cluster: str, number: int, **fields: Any) -> None:
        """Creates node `sentinel-m-<number>` of the cluster, of one of the shapes."""
        cpu, memory, arch = SHAPES[number % len(SHAPES)]
        given = {"cpu": cpu, "memory": memory, "arch": arch, "roles": ("worker",), **fields}
        node = rancher_node(cluster, f"sentinel-m-{number}", **given)
        self._create(collection(NODES, cluster), node)

    def delete_node(self, cluster: str, number: int) -> None:
        """Deletes node `sentinel-m-<number>` of the cluster."""
        self.admin.delete(f"{collection(NODES, cluster)}/sentinel-m-{number}")

    def secret(self, path: str = SECRET) -> Object | None:
        """A telemetry Secret, None where there is none."""
        try:
            return self.admin.get(path)
        except AdminError as error:
            if error.status == 404:
                return None
            raise

    def payload(self, path: str = SECRET) -> dict[str, Any] | None:
        """The document in the Secret, None where there is none."""
        secret = self.secret(path)
        if secret is None or "payload" not in secret.get("data", {}):
            return None
        document: dict[str, Any] = json.loads(b64decode(secret["data"]["payload"]))
        return document

    def clear(self) -> None:
        """Removes what `build` and the tests made, but for namespaces: nobody finalizes them."""
        for definition in (NODES, PROJECTS):
            listed = self.admin.list(collection(definition))
            for cluster in {item["metadata"]["namespace"] for item in listed}:
                self.admin.delete(collection(definition, cluster))
        for definition in (CLUSTERS, SETTINGS, FEATURES):
            self.admin.delete(collection(definition))
        for path in (SECRET, FLEET_SECRET):
            if self.secret(path) is not None:
                self.admin.patch(path, {"metadata": {"finalizers": None}})
                if self.secret(path) is not None:
                    self.admin.delete(path)

    def _create(self, path: str, body: Object) -> None:
        try:
            self.admin.create(path, body)
        except AdminError as error:
            if error.status != 409:
                raise


def recount(admin: Admin) -> dict[str, Any]:
    """The SCC payload's facts from a fresh list, by simple means of its own, timestamp left out.

    Knows only the quantities of `SHAPES` and whole numbers.
    """
    cores = {"3920m": 4}
    mebibytes = {"16384256Ki": 16001, "32Gi": 32768, "129M": 124}
    nodes = admin.list(collection(NODES))
    names = {item["metadata"]["name"] for item in admin.list(collection(CLUSTERS))}
    systems: Counter[tuple[str, int, int, bool]] = Counter()
    sizes: Counter[str] = Counter(dict.fromkeys(names, 0))
    for node in nodes:
        cluster = node["metadata"]["namespace"]
        if cluster not in names:
            continue
        status = node["status"]["internalNodeStatus"]
        cpu, memory = status["capacity"]["cpu"], status["capacity"]["memory"]
        row = (
            status["nodeInfo"]["architecture"],
            cores.get(cpu) or int(cpu),
            mebibytes[memory],
            cluster == "local",
        )
        systems[row] += 1
        sizes[cluster] += 1
    groups = Counter(size for name, size in sizes.items() if name != "local")
    return {
        "systems": dict(systems),
        "clusters": {(size, False): count for size, count in groups.items()}
        | ({("local", sizes["local"]): 1} if "local" in names else {}),
    }


def facts(payload: dict[str, Any]) -> dict[str, Any]:
    """A payload's rows in the form of `recount`."""
    systems = {
        (row["arch"], row["cpu"], row["memory"], row.get("upstream", False)): row["count"]
        for row in payload["managedSystems"]
    }
    assert len(systems) == len(payload["managedSystems"]), "rows of one kind are one row"
    clusters: dict[Any, int] = {}
    for row in payload["managedClusters"]:
        key = ("local", row["nodes"]) if row.get("upstream") else (row["nodes"], False)
        clusters[key] = row["count"]
    return {"systems": systems, "clusters": clusters}


def recount_fleet(admin: Admin) -> dict[str, Any]:
    """What the fleet payload must count, from a fresh list; knows only the sizes of `SHAPES`."""
    millis = {"4": 4000, "8": 8000, "3920m": 3920, "16": 16000}
    sizes = {"16384256Ki": 16384256 << 10, "32Gi": 32 << 30, "129M": 129_000_000}
    names = {item["metadata"]["name"] for item in admin.list(collection(CLUSTERS))}
    clusters: dict[str, list[int]] = {name: [0, 0, 0] for name in names}
    shapes: Counter[tuple[str, str, int, int]] = Counter()
    orphans = 0
    for node in admin.list(collection(NODES)):
        name = node["metadata"]["namespace"]
        if name not in names:
            orphans += 1
            continue
        status = node["status"]["internalNodeStatus"]
        info, capacity = status["nodeInfo"], status["capacity"]
        cpu, memory = millis[capacity["cpu"]], sizes[capacity["memory"]]
        shapes[info["architecture"], info["kernelVersion"], cpu, memory] += 1
        clusters[name] = [
            total + one for total, one in zip(clusters[name], (1, cpu, memory), strict=True)
        ]
    return {
        "clusters": sorted((name == "local", *counts) for name, counts in clusters.items()),
        "shapes": dict(shapes),
        "orphans": orphans,
    }


def fleet_facts(payload: dict[str, Any]) -> dict[str, Any]:
    """A fleet payload's counts in the form of `recount_fleet`."""
    return {
        "clusters": sorted(
            (row["upstream"], row["nodes"], row["cpu_millis"], row["memory_bytes"])
            for row in payload["clusters"]
        ),
        "shapes": {
            (
                row["architecture"],
                row["kernel_version"],
                row["cpu_millis"],
                row["memory_bytes"],
            ): row["nodes"]
            for row in payload["node_shapes"]
        },
        "orphans": payload["totals"]["orphan_nodes"],
    }


def assert_well_formed(payload: dict[str, Any]) -> None:
    """What the consumer needs of the payload whatever else it says."""
    subscription = payload["subscription"]
    for key in ("installuuid", "product", "version", "arch", "git", "server_url"):
        assert isinstance(subscription[key], str), key
    uuid.UUID(subscription["installuuid"])
    uuid.UUID(subscription["clusteruuid"])
    datetime.fromisoformat(payload["timestamp"])
