"""The frame of a page and its parts: sections, lists of names and values, tables.

Roles repeat the meaning of the elements: narrow screens show a table of records as cards, and in
browsers an element loses its meaning with its ``display``.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from telemetryd.serve.page.markup import Child, Markup, join, quiet, render_count, tag
from telemetryd.serve.page.notes import MOST_NOTES, Note, Overview, Tone
from telemetryd.serve.page.style import ICON, STYLE

LONGEST_NAME: Final = 40
"""Of a record in the first column; a longer one has a row of its own above the cells."""

LONGEST_CELL: Final = 60
"""A longer text gets the whole width beneath the cells."""


def document(title: str, *body: Child) -> str:
    """A whole page."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{title} · telemetryd"),
        tag("link", rel="icon", href=ICON),
        tag("style", Markup(STYLE)),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', *body), lang='en')}\n"


def masthead(about: str, links: Iterable[tuple[str, str]], *facts: Child) -> Markup:
    """The head of a page: what it is about, where else to go (address and text), and since when."""
    listed = (tag("li", tag("a", text, href=target)) for target, text in links)
    return tag(
        "header",
        tag(
            "div",
            tag("p", "telemetryd ", tag("span", about), class_="brand"),
            tag("nav", tag("ul", *listed), aria_label="Other views"),
            class_="bar",
        ),
        tag("p", *facts, class_="facts"),
    )


def verdict(overview: Overview) -> Markup:
    """The first section: the state in a sentence, what to do, and what else there is to know."""
    first = overview.first
    rest = [note for note in overview.notes if note != first]
    listed = [*map(_note, rest[:MOST_NOTES])]
    if (left_out := len(rest) - MOST_NOTES) > 0:
        listed.append(Markup(f"{render_count(left_out)} more"))
    return tag(
        "section",
        tag("h1", mark(overview.tone), tag("span", overview.sentence), id="verdict"),
        tag("div", *_advice(first), class_="advice") if first else "",
        items(listed, "findings") if listed else "",
        class_=f"verdict {overview.tone.name.lower()}",
        aria_labelledby="verdict",
    )


def _note(note: Note) -> Markup:
    return join((mark(note.tone), tag("div", tag("p", note.what), *_advice(note))))


def _advice(note: Note) -> Iterator[Markup]:
    if note.why:
        yield tag("p", note.why, class_="why")
    if note.fix:
        yield tag("p", note.fix)


def section(name: str, heading: str, *children: Child) -> Markup:
    """A part of the page under a heading; ``name`` is its fragment."""
    return tag("section", tag("h2", heading, id=name), *children, aria_labelledby=name)


def mark(tone: Tone) -> Markup:
    """A coloured shape; the text beside it says the same."""
    return tag("i", class_=f"mark {tone.name.lower()}", aria_hidden="true")


def pairs(rows: Iterable[tuple[str, Child]]) -> Markup:
    """Names and values."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in rows))


def figures(rows: Iterable[tuple[str, str, str]]) -> Markup:
    """Large numbers: what is counted, the number, and what it consists of."""
    tiles = (
        tag(
            "div",
            tag("dt", name),
            tag("dd", tag("b", number), " ", tag("small", parts) if parts else ""),
        )
        for name, number, parts in rows
    )
    return tag("dl", *tiles, class_="figures")


def sums(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    """A small table of numbers; the first column names them."""
    body = (
        tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:]))
        for row in rows
    )
    return tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", *(tag("th", head, scope="col") for head in heads))),
        tag("tbody", *body),
        class_="sums",
    )


def sums_with_words(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    """The same with words in the last column, which on narrow screens have a line of their own."""
    names = (tag("th", head, scope="col", role="columnheader") for head in heads)
    body = (
        tag(
            "tr",
            tag("th", row[0], scope="row", role="rowheader"),
            *(tag("td", cell, role="cell") for cell in row[1:]),
            role="row",
        )
        for row in rows
    )
    return tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", *names, role="row"), role="rowgroup"),
        tag("tbody", *body, role="rowgroup"),
        role="table",
        class_="sums worded",
    )


@dataclass(frozen=True, slots=True)
class PageRow:
    """One thing in a table of records.

    Attributes:
        kind: A few words, beneath the name.
        cells: One for each column after the first; None for nothing.
        texts: With what they are about, for the whole width beneath the cells.
    """

    name: str
    kind: str
    cells: Sequence[Child | None]
    texts: Sequence[tuple[str, str]] = ()


def records(caption: str, heads: Sequence[str], rows: Iterable[PageRow]) -> Markup:
    """A table of records, on narrow screens a card for each."""
    names = (tag("th", name, scope="col", role="columnheader") for name in heads)
    return tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", *names, role="row"), role="rowgroup"),
        *(_record(row, heads) for row in rows),
        role="table",
        class_="records",
    )


def _record(record: PageRow, heads: Sequence[str]) -> Markup:
    width = str(len(heads))
    is_long = len(record.name) > LONGEST_NAME
    name = tag(
        "th",
        tag("b", record.name),
        "" if is_long else tag("small", record.kind),
        scope="rowgroup" if is_long or record.texts else "row",
        role="rowheader",
        colspan=width if is_long else None,
    )
    first = tag("td", tag("small", record.kind), role="cell") if is_long else name
    cells = (
        tag(
            "td",
            tag("div", quiet("none") if cell is None else cell),
            role="cell",
            data_label=head,
            class_="nothing" if cell is None else None,
        )
        for head, cell in zip(heads[1:], record.cells, strict=True)
    )
    rows = [tag("tr", name, role="row")] if is_long else []
    rows.append(tag("tr", first, *cells, role="row"))
    if record.texts:
        said = (tag("p", tag("b", f"{what}: "), text) for what, text in record.texts)
        cell = tag("td", tag("div", *said), role="cell", colspan=width)
        rows.append(tag("tr", cell, role="row", class_="texts"))
    return tag("tbody", *rows, role="rowgroup")


def items(lines: Iterable[Child], class_: str | None = None) -> Markup:
    """A list."""
    return tag("ul", *(tag("li", line) for line in lines), class_=class_)


def more(summary: str, *children: Child, name: str | None = None) -> Markup:
    """What is shown when asked for, and in print."""
    return tag("details", tag("summary", summary), tag("div", *children, id=name))


def counted(words: Iterable[str]) -> str:
    """How often each word occurs, in the order of the first: ``2 idle, 1 failed``."""
    found: dict[str, int] = {}
    for word in words:
        found[word] = found.get(word, 0) + 1
    return ", ".join(f"{count:,} {word}" for word, count in found.items())
