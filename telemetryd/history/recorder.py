"""Makes slots of moments, on a clock that may be wrong."""

from collections.abc import Callable
from typing import Final

from telemetryd.history.slots import (
    DAY_S,
    MINUTE_S,
    Gap,
    Moment,
    Slot,
    join,
    piece,
    pieces,
    slot_start,
    spans,
)

HOLD_S: Final = 150.0
"""A moment counts for so long after it. What follows without another one is a gap: the process was
stopped, or the machine slept."""

STEP_S: Final = 2.0
"""Between two moments the wall clock may run so far apart from the steady one. More is a step."""

LONGEST_GAP_S: Final = 3653.0 * DAY_S
"""Ten years: a clock that was set far ahead leaves no more."""

EARLIEST_S: Final = 1_577_836_800.0
LATEST_S: Final = 4_102_444_800.0
"""The years 2020 to 2099. A clock that is out of them isn't set yet, or is broken."""


def is_set(now: float) -> bool:
    """Whether a clock can be right."""
    return EARLIEST_S <= now < LATEST_S


class Recorder:
    """What was seen since the last ``take``: minutes, and hours and days that are all gap.

    A moment holds until the next one. Time after ``HOLD_S`` without one, and time that the clock
    was set ahead, is a gap; time that it was set back is counted in the slots that it visits again.
    Nothing is counted while the clock isn't set; once it is, what lies before is a gap.
    """

    def __init__(self, *, now: Callable[[], float], clock: Callable[[], float]) -> None:
        """Nothing is known yet.

        Args:
            now: Unix time in seconds.
            clock: Seconds that never step, and go on while the machine sleeps.
        """
        self._now = now
        self._clock = clock
        self._moment: Moment | None = None
        self._reason = Gap.DOWN
        self._at: tuple[float, float] | None = None
        self._began: float | None = None
        self._until: float | None = None
        self._steady_since = clock()
        self._slots: dict[tuple[int, int], Slot] = {}

    @property
    def steady_s(self) -> float:
        """For how long the clock has been set, without a step."""
        return self._clock() - self._steady_since if is_set(self._now()) else 0.0

    def resume(self, known_until: float) -> None:
        """Go on where an earlier process ended: what lies before this one's first call is a gap."""
        self._go_on()
        if self._began is None:
            self._until = known_until
        else:
            self._miss(known_until, self._began, Gap.DOWN)

    def see(self, moment: Moment) -> None:
        """The fleet is so from now on."""
        self._go_on()
        self._moment = moment
        now = self._now()
        self._add(piece(MINUTE_S, now, 0.0, moment))

    def lose(self, reason: Gap) -> None:
        """Nothing is known from now on, for this reason.

        However often it is said, it is one gap: that of a month takes no more memory than a day's.
        """
        if self._at is not None and self._moment is None and self._reason is reason:
            return
        self._go_on()
        self._moment, self._reason = None, reason

    def take(self, *, all_of_it: bool = False) -> list[Slot]:
        """What is over so far, or with ``all_of_it`` the current minute too; it is forgotten here.

        In the order in which it came about: a clock that was set back comes to a minute again.
        """
        self._go_on()
        current = (MINUTE_S, slot_start(self._now(), MINUTE_S))
        kept = None if all_of_it else self._slots.pop(current, None)
        taken = list(self._slots.values())
        self._slots = {} if kept is None else {current: kept}
        return taken

    def _go_on(self) -> None:
        """Count the time since the last call."""
        now, clock = self._now(), self._clock()
        if self._at is not None and is_set(self._at[0]):
            then, before = self._at
            passed_s = max(0.0, clock - before)
            self._count(then, passed_s)
            ahead_s = now - then - passed_s
            if is_set(now) and ahead_s > STEP_S:
                self._miss(then + passed_s, now, Gap.CLOCK)
            if abs(ahead_s) > STEP_S:
                self._steady_since = clock
            self._until = then + passed_s
        elif is_set(now):
            self._steady_since = clock
            if self._began is None:
                self._began = now
            if self._until is not None:
                self._miss(self._until, now, Gap.CLOCK)
        self._at = now, clock

    def _count(self, then: float, passed_s: float) -> None:
        held_s = min(passed_s, HOLD_S) if self._moment is not None else 0.0
        if self._moment is not None:
            for start, seconds in pieces(then, then + held_s, MINUTE_S):
                self._add(piece(MINUTE_S, start, seconds, self._moment))
        if passed_s > held_s:
            reason = Gap.DOWN if self._moment is not None else self._reason
            self._miss(then + held_s, then + passed_s, reason)

    def _miss(self, begin: float, end: float, reason: Gap) -> None:
        for size_s, start, seconds in spans(max(begin, end - LONGEST_GAP_S), end):
            self._add(Slot(size_s, start, gaps={reason: seconds}))

    def _add(self, part: Slot) -> None:
        if not is_set(part.start):
            return
        key = part.size_s, part.start
        known = self._slots.get(key)
        self._slots[key] = join(*key, (known, part)) if known else part
