"""The table of a profile."""

import cProfile
import select
from pathlib import Path

from benchmarks.hotspots import render


def test_functions_are_shown_by_their_own_time_without_waiting(tmp_path: Path) -> None:
    profile = cProfile.Profile()
    with profile, select.epoll() as waiting:
        waiting.poll(0.01)
        sorted(range(100_000), key=lambda number: -number)
    profile.dump_stats(tmp_path / "profile")
    rows = [line for line in render(tmp_path / "profile").splitlines() if line.startswith("| ")][2:]
    own_ms = [int(row.split("|")[1]) for row in rows]
    assert own_ms == sorted(own_ms, reverse=True)
    assert any("<lambda>" in row for row in rows)
    assert not any("method 'poll'" in row for row in rows)
