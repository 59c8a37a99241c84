"""Writes the locks: which files an installation may consist of, by their hashes.

`requirements.lock` holds what telemetryd needs to run, with all that is optional, and
`requirements-build.lock` what makes a wheel of it. The versions are those of `constraints.txt`,
which stays their one source; pip resolves and names the hashes, by whatever index it is configured
with, and downloads nothing.

    python -m supply.lock
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUN_LOCK = ROOT / "requirements.lock"
BUILD_LOCK = ROOT / "requirements-build.lock"
CONSTRAINTS = ROOT / "constraints.txt"

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
MACHINES = ("x86_64", "aarch64")
_GLIBCS = range(41, 16, -1)
"""Minor versions of glibc 2 that a wheel may ask for, the newest first, as pip prefers them:
2.41 is Debian 13's; no wheel in use asks for less than 2.17 alone."""

_PINNED = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})(?= |$)", re.MULTILINE)
_HEADER = """\
# {what}
# Wheels of CPython {pythons} for Linux with glibc on {machines}. The versions are those of
# constraints.txt; `make lock` writes this file anew.
"""
_RUN = "What telemetryd needs to run, each file by its hash."
_BUILD = "What makes a wheel of telemetryd, each file by its hash."

Lock = dict[str, tuple[str, frozenset[str]]]
"""By normalised name: the version, and the SHA-256 of every wheel that may be installed."""


class LockError(Exception):
    """What is to be locked can't be."""


def normalised(name: str) -> str:
    """A distribution's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse_pins(text: str) -> dict[str, str]:
    """Versions by normalised name, of a file with lines `name==version`, hashes or not."""
    found = (_PINNED.match(line) for line in text.splitlines())
    return {normalised(match["name"]): match["version"] for match in found if match}


def parse_lock(text: str) -> Lock:
    """The lock that `render` wrote."""
    joined = text.replace("\\\n", "")
    lines = [line for line in joined.splitlines() if _PINNED.match(line)]
    return {
        name: (version, frozenset(_HASH.findall(line)))
        for line in lines
        for name, version in parse_pins(line).items()
    }


def render(lock: Lock, what: str) -> str:
    """The lock as a requirements file, the same bytes for the same lock."""
    pythons, machines = f"{PYTHONS[0]} to {PYTHONS[-1]}", " and ".join(MACHINES)
    lines = [_HEADER.format(what=what, pythons=pythons, machines=machines).rstrip()]
    for name, (version, hashes) in sorted(lock.items()):
        lines.append(" \\\n".join([f"{name}=={version}", *(_options(hashes))]))
    return "\n".join(lines) + "\n"


def _options(hashes: Iterable[str]) -> Iterator[str]:
    return (f"    --hash=sha256:{each}" for each in sorted(hashes))


def merged(reports: Iterable[Mapping[str, tuple[str, str]]], pins: Mapping[str, str]) -> Lock:
    """One lock of what was resolved for each platform.

    Args:
        reports: Version and SHA-256 by normalised name, one for each platform.
        pins: The versions that must be meant.

    Raises:
        LockError: A distribution without a pin, or of another version than its pin.
    """
    hashes: defaultdict[str, set[str]] = defaultdict(set)
    for report in reports:
        for name, (version, sha256) in report.items():
            if pins.get(name) != version:
                raise LockError(
                    f"{name} {version} is needed, and constraints.txt has"
                    f" {pins.get(name, 'no line for it')}: put {name}=={version} there"
                )
            hashes[name].add(sha256)
    return {name: (pins[name], frozenset(found)) for name, found in hashes.items()}


def resolved(requirements: Iterable[str], python: str, machine: str) -> dict[str, tuple[str, str]]:
    """What pip would install of these on that platform: version and SHA-256 by normalised name.

    Markers are judged by the Python that runs, of which older ones need more, never less.

    Raises:
        LockError: pip can't resolve it, such as where a wheel is missing.
    """
    tags = [f"manylinux_2_{minor}_{machine}" for minor in _GLIBCS]
    tags += [f"manylinux2014_{machine}", f"manylinux1_{machine}"]
    with tempfile.TemporaryDirectory() as folder:
        options = ["--dry-run", "--quiet", "--report=-", "--ignore-installed", "--target", folder]
        options += ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}"]
        options += [f"--platform={tag}" for tag in tags]
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", *options, "-c", CONSTRAINTS, *requirements],
            # Local folders of wheels may hold others than everybody's.
            env={**os.environ, "PIP_FIND_LINKS": "", "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise LockError(f"pip for Python {python} on {machine}:\n{done.stderr.strip()}")
    return {
        normalised(each["metadata"]["name"]): (
            each["metadata"]["version"],
            each["download_info"]["archive_info"]["hashes"]["sha256"],
        )
        for each in json.loads(done.stdout)["install"]
    }


def main() -> None:
    """Write both locks."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    optional = project["project"]["optional-dependencies"]
    pins = parse_pins(CONSTRAINTS.read_text())
    for file, what, requirements in (
        (RUN_LOCK, _RUN, [*project["project"]["dependencies"], *optional["postgresql"]]),
        (BUILD_LOCK, _BUILD, project["build-system"]["requires"]),
    ):
        platforms = [(python, machine) for python in PYTHONS for machine in MACHINES]
        lock = merged((resolved(requirements, *each) for each in platforms), pins)
        file.write_text(render(lock, what))
        count = sum(len(hashes) for _, hashes in lock.values())
        sys.stderr.write(f"{file.name}: {len(lock)} distributions, {count} files\n")


if __name__ == "__main__":
    try:
        main()
    except LockError as error:
        sys.exit(f"supply.lock: {error}")
