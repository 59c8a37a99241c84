"""Slots of time, and what was known of the fleet in each.

All times are UTC. A slot is a minute, an hour or a day, named by its beginning in Unix seconds. The
recorder fills minutes; a store makes hours of minutes and days of hours by ``join``.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, NamedTuple

MINUTE_S: Final = 60
HOUR_S: Final = 3600
DAY_S: Final = 86_400
SIZES: Final = (MINUTE_S, HOUR_S, DAY_S)
MINUTES_KEPT_S: Final = 48.0 * HOUR_S
PARENTS: Final = ((HOUR_S, MINUTE_S), (DAY_S, HOUR_S))
"""Which slots are made of which."""


class Gap(StrEnum):
    """Why a part of a slot isn't known, or isn't known in full."""

    OFF = "off"
    DOWN = "down"
    INCOMPLETE = "incomplete"
    CLOCK = "clock"


class Moment(NamedTuple):
    """The fleet at one moment.

    Attributes:
        values: By series (``nodes.managed``); a series that isn't there is 0.
        complete: Everything was read. Otherwise the values may be too low.
        version: Of the product.
    """

    values: Mapping[str, int]
    complete: bool
    version: str = ""


class Cell(NamedTuple):
    """One series in one slot.

    Attributes:
        high: The highest value, of incomplete moments too.
        low: The lowest value of complete moments, None without one; so are the others.
        first: The first value: the count at the slot's beginning, where that was known.
        last: The last value.
        mean: Weighted by time.
    """

    high: int = 0
    low: int | None = None
    first: int | None = None
    last: int | None = None
    mean: float | None = None

    def joined(self, later: "Cell", weight: float, later_weight: float) -> "Cell":
        """Both as one, ``later`` being the later one; weights are complete seconds."""
        high = max(self.high, later.high)
        if later.low is None or later.mean is None:
            return self._replace(high=high)
        if self.low is None or self.mean is None:
            return later._replace(high=high)
        both = weight + later_weight
        mean = (self.mean * weight + later.mean * later_weight) / both if both else later.mean
        return Cell(high, min(self.low, later.low), self.first, later.last, mean)


NEVER: Final = Cell()
"""Of a series that no complete moment had, and no moment above 0."""
ZERO: Final = Cell(0, 0, 0, 0, 0.0)
"""Of a series that was 0 in every moment, complete ones among them."""


@dataclass(frozen=True, slots=True)
class Slot:
    """What was known of the fleet in a slot.

    Attributes:
        size_s: One of ``SIZES``.
        start: Its beginning, in Unix seconds.
        known_s: Seconds of which there is a moment, complete or not.
        complete_s: Seconds of which there is a complete one.
        complete: Whether there was a complete moment, for however short.
        gaps: Seconds of each reason why the rest isn't known, or isn't complete.
        version: The last one.
        cells: By series. One that isn't there was 0.
    """

    size_s: int
    start: int
    known_s: float = 0.0
    complete_s: float = 0.0
    complete: bool = False
    gaps: Mapping[Gap, float] = field(default_factory=dict)
    version: str = ""
    cells: Mapping[str, Cell] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.size_s not in SIZES or self.start % self.size_s:
            raise ValueError(f"no slot of {self.size_s} s begins at {self.start}")

    @property
    def fullness(self) -> tuple[float, bool, float, float]:
        """How much is known of it, complete first; then, of how much it is known why not."""
        return self.complete_s, self.complete, self.known_s, sum(self.gaps.values())

    @property
    def known(self) -> bool:
        """Whether there was a moment, for however short."""
        return self.complete or self.known_s > 0 or bool(self.cells)

    def or_fuller(self, other: "Slot") -> "Slot":
        """This slot, or another record of the same one that knows more of it; with both's peaks.

        A part that comes again must not make it poorer where the others are no longer kept.
        """
        if other.fullness > self.fullness:
            return other.with_peaks(self)
        return self.with_peaks(other)

    def with_peaks(self, other: "Slot") -> "Slot":
        """This slot, with the peaks of another record of the same one."""
        cells = {
            name: self.cell(name)._replace(high=max(self.cell(name).high, other.cell(name).high))
            for name in self.cells.keys() | other.cells.keys()
        }
        return replace(self, cells=cells)

    def cell(self, series: str) -> Cell:
        """What is known of a series."""
        return self.cells.get(series, ZERO if self.complete else NEVER)


def slot_start(at: float, size_s: int) -> int:
    """The beginning of the slot that holds this time."""
    return int(at // size_s) * size_s


def pieces(begin: float, end: float, size_s: int) -> Iterator[tuple[int, float]]:
    """Each slot that the time from ``begin`` to ``end`` touches, and the seconds inside it."""
    while begin < end:
        start = slot_start(begin, size_s)
        until = min(end, float(start + size_s))
        yield start, until - begin
        begin = until


def spans(begin: float, end: float) -> Iterator[tuple[int, int, float]]:
    """The fewest slots that cover a time: size, beginning and seconds of each.

    A gap of a year is a few hundred days, with hours and minutes at its ends.
    """
    while begin < end:
        size_s = next(
            (
                size_s
                for size_s in (DAY_S, HOUR_S)
                if slot_start(begin, size_s) == begin and begin + size_s <= end
            ),
            MINUTE_S,
        )
        start = slot_start(begin, size_s)
        until = min(end, float(start + size_s))
        yield size_s, start, until - begin
        begin = until


def join(size_s: int, start: int, parts: Iterable[Slot]) -> Slot:
    """One slot of smaller ones, or of several of the same time, in the order they came about.

    Seconds are never more than the slot has: a clock that was set back visits a slot twice, and
    what was a gap at first is none once it is known.

    Raises:
        ValueError: A part is of another time.
    """
    made = Slot(size_s, start)
    for part in parts:
        if not start <= part.start < start + size_s or part.size_s > size_s:
            raise ValueError(f"{part.size_s} s from {part.start} are no part of it")
        cells = {
            name: made.cell(name).joined(part.cell(name), made.complete_s, part.complete_s)
            for name in made.cells.keys() | part.cells.keys()
        }
        known_s = min(float(size_s), made.known_s + part.known_s)
        complete_s = min(float(size_s), made.complete_s + part.complete_s)
        made = Slot(
            size_s,
            start,
            known_s,
            complete_s,
            made.complete or part.complete,
            _gaps((made.gaps, part.gaps), known_s - complete_s, size_s - known_s),
            part.version or made.version,
            cells,
        )
    return made


def _gaps(
    both: tuple[Mapping[Gap, float], Mapping[Gap, float]], incomplete_s: float, unknown_s: float
) -> dict[Gap, float]:
    """The sum of two, within what is known in part and what isn't known."""
    found = {}
    for gap in Gap:  # where there is too much, the clock's word counts least
        room_s = incomplete_s if gap is Gap.INCOMPLETE else unknown_s
        seconds = min(room_s, sum(gaps.get(gap, 0.0) for gaps in both))
        if gap is not Gap.INCOMPLETE:
            unknown_s -= seconds
        if seconds > 0:
            found[gap] = seconds
    return found


def parents_of(slots: Iterable[Slot]) -> Iterator[tuple[int, int, int]]:
    """The larger slots around some, smaller ones first: their size, that of their parts, start."""
    changed = {(slot.size_s, slot.start) for slot in slots}
    for size_s, part_s in PARENTS:
        starts = {slot_start(start, size_s) for part, start in changed if part == part_s}
        changed |= {(size_s, start) for start in starts}
        yield from ((size_s, part_s, start) for start in sorted(starts))


def joined(known: Slot, later: Slot) -> Slot:
    """Two parts of the same slot, as ``join``."""
    return join(known.size_s, known.start, (known, later))


def grown(
    slots: Sequence[Slot],
    stored: Callable[[int, int, int], Iterable[Slot]],
    add: Callable[[Slot, Slot], Slot] = joined,
    *,
    changed: Sequence[Slot] = (),
) -> Iterator[Slot]:
    """What a store holds once slots are added: these, and the larger ones around them.

    Put each where ``stored`` finds it before you ask for the next one.

    Args:
        slots: In the order in which they came about.
        stored: The slots of a size that begin in [begin, end), in the order of time.
        add: Makes one of what is stored and of what is added.
        changed: What has been put already.
    """
    for slot in slots:
        made = join(slot.size_s, slot.start, (slot,))
        for known in stored(slot.size_s, slot.start, slot.start + 1):
            made = add(known, slot)
        yield made
    for size_s, part_s, start in parents_of((*slots, *changed)):
        made = join(size_s, start, stored(part_s, start, start + size_s))
        for former in stored(size_s, start, start + 1):
            made = made.or_fuller(former)
        yield made


def piece(size_s: int, at: float, seconds: float, moment: Moment) -> Slot:
    """A slot in which one moment held for so long; for 0 seconds only its extremes count."""
    if not moment.complete:
        cells = {name: Cell(value) for name, value in moment.values.items()}
        return Slot(
            size_s,
            slot_start(at, size_s),
            known_s=seconds,
            gaps={Gap.INCOMPLETE: seconds} if seconds else {},
            version=moment.version,
            cells=cells,
        )
    cells = {
        name: Cell(value, value, value, value, float(value))
        for name, value in moment.values.items()
    }
    return Slot(
        size_s,
        slot_start(at, size_s),
        known_s=seconds,
        complete_s=seconds,
        complete=True,
        version=moment.version,
        cells=cells,
    )
