"""What doctor says of the build of Rancher, and of scc-operator's Registrations."""

import time
from pathlib import Path

import anyio
import pytest

from telemetryd.doctor.checking import CheckResult, Grade
from telemetryd.doctor.examine import Examination, render_report
from tests.apiserver.registrations import NAME, failed, registration
from tests.doctor.test_examine import SETTINGS, asking, discovery, failures, of, well
from tests.informer.scripted import Scripted, answer, hang, refuse

pytestmark = pytest.mark.anyio

GROUP = "/apis/scc.cattle.io/v1"
LIST = f"{GROUP}/registrations"
RESOURCE = "registrations.scc.cattle.io"
DAY_S = 86400.0


def served(*found: object) -> Scripted:
    """A cluster where all is well, with scc-operator's Registrations."""
    server = well()
    server.others[GROUP] = discovery("registrations")
    server.others[LIST] = answer({"kind": "RegistrationList", "metadata": {}, "items": [*found]})
    return server


async def report_of(folder: Path, server: Scripted) -> Examination:
    async with asking(folder, server) as ask:
        with anyio.fail_after(60):
            return await ask()


def registered(report: Examination) -> CheckResult:
    return of(report, f"Registration {NAME}")


async def test_active_registration_passes_with_its_times(tmp_path: Path) -> None:
    now = time.time()
    server = served(registration(synced_at=now - 60, expires_at=now + DAY_S))
    report = await report_of(tmp_path, server)
    assert {found.grade for found in report.findings} == {Grade.PASS}
    assert registered(report).detail.startswith("online, activated, last sync 20")
    assert of(report, f"may list {RESOURCE}").grade is Grade.PASS
    assert "SENTINEL" not in "\n".join(render_report(report))


async def test_cluster_without_scc_operator_passes_and_asks_for_no_right(tmp_path: Path) -> None:
    report = await report_of(tmp_path, well())
    assert of(report, RESOURCE) == CheckResult(
        Grade.PASS, RESOURCE, "not served: no scc-operator runs here"
    )
    assert not any(found.what == f"may list {RESOURCE}" for found in report.findings)


async def test_problem_of_a_registration_is_a_warning_with_its_fix(tmp_path: Path) -> None:
    now = time.time()
    for obj, said, fix in (
        (failed(now), "the registration with SUSE failed", "register again"),
        (registration(expires_at=now - DAY_S), "has expired", "renew the subscription"),
        (registration(activated=False), "is not activated", "finish it in Rancher"),
        (registration(synced_at=now - 3 * DAY_S), "more than two days", "scc-operator runs"),
    ):
        found = registered(await report_of(tmp_path, served(obj)))
        assert found.grade is Grade.WARN
        assert said in found.detail
        assert fix in found.fix
        assert f"kubectl describe {RESOURCE} {NAME}" in found.fix
        assert "SENTINEL" not in str(found)


async def test_rancher_that_never_registered_is_warned_of(tmp_path: Path) -> None:
    report = await report_of(tmp_path, served())
    assert of(report, RESOURCE).grade is Grade.WARN
    assert "never registered" in of(report, RESOURCE).detail
    assert "telemetryd offline-request" in of(report, RESOURCE).fix
    assert failures(report) == []


async def test_missing_right_is_a_warning_with_the_rule_to_add(tmp_path: Path) -> None:
    server = served()
    server.others[LIST] = refuse(403, "Forbidden", "registrations is forbidden: User cannot list")
    server.others["/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"] = answer(
        {"status": {"allowed": False}}, 201
    )
    report = await report_of(tmp_path, server)
    assert of(report, RESOURCE) == CheckResult(
        Grade.WARN, RESOURCE, "may not be read, so not checked"
    )
    right = of(report, f"may list {RESOURCE}")
    assert right.grade is Grade.WARN
    assert right.missing in report.missing
    text = "\n".join(render_report(report))
    assert "- apiGroups: [scc.cattle.io]\n  resources: [registrations]\n  verbs: [list]" in text


@pytest.mark.parametrize(
    "spoiled",
    [hang, refuse(500, "InternalError", "boom"), answer(b"<html>", content_type="text/html")],
    ids=["slow", "broken", "web page"],
)
@pytest.mark.parametrize("path", [GROUP, LIST])
async def test_server_that_fails_at_registrations_costs_nothing_else(
    tmp_path: Path, spoiled: object, path: str
) -> None:
    server = served(registration())
    server.others[path] = spoiled  # type: ignore[assignment]
    report = await report_of(tmp_path, server)
    assert failures(report) == []
    warned = [found.what for found in report.findings if found.grade is Grade.WARN]
    assert set(warned) <= {RESOURCE}
    assert of(report, "may watch nodes.management.cattle.io").grade is Grade.PASS


async def test_hostile_names_become_neither_a_command_nor_a_second_line(tmp_path: Path) -> None:
    hostile = "x; rm -rf /\n\x1b[2JFAIL  connection  all is lost"
    report = await report_of(
        tmp_path, served(failed(time.time()) | {"metadata": {"name": hostile}})
    )
    lines = [line for line in render_report(report) if "rm -rf" in line]
    assert len(lines) == 1
    assert "kubectl" not in lines[0]
    assert lines[0].isprintable()


async def test_registrations_that_can_not_be_read_are_counted(tmp_path: Path) -> None:
    report = await report_of(tmp_path, served({"metadata": {"name": 7}}, registration()))
    assert "1 can't be read" in of(report, RESOURCE).detail
    assert registered(report).grade is Grade.PASS


def build_setting(value: object, default: object = "") -> object:
    metadata = {"name": "server-version-type"}
    return answer({"items": [{"metadata": metadata, "value": value, "default": default}]})


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        (build_setting("community"), "a community build"),
        (build_setting("", "dev"), "a development build"),
        (build_setting("", ""), "not a Prime build"),
        (build_setting("SENTINEL"), "not a Prime build"),
        (answer({"items": []}), "not a Prime build"),
    ],
)
async def test_build_whose_telemetry_suse_does_not_expect_is_warned_of(
    tmp_path: Path, setting: object, named: str
) -> None:
    server = well()
    server.others[SETTINGS] = setting  # type: ignore[assignment]
    report = await report_of(tmp_path, server)
    found = of(report, "Rancher build")
    assert found.grade is Grade.WARN
    assert f"this Rancher is {named}" in found.detail
    assert "SUSE does not expect it; product in the payload: rancher" in found.detail
    assert failures(report) == []
    assert "SENTINEL" not in str(found)


async def test_prime_build_passes(tmp_path: Path) -> None:
    report = await report_of(tmp_path, well())
    assert of(report, "Rancher build") == CheckResult(Grade.PASS, "Rancher build", "prime")


@pytest.mark.parametrize(
    "setting", [refuse(403, "Forbidden"), refuse(500, "InternalError"), build_setting(7), hang]
)
async def test_build_that_can_not_be_read_is_not_guessed(tmp_path: Path, setting: object) -> None:
    server = well()
    server.others[SETTINGS] = setting  # type: ignore[assignment]
    report = await report_of(tmp_path, server)
    found = of(report, "Rancher build")
    assert found.grade is Grade.WARN
    assert "community" not in found.detail
    assert failures(report) == []
