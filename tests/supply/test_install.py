"""`supply/install` for real: from the index by hashes. Only `make install-test` runs this."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from hashlib import sha256
from pathlib import Path

import pytest

from supply.lock import ROOT
from telemetryd import __version__
from tests.image.test_dockerfile import copied
from tests.supply.conftest import pythons_of_classifiers

REVISION = "0123456789abcdef0123456789abcdef01234567"
HOME = "/opt/telemetryd"
INSTALLED = {
    "etc/systemd/system/telemetryd.service",
    "usr/bin/telemetryd",
    "usr/local/share/bash-completion/completions/telemetryd",
    "usr/local/share/fish/vendor_completions.d/telemetryd.fish",
    "usr/local/share/man/man1/telemetryd.1",
    "usr/local/share/zsh/site-functions/_telemetryd",
}
"""What `make install` puts outside of its own folder."""
PYTHONS = pythons_of_classifiers()

pytestmark = [pytest.mark.index, pytest.mark.timeout(1800)]


def install(
    folder: Path, tree: Path = ROOT, python: str = sys.executable, **environ: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [tree / "supply" / "install", folder],
        env={**os.environ, "PYTHON": python, "REVISION": REVISION, **environ},
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


def flags_of_bytecode(folder: Path) -> set[str]:
    """Of what belongs to each module of telemetryd; empty for one that is not compiled."""
    (package,) = folder.glob("lib/python3*/site-packages/telemetryd")
    return {
        compiled.read_bytes()[4:8].hex() if compiled else ""
        for source in package.rglob("*.py")
        for compiled in [next((source.parent / "__pycache__").glob(f"{source.stem}.*.pyc"), None)]
    }


def find_python(version: str) -> str:
    """That Python, on PATH or where pyenv has it."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found = shutil.which(f"python{version}")
    of_pyenv = map(str, pyenv.glob(f"versions/{version}.*/bin/python"))
    for program in (*([found] if found else []), *of_pyenv):
        done = subprocess.run([program, "-V"], capture_output=True, text=True, check=False)
        if done.stdout.startswith(f"Python {version}."):
            return program
    pytest.skip(f"no Python {version} here")


def test_make_install_below_a_folder_is_the_same_each_time(tmp_path: Path) -> None:
    # The unit can't run one in a home folder, and `make install` follows the link.
    python = os.path.realpath("/usr/bin/python3")
    first, second = tmp_path / "first", tmp_path / "second-and-longer"
    done = install(Path(HOME), python=python, DESTDIR=str(first))
    assert done.returncode == 0, done.stdout
    below = second / HOME[1:]
    below.mkdir(parents=True)
    (below / "left-behind").touch()
    environ = {**os.environ, "REVISION": REVISION, "MAKEFLAGS": ""}
    command = ["make", "--no-print-directory", f"DESTDIR={second}", f"PYTHON={python}"]
    subprocess.run([*command, "install"], cwd=ROOT, env=environ, check=True)
    assert content(below) == content(first / HOME[1:])
    assert {path for path in content(second) if not path.startswith(HOME[1:])} == INSTALLED
    assert (second / "usr/bin/telemetryd").readlink() == Path(HOME, "bin/telemetryd")
    assert (second / "etc/telemetryd").is_dir()
    programs = {path.name for path in (below / "bin").iterdir()}
    assert {name for name in programs if not name.startswith("python")} == {"telemetryd"}
    subprocess.run([*command, "uninstall"], cwd=ROOT, env=environ, check=True)
    assert content(second) == {}


@pytest.mark.parametrize("version", PYTHONS)
def test_installation_runs_the_whole_daemon_on_each_python(version: str, tmp_path: Path) -> None:
    folder = tmp_path / "telemetryd"
    done = install(folder, copy_of_tree(tmp_path / "tree"), python=find_python(version))
    assert done.returncode == 0, done.stdout
    program = folder / "bin" / "telemetryd"
    done = subprocess.run([program, "version"], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[:2] == [f"telemetryd {__version__}", f"revision {REVISION}"]
    assert lines[2].startswith(f"Python {version}.")
    assert flags_of_bytecode(folder) == {"01000000"}  # PEP 552: by a hash that isn't checked
    with subprocess.Popen(
        [program, "demo", "--duration", "0s"],
        env={"PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        text=True,
    ) as demo:
        try:
            assert demo.stdout is not None
            said = ""
            while "exported" not in said:
                line = demo.stdout.readline()
                assert line, "it ended"
                said += line
            (metrics,) = re.findall(r"http://\S+/metrics", said)
            with urllib.request.urlopen(metrics, timeout=60) as reply:
                text = reply.read().decode()
            demo.terminate()
            summary = json.loads(demo.stdout.read().splitlines()[-1])
        finally:
            demo.kill()
    assert demo.returncode == 0
    assert summary["exports"] >= 1
    (info,) = re.findall(r"(?m)^telemetryd_build_info\{(.*)\} 1", text)
    assert f'revision="{REVISION}"' in info
    assert f'python_version="{version}.' in info


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


def test_folder_must_be_named_by_its_whole_path() -> None:
    for arguments, said in (
        ([], "usage: supply/install FOLDER"),
        (["telemetryd"], "telemetryd must be an absolute path"),
    ):
        done = subprocess.run(
            [ROOT / "supply" / "install", *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode != 0
        assert said in done.stderr
