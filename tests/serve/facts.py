"""Statuses, counters and a snapshot to serve: made once, varied by keyword."""

from dataclasses import dataclass, field, replace
from typing import Any

from telemetryd.export.payloads.formats import PAYLOAD_FORMATS
from telemetryd.model import (
    LOCAL,
    MANAGED,
    ClusterGroup,
    ConfigStatus,
    Disclosure,
    Drop,
    ExporterState,
    ExporterStatus,
    GroupKey,
    HistoryStatus,
    Identity,
    InformerStatus,
    Snapshot,
    SourceKind,
    Sums,
    Switches,
    Totals,
)
from telemetryd.serve.metrics.family import MetricsFacts
from telemetryd.serve.metrics.metrics import MetricsRenderer
from telemetryd.serve.page.facts import StatusFacts
from telemetryd.stats import (
    ConfigStats,
    ExporterStats,
    GatherStats,
    Histogram,
    InformerStats,
    KubeStats,
)

NOW = 1_800_000_000.0
NODES = "nodes.management.cattle.io"
CONFIG_HASH = (1 << 48) - 3
INSTALL_UUID = "6f1e1c2e-3f3b-4a53-9d5f-0d9d2a3b4c5d"

SCC_DISCLOSURE = Disclosure("scc", PAYLOAD_FORMATS["scc"].fields)

LOCAL_KEY = GroupKey(LOCAL, "rke2", "rke2", "local", "1.33", True, False, False)
MANAGED_KEY = replace(LOCAL_KEY, kind=MANAGED, driver="imported", management="provisioned")
EKS_KEY = replace(MANAGED_KEY, provider="eks", driver="eks", management="hosted")
ODD_KEY = replace(MANAGED_KEY, provider="other", driver="other", management="imported")
GIB_NANO = 2**30 * 10**9


def group(key: GroupKey, clusters: int, nodes: int, **sums: int) -> ClusterGroup:
    """Clusters of one kind; each node has 4 cores, 16 GiB, and 20 pods that request 1 and 2."""
    reported = {
        "sized_clusters": clusters,
        "pods": 110 * nodes,
        "requesting_clusters": clusters,
        "requested_cpu_nano": 10**9 * nodes,
        "requested_memory_nano": 2 * GIB_NANO * nodes,
        "requested_pods": 20 * nodes,
    }
    return ClusterGroup(
        key,
        Sums(
            clusters=clusters,
            nodes=nodes,
            cpu_nano=4 * 10**9 * nodes,
            memory_nano=16 * GIB_NANO * nodes,
            **{**reported, **sums},
        ),
    )


UNREPORTED = {
    "sized_clusters": 0,
    "pods": 0,
    "requesting_clusters": 0,
    "requested_cpu_nano": 0,
    "requested_memory_nano": 0,
    "requested_pods": 0,
}
"""Of clusters whose own status says nothing of pods."""

SNAPSHOT = Snapshot(
    revision=7,
    taken_at=NOW - 5,
    complete=True,
    incomplete_reasons=(),
    identity=Identity(
        install_uuid=INSTALL_UUID,
        cluster_uuid="0b9c5f9e-51f7-4f6c-8a15-9b1f6f0c7d21",
        server_url="https://rancher.example.com",
        version="v2.15.0",
        git_hash="",
        product="rancher-prime",
    ),
    features=(),
    systems=(),
    clusters=(),
    totals=Totals(
        local_clusters=1,
        managed_clusters=20,
        nodes=303,
        orphan_nodes=2,
        roles={"controlplane": 61, "etcd": 62, "worker": 250, "other": 3},
        cpu_nano=1212_500_000_000,
        memory_nano=4848 * GIB_NANO,
        unreported_cpu=4,
        unreported_memory=5,
        unreadable={NODES: 1},
        groups=(group(LOCAL_KEY, 1, 3), group(MANAGED_KEY, 20, 300)),
    ),
)

ODD_GROUPS = (
    group(LOCAL_KEY, 1, 3),
    group(MANAGED_KEY, 12, 200, unreadable_nodes=1, gpus_nvidia=16, gpus_intel=2),
    group(replace(MANAGED_KEY, kubernetes_minor="1.32"), 3, 40),
    group(replace(EKS_KEY, active=False, stale=True), 2, 12, differing_clusters=1),
    group(EKS_KEY, 2, 40),
    group(
        replace(ODD_KEY, kubernetes_minor="other", active=False, deleting=True),
        *(1, 8),
        **UNREPORTED,
    ),
)
"""Of every kind, together as many clusters and nodes as in ``SNAPSHOT``."""

DOUBTFUL = replace(
    SNAPSHOT,
    totals=replace(
        SNAPSHOT.totals,
        withheld={"provider": 1},
        groups=ODD_GROUPS,
        drops=(Drop("nodes", 700, 303),),
    ),
    doubts=(
        "clusters: 1 differ from their own nodeCount or capacity",
        "nodes: fell from 700 to 303 within minutes",
    ),
)


def informer_status(**changes: Any) -> InformerStatus:
    status = InformerStatus(
        resource=NODES,
        synced=True,
        absent=False,
        objects=305,
        unreadable=1,
        resource_version="4711",
        last_contact_at=NOW - 1,
        last_contact_boot_s=3600.0,
        last_error="",
    )
    return replace(status, **changes)


def exporter_status(**changes: Any) -> ExporterStatus:
    status = ExporterStatus(
        name="scc",
        type="secret",
        disclosure=SCC_DISCLOSURE,
        enabled=True,
        state=ExporterState.IDLE,
        detail="",
        interval_s=60.0,
        consecutive_failures=0,
        last_attempt_at=NOW - 20,
        last_success_at=NOW - 20,
        last_failure_at=None,
        last_error="",
        last_error_reason="",
        next_run_in_s=40.0,
        payload_bytes=1234,
        digest="d1",
        schema_valid=True,
    )
    return replace(status, **changes)


def new_exporter_status(**changes: Any) -> ExporterStatus:
    """Of an exporter that hasn't run yet."""
    return exporter_status(
        **{
            "state": ExporterState.WAITING,
            "last_attempt_at": None,
            "last_success_at": None,
            "next_run_in_s": None,
            "payload_bytes": None,
            "digest": "",
            "schema_valid": None,
            **changes,
        }
    )


def busy_exporter_stats() -> ExporterStats:
    stats = ExporterStats(sent_bytes=9876)
    stats.runs.update(success=3, failure=1)
    stats.attempts.update({("success", ""): 3, ("failure", "timeout"): 2})
    stats.retries.update(timeout=1)
    stats.skipped_ticks.update(overrun=1)
    stats.spool_dropped.update(corrupt=1)
    for histogram in (stats.collection, stats.export, stats.schedule_delay):
        histogram.observe(0.002)
        histogram.observe(120)
    return stats


def busy_informer_stats() -> InformerStats:
    stats = InformerStats(NODES, last_event_at=NOW - 2)
    stats.events.update(added=305, modified=10)
    stats.lists.update({("success", "initial"): 1})
    stats.watches.update(success=4)
    stats.watch_terminations.update(timeout=3)
    stats.decode_errors.update(type=1)
    stats.list_duration.observe(0.7)
    return stats


@dataclass
class Facts:
    """What a daemon would know; change it between two requests."""

    informers: list[tuple[InformerStatus, InformerStats]] = field(default_factory=list)
    exporters: list[tuple[ExporterStatus, ExporterStats]] = field(default_factory=list)
    snapshot: Snapshot | None = None
    kube: KubeStats = field(default_factory=KubeStats)
    gather: GatherStats = field(default_factory=GatherStats)
    config: ConfigStats = field(
        default_factory=lambda: ConfigStats(ConfigStatus("defaults", CONFIG_HASH, NOW - 3600))
    )
    loop_lag: Histogram = field(default_factory=Histogram)
    switches: Switches = field(default_factory=Switches)
    source: SourceKind | None = None
    history: HistoryStatus = field(
        default_factory=lambda: HistoryStatus(
            enabled=True, samples=12, last_sample_at=NOW - 4, licenses=3, limit=40
        )
    )

    def metrics(self) -> MetricsFacts:
        return MetricsFacts(
            build=("1.0.0", "abc123", "3.11.7"),
            now=NOW,
            informers=tuple(self.informers),
            exporters=tuple(self.exporters),
            snapshot=self.snapshot,
            kube=self.kube,
            gather=self.gather,
            config=self.config,
            loop_lag=self.loop_lag,
            switches=self.switches,
            leader=("telemetryd", True, 0),
            history=self.history,
            log_lines_lost=0,
        )

    def renderer(self) -> MetricsRenderer:
        return MetricsRenderer(self.metrics)

    def status(self) -> StatusFacts:
        return StatusFacts(
            version="1.0.0",
            now=NOW,
            started_at=NOW - 3600,
            api_server="https://127.0.0.1:6443",
            history=self.history,
            informers=tuple(status for status, _ in self.informers),
            exporters=tuple(status for status, _ in self.exporters),
            config=self.config.status,
            snapshot=self.snapshot,
            missing=() if self.snapshot else ("cluster UUID",),
            switches=self.switches,
            source=self.source,
        )


def big_status(size: int) -> StatusFacts:
    """Facts whose ``/status.json`` has about so many bytes; each text of it is bounded."""
    return replace(Facts().status(), missing=("x" * 8000,) * (size // 8000))


def busy_facts() -> Facts:
    """Everything has happened at least once."""
    facts = Facts(
        informers=[(informer_status(), busy_informer_stats())],
        exporters=[(exporter_status(last_failure_at=NOW - 90), busy_exporter_stats())],
        snapshot=SNAPSHOT,
    )
    facts.kube.requests.update({("GET", "200"): 5, ("GET", "error"): 1})
    facts.kube.duration["GET"] = Histogram()
    facts.kube.duration["GET"].observe(0.02)
    facts.gather.generation = 7
    facts.gather.build_duration.observe(0.0004)
    facts.loop_lag.observe(0.001)
    return facts
