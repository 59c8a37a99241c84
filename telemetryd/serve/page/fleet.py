"""What ``/status.json`` says of the fleet: sums, by what clusters are and how they are."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from telemetryd.model import GroupKey, Totals, split, total

_NANO = 1_000_000_000


def render_fleet(totals: Totals) -> dict[str, Any]:
    """The fleet, of JSON types only; it shows kinds of clusters, and no single one."""
    everything = totals.everything
    stale = total(totals.groups, lambda key: key.stale)
    return {
        "clusters": {"local": totals.local_clusters, "managed": totals.managed_clusters},
        "nodes": totals.nodes,
        "node_roles": dict(totals.roles),
        "cpu_cores": totals.cpu_nano / _NANO,
        "memory_bytes": totals.memory_nano // _NANO,
        "gpus": everything.gpus._asdict(),
        "by_kind": _parts(totals, lambda key: key.kind),
        "by_provider": _parts(totals, lambda key: key.provider),
        "by_driver": _parts(totals, lambda key: key.driver),
        "by_management": _parts(totals, lambda key: key.management),
        "by_kubernetes_minor": _parts(totals, lambda key: key.kubernetes_minor),
        "active_clusters": total(totals.groups, lambda key: key.active).clusters,
        "deleting_clusters": total(totals.groups, lambda key: key.deleting).clusters,
        "stale_clusters": stale.clusters,
        "stale_nodes": stale.nodes,
        "differing_clusters": everything.differing_clusters,
        "drops": [asdict(drop) for drop in totals.drops],
        "pod_capacity": everything.pods,
        "requested": {
            "pods": everything.requested_pods,
            "cpu_cores": everything.requested_cpu_nano / _NANO,
            "memory_bytes": everything.requested_memory_nano // _NANO,
        },
        "unreported_nodes": {"cpu": totals.unreported_cpu, "memory": totals.unreported_memory},
        "unreadable_nodes": everything.unreadable_nodes,
        "orphan_nodes": totals.orphan_nodes,
        "unreadable_objects": dict(totals.unreadable),
        "withheld_texts": dict(totals.withheld),
    }


def _parts(totals: Totals, part_of: Callable[[GroupKey], str]) -> dict[str, Any]:
    return {
        part: {
            "clusters": sums.clusters,
            "nodes": sums.nodes,
            "cpu_cores": sums.cpu_nano / _NANO,
        }
        for part, sums in split(totals.groups, part_of).items()
    }
