"""The locks: true to constraints.txt and to what is needed, and written the same each time."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from supply.lock import (
    BUILD_LOCK,
    CONSTRAINTS,
    MACHINES,
    PYTHONS,
    ROOT,
    RUN_LOCK,
    LockError,
    merged,
    normalised,
    parse_lock,
    parse_pins,
    render,
    resolved,
)
from supply.parts import EXTRAS, closure

A, B = "a" * 64, "b" * 64
PINS = parse_pins(CONSTRAINTS.read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def with_all_they_need(requirements: list[str]) -> set[str]:
    """Normalised names of these and of what they need."""
    found = [Requirement(line) for line in requirements]
    needed = set().union(*(closure(each.name, each.extras) for each in found))
    return needed | {normalised(each.name) for each in found}


@pytest.mark.parametrize("file", [RUN_LOCK, BUILD_LOCK], ids=lambda file: file.name)
def test_lock_has_the_versions_of_constraints_and_a_hash_for_each(file: Path) -> None:
    lock = parse_lock(file.read_text())
    assert lock
    for name, (version, hashes) in lock.items():
        assert PINS[name] == version, f"{name}: run `make lock`"
        assert 1 <= len(hashes) <= len(PYTHONS) * len(MACHINES), name


def test_run_lock_has_just_what_telemetryd_needs() -> None:
    assert set(parse_lock(RUN_LOCK.read_text())) == closure("telemetryd", EXTRAS), "run `make lock`"


def test_build_lock_has_just_what_a_build_needs() -> None:
    locked = set(parse_lock(BUILD_LOCK.read_text()))
    assert locked == with_all_they_need(PROJECT["build-system"]["requires"]), "run `make lock`"


def test_constraints_pin_all_that_the_tools_need() -> None:
    needed = with_all_they_need(PROJECT["dependency-groups"]["dev"]) | {"pip"}
    assert needed <= set(PINS), f"constraints.txt lacks {sorted(needed - set(PINS))}"


def test_compiled_distributions_have_a_wheel_for_every_platform() -> None:
    lock = parse_lock(RUN_LOCK.read_text())
    platforms = len(PYTHONS) * len(MACHINES)
    assert len(lock["orjson"][1]) == platforms
    assert len(lock["msgspec"][1]) == platforms
    assert len(lock["anyio"][1]) == 1


def test_files_are_written_as_they_are_read() -> None:
    for file in (RUN_LOCK, BUILD_LOCK):
        text = file.read_text()
        what = text.partition("\n")[0].removeprefix("# ")
        assert render(parse_lock(text), what) == text


def test_wheels_of_all_platforms_are_merged_by_name() -> None:
    reports = [{"x": ("1", B), "y": ("2", A)}, {"x": ("1", A), "y": ("2", A)}]
    lock = merged(reports, {"x": "1", "y": "2", "z": "3"})
    assert lock == {"x": ("1", frozenset({A, B})), "y": ("2", frozenset({A}))}
    lines = render(lock, "Two.").splitlines()
    assert lines[0] == "# Two."
    assert lines[-5:] == [
        "x==1 \\",
        f"    --hash=sha256:{A} \\",
        f"    --hash=sha256:{B}",
        "y==2 \\",
        f"    --hash=sha256:{A}",
    ]


@pytest.mark.parametrize("pins", [{}, {"x": "2"}])
def test_what_is_pinned_otherwise_or_not_is_named(pins: dict[str, str]) -> None:
    with pytest.raises(LockError, match=r"put x==1 there"):
        merged([{"x": ("1", A)}], pins)


def test_what_cannot_be_resolved_is_reported_with_the_platform(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(LockError, match=r"Python 3\.13 on aarch64:\n(.|\n)*telemetryd-has-no-such"):
        resolved(["telemetryd-has-no-such"], "3.13", "aarch64")
