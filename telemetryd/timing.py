"""When things happen: backoff, retry budgets, and the drift-free grid of runs.

Pure arithmetic over an injected ``rng``; nothing here sleeps or reads a clock. The rules are those
of Prometheus (unaligned grid, stable offset) and of AWS's full-jitter backoff.
"""

import math
from dataclasses import dataclass
from hashlib import sha256
from random import Random

RETRY_AFTER_CAP_S = 600.0
"""The longest a destination can put us off."""

RESUME_SPREAD_S = 30.0
"""Machines that wake together don't all run within the same second."""

LONGEST_SLEEP_S = 60.0
"""Sleeps are cut to this, so that a suspend of the machine is noticed within a minute."""

_MAX_DOUBLINGS = 62
_RETRY_AFTER_JITTER = 0.1


def backoff_s(failures: int, *, base_s: float, cap_s: float, rng: Random) -> float:
    """Full-jitter backoff: U(0, min(cap, base·2ⁿ)).

    There is no lower limit: it would make all that fall below it come back at the same moment.

    Args:
        failures: Attempts of this run that have failed before the last one; 0 after the first.
        base_s: Upper bound of the first pause in seconds.
        cap_s: Upper bound of every pause in seconds.
        rng: Source of the jitter.
    """
    bound_s = min(cap_s, base_s * 2.0 ** min(failures, _MAX_DOUBLINGS))
    return rng.uniform(0.0, bound_s)


def retry_delay_s(delay_s: float, retry_after_s: float | None, rng: Random) -> float:
    """The pause before the next attempt where the destination may have asked for one.

    The larger of the two, Retry-After capped at ``RETRY_AFTER_CAP_S``. Jitter (up to a tenth) is
    only ever added to what was asked for: coming back early is what it forbids.
    """
    if retry_after_s is None or math.isnan(retry_after_s):
        return delay_s
    asked_s = min(max(retry_after_s, 0.0), RETRY_AFTER_CAP_S)
    return max(delay_s, asked_s + rng.uniform(0.0, asked_s * _RETRY_AFTER_JITTER))


def retry_budget_s(*, budget_s: float, to_next_slot_s: float, timeout_s: float) -> float:
    """Seconds from its start within which a run may begin attempts, to end before the next slot."""
    return max(0.0, min(budget_s, to_next_slot_s - timeout_s))


def splay_s(installation_id: str, name: str, *, interval_s: float, splay_max_s: float) -> float:
    """The stable offset of an exporter's grid, in [0, min(interval, splay_max)).

    The same installation and name give the same offset on every start, so that a fleet of daemons
    stays spread.
    """
    spread_s = min(interval_s, splay_max_s)
    digest = sha256(f"{installation_id}\0{name}".encode()).digest()
    fraction = (int.from_bytes(digest[:8], "big") >> 11) / (1 << 53)
    return fraction * spread_s


@dataclass(frozen=True, slots=True)
class Grid:
    """Slots at ``anchor_s + n·interval_s`` for every integer n ≥ 0.

    A slot's time is a multiplication, never a sum of sleeps: nothing accumulates.

    Attributes:
        anchor_s: Time of slot 0 on the caller's monotonic clock, splay included.
        interval_s: Seconds between slots, above 0.
    """

    anchor_s: float
    interval_s: float

    def __post_init__(self) -> None:
        if not (self.interval_s > 0 and math.isfinite(self.interval_s)):
            raise ValueError(f"interval_s must be above 0, not {self.interval_s}")

    def slot_s(self, index: int) -> float:
        """Time of the slot."""
        return self.anchor_s + index * self.interval_s

    def first_at_or_after(self, time_s: float) -> int:
        """Index of the first slot that isn't before the time."""
        index = max(0, math.ceil((time_s - self.anchor_s) / self.interval_s))
        # The division may round either way where the time is a slot's own.
        while index > 0 and self.slot_s(index - 1) >= time_s:
            index -= 1
        while self.slot_s(index) < time_s:
            index += 1
        return index


class Schedule:
    """When one exporter runs: on the slots of a grid, and off them three times.

    The first run, the run after a suspend and the run after a Retry-After don't fall on a slot.
    Each stands in for the slots that follow within half an interval, so that none is crowded; none
    moves the grid. A run asked for by hand stands in for none.

    Attributes:
        due_s: When the next run starts.
    """

    __slots__ = ("_began_s", "_grid", "_index", "_jitter", "_on_slot", "_parked", "_rng", "due_s")

    def __init__(self, grid: Grid, *, first_s: float, jitter: float = 0.0, rng: Random) -> None:
        """A schedule whose first run is due at ``first_s``.

        Args:
            grid: The slots.
            first_s: Time of the first run.
            jitter: Largest delay of a run behind its slot, as a part of the interval below 1.
            rng: Source of that delay.
        """
        self._grid = grid
        self._jitter = jitter
        self._rng = rng
        self._index = 0
        self._on_slot = False
        self._parked = False
        self._began_s = -math.inf
        self.due_s = first_s

    @property
    def next_slot_s(self) -> float:
        """Time of the next slot that no run has begun for."""
        return self._grid.slot_s(self._index)

    def begin(self, now_s: float) -> int:
        """A run begins.

        Returns:
            How many whole slots went by unused since the run was due.
        """
        if now_s < self.due_s:
            return 0
        self._began_s = now_s
        if self._on_slot:
            self._index += 1
            return self._skip_to(now_s)
        # Not by the grid: the slot at which this run was due is the one it stands in for.
        missed = int((now_s - self.due_s) // self._grid.interval_s)
        self._skip_to(now_s + self._grid.interval_s / 2)
        return missed

    def finish(self, now_s: float, *, not_before_s: float | None = None) -> int:
        """The run is over: plan the next one.

        Args:
            now_s: The time.
            not_before_s: The destination wants to be left alone until then.

        Returns:
            How many slots have gone by, or will, without a run.
        """
        missed = self._skip_to(now_s)
        self._parked = not_before_s is not None and not_before_s > now_s
        if not_before_s is not None and self._parked:
            missed += self._skip_to(not_before_s)
            self._on_slot = False
            self.due_s = not_before_s
        else:
            self._on_slot = True
            self.due_s = self._jittered(self.next_slot_s)
        return missed

    def resume(self, now_s: float, *, suspended_s: float) -> int:
        """The machine has slept: bring the next run forward, with jitter.

        Where a destination wanted to be left alone, only the time slept is taken off.

        Returns:
            How many slots the sleep took.
        """
        spread_s = min(self._grid.interval_s / 10, RESUME_SPREAD_S)
        soon_s = now_s + self._rng.uniform(0.0, spread_s)
        if self._parked:
            soon_s = max(soon_s, self.due_s - suspended_s)
        if soon_s < self.due_s:
            self.due_s = soon_s
            self._on_slot = False
        return int(suspended_s // self._grid.interval_s)

    def change_interval(self, interval_s: float, *, now_s: float, shift_s: float = 0.0) -> None:
        """Go over to slots so far apart, counted from the last one that a run began for.

        The next run comes half a new interval after the last one at the earliest; one that is due
        off the grid stays due. Slots that are passed over aren't counted.

        Args:
            interval_s: Seconds between slots, above 0.
            now_s: The time.
            shift_s: How much later the new grid's slots are than those of the old.
        """
        last_s = self._grid.slot_s(max(0, self._index - 1)) + shift_s
        # A grid begins at its anchor, and the next slot may be before the last one of the old.
        ahead = max(0, math.ceil((last_s - now_s) / interval_s))
        self._grid = Grid(last_s - ahead * interval_s, interval_s)
        earliest_s = max(now_s, self._began_s + interval_s / 2)
        if not self._on_slot:
            earliest_s = max(earliest_s, self.due_s)
        self._index = self._grid.first_at_or_after(earliest_s)
        if self._on_slot:
            self.due_s = self._jittered(self.next_slot_s)

    def _jittered(self, slot_s: float) -> float:
        return slot_s + self._rng.random() * self._jitter * self._grid.interval_s

    def _skip_to(self, time_s: float) -> int:
        before = self._index
        self._index = max(before, self._grid.first_at_or_after(time_s))
        return self._index - before
