"""The scenarios, and the moves that several of them make.

What is proved of each belongs to ``bench``; the scenarios are in ``answers``, ``data`` and
``outages``, which have to be imported for their sake.
"""

import time
from collections.abc import Callable

from tests.apiserver.crds import CLUSTERS, NODES, collection
from tests.apiserver.fixtures import rancher_cluster
from tests.faults.acts import error
from tests.faults.bench import Bench, Scenario
from tests.faults.proxy import Act

MATRIX: list[Scenario] = []


def scenario(
    *rows: int,
    asks_at_most: int,
    lists: int | None = None,
    quick: bool = False,
    pages: bool = False,
) -> Callable[[Callable[[Bench], None]], Callable[[Bench], None]]:
    """Takes the function into the matrix, under its name."""

    def taken(fault: Callable[[Bench], None]) -> Callable[[Bench], None]:
        name = getattr(fault, "__name__", "")
        MATRIX.append(Scenario(rows, name, fault, asks_at_most, lists, quick, pages))
        return fault

    return taken


def one_list(bench: Bench) -> None:
    """Makes the informer of nodes list, as it does once its history is gone."""
    bench.proxy.say("nodes", error(410, "Expired"), "end")


def spoil_a_list(bench: Bench, act: Act) -> None:
    """The next list gets this answer; meanwhile all that was held stays held."""
    held = bench.informer()["objects"]
    rule = bench.proxy.rule("nodes", "list", act, times=1)
    one_list(bench)
    bench.until("the answer was had", lambda: rule.met)
    bench.until("it shows", bench.error)
    assert bench.informer()["objects"] == held


def others_go_on(bench: Bench) -> None:
    """A cluster comes and goes, and is seen to, whatever is wrong with nodes."""
    resource = "clusters.management.cattle.io"
    held = bench.informer(resource)["objects"]
    bench.admin.create(collection(CLUSTERS), rancher_cluster("sentinel-other"))
    bench.until("it is seen", lambda: bench.informer(resource)["objects"] == held + 1, 30)
    bench.admin.delete(f"{collection(CLUSTERS)}/sentinel-other")
    bench.until("it is gone", lambda: bench.informer(resource)["objects"] == held, 30)


def fix(bench: Bench) -> None:
    """A change of the node that was spoilt, so that the watch brings it whole."""
    path = f"{collection(NODES, 'local')}/sentinel-m-0"
    bench.admin.patch(path, {"metadata": {"annotations": {"fixed": str(time.time())}}})
