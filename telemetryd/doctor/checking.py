"""Runs checks: many at a time but not all, each under a deadline, none at another's cost."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import anyio
import msgspec

from telemetryd.doctor.findings import CheckResult, fail
from telemetryd.errors import KubeError

T = TypeVar("T")

AT_A_TIME = 8
"""Checks that run at the same time: an API server shares itself fairly, and so do we."""


@dataclass(frozen=True, slots=True)
class PlannedCheck:
    """One thing to look at.

    Attributes:
        what: Its name, for the case that it doesn't come back.
        run: Looks at it.
    """

    what: str
    run: Callable[[], Awaitable[list[CheckResult]]]


def local_check(what: str, look: Callable[[], list[CheckResult]]) -> PlannedCheck:
    """A check that blocks, in a thread: a disk may hang."""
    return PlannedCheck(what, partial(_in_thread, look))


async def run_checks(checks: Sequence[PlannedCheck], *, deadline_s: float) -> list[CheckResult]:
    """What all of them found, in the order of the checks.

    Args:
        checks: In the order in which they are shown.
        deadline_s: Of each, in seconds, from when it begins.
    """
    limiter = anyio.Semaphore(AT_A_TIME)
    found: list[list[CheckResult]] = [[] for _ in checks]

    async def run(number: int, check: PlannedCheck) -> None:
        async with limiter:
            found[number] = await run_check(check, deadline_s=deadline_s)

    async with anyio.create_task_group() as group:
        for number, check in enumerate(checks):
            group.start_soon(run, number, check)
    return [finding for findings in found for finding in findings]


async def run_check(check: PlannedCheck, *, deadline_s: float) -> list[CheckResult]:
    """What one of them found, or why that isn't known; it raises nothing.

    Args:
        check: Run in this task.
        deadline_s: In seconds from now.
    """
    try:
        with anyio.fail_after(deadline_s):
            return await check.run()
    except TimeoutError:
        why = f"not known within {deadline_s:g} s"
        return [fail(check.what, why, "find out what it hangs on, then ask again")]
    except KubeError as error:
        return [fail(check.what, str(error), "fix what the API server says, then ask again")]
    except (msgspec.MsgspecError, UnicodeError):
        fix = "see what stands between here and the API server"
        return [fail(check.what, "the answer isn't what was asked for", fix)]
    except Exception as error:  # noqa: BLE001 - a check that is broken costs itself alone
        fix = "this is an error of telemetryd's own: please report it"
        return [fail(check.what, f"internal: {type(error).__name__}", fix)]


async def _in_thread(look: Callable[[], T]) -> T:
    """Call it in a thread of its own, which may be left behind and never keeps the process alive.

    Raises:
        CancelledError: The deadline has passed.
    """
    done: concurrent.futures.Future[T] = concurrent.futures.Future()
    done.set_running_or_notify_cancel()  # from now on cancelling the waiter leaves it alone

    def run() -> None:
        try:
            done.set_result(look())
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is awaited
            done.set_exception(error)

    threading.Thread(target=run, name="doctor", daemon=True).start()
    return await asyncio.wrap_future(done)
