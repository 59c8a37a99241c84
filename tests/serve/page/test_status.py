"""The status document."""

import json
from dataclasses import replace

import orjson
import pytest

from telemetryd.export.payloads.formats import PAYLOAD_FORMATS
from telemetryd.model import (
    ExporterState,
    Identity,
    RequestState,
    RequestStatus,
    SourceKind,
    Switch,
    Switches,
)
from telemetryd.serve.page.facts import render_summary
from telemetryd.serve.page.status import render_status
from telemetryd.stats import ExporterStats
from tests.serve.facts import (
    INSTALL_UUID,
    NODES,
    NOW,
    SNAPSHOT,
    Facts,
    busy_facts,
    exporter_status,
    new_exporter_status,
)
from tests.serve.states import STATES


def test_status_shows_what_happened() -> None:
    document = render_status(busy_facts().status())
    assert document["uptime_seconds"] == 3600
    assert document["time"] == "2027-01-15T08:00:00.000Z"
    (informer,) = document["informers"]
    assert informer["resource"] == NODES
    assert informer["last_contact_at"] == "2027-01-15T07:59:59.000Z"
    (exporter,) = document["exporters"]
    assert exporter["state"] == "idle"
    assert exporter["next_run_at"] == "2027-01-15T08:00:40.000Z"
    assert document["snapshot"]["fleet"]["clusters"] == {"local": 1, "managed": 20}
    assert document["snapshot"]["fleet"]["cpu_cores"] == 1212.5
    assert document["snapshot"]["fleet"]["unreadable_objects"] == {NODES: 1}
    assert document["waiting_for"] == []
    assert document["config"] == {
        "file": "defaults",
        "hash": "fffffffffffd",
        "in_force_at": "2027-01-15T07:00:00.000Z",
        "last_reload": None,
    }


def test_of_thousands_of_requests_the_served_ones_and_those_in_trouble_are_shown() -> None:
    ours = {3: RequestState.SERVED, 7: RequestState.FAILING, 2_999: RequestState.SERVED}
    others = (RequestState.WAITING, RequestState.REJECTED, RequestState.LEAVING)
    requests = tuple(
        RequestStatus(f"r{number:04}", "", ours.get(number, others[number % 3]), "", None)
        for number in range(3000)
    )
    document = render_status(replace(busy_facts().status(), requests=requests))
    shown = [(each["state"], each["name"]) for each in document["secret_requests"]]
    assert (len(shown), document["secret_requests_left_out"]) == (200, 2800)
    assert shown[0] == ("failing", "r0007")
    assert shown[-2:] == [("served", "r0003"), ("served", "r2999")]
    assert shown[1:-2] == sorted(shown[1:-2])
    assert {state for state, _ in shown[1:-2]} == {"rejected"}


@pytest.mark.parametrize("state", RequestState)
def test_request_in_any_state_is_shown(state: RequestState) -> None:
    requests = (RequestStatus("r", "", state, "", None),)
    document = render_status(replace(busy_facts().status(), requests=requests))
    assert [each["state"] for each in document["secret_requests"]] == [state]


def test_status_shows_why_the_last_reload_was_rejected() -> None:
    facts = busy_facts()
    facts.config.status = replace(
        facts.config.status, reloaded_at=NOW, problems=("c.toml: interval: is wrong",)
    )
    assert render_status(facts.status())["config"]["last_reload"] == {
        "at": "2027-01-15T08:00:00.000Z",
        "ok": False,
        "problems": ["c.toml: interval: is wrong"],
    }
    assert render_summary(facts.status()).endswith(" config=rejected")


def test_status_before_anything_happened_is_complete_json() -> None:
    facts = Facts(exporters=[(new_exporter_status(), ExporterStats())])
    document = render_status(facts.status())
    assert json.loads(orjson.dumps(document)) == document
    assert document["snapshot"] is None
    assert document["waiting_for"] == ["cluster UUID"]
    assert document["exporters"][0]["last_success_at"] is None
    assert document["identity"]["known"] == []


def test_overview_is_what_the_page_says_at_its_top() -> None:
    overview = render_status(STATES["many"])["overview"]
    assert overview == {
        "state": "needs_attention",
        "sentence": "The exporters receiver-0007, receiver-0107, receiver-0207 and 7 more fail.",
        "findings": [
            {
                "state": "needs_attention",
                "what": overview["sentence"],
                "why": STATES["many"].exporters[7].last_error,
                "fix": "Grant the right that the message names: telemetryd doctor prints the role.",
            }
        ],
        "findings_left_out": 0,
    }
    exporters = {each["name"]: each for each in render_status(STATES["failing"])["exporters"]}
    assert exporters["archive"]["last_error_fix"] == (
        "Free some space, or let telemetryd write to the folder."
    )
    assert exporters["secretrequest/rancher-scc-metrics"]["last_error_fix"] == ""


def test_exporters_that_send_the_same_share_the_list_of_their_fields() -> None:
    exporters = render_status(STATES["served"])["exporters"]
    fields = {each["name"]: each["fields"] for each in exporters}
    assert [field["key"] for field in fields["archive"]] == [
        field.key for field in PAYLOAD_FORMATS["fleet"].fields
    ]
    assert fields["scc"] is fields["secretrequest/rancher-scc-metrics"]
    assert len(fields["scc"]) == len(PAYLOAD_FORMATS["scc"].fields)


@pytest.mark.parametrize(
    ("state", "word"),
    [("well", "healthy"), ("standby", "at_rest"), ("starting", "in_progress"), ("gaps", "gaps")],
)
def test_state_of_the_whole_is_one_word(state: str, word: str) -> None:
    assert render_status(STATES[state])["overview"]["state"] == word


def test_findings_are_bounded() -> None:
    failing = tuple(
        exporter_status(name=f"x{number}", state=ExporterState.FAILED, last_error=f"{number}")
        for number in range(60)
    )
    overview = render_status(replace(STATES["well"], exporters=failing))["overview"]
    assert (len(overview["findings"]), overview["findings_left_out"]) == (50, 10)


def test_identity_is_shown_by_names_alone() -> None:
    document = render_status(busy_facts().status())
    assert document["identity"]["missing"] == ["git_hash"]
    assert "install_uuid" in document["identity"]["known"]
    text = orjson.dumps(document).decode()
    assert INSTALL_UUID not in text
    assert "rancher.example.com" not in text


def test_incomplete_snapshot_says_why() -> None:
    snapshot = replace(SNAPSHOT, complete=False, incomplete_reasons=("1 node unreadable",))
    document = render_status(Facts(snapshot=snapshot).status())
    assert document["snapshot"]["complete"] is False
    assert document["snapshot"]["incomplete_reasons"] == ["1 node unreadable"]


def test_identity_names_are_the_models() -> None:
    shown = render_status(Facts().status())["identity"]["missing"]
    assert shown == list(Identity.__dataclass_fields__)


def test_switched_off_is_said_plainly_and_by_what() -> None:
    facts = busy_facts()
    facts.switches = Switches(frozenset({Switch.SETTING, Switch.DO_NOT_TRACK}))
    facts.snapshot = None
    assert render_status(facts.status())["collection"] == {
        "enabled": False,
        "off_by": ["do_not_track", "setting"],
        "detail": "switched off by $DO_NOT_TRACK and the Rancher setting telemetry-opt",
        "source": None,
        "restrictions": [],
        "memory_warning": "",
    }
    assert render_summary(facts.status()).startswith(
        "collection=off by=do_not_track,setting informers_synced="
    )


def test_source_is_shown_while_it_is_on() -> None:
    facts = busy_facts()
    facts.source = SourceKind.KUBERNETES
    assert render_status(facts.status())["collection"] == {
        "enabled": True,
        "off_by": [],
        "detail": "",
        "source": "kubernetes",
        "restrictions": [],
        "memory_warning": "",
    }
    assert " source=kubernetes " in render_summary(facts.status())


def test_summary_is_one_line() -> None:
    facts = busy_facts()
    facts.exporters.append(
        (exporter_status(name="b", state=ExporterState.CONFLICT), ExporterStats())
    )
    assert render_summary(facts.status()) == (
        "informers_synced=1/1 exporters_succeeded=2/2 clusters=21 nodes=303 failing=b"
    )
    assert render_summary(Facts().status()) == "informers_synced=0/0 exporters_succeeded=0/0"
