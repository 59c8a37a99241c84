"""The whole benchmark, small: what it starts works, and what it makes of it can be shown."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import plot, report
from benchmarks.campaign import PARTS, Plan, run
from benchmarks.errors import CampaignError, ServerError
from benchmarks.fleet import BenchFleet
from benchmarks.goals import judge
from benchmarks.holders import Peer
from benchmarks.hotspots import profile
from benchmarks.realfleet import CoreFleet
from benchmarks.results import CORE, PAGES, REAL, TELEMETRYD, UNIFORM, Results, load, save
from benchmarks.servers import given, own_pair
from tests.apiserver.admin import Admin, AdminError
from tests.apiserver.crds import NODES, collection
from tests.apiserver.process import ApiServer

pytestmark = pytest.mark.timeout(600)

SMALL = Plan(
    nodes=(50,),
    tiny=100,
    core=50,
    runs=1,
    peers=False,
    updates=50,
    idle_s=1.0,
    exporters=20,
    exporters_interval_s=1,
    inside=(50, 100),
    history_rows=1,
    patience_s=0.1,
)


@pytest.fixture(scope="module")
def results(assets: Path) -> Results:
    """Of small fleets; the servers are the benchmark's own."""
    assert assets.is_dir()
    return run(SMALL)


def figures_of(results: Results, fleet: str, nodes: int) -> dict[str, list[float]]:
    section = results.near(fleet, nodes)
    assert section is not None
    return section.holders[TELEMETRYD]


@pytest.mark.slow
def test_every_figure_of_the_daemon_is_measured(results: Results) -> None:
    assert [(s.fleet, s.nodes, set(s.holders)) for s in results.sections] == [
        (REAL, 103, {TELEMETRYD}),
        (UNIFORM, 53, {TELEMETRYD, PAGES}),
        (REAL, 53, {TELEMETRYD, PAGES}),
        (CORE, 50, {TELEMETRYD}),
    ]
    figures = figures_of(results, UNIFORM, 50)
    expected = {
        "wall_s",
        "whole_s",
        "cpu_s",
        "whole_cpu_s",
        "peak_bytes",
        "resident_bytes",
        "loaded_s",
        "first_export_s",
        "export_after_list_s",
        "cpu_per_event_s",
        "scrape_loop_s",
        "scrape_wall_s",
        "lag_p99_s",
        "idle_core",
        "idle_writes",
        "idle_exports",
        "threads_one",
        *(f"many_{k}_{f}" for k in ("secret", "file") for f in ("bytes", "threads", "late_s")),
        "relist_peak_over_steady_bytes",
    }
    assert expected <= figures.keys()
    assert all(value > 0 for name in ("wall_s", "cpu_s", "peak_bytes") for value in figures[name])
    assert figures["idle_writes"] == [0]
    assert figures["nodes"] == [53]
    assert results.inside.keys() == {UNIFORM, REAL}
    assert results.inside[REAL].keys() == {50, 100}


@pytest.mark.slow
def test_real_and_core_nodes_are_measured_in_bursts_and_one_by_one(results: Results) -> None:
    real, core = figures_of(results, REAL, 50), figures_of(results, CORE, 50)
    assert {"whole_s", "peak_bytes", "cpu_per_event_s", "cpu_per_burst_event_s"} <= real.keys()
    assert {"whole_s", "peak_bytes", "cpu_per_event_s"} <= core.keys()
    assert core["nodes"] == [50]


@pytest.mark.slow
def test_rest_of_a_small_fleet_is_measured(results: Results) -> None:
    figures = figures_of(results, REAL, 100)
    assert {"whole_s", "rest_core", "rest_wakeups_per_s", "rest_requests_per_stream"} <= (
        figures.keys()
    )
    assert figures["rest_wakeups_per_s"][0] > 0
    assert "silent_s" not in figures  # no holder notices in that time


@pytest.mark.slow
def test_every_figure_of_the_history_is_measured(results: Results) -> None:
    figures = {"report_s", "page_s", "insert_s", "five_years_bytes", "idle_bytes", "idle_core"}
    assert results.history.keys() == {"rows", *figures}
    assert all(results.history[figure] > 0 for figure in figures)
    assert results.history["rows"] > 800_000


@pytest.mark.slow
def test_results_survive_being_kept(results: Results, tmp_path: Path) -> None:
    save(results, tmp_path / "made" / "results.json")
    assert load(tmp_path / "made" / "results.json") == results


@pytest.mark.slow
def test_results_can_be_shown(results: Results) -> None:
    text = report.render(results)
    assert "| telemetryd |" in text
    assert "<svg" in plot.render(results)
    assert len(judge(results)) == text.count("| ≤ ")


@pytest.mark.long
def test_profile_shows_work_and_no_waiting(assets: Path) -> None:
    with own_pair(assets, BenchFleet(50)) as server:
        lines = profile(server, UNIFORM).splitlines()
    assert lines[0].startswith("Cold sync of 53 uniform nodes")
    rows = [line for line in lines if line.startswith("| ")][2:]
    own_ms = [int(row.split("|")[1]) for row in rows]
    assert len(rows) == 20
    assert own_ms == sorted(own_ms, reverse=True)
    assert not any("epoll" in row for row in rows)


@pytest.mark.long
@pytest.mark.parametrize(
    ("fleet", "ways"),
    [
        (BenchFleet(50), ([], ["--stream=json"])),
        (CoreFleet(50), (["--core"], ["--core", "--stream=json"], ["--core", "--stream=protobuf"])),
    ],
    ids=["rancher", "core"],
)
def test_what_the_floors_drop_is_the_whole_fleet(
    fleet: BenchFleet, ways: tuple[list[str], ...], assets: Path
) -> None:
    with own_pair(assets, fleet) as server:
        streaming = ways if server.streams else [w for w in ways if "--stream" not in "".join(w)]
        for arguments in streaming:
            program = (sys.executable, "-m", "benchmarks.peers.dropped", *arguments)
            with Peer("floor", (*program, server.kubeconfig)) as floor:
                assert floor.cold_sync().nodes == fleet.nodes
                assert floor.updates() is None


@pytest.mark.long
def test_given_cluster_is_filled_and_left_as_it_was(assets: Path, tmp_path: Path) -> None:
    pair = ApiServer(assets, tmp_path)
    pair.start()
    admin = Admin(pair.url, pair.admin_token, pair.ca_file)
    try:
        kubeconfig = pair.kubeconfig(tmp_path / "kubeconfig")
        with given(kubeconfig, BenchFleet(50)) as server:
            assert len(admin.list(collection(NODES))) == 53
            assert server.update is not None
            server.update(BenchFleet(50).heartbeats(10), 100)
            changed = [n for n in admin.list(collection(NODES)) if n["metadata"]["generation"] > 1]
            assert len(changed) == 10
            with pytest.raises(ServerError, match="served there already"):
                given(kubeconfig, BenchFleet(50)).__enter__()
        with pytest.raises(AdminError, match="404"):
            admin.list(collection(NODES))
    finally:
        admin.close()
        pair.stop()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "current context"),
        ("contexts: []\ncurrent-context: x\n", "current context"),
        ("[", "not YAML"),
    ],
)
def test_unusable_kubeconfig_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "k").write_text(text)
    with pytest.raises(ServerError, match=message):
        given(tmp_path / "k", BenchFleet(50)).__enter__()


def test_missing_kubeconfig_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="No such file"):
        given(tmp_path / "k", BenchFleet(50)).__enter__()


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"BENCH_NODES": "75"}, "multiple of 50"),
        ({"BENCH_NODES": "1000,some"}, "BENCH_NODES=1000,some"),
        ({"BENCH_RUNS": "0"}, "BENCH_RUNS=0"),
    ],
)
def test_unusable_variable_is_named(environ: dict[str, str], message: str) -> None:
    with pytest.raises(CampaignError, match=message):
        Plan.from_environ(environ)


def test_plan_follows_its_variables() -> None:
    plan = Plan.from_environ({"BENCH_NODES": "10000, 100000,1000", "BENCH_RUNS": "7"})
    assert (plan.nodes, plan.runs, plan.usual_nodes) == ((1_000, 10_000, 100_000), 7, 10_000)
    assert Plan.from_environ({}).nodes == (1_000, 10_000)
    assert Plan.from_environ({"BENCH_KUBECONFIG": "/k"}).kubeconfig == Path("/k")
    assert Plan.from_environ({"BENCH_BUSY": "1", "BENCH_OLD": "0"}).busy
    assert not Plan.from_environ({"BENCH_BUSY": "1", "BENCH_OLD": "0"}).old


def test_each_part_is_measured_on_one_fleet_and_rounds_on_all() -> None:
    plan = Plan(nodes=(1_000, 10_000, 100_000))
    measured = [(name, nodes, plan.parts_of(name, nodes)) for name, nodes in plan.fleets()]
    assert [(name, nodes) for name, nodes, _ in measured] == [
        (REAL, 200),
        (UNIFORM, 1_000),
        (REAL, 1_000),
        (UNIFORM, 10_000),
        (REAL, 10_000),
        (REAL, 100_000),
        (CORE, 20_000),
    ]
    counts = Counter(part for _, _, parts in measured for part in parts)
    assert counts.pop("rounds") == 5
    assert counts.keys() == PARTS - {"rounds", "inside", "history"}
    assert set(counts.values()) == {1}


def test_size_of_the_small_fleet_among_the_others_is_served_once() -> None:
    plan = Plan(nodes=(200, 10_000), core=50)
    assert list(plan.fleets())[:3] == [(REAL, 200), (UNIFORM, 200), (UNIFORM, 10_000)]
    assert plan.parts_of(UNIFORM, 200) == {"rounds", "scrapes", "exporters"}


def test_fleets_without_a_chosen_part_are_left_out() -> None:
    plan = Plan(parts=frozenset({"lag"}))
    assert [fleet for fleet in plan.fleets() if plan.parts_of(*fleet)] == [(UNIFORM, 10_000)]


def test_given_cluster_gets_no_core_nodes_and_no_proxy() -> None:
    plan = Plan(kubeconfig=Path("/k"))
    assert CORE not in {name for name, _ in plan.fleets()}
    assert plan.parts_of(REAL, plan.tiny) == {"tiny", "rest"}


@pytest.mark.parametrize(
    ("arguments", "nodes", "message"),
    [
        ((), "1", "BENCH_NODES: each must be a multiple of 50, not (1,)"),
        (("--only", "lag,relist"), "", f"--only: relist: parts are {', '.join(sorted(PARTS))}"),
    ],
)
def test_command_line_says_what_is_wrong(
    arguments: tuple[str, ...], nodes: str, message: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "run", *arguments],
        env={**os.environ, "BENCH_NODES": nodes},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == f"benchmarks: {message}\n"
