"""What is read of Registrations, and what follows from it."""

import json
from typing import Any

import anyio
import pytest

from telemetryd.errors import BadResponse, Forbidden, KubeError, NotFound
from telemetryd.gather.consumer import (
    GROUP_PATH,
    MOST,
    OVERDUE_S,
    PATH,
    RancherBuild,
    Registration,
    Registrations,
    RegistrationState,
    build_of,
    explain_build,
    read_registrations,
)
from tests.apiserver.registrations import NAME, failed, moment, registration

NOW = 1_790_000_000.0
DAY_S = 86400.0


class Answers:
    """Requests with an answer for each path."""

    def __init__(self, **answers: bytes | KubeError) -> None:
        self.answers = {GROUP_PATH: answers.get("group", b"{}"), PATH: answers.get("found", b"{}")}
        self.asked: list[tuple[str, str]] = []

    async def request(self, method: str, path: str, **options: Any) -> bytes:
        self.asked.append((method, path))
        assert options["timeout_s"] == 2
        assert options["max_bytes"] <= 4 << 20
        answer = self.answers[path]
        if isinstance(answer, KubeError):
            raise answer
        return answer


def page(*items: Any, token: str = "") -> bytes:
    return json.dumps({"metadata": {"continue": token}, "items": list(items)}).encode()


def read(**answers: bytes | KubeError) -> Registrations:
    async def ask() -> Registrations:
        return await read_registrations(Answers(**answers), timeout_s=2, now_s=NOW)

    return anyio.run(ask)


def one(obj: Any) -> Registration:
    (found,) = read(found=page(obj)).found
    return found


def test_states_and_times_are_read_and_no_text_but_the_name() -> None:
    found = read(found=page(registration(synced_at=NOW - 60, expires_at=NOW + DAY_S)))
    assert found == Registrations(
        served=True,
        found=(Registration(NAME, "online", True, False, NOW - 60, NOW + DAY_S),),
        checked_at=NOW,
    )
    assert "SENTINEL" not in repr(found)


def test_group_that_is_not_served_is_not_listed() -> None:
    answers = Answers(group=NotFound("none", status=404))

    async def ask() -> Registrations:
        return await read_registrations(answers, timeout_s=2, now_s=NOW)

    assert anyio.run(ask) == Registrations(served=False, checked_at=NOW)
    assert answers.asked == [("GET", GROUP_PATH)]


def test_resource_that_the_group_lacks_is_not_served() -> None:
    assert read(found=NotFound("none", status=404)).served is False


def test_denial_is_raised() -> None:
    with pytest.raises(Forbidden):
        read(found=Forbidden("no", status=403))


@pytest.mark.parametrize("answer", [b"", b"<html>", b"[]", b'{"items": {}}', b"[" * 5000, b"\xff"])
def test_other_answer_than_a_list_is_a_bad_response(answer: bytes) -> None:
    with pytest.raises(BadResponse):
        read(found=answer)


@pytest.mark.parametrize(
    ("obj", "state"),
    [
        (registration(synced_at=NOW - 3600, expires_at=NOW + DAY_S), RegistrationState.ACTIVE),
        (registration(), RegistrationState.ACTIVE),
        (registration(synced_at=NOW - OVERDUE_S - 1), RegistrationState.OVERDUE),
        (registration(mode="offline", synced_at=NOW - 300 * DAY_S), RegistrationState.ACTIVE),
        (registration(synced_at=NOW, expires_at=NOW - 1), RegistrationState.EXPIRED),
        (registration(mode="offline", expires_at=NOW - 1), RegistrationState.EXPIRED),
        (registration(mode="offline", activated=False), RegistrationState.INACTIVE),
        (failed(NOW), RegistrationState.FAILED),
        ({"metadata": {"name": "new"}, "spec": {"mode": "online"}}, RegistrationState.INACTIVE),
        ({"metadata": {"name": "new"}, "status": None}, RegistrationState.INACTIVE),
    ],
)
def test_gravest_state_that_applies_is_its_state(obj: Any, state: RegistrationState) -> None:
    assert one(obj).state(NOW) is state


def test_failure_that_is_over_is_none() -> None:
    over = registration(synced_at=NOW, conditions={"Failure": "False", "Ready": "True"})
    assert one(over).state(NOW) is RegistrationState.ACTIVE


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59-14:00"])
def test_time_that_stands_for_none_is_not_known(text: str) -> None:
    obj = registration()
    obj["status"]["registrationExpiresAt"] = text
    assert one(obj).expires_at is None
    assert "expires not known" in str(one(obj))


def test_what_is_shown_of_one_names_mode_activation_and_times() -> None:
    shown = str(one(registration(synced_at=NOW, expires_at=NOW + DAY_S)))
    times = f"last sync {moment(NOW)}, expires {moment(NOW + DAY_S)}"
    assert shown == f"online, activated, {times}"
    assert "last attempt" in str(one(failed(NOW)))


@pytest.mark.parametrize(
    "spoiled",
    [
        {"metadata": {"name": 7}},
        {"metadata": {}},
        {"metadata": {"name": "x"}, "spec": "text"},
        {"metadata": {"name": "x"}, "status": {"activationStatus": {"activated": "yes"}}},
        {"metadata": {"name": "x"}, "status": {"registrationExpiresAt": "soon"}},
        {"metadata": {"name": "x"}, "status": {"registrationExpiresAt": "2026-01-01T00:00:00"}},
        {"metadata": {"name": "x"}, "status": {"conditions": [{}] * 3000}},
        "text",
        None,
    ],
)
def test_one_that_can_not_be_read_costs_no_other(spoiled: Any) -> None:
    found = read(found=page(spoiled, registration()))
    assert [each.name for each in found.found] == [NAME]
    assert found.unreadable == 1
    assert not found.never


def test_no_more_than_a_few_are_read() -> None:
    assert read(found=page(registration(), token="next")).more
    crowd = read(found=page(*(registration(f"r-{number:02}") for number in range(MOST + 5))))
    assert (len(crowd.found), crowd.more) == (MOST, True)
    assert not read(found=page(registration())).more


def test_none_at_all_is_never_registered() -> None:
    assert read(found=page()).never
    assert read(found=b'{"items": null}').never
    assert not read(group=NotFound("none", status=404)).never


def test_hostile_texts_are_bounded_and_printable() -> None:
    obj = registration("x" * 5000 + "\x1b[2J\u202e")
    obj["spec"]["mode"] = "y" * 5000
    found = one(obj)
    assert len(found.name) < 200
    assert found.name.isprintable()
    assert found.mode == "other"


@pytest.mark.parametrize(
    ("text", "build"),
    [
        ("prime", RancherBuild.PRIME),
        ("community", RancherBuild.COMMUNITY),
        ("dev", RancherBuild.DEV),
        ("", RancherBuild.OTHER),
        ("Prime", RancherBuild.OTHER),
        ("SENTINEL", RancherBuild.OTHER),
    ],
)
def test_only_prime_is_expected(text: str, build: RancherBuild) -> None:
    assert build_of(text) is build
    why = explain_build(build, "rancher")
    assert ("SUSE does not expect it" in why) is (text != "prime")
    assert "SENTINEL" not in why
