"""The table of metrics: name, type, labels with what they say, help, and when a series is there.

``docs/metrics.md`` is made of it. What is counted belongs to ``stats``, how it is shown to
``metrics``.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from telemetryd.errors import Reason, UnreadableReason
from telemetryd.gather.texts import DRIVERS, OTHER, PROVIDERS
from telemetryd.informer.states import ListReason, WatchEnd
from telemetryd.model import KINDS, ExporterState, Gpus, RoleCounts, Switch

PREFIX = "telemetryd_"

RUN_RESULTS = ("success", "unchanged", "failure", "skipped", "superseded")
EVENT_TYPES = ("added", "modified", "deleted", "bookmark", "error", "unknown")
WATCH_RESULTS = ("success", "error")
RELOAD_RESULTS = ("success", "failure")
RELOAD_TRIGGERS = ("signal", "control", "file")


@dataclass(frozen=True, slots=True)
class Label:
    """A label of a family.

    Attributes:
        about: What it says, in words.
        values: Everything that it can say; empty where that is open.
    """

    name: str
    about: str = ""
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Family:
    """One metric; the name is without prefix and suffix of its type.

    Attributes:
        appears: When it has series; empty where it always has.
    """

    type: Literal["counter", "gauge", "histogram", "info"]
    name: str
    labels: tuple[Label, ...]
    help: str
    appears: str = ""
    label_names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "label_names", tuple(label.name for label in self.labels))

    @property
    def exposed_name(self) -> str:
        """As it is asked for: with prefix, and the suffix of its type."""
        suffix = {"counter": "_total", "info": "_info"}.get(self.type, "")
        return PREFIX + self.name + suffix


def _closed(name: str, values: Iterable[str]) -> Label:
    return Label(name, values=tuple(str(value) for value in values))


_EXPORTER = Label(
    "exporter", "its name in the configuration, or `secretrequest/` and the request's"
)
_RESOURCE = Label("resource", "`plural.group`, or the plural alone for the core group")
_METHOD = Label("method", "HTTP method of the request")
_LEASE = Label("name", "name of the Lease")
_ATTEMPT = _closed("result", ("success", "failure"))
_REASON = _closed("reason", Reason)
_SKIPPED = _closed("reason", ("overrun", "suspend", "retry_after", "not_ready", "held"))
_DROPPED = _closed("reason", ("storage", "corrupt", "destination", "format", "privacy"))
_ENDED = _closed("reason", (*WatchEnd, "short", "expired", "error"))
WITHHELD_TEXTS = (
    "architecture",
    "operating_system",
    "container_runtime",
    "kernel_version",
    "kubernetes_version",
    "server_url",
    "version",
    "git_hash",
    "feature_flags",
    "provider",
    "driver",
)
"""Texts that leave in a known form or not at all."""
_KIND = (_closed("kind", KINDS),)
_PROVIDER = (_closed("provider", (*sorted(PROVIDERS), OTHER)),)
_DRIVER = (_closed("driver", (*sorted(DRIVERS), OTHER)),)
_MANAGEMENT = (_closed("management", ("local", "provisioned", "hosted", "imported", OTHER)),)
_MINOR = (Label("minor", "minor version such as `1.33`; `other` where it isn't known"),)
_WHAT = (_closed("what", ("clusters", "nodes")),)
_E = (_EXPORTER,)
_R = (_RESOURCE,)
_ON_USE = "from the first use of a reason on"
_SNAPSHOT = "once there is a snapshot"
_STATUS = ", by the status of the clusters that report it."

FAMILIES = (
    Family(
        "info",
        "build",
        (
            Label("version", "version of telemetryd"),
            Label("revision", "commit it was built from, or empty"),
            Label("python_version", "version of Python"),
        ),
        "What runs.",
    ),
    Family(
        "info",
        "exporter",
        (*_E, Label("type", "type of the exporter in the configuration")),
        "Registered exporters and their types.",
    ),
    Family(
        "gauge",
        "exporter_state",
        (*_E, _closed("state", ExporterState)),
        "1 for the state the exporter is in.",
    ),
    Family("gauge", "exporter_enabled", _E, "Whether the exporter is enabled."),
    Family("gauge", "exporter_in_flight", _E, "Whether a run is exporting now."),
    Family("gauge", "exporter_consecutive_failures", _E, "Failed runs since the last success."),
    Family("gauge", "exporter_interval_seconds", _E, "Time between two slots."),
    Family(
        "gauge",
        "exporter_last_attempt_timestamp_seconds",
        _E,
        "When it was last tried.",
        "from the first attempt on",
    ),
    Family(
        "gauge",
        "exporter_last_success_timestamp_seconds",
        _E,
        "When it last succeeded.",
        "from the first success on",
    ),
    Family(
        "gauge",
        "exporter_last_failure_timestamp_seconds",
        _E,
        "When it last failed.",
        "from the first failed run on",
    ),
    Family(
        "gauge",
        "exporter_next_run_timestamp_seconds",
        _E,
        "When the next slot is.",
        "while one is planned",
    ),
    Family(
        "counter",
        "exporter_runs",
        (*_E, _closed("result", RUN_RESULTS)),
        "Runs by how they ended.",
    ),
    Family(
        "counter",
        "exporter_attempts",
        (*_E, _ATTEMPT, Label("reason", "empty for `success`", ("", *_REASON.values))),
        "Attempts of runs.",
        _ON_USE,
    ),
    Family("counter", "exporter_retries", (*_E, _REASON), "Attempts after a failed one.", _ON_USE),
    Family("counter", "exporter_skipped_ticks", (*_E, _SKIPPED), "Slots without a run.", _ON_USE),
    Family("histogram", "exporter_collection_duration_seconds", _E, "Snapshot and payload."),
    Family("histogram", "exporter_export_duration_seconds", _E, "An attempt's own work."),
    Family("histogram", "exporter_schedule_delay_seconds", _E, "From a slot to its run."),
    Family(
        "gauge",
        "exporter_payload_bytes",
        _E,
        "Size of the last payload.",
        "from the first payload on",
    ),
    Family("gauge", "exporter_spool_bytes", _E, "Size of undelivered payloads on disk."),
    Family("gauge", "exporter_spool_items", _E, "Undelivered payloads on disk."),
    Family("counter", "exporter_sent_bytes", _E, "Payload bytes delivered."),
    Family(
        "counter",
        "exporter_spool_dropped",
        (*_E, _DROPPED),
        "Payloads not kept on disk.",
        _ON_USE,
    ),
    Family(
        "gauge",
        "payload_schema_valid",
        _E,
        "Whether the last payload fits its schema.",
        "from the first payload on",
    ),
    Family("gauge", "snapshot_generation", (), "Number of the last snapshot built."),
    Family(
        "gauge", "snapshot_timestamp_seconds", (), "When the last snapshot was taken.", _SNAPSHOT
    ),
    Family("histogram", "snapshot_build_duration_seconds", (), "Time to build a snapshot."),
    Family("gauge", "snapshot_complete", (), "Whether all was read and is in contact."),
    Family("gauge", "informer_synced", _R, "Whether the first list is in, or none is served."),
    Family("gauge", "informer_objects", _R, "Objects held."),
    Family(
        "gauge",
        "informer_last_event_timestamp_seconds",
        _R,
        "When the last event came.",
        "from the first event on",
    ),
    Family(
        "gauge",
        "informer_last_contact_timestamp_seconds",
        _R,
        "When anything last came.",
        "from the first answer on",
    ),
    Family(
        "counter",
        "informer_decode_errors",
        (*_R, _closed("reason", UnreadableReason)),
        "Objects not readable.",
        _ON_USE,
    ),
    Family("counter", "informer_events", (*_R, _closed("type", EVENT_TYPES)), "Events of watches."),
    Family(
        "counter",
        "informer_lists",
        (*_R, _closed("result", WATCH_RESULTS), _closed("reason", ListReason)),
        "Lists by what led to them.",
        _ON_USE,
    ),
    Family(
        "counter", "informer_watches", (*_R, _closed("result", WATCH_RESULTS)), "Watches opened."
    ),
    Family("counter", "informer_watch_terminations", (*_R, _ENDED), "Watches ended.", _ON_USE),
    Family("histogram", "informer_list_duration_seconds", _R, "Whole lists, all pages."),
    Family(
        "counter",
        "kube_requests",
        (_METHOD, Label("code", "HTTP status, or `error` where there was no answer")),
        "Requests to the API server.",
        "from the first request on",
    ),
    Family(
        "histogram",
        "kube_request_duration_seconds",
        (_METHOD,),
        "Time to the answer.",
        "from the first request on",
    ),
    Family("gauge", "fleet_clusters", _KIND, "Clusters.", _SNAPSHOT),
    Family(
        "gauge", "fleet_clusters_by_provider", _PROVIDER, "Clusters by distribution.", _SNAPSHOT
    ),
    Family("gauge", "fleet_clusters_by_driver", _DRIVER, "Clusters by driver.", _SNAPSHOT),
    Family(
        "gauge",
        "fleet_clusters_by_management",
        _MANAGEMENT,
        "Clusters by how Rancher came to manage them.",
        _SNAPSHOT,
    ),
    Family(
        "gauge",
        "fleet_clusters_by_kubernetes_minor",
        _MINOR,
        "Clusters by Kubernetes version.",
        "while a cluster has this version",
    ),
    Family("gauge", "fleet_active_clusters", (), "Clusters that are ready.", _SNAPSHOT),
    Family("gauge", "fleet_deleting_clusters", (), "Clusters being deleted.", _SNAPSHOT),
    Family("gauge", "fleet_stale_clusters", (), "Clusters that Rancher can't reach.", _SNAPSHOT),
    Family(
        "gauge",
        "fleet_differing_clusters",
        (),
        "Clusters whose own status disagrees with their nodes.",
        _SNAPSHOT,
    ),
    Family(
        "gauge",
        "fleet_implausible_drop",
        _WHAT,
        "1 for an hour after a fall by half or more within minutes, or until it has recovered.",
        _SNAPSHOT,
    ),
    Family("gauge", "fleet_nodes", (), "Nodes of these clusters.", _SNAPSHOT),
    Family("gauge", "fleet_nodes_by_kind", _KIND, "Nodes by kind of cluster.", _SNAPSHOT),
    Family("gauge", "fleet_nodes_by_provider", _PROVIDER, "Nodes by distribution.", _SNAPSHOT),
    Family(
        "gauge",
        "fleet_stale_nodes",
        (),
        "Nodes of clusters that Rancher can't reach, as they were last known.",
        _SNAPSHOT,
    ),
    Family("gauge", "fleet_unreadable_nodes", (), "Nodes that can't be read.", _SNAPSHOT),
    Family(
        "gauge",
        "fleet_node_roles",
        (_closed("role", RoleCounts._fields),),
        "Nodes per role; one counts in each it has.",
        _SNAPSHOT,
    ),
    Family("gauge", "fleet_cpu_cores", (), "CPU capacity, summed over nodes.", _SNAPSHOT),
    Family("gauge", "fleet_cpu_cores_by_kind", _KIND, "CPU by kind of cluster.", _SNAPSHOT),
    Family("gauge", "fleet_memory_bytes", (), "Memory capacity, summed over nodes.", _SNAPSHOT),
    Family(
        "gauge",
        "fleet_gpus",
        (_closed("vendor", Gpus._fields),),
        "GPUs, as nodes report them.",
        _SNAPSHOT,
    ),
    Family("gauge", "fleet_pod_capacity", (), f"Pods that there is room for{_STATUS}", _SNAPSHOT),
    Family("gauge", "fleet_requested_pods", (), f"Pods{_STATUS}", _SNAPSHOT),
    Family("gauge", "fleet_requested_cpu_cores", (), f"CPU that pods request{_STATUS}", _SNAPSHOT),
    Family(
        "gauge",
        "fleet_requested_memory_bytes",
        (),
        f"Memory that pods request{_STATUS}",
        _SNAPSHOT,
    ),
    Family(
        "gauge",
        "fleet_unreported_nodes",
        (_closed("resource", ("cpu", "memory")),),
        "Nodes without this capacity.",
        _SNAPSHOT,
    ),
    Family("gauge", "fleet_orphan_nodes", (), "Nodes whose cluster is gone.", _SNAPSHOT),
    Family(
        "gauge",
        "fleet_withheld_texts",
        (_closed("field", WITHHELD_TEXTS),),
        "Objects and answers whose text was not sent.",
        _SNAPSHOT,
    ),
    Family(
        "gauge",
        "collection_allowed",
        (_closed("by", Switch),),
        "Whether this switch leaves collection on.",
    ),
    Family("gauge", "leader", (_LEASE,), "Whether this replica leads, or no other can."),
    Family("counter", "leader_transitions", (_LEASE,), "Terms of this replica begun and ended."),
    Family("gauge", "config_last_reload_successful", (), "Whether the last reload was accepted."),
    Family("gauge", "config_last_reload_success_timestamp_seconds", (), "When one last was."),
    Family("gauge", "config_hash", (), "48 bits over the configuration in force."),
    Family(
        "counter",
        "config_reloads",
        (_closed("result", RELOAD_RESULTS), _closed("trigger", RELOAD_TRIGGERS)),
        "Reloads of the configuration.",
    ),
    Family("counter", "log_lines_lost", (), "Lines of the log that could not be written."),
    Family("histogram", "event_loop_lag_seconds", (), "How late timers of the loop come."),
)
