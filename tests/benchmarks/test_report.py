from xml.etree import ElementTree as ET

import pytest
from msgspec.structs import replace

from benchmarks import plot, report
from benchmarks.figures import Goal, summarise
from benchmarks.goals import judge
from benchmarks.holders import ROOT
from benchmarks.results import (
    CLIENT_GO,
    CORE,
    DROPPED,
    DROPPED_STREAM,
    KUBE_STATE_METRICS,
    PAGES,
    REAL,
    TELEMETRYD,
    UNIFORM,
    Results,
    Section,
)


def section(
    nodes: int, holders: dict[str, dict[str, list[float]]], fleet: str = UNIFORM
) -> Section:
    return Section(
        fleet=fleet,
        server="kube-apiserver v1.37.2",
        nodes=nodes + 3,
        clusters=nodes // 50 + 1,
        json_bytes=nodes * 7_300,
        holders=holders,
    )


def results(*sections: Section) -> Results:
    inside = {
        "traced_bytes_per_node": 230.0,
        "collection_s": 0.0002,
        "collection_unchanged_s": 0.00002,
        "payload_bytes": 1_494.0,
    }
    return Results(
        taken_at="2026-11-26T05:00:00Z",
        machine={"processor": "2 cores"},
        versions={"telemetryd": "0.1.0"},
        sections=list(sections),
        inside={UNIFORM: {10_000: inside, 100_000: {**inside, "collection_s": 0.0003}}},
    )


USUAL = section(
    10_000,
    {
        TELEMETRYD: {"wall_s": [9.0, 10.0, 14.0], "cpu_s": [0.4], "peak_bytes": [70e6]},
        CLIENT_GO: {"wall_s": [4.0], "cpu_s": [2.0], "peak_bytes": [310e6], "collection_s": [0.01]},
        PAGES: {"wall_s": [10.0], "cpu_s": [0.5]},
        DROPPED: {"wall_s": [9.5], "cpu_s": [1.0], "peak_bytes": [80e6]},
    },
)


def by_what(found: list[Goal], part: str) -> Goal:
    return next(goal for goal in found if part in goal.what)


def test_ratios_are_judged_against_the_peer_that_the_goal_names() -> None:
    found = judge(results(USUAL))
    cpu = by_what(found, "uniform nodes: cold sync, CPU")
    assert cpu.measured == pytest.approx(0.2)
    assert cpu.verdict == "met"
    wall = by_what(found, "fetched and dropped")
    assert wall.measured == pytest.approx(10 / 9.5)
    assert wall.verdict == "met"
    peak = by_what(found, "10,000 uniform nodes: peak memory")
    assert peak.detail == "70 MB to 310 MB"


def test_wall_time_stands_beside_what_the_stream_takes_a_client_that_drops_it() -> None:
    holders = {
        TELEMETRYD: {"whole_s": [2.0]},
        CLIENT_GO: {"whole_s": [4.0]},
        DROPPED_STREAM: {"wall_s": [1.5]},
    }
    real = section(10_000, holders, REAL)
    wall = by_what(judge(results(real)), "10,000 real nodes: start and cold sync, wall")
    assert wall.measured == pytest.approx(0.5)
    assert wall.verdict == "not met"
    assert wall.detail == "2.00 s to 4.00 s; stream read and dropped 1.50 s"


def test_what_was_not_run_is_said_to_be_not_measured() -> None:
    found = judge(results(USUAL))
    assert by_what(found, "100,000 real nodes: peak").verdict == "not measured"
    assert by_what(judge(results()), "server streams").detail == "not run"
    assert by_what(found, "writes to the API server").verdict == "not measured"


def test_history_is_judged_by_its_figures() -> None:
    history = {
        "rows": 10.3e6,
        "report_s": 2.5,
        "page_s": 0.1,
        "insert_s": 0.004,
        "five_years_bytes": 40e6,
        "idle_bytes": 2e6,
        "idle_core": 0.0004,
    }
    found = judge(replace(results(USUAL), history=history))
    verdicts = [goal.verdict for goal in found if goal.what.startswith("history")]
    assert verdicts == ["not met", *["met"] * 5]
    assert by_what(found, "report of a year").detail == "of 10.3 million rows"
    assert by_what(judge(results(USUAL)), "reads of its page").verdict == "not measured"


def test_a_missing_peer_is_named() -> None:
    alone = section(10_000, {TELEMETRYD: {"cpu_s": [0.4]}})
    goal = by_what(judge(results(alone)), "uniform nodes: cold sync, CPU")
    assert (goal.verdict, goal.detail) == ("not measured", "no client-go here")


def test_memory_of_a_further_node_is_the_slope_between_fleets() -> None:
    small = section(1_000, {TELEMETRYD: {"resident_bytes": [57e6], "peak_bytes": [60e6]}})
    large = section(10_000, {TELEMETRYD: {"resident_bytes": [60e6], "peak_bytes": [69e6]}})
    goal = by_what(judge(results(small, large)), "further uniform node")
    assert goal.measured == pytest.approx(333, abs=1)
    assert goal.verdict == "met"
    assert goal.detail == "1000 by the peaks, 230 traced at 10,000, 230 traced at 100,000"


def test_collection_is_judged_by_its_growth_too() -> None:
    found = judge(results(USUAL))
    assert by_what(found, "one collection").measured == pytest.approx(0.2)
    assert by_what(found, "the same at 100,000 uniform").measured == pytest.approx(1.5)


def test_collection_of_real_nodes_is_judged_against_client_go() -> None:
    real = section(10_000, {CLIENT_GO: {"collection_s": [0.004]}}, REAL)
    figures = {"collection_s": 0.0001, "payload_bytes": 1.0, "traced_bytes_per_node": 1.0}
    judged = judge(replace(results(real), inside={REAL: {10_000: figures}}))
    goal = by_what(judged, "10,000 real nodes: collection")
    assert goal.measured == pytest.approx(0.025)
    assert (goal.verdict, goal.detail) == ("met", "0.100 ms to 4.00 ms")
    assert by_what(judge(results()), "10,000 real nodes: collection").verdict == "not measured"


def test_small_fleet_is_judged_by_what_it_costs_with_its_start() -> None:
    figures = {"whole_s": [0.9], "whole_cpu_s": [0.3], "peak_bytes": [45e6], "rest_core": [0.001]}
    figures["silent_s"] = [20.0, 60.0, 30.0]
    peer = {"whole_s": [0.2], "silent_s": [300.0]}
    found = judge(results(section(200, {TELEMETRYD: figures, CLIENT_GO: peer}, REAL)))
    verdicts = {goal.what: goal.verdict for goal in found if goal.what.startswith("200 nodes")}
    assert list(verdicts.values()) == ["not met", "met", "not met", "met", "not measured"]
    assert by_what(found, "start to the first export").detail == "client-go 0.20 s"
    silent = by_what(found, "a silent stream")
    assert (silent.measured, silent.verdict) == (60.0, "not met")
    assert silent.detail == "20 to 60 s of 3 daemons, client-go 300 s"


def test_core_nodes_are_judged_against_kube_state_metrics() -> None:
    ours, theirs = {"whole_s": [2.0], "cpu_per_event_s": [0.0003]}, {"whole_s": [4.0]}
    core = section(20_000, {TELEMETRYD: ours, KUBE_STATE_METRICS: theirs}, CORE)
    found = judge(results(core))
    assert by_what(found, "core nodes: start and cold sync, wall").measured == pytest.approx(0.5)
    missing = by_what(found, "core nodes: CPU of an update")
    assert (missing.verdict, missing.detail) == ("not measured", "no kube-state-metrics here")


def test_unmet_goal_stands_out_in_the_table() -> None:
    text = report.render_goals([Goal("it", 0.3, 0.5, "% of a core", "why")])
    assert text.splitlines()[-1] == (
        "| it | ≤ 0.3 % of a core | 0.500 % of a core | **not met** | why |"
    )


def test_spread_is_shown_with_its_extremes() -> None:
    assert report.show(summarise([0.9, 1.0, 1.25]), 1000, 0) == "1000 (900 to 1250)"
    assert report.show(summarise([2.0]), 1, 1) == "2.0"
    assert report.show(None, 1, 1) == "-"


def test_report_holds_every_holder_and_the_number_of_runs() -> None:
    text = report.render(results(USUAL))
    assert "| telemetryd | 10.00 (9.00 to 14.00) | 0.40 | 70 | 0.20 |" in text
    assert "| client-go | 4.00 | 2.00 | 310 | 10.00 |" in text
    assert "Medians of 3 runs" in text


def test_block_is_replaced_and_the_rest_is_kept() -> None:
    once = report.put_into("# Title\n\n<b>\nold\n<e>\n\nend\n", "| new |\n", ("<b>", "<e>"))
    assert once == "# Title\n\n<b>\n\n| new |\n\n<e>\n\nend\n"
    assert report.put_into(once, "| new |\n", ("<b>", "<e>")) == once


def test_readme_has_a_place_for_each_block() -> None:
    readme = (ROOT / "benchmarks" / "README.md").read_text()
    for markers in (report.RESULTS, report.BUSY, report.PROFILE):
        assert "| it |" in report.put_into(readme, "| it |", markers)


@pytest.mark.parametrize("text", ["# Title\n", "<b>\n", "<e><b>"])
def test_document_without_markers_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="<b>"):
        report.put_into(text, "x", ("<b>", "<e>"))


def test_plot_has_a_line_for_each_holder_that_was_measured() -> None:
    picture = ET.fromstring(plot.render(results(USUAL)))
    name = "{http://www.w3.org/2000/svg}"
    assert len(picture.findall(f".//{name}polyline")) == 3 + 2
    assert len(picture.findall(f".//{name}circle")) == 3 + 3
    shown = {text.text for text in picture.iter(f"{name}text")}
    assert {"telemetryd", "client-go", "10,000", "100,000"} <= shown
    assert "lightkube" not in shown


def test_plot_has_dashed_lines_for_the_real_fleet() -> None:
    real = section(10_000, {TELEMETRYD: {"peak_bytes": [80e6]}}, REAL)
    both = ET.fromstring(plot.render(results(USUAL, real)))
    lines = both.findall(".//{http://www.w3.org/2000/svg}polyline")
    assert [line.get("stroke-dasharray") for line in lines].count("6 4") == 1


def test_plot_of_nothing_says_so() -> None:
    empty = Results(taken_at="", machine={}, versions={}, sections=[], inside={})
    assert "not measured" in plot.render(empty)
