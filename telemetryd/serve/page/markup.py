"""HTML by construction: whatever isn't ``Markup`` already is text, and is escaped.

Which elements make which page doesn't belong here.
"""

import html
from collections.abc import Iterable
from typing import Final, TypeAlias

from telemetryd.bounds import escaped

MOST_SHOWN_CHARS: Final = 2000
"""Of one text, in a cell or elsewhere."""

_VOID: Final = frozenset({"br", "link", "meta"})


class Markup(str):
    """HTML that may stand as it is."""

    __slots__ = ()


Child: TypeAlias = str | Markup
Attribute: TypeAlias = str | bool | None


def escape(text: str) -> Markup:
    """Any text as HTML that shows it, up to ``MOST_SHOWN_CHARS`` of it.

    What can't be printed is shown by its escape: controls, surrogates, and the marks that turn the
    direction of what follows them.
    """
    return Markup(html.escape(escaped(text, MOST_SHOWN_CHARS)))


def tag(name: str, /, *children: Child, **attributes: Attribute) -> Markup:
    """An element.

    Args:
        name: Of the element.
        children: In their order; text is escaped.
        attributes: By name, with ``_`` for ``-`` and one at the end for a word of Python's
            (``class_``); True for one without a value, None for one that isn't there.
    """
    given = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(value)}"')
        for key, value in attributes.items()
        if not (value is None or value is False)
    )
    start = f"<{name}{given}>"
    return Markup(start) if name in _VOID else Markup(f"{start}{join(children)}</{name}>")


def join(children: Iterable[Child]) -> Markup:
    """One after the other; text is escaped."""
    return Markup("".join(_markup(child) for child in children))


def _markup(child: Child) -> Markup:
    return child if isinstance(child, Markup) else escape(child)
