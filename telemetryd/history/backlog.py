"""Slots that wait for their store, in batches that it knows again."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Final

from telemetryd.history.slots import Slot

MOST_WAITING: Final = 2 * 24 * 60
"""Slots in memory while the store takes none; then the oldest go."""


@dataclass(slots=True)
class Batch:
    """Slots that are written together.

    Attributes:
        epoch: Of leadership when they came about.
        token: By which the store knows it again. A write that was cut off may have been made.
        tried: It may be in the store, so nothing is added to it.
    """

    installation: str
    epoch: int
    slots: list[Slot] = field(default_factory=list)
    token: str = field(default_factory=lambda: token_hex(8))
    tried: bool = False


class Backlog:
    """What the store has not taken yet, the oldest first."""

    def __init__(self) -> None:
        self._batches: list[Batch] = []

    def __len__(self) -> int:
        """How many slots wait."""
        return sum(len(batch.slots) for batch in self._batches)

    def add(self, installation: str, epoch: int, slots: Sequence[Slot]) -> int:
        """Add slots, and drop the oldest where there are too many; returns how many it dropped."""
        last = self._batches[-1] if self._batches else None
        if slots and (last is None or last.tried or last.installation != installation):
            self._batches.append(last := Batch(installation, epoch))
        if slots and last is not None:
            last.slots += slots
        dropped = rest = max(0, len(self) - MOST_WAITING)
        for batch in self._batches:
            gone = min(rest, len(batch.slots))
            del batch.slots[:gone]
            rest -= gone
        return dropped

    def first(self) -> Batch | None:
        """The one to write next, None where nothing waits."""
        return self._batches[0] if self._batches else None

    def done(self, batch: Batch) -> None:
        """The store has it; it may have been cleared meanwhile."""
        if self._batches and self._batches[0] is batch:
            del self._batches[0]

    def clear(self) -> None:
        """Forget everything."""
        self._batches.clear()
