"""The matrix, scenario by scenario, with one daemon for all of them."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.apiserver.crds import install_crds
from tests.faults import answers, data, outages  # noqa: F401 - they add to the matrix
from tests.faults.bench import Bench, Scenario, play, set_up
from tests.faults.matrix import MATRIX
from tests.faults.plugin import MARKER, RESULTS


@pytest.fixture(scope="module")
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """On an API server of this module's own where a scenario may kill its etcd."""
    here = [item for item in request.session.items if item.location[0] == request.node.nodeid]
    own = "own_" if any(item.get_closest_marker(MARKER) for item in here) else ""
    apiserver, admin = (request.getfixturevalue(own + name) for name in ("apiserver", "admin"))
    install_crds(admin)
    with (
        tempfile.TemporaryDirectory(prefix="telemetryd-faults-") as folder,
        set_up(apiserver, admin, Path(folder)) as made,
    ):
        yield made


ALWAYS = {
    "history_gone_in_the_stream_makes_one_list",
    "objects_without_what_they_must_have_cost_themselves_alone",
}
"""What `make test` tries of the quick ones; `make test-long` tries the others."""


def marks(scenario: Scenario) -> Sequence[pytest.MarkDecorator]:
    """When it is tried."""
    if scenario.name in ALWAYS:
        return ()
    return (pytest.mark.long if scenario.quick else pytest.mark.faults,)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "scenario", [pytest.param(each, id=each.name, marks=marks(each)) for each in MATRIX]
)
def test_fault_is_survived_and_converges(bench: Bench, scenario: Scenario) -> None:
    RESULTS.append(play(bench, scenario))
