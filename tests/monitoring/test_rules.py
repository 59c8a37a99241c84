"""The alerts: valid, documented, on metrics that exist, with cases that fire and that don't."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from telemetryd.serve.metrics.families import FAMILIES
from tests.deploy.kustomize import build
from tests.monitoring.files import (
    RULE_CASES,
    RULES,
    RUNBOOKS,
    metrics_in,
    read_yaml,
    rules,
)
from tests.monitoring.scaled import scaled

ALERTS = rules()
ASKED = (
    "TelemetrydDown", "TelemetrydExporterStale", "TelemetrydExporterFailing",
    "TelemetrydExporterNeverSucceeded", "TelemetrydInformerNotSynced",
    "TelemetrydInformerRelistStorm", "TelemetrydWatchErrors", "TelemetrydConfigReloadFailed",
    "TelemetrydSpoolDropping", "TelemetrydLeaderMissing", "TelemetrydLeaderMultiple",
    "TelemetrydLoopLag",
)  # fmt: skip
SUFFIXES = {"counter": ("_total",), "info": ("_info",), "gauge": ("",),
            "histogram": ("_bucket", "_sum", "_count")}  # fmt: skip
EXPOSED = {
    f"telemetryd_{family.name}{suffix}" for family in FAMILIES for suffix in SUFFIXES[family.type]
}


def run(program: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(program), *map(str, arguments)], capture_output=True, text=True, check=False
    )


def anchors() -> set[str]:
    """Those that a renderer of Markdown makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", RUNBOOKS.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each).strip().lower().replace(" ", "-") for each in headings}


def test_promtool_accepts_the_rules(promtool: Path) -> None:
    checked = run(promtool, "check", "rules", "--lint=all", "--lint-fatal", RULES)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(ALERTS)} rules found" in checked.stdout


@pytest.mark.timeout(600)
@pytest.mark.parametrize("many", [6, pytest.param(None, marks=pytest.mark.long)])
def test_every_case_comes_out_as_written(promtool: Path, tmp_path: Path, many: int | None) -> None:
    """The first of them, and all."""
    cases = read_yaml(RULE_CASES)
    chosen = {**cases, "rule_files": [str(RULES)], "tests": cases["tests"][:many]}
    file = tmp_path / "cases.json"
    file.write_text(json.dumps(chosen))  # JSON is YAML
    tested = run(promtool, "test", "rules", RULE_CASES if many is None else file)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "SUCCESS" in tested.stdout


def test_cases_notice_an_alert_that_is_gone(promtool: Path, tmp_path: Path) -> None:
    (tmp_path / RULES.name).write_text(RULES.read_text().replace(": TelemetrydDown", ": Renamed"))
    cases = read_yaml(RULE_CASES)
    cases["tests"] = cases["tests"][:1]
    (tmp_path / RULE_CASES.name).write_text(json.dumps(cases))
    tested = run(promtool, "test", "rules", tmp_path / RULE_CASES.name)
    assert tested.returncode == 1
    assert "TelemetrydDown" in tested.stdout + tested.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_a_case_that_fires_and_one_that_doesnt(alert: str) -> None:
    groups: list[dict[str, Any]] = read_yaml(RULE_CASES)["tests"]
    fires = [
        case
        for group in groups
        for case in group.get("promql_expr_test", ())
        if case["expr"] == f'ALERTS{{alertname="{alert}",alertstate="firing"}}'
    ]
    rests = [
        case
        for group in groups
        for case in group.get("alert_rule_test", ())
        if case["alertname"] == alert
    ]
    assert fires
    assert all(case["exp_samples"] for case in fires)
    assert rests
    assert not any(case["exp_alerts"] for case in rests)


def test_every_alert_of_the_table_is_there() -> None:
    assert set(ASKED) <= set(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_alert_says_what_why_and_where_to_look(alert: str) -> None:
    rule = ALERTS[alert]
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["annotations"]["summary"].endswith(".")
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert page == "docs/runbooks.md"
    assert anchor == alert.lower()
    assert anchor in anchors()


@pytest.mark.parametrize("alert", ALERTS)
def test_alert_asks_for_metrics_that_exist_and_for_telemetryds_alone(alert: str) -> None:
    expr = ALERTS[alert]["expr"]
    assert metrics_in(expr) <= EXPOSED
    assert 'job="telemetryd"' in expr


@pytest.mark.parametrize("alert", [alert for alert in ALERTS if "Exporter" in alert])
def test_alert_on_exporters_applies_only_where_this_replica_leads(alert: str) -> None:
    # A standby has no exporter that is stopped by hand unless somebody wanted just that.
    leads = "and on (job, instance) telemetryd_leader == 1" in ALERTS[alert]["expr"]
    assert leads == (alert != "TelemetrydExporterStopped")


def test_runbooks_have_a_section_for_every_alert_and_no_other() -> None:
    sections = re.findall(r"^## (Telemetryd\w+)$", RUNBOOKS.read_text(), re.MULTILINE)
    assert sections == list(ALERTS), "in the order of the rules"


def test_prometheusrule_is_made_of_the_rules() -> None:
    (resource,) = [obj for obj in build("monitoring") if obj["kind"] == "PrometheusRule"]
    expected = read_yaml(RULES)
    for group in expected["groups"]:
        for rule in group["rules"]:
            del rule["annotations"]["runbook_url"]  # no link that leads nowhere
    assert resource["spec"] == expected


def test_scaled_rules_differ_in_durations_alone(promtool: Path, tmp_path: Path) -> None:
    text = RULES.read_text()
    fast = scaled(text, 30)
    assert scaled(fast, 1) == fast
    path = tmp_path / "fast.yml"
    path.write_text(fast)
    assert run(promtool, "check", "rules", path).returncode == 0
    assert "for: 30000ms" in fast
    assert "for: 15m" not in fast
    durations = re.compile(r"\b\d+(?:ms|[smhd])\b")
    for before, after in zip(text.splitlines(), fast.splitlines(), strict=True):
        assert durations.sub("", before) == durations.sub("", after)


def test_documented_command_makes_links_of_the_runbooks(tmp_path: Path) -> None:
    (commands,) = re.findall(r"^\$ (sed .+)$", RUNBOOKS.read_text(), re.MULTILINE)
    (tmp_path / RULES.name).write_bytes(RULES.read_bytes())
    subprocess.run(["bash", "-ec", commands], cwd=tmp_path, check=True)
    for rule in read_yaml(tmp_path / RULES.name)["groups"][0]["rules"]:
        link = rule["annotations"]["runbook_url"]
        assert link.startswith("https://docs.example.com/telemetryd/docs/runbooks.md#telemetryd")
