"""Finds on which line of a TOML text each key and table stands; ``tomllib`` doesn't say it.

The text must be valid TOML. What stands in an inline table or an array has the line of its key.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

Path: TypeAlias = tuple[str | int, ...]
"""Names of tables and of the key; the index of a table in an array of tables."""

_PIECE: Final = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}(?!")'
    r"|'''.*?'{3,5}(?!')"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*"
    r"|[\[\]{}\n]"
    r"|[^\"'#\[\]{}\n]+"
    r"|.",
    re.DOTALL,
)
_NAME: Final = r"""(?:[A-Za-z0-9_-]+|"(?:\\.|[^"\\\n])*"|'[^'\n]*')"""
_DOTTED: Final = rf"{_NAME}(?:[ \t]*\.[ \t]*{_NAME})*"
_HEAD: Final = re.compile(rf"(\[\[?)[ \t]*({_DOTTED})[ \t]*\]")
_KEY: Final = re.compile(rf"({_DOTTED})[ \t]*=")
_NAMES: Final = re.compile(_NAME)


def find_lines(text: str) -> dict[Path, int]:
    """The line of each key and of each table's head, counted from 1."""
    found: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    table: Path = ()
    for number, statement in _statements(text):
        if head := _HEAD.match(statement):
            names = _split(head[2])
            table = _resolve(names, counts, appends=len(head[1]) > 1)
            found.setdefault(table, number)
        elif key := _KEY.match(statement):
            found.setdefault((*table, *_split(key[1])), number)
    return found


def line_of(path: Path, lines: Mapping[Path, int]) -> int:
    """The line of a key, else of the nearest table around it; 0 where there is none."""
    return next((lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in lines), 0)


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Each statement with its first line; it ends with a line, outside of brackets and strings."""
    number, depth = 1, 0
    first, parts = 1, [""]
    for match in _PIECE.finditer(text.replace("\r\n", "\n")):
        piece = match[0]
        if piece == "\n" and depth == 0:
            yield first, "".join(parts).strip()
            parts = []
        elif not piece.startswith("#"):
            depth += (piece in "[{") - (piece in "]}")
            parts.append(piece)
        number += piece.count("\n")
        if not parts:
            first = number
    yield first, "".join(parts).strip()


def _resolve(names: tuple[str, ...], counts: dict[Path, int], *, appends: bool) -> Path:
    """The path of a table by its head; the parts that are arrays have the index of their last."""
    path: Path = ()
    for position, name in enumerate(names, 1):
        path = (*path, name)
        if appends and position == len(names):
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    return path


def _split(dotted: str) -> tuple[str, ...]:
    return tuple(_bare(found[0]) for found in _NAMES.finditer(dotted))


def _bare(name: str) -> str:
    if name.startswith('"'):
        try:
            return str(json.loads(name))
        except ValueError:
            return name[1:-1]
    return name.strip("'")
