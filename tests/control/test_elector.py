"""One leader at any moment, whatever comes between the replicas and the Lease; on virtual time."""

from random import Random
from typing import Any

import anyio
import pytest

from telemetryd.control.epochs import MAX_EPOCH
from telemetryd.errors import NotLeading
from tests.control.election import TIMING, Etcd, Line, Replica, replicas, standing, until_leading
from tests.support.virtualtime import VirtualTimeLoop

pytestmark = pytest.mark.anyio

HAND_OVER_S = TIMING.duration_s + 2.5 * TIMING.retry_period_s


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return ("asyncio", {"loop_factory": VirtualTimeLoop})


async def test_fresh_candidate_waits_a_whole_term_before_it_makes_the_lease() -> None:
    """There may be a leader whose Lease somebody has just deleted."""
    etcd = Etcd()
    (only,) = replicas(1, etcd)
    async with standing(only):
        await anyio.sleep(TIMING.duration_s - 0.1)
        assert etcd.document is None
        await until_leading(only, within_s=1)
        assert etcd.read().record.transitions == 1
        assert only.elector.epoch == 1


async def test_leader_renews_and_no_other_takes_over() -> None:
    etcd = Etcd()
    first, second, third = replicas(3, etcd)
    async with standing(first):
        await until_leading(first, within_s=20)
        async with standing(second, third):
            begun = etcd.writes
            await anyio.sleep(600)
            assert first.leading
            assert not second.leading
            assert not third.leading
            assert etcd.writes - begun == pytest.approx(600 / TIMING.retry_period_s, rel=0.02)
            assert [what for _, what in first.orders] == ["stand by", "lead"]


async def test_dead_leader_is_succeeded_within_a_term_and_two_and_a_half_looks() -> None:
    for seed in range(20):
        etcd = Etcd()
        first, second, third = replicas(3, etcd, seed=seed)
        async with standing(first):
            await until_leading(first, within_s=20)
            async with standing(second, third):
                await anyio.sleep(Random(seed).uniform(3, 9))
                first.life.cancel()
                died_s = anyio.current_time()
                successor = await until_leading(second, third, within_s=HAND_OVER_S)
                assert anyio.current_time() - died_s > TIMING.renew_deadline_s
                assert etcd.holder == successor.name
                assert successor.elector.epoch == 2


async def test_released_lease_is_taken_within_three_seconds() -> None:
    for seed in range(20):
        etcd = Etcd()
        first, second = replicas(2, etcd, seed=seed)
        async with standing(first):
            await until_leading(first, within_s=20)
        async with standing(second):
            await anyio.sleep(Random(seed).uniform(2, 5))
            await first.elector.release()
            await until_leading(second, within_s=3)
            assert second.elector.epoch == first.elector.epoch + 1 == 2


async def test_release_leaves_a_successors_lease_alone() -> None:
    etcd = Etcd()
    (first,) = replicas(1, etcd)
    async with standing(first):
        await until_leading(first, within_s=20)
    etcd.meddle(holderIdentity="somebody")
    writes = etcd.writes
    await first.elector.release()
    assert (etcd.holder, etcd.writes) == ("somebody", writes)


async def test_release_overcomes_a_change_in_between_and_gives_up_in_time() -> None:
    etcd = Etcd()
    (first,) = replicas(1, etcd)
    async with standing(first):
        await until_leading(first, within_s=20)
    first.line.broken = True
    async with anyio.create_task_group() as group:
        group.start_soon(first.elector.release)
        await anyio.sleep(1)
        etcd.meddle(leaseDurationSeconds=16)
        first.line.broken = False
    assert etcd.holder == ""
    (second,) = replicas(1, etcd)
    async with standing(second):
        await until_leading(second, within_s=20)
    second.line.hangs = True
    began_s = anyio.current_time()
    await second.elector.release(timeout_s=1.5)
    assert anyio.current_time() - began_s == pytest.approx(1.5, abs=0.1)


async def test_replica_that_never_led_releases_nothing() -> None:
    etcd = Etcd()
    first, second = replicas(2, etcd)
    async with standing(first):
        await until_leading(first, within_s=20)
        async with standing(second):
            await anyio.sleep(5)
        second.line.hangs = True
        began_s = anyio.current_time()
        await second.elector.release()
        assert anyio.current_time() == began_s
        assert first.leading


@pytest.mark.parametrize("how", ["broken", "hangs", "deaf"])
async def test_leader_unreachable_stops_by_its_deadline_before_another_begins(how: str) -> None:
    etcd = Etcd()
    first, second = replicas(2, etcd)
    first.ends_in_s = 2.0
    async with standing(first):
        await until_leading(first, within_s=20)
        async with standing(second):
            await anyio.sleep(7)
            setattr(first.line, how, True)
            cut_s = anyio.current_time()
            while first.leading:
                await anyio.sleep(0.01)
            assert anyio.current_time() - cut_s <= TIMING.renew_deadline_s
            with pytest.raises(NotLeading):
                first.elector.require()
            # What the deaf one sent until then came through, and began a term each time.
            successor = await until_leading(second, within_s=HAND_OVER_S + TIMING.renew_deadline_s)
            assert anyio.current_time() - cut_s > TIMING.renew_deadline_s + first.ends_in_s
            assert successor.orders[-1][0] >= first.orders[-1][0]
            setattr(first.line, how, False)
            await anyio.sleep(60)
            assert second.leading
            assert first.elector.status().holder == second.name


async def test_renewal_that_comes_through_late_brings_no_term_back_to_life() -> None:
    etcd = Etcd()
    (only,) = replicas(1, etcd)
    async with standing(only):
        await until_leading(only, within_s=20)
        only.line.deaf = True
        await anyio.sleep(TIMING.renew_deadline_s + 0.5)
        assert etcd.holder == only.name
        assert not only.leading
        assert only.orders[-1][1] == "stand by"
        only.line.deaf = False
        await until_leading(only, within_s=TIMING.request_timeout_s + 3)
        assert only.elector.epoch == 2  # a new term, and it says so


async def test_deleted_lease_is_made_again_by_its_leader() -> None:
    etcd = Etcd()
    first, second = replicas(2, etcd)
    async with standing(first):
        await until_leading(first, within_s=20)
        async with standing(second):
            await anyio.sleep(3)
            for _ in range(5):
                etcd.document = None
                for _ in range(200):
                    await anyio.sleep(0.1)
                    assert first.leading
                    assert not second.leading
                assert etcd.holder == first.name


async def test_changes_by_others_are_survived_and_kept() -> None:
    etcd = Etcd()
    first, second = replicas(2, etcd)
    async with standing(first):
        await until_leading(first, within_s=20)
        async with standing(second):
            for number in range(300):
                etcd.meddle(note=number)
                await anyio.sleep(0.3)
                assert first.leading
                assert not second.leading
    assert etcd.document is not None
    assert etcd.document["spec"]["note"] == 299


async def test_lease_taken_away_ends_the_term_at_the_next_renewal() -> None:
    etcd = Etcd()
    (first,) = replicas(1, etcd)
    async with standing(first):
        await until_leading(first, within_s=20)
        await anyio.sleep(5)
        etcd.meddle(holderIdentity="usurper", leaseDurationSeconds=40)
        taken_s = anyio.current_time()
        while first.leading:
            await anyio.sleep(0.05)
        assert anyio.current_time() - taken_s <= TIMING.retry_period_s + 0.2
        await anyio.sleep(38)
        assert not first.leading, "the usurper's own duration counts"
        await until_leading(first, within_s=8)


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"holderIdentity": None, "leaseDurationSeconds": None, "leaseTransitions": None},
        {"holderIdentity": "x", "leaseDurationSeconds": 0},
        {"holderIdentity": "x", "leaseDurationSeconds": -7, "leaseTransitions": -1},
        {"holderIdentity": "x", "renewTime": "yesterday", "acquireTime": None},
    ],
)
async def test_lease_that_holds_nonsense_is_taken_in_its_time(spec: dict[str, Any]) -> None:
    etcd = Etcd()
    etcd.write({"kind": "Lease", "metadata": {"name": "telemetryd"}, "spec": spec})
    (only,) = replicas(1, etcd)
    async with standing(only):
        await until_leading(only, within_s=HAND_OVER_S)
        assert etcd.read().record.duration_s == TIMING.duration_s
        if spec.get("holderIdentity"):
            assert anyio.current_time() >= TIMING.duration_s


async def test_leader_whose_clock_leaps_over_its_term_acts_no_more() -> None:
    """As after SIGSTOP, a suspend, or a blocked loop: the fence comes before any task's turn."""
    etcd = Etcd()
    (only,) = replicas(1, etcd)
    async with standing(only):
        await until_leading(only, within_s=20)
        only.skew_s += TIMING.renew_deadline_s
        assert not only.leading
        with pytest.raises(NotLeading):
            only.elector.require()
        await anyio.sleep(TIMING.retry_period_s + 0.1)
        assert [what for _, what in only.orders][-2:] == ["stand by", "lead"]


async def test_status_tells_who_leads_and_what_is_wrong() -> None:
    etcd = Etcd()
    first, second = replicas(2, etcd)
    async with standing(first):
        await until_leading(first, within_s=20)
        async with standing(second):
            await anyio.sleep(1)
            assert first.elector.status().leading
            seen = second.elector.status()
            assert (seen.leading, seen.holder, seen.last_error) == (False, first.name, "")
            second.line.broken = True
            await anyio.sleep(5)
            assert second.elector.status().last_error == "no connection"
            second.line.broken = False
            await anyio.sleep(5)
            assert second.elector.status().last_error == ""
        assert first.elector.stats.transitions == 1


FAULTS = ("broken", "hangs", "deaf")


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.long) for n in (1, 2, 3))])
async def test_an_hour_of_faults_never_has_two_leaders(seed: int) -> None:
    """Cut lines, hung and lost answers, deleted and altered Leases, leaps of a clock, restarts."""
    rng = Random(seed)
    etcd = Etcd()
    crew = replicas(3, etcd, seed=seed)
    for replica in crew:
        replica.ends_in_s = rng.uniform(0.0, 3.0)
    led_s = dict.fromkeys((replica.name for replica in crew), 0.0)
    until_s = 3600
    async with standing(*crew):
        async with anyio.create_task_group() as chaos:
            chaos.start_soon(_harass, crew, etcd, rng)
            while anyio.current_time() < until_s:
                await anyio.sleep(0.5)
                leaders = [replica for replica in crew if replica.leading]
                at_work = [replica for replica in crew if replica.working]
                assert len(leaders) <= 1
                # Work ends within the gap between the renew deadline and the term's end.
                assert len(at_work) <= 1
                for leader in leaders:
                    led_s[leader.name] += 0.5
            chaos.cancel_scope.cancel()
        for replica in crew:
            _heal(replica.line)
        await until_leading(*crew, within_s=2 * HAND_OVER_S)
    assert sum(led_s.values()) > until_s / 4
    assert all(seconds > 0 for seconds in led_s.values())


def _heal(line: Line) -> None:
    for fault in FAULTS:
        setattr(line, fault, False)


async def _harass(crew: list[Replica], etcd: Etcd, rng: Random) -> None:
    while True:
        await anyio.sleep(rng.expovariate(1 / 20))
        victim = rng.choice(crew)
        match rng.randrange(7):
            case 0 | 1 | 2:
                setattr(victim.line, rng.choice(FAULTS), True)
            case 3:
                etcd.document = None
            case 4 if etcd.document is not None:
                etcd.meddle(leaseDurationSeconds=rng.choice([15, 16, 20]), note=rng.random())
            case 5 if victim.leading:  # as after a suspend, which costs all others time as well
                victim.skew_s += rng.choice([0.5, 3.0, 3600.0])
            case _:
                _heal(victim.line)
                victim.line.latency_s = rng.choice([0.001, 0.1, 1.0])


async def test_lease_deleted_and_made_again_takes_no_epoch_back() -> None:
    etcd = Etcd()
    first, second = replicas(2, etcd)
    given_out: list[int] = []
    async with standing(first, second):
        for _ in range(6):
            leader = await until_leading(first, second, within_s=2 * HAND_OVER_S)
            given_out.append(leader.elector.epoch)
            assert etcd.read().record.transitions == leader.elector.epoch
            await anyio.sleep(1.5 * TIMING.retry_period_s)  # the other looks at the Lease
            leader.skew_s += TIMING.duration_s  # its term is over before it knows
            etcd.document = None
            await anyio.sleep(TIMING.renew_deadline_s)
    assert given_out == sorted(set(given_out)), "each term has a higher one"


async def test_replica_that_lost_its_state_learns_the_epoch_from_the_lease() -> None:
    etcd = Etcd()
    first, second = replicas(2, etcd)
    first.epochs.saw(41)
    async with standing(first):
        await until_leading(first, within_s=20)
        assert etcd.read().record.transitions == 42
        async with standing(second):
            await anyio.sleep(5)
            etcd.document = None
            first.life.cancel()
            await until_leading(second, within_s=2 * HAND_OVER_S)
            assert second.elector.epoch == 43


async def test_epoch_that_a_secret_names_is_exceeded_in_the_first_write_of_the_lease() -> None:
    etcd = Etcd()
    (only,) = replicas(1, etcd)
    only.named = 7  # the Lease and all state are lost
    async with standing(only):
        await until_leading(only, within_s=20)
        assert only.elector.epoch == 8
        assert etcd.read().record.transitions == 8


async def test_epoch_seen_during_a_term_is_exceeded_from_then_on() -> None:
    """As where all that remembered is lost, and a receiver says what it holds."""
    etcd = Etcd()
    first, second = replicas(2, etcd)
    async with standing(first):
        await until_leading(first, within_s=20)
        assert first.elector.epoch == 1
        first.elector.saw(9)
        assert first.elector.epoch == 10
        first.elector.saw(10)
        first.elector.saw(3)
        assert first.elector.epoch == 10, "its own, and a lower one, change nothing"
        await anyio.sleep(TIMING.retry_period_s + 0.1)
        assert etcd.read().record.transitions == 10
        assert first.orders[-1][1] == "lead", "the term goes on"
        async with standing(second):
            await anyio.sleep(5)
            first.life.cancel()
            await until_leading(second, within_s=HAND_OVER_S)
            assert second.elector.epoch == 11
    await second.elector.release()
    assert etcd.read().record.transitions == 11


async def test_lease_set_back_by_hand_is_raised_again() -> None:
    etcd = Etcd()
    (only,) = replicas(1, etcd)
    only.epochs.saw(20)
    async with standing(only):
        await until_leading(only, within_s=20)
        etcd.meddle(leaseTransitions=3)
        await anyio.sleep(2 * TIMING.retry_period_s)
        assert etcd.read().record.transitions == only.elector.epoch == 21
        etcd.meddle(leaseTransitions=90)
        await anyio.sleep(2 * TIMING.retry_period_s)
        assert etcd.read().record.transitions == only.elector.epoch == 91


async def test_epoch_never_exceeds_what_a_lease_can_hold() -> None:
    etcd = Etcd()
    (only,) = replicas(1, etcd)
    only.epochs.saw(MAX_EPOCH + 1)
    assert only.epochs.highest == 0
    only.epochs.saw(MAX_EPOCH)
    async with standing(only):
        await until_leading(only, within_s=20)
        assert etcd.read().record.transitions == MAX_EPOCH
