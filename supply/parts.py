"""What telemetryd consists of beside itself: each distribution that it needs to run.

Read from the metadata of what is installed, and held to `requirements.lock`: what is installed in
another version than the locked one is no answer.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement

from supply.lock import RUN_LOCK, LockError, normalised, parse_lock

EXTRAS = ("postgresql",)
"""Optional parts of telemetryd, all of which are locked and installed."""


@dataclass(frozen=True, slots=True)
class Part:
    """One distribution.

    Attributes:
        name: As its author spells it.
        version: As locked.
        licence: An SPDX expression, or the words of its metadata.
        summary: One line, by its author.
        needs: Normalised names of the parts it needs itself.
    """

    name: str
    version: str
    licence: str
    summary: str
    needs: tuple[str, ...]


def needed_by(name: str, extras: Iterable[str] = ()) -> set[str]:
    """Normalised names of what an installed distribution needs directly, on this Python.

    Raises:
        LockError: It isn't installed.
    """
    try:
        lines = distribution(name).requires or []
    except PackageNotFoundError:
        raise LockError(f"{name} isn't installed here: run `make` with a fresh .venv") from None
    chosen = ["", *extras]
    found = (Requirement(line) for line in lines)
    return {
        normalised(each.name)
        for each in found
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in chosen)
    }


def closure(name: str, extras: Iterable[str] = ()) -> set[str]:
    """Normalised names of all that an installed distribution needs, at whatever remove.

    Raises:
        LockError: One of them isn't installed.
    """
    found: set[str] = set()
    waiting = needed_by(name, extras)
    while waiting:
        each = waiting.pop()
        found.add(each)
        waiting |= needed_by(each) - found
    return found


def parts() -> list[Part]:
    """Every locked distribution, by normalised name.

    Raises:
        LockError: One isn't installed here, in another version, or doesn't say its licence.
    """
    found = []
    for name, (version, _) in sorted(parse_lock(RUN_LOCK.read_text()).items()):
        needs = tuple(sorted(needed_by(name)))
        metadata = distribution(name).metadata
        if metadata["Version"] != version:
            raise LockError(f"{name} is {metadata['Version']} here, and {version} is locked")
        found.append(
            Part(metadata["Name"], version, licence_of(name), metadata["Summary"] or "", needs)
        )
    return found


def licence_of(name: str) -> str:
    """The licence of an installed distribution, as an SPDX expression.

    Raises:
        LockError: Its metadata has none.
    """
    metadata = distribution(name).metadata
    fields = (metadata.get_all(field) for field in ("License-Expression", "License"))
    told = next((str(values[0]) for values in fields if values), "")
    expression = _SPDX.get(told, told)
    if not _EXPRESSION.fullmatch(expression):
        raise LockError(f"{name} has no SPDX expression as its licence: {told!r}")
    return expression


_SPDX = {"Apache 2.0": "Apache-2.0"}
"""What older metadata has in their place."""

_EXPRESSION = re.compile(r"\(?[A-Z][\w.+-]*( (AND|OR|WITH) \(?[A-Z][\w.+-]*\)?)*\)?", re.ASCII)
