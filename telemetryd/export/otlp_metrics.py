"""A snapshot as OpenTelemetry metrics: one ExportMetricsServiceRequest in Protobuf's JSON.

Keys are in lowerCamelCase, 64-bit integers are text. Names of attributes are OpenTelemetry's where
its semantic conventions have one (``service.*``, ``k8s.cluster.uid``, ``host.arch``); they have
none for fleets, so the metrics are our own. No URL and no name of a cluster or node is among them.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from telemetryd import __version__
from telemetryd.export.payload import CONTENT_TYPE, canonical_bytes
from telemetryd.model import Delivery, Payload, Snapshot

SERVICE_NAME: Final = "telemetryd"
_PREFIX: Final = "telemetryd.fleet."
_NANO: Final = 10**9
_INT64_MAX: Final = 2**63 - 1
_MOST_NANO: Final = _INT64_MAX * _NANO
"""No fleet comes near; a forged quantity can be any integer, and most don't fit a float."""

_Attributes = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Gauge:
    """One metric.

    Attributes:
        name: Without the prefix.
        unit: In UCUM, as OpenTelemetry writes it.
        points: Value by attributes: an integer, or a number where it may have a fraction.
    """

    name: str
    unit: str
    description: str
    points: tuple[tuple[_Attributes, int | float], ...]


class OtlpRenderer:
    """Makes the metrics of a snapshot, with a memory of the last one's digest.

    One of these serves any number of exporters.
    """

    __slots__ = ("_digest", "_snapshot")

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._digest = ""

    def __call__(self, snapshot: Snapshot, delivery: Delivery) -> Payload:
        """The metrics of the snapshot at the time of delivery; that is no part of the digest.

        Raises:
            PermanentError: The snapshot can't be written as JSON.
        """
        if snapshot is not self._snapshot:
            self._digest = sha256(canonical_bytes(render_request(snapshot, None))).hexdigest()
            self._snapshot = snapshot
        return Payload(
            body=canonical_bytes(render_request(snapshot, delivery.at)),
            content_type=CONTENT_TYPE,
            digest=self._digest,
            revision=snapshot.revision,
            schema_valid=True,
            schema_error="",
        )


def render_request(snapshot: Snapshot, at: float | None) -> dict[str, Any]:
    """The whole request.

    Args:
        snapshot: The fleet.
        at: Unix time in seconds of every data point; None leaves the times out.
    """
    identity = snapshot.identity
    resource = {
        "service.name": SERVICE_NAME,
        "service.version": __version__,
        "service.instance.id": identity.install_uuid,
        "k8s.cluster.uid": identity.cluster_uuid,
        "telemetryd.product.name": identity.product,
        "telemetryd.product.version": identity.version,
    }
    metrics = [_metric(gauge, at) for gauge in _gauges(snapshot) if gauge.points]
    scope = {"scope": {"name": SERVICE_NAME, "version": __version__}, "metrics": metrics}
    return {
        "resourceMetrics": [
            {"resource": {"attributes": _attributes(resource)}, "scopeMetrics": [scope]}
        ]
    }


def _gauges(snapshot: Snapshot) -> tuple[_Gauge, ...]:
    totals = snapshot.totals
    architectures: Counter[str] = Counter()
    for row in snapshot.systems:
        architectures[row.architecture] += row.count
    return (
        _by(
            "clusters",
            "{cluster}",
            "Clusters by kind.",
            "telemetryd.cluster.kind",
            {"local": totals.local_clusters, "managed": totals.managed_clusters},
        ),
        _one("nodes", "{node}", "Nodes of these clusters.", totals.nodes),
        _by(
            "nodes.by_architecture",
            "{node}",
            "Nodes by architecture.",
            "host.arch",
            architectures,
        ),
        _by(
            "nodes.by_role",
            "{node}",
            "Nodes by role; a node counts in each it has.",
            "telemetryd.node.role",
            totals.roles,
        ),
        _one("nodes.orphaned", "{node}", "Nodes whose cluster is gone.", totals.orphan_nodes),
        _by(
            "nodes.unreported",
            "{node}",
            "Nodes that don't report this capacity.",
            "telemetryd.node.resource",
            {"cpu": totals.unreported_cpu, "memory": totals.unreported_memory},
        ),
        _one(
            "cpu.capacity",
            "{cpu}",
            "CPU capacity of all nodes.",
            min(totals.cpu_nano, _MOST_NANO) / _NANO,
        ),
        _one(
            "memory.capacity",
            "By",
            "Memory capacity of all nodes.",
            -(-totals.memory_nano // _NANO),
        ),
        _by(
            "objects.unreadable",
            "{object}",
            "Objects that could not be read.",
            "telemetryd.resource",
            totals.unreadable,
        ),
        _one(
            "complete",
            "1",
            "1 where all was read and every informer is in contact.",
            int(snapshot.complete),
        ),
    )


def _one(name: str, unit: str, description: str, value: float) -> _Gauge:
    return _Gauge(name, unit, description, (({}, value),))


def _by(
    name: str, unit: str, description: str, attribute: str, counts: Mapping[str, int]
) -> _Gauge:
    points = tuple(({attribute: key}, count) for key, count in sorted(counts.items()))
    return _Gauge(name, unit, description, points)


def _metric(gauge: _Gauge, at: float | None) -> dict[str, Any]:
    return {
        "name": _PREFIX + gauge.name,
        "unit": gauge.unit,
        "description": gauge.description,
        "gauge": {"dataPoints": [_point(*point, at) for point in gauge.points]},
    }


def _point(attributes: _Attributes, value: float, at: float | None) -> dict[str, Any]:
    return {
        **({"attributes": _attributes(attributes)} if attributes else {}),
        **({} if at is None else {"timeUnixNano": str(int(at * 1000) * 1_000_000)}),
        **(
            {"asInt": str(min(value, _INT64_MAX))}
            if isinstance(value, int)
            else {"asDouble": value}
        ),
    }


def _attributes(values: _Attributes) -> list[dict[str, Any]]:
    return [{"key": key, "value": {"stringValue": value}} for key, value in sorted(values.items())]
