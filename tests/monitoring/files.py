"""What `deploy/monitoring` holds, read once for all tests."""

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
RULES = MONITORING / "telemetryd.rules.yml"
RULE_CASES = MONITORING / "telemetryd.rules.test.yml"
DASHBOARD = MONITORING / "dashboard.json"
RUNBOOKS = ROOT / "docs" / "runbooks.md"

_METRIC = re.compile(r"\b(?:telemetryd|process|python)_[a-z0-9_]+\b")
_WHAT_IS_NO_METRIC = re.compile(r'"(?:[^"\\]|\\.)*"|\b(?:by|on|without|ignoring)\s*\([^)]*\)')


def read_yaml(path: Path) -> Any:
    """The one document of a file."""
    return deepcopy(_parsed(path))


@cache
def _parsed(path: Path) -> Any:
    load: Any = yaml.safe_load
    return load(path.read_text())


def rules() -> dict[str, dict[str, Any]]:
    """Every alert by its name."""
    groups = read_yaml(RULES)["groups"]
    listed = [rule for group in groups for rule in group["rules"]]
    named = {rule["alert"]: rule for rule in listed}
    assert len(named) == len(listed)
    return named


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana reads it."""
    document: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return document


@dataclass(frozen=True, slots=True)
class Query:
    """One query of the dashboard.

    Attributes:
        where: Title of its panel, or name of its annotation, and which query of it.
    """

    where: str
    expr: str


def panels() -> list[dict[str, Any]]:
    """Every panel but the rows."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries() -> Iterator[Query]:
    """Every query of panels, then those of annotations."""
    for panel in panels():
        for target in panel["targets"]:
            yield Query(f"{panel['title']} {target['refId']}", target["expr"])
    for annotation in dashboard()["annotations"]["list"]:
        yield Query(f"annotation {annotation['name']}", annotation["expr"])


def filled_in(expr: str, *, rate_interval: str) -> str:
    """A query as Grafana sends it with all jobs, instances and exporters chosen."""
    values = {"job": ".+", "instance": ".+", "exporter": ".+", "__rate_interval": rate_interval}
    text = re.sub(r"\$(\w+)", lambda found: values[found[1]], expr)
    assert "$" not in text
    return text


def metrics_in(expr: str) -> set[str]:
    """Names of metrics of the daemon that an expression asks for."""
    return set(_METRIC.findall(_WHAT_IS_NO_METRIC.sub(" ", expr)))
