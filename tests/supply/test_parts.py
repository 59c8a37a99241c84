"""The list of licences and the bill of materials: current, valid, and the same each time."""

import copy
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from supply import licences
from supply.lock import ROOT, RUN_LOCK, LockError, parse_lock
from supply.parts import closure, licence_of, needed_by, parts
from supply.sbom import WHEEL_PROPERTY
from telemetryd import __version__

LOCK = parse_lock(RUN_LOCK.read_text())


@cache
def bill(_time: int = 1) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "supply.sbom"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_page_of_licences_is_current() -> None:
    assert licences.PAGE.read_text() == licences.render(parts()), "run `make licences`"


def test_every_licence_is_an_spdx_expression_that_may_be_used() -> None:
    words = {"AND", "OR", "WITH"}
    names = {
        word.strip("()") for each in parts() for word in each.licence.split() if word not in words
    }
    # Each of these may be shipped beside Apache-2.0; another one is a decision to take.
    known = {"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "MIT", "MPL-2.0", "PSF-2.0"}
    assert names <= known


def test_bill_is_valid_by_the_schema_of_cyclonedx() -> None:
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    document = copy.deepcopy(bill())
    assert validator.validate_str(json.dumps(document)) is None
    del document["components"][0]["name"]
    assert validator.validate_str(json.dumps(document)) is not None


def test_bill_holds_each_locked_wheel_and_who_needs_whom() -> None:
    document = bill()
    assert document["metadata"]["component"]["version"] == __version__
    found = {each["purl"]: each for each in document["components"]}
    assert set(found) == {f"pkg:pypi/{name}@{version}" for name, (version, _) in LOCK.items()}
    for name, (version, hashes) in LOCK.items():
        properties = found[f"pkg:pypi/{name}@{version}"]["properties"]
        assert {each["value"] for each in properties if each["name"] == WHEEL_PROPERTY} == hashes
    depends = {each["ref"]: each["dependsOn"] for each in document["dependencies"]}
    root = document["metadata"]["component"]["bom-ref"]
    assert set(depends) == {root, *found}
    assert {each for needs in depends.values() for each in needs} == set(found)


def test_bill_is_the_same_each_time() -> None:
    assert bill() == bill(2)


def test_distribution_that_is_not_installed_is_named() -> None:
    with pytest.raises(LockError, match="nonexistent-thing isn't installed"):
        needed_by("nonexistent-thing")


@pytest.mark.parametrize("field", ["", "License: see the file\n", "License: GPL v3 or so\n"])
def test_licence_that_is_no_expression_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    folder = tmp_path / "odd-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: odd\nVersion: 1\n{field}")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(LockError, match="odd has no SPDX expression"):
        licence_of("odd")


def test_closure_follows_what_is_needed_indirectly() -> None:
    assert "tzdata" in closure("telemetryd")
    assert "tzdata" not in needed_by("telemetryd")
