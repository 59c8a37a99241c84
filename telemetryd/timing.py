"""When to run and when to retry: backoff, retry budgets, and the grid of runs, which never drifts.

Arithmetic over an injected ``rng``; nothing here sleeps. The rules are those of Prometheus
(unaligned grid, stable offset) and of AWS's full-jitter backoff.
"""

import math
import time
from dataclasses import dataclass
from hashlib import sha256
from random import Random

RETRY_AFTER_CAP_S = 600.0
"""The longest pause that a destination can ask for."""

RESUME_SPREAD_S = 30.0
"""Machines that wake together don't all run within the same second."""

LONGEST_SLEEP_S = 60.0
"""Sleeps are cut to this, so that a suspend of the machine is noticed within a minute."""

_MAX_DOUBLINGS = 62
_RETRY_AFTER_JITTER = 0.1


def retry_delay_s(delay_s: float, retry_after_s: float | None, rng: Random) -> float:
    """The pause before the next attempt if the destination may have asked for one.

    The larger of the two, Retry-After capped at ``RETRY_AFTER_CAP_S``. Jitter (up to a tenth) is
    only added to what was asked for, because no attempt may come earlier.
    """
    if retry_after_s is None or math.isnan(retry_after_s):
        return delay_s
    asked_s = min(max(retry_after_s, 0.0), RETRY_AFTER_CAP_S)
    return max(delay_s, asked_s + rng.uniform(0.0, asked_s * _RETRY_AFTER_JITTER))


@dataclass(slots=True)
class Retry:
    """When to try again after failures in a row: a backoff that doubles up to a cap.

    Full jitter is U(0, min(cap, base·2ⁿ)). It has no lower limit, which would make all pauses below
    it end at the same moment.

    Attributes:
        base_s: Upper bound of the first pause in seconds.
        cap_s: Upper bound of every pause in seconds.
        rng: Source of the jitter.
        jitter: Share of each pause that is random, from 0 to 1 (full jitter).
        due_s: The next try may start then, on the caller's clock.
        failures: Failed tries since the last success.
    """

    base_s: float
    cap_s: float
    rng: Random
    jitter: float = 1.0
    due_s: float = -math.inf
    failures: int = 0

    def failed(self, now_s: float, *, retry_after_s: float | None = None) -> float:
        """Count a failure; returns the pause in seconds until ``due_s``.

        ``retry_after_s`` is the pause that the destination asks for.
        """
        bound_s = min(self.cap_s, self.base_s * 2.0 ** min(self.failures, _MAX_DOUBLINGS))
        pause_s = self.rng.uniform((1.0 - self.jitter) * bound_s, bound_s)
        pause_s = retry_delay_s(pause_s, retry_after_s, self.rng)
        self.failures += 1
        self.due_s = now_s + pause_s
        return pause_s

    def succeeded(self) -> None:
        """Forget all failures: the next try may start at once."""
        self.failures, self.due_s = 0, -math.inf


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
        # The division may round either way if the time is that of a slot.
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
    """

    __slots__ = ("_began_s", "_grid", "_index", "_jitter", "_on_slot", "_parked", "_rng", "due_s")

    def __init__(self, grid: Grid, *, first_s: float, jitter: float = 0.0, rng: Random) -> None:
        """A schedule whose first run is due at ``first_s``.

        ``jitter`` is the largest delay of a run behind its slot, as a part of the interval below 1.
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

        The destination asks for no run before ``not_before_s``.

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

        A pause that a destination asked for is shortened by the time slept only.

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
        """Use another interval, counted from the last slot that a run started for.

        The next run comes half a new interval after the last one at the earliest; one that is due
        off the grid stays due. Slots that are dropped aren't counted as missed.

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


TICK_S = 5.0
"""Regular looks happen at multiples of it on the event loop's clock, and share its wake-ups."""

_EARLY_S = 0.001


def until_tick_s(now_s: float, period_s: float) -> float:
    """Seconds to the next multiple of the period: timers that wait so fire together.

    A timer that fires up to a millisecond early has had its turn.
    """
    early_s = min(_EARLY_S, period_s / 10)
    return (math.floor((now_s + early_s) / period_s) + 1) * period_s - now_s


def boot_time_s() -> float:
    """Seconds since the machine booted, suspends included: no step of the wall clock moves it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
