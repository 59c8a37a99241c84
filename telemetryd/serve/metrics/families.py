"""The table of metrics: each entry says what a metric is called, what it means and what it shows.

``docs/metrics.md`` is made of it. The counters themselves are in ``stats``.
"""

from collections.abc import Callable, Iterable
from itertools import product

from telemetryd.errors import Reason, UnreadableReason
from telemetryd.gather.texts import DRIVERS, OTHER, PROVIDERS
from telemetryd.informer.states import ListReason, WatchEnd
from telemetryd.model import (
    KINDS,
    ExporterState,
    ExporterStatus,
    Gpus,
    GroupKey,
    InformerStatus,
    RoleCounts,
    Snapshot,
    Sums,
    Switch,
    Totals,
)
from telemetryd.serve.metrics.family import Family, Label, MetricsFacts, MetricType, Value
from telemetryd.stats import ExporterStats, InformerStats

_NANO = 1_000_000_000
_ON_USE = "from the first use of a reason on"
_SNAPSHOT = "once there is a snapshot"
_FIRST_REQUEST = "from the first request on"
_FIRST_PAYLOAD = "from the first payload on"
_STATUS = ", by the status of the clusters that report it."


def _closed(name: str, values: Iterable[str]) -> Label:
    return Label(name, values=tuple(str(value) for value in values))


_EXPORTER = Label(
    "exporter", "its name in the configuration, or `secretrequest/` and the request's"
)
_RESOURCE = Label("resource", "`plural.group`, or the plural alone for the core group")
_METHOD = Label("method", "HTTP method of the request")
_LEASE = Label("name", "name of the Lease")
_STATE = _closed("state", ExporterState)
_RUN_RESULT = _closed("result", ("success", "unchanged", "failure", "skipped", "superseded"))
_RESULT = _closed("result", ("success", "failure"))
_REASON = _closed("reason", Reason)
_REASON_OR_NONE = Label("reason", "empty for `success`", ("", *Reason))
_SKIPPED = _closed("reason", ("overrun", "suspend", "retry_after", "not_ready", "held"))
_DROPPED = _closed("reason", ("storage", "corrupt", "destination", "format", "privacy"))
_UNREADABLE = _closed("reason", UnreadableReason)
_EVENT = _closed("type", ("added", "modified", "deleted", "bookmark", "error", "unknown"))
_WATCH_RESULT = _closed("result", ("success", "error"))
_LIST_REASON = _closed("reason", ListReason)
_ENDED = _closed("reason", (*WatchEnd, "short", "expired", "error"))
_KIND = _closed("kind", KINDS)
_PROVIDER = _closed("provider", (*sorted(PROVIDERS), OTHER))
_DRIVER = _closed("driver", (*sorted(DRIVERS), OTHER))
_MANAGEMENT = _closed("management", ("local", "provisioned", "hosted", "imported", OTHER))
_MINOR = Label("minor", "minor version such as `1.33`; `other` where it isn't known")
_ROLE = _closed("role", RoleCounts._fields)
_VENDOR = _closed("vendor", Gpus._fields)
_DROP = _closed("what", ("clusters", "nodes"))
_CAPACITY = _closed("resource", ("cpu", "memory"))
_WITHHELD = _closed(
    "field",
    (
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
    ),
)
_SWITCH = _closed("by", Switch)
_TRIGGER = _closed("trigger", ("signal", "control", "file"))


def _exporter(
    kind: MetricType,
    name: str,
    help_: str,
    value: Callable[[ExporterStatus, ExporterStats], Value],
    *labels: Label,
    appears: str = "",
) -> Family:
    """A metric of each exporter."""

    def of_each(facts: MetricsFacts) -> Value:
        return {status.name: value(status, stats) for status, stats in facts.exporters}

    return Family(kind, name, help_, of_each, (_EXPORTER, *labels), appears)


def _informer(
    kind: MetricType,
    name: str,
    help_: str,
    value: Callable[[InformerStatus, InformerStats], Value],
    *labels: Label,
    appears: str = "",
) -> Family:
    """A metric of each informer."""

    def of_each(facts: MetricsFacts) -> Value:
        return {status.resource: value(status, stats) for status, stats in facts.informers}

    return Family(kind, name, help_, of_each, (_RESOURCE, *labels), appears)


def _snapshot(
    name: str, help_: str, value: Callable[[Snapshot], Value], *labels: Label, appears: str = ""
) -> Family:
    """A gauge that is there once there is a snapshot."""

    def if_any(facts: MetricsFacts) -> Value:
        return None if facts.snapshot is None else value(facts.snapshot)

    return Family("gauge", name, help_, if_any, labels, appears or _SNAPSHOT)


def _fleet(name: str, help_: str, value: Callable[[Totals], Value], *labels: Label) -> Family:
    return _snapshot(name, help_, lambda snapshot: value(snapshot.totals), *labels)


def _fleet_sum(
    name: str,
    help_: str,
    number: Callable[[Sums], int],
    *,
    unit: int = 1,
    where: Callable[[GroupKey], bool] = lambda _: True,
) -> Family:
    """The number of all clusters whose key is wanted, in this unit."""

    def add_up(totals: Totals) -> Value:
        return sum(number(group.sums) for group in totals.groups if where(group.key)) / unit

    return _fleet(name, help_, add_up)


def _fleet_parts(
    name: str,
    help_: str,
    number: Callable[[Sums], int],
    part_of: Callable[[GroupKey], str],
    label: Label,
    *,
    unit: int = 1,
    appears: str = "",
) -> Family:
    """The number by one part of the clusters' key; each known part from 0 on."""

    def add_up(snapshot: Snapshot) -> Value:
        found = label.zeros()
        for group in sorted(snapshot.totals.groups, key=lambda group: part_of(group.key)):
            part = part_of(group.key)
            found[part] = found.get(part, 0) + number(group.sums)
        return {part: total / unit for part, total in found.items()}

    return _snapshot(name, help_, add_up, label, appears=appears)


FAMILIES = (
    Family("info", "build", "Versions of telemetryd and Python.", lambda facts: {facts.build: 1},
           (Label("version", "version of telemetryd"),
            Label("revision", "commit it was built from, or empty"),
            Label("python_version", "version of Python"))),

    _exporter("info", "exporter", "Registered exporters and their types.",
              lambda status, _: {status.type: 1},
              Label("type", "type of the exporter in the configuration")),
    _exporter("gauge", "exporter_state", "1 for the exporter's current state.",
              lambda status, _: {state: state is status.state for state in ExporterState}, _STATE),
    _exporter("gauge", "exporter_enabled", "Whether the exporter is enabled.",
              lambda status, _: status.enabled),
    _exporter("gauge", "exporter_in_flight", "Whether a run is exporting now.",
              lambda _, stats: stats.in_flight),
    _exporter("gauge", "exporter_consecutive_failures", "Failed runs since the last success.",
              lambda status, _: status.consecutive_failures),
    _exporter("gauge", "exporter_interval_seconds", "Time between two slots.",
              lambda status, _: status.interval_s),
    _exporter("gauge", "exporter_last_attempt_timestamp_seconds", "Time of the last attempt.",
              lambda status, _: status.last_attempt_at, appears="from the first attempt on"),
    _exporter("gauge", "exporter_last_success_timestamp_seconds", "Time of the last success.",
              lambda status, _: status.last_success_at, appears="from the first success on"),
    _exporter("gauge", "exporter_last_failure_timestamp_seconds", "Time of the last failed run.",
              lambda status, _: status.last_failure_at, appears="from the first failed run on"),
    Family("gauge", "exporter_next_run_timestamp_seconds", "Time of the next slot.",
           lambda facts: {
               status.name: facts.now + status.next_run_in_s
               for status, _ in facts.exporters if status.next_run_in_s is not None
           }, (_EXPORTER,), "while one is planned"),
    _exporter("counter", "exporter_runs", "Runs by result.",
              lambda _, stats: {**_RUN_RESULT.zeros(), **stats.runs}, _RUN_RESULT),
    _exporter("counter", "exporter_attempts", "Attempts by result and reason.",
              lambda _, stats: stats.attempts, _RESULT, _REASON_OR_NONE, appears=_ON_USE),
    _exporter("counter", "exporter_retries", "Retries after a failed attempt.",
              lambda _, stats: stats.retries, _REASON, appears=_ON_USE),
    _exporter("counter", "exporter_skipped_ticks", "Slots without a run, by reason.",
              lambda _, stats: stats.skipped_ticks, _SKIPPED, appears=_ON_USE),
    _exporter("histogram", "exporter_collection_duration_seconds",
              "Time to take a snapshot and render it.",
              lambda _, stats: stats.collection),
    _exporter("histogram", "exporter_export_duration_seconds", "Time of an attempt's delivery.",
              lambda _, stats: stats.export),
    _exporter("histogram", "exporter_schedule_delay_seconds", "Delay from a slot to its run.",
              lambda _, stats: stats.schedule_delay),
    _exporter("gauge", "exporter_payload_bytes", "Size of the last payload.",
              lambda status, _: status.payload_bytes, appears=_FIRST_PAYLOAD),
    _exporter("gauge", "exporter_spool_bytes", "Size of undelivered payloads on disk.",
              lambda _, stats: stats.spool_bytes),
    _exporter("gauge", "exporter_spool_items", "Undelivered payloads on disk.",
              lambda _, stats: stats.spool_items),
    _exporter("counter", "exporter_sent_bytes", "Payload bytes delivered.",
              lambda _, stats: stats.sent_bytes),
    _exporter("counter", "exporter_spool_dropped", "Undelivered payloads lost or dropped.",
              lambda _, stats: stats.spool_dropped, _DROPPED, appears=_ON_USE),
    _exporter("gauge", "payload_schema_valid", "Whether the last payload fits its schema.",
              lambda status, _: status.schema_valid, appears=_FIRST_PAYLOAD),

    Family("gauge", "snapshot_generation", "Number of the last snapshot built.",
           lambda facts: facts.gather.generation),
    _snapshot("snapshot_timestamp_seconds", "When the last snapshot was taken.",
              lambda snapshot: snapshot.taken_at),
    Family("histogram", "snapshot_build_duration_seconds", "Time to build a snapshot.",
           lambda facts: facts.gather.build_duration),
    Family("gauge", "snapshot_complete", "Whether all is read and in contact.",
           lambda facts: facts.snapshot is not None and facts.snapshot.complete),

    _informer("gauge", "informer_synced", "Whether it is listed, or not served.",
              lambda status, _: status.synced),
    _informer("gauge", "informer_objects", "Objects in the cache.",
              lambda status, _: status.objects),
    _informer("gauge", "informer_last_event_timestamp_seconds", "Time of the last event.",
              lambda _, stats: stats.last_event_at, appears="from the first event on"),
    _informer("gauge", "informer_last_contact_timestamp_seconds",
              "Time of the last event or answer.",
              lambda status, _: status.last_contact_at, appears="from the first answer on"),
    _informer("counter", "informer_decode_errors", "Objects that could not be decoded.",
              lambda _, stats: stats.decode_errors, _UNREADABLE, appears=_ON_USE),
    _informer("counter", "informer_events", "Watch events.",
              lambda _, stats: {**_EVENT.zeros(), **stats.events}, _EVENT),
    _informer("counter", "informer_lists", "Lists by result and reason.",
              lambda _, stats: stats.lists, _WATCH_RESULT, _LIST_REASON, appears=_ON_USE),
    _informer("counter", "informer_watches", "Watches opened.",
              lambda _, stats: {**_WATCH_RESULT.zeros(), **stats.watches}, _WATCH_RESULT),
    _informer("counter", "informer_watch_terminations", "Watches ended.",
              lambda _, stats: stats.watch_terminations, _ENDED, appears=_ON_USE),
    _informer("histogram", "informer_list_duration_seconds", "Time of a whole list, all pages.",
              lambda _, stats: stats.list_duration),

    Family("counter", "kube_requests", "Requests to the API server.",
           lambda facts: facts.kube.requests,
           (_METHOD, Label("code", "HTTP status, or `error` where there was no answer")),
           _FIRST_REQUEST),
    Family("histogram", "kube_request_duration_seconds", "Time to the answer.",
           lambda facts: facts.kube.duration, (_METHOD,), _FIRST_REQUEST),

    _fleet("fleet_clusters", "Clusters by kind.",
           lambda totals: {"local": totals.local_clusters, "managed": totals.managed_clusters},
           _KIND),
    _fleet_parts("fleet_clusters_by_provider", "Clusters by distribution.",
                 lambda sums: sums.clusters, lambda key: key.provider, _PROVIDER),
    _fleet_parts("fleet_clusters_by_driver", "Clusters by driver.",
                 lambda sums: sums.clusters, lambda key: key.driver, _DRIVER),
    _fleet_parts("fleet_clusters_by_management", "Clusters by how Rancher came to manage them.",
                 lambda sums: sums.clusters, lambda key: key.management, _MANAGEMENT),
    _fleet_parts("fleet_clusters_by_kubernetes_minor", "Clusters by Kubernetes version.",
                 lambda sums: sums.clusters, lambda key: key.kubernetes_minor, _MINOR,
                 appears="while a cluster has this version"),
    _fleet_sum("fleet_active_clusters", "Clusters that are ready.",
               lambda sums: sums.clusters, where=lambda key: key.active),
    _fleet_sum("fleet_deleting_clusters", "Clusters being deleted.",
               lambda sums: sums.clusters, where=lambda key: key.deleting),
    _fleet_sum("fleet_stale_clusters", "Clusters that Rancher can't reach.",
               lambda sums: sums.clusters, where=lambda key: key.stale),
    _fleet_sum("fleet_differing_clusters",
               "Clusters whose own status disagrees with their nodes.",
               lambda sums: sums.differing_clusters),
    _fleet("fleet_implausible_drop",
           "1 for an hour after a drop by half or more within minutes, or until it has recovered.",
           lambda totals: {**_DROP.zeros(), **{drop.what: 1 for drop in totals.drops}}, _DROP),
    _fleet("fleet_nodes", "Nodes of all clusters.", lambda totals: totals.nodes),
    _fleet_parts("fleet_nodes_by_kind", "Nodes by kind of cluster.",
                 lambda sums: sums.nodes, lambda key: key.kind, _KIND),
    _fleet_parts("fleet_nodes_by_provider", "Nodes by distribution.",
                 lambda sums: sums.nodes, lambda key: key.provider, _PROVIDER),
    _fleet_sum("fleet_stale_nodes",
               "Nodes of clusters that Rancher can't reach, as they were last known.",
               lambda sums: sums.nodes, where=lambda key: key.stale),
    _fleet_sum("fleet_unreadable_nodes", "Nodes that can't be read.",
               lambda sums: sums.unreadable_nodes),
    _fleet("fleet_node_roles", "Nodes by role; a node counts for each of its roles.",
           lambda totals: totals.roles, _ROLE),
    _fleet("fleet_cpu_cores", "CPU capacity, summed over nodes.",
           lambda totals: totals.cpu_nano / _NANO),
    _fleet_parts("fleet_cpu_cores_by_kind", "CPU by kind of cluster.",
                 lambda sums: sums.cpu_nano, lambda key: key.kind, _KIND, unit=_NANO),
    _fleet("fleet_memory_bytes", "Memory capacity, summed over nodes.",
           lambda totals: totals.memory_nano / _NANO),
    _fleet("fleet_gpus", "GPUs that nodes report.",
           lambda totals: totals.everything.gpus._asdict(), _VENDOR),
    _fleet_sum("fleet_pod_capacity", f"Pod capacity{_STATUS}",
               lambda sums: sums.pods),
    _fleet_sum("fleet_requested_pods", f"Pods{_STATUS}", lambda sums: sums.requested_pods),
    _fleet_sum("fleet_requested_cpu_cores", f"CPU that pods request{_STATUS}",
               lambda sums: sums.requested_cpu_nano, unit=_NANO),
    _fleet_sum("fleet_requested_memory_bytes", f"Memory that pods request{_STATUS}",
               lambda sums: sums.requested_memory_nano, unit=_NANO),
    _fleet("fleet_unreported_nodes", "Nodes that don't report this capacity.",
           lambda totals: {"cpu": totals.unreported_cpu, "memory": totals.unreported_memory},
           _CAPACITY),
    _fleet("fleet_orphan_nodes", "Nodes whose cluster is gone.",
           lambda totals: totals.orphan_nodes),
    _fleet("fleet_withheld_texts", "Objects and answers with a withheld text.",
           lambda totals: {field: totals.withheld.get(field, 0) for field in _WITHHELD.values},
           _WITHHELD),

    Family("gauge", "entitlement_used",
           "Licenses that this month counts so far, by the rule of the entitlement.",
           lambda facts: facts.history.licenses, appears="once an hour is known"),
    Family("gauge", "entitlement_limit", "Licenses that there are.",
           lambda facts: facts.history.limit, appears="where a limit is configured"),
    Family("counter", "history_samples", "Looks at the fleet for the history.",
           lambda facts: facts.history.samples),
    Family("gauge", "history_last_sample_timestamp_seconds", "When it was last looked at.",
           lambda facts: facts.history.last_sample_at, appears=_SNAPSHOT),
    Family("counter", "history_lost_slots",
           "Slots of the history that were dropped because they could not be written for long.",
           lambda facts: facts.history.lost_slots),
    Family("gauge", "history_writable", "Whether the history can be written.",
           lambda facts: not (facts.history.enabled and facts.history.trouble)),

    Family("gauge", "collection_allowed", "Whether this switch allows collection.",
           lambda facts: {switch: switch not in facts.switches.off for switch in Switch},
           (_SWITCH,)),
    Family("gauge", "leader", "Whether this replica leads; 1 without election.",
           lambda facts: {facts.leader[0]: facts.leader[1]}, (_LEASE,)),
    Family("counter", "leader_transitions", "Times this replica began or ceased to lead.",
           lambda facts: {facts.leader[0]: facts.leader[2]}, (_LEASE,)),
    Family("gauge", "config_last_reload_successful", "Whether the last reload was accepted.",
           lambda facts: not facts.config.status.problems),
    Family("gauge", "config_last_reload_success_timestamp_seconds", "When it was last accepted.",
           lambda facts: facts.config.status.in_force_at),
    Family("gauge", "config_hash", "48-bit hash of the configuration in force.",
           lambda facts: facts.config.status.hash),
    Family("counter", "config_reloads", "Reloads of the configuration.",
           lambda facts: {
               **dict.fromkeys(product(_RESULT.values, _TRIGGER.values), 0), **facts.config.reloads
           }, (_RESULT, _TRIGGER)),
    Family("counter", "log_lines_lost", "Log lines that could not be written.",
           lambda facts: facts.log_lines_lost),
    Family("histogram", "event_loop_lag_seconds", "Delay of the event loop's timers.",
           lambda facts: facts.loop_lag),
)  # fmt: skip
