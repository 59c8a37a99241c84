"""The history as JSON lines, for another store: a heading, then a line for each slot."""

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol
from uuid import UUID

import msgspec
import orjson

from telemetryd.bounds import VERSION_CHARS, free_text
from telemetryd.errors import HistoryError
from telemetryd.history.recorder import is_set
from telemetryd.history.report import SlotReader
from telemetryd.history.slots import SIZES, Cell, Gap, Slot

FORMAT: Final = "telemetryd-history"
VERSION: Final = 1
_LONGEST_LINE: Final = 1 << 20
_SERIES: Final = re.compile(r"[a-z]{1,16}(\.[A-Za-z0-9_-]{1,32}){1,3}")
_ROUNDED_S: Final = 0.001
_ROUNDED: Final = 1e-6
"""A mean of equal numbers can differ from them by the last digit."""


class _Heading(msgspec.Struct, frozen=True):
    format: str
    version: int


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    installation: str
    size: int
    start: int
    known: float
    complete: float
    whole: bool
    gaps: dict[Gap, float]
    version: str
    cells: dict[str, tuple[int, int | None, int | None, int | None, float | None]]


_DECODER: Final = msgspec.json.Decoder(_Line)


class History(SlotReader, Protocol):
    """A store, or that of a daemon."""

    def installations(self) -> list[str]:
        """The install UUIDs that there are days of, that with the latest one last."""


def describe_slot(installation: str, slot: Slot) -> dict[str, Any]:
    """A line of an export, as JSON types."""
    return {
        "installation": installation,
        "size": slot.size_s,
        "start": slot.start,
        "known": slot.known_s,
        "complete": slot.complete_s,
        "whole": slot.complete,
        "gaps": {str(gap): seconds for gap, seconds in slot.gaps.items()},
        "version": slot.version,
        "cells": {name: list(cell) for name, cell in sorted(slot.cells.items())},
    }


def slot_of(described: object) -> Slot:
    """The slot that ``describe_slot`` was given.

    Raises:
        ValueError: It is no such description.
    """
    return _slot(msgspec.convert(described, _Line))


def lines_of(store: History) -> Iterator[bytes]:
    """Every slot, the days before the hours before the minutes; each line ends with a break.

    Raises:
        HistoryError: The store can't be read.
    """
    yield orjson.dumps({"format": FORMAT, "version": VERSION}) + b"\n"
    for installation in store.installations():
        for size_s in reversed(SIZES):
            for slot in store.read(installation, size_s, 0, 2**62):
                yield orjson.dumps(describe_slot(installation, slot)) + b"\n"


def read_lines(place: Path) -> list[tuple[str, Slot]]:
    """The slots of a file, each with its installation.

    Raises:
        HistoryError: It can't be read, or isn't such a file; the message names the line.
    """
    try:
        with place.open("rb") as file:
            return list(_parse(place, file))
    except OSError as error:
        raise HistoryError(f"{place}: {error.strerror}") from error


def _parse(place: Path, lines: Any) -> Iterator[tuple[str, Slot]]:
    try:
        heading = msgspec.json.decode(lines.readline(_LONGEST_LINE), type=_Heading)
    except msgspec.MsgspecError:
        heading = _Heading("", 0)
    if heading.format != FORMAT:
        raise HistoryError(f"{place}: isn't an export of telemetryd's history")
    if heading.version != VERSION:
        raise HistoryError(
            f"{place}: has format {heading.version}, and this telemetryd reads {VERSION}: import it"
            " with the telemetryd that wrote it"
        )
    number = 1
    while line := lines.readline(_LONGEST_LINE):
        number += 1
        try:
            found = _DECODER.decode(line)
            _check(found)
            slot = _slot(found)
        except ValueError as error:
            raise HistoryError(f"{place}:{number}: {error}") from error
        yield found.installation, replace(slot, version=free_text(slot.version, VERSION_CHARS))


def _check(line: _Line) -> None:
    """Refuse what no telemetryd has written: from then on it would be in every report.

    Raises:
        ValueError: It says what is wrong.
    """
    lost_s = math.fsum(line.gaps.values())
    if not (line.installation.isprintable() and UUID(line.installation)):
        raise ValueError("installation isn't an install UUID")
    if not is_set(line.start):
        raise ValueError(f"no telemetryd counts at {line.start}: the years are 2020 to 2099")
    if not 0 <= line.complete <= line.known <= line.size:
        raise ValueError(f"of {line.size} s, {line.known} are known and {line.complete} complete")
    if min(line.gaps.values(), default=0) < 0 or lost_s > line.size + _ROUNDED_S:
        raise ValueError(f"gaps of {lost_s} s in {line.size} s")
    for name, cell in line.cells.items():
        if not _SERIES.fullmatch(name):
            raise ValueError(f"{free_text(name, 40)!r} is no series")
        if min(number for number in cell if number is not None) < 0:
            raise ValueError(f"a count of {name} is below 0")
        high, low, *within = cell
        if not all((number is None) is (low is None) for number in within):
            raise ValueError(f"{name} has a part of lowest, first, last and mean")
        if low is not None and not all(
            low - _ROUNDED <= (number or 0) <= high + _ROUNDED for number in (low, *within)
        ):
            raise ValueError(f"{name} isn't between {low} and {high}")


def _slot(line: _Line) -> Slot:
    return Slot(
        line.size,
        line.start,
        line.known,
        line.complete,
        line.whole,
        line.gaps,
        line.version,
        {name: Cell(*cell) for name, cell in line.cells.items()},
    )
