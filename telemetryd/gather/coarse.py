"""The fleet's detail with rounded numbers, for ``cluster_ids = "omit"``.

Exact sums are as good as an id, because they repeat from one payload to the next. In rows of
clusters each number becomes the next power of two, and the version of Kubernetes its minor version.
Shapes of nodes have whole cores and GiB, and equal shapes become one.
"""

import re
from collections import Counter
from dataclasses import replace
from typing import Final

from telemetryd.model import (
    Amounts,
    ClusterDetail,
    FleetDetail,
    Gpus,
    NodeShape,
    RoleCounts,
    ShapeDetail,
)
from telemetryd.quantity import next_power, up_to

_NANO: Final = 10**9
_GIB_NANO: Final = 2**30 * _NANO
_MINOR: Final = re.compile(r"v?[0-9]+\.[0-9]+")


def coarsen(detail: FleetDetail) -> FleetDetail:
    """The detail with all numbers rounded up."""
    shapes: Counter[NodeShape] = Counter()
    for counted in detail.shapes:
        shapes[_shape(counted.shape)] += counted.nodes
    return FleetDetail(
        clusters=tuple(map(_cluster, detail.clusters)),
        shapes=tuple(ShapeDetail(shape, nodes) for shape, nodes in shapes.items()),
        coarse=True,
    )


def _cluster(cluster: ClusterDetail) -> ClusterDetail:
    minor = _MINOR.match(cluster.kubernetes_version)
    return ClusterDetail(
        id="",
        upstream=cluster.upstream,
        kubernetes_version=minor.group() if minor else cluster.kubernetes_version,
        nodes=next_power(cluster.nodes),
        roles=RoleCounts(*map(next_power, cluster.roles)),
        cpu_nano=_power(cluster.cpu_nano, _NANO),
        memory_nano=_power(cluster.memory_nano, _GIB_NANO),
        unreported_cpu=next_power(cluster.unreported_cpu),
        unreported_memory=next_power(cluster.unreported_memory),
        group=cluster.group,
        unreadable_nodes=next_power(cluster.unreadable_nodes),
        gpus=Gpus(*map(next_power, cluster.gpus)),
        node_count=None if cluster.node_count is None else next_power(cluster.node_count),
        capacity=_amounts(cluster.capacity),
        requested=_amounts(cluster.requested),
        differs=cluster.differs,
    )


def _amounts(amounts: Amounts | None) -> Amounts | None:
    if amounts is None:
        return None
    cpu, memory, pods = amounts.cpu_nano, amounts.memory_nano, amounts.pods
    return Amounts(
        cpu_nano=None if cpu is None else _power(cpu, _NANO),
        memory_nano=None if memory is None else _power(memory, _GIB_NANO),
        pods=None if pods is None else next_power(pods),
    )


def _shape(shape: NodeShape) -> NodeShape:
    cpu, memory = shape.cpu_nano, shape.memory_nano
    return replace(
        shape,
        cpu_nano=None if cpu is None else up_to(cpu, _NANO),
        memory_nano=None if memory is None else up_to(memory, _GIB_NANO),
    )


def _power(amount: int, unit: int) -> int:
    return next_power(-(-amount // unit)) * unit
