"""The Dockerfile and what goes to its builder, without a container engine."""

import re
import shlex
import tomllib
from pathlib import Path

from telemetryd import __version__

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
_JOINED = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", "")
INSTRUCTIONS = re.findall(r"^([A-Z]+) (.*)$", _JOINED, re.MULTILINE)
LABEL = "org.opencontainers.image."


def arguments(instruction: str) -> list[str]:
    return [rest for name, rest in INSTRUCTIONS if name == instruction]


def copied() -> set[str]:
    """What is copied out of the tree, and not from the first stage."""
    words = [rest.split() for rest in arguments("COPY") if not rest.startswith("--from=")]
    return {source for *sources, _ in words for source in sources}


def allowed() -> list[str]:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_builder_gets_just_what_is_copied() -> None:
    first, *rest = allowed()
    assert first == "**", "all is left out but what is named"
    assert {line.removeprefix("!") for line in rest if line.startswith("!")} == copied()
    assert [line for line in rest if not line.startswith("!")] == ["**/__pycache__"]
    for name in copied():
        assert (ROOT / name).exists(), name


def test_builder_gets_all_that_the_installation_reads() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    hatch = project["tool"]["hatch"]
    readme = hatch["metadata"]["hooks"]["fancy-pypi-readme"]["fragments"]
    named = {*project["project"]["license-files"], *(each["path"] for each in readme)}
    named |= set(hatch["build"]["targets"]["wheel"]["packages"])
    script = (ROOT / "supply" / "install").read_text()
    named |= set(re.findall(r"-r (\S+\.lock)", script))
    assert named | {"pyproject.toml", "supply/install"} == copied()


def test_every_file_of_an_index_is_a_wheel_held_to_its_hash() -> None:
    script = (ROOT / "supply" / "install").read_text().replace("\\\n", "")
    calls = [
        line
        for line in script.splitlines()
        if line.startswith("install_into ")
        or "pip --disable-pip-version-check --quiet download" in line
    ]
    assert len(calls) == 4
    for line in calls:
        from_index = "--require-hashes --only-binary :all:" in line
        assert from_index != ("--no-index" in line), line
    assert not [line for line in arguments("RUN") if "pip install" in line]


def test_labels_tell_what_the_project_tells() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (labels,) = arguments("LABEL")
    found = dict(word.split("=", 1) for word in shlex.split(labels))
    assert found == {
        f"{LABEL}title": project["name"],
        f"{LABEL}description": project["description"],
        f"{LABEL}version": "${VERSION}",
        f"{LABEL}revision": "${REVISION}",
        f"{LABEL}licenses": project["license"],
        f"{LABEL}base.name": "${PYTHON_IMAGE}",
    }
    assert f"VERSION={__version__}" in arguments("ARG")


def test_it_runs_as_a_numbered_user_by_exec_with_a_check() -> None:
    assert arguments("USER") == ["65532:65532"]
    assert arguments("ENTRYPOINT") == ['["telemetryd"]']
    assert arguments("CMD") == ['["run"]']
    assert arguments("STOPSIGNAL") == ["SIGTERM"]
    (check,) = arguments("HEALTHCHECK")
    assert check.endswith('CMD ["telemetryd", "healthcheck"]')


def test_installation_gets_the_commit_from_the_builder() -> None:
    build = DOCKERFILE.partition("\nFROM ${PYTHON_IMAGE}\n")[0]
    assert "\nARG REVISION\n" in build, "as a variable of supply/install"


def test_both_stages_run_on_the_same_python() -> None:
    assert arguments("FROM") == ["${PYTHON_IMAGE} AS build", "${PYTHON_IMAGE}"]
    assert "PYTHON_IMAGE=python:3.13-slim" in arguments("ARG")
