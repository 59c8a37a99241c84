"""Two releases of what the tree holds now, built one after the other in two folders."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from supply.lock import ROOT
from tests.charts.conftest import find_or_skip

_IDENTITY = ("-c", "user.name=t", "-c", "user.email=t@example.com")


def pythons_of_classifiers() -> list[str]:
    """The Pythons that the classifiers name, the oldest first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = (
        re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", each)
        for each in project["classifiers"]
    )
    return [match[1] for match in found if match]


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def committed_copy(folder: Path) -> Path:
    """A repository with one commit of every file of the tree that git doesn't ignore."""
    listed = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, *_IDENTITY, "commit", "-qm", "Begin")
    return folder


def run_release(tree: Path, **environ: str) -> "subprocess.CompletedProcess[str]":
    """What `make release` runs, in that tree."""
    names = ("PYTHON_IMAGE", "CONTAINER_ENGINE", "PLATFORMS", "IMAGE", "DEB")
    clean = {name: value for name, value in os.environ.items() if name not in names}
    return subprocess.run(
        [sys.executable, "-m", "supply.release"],
        cwd=tree,
        env=clean | environ,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the tree holds now, committed."""
    return committed_copy(tmp_path_factory.mktemp("release") / "tree")


@pytest.fixture(scope="session")
def releases(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """`dist/` of two releases of one commit: in other folders, time zones and hash seeds."""
    if shutil.which("dh") is None:
        assert not os.environ.get("CI"), ".ci/run installs debhelper"
        pytest.skip("no debhelper here")
    other = tmp_path_factory.mktemp("another-and-longer-name") / "clone"
    git(tree, "clone", "-q", str(tree), str(other))
    helm = str(find_or_skip(4))
    for folder, zone, seed in ((tree, "UTC", "1"), (other, "Asia/Kathmandu", "2")):
        done = run_release(folder, HELM=helm, IMAGE="no", TZ=zone, PYTHONHASHSEED=seed)
        assert done.returncode == 0, done.stderr
    return tree / "dist", other / "dist"
