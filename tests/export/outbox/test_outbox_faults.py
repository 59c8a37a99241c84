"""Deliveries under kill -9 with a flaky receiver, and on disks that are full or read-only."""

import asyncio
import json
import sys
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest

from tests.export.sinks.test_file_faults import outcome, quick_folder, seen_with_mounts
from tests.support.receiver import Request, Writer, receiving, status

__all__ = ["quick_folder"]

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[3]


class Flaky:
    """Takes a payload or not, says so or not; drops what it has seen, and keeps account."""

    def __init__(self) -> None:
        self._rng = Random(17)
        self.bodies: dict[str, bytes] = {}
        self.newest = b""
        self.highest = 0
        self.repeated = self.unsaid = 0
        self.wrong: list[str] = []

    async def answer(self, request: Request, writer: Writer) -> None:
        chance = self._rng.random()
        if chance < 0.2:
            await status(503)(request, writer)
            return
        self._take(request)
        if chance < 0.4:
            self.unsaid += 1
            writer.transport.abort()
            return
        await asyncio.sleep(self._rng.uniform(0.0, 0.002))
        await status(200)(request, writer)

    def _take(self, request: Request) -> None:
        if request.sequence < self.highest:
            self.wrong.append(f"{request.sequence} after {self.highest}")
        known = self.bodies.get(request.key)
        if known is not None:
            self.repeated += 1
            if known != request.body:
                self.wrong.append(f"{request.key} with two bodies")
            return
        self.bodies[request.key] = request.body
        self.highest = request.sequence
        self.newest = request.body


async def test_exporters_killed_200_times_while_they_send_lose_nothing_and_never_go_back(
    quick_folder: Path,
) -> None:
    flaky = Flaky()
    async with receiving(default=flaky.answer) as receiver:
        command = [sys.executable, "-m", "tests.export.outboxkiller", "random"]
        done = await anyio.run_process(
            [*command, str(quick_folder), receiver.url], cwd=ROOT, check=False
        )
    assert done.returncode == 0, done.stderr.decode()
    seen: dict[str, Any] = json.loads(done.stdout)
    assert flaky.wrong == []
    assert flaky.newest.startswith(b"revision %d " % seen["newest"])
    assert (seen["killed"], seen["at end"]) == (200, False)
    assert seen["left"] > 20, "the kills have missed what they are for"
    assert flaky.repeated > 0
    assert len(flaky.bodies) > 20


def test_exporter_killed_at_each_step_of_a_write_keeps_the_old_payload_or_the_new(
    tmp_path: Path,
) -> None:
    command = outcome("outboxkiller", "steps", str(tmp_path))
    assert command["steps"] > 5
    assert command["kept"] == [0, 1, 2]


@pytest.mark.parametrize(
    ("scenario", "why"),
    [
        ("full", "No space left on device: free space or inodes there"),
        ("readonly", "Read-only file system: mount it writable, or configure another state_dir"),
    ],
)
def test_unusable_disk_is_shown_leaves_the_old_file_intact_and_is_recovered_from(
    tmp_path: Path, scenario: str, why: str
) -> None:
    folder = tmp_path / "spool"
    seen = seen_with_mounts(scenario, folder, module="outboxfaults")
    assert seen == {
        "detail": f"storage: keeps nothing over a restart: can't use {folder}/it: {why}",
        "dropped": {"storage": 1},
        "kept": "digest-1",
        "sent": ["digest-1", "digest-2", "digest-2"],
        "state": "idle",
        "detail after": "",
        "noted after": "digest-2",
        "pending after": False,
    }
