"""Checks run side by side, and none costs another anything but a turn."""

import threading

import anyio
import pytest

from telemetryd.doctor.checking import (
    AT_A_TIME,
    CheckResult,
    Grade,
    PlannedCheck,
    local_check,
    passed,
    run_checks,
)
from telemetryd.errors import Forbidden

pytestmark = pytest.mark.anyio


def well(name: str) -> PlannedCheck:
    async def run() -> list[CheckResult]:
        await anyio.sleep(0)
        return [passed(name, "well")]

    return PlannedCheck(name, run)


def raising(name: str, error: Exception) -> PlannedCheck:
    async def run() -> list[CheckResult]:
        raise error

    return PlannedCheck(name, run)


async def test_findings_come_in_the_order_of_the_checks() -> None:
    async def slow() -> list[CheckResult]:
        await anyio.sleep(0.05)
        return [passed("slow", "well"), passed("slow", "twice")]

    found = await run_checks([PlannedCheck("slow", slow), well("quick")], deadline_s=5)
    assert [finding.what for finding in found] == ["slow", "slow", "quick"]


async def test_check_that_raises_costs_itself_alone() -> None:
    checks = [well("a"), raising("b", ValueError("SENTINEL")), well("c")]
    found = await run_checks(checks, deadline_s=5)
    assert [finding.grade for finding in found] == [Grade.PASS, Grade.FAIL, Grade.PASS]
    assert str(found[1]).startswith("FAIL  b  internal: ValueError; ")
    assert "SENTINEL" not in str(found[1])


async def test_what_the_api_server_says_is_reported() -> None:
    (finding,) = await run_checks([raising("a", Forbidden("GET /x: 403"))], deadline_s=5)
    assert finding.grade is Grade.FAIL
    assert finding.detail == "GET /x: 403"
    assert finding.fix


async def test_check_that_hangs_is_cut_off() -> None:
    async def hang() -> list[CheckResult]:
        await anyio.sleep_forever()
        return []

    found = await run_checks([PlannedCheck("hangs", hang), well("b")], deadline_s=0.05)
    assert str(found[0]).startswith("FAIL  hangs  not known within 0.05 s; ")
    assert found[1].grade is Grade.PASS


async def test_check_that_blocks_is_left_behind_and_blocks_no_other() -> None:
    release = threading.Event()
    others = threading.enumerate()

    def block() -> list[CheckResult]:
        release.wait(600)
        return []

    found = await run_checks([local_check("blocks", block), well("b")], deadline_s=0.05)
    try:
        assert [finding.grade for finding in found] == [Grade.FAIL, Grade.PASS]
        (left,) = set(threading.enumerate()) - set(others)
        assert left.daemon, "it doesn't keep the process alive"
    finally:
        release.set()
        left.join(30)


async def test_error_of_a_blocking_check_is_its_own() -> None:
    def look() -> list[CheckResult]:
        raise OSError("boom")

    (finding,) = await run_checks([local_check("disk", look)], deadline_s=5)
    assert str(finding).startswith("FAIL  disk  internal: OSError; ")


async def test_no_more_than_the_limit_run_at_a_time() -> None:
    running = most = 0

    async def run() -> list[CheckResult]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(0.001)
        running -= 1
        return []

    await run_checks([PlannedCheck("x", run) for _ in range(5 * AT_A_TIME)], deadline_s=5)
    assert most == AT_A_TIME
