"""HTML as values, and numbers, durations, sizes and times in words.

Text is escaped, unless it is ``Markup`` already.
"""

import html
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final, TypeAlias

from telemetryd.bounds import escaped
from telemetryd.serve.page.facts import render_time

MOST_SHOWN_CHARS: Final = 2000
"""For one text."""

_UNITS: Final = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
_KIB: Final = 1024
_SHOWN_OF_A_UNIT: Final = 10
"""From this many on, a size is shown in the larger unit."""

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
    return Markup(
        "".join(child if isinstance(child, Markup) else escape(child) for child in children)
    )


def quiet(text: str) -> Markup:
    """A text that matters less than those around it."""
    return tag("span", text, class_="quiet")


def render_count(count: int) -> str:
    """A whole number, in groups of three digits."""
    return f"{count:,}"


def some(count: int, what: str) -> str:
    """A number of things: ``1 node``, ``2 nodes``."""
    return f"{render_count(count)} {what}{'' if count == 1 else 's'}"


def size_of(size: int) -> str:
    """A number of bytes: ``1,187 bytes``, ``20 KiB``, ``11 MiB``."""
    if size < _SHOWN_OF_A_UNIT * _KIB:
        return some(size, "byte")
    if size < _SHOWN_OF_A_UNIT * _KIB**2:
        return f"{size / _KIB:,.0f} KiB"
    return f"{size / _KIB**2:,.0f} MiB"


def span(seconds: float, *, rough: bool = False) -> str:
    """The largest unit and the next one, without those that are 0: ``3 days 4 hours``.

    ``rough`` is for the largest one alone: ``3 days``.
    """
    whole = max(0, int(seconds))
    for (unit_s, unit), (part_s, part) in pairwise(_UNITS):
        if whole >= unit_s:
            rest = 0 if rough else whole % unit_s // part_s
            return f"{some(whole // unit_s, unit)} {some(rest, part) if rest else ''}".rstrip()
    return some(whole, "second")


def every(seconds: float) -> str:
    """An interval: ``every minute``, ``every 90 seconds``."""
    if 0 < seconds < 1:
        return f"every {seconds:g} seconds"
    text = span(seconds)
    number, _, unit = text.partition(" ")
    return f"every {unit}" if number == "1" and " " not in unit else f"every {text}"


def time_of(unix_s: float | None, now: float) -> Markup:
    """A time by its rough distance, and in UTC, for people and machines."""
    if unix_s is None:
        return quiet("never")
    exact = datetime.fromtimestamp(unix_s, tz=UTC)
    if exact.date() == datetime.fromtimestamp(now, tz=UTC).date():
        clock = f"{exact:%H:%M:%S} UTC"
    else:
        clock = f"{exact:%Y-%m-%d %H:%M} UTC"
    if abs(unix_s - now) < 1:  # a snapshot may be taken while this is rendered
        shown = "now"
    elif unix_s > now:
        shown = f"in {span(unix_s - now, rough=True)}"
    else:
        shown = f"{span(now - unix_s, rough=True)} ago"
    return tag("time", shown, " ", tag("small", clock), datetime=render_time(unix_s))


def date_of(unix_s: float) -> Markup:
    """A date and time in UTC."""
    exact = datetime.fromtimestamp(unix_s, tz=UTC)
    return tag("time", f"{exact:%Y-%m-%d %H:%M:%S} UTC", datetime=render_time(unix_s))
