"""Commands whose standard streams are closed, full or broken: a clear status, and no traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.starter import shell_command

ROOT = Path(__file__).parents[1]
BAD_CONFIG = "check-config --config /there/is/none"
CLOSED, FULL = "Bad file descriptor", "No space left on device"
LONG = pytest.mark.long


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """A shell line with ``telemetryd`` in it; its own stdout and stderr, read to the end."""
    command = line.replace("telemetryd", shell_command())
    return subprocess.run(
        ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("redirect", "arguments", "status"),
    [
        ("2>&-", "x", 64),
        ("2>/dev/full", "run --config /there/is/none", 78),
        ("2>&- >&- <&-", BAD_CONFIG, 78),
        pytest.param("2>&-", BAD_CONFIG, 78, marks=LONG),
        pytest.param("2>&-", "run --config /there/is/none", 78, marks=LONG),
        pytest.param("2>/dev/full", BAD_CONFIG, 78, marks=LONG),
        pytest.param("2>/dev/full", "x", 64, marks=LONG),
        pytest.param("2>&- >&- <&-", "run --config /there/is/none", 78, marks=LONG),
        pytest.param("2>&- >&- <&-", "x", 64, marks=LONG),
    ],
)
def test_stderr_that_cant_be_written_leaves_the_exit_status(
    redirect: str, arguments: str, status: int
) -> None:
    assert shell(f"telemetryd {arguments} {redirect}").returncode == status


def test_stderr_whose_reader_has_left_leaves_the_exit_status() -> None:
    done = shell(f"telemetryd {BAD_CONFIG} 2>&1 >/dev/null | true; exit ${{PIPESTATUS[0]}}")
    assert done.returncode == 78


def test_valid_configuration_is_valid_with_stderr_closed() -> None:
    done = shell("telemetryd check-config --offline 2>&-")
    assert (done.returncode, done.stdout) == (0, "defaults: valid\n")


@pytest.mark.parametrize(
    ("arguments", "redirect", "why"),
    [
        ("schema", ">&-", CLOSED),
        ("check-config --offline", ">/dev/full", FULL),
        pytest.param("--version", ">&-", CLOSED, marks=LONG),
        pytest.param("check-config --offline", ">&-", CLOSED, marks=LONG),
        pytest.param("schema", ">/dev/full", FULL, marks=LONG),
        ("--version", ">/dev/full", FULL),
    ],
)
def test_stdout_that_cant_be_written_is_one_complaint(
    arguments: str, redirect: str, why: str
) -> None:
    done = shell(f"telemetryd {arguments} {redirect}")
    assert done.returncode == 1
    assert done.stderr == f"telemetryd: standard output can't be written: {why}\n"


def test_stdout_whose_reader_has_left_needs_no_words() -> None:
    done = shell("(sleep 0.1; telemetryd schema) | true; exit ${PIPESTATUS[0]}")
    assert (done.returncode, done.stderr) == (1, "")


def test_numbers_of_closed_streams_are_given_to_no_other_file(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys\n"
        "from telemetryd.standardstreams import prepare_streams\n"
        "prepare_streams()\n"
        "sys.exit(os.open(os.devnull, os.O_RDONLY))\n"
    )
    done = shell(f"PYTHONPATH=. {sys.executable} {program} <&- >&- 2>&-")
    assert done.returncode > 2
