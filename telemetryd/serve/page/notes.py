"""Notes on a state: how much each matters, what it is, and what to do about it."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from telemetryd.model import HistoryStatus
from telemetryd.serve.page.markup import render_count, some


class Tone(IntEnum):
    """How much something matters; the greatest one is the tone of the whole.

    ``QUIET`` is off on purpose, ``BUSY`` has not finished starting, ``GAPS`` works in part, ``BAD``
    needs attention.
    """

    GOOD = 0
    QUIET = 1
    BUSY = 2
    GAPS = 3
    BAD = 4


TONE_NAMES: Final = {
    Tone.GOOD: "Healthy",
    Tone.QUIET: "At rest",
    Tone.BUSY: "In progress",
    Tone.GAPS: "Gaps",
    Tone.BAD: "Needs attention",
}

MOST_NOTES: Final = 50
"""In every view."""


@dataclass(frozen=True, slots=True)
class Note:
    """One thing to know about the state.

    Attributes:
        what: A sentence.
        why: The reported text; empty where ``what`` says it all.
        fix: What to do about it, in sentences; empty where nothing needs to be done.
    """

    tone: Tone
    what: str
    why: str = ""
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Overview:
    """The state of the whole daemon.

    Attributes:
        first: The note that the sentence is about, if it is about one.
        notes: All, the worst first.
    """

    tone: Tone
    sentence: str
    first: Note | None
    notes: tuple[Note, ...]


def notes_of_history(history: HistoryStatus, *, kept: bool) -> Iterator[Note]:
    """A limit that is passed, and a history that can't be written.

    ``kept`` is False while collection is off, and nothing is written on purpose.
    """
    if history.licenses is not None and history.limit is not None:
        over = history.licenses - history.limit
        if over > 0:
            yield Note(
                Tone.BAD,
                f"This month counts {some(history.licenses, 'license')}, {render_count(over)} over "
                f"the limit of {render_count(history.limit)}.",
                fix="telemetryd report shows how they are counted.",
            )
    if history.enabled and kept and history.trouble:
        yield Note(
            Tone.GAPS,
            "The history can't be written; everything else goes on.",
            why=history.trouble,
            fix="Check state_dir and its disk, or set enabled = false in [history].",
        )


def words_of_limit(licenses: int, limit: int | None) -> str:
    """Licenses against their limit: ``3 licenses of 40``."""
    if limit is None:
        return f"{some(licenses, 'license')}; no limit is configured"
    over = licenses - limit
    within = f"{render_count(over)} over the limit of" if over > 0 else "within the limit of"
    return f"{some(licenses, 'license')}, {within} {render_count(limit)}"
