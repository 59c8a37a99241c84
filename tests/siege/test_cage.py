"""The limit that the daemon lives in during a siege."""

import subprocess
import sys

from tests.siege.cage import Cage, caged

MIB = 2**20
GREEDY = "held = bytearray(200 * 2**20); print(len(held))"


def test_process_over_the_limit_is_killed_and_counted_or_the_report_says_it_is_not() -> None:
    with caged(64 * MIB) as cage:
        ended = subprocess.run([*cage.under, sys.executable, "-c", GREEDY], check=False)
        if cage.kind == "none":
            assert ended.returncode == 0
            assert "not enforced" in cage.describe()
        else:
            assert ended.returncode != 0
            assert cage.kills() == 1
            assert "64 MiB" in cage.describe()
            assert cage.folder is not None
    assert cage.folder is None or not cage.folder.exists()


def test_process_within_the_limit_keeps_its_id_and_exit_status() -> None:
    said = "import os; print(os.getpid()); raise SystemExit(3)"
    with (
        caged(256 * MIB) as cage,
        subprocess.Popen(
            [*cage.under, sys.executable, "-c", said], stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        output, _ = process.communicate(timeout=60)
        assert int(output) == process.pid
        assert process.returncode == 3
        assert cage.kills() == 0


def test_without_a_cgroup_nothing_is_put_before_the_command() -> None:
    cage = Cage("none", None, 128 * MIB)
    assert cage.under == ()
    assert cage.peak_bytes() is None
    assert cage.kills() == 0
