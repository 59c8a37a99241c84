"""The fleet payload, made of a snapshot; ``fleet_document`` declares and validates it."""

from collections.abc import Callable, Iterable
from dataclasses import asdict
from operator import attrgetter
from typing import Any, Final

from telemetryd import __version__
from telemetryd.errors import PermanentError, Reason
from telemetryd.export.payloads.fleet_document import SCHEMA_VERSION, validate_fleet
from telemetryd.export.payloads.fleet_rows import MAX_AMOUNT, Cluster, NodeShapes
from telemetryd.export.payloads.payload import DocumentRenderer, render_rfc3339
from telemetryd.export.payloads.rendered_rows import RenderedRows
from telemetryd.model import (
    Amounts,
    ClusterDetail,
    Delivery,
    FleetDetail,
    Gpus,
    GroupKey,
    RoleCounts,
    ShapeDetail,
    Snapshot,
    Sums,
    Totals,
    split,
    total,
)
from telemetryd.quantity import next_power, up_to

_NANO_PER_MILLI: Final = 10**6
_NANO: Final = 10**9
_GIB_NANO: Final = 2**30 * _NANO
_NO_AMOUNTS: Final = Amounts()


def fleet_renderer(
    render: Callable[[Snapshot, FleetDetail], dict[str, Any]] | None = None,
    validate: Callable[[bytes], str] = validate_fleet,
) -> DocumentRenderer:
    """Makes fleet payloads of one version."""

    def facts(snapshot: Snapshot) -> dict[str, Any]:
        if snapshot.detail is None:
            raise PermanentError(
                Reason.INTERNAL, "the snapshot was made without what the fleet payload needs"
            )
        return make(snapshot, snapshot.detail)

    make = render or _FleetFacts()
    return DocumentRenderer(facts, "delivery", _delivery, validate)


def _delivery(delivery: Delivery, digest: str) -> dict[str, Any]:
    return {
        "timestamp": render_rfc3339(delivery.at),
        "sequence": delivery.sequence,
        "epoch": delivery.epoch,
        "digest": digest,
    }


class _FleetFacts:
    """Makes fleet documents without delivery; every array is sorted, so that facts decide bytes."""

    def __init__(self) -> None:
        self._clusters = RenderedRows(_cluster, Cluster, cluster_order)
        self._shapes = RenderedRows(_shape, NodeShapes, attrgetter("shape.order"))

    def __call__(self, snapshot: Snapshot, detail: FleetDetail) -> dict[str, Any]:
        return {
            **_facts(snapshot, coarse=detail.coarse),
            "clusters": self._clusters(detail.clusters),
            "node_shapes": self._shapes(detail.shapes),
        }


def _facts(snapshot: Snapshot, *, coarse: bool) -> dict[str, Any]:
    """All but the rows of clusters and of shapes."""
    totals = snapshot.totals
    entitled = totals.entitled

    def parts(name: str, by: Callable[[GroupKey], str]) -> list[dict[str, Any]]:
        found = split(totals.groups, by)
        return [{name: part, **_part(sums, coarse=coarse)} for part, sums in found.items()]

    return {
        **core_facts(snapshot),
        "schema_version": SCHEMA_VERSION,
        "complete": snapshot.complete and not snapshot.doubts,
        "incomplete_reasons": sorted(snapshot.incomplete_reasons + snapshot.doubts),
        "totals": {**core_totals(totals, coarse=coarse), **_more_totals(totals, coarse=coarse)},
        "by_kind": parts("kind", lambda key: key.kind),
        "by_provider": parts("provider", lambda key: key.provider),
        "by_driver": parts("driver", lambda key: key.driver),
        "by_management": parts("management", lambda key: key.management),
        "by_kubernetes_minor": parts("minor", lambda key: key.kubernetes_minor),
        "entitlement": {
            "clusters": entitled.clusters,
            "nodes": _count(entitled.nodes, coarse=coarse),
            "cpu_millis": _cpu(entitled.cpu_nano, coarse=coarse),
        },
    }


def core_facts(snapshot: Snapshot) -> dict[str, Any]:
    """The keys that are the same in every version of the document."""
    return {
        "telemetryd_version": __version__,
        "installation": asdict(snapshot.identity),
        "complete": snapshot.complete,
        "incomplete_reasons": sorted(snapshot.incomplete_reasons),
        "feature_flags": sorted(set(snapshot.features)),
        "unreadable": [
            {"resource": resource, "objects": number}
            for resource, number in sorted(snapshot.totals.unreadable.items())
        ],
    }


def cluster_order(cluster: ClusterDetail) -> tuple[Any, ...]:
    """The upstream cluster, then by id; by all else where no ids are sent."""
    return (
        not cluster.upstream,
        cluster.id,
        cluster.nodes,
        cluster.cpu_nano,
        cluster.memory_nano,
        cluster.kubernetes_version,
        cluster.roles,
        cluster.unreported_cpu,
        cluster.unreported_memory,
        cluster.group,
        cluster.unreadable_nodes,
        cluster.gpus,
        _orderable(cluster.node_count),
        *map(_orderable, _listed(cluster.capacity)),
        *map(_orderable, _listed(cluster.requested)),
        cluster.differs,
    )


def _listed(amounts: Amounts | None) -> Iterable[int | None]:
    given = amounts or _NO_AMOUNTS
    return (given.cpu_nano, given.memory_nano, given.pods)


def _orderable(number: int | None) -> int:
    return -1 if number is None else number


def core_cluster(cluster: ClusterDetail) -> dict[str, Any]:
    """The row of a cluster, in every version of the document."""
    row = {
        "upstream": cluster.upstream,
        "kubernetes_version": cluster.kubernetes_version,
        "nodes": cluster.nodes,
        "roles": dict(zip(RoleCounts._fields, cluster.roles, strict=True)),
        "cpu_millis": _millis(cluster.cpu_nano),
        "memory_bytes": _whole(cluster.memory_nano),
        "unreported_cpu": cluster.unreported_cpu,
        "unreported_memory": cluster.unreported_memory,
    }
    if cluster.id:
        row["id"] = cluster.id
    return row


def _cluster(cluster: ClusterDetail) -> dict[str, Any]:
    group = cluster.group
    return {
        **core_cluster(cluster),
        "provider": group.provider,
        "driver": group.driver,
        "management": group.management,
        "active": group.active,
        "deleting": group.deleting,
        "stale": group.stale,
        "unreadable_nodes": cluster.unreadable_nodes,
        "gpus": _gpus(cluster.gpus),
        "reported": {"nodes": _capped(cluster.node_count), **_amounts(cluster.capacity)},
        "requested": _amounts(cluster.requested),
        "differs": cluster.differs,
    }


def _gpus(gpus: Gpus) -> dict[str, int]:
    return gpus._asdict()


def _amounts(amounts: Amounts | None) -> dict[str, int | None]:
    given = amounts or _NO_AMOUNTS
    return {
        "cpu_millis": None if given.cpu_nano is None else _millis(given.cpu_nano),
        "memory_bytes": None if given.memory_nano is None else _whole(given.memory_nano),
        "pods": _capped(given.pods),
    }


def core_shape(counted: ShapeDetail) -> dict[str, Any]:
    """The row of nodes that are alike, in every version of the document."""
    shape = counted.shape
    return {
        "roles": list(shape.roles),
        "architecture": shape.architecture,
        "operating_system": shape.operating_system,
        "container_runtime": shape.container_runtime,
        "kernel_version": shape.kernel_version,
        "cpu_millis": None if shape.cpu_nano is None else _millis(shape.cpu_nano),
        "memory_bytes": None if shape.memory_nano is None else _whole(shape.memory_nano),
        "nodes": counted.nodes,
    }


def _shape(counted: ShapeDetail) -> dict[str, Any]:
    shape = counted.shape
    return {**core_shape(counted), "gpus": _gpus(shape.gpus), "readable": shape.readable}


def core_totals(totals: Totals, *, coarse: bool) -> dict[str, Any]:
    """Sums that every version of the document has."""
    return {
        "clusters": totals.local_clusters + totals.managed_clusters,
        "nodes": totals.nodes,
        "orphan_nodes": totals.orphan_nodes,
        "roles": totals.roles,
        "cpu_millis": _millis(up_to(totals.cpu_nano, _NANO) if coarse else totals.cpu_nano),
        "memory_bytes": _whole(
            up_to(totals.memory_nano, _GIB_NANO) if coarse else totals.memory_nano
        ),
        "unreported_cpu": totals.unreported_cpu,
        "unreported_memory": totals.unreported_memory,
    }


def _more_totals(totals: Totals, *, coarse: bool) -> dict[str, Any]:
    everything = totals.everything
    stale = total(totals.groups, lambda key: key.stale)
    return {
        "unreadable_nodes": everything.unreadable_nodes,
        "active_clusters": total(totals.groups, lambda key: key.active).clusters,
        "deleting_clusters": total(totals.groups, lambda key: key.deleting).clusters,
        "stale_clusters": stale.clusters,
        "stale_nodes": _count(stale.nodes, coarse=coarse),
        "differing_clusters": everything.differing_clusters,
        "gpus": _gpus(everything.gpus),
        "reporting_clusters": everything.sized_clusters,
        "reported_pods": _capped(_count(everything.pods, coarse=coarse)),
        "requesting_clusters": everything.requesting_clusters,
        "requested_cpu_millis": _cpu(everything.requested_cpu_nano, coarse=coarse),
        "requested_memory_bytes": _memory(everything.requested_memory_nano, coarse=coarse),
        "requested_pods": _capped(_count(everything.requested_pods, coarse=coarse)),
    }


def _part(sums: Sums, *, coarse: bool) -> dict[str, Any]:
    """Clusters that are alike in one thing; one of them may be the only one."""
    return {
        "clusters": sums.clusters,
        "nodes": _count(sums.nodes, coarse=coarse),
        "cpu_millis": _cpu(sums.cpu_nano, coarse=coarse),
        "memory_bytes": _memory(sums.memory_nano, coarse=coarse),
    }


def _count(number: int, *, coarse: bool) -> int:
    return next_power(number) if coarse else number


def _cpu(nano: int, *, coarse: bool) -> int:
    return _millis(next_power(-(-nano // _NANO)) * _NANO if coarse else nano)


def _memory(nano: int, *, coarse: bool) -> int:
    return _whole(next_power(-(-nano // _GIB_NANO)) * _GIB_NANO if coarse else nano)


def _capped(number: int | None) -> int | None:
    return None if number is None else min(number, MAX_AMOUNT)


def _millis(nano: int) -> int:
    """Whole 1e-3 cores of an amount in 1e-9 cores, rounded up and capped."""
    return min(-(-nano // _NANO_PER_MILLI), MAX_AMOUNT)


def _whole(nano: int) -> int:
    """Whole bytes of an amount in 1e-9 bytes, rounded up and capped."""
    return min(-(-nano // _NANO), MAX_AMOUNT)
