"""Checks: what one finds, and how they run: a few at a time, each under a deadline.

A check that fails or hangs affects no other.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import anyio
import msgspec

from telemetryd.doctor.access import Access
from telemetryd.errors import KubeError
from telemetryd.sharedread import SharedRead

AT_A_TIME = 8
"""Checks that run at the same time: an API server shares itself fairly, and so do we."""


class Grade(StrEnum):
    """How a check ended. Only a FAIL keeps telemetryd from doing its whole job."""

    PASS = "PASS"  # noqa: S105 - a grade
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One line.

    Attributes:
        what: What was looked at.
        detail: What was seen.
        fix: What would help, empty where nothing needs help; every FAIL has one.
        missing: The right that is missing, where that is what was found.
    """

    grade: Grade
    what: str
    detail: str
    fix: str = ""
    missing: Access | None = None

    def __str__(self) -> str:
        said = "; ".join(part for part in (self.detail, self.fix) if part)
        return f"{self.grade}  {' '.join(self.what.split())}  {' '.join(said.split())}"


def passed(what: str, detail: str) -> CheckResult:
    """All is well."""
    return CheckResult(Grade.PASS, what, detail)


def warn(what: str, detail: str, fix: str = "", missing: Access | None = None) -> CheckResult:
    """Something to know of; the daemon does its job."""
    return CheckResult(Grade.WARN, what, detail, fix, missing)


def fail(what: str, detail: str, fix: str, missing: Access | None = None) -> CheckResult:
    """The daemon can't do its whole job like this."""
    return CheckResult(Grade.FAIL, what, detail, fix, missing)


@dataclass(frozen=True, slots=True)
class PlannedCheck:
    """One thing to look at; ``what`` names it if it doesn't come back."""

    what: str
    run: Callable[[], Awaitable[list[CheckResult]]]


def local_check(what: str, look: Callable[[], list[CheckResult]]) -> PlannedCheck:
    """A check that blocks, in a thread: a disk may hang."""

    async def run() -> list[CheckResult]:
        return await SharedRead[list[CheckResult]]("doctor").take(look)

    return PlannedCheck(what, run)


async def run_checks(
    checks: Sequence[PlannedCheck], *, deadline_s: float, at_a_time: int = AT_A_TIME
) -> list[CheckResult]:
    """What all of them found, in the order of the checks; ``deadline_s`` is for each."""
    limiter = anyio.Semaphore(at_a_time)
    found: list[list[CheckResult]] = [[] for _ in checks]

    async def run(number: int, check: PlannedCheck) -> None:
        async with limiter:
            found[number] = await run_check(check, deadline_s=deadline_s)

    async with anyio.create_task_group() as group:
        for number, check in enumerate(checks):
            group.start_soon(run, number, check)
    return [finding for findings in found for finding in findings]


async def run_check(check: PlannedCheck, *, deadline_s: float) -> list[CheckResult]:
    """What one of them found, or why that isn't known; it raises nothing."""
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
