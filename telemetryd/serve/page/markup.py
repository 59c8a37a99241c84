"""Builds HTML: text is escaped, unless it is ``Markup`` already."""

import html
from collections.abc import Iterable
from typing import Final, TypeAlias

from telemetryd.bounds import escaped

MOST_SHOWN_CHARS: Final = 2000
"""For one text."""

_VOID: Final = frozenset({"br", "link", "meta"})


class Markup(str):
    """HTML, not to be escaped again."""

    __slots__ = ()


Child: TypeAlias = str | Markup
Attribute: TypeAlias = str | bool | None


def escape(text: str) -> Markup:
    """A text as HTML, up to ``MOST_SHOWN_CHARS`` of it.

    Controls, surrogates and marks that change the direction of text are shown as escapes.
    """
    return Markup(html.escape(escaped(text, MOST_SHOWN_CHARS)))


def tag(name: str, /, *children: Child, **attributes: Attribute) -> Markup:
    """An element.

    Args:
        name: Of the element.
        children: Text is escaped.
        attributes: By name, with ``_`` for ``-`` and one at the end for a Python keyword
            (``class_``); True for an attribute without a value, None for a missing one.
    """
    given = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(value)}"')
        for key, value in attributes.items()
        if not (value is None or value is False)
    )
    start = f"<{name}{given}>"
    return Markup(start) if name in _VOID else Markup(f"{start}{join(children)}</{name}>")


def join(children: Iterable[Child]) -> Markup:
    """The children in sequence; text is escaped."""
    return Markup("".join(_markup(child) for child in children))


def _markup(child: Child) -> Markup:
    return child if isinstance(child, Markup) else escape(child)
