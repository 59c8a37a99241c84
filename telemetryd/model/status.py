"""What the parts of a running daemon show of themselves, and the closed lists they show it in."""

from dataclasses import dataclass
from enum import StrEnum

from telemetryd.model.disclosure import Disclosure


@dataclass(frozen=True, slots=True)
class InformerStatus:
    """What one informer shows of itself.

    Attributes:
        resource: ``plural.group``, or the plural alone for the core group.
        synced: The first list is fully processed, or the resource is confirmed absent.
        absent: The API server doesn't serve the resource.
        objects: Objects held.
        unreadable: Of these, how many could not be read.
        resource_version: The last one applied; None before the first list.
        last_contact_at: Unix time in seconds of the last event, bookmark, page or accepted watch.
        last_contact_boot_s: The same as seconds since the machine booted, to judge it by.
        last_error: What stands in the way now, empty while all is well.
        list_method: How the last whole list came: as a ``stream`` or in ``pages``; empty before
            the first.
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
    """What the manager shows of one exporter. Times are Unix seconds, None until the first.

    Attributes:
        disclosure: All that it sends, and the format of its payload.
        detail: What is waited for, who else writes, why it doesn't run, or what is amiss
            while it does; empty otherwise.
        last_error: Of the last failed attempt, kept until the next success.
        last_error_reason: One of the closed list, empty where there is none.
        next_run_in_s: Seconds to the next slot, None where none is planned.
        payload_bytes: Size of the last payload, None before the first.
    """

    name: str
    type: str
    disclosure: Disclosure
    enabled: bool
    state: ExporterState
    detail: str
    interval_s: float
    consecutive_failures: int
    last_attempt_at: float | None
    last_success_at: float | None
    last_failure_at: float | None
    last_error: str
    last_error_reason: str
    next_run_in_s: float | None
    payload_bytes: int | None
    digest: str
    schema_valid: bool | None


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
    """What is shown of one SecretRequest.

    Attributes:
        target: ``namespace/name`` of the Secret it asks for, empty where it names none.
        detail: Why it isn't served, or what stands in the way; empty where all is well.
        last_write_at: Unix time in seconds of the Secret's last write by this process.
    """

    name: str
    target: str
    state: RequestState
    detail: str
    last_write_at: float | None


@dataclass(frozen=True, slots=True)
class ConfigStatus:
    """The configuration in force, and the last attempt to put another in its place.

    Attributes:
        where: The file it came from, ``defaults`` where there was none.
        hash: 48 bits over its effective values.
        in_force_at: Unix time in seconds when it was last read and accepted, at the start or since.
        reloaded_at: Likewise, when a reload last ended, well or not; None before the first.
        problems: Why that one was rejected, a line each; empty where it wasn't.
    """

    where: str
    hash: int
    in_force_at: float
    reloaded_at: float | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LeaderStatus:
    """What is shown of leader election.

    Attributes:
        name: Of the Lease.
        identity: Ours in it.
        leading: We may write now.
        holder: Who holds it, as last seen; empty where nobody is known to.
        epoch: Of this replica's term; the highest one seen where it doesn't lead.
        last_error: What stands between us and the Lease now, empty while all is well.
    """

    name: str
    identity: str
    leading: bool
    holder: str
    epoch: int
    last_error: str


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
"""What people know the switches by."""


@dataclass(frozen=True, slots=True)
class Switches:
    """Which switches are off; collection is on where none is."""

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
        """What switched it off, for people; empty while it is on."""
        names = " and ".join(SWITCH_NAMES[switch] for switch in self.off_by)
        return f"switched off by {names}" if names else ""


@dataclass(frozen=True, slots=True)
class Restriction:
    """Something that must not be collected or sent.

    Attributes:
        source: Who made it: ``file``, ``environment``, ``setting``.
        key: ``enabled``, ``privacy.NAME``, ``exporters.NAME.enabled``, ``exporters.scc`` for the
            implied exporter that a file leaves out, ``telemetry-opt``, or ``$VARIABLE``.
        where: The file's path, the variable or the Setting.
        since: Unix time in seconds.
        written: Its source says so now; else it is remembered.
    """

    source: str
    key: str
    where: str
    since: float
    written: bool


@dataclass(frozen=True, slots=True)
class RestrictionStatus:
    """What is shown of one restriction.

    Attributes:
        what: In a few words.
        remembered_in: Files and Secrets that outlive the process.
        end: How a person ends it.
    """

    restriction: Restriction
    what: str
    remembered_in: tuple[str, ...]
    end: str


class SourceKind(StrEnum):
    """What is collected from: a Rancher's fleet, or one plain Kubernetes cluster."""

    RANCHER = "rancher"
    KUBERNETES = "kubernetes"
