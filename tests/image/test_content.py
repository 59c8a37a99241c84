"""What is in the image, and that it is the same each time. Only `make image-test` runs this."""

import os
import re
import tarfile
from collections.abc import Callable
from pathlib import PurePath

import pytest

from supply.lock import RUN_LOCK, normalised, parse_lock
from telemetryd import __version__
from tests.image.engine import REVISION, Engine, Entry

pytestmark = [pytest.mark.image, pytest.mark.timeout(1800)]

HOME = "opt/telemetryd/"


@pytest.fixture(scope="session")
def content(engine: Engine, image: str) -> dict[str, Entry]:
    return engine.files(image)


def test_two_builds_have_the_same_content(
    engine: Engine,
    images: tuple[str, str],
    content: dict[str, Entry],
    say: Callable[[str], None],
) -> None:
    other = engine.files(images[1])
    differing = {
        path for path in content.keys() | other.keys() if content.get(path) != other.get(path)
    }
    assert not differing
    first, second = (engine.layers(each) for each in images)
    assert first == second
    ours = [entry for path, entry in content.items() if path.startswith(HOME)]
    megabytes = (sum(entry.size for entry in each) / 1e6 for each in (ours, content.values()))
    say(f"\n{len(content)} entries alike, {len(first)} layers alike")
    say("{}: {:.0f} MB of {:.0f} MB".format(HOME, *megabytes))


def test_it_holds_just_what_is_locked(content: dict[str, Entry]) -> None:
    pattern = re.compile(
        rf"{HOME}lib/python[^/]*/site-packages/([^/]+)-([^/-]+)\.dist-info/METADATA"
    )
    found = {
        normalised(match[1]): match[2]
        for match in map(pattern.fullmatch, content)
        if match is not None
    }
    locked = {name: version for name, (version, _) in parse_lock(RUN_LOCK.read_text()).items()}
    assert found == {**locked, "telemetryd": __version__}


def test_nothing_is_left_that_installs_or_builds(content: dict[str, Entry]) -> None:
    folders = {path.rstrip("/") for path, entry in content.items() if entry.kind == tarfile.DIRTYPE}
    modules = {PurePath(path).name for path in folders}
    assert not modules & {"pip", "setuptools", "hatchling", "wheel", "ensurepip"}
    programs = {PurePath(path).name for path in content if PurePath(path).parent.name == "bin"}
    assert not programs & {"pip", "pip3", "gcc", "cc", "make"}
    assert {"cat", "tar"} <= programs, "by which snapshots are fetched"
    assert not [path for path in content if re.search(r"pip-[\d.]+.*\.whl$|\.cache/pip", path)]
    own = {
        PurePath(path).name for path in content if PurePath(path).parent == PurePath(HOME, "bin")
    }
    assert {name for name in own if not name.startswith("python")} == {"telemetryd"}
    assert not [path for path in content if path.startswith(("src/", "build/", "dist/"))]


def test_program_belongs_to_root_and_only_root_may_write(content: dict[str, Entry]) -> None:
    for path, entry in content.items():
        if path.startswith(HOME):
            assert (entry.uid, entry.gid) == (0, 0), path
            assert entry.kind == tarfile.SYMTYPE or not entry.mode & 0o6022, path
    owned = {path for path, entry in content.items() if 65532 in {entry.uid, entry.gid}}
    assert {path.rstrip("/") for path in owned} == {"var/lib/telemetryd"}
    assert content[owned.pop()].mode & 0o777 == 0o700


def test_modules_are_compiled_once_and_for_all(engine: Engine, image: str) -> None:
    # Flags of a .pyc (PEP 552): 1 is made of a hash, which isn't checked.
    code = (
        "import pathlib, sys, telemetryd.daemon.app, aiohttp;"
        "files = [module.__cached__ for module in sys.modules.values()"
        " if getattr(module, '__cached__', None) and '/opt/telemetryd/' in module.__cached__];"
        "print({pathlib.Path(file).read_bytes()[4:8].hex() for file in files}, len(files))"
    )
    told = engine.run("run", "--rm", "--read-only", "--entrypoint", "python", image, "-c", code)
    assert re.fullmatch(r"\{'01000000'\} \d{3,}", told.splitlines()[-1]), told


def test_it_starts_as_it_says(engine: Engine, image: str) -> None:
    config = engine.inspect("image", image)["Config"]
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["telemetryd"]
    assert config["Cmd"] == ["run"]
    assert config["StopSignal"] == "SIGTERM"
    labels = config["Labels"]
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.revision"] == REVISION
    assert engine.healthcheck(image) == ["telemetryd", "healthcheck"]
    said = engine.run("run", "--rm", "--read-only", "--cap-drop=all", image, "version")
    assert said.splitlines()[-3:-1] == [f"telemetryd {__version__}", f"revision {REVISION}"]


def test_certificates_of_the_system_are_there(engine: Engine, image: str) -> None:
    # Exporters that send over TLS take them unless ca_file names others.
    code = (
        "import os, ssl; paths = ssl.get_default_verify_paths();"
        "print(len(os.listdir(paths.capath)) if paths.capath else 0,"
        " os.path.getsize(paths.cafile) if paths.cafile else 0)"
    )
    told = engine.run("run", "--rm", "--entrypoint", "python", image, "-c", code)
    folder, file = map(int, told.splitlines()[-1].split())
    assert folder > 50 or file > 50_000, told


def test_it_works_as_any_user_in_an_empty_environment(engine: Engine, image: str) -> None:
    # OpenShift picks the user.
    told = engine.run(
        "run",
        "--rm",
        "--read-only",
        "--cap-drop=all",
        f"--user={os.getpid() + 100_000}:0",
        image,
        "check-config",
        "--offline",
    )
    assert told.splitlines()[-1].endswith("valid")
