"""Whether collection is off, as `doctor` says it first: here, by the Setting, by a mark."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from telemetryd.config.restrictions import Statement
from telemetryd.daemon.restrictions import Restrictions
from telemetryd.doctor.access import Plan, SecretTarget, plan_of
from telemetryd.doctor.checking import Grade
from telemetryd.doctor.examine import Examination, describe_report, examine
from tests.doctor.test_examine import NAMESPACE, SECRET, SETTINGS, config_for, well
from tests.informer.scripted import Scripted, answer, refuse, serve

pytestmark = pytest.mark.anyio

OFF = SecretTarget("cattle-telemetry-system", "off", "exporter off", own=True)
OFF_SECRET = f"{NAMESPACE}/secrets/off"
PLACE = "Secret cattle-telemetry-system/rancher-scc-telemetry, annotation telemetryd/opted-out"


def secret(**annotations: str) -> Any:
    named = {f"telemetryd/{name.replace('_', '-')}": at for name, at in annotations.items()}
    return answer({"metadata": {"uid": "u", "resourceVersion": "1", "annotations": named}})


def settings(**values: str) -> Any:
    named = {"server-version-type": "prime", **{k.replace("_", "-"): v for k, v in values.items()}}
    items = [{"metadata": {"name": name}, "value": value} for name, value in named.items()]
    return answer({"items": items})


async def ask(
    folder: Path,
    server: Scripted,
    restrictions: Restrictions | None = None,
    change: Callable[[Plan], Plan] = lambda plan: plan,
) -> Examination:
    async with serve(server):
        config = config_for(folder, server.url)
        plan = replace(plan_of(config), source="rancher", secret_requests=False)
        return await examine(config, change(plan), now=time.time, restrictions=restrictions)


def said(report: Examination) -> list[str]:
    """The lines about it, which are the first."""
    count = sum(each.what == "collection" for each in report.findings)
    assert all(each.what == "collection" for each in report.findings[:count])
    return [str(each) for each in report.findings[:count]]


async def test_nothing_that_restricts_is_a_pass(tmp_path: Path) -> None:
    server = well()
    server.others[SETTINGS] = settings(telemetry_opt="in")
    server.others[SECRET] = answer({"metadata": {"uid": "u", "resourceVersion": "1"}})
    report = await ask(tmp_path, server)
    assert said(report) == ["PASS  collection  no restriction is written or remembered"]


async def test_file_and_variable_are_named_with_what_ends_them(tmp_path: Path) -> None:
    written = [Statement("file", "enabled", True, "/etc/telemetryd/config.toml")]
    restrictions = Restrictions(written, {"DO_NOT_TRACK": "1"}, now=time.time)
    lines = said(await ask(tmp_path, well(), restrictions))
    file, variable = (line.removeprefix("WARN  collection  collection is off: ") for line in lines)
    permit = "write enabled = true in the configuration file"
    assert file == f"written in /etc/telemetryd/config.toml; {permit}"
    taken_out = "take $DO_NOT_TRACK out of the environment and restart"
    assert variable == f"written in $DO_NOT_TRACK; {taken_out}"


async def test_setting_of_the_cluster_is_read(tmp_path: Path) -> None:
    server = well()
    server.others[SETTINGS] = settings(telemetry_opt="out")
    (line,) = said(await ask(tmp_path, server))
    assert line.startswith("WARN  collection  the Rancher setting telemetry-opt is out: written in")
    assert "give the setting telemetry-opt another value" in line


@pytest.mark.parametrize("marked", [SECRET, OFF_SECRET], ids=["runs", "is off"])
async def test_mark_on_the_secret_of_any_exporter_counts(tmp_path: Path, marked: str) -> None:
    server = well()
    server.others[OFF_SECRET] = refuse(404, "NotFound")
    server.others[marked] = secret(opted_out="2026-01-01T00:00:00Z")
    report = await ask(tmp_path, server, None, lambda plan: replace(plan, marked=(OFF,)))
    (line,) = said(report)
    name = marked.rpartition("/")[2]
    assert f"remembered from Secret cattle-telemetry-system/{name}, annotation" in line
    assert "telemetryd ctl opt-in" in line


async def test_mark_that_the_setting_or_an_opt_in_has_ended_does_not_count(tmp_path: Path) -> None:
    server = well()
    server.others[SETTINGS] = settings(telemetry_opt="prompt")
    server.others[SECRET] = secret(opted_out="2026-01-01T00:00:00Z")
    assert said(await ask(tmp_path, server))[0].startswith("PASS")
    remembered = Restrictions((), {}, now=time.time)
    remembered.note_mark("elsewhere", 1767225600.0)
    server = well()
    server.others[SECRET] = secret(opted_in="2026-01-02T00:00:00Z")
    assert said(await ask(tmp_path, server, remembered))[0].startswith("PASS")


async def test_what_may_not_be_read_is_said(tmp_path: Path) -> None:
    server = well()
    server.others[SETTINGS] = server.others[SECRET] = refuse(403, "Forbidden")
    lines = said(await ask(tmp_path, server))
    assert [line[:16] for line in lines] == ["PASS  collection", *["WARN  collection"] * 2]
    assert lines[1].startswith("WARN  collection  the setting telemetry-opt can't be read, so an")
    assert lines[2].startswith(f"WARN  collection  {PLACE} can't be read, so an opt-out there")


async def test_report_as_a_document_has_each_line_and_the_roles(tmp_path: Path) -> None:
    server = well()
    server.others["/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"] = answer(
        {"status": {"allowed": False}}, 201
    )
    report = await ask(tmp_path, server)
    document = describe_report(report)
    assert document["failed"] is True
    assert sum(document["counts"].values()) == len(document["checks"]) == len(report.findings)
    assert document["counts"]["FAIL"] == len(report.missing)
    assert document["checks"][0] == {
        "grade": str(Grade.PASS),
        "check": "collection",
        "detail": "no restriction is written or remembered",
        "fix": "",
    }
    kinds = [role["kind"] for role in document["roles"]]
    assert kinds == ["ClusterRole", "Role"], "without bindings, as the account isn't known"
