"""``python -m benchmarks``: runs the benchmark, or shows the results of one anew.

Reads ``BENCH_NODES`` (``1000,10000``), ``BENCH_RUNS`` (5) and ``BENCH_KUBECONFIG`` (a throwaway
cluster in place of a kube-apiserver of our own).
"""

import argparse
import os
import sys
from pathlib import Path

from benchmarks import plot, report
from benchmarks.campaign import Plan, run, serve
from benchmarks.errors import BenchError, CampaignError
from benchmarks.fleet import BenchFleet
from benchmarks.hotspots import profile
from benchmarks.results import Results, load, save
from benchmarks.scenarios import say

_HERE = Path(__file__).parent
_RESULTS = _HERE / "results"


def main() -> int:
    """Do what the arguments say; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "what", choices=("run", "report", "profile"), help="report shows the last run's results"
    )
    what = parser.parse_args().what
    try:
        plan = Plan.from_environ(os.environ)
        if what == "profile":
            _publish_profile(plan)
            return 0
        results = _last() if what == "report" else run(plan)
    except BenchError as error:
        sys.stderr.write(f"benchmarks: {error}\n")
        return 1
    _publish(results)
    return 0


def _last() -> Results:
    """The results of the last run.

    Raises:
        CampaignError: There are none.
    """
    path = _RESULTS / "results.json"
    if not path.exists():
        raise CampaignError(f"no {path}: `make bench` leaves it")
    return load(path)


def _publish(results: Results) -> None:
    save(results, _RESULTS / "results.json")
    (_RESULTS / "nodes.svg").write_text(plot.render(results), encoding="utf-8")
    block = report.render(results)
    _into_readme(block, report.RESULTS)
    sys.stdout.write(block)
    say(f"written: {_RESULTS}/results.json, nodes.svg, and the block of the README")


def _publish_profile(plan: Plan) -> None:
    with serve(plan, BenchFleet(plan.usual_nodes)) as server:
        block = f"{profile(server)}\n{profile(server, pages=True)}"
    _into_readme(block, report.PROFILE)
    sys.stdout.write(block)


def _into_readme(block: str, markers: tuple[str, str]) -> None:
    readme = _HERE / "README.md"
    document = report.put_into(readme.read_text(encoding="utf-8"), block, markers)
    readme.write_text(document, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
