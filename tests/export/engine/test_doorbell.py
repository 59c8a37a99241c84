"""The doorbell's waits, and what it knows of a wait that has gone on for too long."""

import math
import time

import anyio
import anyio.lowlevel
import pytest

from telemetryd.export.engine.doorbell import Doorbell

pytestmark = pytest.mark.anyio


async def test_ring_ends_a_wait_whose_condition_holds() -> None:
    bell = Doorbell()
    over: list[bool] = []
    async with anyio.create_task_group() as group:
        group.start_soon(bell.wait, math.inf, lambda: bool(over))
        await anyio.lowlevel.checkpoint()
        bell.ring()
        await anyio.lowlevel.checkpoint()
        over.append(True)
        bell.ring()


async def test_wait_on_time_is_not_overdue() -> None:
    bell = Doorbell()
    assert bell.overdue_s == 0.0
    async with anyio.create_task_group() as group:
        group.start_soon(bell.wait, anyio.current_time() + 60, lambda: False)
        await anyio.sleep(0.01)
        assert bell.overdue_s == 0.0
        group.cancel_scope.cancel()
    assert bell.overdue_s == 0.0


async def test_wait_that_nothing_ends_in_time_is_overdue() -> None:
    bell = Doorbell()
    async with anyio.create_task_group() as group:
        group.start_soon(bell.wait, anyio.current_time() + 0.02, lambda: False)
        await anyio.sleep(0.01)
        time.sleep(0.2)  # nobody is woken meanwhile
        assert bell.overdue_s > 0.1
    assert bell.overdue_s == 0.0
