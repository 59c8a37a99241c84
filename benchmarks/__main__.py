"""``python -m benchmarks``: runs the benchmark, or shows the results of one anew.

Reads ``BENCH_NODES`` (``1000,10000``), ``BENCH_RUNS`` (5), ``BENCH_KUBECONFIG`` (a throwaway
cluster in place of a kube-apiserver of our own), ``BENCH_BUSY`` (1 keeps one core busy meanwhile)
and ``BENCH_OLD`` (1 lets an older client-go take part).
"""

import argparse
import dataclasses
import os
import sys
from pathlib import Path

from benchmarks import plot, report
from benchmarks.campaign import PARTS, Plan, build_peers, run, serve
from benchmarks.errors import BenchError, CampaignError
from benchmarks.fleet import BenchFleet
from benchmarks.hotspots import profile
from benchmarks.realfleet import RealFleet
from benchmarks.results import Results, load, save
from benchmarks.scenarios import say
from tests.support.gobuild import GoBuildError

_HERE = Path(__file__).parent
_RESULTS = _HERE / "results"


def main() -> int:
    """Do what the arguments say; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "what",
        choices=("build", "run", "report", "profile"),
        help="build makes the peers of Go modules; report shows the last run's results",
    )
    parser.add_argument(
        "--only",
        metavar="PARTS",
        default="",
        help=f"parts of run, parted by commas: {', '.join(sorted(PARTS))}. Shown, but not kept",
    )
    asked = parser.parse_args()
    try:
        plan = _plan(asked.only)
        if asked.what == "build":
            build_peers(plan)
        elif asked.what == "profile":
            _publish_profile(plan)
        elif asked.what == "report":
            _publish(_last(busy=plan.busy))
        elif asked.only:
            sys.stdout.write(report.render(run(plan), partly=True))
        else:
            _publish(run(plan))
    except (BenchError, GoBuildError) as error:
        sys.stderr.write(f"benchmarks: {error}\n")
        return 1
    return 0


def _plan(only: str) -> Plan:
    """As the variables and ``--only`` have it.

    Raises:
        CampaignError: One of them can't be used.
    """
    plan = Plan.from_environ(os.environ)
    if not only:
        return plan
    parts = frozenset(part.strip() for part in only.split(","))
    if unknown := parts - PARTS:
        message = f"--only: {', '.join(sorted(unknown))}: parts are {', '.join(sorted(PARTS))}"
        raise CampaignError(message)
    return dataclasses.replace(plan, parts=parts)


def _results_file(*, busy: bool) -> Path:
    return _RESULTS / ("busy.json" if busy else "results.json")


def _last(*, busy: bool) -> Results:
    """The results of the last run.

    Raises:
        CampaignError: There are none.
    """
    path = _results_file(busy=busy)
    if not path.exists():
        raise CampaignError(f"no {path}: `make bench` leaves it")
    return load(path)


def _publish(results: Results) -> None:
    save(results, _results_file(busy=results.busy))
    block = report.render(results)
    _into_readme(block, report.BUSY if results.busy else report.RESULTS)
    if not results.busy:
        (_RESULTS / "nodes.svg").write_text(plot.render(results), encoding="utf-8")
    sys.stdout.write(block)
    say(f"written: {_results_file(busy=results.busy)} and the block of the README")


def _publish_profile(plan: Plan) -> None:
    blocks = []
    for fleet in (BenchFleet(plan.usual_nodes), RealFleet(plan.usual_nodes)):
        with serve(plan, fleet) as server:
            blocks += [profile(server, fleet.name), profile(server, fleet.name, pages=True)]
    block = "\n".join(blocks)
    _into_readme(block, report.PROFILE)
    sys.stdout.write(block)


def _into_readme(block: str, markers: tuple[str, str]) -> None:
    readme = _HERE / "README.md"
    document = report.put_into(readme.read_text(encoding="utf-8"), block, markers)
    readme.write_text(document, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
