"""The dashboard, without a Grafana: schema, layout, words, and what its queries ask for."""

from collections import Counter
from itertools import combinations
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from telemetryd.model import ExporterState
from tests.monitoring.files import dashboard, filled_in, metrics_in, panels, queries
from tests.monitoring.test_rules import EXPOSED

PROCESS = {
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
    "process_start_time_seconds",
}
WIDTH = 24
NO_CORE_FIELDS = {"tagKeys", "step", "titleFormat", "textFormat", "definition"}
"""Of annotations and variables: the Prometheus data source reads them, the core schema doesn't."""


def titled(panel: dict[str, Any]) -> str:
    return str(panel["title"])


def lost(ours: Any, theirs: Any, where: str = "") -> list[str]:
    """Where a document says something that the other doesn't."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        gone = [f"{where}/{key}" for key in ours if key not in theirs and key not in NO_CORE_FIELDS]
        kept = [key for key in ours if key in theirs]
        return gone + [at for key in kept for at in lost(ours[key], theirs[key], f"{where}/{key}")]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [at for number, (a, b) in pairs for at in lost(a, b, f"{where}/{number}")]
    return [] if ours == theirs else [where]


def through_the_schema(document: dict[str, Any]) -> Any:
    """What Grafana's own types make of a document, and write again."""
    register_default_plugins()
    return JSONEncoder().default(Dashboard.from_json(document))


def plain(value: Any) -> Any:
    """The types of the schema as JSON has them."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return plain(value.to_json()) if hasattr(value, "to_json") else value


def test_nothing_is_lost_on_grafanas_own_types() -> None:
    document = dashboard()
    assert lost(document, plain(through_the_schema(document))) == []


def test_schema_notices_a_key_that_it_doesnt_know() -> None:
    document = dashboard()
    document["panels"][1]["fieldConfig"]["defaults"]["units"] = "s"
    assert lost(document, plain(through_the_schema(document))) == [
        "/panels/1/fieldConfig/defaults/units"
    ]


def test_every_id_and_title_is_there_once() -> None:
    all_panels = dashboard()["panels"]
    for counted in (Counter(each["id"] for each in all_panels), Counter(map(titled, all_panels))):
        assert set(counted.values()) == {1}, counted.most_common(1)


def test_no_panel_overlaps_another_or_leaves_a_gap() -> None:
    cells: Counter[tuple[int, int]] = Counter()
    bottom = 0
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        assert 0 <= at["x"] <= at["x"] + at["w"] <= WIDTH, panel["title"]
        bottom = max(bottom, at["y"] + at["h"])
        cells.update(
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        )
    assert set(cells.values()) == {1}
    assert len(cells) == WIDTH * bottom


def test_no_row_begins_within_the_height_of_another_panel() -> None:
    for one, other in combinations(dashboard()["panels"], 2):
        a, b = one["gridPos"], other["gridPos"]
        if "row" in {one["type"], other["type"]}:
            assert a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]


@pytest.mark.parametrize("panel", panels(), ids=titled)
def test_panel_tells_what_it_shows_and_in_what_unit(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    references = [target["refId"] for target in panel["targets"]]
    assert references == list("ABCDEFGH"[: len(references)])
    for target in panel["targets"]:
        assert target["expr"].strip()
        if panel["type"] != "stat":
            assert target["legendFormat"]


def test_no_data_source_but_the_chosen_one_is_named() -> None:
    def sources(value: Any) -> list[Any]:
        if isinstance(value, dict):
            own = [value["datasource"]] if "datasource" in value else []
            return own + [each for item in value.values() for each in sources(item)]
        return [each for item in value for each in sources(item)] if isinstance(value, list) else []

    document = dashboard()
    found = sources(document)
    assert len(found) > len(document["panels"])
    assert all(each == {"type": "prometheus", "uid": "${datasource}"} for each in found)
    assert "__inputs" not in document
    assert document.get("id") is None


def test_variables_choose_data_source_job_instance_and_exporter() -> None:
    variables = dashboard()["templating"]["list"]
    assert [each["name"] for each in variables] == ["datasource", "job", "instance", "exporter"]
    for each in variables[1:]:
        assert each["multi"]
        assert each["includeAll"]
        assert metrics_in(each["query"]["query"]) <= EXPOSED


def test_every_query_asks_for_metrics_that_exist_of_what_was_chosen() -> None:
    for query in queries():
        named = metrics_in(query.expr)
        assert named <= EXPOSED | PROCESS, query
        assert named or "up{" in query.expr or "ALERTS{" in query.expr, query
        assert 'job=~"$job"' in query.expr, query
        filled_in(query.expr, rate_interval="1m")


def test_every_metric_that_operators_look_at_is_on_it() -> None:
    shown = {name for query in queries() for name in metrics_in(query.expr)}
    unshown = {
        # Times that a log or the status tells better.
        "telemetryd_exporter_last_attempt_timestamp_seconds",
        "telemetryd_exporter_last_failure_timestamp_seconds",
        "telemetryd_config_last_reload_success_timestamp_seconds",
        "telemetryd_informer_last_event_timestamp_seconds",
        "telemetryd_snapshot_timestamp_seconds",
        # Numbers to compare, and what is on it in another form.
        "telemetryd_config_hash",
        "telemetryd_snapshot_generation",
        "telemetryd_exporter_in_flight",
        "telemetryd_exporter_spool_items",
        "telemetryd_leader_transitions_total",
        "telemetryd_fleet_withheld_texts",
        "telemetryd_log_lines_lost_total",
        # Variables are made of it.
        "telemetryd_exporter_info",
    }
    histograms = {name for name in EXPOSED if name.endswith(("_sum", "_count"))}
    assert EXPOSED - shown - histograms == unshown


def test_states_of_exporters_have_the_names_of_the_daemon() -> None:
    (timeline,) = [panel for panel in panels() if panel["title"] == "State of each exporter"]
    (mapping,) = timeline["fieldConfig"]["defaults"]["mappings"]
    texts = [mapping["options"][str(number)]["text"] for number in range(len(ExporterState))]
    assert sorted(texts) == sorted(ExporterState)
    for number, state in enumerate(texts):
        assert f"{number} * telemetryd_exporter_state{{" in timeline["targets"][0]["expr"]
        assert f'state="{state}"' in timeline["targets"][0]["expr"]
