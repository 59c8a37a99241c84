"""What brings each alert about, and what fixes it, as it would come in production."""

import json
import sqlite3
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from tests.apiserver.crds import CLUSTERS, NODES, SETTINGS, collection
from tests.apiserver.fixtures import namespace, rancher_cluster, rancher_node
from tests.faults.acts import as_stream, refusal
from tests.monitoring.stage import Stage
from tests.support.daemon import TOP_LEVEL
from tests.support.receiver import WELL, status
from tests.system.rancher import SECRET, TARGET_NAMESPACE

LEASE = (TARGET_NAMESPACE, "telemetryd")
ELSEWHERE = ("default", "telemetryd")
ALONE = (TARGET_NAMESPACE, "alone")
BROKEN = "broken-m-1"
BIG = "big"


@dataclass(frozen=True, slots=True)
class Expected:
    """An alert that has to fire, with at least these labels."""

    alert: str
    labels: tuple[tuple[str, str], ...]

    def is_(self, alert: Mapping[str, Any]) -> bool:
        """Whether an alert that fires is it."""
        labels: dict[str, str] = alert["labels"]
        return {"alertname": self.alert, **dict(self.labels)}.items() <= labels.items()


@dataclass(frozen=True, slots=True)
class Cause:
    """Something that goes wrong.

    Attributes:
        alerts: What has to fire.
        bring: Makes it go wrong; returns what makes it right again.
        quick: Needs the daemons `main` and `gone` alone, and no fault of a proxy.
    """

    name: str
    alerts: tuple[Expected, ...]
    bring: Callable[[Stage], Callable[[], object]]
    quick: bool


CAUSES: list[Cause] = []


def cause(
    *alerts: Expected, quick: bool = False
) -> Callable[[Callable[[Stage], Callable[[], object]]], Callable[[Stage], Callable[[], object]]]:
    """Adds to the causes."""

    def add(
        bring: Callable[[Stage], Callable[[], object]],
    ) -> Callable[[Stage], Callable[[], object]]:
        CAUSES.append(Cause(bring.__name__, alerts, bring, quick))
        return bring

    return add


def of(alert: str, **labels: str) -> Expected:
    return Expected(f"Telemetryd{alert}", tuple(labels.items()))


@cause(of("Down", instance="gone"), quick=True)
def daemon_that_ended(stage: Stage) -> Callable[[], object]:
    stage.end("gone")
    return lambda: stage.start("gone")


@cause(
    of("ExporterFailing", instance="main", exporter="receiver"),
    of("ExporterStale", instance="main", exporter="receiver"),
    of("SpoolDropping", instance="main", exporter="receiver"),
    quick=True,
)
def receiver_that_answers_503_and_a_spool_that_is_no_folder(stage: Stage) -> Callable[[], object]:
    spool = stage.folder("main") / "spool" / "receiver"
    spool.rename(spool.with_suffix(".aside"))
    spool.touch()
    stage.receiver.default = status(503)

    def fix() -> None:
        spool.unlink()
        stage.receiver.default = WELL

    return fix


@cause(of("ExporterConflict", instance="main", exporter="scc"), quick=True)
def another_writer_of_the_secret(stage: Stage) -> Callable[[], object]:
    name = SECRET.rpartition("/")[2]
    secret: dict[str, Any] = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}}
    over = threading.Event()

    def write() -> None:
        for number in count():
            data = {"payload": b64encode(json.dumps({"number": number}).encode()).decode()}
            stage.admin.apply(SECRET, {**secret, "data": data}, manager="rancher", force=True)
            if over.wait(1):
                return

    return _meanwhile(write, over)


@cause(of("ExporterStopped", instance="main", exporter="folder"), quick=True)
def exporter_that_was_stopped_by_hand(stage: Stage) -> Callable[[], object]:
    stage.command("main", "stop", "folder")
    return lambda: stage.command("main", "start", "folder")


@cause(of("EntitlementNear", instance="main"), quick=True)
def limit_that_is_nearly_used_up(stage: Stage) -> Callable[[], object]:
    # The minimum counts whatever the fleet does meanwhile.
    stage.reload("main", stage.config("main") + "[entitlement]\nminimum = 1000\nlimit = 1050\n")
    main = stage.daemons["main"]
    # The next cause is a file of its own.
    main.wait_for("the limit", lambda: main.metric("telemetryd_entitlement_limit") == 1050, 60)
    return lambda: stage.reload("main")


@cause(of("ConfigReloadFailed", instance="main"), quick=True)
def configuration_with_an_unknown_key(stage: Stage) -> Callable[[], object]:
    stage.reload("main", "[colour]\n")
    return lambda: stage.reload("main")


@cause(of("SnapshotIncomplete", instance="main"), quick=True)
def node_whose_fields_have_wrong_types(stage: Stage) -> Callable[[], object]:
    nodes = collection(NODES, "local")
    stage.admin.create(
        nodes,
        {
            "apiVersion": "management.cattle.io/v3",
            "kind": "Node",
            "metadata": {"name": BROKEN, "namespace": "local"},
            "status": {"internalNodeStatus": {"capacity": ["cpu", "memory"]}},
        },
    )
    return lambda: stage.admin.delete(f"{nodes}/{BROKEN}")


@cause(of("FleetDropped", instance="main", what="nodes"), quick=True)
def cluster_with_most_of_the_nodes_that_vanishes(stage: Stage) -> Callable[[], object]:
    main = stage.daemons["main"]
    whole = (main.metric("telemetryd_fleet_nodes") or 0) + 60
    cluster = rancher_cluster(BIG, node_count=None)
    stage.rancher._create("/api/v1/namespaces", namespace(BIG))
    stage.admin.create(collection(CLUSTERS), cluster)
    for number in range(60):
        stage.admin.create(collection(NODES, BIG), rancher_node(BIG, f"machine-{number}"))
    main.wait_for(
        "its nodes to count", lambda: (main.metric("telemetryd_fleet_nodes") or 0) >= whole, 60
    )
    stage.admin.delete(f"{collection(CLUSTERS)}/{BIG}")
    return lambda: stage.admin.create(collection(CLUSTERS), cluster)


@cause(of("ClustersDiffer", instance="main"), quick=True)
def cluster_that_reports_nodes_which_have_no_objects(stage: Stage) -> Callable[[], object]:
    stage.admin.create(collection(CLUSTERS), rancher_cluster("differing", node_count=2))
    return lambda: stage.admin.delete(f"{collection(CLUSTERS)}/differing")


@cause(of("ClustersStale", instance="main"))  # takes longer than the others together
def cluster_whose_agent_is_disconnected(stage: Stage) -> Callable[[], object]:
    cluster = rancher_cluster("unreachable", node_count=0)
    for condition in cluster["status"]["conditions"]:
        if condition["type"] == "Connected":
            condition["status"] = "False"
    stage.admin.create(collection(CLUSTERS), cluster)
    return lambda: stage.admin.delete(f"{collection(CLUSTERS)}/unreachable")


@cause(of("PayloadSchemaInvalid", instance="main", exporter="scc"), quick=True)
def version_that_is_none(stage: Stage) -> Callable[[], object]:
    path = f"{collection(SETTINGS)}/server-version"
    right = {"value": stage.admin.get(path)["value"]}
    stage.admin.patch(path, {"value": "of-our-own"})
    return lambda: stage.admin.patch(path, right)


@cause(
    of("InformerNotSynced", instance="denied", resource="features.management.cattle.io"),
    of("ExporterNeverSucceeded", instance="denied", exporter="folder"),
)
def list_that_is_denied_from_the_start(stage: Stage) -> Callable[[], object]:
    stage.proxies["denied"].rule("features", "list", refusal(403, "Forbidden"))
    stage.start("denied")
    return stage.proxies["denied"].heal


@cause(
    of("InformerRelistStorm", instance="main", resource="features.management.cattle.io"),
    of("WatchErrors", instance="main", resource="clusters.management.cattle.io"),
    of("InformerOutOfContact", instance="main", resource="namespaces"),
)
def watches_that_are_expired_refused_or_silent(stage: Stage) -> Callable[[], object]:
    proxy = stage.proxies["main"]
    # In pages, for a list as a stream would go on as a watch that is granted.
    proxy.rule("features", "list", as_stream(refusal(422, "Invalid")))
    proxy.rule("features", "watch", refusal(410, "Expired"))
    proxy.hang_up("features")
    proxy.rule("clusters", "watch", refusal(503, "ServiceUnavailable"))
    proxy.hang_up("clusters")
    proxy.edit("namespaces", lambda _line: b"")
    return proxy.heal


@cause(of("LoopLag", instance="starved"))
def process_that_gets_half_of_its_time(stage: Stage) -> Callable[[], object]:
    over = threading.Event()

    def starve() -> None:
        while not over.is_set():
            stage.pause("starved", 0.85)
            time.sleep(0.65)

    return _meanwhile(starve, over)


@cause(of("LeaderMultiple", cluster="twins"))
def replicas_with_leases_in_two_namespaces(stage: Stage) -> Callable[[], object]:
    stage.end("twin")
    stage.start("twin", lease=ELSEWHERE, cluster="twins")

    def fix() -> None:
        stage.end("twin")
        stage.start("twin", lease=LEASE, cluster="twins")

    return fix


@cause(of("LeaderMissing", cluster="alone"))
def lease_that_somebody_unknown_holds(stage: Stage) -> Callable[[], object]:
    path = "/apis/coordination.k8s.io/v1/namespaces/{}/leases/{}".format(*ALONE)
    held = {"holderIdentity": "somebody", "leaseDurationSeconds": 3600}
    stage.admin.patch(path, {"spec": held})
    return lambda: stage.admin.delete(path)


@cause(of("CollectionOff", instance="switched", by="config"))
def collection_that_is_switched_off(stage: Stage) -> Callable[[], object]:
    stage.reload("switched", top_level=f"enabled = false\n{TOP_LEVEL}")
    # To leave the line out isn't enough: the daemon remembers it until its opposite is written.
    return lambda: stage.reload("switched", top_level=f"enabled = true\n{TOP_LEVEL}")


@cause(of("EntitlementExceeded", instance="alone"))
def limit_that_is_lower_than_what_is_used(stage: Stage) -> Callable[[], object]:
    right = stage.config("alone", ALONE)
    stage.reload("alone", f"{right}[entitlement]\nminimum = 1000\nlimit = 900\n")
    return lambda: stage.reload("alone", right)


@cause(of("HistoryNotWritten", instance="starved"))  # those with a limit need theirs
def other_process_that_locks_the_history(stage: Stage) -> Callable[[], object]:
    other = sqlite3.connect(stage.folder("starved") / "history.db", check_same_thread=False)
    other.execute("PRAGMA busy_timeout = 30000")
    other.execute("BEGIN IMMEDIATE")
    return other.close


def _meanwhile(work: Callable[[], None], over: threading.Event) -> Callable[[], object]:
    """Begins the work; returns what ends it."""
    thread = threading.Thread(target=work, name=work.__name__)
    thread.start()

    def end() -> None:
        over.set()
        thread.join()

    return end


def begin(stage: Stage, *, quick: bool) -> None:
    """Starts the daemons, and waits until all of them do their work."""
    stage.start("main")
    stage.start("gone")
    if not quick:
        stage.start("starved", lease=LEASE, cluster="twins")
        stage.start("twin", lease=LEASE, cluster="twins")
        stage.start("alone", lease=ALONE, cluster="alone")
        stage.start("switched")
    for name, daemon in stage.daemons.items():
        daemon.wait_for(f"{name} to be ready", daemon.ready, 60)
    main = stage.daemons["main"]
    for exporter in ("scc", "receiver", "folder"):
        series = f'telemetryd_exporter_last_success_timestamp_seconds{{exporter="{exporter}"}}'
        main.wait_for(f"{exporter} to succeed", lambda it=series: main.metric(it), 30)  # type: ignore[misc]
    # For the dashboard: slots that pass without a run, and watches that end.
    stage.pause("main", 2.1)
    stage.proxies["main"].hang_up()
