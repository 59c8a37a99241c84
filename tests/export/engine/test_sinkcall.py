"""How a task waits for a notification or a time, and how late a missed wake-up is."""

import math
import time

import anyio
import anyio.lowlevel
import pytest

from telemetryd.export.engine.sinkcall import Waiter

pytestmark = pytest.mark.anyio


async def test_notification_ends_a_wait_whose_condition_holds() -> None:
    waiter = Waiter()
    over: list[bool] = []
    async with anyio.create_task_group() as group:
        group.start_soon(waiter.wait, math.inf, lambda: bool(over))
        await anyio.lowlevel.checkpoint()
        waiter.notify()
        await anyio.lowlevel.checkpoint()
        over.append(True)
        waiter.notify()


async def test_wait_on_time_is_not_overdue() -> None:
    waiter = Waiter()
    assert waiter.overdue_s == 0.0
    async with anyio.create_task_group() as group:
        group.start_soon(waiter.wait, anyio.current_time() + 60, lambda: False)
        await anyio.sleep(0.01)
        assert waiter.overdue_s == 0.0
        group.cancel_scope.cancel()
    assert waiter.overdue_s == 0.0


async def test_wait_that_nothing_ends_in_time_is_overdue() -> None:
    waiter = Waiter()
    async with anyio.create_task_group() as group:
        group.start_soon(waiter.wait, anyio.current_time() + 0.3, lambda: False)
        await anyio.lowlevel.checkpoint()
        time.sleep(0.5)  # no task is woken meanwhile
        assert waiter.overdue_s > 0.1
    assert waiter.overdue_s == 0.0
