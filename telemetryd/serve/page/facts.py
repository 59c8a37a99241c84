"""What the daemon knows of itself at one moment: what the page and ``/status.json`` show."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from telemetryd.config import IdentityConfig, PrivacyConfig
from telemetryd.gather.consumer import RancherBuild, Registrations, explain_build
from telemetryd.model import (
    ConfigStatus,
    ExporterState,
    ExporterStatus,
    HistoryStatus,
    InformerStatus,
    LeaderStatus,
    RequestStatus,
    RestrictionStatus,
    Snapshot,
    SourceKind,
    Switches,
)

if TYPE_CHECKING:
    from telemetryd.history.charts import Point
    from telemetryd.history.entitlement import Entitlement
    from telemetryd.serve.page.disclosure import Situation


@dataclass(frozen=True, slots=True)
class HistoryFacts:
    """What the daemon knows of its history at one moment.

    Attributes:
        now: Unix time in seconds.
        installation: Install UUID; empty before the first snapshot.
        instance: Whose record it is; empty for a store that replicas share.
        store: Where the history is kept, in words.
        off: Why nothing is kept, empty where it is.
    """

    now: float
    status: HistoryStatus
    rule: "Entitlement"
    installation: str = ""
    instance: str = ""
    store: str = ""
    off: str = ""


@dataclass(frozen=True, slots=True)
class StatusFacts:
    """What the daemon knows of itself at one moment.

    Attributes:
        now: Unix time in seconds.
        started_at: Unix time in seconds when the process started.
        api_server: URL without credentials; empty before the first connection.
        missing: What the first snapshot still waits for; empty once there is one, and while
            collection is off.
        requests: All SecretRequests.
        switches: Which switches turn collection off.
        source: None while nothing is collected.
        build: The build of Rancher, None while unknown.
        registrations: From scc-operator; None while they aren't read.
        leader: None without leader election.
        history: What is kept of the fleet's past.
        nodes: All nodes in the last 30 days; empty where that isn't known, or isn't shown.
        payload_exposed: Payloads are shown under ``/payload/``.
        privacy: The section in force.
        identity: The section in force.
        restrictions: Each with its source, its time and where it is remembered.
        memory_warning: Why restrictions would be lost at a restart; empty where they wouldn't.
        login_problem: Why an older login is still used; empty where there is no problem.
    """

    version: str
    now: float
    started_at: float
    api_server: str
    informers: tuple[InformerStatus, ...]
    exporters: tuple[ExporterStatus, ...]
    config: ConfigStatus
    snapshot: Snapshot | None
    missing: tuple[str, ...]
    requests: tuple[RequestStatus, ...] = ()
    switches: Switches = field(default_factory=Switches)
    source: SourceKind | None = None
    build: RancherBuild | None = None
    registrations: Registrations | None = None
    leader: LeaderStatus | None = None
    history: HistoryStatus = field(default_factory=HistoryStatus)
    nodes: "tuple[Point, ...]" = ()
    payload_exposed: bool = False
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    identity: IdentityConfig = field(default_factory=IdentityConfig)
    restrictions: tuple[RestrictionStatus, ...] = ()
    memory_warning: str = ""
    login_problem: str = ""

    @property
    def not_expected(self) -> str:
        """Why SUSE doesn't expect the payload; empty where it does, or where that isn't known."""
        if self.build is None:
            return ""
        known = self.snapshot.identity.product if self.snapshot is not None else ""
        return explain_build(self.build, known or self.identity.product or "rancher")

    @property
    def situation(self) -> "Situation":
        """What decides about the exporters' fields."""
        from telemetryd.serve.page.disclosure import situation_of  # noqa: PLC0415 - when shown

        return situation_of(self.source, self.privacy, self.identity)


def render_time(unix_s: float | None) -> str | None:
    """Unix time in seconds as RFC 3339 in UTC, with milliseconds."""
    if unix_s is None:
        return None
    text = datetime.fromtimestamp(unix_s, tz=UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def render_summary(facts: StatusFacts) -> str:
    """The status in one line of ``key=value``, for the log and for ``STATUS=``."""
    synced = sum(informer.synced for informer in facts.informers)
    healthy = sum(exporter.last_success_at is not None for exporter in facts.exporters)
    failing = sorted(
        exporter.name
        for exporter in facts.exporters
        if exporter.state in {ExporterState.FAILED, ExporterState.BACKOFF, ExporterState.CONFLICT}
    )
    off = ",".join(facts.switches.off_by)
    parts = [f"collection=off by={off}"] if off else []
    parts += [
        f"informers_synced={synced}/{len(facts.informers)}",
        f"exporters_succeeded={healthy}/{len(facts.exporters)}",
    ]
    if facts.source is not None:
        parts.append(f"source={facts.source}")
    if facts.snapshot is not None:
        totals = facts.snapshot.totals
        clusters = totals.local_clusters + totals.managed_clusters
        parts += [f"clusters={clusters}", f"nodes={totals.nodes}"]
    if failing:
        parts.append(f"failing={','.join(failing)}")
    if facts.config.problems:
        parts.append("config=rejected")
    return " ".join(parts)
