"""A limiter lets a few through, in their order; callers that hang delay the others once."""

import asyncio
from typing import Any

import anyio
import pytest

from telemetryd.limiter import WAITED, Gate, GatePass, Limiter
from tests.support.virtualtime import VirtualTimeLoop

pytestmark = pytest.mark.anyio

PATIENCE_S = 0.5


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return ("asyncio", {"loop_factory": VirtualTimeLoop})


class Crowd:
    """Callers of one limiter, and when each had its turn."""

    def __init__(self, limit: int) -> None:
        self.limiter = Limiter(limit, patience_s=PATIENCE_S)
        self.began: dict[int, float] = {}
        self.inside = self.most_inside = 0

    async def come(self, number: int, takes_s: float) -> None:
        async with self.limiter.turn():
            self.began[number] = anyio.current_time()
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
            try:
                await anyio.sleep(takes_s)
            finally:
                self.inside -= 1


async def test_crowd_passes_in_order_and_few_at_a_time() -> None:
    crowd = Crowd(4)
    async with anyio.create_task_group() as group:
        for number in range(1000):
            group.start_soon(crowd.come, number, 0.1)
    assert crowd.most_inside == 4
    assert list(crowd.began) == list(range(1000))
    assert anyio.current_time() == pytest.approx(25)
    assert crowd.limiter.waiting == 0


async def test_those_that_hang_hold_up_the_others_for_the_patience_once() -> None:
    crowd = Crowd(4)
    async with anyio.create_task_group() as group:
        for number in range(4):
            group.start_soon(crowd.come, number, 1e6)
        for number in range(4, 104):
            group.start_soon(crowd.come, number, 0.01)
        await anyio.sleep(10)
        assert crowd.began[4] == PATIENCE_S
        assert crowd.began[103] == pytest.approx(PATIENCE_S + 99 // 4 * 0.01)
        before_s = anyio.current_time()
        await crowd.come(104, 0)
        assert crowd.began[104] == before_s
        assert crowd.inside == 4
        group.cancel_scope.cancel()


async def test_turn_that_outstays_its_patience_is_given_back_once() -> None:
    crowd = Crowd(2)
    for number in range(5):
        await crowd.come(number, PATIENCE_S * 2)
    async with anyio.create_task_group() as group:
        for number in range(10):
            group.start_soon(crowd.come, number, 0.1)
    assert crowd.most_inside == 2


async def test_turn_that_ends_in_an_error_is_given_back() -> None:
    crowd = Crowd(1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            async with crowd.limiter.turn():
                raise ZeroDivisionError
    await crowd.come(0, 0)
    assert crowd.began == {0: 0.0}


async def test_caller_that_is_cut_off_while_it_waits_takes_no_turn_and_gets_an_error() -> None:
    crowd = Crowd(1)
    notes: list[str] = []

    async def impatient() -> None:
        try:
            await crowd.come(1, 0)
        except asyncio.CancelledError as cut:
            notes.extend(cut.__notes__)
            raise

    async with anyio.create_task_group() as group:
        group.start_soon(crowd.come, 0, 0.2)
        await anyio.sleep(0)
        with anyio.move_on_after(0.1):
            await impatient()
        await crowd.come(2, 0)
    assert notes == [WAITED]
    assert crowd.began == {0: 0.0, 2: 0.2}


async def test_who_is_cut_off_just_as_its_turn_comes_passes_it_on() -> None:
    crowd = Crowd(1)
    async with anyio.create_task_group() as group:
        group.start_soon(crowd.come, 0, 0.1)
        await anyio.sleep(0)
        async with anyio.create_task_group() as unlucky:
            unlucky.start_soon(crowd.come, 1, 0)
            unlucky.cancel_scope.deadline = anyio.current_time() + 0.1
        await crowd.come(2, 0)
    assert crowd.limiter.waiting == 0
    assert 2 in crowd.began


async def test_gate_lets_work_begin_in_its_order_as_there_is_room() -> None:
    gate = Gate(2, patience_s=PATIENCE_S)
    begun: list[tuple[int, GatePass]] = []

    def come(*numbers: int) -> None:
        for number in numbers:
            gate.enter(lambda entered, number=number: begun.append((number, entered)))  # type: ignore[misc]

    come(0, 1, 2, 3, 4)
    assert [number for number, _ in begun] == [0, 1]
    begun[1][1].give_back()
    begun[1][1].give_back()  # a second time is no more room
    assert [number for number, _ in begun] == [0, 1, 2]
    await anyio.sleep(PATIENCE_S + 0.01)  # for both that are inside
    assert [number for number, _ in begun] == [0, 1, 2, 3, 4]
    for _, entered in begun:
        entered.give_back()  # late, and no more room either
    come(5, 6, 7)
    assert [number for number, _ in begun] == [*range(7)]
