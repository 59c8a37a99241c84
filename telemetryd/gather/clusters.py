"""The allow-list of clusters: the fields that are read, and how a cluster becomes a record.

The configuration of a hosted cluster holds credentials. Only its existence is read, and whether the
cluster was imported.
"""

import sys
from typing import Final

import msgspec

from telemetryd import bounds
from telemetryd.gather import texts
from telemetryd.gather.capacity import Quantity, cpu_nano, memory_nano, whole_number
from telemetryd.gather.project import LOCAL_CLUSTER, management_resource, require_uid
from telemetryd.informer.resource import KubeObject, ObjectMeta
from telemetryd.model import Amounts, ClusterRecord, ClusterTraits


class _ClusterLabels(msgspec.Struct, gc=False, rename={"provider": "provider.cattle.io"}):
    provider: str | None = None


class _ClusterAnnotations(
    msgspec.Struct, gc=False, rename={"administrated": "provisioning.cattle.io/administrated"}
):
    """The one annotation that is read: Rancher provisions this cluster."""

    administrated: str | None = None


class _ClusterMeta(ObjectMeta, gc=False):
    labels: _ClusterLabels | None = None
    annotations: _ClusterAnnotations | None = None
    deletionTimestamp: str | None = None  # noqa: N815 - the field's name in JSON


class _HostedConfig(msgspec.Struct, gc=False):
    """``spec.eksConfig`` and similar."""

    imported: bool | None = None


class _Given(msgspec.Struct, gc=False):
    """An object of which only the existence is read."""


class _ClusterSpec(msgspec.Struct, gc=False, rename="camel"):
    aks_config: _HostedConfig | None = None
    ali_config: _HostedConfig | None = None
    eks_config: _HostedConfig | None = None
    gke_config: _HostedConfig | None = None
    generic_engine_config: _Given | None = None


class _ClusterVersion(msgspec.Struct, gc=False, rename="camel"):
    """``status.version`` of a cluster (version.Info of k8s.io/apimachinery)."""

    git_version: str | None = None


class _ClusterCondition(msgspec.Struct, gc=False):
    type: str | None = None
    status: str | None = None
    reason: str | None = None


class _ClusterResources(msgspec.Struct, gc=False):
    """``status.capacity`` and ``status.requested``: quantities."""

    cpu: Quantity = None
    memory: Quantity = None
    pods: Quantity = None


class _ClusterStatus(msgspec.Struct, gc=False, rename="camel"):
    provider: str | None = None
    driver: str | None = None
    version: _ClusterVersion | None = None
    node_count: int | None = None
    capacity: _ClusterResources | None = None
    requested: _ClusterResources | None = None
    conditions: list[_ClusterCondition | None] | None = None


class ClusterObject(KubeObject, gc=False):
    """What is read of clusters.management.cattle.io."""

    metadata: _ClusterMeta | None = None
    spec: _ClusterSpec | None = None
    status: _ClusterStatus | None = None


_UNREACHED: Final = frozenset({"Disconnected", "ComponentStatusFetchingFailure"})
"""Reasons of a condition ``Ready`` that isn't true: the agent isn't connected, or the API server
of the cluster doesn't answer. Others mean that Rancher reaches a cluster which is not well."""

_HOSTED_DRIVERS: Final = frozenset({"aks", "alibaba", "eks", "gke"})
_NO_AMOUNTS: Final = Amounts()
_NO_META: Final = _ClusterMeta()
_NO_SPEC: Final = _ClusterSpec()
_NO_STATUS: Final = _ClusterStatus()
_NO_CONDITION: Final = _ClusterCondition()
_traits: Final[dict[ClusterTraits, ClusterTraits]] = {}


def project_cluster(key: str, cluster: ClusterObject) -> ClusterRecord:
    """The record of a cluster.

    Raises:
        UnreadableObject: It has no UID.
    """
    uid = require_uid(cluster.metadata)
    status = cluster.status or _NO_STATUS
    version = texts.kubernetes_version(
        bounds.version(status.version.git_version if status.version is not None else None)
    )
    traits = _traits_of(key, cluster, version)
    count = status.node_count
    return ClusterRecord(
        uid=uid,
        kubernetes_version=sys.intern(version),
        traits=_traits.setdefault(traits, traits),
        node_count=count if count is not None and count >= 0 else None,
        capacity=_amounts(status.capacity),
        requested=_amounts(status.requested),
    )


def _traits_of(key: str, cluster: ClusterObject, version: str) -> ClusterTraits:
    meta, status = cluster.metadata or _NO_META, cluster.status or _NO_STATUS
    driver = texts.driver(bounds.version(status.driver))
    management = _management(key, meta, cluster.spec or _NO_SPEC, driver)
    label = meta.labels.provider if meta.labels is not None else None
    provider = (
        texts.provider(bounds.version(status.provider))
        or texts.provider(bounds.version(label))
        or texts.provider_of_driver(driver)
        or texts.provider_of_version(version)
    )
    if not provider and management == driver == "imported":
        provider = "imported"
    conditions = {
        condition.type: condition for condition in status.conditions or () if condition is not None
    }
    ready = conditions.get("Ready", _NO_CONDITION)
    connected = conditions.get("Connected", _NO_CONDITION).status
    return ClusterTraits(
        provider=provider,
        driver=driver,
        management=management,
        active=ready.status == "True",
        deleting=bool(meta.deletionTimestamp),
        stale=(connected is not None and connected != "True")
        or (ready.status != "True" and ready.reason in _UNREACHED),
    )


def _management(key: str, meta: _ClusterMeta, spec: _ClusterSpec, driver: str) -> str:
    """How it was made, with the same distinctions as Rancher's own page."""
    if key == LOCAL_CLUSTER:
        return "local"
    administrated = meta.annotations.administrated if meta.annotations is not None else None
    if administrated == "true" or driver == "rke":
        return "provisioned"
    for hosted in (spec.aks_config, spec.ali_config, spec.eks_config, spec.gke_config):
        if hosted is not None:
            return "imported" if hosted.imported else "hosted"
    if spec.generic_engine_config is not None or driver in _HOSTED_DRIVERS:
        return "hosted"
    return "imported"


def _amounts(given: _ClusterResources | None) -> Amounts | None:
    """The amounts that can be parsed; None if there are none."""
    if given is None:
        return None
    amounts = Amounts(
        cpu_nano=cpu_nano(given.cpu),
        memory_nano=memory_nano(given.memory),
        pods=whole_number(given.pods),
    )
    return None if amounts == _NO_AMOUNTS else amounts


CLUSTERS: Final = management_resource("clusters", "Cluster", ClusterObject, project_cluster)
