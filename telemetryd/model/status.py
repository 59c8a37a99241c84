"""Statuses of the parts of a running daemon, and their closed lists."""

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Field:
    """One field that leaves.

    Attributes:
        key: Its place in the payload: ``subscription.arch``, ``managedSystems[].cpu``;
            ``telemetryd.fleet.clusters{telemetryd.cluster.kind}`` for an attribute of a metric,
            ``resource{service.name}`` for one of the OTLP resource, ``header User-Agent``.
        kubernetes: Its source on plain Kubernetes; empty if it is never sent.
        keeps_key: Without a value it is sent empty.
    """

    key: str
    what: str
    rancher: str
    kubernetes: str
    privacy: str = ""
    identity: str = ""
    keeps_key: bool = True


@dataclass(frozen=True, slots=True)
class Disclosure:
    """All that one exporter sends.

    Attributes:
        format: Of its payload; empty if its type has only one.
        fields: In the order of display; empty if nothing is declared.
        plugin: Name and version of the plug-in's distribution; empty for telemetryd's own types.
        given: Keys and meanings of what a plug-in gets; it decides what it sends.
    """

    format: str = ""
    fields: tuple[Field, ...] = ()
    plugin: str = ""
    given: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class InformerStatus:
    """The status of one informer.

    Attributes:
        resource: ``plural.group``, or the plural alone for the core group.
        synced: The first list is fully processed, or the resource is confirmed absent.
        unreadable: Of these, how many could not be read.
        last_contact_at: Unix time in seconds of the last event, bookmark, page or accepted watch.
        last_contact_boot_s: The same in seconds since the machine booted.
        last_error: What is failing now; empty if nothing is.
        list_method: Of the last whole list: ``stream`` or ``pages``; empty before the first.
    """

    resource: str
    synced: bool
    absent: bool
    objects: int
    unreadable: int
    resource_version: str | None
    last_contact_at: float | None
    last_contact_boot_s: float | None
    last_error: str
    list_method: str = ""


class ExporterState(StrEnum):
    """The closed list of states an exporter can be in."""

    DISABLED = "disabled"
    WAITING = "waiting"
    STANDBY = "standby"
    IDLE = "idle"
    RUNNING = "running"
    BACKOFF = "backoff"
    FAILED = "failed"
    CONFLICT = "conflict"
    STOPPED = "stopped"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class ExporterStatus:
    """The status of one exporter. Times are Unix seconds, None until the first.

    Attributes:
        name: The exporter's.
        type: As in the configuration: ``secret``.
        disclosure: What it sends.
        enabled: False while its configuration or an opt-out switches it off.
        state: What it does now.
        detail: What it waits for, who else writes, why it doesn't run, or a problem while it
            does; otherwise empty.
        interval_s: Seconds between runs.
        consecutive_failures: Runs that failed since the last success.
        last_attempt_at: When an attempt last began.
        last_success_at: When a run last delivered, or found the content delivered already.
        last_failure_at: When an attempt last failed.
        last_error: Of the last failed attempt, kept until the next success.
        last_error_reason: Its ``Reason``; empty after a success.
        next_run_in_s: Seconds to the next slot, if any.
        payload_bytes: Size of the payload last made; None before the first.
        digest: Of that payload; empty before the first.
        schema_valid: Whether that payload fits its JSON Schema; None before the first.
    """

    name: str
    type: str
    disclosure: Disclosure
    enabled: bool
    state: ExporterState = ExporterState.WAITING
    detail: str = ""
    interval_s: float = 0.0
    consecutive_failures: int = 0
    last_attempt_at: float | None = None
    last_success_at: float | None = None
    last_failure_at: float | None = None
    last_error: str = ""
    last_error_reason: str = ""
    next_run_in_s: float | None = None
    payload_bytes: int | None = None
    digest: str = ""
    schema_valid: bool | None = None


class RequestState(StrEnum):
    """The closed list of states a SecretRequest can be in."""

    SERVED = "served"
    FAILING = "failing"
    CONFLICT = "conflict"
    REJECTED = "rejected"
    WAITING = "waiting"
    UNDECIDED = "undecided"
    LEAVING = "leaving"


@dataclass(frozen=True, slots=True)
class RequestStatus:
    """The status of one SecretRequest.

    Attributes:
        detail: Why it isn't served, or a problem; empty if there is none.
        last_write_at: Unix time in seconds of the Secret's last write by this process.
    """

    name: str
    target: str
    state: RequestState
    detail: str
    last_write_at: float | None


@dataclass(frozen=True, slots=True)
class ConfigStatus:
    """The configuration in use, and the last attempt to replace it.

    Attributes:
        where: Its file; ``defaults`` if there is none.
        hash: 48 bits over its effective values.
        in_force_at: Unix time in seconds when it was last read and accepted.
        reloaded_at: Unix time in seconds when a reload last ended; None before the first.
        problems: Why that reload was rejected, a line each; empty if it wasn't.
    """

    where: str
    hash: int
    in_force_at: float
    reloaded_at: float | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LeaderStatus:
    """The status of leader election.

    Attributes:
        holder: Its holder when last seen; empty if unknown.
        epoch: Of this replica's term, or the highest one seen.
        last_error: Why the last request for the Lease failed; empty if it didn't.
    """

    name: str
    identity: str
    leading: bool
    holder: str
    epoch: int
    last_error: str


@dataclass(frozen=True, slots=True)
class HistoryStatus:
    """What is kept of the fleet's past.

    Attributes:
        enabled: It is kept while collection is on.
        samples: Looks at the fleet since the start.
        last_sample_at: Unix time in seconds of the last one, None before the first.
        lost_slots: Slots that were dropped because they could not be written for long.
        trouble: Why nothing can be kept now, empty while it can.
        licenses: What this month counts by the rule of the entitlement; None before that is known.
        limit: Licenses that there are, None for no limit.
    """

    enabled: bool = False
    samples: int = 0
    last_sample_at: float | None = None
    lost_slots: int = 0
    trouble: str = ""
    licenses: int | None = None
    limit: int | None = None


class Switch(StrEnum):
    """Each switch that turns collection off: label ``reason`` of the metric."""

    CONFIG = "config"
    ENVIRONMENT = "environment"
    DO_NOT_TRACK = "do_not_track"
    SETTING = "setting"
    MEMORY = "memory"


SWITCH_NAMES = {
    Switch.CONFIG: "enabled = false in the configuration",
    Switch.ENVIRONMENT: "$TELEMETRYD_ENABLED",
    Switch.DO_NOT_TRACK: "$DO_NOT_TRACK",
    Switch.SETTING: "the Rancher setting telemetry-opt",
    Switch.MEMORY: "a remembered opt-out (telemetryd ctl opt-in ends it)",
}
"""The names of the switches for people."""


@dataclass(frozen=True, slots=True)
class Switches:
    """Which switches are off; collection is on if none is."""

    off: frozenset[Switch] = frozenset()

    @property
    def enabled(self) -> bool:
        """Whether anything is collected and exported."""
        return not self.off

    @property
    def off_by(self) -> tuple[Switch, ...]:
        """Those that are off, in the order of the enumeration."""
        return tuple(switch for switch in Switch if switch in self.off)

    @property
    def detail(self) -> str:
        """What switched it off, for people; empty if it is on."""
        names = " and ".join(SWITCH_NAMES[switch] for switch in self.off_by)
        return f"switched off by {names}" if names else ""


@dataclass(frozen=True, slots=True)
class Restriction:
    """Something that must not be collected or sent.

    Attributes:
        source: ``file``, ``environment`` or ``setting``.
        key: ``enabled``, ``privacy.NAME``, ``exporters.NAME.enabled``, ``exporters.scc`` for the
            implied exporter that a file leaves out, ``telemetry-opt``, or ``$VARIABLE``.
        where: The file's path, the variable or the Setting.
        written: Its source has it now; otherwise it is remembered.
    """

    source: str
    key: str
    where: str
    since: float
    written: bool


@dataclass(frozen=True, slots=True)
class RestrictionStatus:
    """The status of one restriction.

    Attributes:
        remembered_in: Files and Secrets that outlive the process.
    """

    restriction: Restriction
    what: str
    remembered_in: tuple[str, ...]
    end: str


class SourceKind(StrEnum):
    """The source of the data: a Rancher's fleet, or one plain Kubernetes cluster."""

    RANCHER = "rancher"
    KUBERNETES = "kubernetes"
