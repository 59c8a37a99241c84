"""Which worker takes which file."""

from types import SimpleNamespace
from typing import Any

from xdist.remote import Producer

from tests.support.scheduling import KEEPERS, ServerScheduling

WORKERS = KEEPERS + 2


class Worker:
    """Notes what it is given."""

    def __init__(self, tests: list[str]) -> None:
        self.gateway = SimpleNamespace(id="gw")
        self.tests = tests
        self.given: list[str] = []
        self.shutting_down = False

    def send_runtest_some(self, numbers: list[int]) -> None:
        self.given += [self.tests[number] for number in numbers]

    def shutdown(self) -> None:
        self.shutting_down = True


def played(tests: list[str]) -> list[Worker]:
    """The workers, when each has done test after test in turn until nothing is left."""
    values: dict[str, Any] = {"tx": ["popen"] * WORKERS}
    config: Any = SimpleNamespace(
        getvalue=values.__getitem__, option=SimpleNamespace(loadscopereorder=False, debug=False)
    )
    scheduling: Any = ServerScheduling(config, ["served/"], Producer("tests", enabled=False))
    workers = [Worker(tests) for _ in range(WORKERS)]
    for worker in workers:
        scheduling.add_node(worker)
        scheduling.add_node_collection(worker, tests)
    scheduling.schedule()
    done = {id(worker): 0 for worker in workers}
    while scheduling.has_pending:
        for worker in workers:
            if done[id(worker)] < len(worker.given):
                test = worker.given[done[id(worker)]]
                done[id(worker)] += 1
                scheduling.mark_test_complete(worker, tests.index(test))
    return workers


def files_of(kind: str, count: int) -> list[str]:
    return [f"{kind}/test_{n}.py::test_{each}" for n in range(count) for each in range(3)]


def test_only_keepers_take_files_with_a_server_while_there_are_others() -> None:
    tests = files_of("plain", 12) + files_of("served", 6)
    workers = played(tests)
    assert sorted(each for worker in workers for each in worker.given) == sorted(tests)
    assert all(worker.shutting_down for worker in workers)
    for worker in workers[:KEEPERS]:
        assert worker.given[0].startswith("served/")
    for worker in workers[KEEPERS:]:
        assert worker.given
        assert not [each for each in worker.given if each.startswith("served/")]


def test_all_take_files_with_a_server_where_there_are_many_and_nothing_else() -> None:
    tests = files_of("served", 5 * WORKERS)
    workers = played(tests)
    assert sorted(each for worker in workers for each in worker.given) == sorted(tests)
    assert all(worker.given for worker in workers)
