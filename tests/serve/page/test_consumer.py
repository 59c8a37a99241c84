"""What status, page and `ctl status` say of the build of Rancher and of its registration."""

from dataclasses import replace

import pytest

from telemetryd.config import IdentityConfig
from telemetryd.gather.consumer import RancherBuild, Registration, Registrations
from telemetryd.serve.control.text import render_table
from telemetryd.serve.page.overview import Tone, judge
from telemetryd.serve.page.page import render_page
from telemetryd.serve.page.status import StatusFacts, render_status, render_time
from tests.serve.facts import NOW
from tests.serve.states import WELL

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
