"""The state in one sentence, and what to do; Rancher's build and registration wherever shown."""

from dataclasses import replace

import pytest

from telemetryd.config import IdentityConfig
from telemetryd.errors import Reason
from telemetryd.gather.consumer import RancherBuild, Registration, Registrations
from telemetryd.model import ExporterState, Switch, Switches
from telemetryd.serve.control.text import render_table
from telemetryd.serve.page.facts import StatusFacts, render_time
from telemetryd.serve.page.notes import Tone
from telemetryd.serve.page.overview import judge, judge_exporter, judge_informer
from telemetryd.serve.page.page import render_page
from telemetryd.serve.page.status import render_status
from tests.serve.facts import NOW, exporter_status, informer_status, new_exporter_status
from tests.serve.states import STATES, WELL

UNREACHABLE = (
    "The cache may be out of date: clusters.management.cattle.io, "
    "features.management.cattle.io, namespaces and 3 more."
)
WELL_SAID = "Healthy: every informer is in sync, and every enabled exporter has delivered."
REJECTED = (
    "The last reload was rejected; the previous configuration stays in force, "
    "and 2 more things need attention."
)
WORD_OF_END = {
    Switch.CONFIG: "enabled = true",
    Switch.ENVIRONMENT: "TELEMETRYD_ENABLED",
    Switch.DO_NOT_TRACK: "DO_NOT_TRACK",
    Switch.SETTING: "telemetry-opt",
    Switch.MEMORY: "ctl opt-in",
}


@pytest.mark.parametrize(
    ("state", "tone", "sentence"),
    [
        ("well", Tone.GOOD, WELL_SAID),
        ("failing", Tone.BAD, REJECTED),
        ("conflict", Tone.BAD, "Another writer conflicts with the exporter scc."),
        ("off by do_not_track", Tone.QUIET, "Nothing is sent: switched off by $DO_NOT_TRACK."),
        ("disabled", Tone.QUIET, "Nothing is sent: every exporter is disabled."),
        ("stopped", Tone.QUIET, "Nothing is sent: no exporter runs."),
        ("no exporter", Tone.QUIET, "Nothing is sent: no exporter is configured."),
        ("plain", Tone.GOOD, WELL_SAID),
        ("requests", Tone.BAD, "The SecretRequest elsewhere is rejected."),
        ("standby", Tone.QUIET, "Standing by: another replica sends."),
        ("starting", Tone.BUSY, "In progress: not everything has been read and delivered yet."),
        ("gaps", Tone.GAPS, "The payloads have gaps."),
        ("doubtful", Tone.GAPS, "The counts may not cover the whole fleet."),
        ("over the limit", Tone.BAD, "This month counts 18 licenses, 2 over the limit of 16."),
        (
            "history failing",
            Tone.GAPS,
            "The history can't be written; everything else goes on.",
        ),
        ("unreachable", Tone.BAD, UNREACHABLE),
    ],
)
def test_state_is_summed_up_in_one_sentence(state: str, tone: Tone, sentence: str) -> None:
    overview = judge(STATES[state])
    assert (overview.tone, overview.sentence) == (tone, sentence)


@pytest.mark.parametrize("switch", Switch)
def test_each_way_of_being_off_says_what_ends_it(switch: Switch) -> None:
    overview = judge(STATES[f"off by {switch}"])
    assert overview.tone is Tone.QUIET
    assert overview.sentence == f"Nothing is sent: {Switches(frozenset({switch})).detail}."
    assert overview.first is not None
    assert overview.first.fix.startswith("To send again, ")
    assert WORD_OF_END[switch] in overview.first.fix


def test_off_in_two_ways_says_how_to_end_both() -> None:
    switches = Switches(frozenset({Switch.CONFIG, Switch.SETTING}))
    first = judge(replace(WELL, switches=switches)).first
    assert first is not None
    assert first.fix == (
        "To send again, set enabled = true in the configuration and reload, and give the Rancher "
        "setting telemetry-opt the value in or prompt."
    )


def test_off_is_a_finding_where_something_else_needs_attention() -> None:
    off = STATES["off by setting"]
    rejected = replace(off, config=replace(off.config, problems=("c.toml: is wrong",)))
    overview = judge(rejected)
    assert overview.sentence.startswith("The last reload was rejected")
    assert [note.what for note in overview.notes[1:]] == [judge(off).sentence]
    assert render_page(off).count(judge(off).sentence) == 1


def test_exporters_that_fail_alike_are_one_note() -> None:
    overview = judge(STATES["many"])
    (note,) = overview.notes
    assert overview.first is note
    assert note.what == (
        "The exporters receiver-0007, receiver-0107, receiver-0207 and 7 more fail."
    )
    assert (overview.sentence, note.fix) == (
        note.what,
        "Grant the right that the message names: telemetryd doctor prints the role.",
    )


def test_worst_note_is_first_with_the_reported_text_and_the_fix() -> None:
    facts = replace(
        WELL,
        exporters=(
            exporter_status(name="held", state=ExporterState.STOPPED, detail="by hand"),
            exporter_status(
                state=ExporterState.FAILED,
                consecutive_failures=3,
                last_error="no route to host",
                last_error_reason="connect",
            ),
        ),
    )
    bad, quiet = judge(facts).notes
    assert bad.what == "The exporter scc has failed 3 times in a row."
    assert bad.why == "no route to host"
    assert bad.fix == "Check the destination's address, certificate and network."
    assert quiet.what == "held is stopped by hand."
    assert quiet.fix == "telemetryd ctl start held starts it again."


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_fix(reason: Reason) -> None:
    failing = exporter_status(
        state=ExporterState.FAILED, last_error="x", last_error_reason=str(reason)
    )
    (note,) = judge(replace(WELL, exporters=(failing,))).notes
    assert note.fix


@pytest.mark.parametrize("state", ExporterState)
def test_every_state_has_a_tone_and_makes_a_sentence(state: ExporterState) -> None:
    for exporter in (exporter_status(state=state), new_exporter_status(state=state)):
        overview = judge(replace(WELL, exporters=(exporter,)))
        assert overview.sentence.endswith(".")
        assert overview.tone >= judge_exporter(exporter)


@pytest.mark.parametrize(
    "state", [ExporterState.DISABLED, ExporterState.STANDBY, ExporterState.STOPPED]
)
def test_failures_of_an_exporter_at_rest_need_no_one(state: ExporterState) -> None:
    exporter = exporter_status(state=state, consecutive_failures=3, last_error="x")
    assert judge_exporter(exporter) is Tone.QUIET


def test_exporter_that_failed_is_bad_until_it_succeeds() -> None:
    for state in (ExporterState.RUNNING, ExporterState.IDLE, ExporterState.BACKOFF):
        assert judge_exporter(exporter_status(state=state, consecutive_failures=1)) is Tone.BAD


def test_nothing_to_do_is_reported_as_such() -> None:
    assert judge(replace(WELL, exporters=())).sentence == (
        "Nothing is sent: no exporter is configured."
    )
    off = tuple(
        exporter_status(name=name, state=ExporterState.DISABLED, enabled=False) for name in "ab"
    )
    assert judge(replace(WELL, exporters=off)).sentence == (
        "Nothing is sent: every exporter is disabled."
    )
    assert judge(replace(WELL, exporters=(*off, exporter_status()))).tone is Tone.GOOD


def test_payload_off_its_schema_and_unreadable_objects_are_gaps() -> None:
    off = replace(WELL, exporters=(exporter_status(schema_valid=False),))
    assert judge(off).sentence.startswith("The payload of scc deviates from its schema")
    assert judge_informer(informer_status(unreadable=1)) is Tone.GAPS
    assert judge_informer(informer_status(absent=True)) is Tone.QUIET
    assert judge_informer(informer_status(synced=False)) is Tone.BUSY
    assert judge_informer(informer_status(last_error="x")) is Tone.BAD


def test_exporter_at_work_of_which_something_is_said_has_gaps() -> None:
    (note,) = judge(replace(WELL, exporters=(exporter_status(detail="disk full"),))).notes
    assert (note.tone, note.why) == (Tone.GAPS, "disk full")


def test_exporters_that_wait_for_the_same_are_reported_together() -> None:
    waiting = tuple(new_exporter_status(name=name, detail="informer nodes") for name in "abcdef")
    overview = judge(replace(WELL, exporters=waiting))
    assert [note.what for note in overview.notes] == ["a, b, c and 3 more wait for informer nodes."]


DAY_S = 86400.0


NAME = "scc-registration-sentinel"


ACTIVE = Registration(NAME, "online", True, False, NOW - 60, NOW + DAY_S)


PRIME = replace(WELL, build=RancherBuild.PRIME)


def with_one(registration: Registration) -> StatusFacts:
    known = Registrations(served=True, found=(registration,), checked_at=NOW)
    return replace(PRIME, registrations=known)


def test_status_says_nothing_of_what_is_not_known() -> None:
    assert render_status(WELL)["consumer"] == {
        "rancher_build": None,
        "detail": "",
        "served": None,
        "checked_at": None,
        "last_error": "",
        "registrations": [],
        "unreadable": 0,
        "more": False,
    }
    assert judge(WELL).notes == judge(PRIME).notes == ()


def test_active_registration_is_shown_without_its_name() -> None:
    facts = with_one(ACTIVE)
    assert render_status(facts)["consumer"]["registrations"] == [
        {
            "state": "active",
            "mode": "online",
            "activated": True,
            "last_sync_at": render_time(NOW - 60),
            "expires_at": render_time(NOW + DAY_S),
        }
    ]
    assert judge(facts).tone is Tone.GOOD
    shown = render_page(facts)
    assert "active: online, activated, last sync 2027-01-15T07:59:00Z" in shown
    text = render_table(render_status(facts))
    assert "registration active, online, last sync 1m0s ago, expires 2027-01-16T08:00:00" in text
    for each in (shown, text, str(render_status(facts))):
        assert NAME not in each


@pytest.mark.parametrize(
    ("registration", "state", "said"),
    [
        (replace(ACTIVE, failed=True, activated=False), "failed", "with SUSE failed."),
        (replace(ACTIVE, expires_at=NOW - 1), "expired", "with SUSE has expired."),
        (replace(ACTIVE, activated=False), "inactive", "with SUSE is not activated."),
        (replace(ACTIVE, last_sync_at=NOW - 3 * DAY_S), "overdue", "more than two days."),
    ],
)
def test_problem_of_a_registration_is_worth_a_look_and_has_a_fix(
    registration: Registration, state: str, said: str
) -> None:
    facts = with_one(registration)
    overview = judge(facts)
    assert overview.tone is Tone.GAPS
    assert overview.sentence.endswith(said)
    assert overview.notes[0].fix
    (shown,) = render_status(facts)["consumer"]["registrations"]
    assert shown["state"] == state
    assert f"registration {state}" in render_table(render_status(facts))
    assert overview.sentence in render_page(facts)


def test_rancher_that_never_registered_is_worth_a_look() -> None:
    facts = replace(PRIME, registrations=Registrations(served=True, checked_at=NOW))
    assert judge(facts).tone is Tone.GAPS
    assert "never registered" in judge(facts).sentence
    assert "registration: none" in render_table(render_status(facts)).splitlines()


@pytest.mark.parametrize(
    "known",
    [Registrations(served=False, checked_at=NOW), Registrations(served=None, error="403 no")],
)
def test_what_is_not_served_or_may_not_be_read_is_no_problem(known: Registrations) -> None:
    facts = replace(PRIME, registrations=known)
    assert judge(facts).tone is Tone.GOOD
    assert render_status(facts)["consumer"]["last_error"] == known.error
    assert (known.error or "Rancher build") in render_page(facts)


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (RancherBuild.COMMUNITY, "a community build"),
        (RancherBuild.DEV, "a development build"),
        (RancherBuild.OTHER, "not a Prime build"),
    ],
)
def test_build_that_no_one_expects_anything_of_is_said_and_all_is_well(
    build: RancherBuild, named: str
) -> None:
    assert WELL.snapshot is not None
    identity = replace(WELL.snapshot.identity, product="rancher")
    facts = replace(WELL, build=build, snapshot=replace(WELL.snapshot, identity=identity))
    overview = judge(facts)
    assert overview.tone is Tone.GOOD
    (note,) = overview.notes
    consumer = render_status(facts)["consumer"]
    assert consumer["rancher_build"] == build
    for text in (note.what, consumer["detail"], render_table(render_status(facts))):
        assert f"his Rancher is {named}" in text
        assert "SUSE does not expect it; product in the payload: rancher" in text
    assert note.what in render_page(facts)


def test_product_that_is_said_is_the_configured_one() -> None:
    facts = replace(
        WELL,
        build=RancherBuild.COMMUNITY,
        snapshot=None,
        identity=IdentityConfig(product="ours"),
    )
    assert facts.not_expected.endswith("product in the payload: ours")
