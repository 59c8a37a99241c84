"""A fleet's life on clocks of its own, its log, and a recount from that log alone."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from telemetryd.history.recorder import Recorder
from telemetryd.history.slots import HOUR_S, MINUTE_S, Gap, Moment, Slot

SERIES = "nodes.entitled"
TAKE_S = 60


class Segment(NamedTuple):
    """What the log says of a stretch of wall time."""

    begin: float
    end: float
    nodes: int
    complete: bool


@dataclass(slots=True)
class Life:
    """A recorder, its clocks, and a log of what was shown to it."""

    wall: float
    write: Callable[[list[Slot]], None]
    steady: float = 1000.0
    log: list[Segment] = field(default_factory=list)
    recorder: Recorder = field(init=False)
    _kept: int = 0
    _taken_at: float = 0.0
    _nodes: int | None = None
    _complete: bool = True

    def __post_init__(self) -> None:
        self._taken_at = self.wall
        self._begin()

    def _begin(self) -> None:
        self.recorder = Recorder(now=lambda: self.wall, clock=lambda: self.steady)

    def pass_time(self, seconds: float) -> None:
        """Let the daemon run, which takes the slots each minute."""
        left = float(seconds)
        while left > 0:
            step = min(left, TAKE_S - self.wall % TAKE_S)
            if self._nodes is not None:
                self.log.append(Segment(self.wall, self.wall + step, self._nodes, self._complete))
            self.wall += step
            self.steady += step
            left -= step
            over = len(self.log)
            self._look()
            if self.wall % TAKE_S == 0:
                self.write(self.recorder.take())
                self._kept, self._taken_at = over, self.wall

    def show(self, nodes: int, *, complete: bool = True) -> None:
        """The fleet has so many nodes from now on."""
        self._nodes, self._complete = nodes, complete
        self._look()

    def switch_off(self) -> None:
        """Collection is off from now on."""
        self._nodes = None
        self.recorder.lose(Gap.OFF)

    def kill(self, down_s: float) -> None:
        """The process is killed, which loses what wasn't taken, and another one begins later."""
        del self.log[self._kept :]
        self.wall += down_s
        self.steady += down_s
        self._begin()
        self.recorder.resume(self._taken_at)
        self._nodes = None

    def set_clock(self, seconds: float) -> None:
        """Somebody sets the wall clock ahead, or back; the daemon looks at once."""
        self.wall += seconds
        self._look()

    def _look(self) -> None:
        if self._nodes is not None:
            self.log.append(Segment(self.wall, self.wall, self._nodes, self._complete))
            values = {SERIES: self._nodes} if self._nodes else {}
            self.recorder.see(Moment(values, self._complete, "v2.14.1"))


class Count(NamedTuple):
    """What a recount says of an hour."""

    high: int
    low: int | None
    first: int | None
    last: int | None
    mean: float | None
    known_s: float
    complete_s: float


def recount(log: list[Segment]) -> dict[int, Count]:
    """Each hour by the log.

    Where a clock was set back, what was logged first counts as earlier, and a minute that came
    twice weighs as one.
    """
    hours: dict[int, dict[int, list[Segment]]] = {}
    for each in log:
        for start in _minutes(each):
            begin, end = max(each.begin, start), min(each.end, start + MINUTE_S)
            minutes = hours.setdefault(start // HOUR_S * HOUR_S, {})
            minutes.setdefault(start, []).append(each._replace(begin=begin, end=end))
    return {start: _count(minutes) for start, minutes in hours.items()}


def _minutes(each: Segment) -> Iterator[int]:
    start = int(each.begin // MINUTE_S) * MINUTE_S
    yield start
    while (start := start + MINUTE_S) < each.end:
        yield start


def _count(minutes: dict[int, list[Segment]]) -> Count:
    parts = [each for start in sorted(minutes) for each in minutes[start]]
    complete = [each for each in parts if each.complete]
    known_s = complete_s = area = 0.0
    for in_minute in minutes.values():
        known_s += min(float(MINUTE_S), sum(each.end - each.begin for each in in_minute))
        whole = [each for each in in_minute if each.complete]
        seconds = sum(each.end - each.begin for each in whole)
        if seconds:
            weight = min(float(MINUTE_S), seconds)
            complete_s += weight
            area += weight * sum((each.end - each.begin) * each.nodes for each in whole) / seconds
    return Count(
        max(each.nodes for each in parts),
        min((each.nodes for each in complete), default=None),
        complete[0].nodes if complete else None,
        complete[-1].nodes if complete else None,
        area / complete_s if complete_s else (float(complete[-1].nodes) if complete else None),
        known_s,
        complete_s,
    )
