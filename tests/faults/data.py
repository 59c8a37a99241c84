"""The scenarios of objects and lists that are not what they should be."""

from typing import Any

from tests.apiserver.crds import NODES, collection
from tests.apiserver.fixtures import rancher_node
from tests.faults.acts import answer, event
from tests.faults.bench import Bench
from tests.faults.matrix import fix, others_go_on, scenario, spoil_a_list

MIB = 1024 * 1024
ERRORS = (
    'telemetryd_informer_decode_errors_total{reason="%s",resource="nodes.management.cattle.io"}'
)


@scenario(33, asks_at_most=4, lists=0, quick=True)
def object_of_1400_kib_and_line_of_5_mib_stop_nothing(bench: Bench) -> None:
    large = rancher_node("local", "sentinel-large")
    large["spec"]["pad"] = "x" * int(1.4 * MIB)
    held = bench.informer()["objects"]
    bench.admin.create(collection(NODES, "local"), large)
    bench.until("it is held", lambda: bench.informer()["objects"] == held + 1, 30)
    others_go_on(bench)
    known = bench.node()
    known["spec"]["pad"] = "x" * (5 * MIB)
    bench.proxy.say("nodes", event("MODIFIED", known))
    others_go_on(bench)
    bench.admin.delete(f"{collection(NODES, 'local')}/sentinel-large")
    assert bench.informer()["unreadable"] == 0


@scenario(33, asks_at_most=4, lists=0)
def line_above_the_limit_is_counted_and_costs_itself_alone(bench: Bench) -> None:
    before = bench.daemon.metric(ERRORS % "oversize") or 0
    known = bench.node()
    known["spec"]["pad"] = "x" * (9 * MIB)
    bench.proxy.say("nodes", event("MODIFIED", known))
    bench.until("counted", lambda: (bench.daemon.metric(ERRORS % "oversize") or 0) > before)
    others_go_on(bench)
    fix(bench)


@scenario(34, asks_at_most=16, lists=1)
def broken_lines_lead_to_a_watch_and_then_to_a_list(bench: Bench) -> None:
    bench.proxy.say("nodes", b'{"type":"MODIFIED","object":{"metadata":NaN}}\n')
    bench.until("another watch", bench.watches_asked)
    bench.until("it is open", lambda: bench.proxy.watches("nodes"))
    assert bench.lists_begun() == 0
    bench.proxy.say("nodes", b'{"type":"\xff\xfe","object":{}}\n')
    bench.until("a list", bench.lists_begun)


@scenario(35, asks_at_most=4, lists=0, quick=True)
def objects_without_what_they_must_have_cost_themselves_alone(bench: Bench) -> None:
    before = sum(bench.daemon.metric(ERRORS % reason) or 0 for reason in ("missing", "type"))
    spoilt: list[dict[str, Any]] = [bench.node() for _ in range(4)]
    del spoilt[0]["metadata"]["uid"]
    spoilt[1]["metadata"]["resourceVersion"] = None
    spoilt[2]["status"]["internalNodeStatus"] = [1]
    spoilt[3]["metadata"]["uid"] = 7
    held = bench.informer()["objects"]
    for each in spoilt:
        bench.proxy.say("nodes", event("MODIFIED", each))
    bench.until(
        "each is counted",
        lambda: (
            sum(bench.daemon.metric(ERRORS % reason) or 0 for reason in ("missing", "type"))
            >= before + 4
        ),
    )
    assert bench.informer()["unreadable"] == 1
    assert bench.informer()["objects"] == held
    assert bench.daemon.metric("telemetryd_snapshot_complete") == 0
    fix(bench)


@scenario(36, asks_at_most=4, lists=0, quick=True)
def repeated_and_unknown_events_change_nothing(bench: Bench) -> None:
    held = bench.informer()["objects"]
    known = bench.node()
    stranger = bench.node()
    stranger["metadata"] |= {"name": "sentinel-stranger", "uid": "stranger"}
    for line in (
        event("ADDED", known),
        event("ADDED", known),
        event("MODIFIED", stranger),
        event("DELETED", stranger),
        event("DELETED", stranger),
    ):
        bench.proxy.say("nodes", line)
    others_go_on(bench)
    assert bench.informer()["objects"] == held


@scenario(37, asks_at_most=20, lists=0)
def node_made_anew_while_disconnected_is_another(bench: Bench) -> None:
    bench.proxy.close_door()
    try:
        bench.rancher.delete_node("sentinel-c-1", 0)
        bench.rancher.add_node("sentinel-c-1", 0, cpu="8")
    finally:
        bench.proxy.open_door()


@scenario(38, asks_at_most=16, lists=2, pages=True)
def table_in_the_place_of_a_list_is_refused(bench: Bench) -> None:
    table = {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "rows": [], "metadata": {}}
    table["metadata"] = {"resourceVersion": bench.informer()["resource_version"]}
    spoil_a_list(bench, answer(200, table))


@scenario(39, asks_at_most=4, lists=0, quick=True)
def event_of_an_unknown_type_is_passed_over(bench: Bench) -> None:
    bench.proxy.say("nodes", event("SPLIT", bench.node()))
    others_go_on(bench)


@scenario(40, asks_at_most=16, lists=2, pages=True)
def empty_list_without_a_version_wipes_nothing(bench: Bench) -> None:
    kind = {"kind": "NodeList", "apiVersion": "management.cattle.io/v3"}
    spoil_a_list(bench, answer(200, {**kind, "metadata": {}, "items": []}))
