"""A release is built from a base by digest and a committed tree, or not at all."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from telemetryd import __version__

ROOT = Path(__file__).parents[2]
DIGEST = "sha256:" + "0123456789abcdef" * 4
BASE = f"registry.example.com:5000/python:3.13-slim@{DIGEST}"
ENGINE = """#!/bin/sh
[ "$1" = --version ] && { echo "${KIND:-Docker} version 1"; exit; }
printf '%s\\n' "$@"
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A committed tree of what a release reads, and an engine that prints what it is given."""
    around = tmp_path_factory.mktemp("release")
    folder = around / "tree"
    for name in ("supply/release", "telemetryd/__init__.py", "Dockerfile"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.com")
    git(folder, *identity, "commit", "-qm", "Begin")
    (around / "engine").write_text(ENGINE)
    (around / "engine").chmod(0o755)
    return folder


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def release(tree: Path, base: str | None, **environ: str) -> subprocess.CompletedProcess[str]:
    named = {} if base is None else {"PYTHON_IMAGE": base}
    clean = {key: value for key, value in os.environ.items() if key != "PYTHON_IMAGE"}
    return subprocess.run(
        [tree / "supply" / "release"],
        env={**clean, "CONTAINER_ENGINE": str(tree.parent / "engine"), **named, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "base",
    [
        None,
        "",
        "python:3.13-slim",
        "python@sha256:",
        f"python:3.13-slim@{DIGEST[:-1]}",
        f"python:3.13-slim@{DIGEST}0",
        f"python:3.13-slim@{DIGEST.upper()}",
        f"@{DIGEST}",
        f"python @{DIGEST}",
        f"python@{DIGEST} --build-arg=X",
        f"python:3.13-slim\npython@{DIGEST}",
        f"python@sha512:{'0' * 128}",
    ],
)
def test_base_without_a_digest_is_refused_in_one_line(tree: Path, base: str | None) -> None:
    done = release(tree, base)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("supply/release: PYTHON_IMAGE must name its base by digest")
    assert "NAME@sha256:<64 hex digits>" in done.stderr
    assert done.stderr.count("\n") == 1 + (base or "").count("\n")


def test_changes_that_are_not_committed_are_refused(tree: Path) -> None:
    (tree / "stray.py").touch()
    done = release(tree, BASE)
    (tree / "stray.py").unlink()
    assert (done.returncode, done.stdout) == (1, "")
    assert "changes that are not committed" in done.stderr


def test_base_by_digest_is_built_as_it_is_named(tree: Path) -> None:
    done = release(tree, BASE)
    assert done.returncode == 0, done.stderr
    command = done.stdout.splitlines()
    assert command[0] == "build"
    assert command[-1] == "."
    values = [command[at + 1] for at, word in enumerate(command) if word == "--build-arg"]
    assert values == [
        f"PYTHON_IMAGE={BASE}",
        f"VERSION={__version__}",
        f"REVISION={git(tree, 'rev-parse', 'HEAD')}",
        f"SOURCE_DATE_EPOCH={git(tree, 'log', '-1', '--format=%ct')}",
    ]
    assert command[command.index("--tag") + 1] == f"telemetryd:{__version__}"
    assert "--format" not in command


def test_podman_keeps_the_check_of_health(tree: Path) -> None:
    command = release(tree, BASE, KIND="podman").stdout.splitlines()
    assert command[command.index("--format") + 1] == "docker"
    assert "--timestamp" in command
