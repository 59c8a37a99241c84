"""`supply/install` for real: from the index by hashes. Only `make install-test` runs this."""

import os
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from supply.lock import ROOT
from telemetryd import __version__
from tests.image.test_dockerfile import copied

pytestmark = [pytest.mark.index, pytest.mark.timeout(600)]


def install(folder: Path, tree: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [tree / "supply" / "install", folder],
        env={**os.environ, "PYTHON": sys.executable},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def content(folder: Path) -> dict[str, str]:
    """The digest of each file, or where a link leads, by path."""
    return {
        str(path.relative_to(folder)): (
            str(path.readlink()) if path.is_symlink() else sha256(path.read_bytes()).hexdigest()
        )
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def copy_of_tree(folder: Path) -> Path:
    """Only what goes to the builder of the image."""
    for name in copied():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target)
        else:
            shutil.copy(ROOT / name, target)
    return folder


def test_two_installations_are_alike_and_work(tmp_path: Path) -> None:
    # The same path: it is in scripts and in compiled modules.
    folder = tmp_path / "telemetryd"
    done = install(folder)
    assert done.returncode == 0, done.stdout
    first = content(folder)
    (folder / "left-behind").touch()
    done = install(folder, copy_of_tree(tmp_path / "tree"))
    assert done.returncode == 0, done.stdout
    assert content(folder) == first
    printed = subprocess.run(
        [folder / "bin" / "telemetryd", "--version"], capture_output=True, text=True, check=True
    )
    assert printed.stdout == f"telemetryd {__version__}\n"
    programs = {path.name for path in (folder / "bin").iterdir()}
    assert {name for name in programs if not name.startswith("python")} == {"telemetryd"}


def test_wheel_of_another_hash_is_refused_before_anything_is_touched(tmp_path: Path) -> None:
    tree = copy_of_tree(tmp_path / "tree")
    lock = tree / "requirements.lock"
    text = lock.read_text()
    digest = text.partition("attrs==")[2].partition("sha256:")[2][:64]
    lock.write_text(text.replace(digest, "0" * 64))
    folder = tmp_path / "telemetryd"
    folder.mkdir()
    (folder / "here-before").touch()
    done = install(folder, tree)
    assert done.returncode != 0
    assert "attrs" in done.stdout
    assert digest in done.stdout, "the hash that was got"
    assert (folder / "here-before").exists()


def test_folder_must_be_named() -> None:
    done = subprocess.run(
        [ROOT / "supply" / "install"], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "usage: supply/install FOLDER" in done.stderr
