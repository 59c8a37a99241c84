"""Three replicas that share a Lease of the real API server, and all that can come between them.

Whatever it is, the sink to which all of them deliver never sees two writers.
"""

import random
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.apiserver.admin import Admin, AdminError
from tests.apiserver.process import ApiServer
from tests.faults import acts
from tests.support.repeating import repeating
from tests.support.sink import receiving
from tests.system.clock import require_steps
from tests.system.rancher import Rancher
from tests.system.replicas import LEASE, LEASE_NAME, Crew, Replica, Term

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

SECRET_PATH = "/api/v1/namespaces/cattle-telemetry-system/secrets/rancher-scc-telemetry"


@pytest.fixture(scope="module")
def rancher(admin: Admin) -> Iterator[Rancher]:
    with Rancher.built(admin, clusters=2, nodes=3) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def shared_crew(
    apiserver: ApiServer, rancher: Rancher, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Crew]:
    folder: Path = tmp_path_factory.mktemp("crew")
    with receiving() as sink, ExitStack() as ends:
        yield Crew(folder, apiserver, sink, ends)


@pytest.fixture
def crew(shared_crew: Crew) -> Iterator[Crew]:
    """They, all well before and after; the record is judged in between."""
    shared_crew.settle()
    try:
        yield shared_crew
    finally:
        shared_crew.settle()
        shared_crew.sink.check()


def names_leader(standby: Replica, name: str) -> bool:
    """Whether it says who leads; it learns that when it looks at the Lease next."""
    return str(standby.daemon.exporter("scc")["detail"]).startswith(f"{name}_")


def agreed(crew: Crew) -> Replica | None:
    """The leader, once its metric says so, and all others' that they are none and who it is."""
    leader = next((replica for replica in crew.replicas if replica.leading()), None)
    if leader is None or not all(names_leader(each, leader.name) for each in crew.others(leader)):
        return None
    series = 'telemetryd_leader{name="telemetryd"}'
    said = [replica.daemon.metric(series) == (replica is leader) for replica in crew.replicas]
    return leader if all(said) else None


def test_never_two_writers_whatever_befalls_the_leader(crew: Crew, admin: Admin) -> None:
    first = crew.until("a leader on whom all agree", partial(agreed, crew))
    standbys = crew.others(first)
    begun_under = first.epoch()
    lists = {replica.name: replica.lists() for replica in standbys}

    # Frozen past its term, then let go in the middle of whatever it was about to do.
    first.daemon.signal(signal.SIGSTOP)
    second = crew.successor(first)
    assert second.lists() == lists[second.name], "it takes over with what it holds"
    let_go_s = time.monotonic()
    first.daemon.signal(signal.SIGCONT)
    first.daemon.wait_for("standby", first.stands_by, Term.PATIENCE_S)
    crew.assert_silent(first, let_go_s)

    # Cut off from the API server, and back.
    second.line.close_door()
    third = crew.successor(second)
    second.line.open_door()
    second.daemon.wait_for("standby", second.stands_by, Term.PATIENCE_S)

    # Told to go: it releases the Lease when its work has ended.
    assert third.daemon.stop() == 0
    assert "lease released" in third.daemon.log()
    fourth = crew.successor(third)
    third.restart()

    # Killed without a word; started again.
    fourth.kill()
    fifth = crew.successor(fourth)
    fourth.restart()
    assert fifth.epoch() >= begun_under + 4


def test_lease_that_is_altered_deleted_and_stolen_has_one_holder(crew: Crew, admin: Admin) -> None:
    leader = crew.leader()
    # Others write it all the time, so that many of the renewals are conflicts.
    with meddling(admin) as writes:
        time.sleep(Term.DURATION_S + Term.RETRY_S)
        assert leader.leading()
    assert len(writes) > 10
    admin.delete(LEASE)
    crew.until("a new Lease", lambda: find_holder(admin))
    assert str(find_holder(admin)).startswith(f"{leader.name}_")
    assert leader.leading()
    epoch = leader.epoch()
    for _ in range(2):
        robbed = crew.leader()
        admin.patch(LEASE, {"spec": {"holderIdentity": "usurper", "leaseDurationSeconds": 1}})
        crew.until("its end", partial(ended, robbed))
    assert crew.leader().epoch() > epoch


@pytest.mark.parametrize(
    "hangs_s", [Term.HAND_OVER_S + 2.0, pytest.param(60.0, marks=pytest.mark.faults)]
)
def test_lease_that_hangs_costs_the_leader_its_term_and_nothing_else(
    crew: Crew, rancher: Rancher, hangs_s: float
) -> None:
    leader = crew.leader()
    rules = [leader.line.rule(each, "*", acts.silence) for each in (LEASE_NAME, "leases")]
    leader.daemon.wait_for("a renewal that hangs", lambda: rules[0].met, Term.PATIENCE_S)
    begin_s = time.monotonic()
    leader.daemon.wait_for("its end", lambda: not leader.leading(), Term.PATIENCE_S)
    crew.successor(leader)
    succeeded_s = time.monotonic()

    nodes = int(leader.daemon.informer("nodes.management.cattle.io")["objects"])
    number = 9300 + int(hangs_s)
    rancher.add_node("local", number)
    leader.daemon.wait_for(
        "its informers go on",
        lambda: leader.daemon.informer("nodes.management.cattle.io")["objects"] == nodes + 1,
        Term.PATIENCE_S,
    )
    rancher.delete_node("local", number)
    while time.monotonic() < begin_s + hangs_s:
        assert not leader.leading()
        time.sleep(0.5)
    crew.assert_silent(leader, succeeded_s)


def test_wall_clocks_that_step_by_an_hour_change_nothing(crew: Crew) -> None:
    require_steps()
    leader = crew.leader()
    standbys = crew.others(leader)
    begin_s = time.monotonic()
    try:
        for hours, replicas in (
            (1, [leader]),
            (-1, [leader]),
            (1, standbys[:1]),
            (-1, standbys[1:]),
            (0, [leader]),
        ):
            for replica in replicas:
                replica.clock.step(hours)
            time.sleep(Term.DURATION_S / 4)  # in all, past a term
            assert leader.leading()
        assert {post.sender for post in crew.sink.posts(begin_s)} == {leader.name}

        # With clocks two hours apart the next one comes no earlier.
        killed_s = time.monotonic()
        leader.kill()
        following = crew.successor(leader)
        first_s = min(p.began_s for p in crew.sink.posts(killed_s) if p.sender == following.name)
        assert first_s > killed_s + Term.DURATION_S - Term.DEADLINE_S
    finally:
        for replica in crew.replicas:
            replica.clock.step(0)
        if leader.daemon.process.poll() is not None:
            leader.restart()


@pytest.mark.parametrize("rounds", [3, pytest.param(20, marks=pytest.mark.faults)])
def test_leader_frozen_at_a_random_moment_writes_nothing_afterwards(
    crew: Crew, admin: Admin, rounds: int
) -> None:
    for _ in range(rounds):
        frozen = crew.leader()
        crew.until_delivery(frozen)
        moment_s = random.uniform(0.0, 1.2)
        time.sleep(moment_s)
        frozen.daemon.signal(signal.SIGSTOP)
        try:
            following = crew.successor(frozen)
            before = admin.get(SECRET_PATH)["metadata"]["resourceVersion"]
            thawed_s = time.monotonic()
        finally:
            frozen.daemon.signal(signal.SIGCONT)
        frozen.daemon.wait_for("standby", frozen.stands_by, Term.PATIENCE_S)
        crew.until_delivery(following)
        crew.assert_silent(frozen, thawed_s)
        # The fleet has not changed, so the leader has no reason to write the Secret either.
        assert admin.get(SECRET_PATH)["metadata"]["resourceVersion"] == before, moment_s


def test_replicas_that_are_all_cut_off_have_no_leader(crew: Crew) -> None:
    for replica in crew.replicas:
        replica.line.close_door()
    try:
        crew.until(
            "no leader", lambda: None if any(each.leading() for each in crew.replicas) else True
        )
        time.sleep(Term.DURATION_S - Term.DEADLINE_S)  # for a delivery that had begun
        alone_s = time.monotonic()
        while time.monotonic() < alone_s + Term.HAND_OVER_S:
            assert not [each.name for each in crew.replicas if each.leading()]
            time.sleep(0.2)
        assert crew.sink.posts(alone_s) == []
    finally:
        for replica in crew.replicas:
            replica.line.open_door()
    crew.until_delivery(crew.leader())


@contextmanager
def meddling(admin: Admin) -> Iterator[list[float]]:
    """Writes the Lease some twenty times a second until left."""
    writes: list[float] = []

    def meddle() -> None:
        stamp = time.monotonic()
        admin.patch(LEASE, {"metadata": {"annotations": {"theirs": str(stamp)}}})
        writes.append(stamp)

    with repeating(meddle, every_s=0.05):
        yield writes


def ended(replica: Replica) -> bool | None:
    return None if replica.leading() else True


def find_holder(admin: Admin) -> str | None:
    try:
        return str(admin.get(LEASE)["spec"]["holderIdentity"])
    except AdminError as error:
        if error.status == 404:
            return None
        raise
