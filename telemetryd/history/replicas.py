"""Records of the same slots by several replicas, and which of them counts; pure.

Parts of one writer are joined, as in a file. Of the records of two writers the one with the higher
epoch of leadership counts, then the one that knows more, always with the peaks of both.
"""

from dataclasses import dataclass, field
from typing import Final

from telemetryd.history.slots import PARENTS, Slot, joined

Key = tuple[int, int]
"""Size and start of a slot."""
_PARTS: Final = dict(PARENTS)


@dataclass(frozen=True, slots=True)
class SlotRecord:
    """A slot, and whose record it is.

    Attributes:
        epoch: Of leadership when it was written.
        writer: The replica; empty for what was imported.
    """

    slot: Slot
    epoch: int = 0
    writer: str = ""


@dataclass(slots=True)
class Records:
    """Records of one installation between their reading and their writing.

    Attributes:
        kept: What is stored, and what takes its place.
        writer: The replica that adds.
        epoch: Its epoch.
        changed: What must be written.
    """

    kept: dict[Key, SlotRecord]
    writer: str = ""
    epoch: int = 0
    changed: dict[Key, SlotRecord] = field(default_factory=dict)
    _chosen: SlotRecord | None = None

    def stored(self, size_s: int, begin: int, end: int) -> list[Slot]:
        """As ``slots.grown`` asks."""
        return [each.slot for each in self._range(size_s, begin, end)]

    def add(self, known: Slot, slot: Slot) -> Slot:
        """As ``slots.grown`` asks: one slot of what is stored and of what this writer adds."""
        former = self.kept[known.size_s, known.start]
        if former.writer in {"", self.writer}:
            epoch = max(former.epoch, self.epoch)
            self._chosen = SlotRecord(joined(known, slot), epoch, self.writer)
        elif _rank(slot, self.epoch) > _rank(known, former.epoch):
            self._chosen = SlotRecord(slot.with_peaks(known), self.epoch, self.writer)
        else:
            self._chosen = SlotRecord(known.with_peaks(slot), former.epoch, former.writer)
        return self._chosen.slot

    def put(self, made: Slot) -> None:
        """Take what ``slots.grown`` made."""
        chosen, self._chosen = self._chosen, None
        if chosen is None or chosen.slot is not made:
            part_s = _PARTS.get(made.size_s, made.size_s)
            parts = self._range(part_s, made.start, made.start + made.size_s)
            own = SlotRecord(made, self.epoch, self.writer)
            last = max(parts, key=lambda each: (each.epoch, each.slot.start), default=own)
            chosen = SlotRecord(made, last.epoch, last.writer)
        self.keep(chosen)

    def keep(self, record: SlotRecord) -> None:
        """Write this one."""
        key = record.slot.size_s, record.slot.start
        self.kept[key] = self.changed[key] = record

    def _range(self, size_s: int, begin: int, end: int) -> list[SlotRecord]:
        first = -(-begin // size_s) * size_s
        keys = ((size_s, start) for start in range(first, end, size_s))
        return [self.kept[key] for key in keys if key in self.kept]


def _rank(slot: Slot, epoch: int) -> tuple[bool, int, tuple[float, bool, float, float]]:
    # A leader that has just begun may know nothing of a minute that another replica saw whole.
    return slot.complete, epoch, slot.fullness
