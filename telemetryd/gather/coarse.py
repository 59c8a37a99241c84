"""The fleet in detail without what a cluster could be recognised by, for ``cluster_ids = "omit"``.

Sums to the byte are as good as an id: they stay the same from one run to the next. Rows of clusters
keep the order of magnitude of each number, up to the next power of two, and the minor version of
Kubernetes; shapes of nodes keep whole cores and whole GiB, and shapes that are then alike are one.
"""

import re
from collections import Counter
from dataclasses import replace
from typing import Final

from telemetryd.model import ClusterDetail, FleetDetail, NodeShape, RoleCounts, ShapeDetail

_NANO: Final = 10**9
_GIB_NANO: Final = 2**30 * _NANO
_MINOR: Final = re.compile(r"v?[0-9]+\.[0-9]+")


def coarsen(detail: FleetDetail) -> FleetDetail:
    """The detail with rounded rows; all is rounded up."""
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
        nodes=_power(cluster.nodes),
        roles=RoleCounts(*map(_power, cluster.roles)),
        cpu_nano=_power(-(-cluster.cpu_nano // _NANO)) * _NANO,
        memory_nano=_power(-(-cluster.memory_nano // _GIB_NANO)) * _GIB_NANO,
        unreported_cpu=_power(cluster.unreported_cpu),
        unreported_memory=_power(cluster.unreported_memory),
    )


def _shape(shape: NodeShape) -> NodeShape:
    cpu, memory = shape.cpu_nano, shape.memory_nano
    return replace(
        shape,
        cpu_nano=None if cpu is None else up_to(cpu, _NANO),
        memory_nano=None if memory is None else up_to(memory, _GIB_NANO),
    )


def up_to(amount: int, unit: int) -> int:
    """An amount in whole units, rounded up."""
    return -(-amount // unit) * unit


def _power(number: int) -> int:
    """The next power of two; 0 for 0."""
    return 1 << (number - 1).bit_length() if number > 0 else 0
