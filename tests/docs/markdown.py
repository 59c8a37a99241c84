"""Markdown as the pages have it: what is read of one, and tables to write."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]

_READER = MarkdownIt("commonmark").enable("table")
_NOT_OURS = {"node_modules", "screenshots"}


@dataclass(frozen=True, slots=True)
class Link:
    """A link or picture, and the line of the page where its paragraph begins."""

    target: str
    line: int


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language, lines, and the line of the page where its content begins."""

    language: str
    lines: tuple[str, ...]
    line: int


def pages() -> list[str]:
    """Every page of the project, by its path in it."""
    found = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [each for each in folders if each[0] != "." and each not in _NOT_OURS]
        found += [Path(folder, each) for each in files if each.endswith(".md") and each[0] != "."]
    return sorted(str(path.relative_to(ROOT)) for path in found)


def links(text: str) -> Iterator[Link]:
    """Every link and picture of a page."""
    for token, line in _inlines(text):
        for child in token.children or ():
            target = child.attrs.get("href") or child.attrs.get("src")
            if target:
                yield Link(str(target), line)


def anchors(text: str) -> set[str]:
    """What a link may name after ``#`` on a page: its headings, as code hosts name them."""
    found: set[str] = set()
    seen: Counter[str] = Counter()
    tokens = _READER.parse(text)
    for token, inline in pairwise(tokens):
        if token.type == "heading_open":
            slug = re.sub(r"[^\w\- ]", "", _plain(inline).lower()).replace(" ", "-")
            found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
    return found


def blocks(text: str) -> Iterator[Block]:
    """Every fenced block of a page."""
    for token in _READER.parse(text):
        if token.type == "fence" and token.map:
            lines = tuple(token.content.splitlines())
            yield Block(token.info.strip(), lines, token.map[0] + 2)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, and an empty line after it; what would end a cell is escaped."""
    lines = [_line(headings), "|---" * len(headings) + "|", *map(_line, rows)]
    return "\n".join((*lines, ""))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _inlines(text: str) -> Iterator[tuple[Token, int]]:
    line = 1
    for token in _READER.parse(text):
        line = token.map[0] + 1 if token.map else line
        if token.type == "inline":
            yield token, line


def _plain(inline: Token) -> str:
    return "".join(child.content for child in inline.children or ())
