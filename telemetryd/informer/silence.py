"""Notices streams that bring nothing although something happens.

A proxy may keep a connection open and pass on nothing. A healthy stream is silent, too, for the
minute between two bookmarks, or always where there are none. So a look is taken: a second watch
from the stream's position, beside it for a while. What the look brings the stream must bring, too.
"""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio
from anyio.abc import TaskGroup

from telemetryd.errors import BadResponse, KubeError, Reason, Unavailable
from telemetryd.informer.backoff import WatchTiming
from telemetryd.informer.decode import parse_event
from telemetryd.informer.scan import ScanNeeded
from telemetryd.informer.source import KubeSource, LineFeed, Lines, OversizeLine
from telemetryd.timing import TICK_S

_MOST_UNANSWERED = 3
"""Looks in a row without an answer before a pause: idle connections, which each takes one of, are
few."""

_ENOUGH_EVENTS = 100
"""A stream that has brought so many beside a look isn't silent."""

_MAX_LINE_BYTES = 64 * 1024
"""Of a look, which only counts lines."""


class Silence:
    """How long a stream has brought nothing, and what is due because of it.

    That it misses nothing is certain up to its last line, up to the beginning of a look that
    brings nothing, and up to the end of one. Two such moments are at most some 40 s apart.

    Attributes:
        heard_at_s: When it last brought a line.
        marked: The server sends bookmarks: this stream has brought one, or the last one did.
        stir: Called when a look has ended: something may be due now.
    """

    __slots__ = (
        "_began_at_s",
        "_clear_at_s",
        "_failed_at_s",
        "_looking",
        "_marked_at_s",
        "_marks",
        "_missed",
        "_tick_s",
        "_timing",
        "_unanswered",
        "heard_at_s",
        "marked",
        "stir",
    )

    def __init__(self, now_s: float, timing: WatchTiming, *, marked: bool, marks: int) -> None:
        """``marks`` is how many bookmarks have come before this stream."""
        self._timing = timing
        self._tick_s = min(TICK_S, timing.quiet_s / 6)
        self._began_at_s = self._failed_at_s = -math.inf
        self._unanswered = 0
        self._looking = self._missed = False
        self.heard_at_s = self._clear_at_s = self._marked_at_s = now_s
        self.marked, self._marks = marked, marks
        self.stir: Callable[[], None] = _nothing

    def heard(self, now_s: float) -> None:
        """It has brought a line."""
        self.heard_at_s = self._clear_at_s = now_s

    def mark(self, marks: int) -> bool:
        """So many bookmarks have come, the last of them among the last lines; whether it is new."""
        if marks == self._marks:
            return False
        self.marked, self._marks = True, marks
        self._marked_at_s = self.heard_at_s
        return True

    def begin(self, now_s: float) -> int:
        """A look begins, in the place of any other; returns how many seconds it must last.

        Where a bookmark is to come meanwhile, the look goes on after it for so long that none is
        needed before the next bookmark.
        """
        self._looking, self._began_at_s = True, now_s
        lasts_s = self._timing.look_s
        return lasts_s if now_s < self._overdue_at_s < math.inf else max(1, lasts_s // 2)

    def clear(self, now_s: float) -> None:
        """The look shows that it misses nothing so far."""
        self._clear_at_s = now_s
        self._unanswered = 0

    def end(self, now_s: float, *, missed: bool | None) -> None:
        """The look is over; None: it had no answer, or its end did not come."""
        self._looking = False
        if missed:
            self._missed = True
        elif missed is None:
            self._unanswered += 1
            if self._unanswered % _MOST_UNANSWERED == 0:
                self.fail(now_s)
        else:
            self.clear(now_s)
        self.stir()

    def fail(self, now_s: float) -> None:
        """The look proves nothing."""
        self._failed_at_s = now_s

    @property
    def look_at_s(self) -> float:
        """When the next look is due; never where another watch is due first."""
        timing, overdue_at_s = self._timing, self._overdue_at_s
        waiting = self._clear_at_s < overdue_at_s
        if self._looking:  # what keeps back the bookmark may keep back the look
            return overdue_at_s if waiting and self._began_at_s < overdue_at_s else math.inf
        due_s = self._clear_at_s + timing.quiet_s
        due_s -= due_s % self._tick_s  # looks begin together, and share their wake-ups
        if 0.0 < overdue_at_s - self._clear_at_s <= timing.longest_doubt_s:
            due_s = overdue_at_s
        due_s = max(due_s, self._failed_at_s + timing.look_again_s)
        if waiting and self._failed_at_s < overdue_at_s:
            due_s = min(due_s, overdue_at_s)
        return due_s if due_s + timing.doubt_s < self.over_at_s else math.inf

    @property
    def _overdue_at_s(self) -> float:
        """When a bookmark is missing; never where none are sent."""
        return self._marked_at_s + self._timing.overdue_s if self.marked else math.inf

    @property
    def over_at_s(self) -> float:
        """When another watch takes the place of the stream."""
        return -math.inf if self._missed else self.heard_at_s + self._timing.idle_limit_s


def _nothing() -> None:
    pass


@dataclass(slots=True, eq=False)
class Lookout:
    """Takes looks beside one stream, each in a task of its own.

    Attributes:
        tasks: The group of these tasks.
        brought: How many events the stream has brought.
    """

    source: KubeSource
    timing: WatchTiming
    silence: Silence
    tasks: TaskGroup
    brought: Callable[[], int]
    _looking: anyio.CancelScope = field(default_factory=anyio.CancelScope, init=False)
    _reading: anyio.CancelScope = field(default_factory=anyio.CancelScope, init=False)

    def look(self, version: str) -> None:
        """Begin to see whether the stream, which stands at this version, misses events.

        A look that is refused or breaks proves nothing.
        """
        self._looking.cancel()
        scope = self._looking = anyio.CancelScope()
        lasts_s = self.silence.begin(asyncio.get_running_loop().time())
        # Counted now: the version is that of the events brought so far.
        self.tasks.start_soon(self._look, version, lasts_s, self.brought(), scope, name="look")

    async def read(
        self, feed: LineFeed, until_s: float, take: Callable[[Lines], Lines | None]
    ) -> Lines | None:
        """Read of the stream as ``feed`` does; the time is over, too, once a look has ended."""
        with anyio.CancelScope(deadline=until_s) as self._reading:
            self.silence.stir = self._reading.cancel
            return await feed.read(math.inf, take)
        return []

    def put_off(self, until_s: float) -> None:
        """Let ``read``, which goes on, wait until then: it needs no wake-up for what isn't due."""
        self._reading.deadline = until_s

    async def _look(
        self, version: str, lasts_s: int, before: int, scope: anyio.CancelScope
    ) -> None:
        clock = asyncio.get_running_loop().time
        missed: bool | None = None
        try:
            with scope:
                missed = await self._follow(version, lasts_s, before, clock)
        except KubeError as error:
            if not _is_unanswered(error):
                self.silence.fail(clock())
        if not scope.cancelled_caught:
            self.silence.end(clock(), missed=missed)

    async def _follow(
        self, version: str, lasts_s: int, before: int, clock: Callable[[], float]
    ) -> bool | None:
        seen = 0
        over_at_s = clock() + lasts_s + self.timing.look_timeout_s

        def take(lines: Lines) -> Lines | None:
            nonlocal seen
            seen += sum(map(_is_event, lines))
            return lines if self.brought() - before < seen or seen > _ENOUGH_EVENTS else None

        async with self.source.look(
            version, server_timeout_s=lasts_s, open_timeout_s=self.timing.look_timeout_s
        ) as stream:
            self.silence.clear(clock())
            feed = LineFeed(stream, _MAX_LINE_BYTES)
            while (now_s := clock()) < over_at_s:
                if await feed.read(over_at_s - now_s, take) is None:
                    return False
                if await self._is_behind(before + seen):
                    return True
                if seen > _ENOUGH_EVENTS:
                    return False
        return None

    async def _is_behind(self, seen: int) -> bool:
        """Whether the stream, given time, doesn't bring as many events."""
        while (brought := self.brought()) < seen:
            await anyio.sleep(self.timing.doubt_s)
            if self.brought() == brought:
                return True
        return False


def _is_unanswered(error: KubeError) -> bool:
    return isinstance(error, Unavailable) and error.kind is Reason.TIMEOUT and not error.status


def _is_event(line: bytes | OversizeLine) -> bool:
    """Whether a line tells of an object.

    Raises:
        BadResponse: It is an error, or no event.
    """
    if isinstance(line, OversizeLine):
        return True
    try:
        kind = parse_event(line).type
    except ScanNeeded:
        return True
    if kind == "ERROR":
        raise BadResponse("watch: an error")
    return kind in {"ADDED", "MODIFIED", "DELETED"}
