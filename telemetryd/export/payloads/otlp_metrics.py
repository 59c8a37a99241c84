"""A snapshot as OpenTelemetry metrics: one ExportMetricsServiceRequest in Protobuf's JSON.

Keys are in lowerCamelCase, 64-bit integers are text. Names of attributes are OpenTelemetry's where
its semantic conventions have one (``service.*``, ``k8s.cluster.uid``, ``host.arch``); they have
none for fleets, so the metrics are our own. No URL and no name of a cluster or node is among them.
What is sent is made of the tables below, and so is what is disclosed of it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from msgspec import Meta

from telemetryd import __version__
from telemetryd.export.payloads.payload import (
    CLUSTER_UUID,
    CONTENT_TYPE,
    INSTALL_UUID,
    PRODUCT,
    VERSION,
    canonical_bytes,
    capacity,
    field_at,
    node_info,
    sent,
)
from telemetryd.model import Delivery, Field, Identity, Payload, Snapshot

SERVICE_NAME: Final = "telemetryd"
_PREFIX: Final = "telemetryd.fleet."
_NANO: Final = 10**9
_INT64_MAX: Final = 2**63 - 1
_MOST_NANO: Final = _INT64_MAX * _NANO
"""No fleet comes near; a forged quantity can be any integer, and most don't fit a float."""

_Attributes = Mapping[str, str]
_Points = tuple[tuple[_Attributes, int | float], ...]
_Value = Callable[[Snapshot], int | float]
_Counts = Callable[[Snapshot], Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class _Resource:
    """One attribute of the resource: its name, its value, and what it discloses."""

    key: str
    value: Callable[[Identity], str]
    declared: Meta


@dataclass(frozen=True, slots=True)
class _Gauge:
    """One metric.

    Attributes:
        unit: In UCUM, as OpenTelemetry writes it; empty for a gauge that is 0 or 1.
        value: Of the only point: an integer, or a number where it may have a fraction.
        attribute: Of each point where there are several.
        counts: Their values by that attribute's.
        by: Where the attribute's values come from, with a Rancher and without.
    """

    name: str
    unit: str
    description: str
    source: tuple[str, str]
    value: _Value | None = None
    attribute: str = ""
    counts: _Counts = lambda _: {}
    by: tuple[str, str] = ("a closed list", "a closed list")

    def points(self, snapshot: Snapshot) -> _Points:
        """Value by attributes."""
        if self.value is not None:
            return (({}, self.value(snapshot)),)
        counts = self.counts(snapshot)
        return tuple(({self.attribute: key}, count) for key, count in sorted(counts.items()))

    def fields(self) -> Iterator[Field]:
        """What it discloses."""
        name = _PREFIX + self.name
        yield Field(name, self.description.rstrip("."), *self.source)
        if self.attribute:
            yield Field(f"{name}{{{self.attribute}}}", "What these are counted by", *self.by)


def _architectures(snapshot: Snapshot) -> Mapping[str, int]:
    architectures: Counter[str] = Counter()
    for row in snapshot.systems:
        architectures[row.architecture] += row.count
    return architectures


def _constant(what: str) -> Meta:
    return sent(what, "a constant")


_COUNTED: Final = ("counted", "counted")
_RESOURCE: Final = (
    _Resource("service.name", lambda _: SERVICE_NAME, _constant("The word telemetryd")),
    _Resource("service.version", lambda _: __version__, _constant("Version of telemetryd")),
    _Resource("service.instance.id", lambda who: who.install_uuid, INSTALL_UUID),
    _Resource("k8s.cluster.uid", lambda who: who.cluster_uuid, CLUSTER_UUID),
    _Resource("telemetryd.product.name", lambda who: who.product, PRODUCT),
    _Resource("telemetryd.product.version", lambda who: who.version, VERSION),
)
_GAUGES: Final = (
    _Gauge(
        "clusters",
        "{cluster}",
        "Clusters by kind.",
        _COUNTED,
        attribute="telemetryd.cluster.kind",
        counts=lambda snapshot: {
            "local": snapshot.totals.local_clusters,
            "managed": snapshot.totals.managed_clusters,
        },
    ),
    _Gauge(
        "nodes",
        "{node}",
        "Nodes of these clusters.",
        _COUNTED,
        value=lambda snapshot: snapshot.totals.nodes,
    ),
    _Gauge(
        "nodes.by_architecture",
        "{node}",
        "Nodes by architecture.",
        _COUNTED,
        attribute="host.arch",
        counts=_architectures,
        by=node_info("architecture"),
    ),
    _Gauge(
        "nodes.by_role",
        "{node}",
        "Nodes by role; a node counts in each it has.",
        _COUNTED,
        attribute="telemetryd.node.role",
        counts=lambda snapshot: snapshot.totals.roles,
        by=("nodes' spec.controlPlane, spec.etcd and spec.worker", "nodes' labels of roles"),
    ),
    _Gauge(
        "nodes.orphaned",
        "{node}",
        "Nodes whose cluster is gone.",
        _COUNTED,
        value=lambda snapshot: snapshot.totals.orphan_nodes,
    ),
    _Gauge(
        "nodes.unreported",
        "{node}",
        "Nodes that don't report this capacity.",
        _COUNTED,
        attribute="telemetryd.node.resource",
        counts=lambda snapshot: {
            "cpu": snapshot.totals.unreported_cpu,
            "memory": snapshot.totals.unreported_memory,
        },
    ),
    _Gauge(
        "cpu.capacity",
        "{cpu}",
        "CPU capacity of all nodes.",
        capacity("cpu"),
        value=lambda snapshot: min(snapshot.totals.cpu_nano, _MOST_NANO) / _NANO,
    ),
    _Gauge(
        "memory.capacity",
        "By",
        "Memory capacity of all nodes.",
        capacity("memory"),
        value=lambda snapshot: -(-snapshot.totals.memory_nano // _NANO),
    ),
    _Gauge(
        "objects.unreadable",
        "{object}",
        "Objects that could not be read.",
        _COUNTED,
        attribute="telemetryd.resource",
        counts=lambda snapshot: snapshot.totals.unreadable,
        by=("the resource's name", "the resource's name"),
    ),
    _Gauge(
        "complete",
        "",  # of "1" Prometheus makes a ratio
        "1 where all was read and every informer is in contact.",
        ("computed", "computed"),
        value=lambda snapshot: int(snapshot.complete),
    ),
)

FIELDS: Final = (
    *(field_at(f"resource{{{each.key}}}", each.declared) for each in _RESOURCE),
    field_at("scope.name", _constant("The word telemetryd")),
    field_at("scope.version", _constant("Version of telemetryd")),
    *(field for gauge in _GAUGES for field in gauge.fields()),
    field_at("timeUnixNano", sent("When the metrics were made", "the clock")),
)
"""All that leaves in these metrics."""


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

    Without ``at`` (Unix seconds) the times are left out.
    """
    identity = snapshot.identity
    resource = {each.key: each.value(identity) for each in _RESOURCE}
    described = ((gauge, gauge.points(snapshot)) for gauge in _GAUGES)
    metrics = [_metric(gauge, points, at) for gauge, points in described if points]
    scope = {"scope": {"name": SERVICE_NAME, "version": __version__}, "metrics": metrics}
    return {
        "resourceMetrics": [
            {"resource": {"attributes": _attributes(resource)}, "scopeMetrics": [scope]}
        ]
    }


def _metric(gauge: _Gauge, points: _Points, at: float | None) -> dict[str, Any]:
    return {
        "name": _PREFIX + gauge.name,
        "unit": gauge.unit,
        "description": gauge.description,
        "gauge": {"dataPoints": [_point(*point, at) for point in points]},
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
