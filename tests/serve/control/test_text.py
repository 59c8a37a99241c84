"""What ``telemetryd ctl`` prints of an answer, and what it complains about."""

import json
from dataclasses import replace
from typing import Any

import pytest

from telemetryd.errors import Reason
from telemetryd.model import (
    ExporterState,
    HistoryStatus,
    RequestState,
    RequestStatus,
    SourceKind,
    Switch,
    Switches,
)
from telemetryd.serve.control.protocol import CommandAnswer, CommandName, Request
from telemetryd.serve.control.text import render_complaints, render_result, render_table
from telemetryd.serve.page.status import render_status
from tests.serve.facts import (
    DOUBTFUL,
    NOW,
    Facts,
    busy_facts,
    exporter_status,
    informer_status,
)
from tests.serve.facts import new_exporter_status as new


def table(facts: Facts) -> list[str]:
    return render_table(render_status(facts.status())).splitlines()


def shown(command: CommandName, answer: CommandAnswer, name: str = "", **options: Any) -> str:
    return render_result(Request(command, name), answer, as_json=False, **options)


def test_table_says_that_collection_is_off_or_from_where_it_is() -> None:
    facts = busy_facts()
    facts.source = SourceKind.RANCHER
    assert table(facts)[1] == "source rancher"
    facts.switches = Switches(frozenset({Switch.CONFIG}))
    assert table(facts)[1] == "collection is switched off by enabled = false in the configuration"


def test_table_shows_informers_and_exporters() -> None:
    facts = busy_facts()
    stats = facts.exporters[0][1]
    facts.exporters = [
        (exporter_status(), stats),
        (
            exporter_status(
                name="archive",
                type="file",
                state=ExporterState.STOPPED,
                detail="by hand",
                last_success_at=NOW - 7300,
                next_run_in_s=None,
            ),
            stats,
        ),
        (new(name="new", detail="informer nodes.management.cattle.io"), stats),
        (
            exporter_status(
                name="worse",
                state=ExporterState.FAILED,
                consecutive_failures=2,
                last_error="GET /x:\n\x1b[31m403",
                last_error_reason=Reason.FORBIDDEN,
                last_success_at=NOW - 200_000,
                next_run_in_s=0.2,
            ),
            stats,
        ),
    ]
    assert table(facts) == [
        "telemetryd 1.0.0, up 1h0m, API server https://127.0.0.1:6443",
        "licenses this month: 3 of 40",
        "21 clusters, 303 nodes",
        "",
        "INFORMER                    STATE   OBJECTS  LAST CONTACT  DETAIL",
        "nodes.management.cattle.io  synced  305      1s ago",
        "",
        "EXPORTER  TYPE    STATE    LAST SUCCESS  NEXT RUN  DETAIL",
        "scc       secret  idle     20s ago       in 40s",
        "archive   file    stopped  2h1m ago      -         by hand",
        "new       secret  waiting  -             -         informer nodes.management.cattle.io",
        "worse     secret  failed   2d7h ago      now       forbidden: GET /x:\\n\\x1b[31m403",
    ]


def test_table_says_what_is_doubtful_and_what_cannot_be_reached() -> None:
    lines = table(Facts(snapshot=DOUBTFUL))
    assert lines[2] == "21 clusters, 303 nodes"
    assert lines[3] == f"doubtful: {', '.join(DOUBTFUL.doubts)}"
    assert lines[4] == "unreachable: 2 clusters, 12 nodes as last known"


def test_table_of_a_daemon_that_has_just_begun() -> None:
    facts = Facts(
        informers=[
            (
                informer_status(
                    synced=False, objects=0, last_contact_at=None, last_error="connect: refused"
                ),
                busy_facts().informers[0][1],
            )
        ],
        history=HistoryStatus(enabled=True),
    )
    lines = table(facts)
    assert lines[1] == "waiting for cluster UUID"
    assert lines[4].split() == [
        "nodes.management.cattle.io",
        "syncing",
        "0",
        "-",
        "connect:",
        "refused",
    ]
    assert lines[-1].split() == ["-"] * 6


def test_rejected_configuration_is_shown() -> None:
    document = {"config": {"last_reload": {"ok": False, "problems": ["f.toml: a: is b"]}}}
    assert "last reload rejected: f.toml: a: is b" in render_table(document).splitlines()
    assert "rejected" not in render_table({"config": {"last_reload": None}})


def test_absent_resource_is_shown_as_absent() -> None:
    facts = busy_facts()
    facts.informers = [(informer_status(absent=True), facts.informers[0][1])]
    assert table(facts)[5].split()[1] == "absent"


def test_requests_are_shown_with_why_one_is_not_served() -> None:
    requests = (
        RequestStatus("a", "ns/one", RequestState.SERVED, "", NOW - 90),
        RequestStatus("b", "", RequestState.REJECTED, "spec.secretType is missing", None),
    )
    facts = replace(busy_facts().status(), requests=requests)
    document = render_status(facts)
    assert document["secret_requests"][0] == {
        "name": "b",
        "target": "",
        "state": "rejected",
        "detail": "spec.secretType is missing",
        "last_write_at": None,
    }
    assert render_table(document).splitlines()[-3:] == [
        "SECRETREQUEST  SECRET  STATE     LAST WRITE  DETAIL",
        "b              -       rejected  -           spec.secretType is missing",
        "a              ns/one  served    1m30s ago",
    ]


def test_number_of_requests_that_are_left_out_is_said() -> None:
    table = render_table({"secret_requests": [{"name": "a"}], "secret_requests_left_out": 2800})
    assert table.splitlines()[-1] == "2800 more SecretRequests are left out"


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"time": 5, "informers": [{}], "exporters": [{}], "snapshot": {"fleet": {}}},
        {"time": "yesterday", "exporters": [{"last_success_at": "2026-01-01T00:00:00Z"}]},
        {"snapshot": {"fleet": {"clusters": {}}, "incomplete_reasons": ["a", "b"]}},
    ],
)
def test_document_of_another_version_is_shown_as_far_as_it_goes(document: dict[str, Any]) -> None:
    assert "EXPORTER" in render_table(document)


def test_status_as_json_is_the_document() -> None:
    document = render_status(busy_facts().status())
    text = render_result(Request("status"), CommandAnswer(True, result=document), as_json=True)
    assert json.loads(text) == document


def test_reload_tells_what_changed() -> None:
    changed = CommandAnswer(True, result={"changes": ["exporter a added", "b"], "problems": []})
    assert shown("reload", changed) == "exporter a added\nb\n"
    assert shown("reload", CommandAnswer(True, result={"changes": []})) == "nothing has changed\n"


def test_rejected_reload_tells_each_problem() -> None:
    rejected = CommandAnswer(False, result={"changes": [], "problems": ["f: a: x", "f: b: y"]})
    assert shown("reload", rejected) == ""
    assert render_complaints(Request("reload"), rejected) == ["f: a: x", "f: b: y"]


def test_exporter_commands_tell_the_state() -> None:
    stopped = {"name": "a", "state": "stopped", "detail": "by hand"}
    assert (
        shown("stop", CommandAnswer(True, result={"exporter": stopped}), "a")
        == "a: stopped (by hand)\n"
    )
    idle = {"name": "a", "state": "idle", "detail": ""}
    assert shown("restart", CommandAnswer(True, result={"exporter": idle}), "a") == "a: idle\n"
    waiting = {"name": "a", "state": "waiting", "detail": "server URL"}
    started = CommandAnswer(True, result={"exporter": waiting})
    assert shown("start", started, "a") == "a: waiting (server URL)\n"
    assert shown("trigger", CommandAnswer(True, result={"run": "a#7"}), "a") == "a#7\n"


def test_refusal_is_a_complaint_and_nothing_else() -> None:
    answer = CommandAnswer(False, error="there is no exporter 'x\x1b'")
    assert shown("start", answer, "x") == ""
    assert render_complaints(Request("start", "x"), answer) == ["there is no exporter 'x\\x1b'"]


def test_cache_complains_where_it_differs_or_isnt_synced() -> None:
    request = Request("cache", "nodes", verify=True)
    assert render_complaints(request, CommandAnswer(False, result={"synced": False})) == [
        "nodes isn't synced"
    ]
    found = {"missing_count": 2, "extra_count": 1}
    differs = CommandAnswer(False, result={"synced": True, "verification": found})
    assert render_complaints(request, differs) == [
        "nodes differs from the API server: 2 missing, 1 extra"
    ]
    assert render_complaints(request, CommandAnswer(True, result={"synced": True})) == []
    assert json.loads(render_result(request, differs, as_json=False)) == differs.result
