"""Stores that a test fills by hand, and records to fill them with."""

from telemetryd.gather.capacity import cpu_nano, memory_nano
from telemetryd.gather.gatherer import Readers
from telemetryd.informer.store import Store
from telemetryd.model import (
    ClusterRecord,
    FeatureRecord,
    NamespaceRecord,
    NodeRecord,
    NodeTraits,
    R,
    SettingRecord,
    Unreadable,
    own_of,
)
from telemetryd.stats import InformerStats

NOW_S = 1_750_000_000.0
INSTALL_UUID = "3f0c3a5e-8d3b-4c55-9a68-0c3d0c8a7a11"
CLUSTER_UUID = "b5a7c0f2-17f5-4a0e-9f59-6d7d3a0c9e22"


class FilledStore(Store[R]):
    """A store that a test fills; every put, delete and relist is a batch of its own."""

    def __init__(self, resource: str, *, synced: bool = True) -> None:
        self.stats = InformerStats(resource, last_contact_at=NOW_S, last_contact_boot_s=NOW_S)
        super().__init__(self.stats)
        if synced:
            self.sync()

    def put(self, key: str | None, record: R | Unreadable) -> None:
        if key is None:  # only a list brings such
            self.finish_list("1", keyless=1)
        else:
            self.upsert(key, record)
        self.flush()

    def delete(self, key: str) -> None:
        self.remove(key)
        self.flush()

    def refill(self, held: dict[str, R]) -> None:
        for key in self.missing_from(dict(held)):
            self.remove(key)
        for key, record in held.items():
            self.upsert(key, record)
        self.flush()

    def sync(self) -> None:
        self.finish_list("1", keyless=0)

    def contact(self, at_s: float | None) -> None:
        self.stats.last_contact_at = self.stats.last_contact_boot_s = at_s


class Fleet:
    """The five readers that a snapshot needs, whole and empty of clusters to begin with."""

    def __init__(self, *, synced: bool = True) -> None:
        group = "management.cattle.io"
        self.clusters = FilledStore[ClusterRecord](f"clusters.{group}", synced=synced)
        self.nodes = FilledStore[NodeRecord](f"nodes.{group}", synced=synced)
        self.settings = FilledStore[SettingRecord](f"settings.{group}", synced=synced)
        self.features = FilledStore[FeatureRecord](f"features.{group}", synced=synced)
        self.kube_system = FilledStore[NamespaceRecord]("namespaces", synced=synced)
        self.set("install-uuid", INSTALL_UUID)
        self.set("server-url", "https://rancher.example.org")
        self.set("server-version", "v2.15.0")
        self.set("server-version-type", "prime")
        self.kube_system.put("kube-system", NamespaceRecord(uid=CLUSTER_UUID))

    def readers(self) -> Readers:
        return Readers(
            clusters=self.clusters,
            nodes=self.nodes,
            settings=self.settings,
            features=self.features,
            kube_system=self.kube_system,
        )

    def set(self, name: str, value: str) -> None:
        self.settings.put(name, SettingRecord(uid=f"uid-{name}", value=value))

    def feature(self, name: str, record: FeatureRecord) -> None:
        self.features.put(name, record)

    def cluster(self, name: str, *nodes: NodeRecord) -> None:
        self.clusters.put(name, cluster(name))
        for number, record in enumerate(nodes):
            self.nodes.put(f"{name}/{number}", record)


def cluster(name: str) -> ClusterRecord:
    return ClusterRecord(uid=f"uid-{name}", kubernetes_version="v1.33.1")


def node(
    cpu: str | float | None = "4",
    memory: str | float | None = "16Gi",
    *,
    architecture: str = "amd64",
    roles: tuple[str, ...] = ("worker",),
    uid: str = "uid",
) -> NodeRecord:
    return NodeRecord(
        own=own_of(uid, memory_nano(memory)),
        traits=NodeTraits(architecture, "linux", roles, cpu_nano(cpu)),
        container_runtime="containerd://2.0.5",
        kernel_version="6.4.0",
    )


def feature(
    *,
    value: bool | None = None,
    default: bool = False,
    locked: bool | None = None,
    prime: bool = False,
) -> FeatureRecord:
    return FeatureRecord(uid="uid", value=value, default=default, locked=locked, prime=prime)
