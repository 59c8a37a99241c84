"""The state in one sentence, and what to do."""

from dataclasses import replace

import pytest

from telemetryd.errors import Reason
from telemetryd.model import ExporterState
from telemetryd.serve.page.overview import Tone, judge, judge_exporter, judge_informer
from tests.serve.facts import exporter_status, informer_status, new_exporter_status
from tests.serve.states import STATES, WELL

UNREACHABLE = (
    "The cache may be out of date: clusters.management.cattle.io, "
    "features.management.cattle.io, namespaces and 3 more."
)
WELL_SAID = "All is well: every cache is in sync, and every enabled exporter has delivered."


@pytest.mark.parametrize(
    ("state", "tone", "sentence"),
    [
        ("well", Tone.GOOD, WELL_SAID),
        ("failing", Tone.BAD, "3 things need attention."),
        ("conflict", Tone.BAD, "Another writer conflicts with the exporter scc."),
        ("optout", Tone.QUIET, "Nothing is sent: switched off by $DO_NOT_TRACK."),
        ("requests", Tone.BAD, "The SecretRequest elsewhere is rejected."),
        ("standby", Tone.QUIET, "Standing by: another replica sends."),
        ("starting", Tone.BUSY, "In progress: not everything has been read and delivered yet."),
        ("gaps", Tone.GAPS, "The payloads have gaps."),
        ("doubtful", Tone.GAPS, "The counts may not cover the whole fleet."),
        ("unreachable", Tone.BAD, UNREACHABLE),
    ],
)
def test_state_is_summed_up_in_one_sentence(state: str, tone: Tone, sentence: str) -> None:
    overview = judge(STATES[state])
    assert (overview.tone, overview.sentence) == (tone, sentence)


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
