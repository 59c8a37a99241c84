"""Who else serves SecretRequests: Rancher's own feature, and the controller of a status."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from telemetryd.doctor.access import Plan, plan_of
from telemetryd.doctor.checking import CheckResult, Grade
from telemetryd.doctor.consumer import FEATURE, RANCHERS
from telemetryd.doctor.examine import examine
from tests.doctor.test_examine import asking, config_for, of, well
from tests.informer.scripted import answer, refuse, serve
from tests.system.scc import scc_request

pytestmark = pytest.mark.anyio

MANAGEMENT = "/apis/management.cattle.io/v3"
REQUESTS = "/apis/telemetry.cattle.io/v1/secretrequests"
NOW_S = 1790000000.0
AT = "2026-09-21T14:12:20Z"


def serving(plan: Plan) -> Plan:
    return replace(plan, secret_requests=True)


def feature(value: Any, default: Any = True, locked: Any = None) -> dict[str, Any]:
    status = {"default": default, "lockedValue": locked}
    return {"metadata": {"name": FEATURE}, "spec": {"value": value}, "status": status}


def setting(value: str, default: str = "") -> dict[str, Any]:
    return {"metadata": {"name": "server-version-type"}, "value": value, "default": default}


@pytest.mark.parametrize(
    ("features", "settings", "grade", "detail"),
    [
        ([], [], Grade.PASS, "has no feature"),
        ([feature(None)], [], Grade.PASS, "this one is none"),
        ([feature(None)], [setting("community")], Grade.PASS, "this one is community"),
        ([feature(None)], [setting("", "dev")], Grade.PASS, "this one is dev"),
        ([feature(None)], [setting("prime")], Grade.WARN, "is on"),
        ([feature(None)], [setting("", "prime")], Grade.WARN, "is on"),
        ([feature(True, default=False)], [setting("prime")], Grade.WARN, "is on"),
        ([feature(None, default=False)], [setting("prime")], Grade.PASS, "is off"),
        ([feature(False)], [setting("prime")], Grade.PASS, "is off, from Rancher's next start"),
        ([feature(True, locked=False)], [setting("prime")], Grade.PASS, "is off"),
        ([{"metadata": {"name": FEATURE}}], [setting("prime")], Grade.PASS, "is off"),
    ],
)
async def test_ranchers_own_telemetry_is_on_by_build_and_feature(
    tmp_path: Path, features: list[Any], settings: list[Any], grade: Grade, detail: str
) -> None:
    server = well()
    server.others[f"{MANAGEMENT}/features"] = answer({"items": features})
    server.others[f"{MANAGEMENT}/settings"] = answer({"items": settings})
    async with asking(tmp_path, server) as ask:
        found = of(await ask(serving), RANCHERS)
    assert found.grade is grade
    assert detail in found.detail
    queries = {seen.path: seen.query for seen in server.requests}
    assert queries[f"{MANAGEMENT}/features"] == {"fieldSelector": f"metadata.name={FEATURE}"}


async def test_features_that_may_not_be_read_are_a_warning(tmp_path: Path) -> None:
    server = well()
    server.others[f"{MANAGEMENT}/features"] = refuse(403, "Forbidden")
    async with asking(tmp_path, server) as ask:
        found = of(await ask(serving), RANCHERS)
    assert (found.grade, found.detail) == (Grade.WARN, "may not be read, so not checked")


def request(manager: str, **changes: Any) -> dict[str, Any]:
    made = scc_request()
    fields: Any = {"f:status": {"f:lastSyncTS": {}}}
    owner = {"manager": manager, "subresource": "status", "time": AT, "fieldsV1": fields}
    made["metadata"] |= {"uid": "u", "managedFields": [owner], **changes}
    return made


@pytest.mark.parametrize(
    ("manager", "takeover", "grade", "texts"),
    [
        ("telemetryd", False, Grade.PASS, ["no other controller"]),
        ("rancher", False, Grade.WARN, ["written by rancher 60 s ago", "leaves it", "takeover"]),
        ("rancher", True, Grade.WARN, ["written by rancher 60 s ago", "telemetryd serves it"]),
    ],
)
async def test_request_of_another_controller_is_named_with_its_time(
    tmp_path: Path, manager: str, takeover: bool, grade: Grade, texts: list[str]
) -> None:
    server = well()
    bad = [{"metadata": {"name": "x"}}, "text"]
    server.others[REQUESTS] = answer({"items": [request(manager), *bad]})
    async with serve(server):
        config = config_for(tmp_path, server.url)
        config = replace(config, secret_requests=replace(config.secret_requests, takeover=takeover))
        plan = replace(plan_of(config), source="rancher", secret_requests=True)
        report = await examine(config, plan, now=lambda: NOW_S)
    found: CheckResult = of(report, "SecretRequest rancher-scc-metrics")
    assert found.grade is grade
    assert all(text in str(found) for text in texts)
    assert len([each for each in report.findings if each.what.startswith("SecretRequest ")]) == 1
