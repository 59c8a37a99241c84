"""Tests of the exporter, by telemetryd's test kit and pytest."""

import asyncio
from pathlib import Path

from telemetryd.api import ExporterState, ExporterStatus, Reason
from telemetryd.api.testing import check_exporter, driving, make_exporter
from telemetryd_exporter_example import LINES


def test_lines_exporter_keeps_the_contract(tmp_path: Path) -> None:
    file = tmp_path / "payloads.jsonl"
    check = check_exporter(
        LINES,
        {"path": str(file)},
        delivered=lambda: file.read_bytes() if file.exists() else b"",
        failing=[{"path": str(tmp_path)}, {"path": "/nonexistent/file"}, {"path": "/dev/full"}],
        refused=[{"path": "payloads.jsonl"}, {"sync": "yes"}, {"paths": "/x"}],
    )
    asyncio.run(check)


def test_full_disk_is_tried_again_within_the_run() -> None:
    async def run() -> tuple[int, ExporterStatus]:
        exporter = make_exporter(LINES, {"path": "/dev/full"})
        async with driving(exporter, retry_budget_s=0.2) as drive:
            status = await drive.run()
            return len(drive.calls), status

    attempts, status = asyncio.run(run())
    assert attempts > 1
    assert (status.state, status.last_error_reason) == (ExporterState.FAILED, Reason.STORAGE)
