from xml.etree import ElementTree as ET

import pytest
from msgspec.structs import replace

from benchmarks import plot, report
from benchmarks.figures import Goal, summarise
from benchmarks.goals import judge
from benchmarks.holders import ROOT
from benchmarks.results import CLIENT_GO, DROPPED, PAGES, TELEMETRYD, Results, Section


def section(nodes: int, holders: dict[str, dict[str, list[float]]]) -> Section:
    return Section(
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
        inside={10_000: inside, 100_000: {**inside, "collection_s": 0.0003}},
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
    cpu = by_what(found, "10,000 nodes, CPU")
    assert cpu.measured == pytest.approx(0.2)
    assert cpu.verdict == "met"
    wall = by_what(found, "fetched and dropped")
    assert wall.measured == pytest.approx(10 / 9.5)
    assert wall.verdict == "met"
    peak = by_what(found, "peak memory at 10,000")
    assert peak.detail == "70 MB to 310 MB"


def test_what_was_not_run_is_said_to_be_not_measured() -> None:
    found = judge(results(USUAL))
    assert by_what(found, "100,000 nodes, everything").verdict == "not measured"
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
    goal = by_what(judge(results(alone)), "10,000 nodes, CPU")
    assert (goal.verdict, goal.detail) == ("not measured", "no client-go here")


def test_memory_of_a_further_node_is_the_slope_between_fleets() -> None:
    small = section(1_000, {TELEMETRYD: {"resident_bytes": [57e6], "peak_bytes": [60e6]}})
    large = section(10_000, {TELEMETRYD: {"resident_bytes": [60e6], "peak_bytes": [69e6]}})
    goal = by_what(judge(results(small, large)), "further node")
    assert goal.measured == pytest.approx(333, abs=1)
    assert goal.verdict == "met"
    assert goal.detail == "1000 by the peaks, 230 traced at 10,000, 230 traced at 100,000"


def test_collection_is_judged_by_its_growth_too() -> None:
    found = judge(results(USUAL))
    assert by_what(found, "one collection").measured == pytest.approx(0.2)
    assert by_what(found, "the same at 100,000").measured == pytest.approx(1.5)


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
    for markers in (report.RESULTS, report.PROFILE):
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


def test_plot_of_nothing_says_so() -> None:
    empty = Results(taken_at="", machine={}, versions={}, sections=[], inside={})
    assert "not measured" in plot.render(empty)
