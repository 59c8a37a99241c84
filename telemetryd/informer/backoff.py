"""Deadlines and delays of list and watch; ``machine`` decides which of them applies."""

import math
import random
from dataclasses import dataclass

from telemetryd.errors import KubeError, Throttled, Unavailable
from telemetryd.kube.responses import MAX_RETRY_AFTER_S


@dataclass(frozen=True, slots=True)
class WatchTiming:
    """Deadlines, limits and delays; tests shorten them.

    The backoff is client-go's: 0.8 s, doubled up to 30 s, forgotten after 120 s without failure.

    Attributes:
        jitter: A backoff is stretched by up to this share of itself, within the cap.
        short_watch_s: A watch that ends sooner without an event counts as a failure; watches are
            not opened more often than this.
        idle_limit_s: A watch without event or bookmark for so long is opened again, and so is one
            that isn't answered. Bookmarks come about every 60 s.
        watch_timeout_min_s: The API server is asked to end a watch after a random time from here.
        quiet_s: After this time without event or bookmark it is looked whether the stream of a
            watch misses events; stretched or shortened by up to a tenth.
        look_again_s: Between two such looks at one stream.
        overdue_s: After this time without event or bookmark one more look is made at a stream of a
            server that sends bookmarks: a healthy one would have brought one.
        look_timeout_s: Deadline of a look. One without an answer is made again at once: its
            connection may have been kept from before, and be as dead as the stream.
        doubt_s: So long a stream may take to bring what the look has shown.
        list_timeout_s: Deadline of one page, and of each line of a list as a stream.
        full_list_timeout_s: Deadline of a whole list, however it comes.
        stream_retry_s: For so long after a stream was refused lists come in pages. A try costs a
            request, or half a minute where the end never comes: often enough to notice that a
            newer server has replaced this one. Its version is believed for as long.
        resync_s: Between regular lists; stretched or shortened by up to a tenth.
        unheard_relist_s: Between lists where no watch is ever answered: a proxy may hold back an
            answer until the first event, or events with it.
        fallback_relist_s: Between lists where lists work and watches don't.
        suspect_relist_s: Until the next list after one that held broken objects.
        absence_recheck_s: Between the two answers that confirm absence while objects are held.
        unproven_s: Without a successful probe a watch ends after this time for another probe.
    """

    backoff_base_s: float = 0.8
    backoff_cap_s: float = 30.0
    backoff_reset_s: float = 120.0
    jitter: float = 1.0
    short_watch_s: float = 1.0
    idle_limit_s: float = 90.0
    quiet_s: float = 30.0
    look_again_s: float = 60.0
    overdue_s: float = 66.0
    look_timeout_s: float = 2.5
    doubt_s: float = 4.0
    watch_timeout_min_s: int = 300
    watch_timeout_max_s: int = 600
    list_timeout_s: float = 30.0
    full_list_timeout_s: float = 300.0
    stream_retry_s: float = 6 * 3600.0
    discovery_timeout_s: float = 10.0
    resync_s: float = 3600.0
    unheard_relist_s: float = 300.0
    fallback_relist_s: float = 30.0
    suspect_relist_s: float = 30.0
    absence_recheck_s: float = 5.0
    unproven_s: float = 15.0

    def server_timeout_s(self, rng: random.Random) -> int:
        """After how many seconds an API server is asked to end a watch."""
        return rng.randint(self.watch_timeout_min_s, self.watch_timeout_max_s)


DEFAULT_TIMING = WatchTiming()


@dataclass(frozen=True, slots=True)
class Backoff:
    """How many failures count, and when the last one was."""

    failures: int = 0
    last_at_s: float = -math.inf

    def after_failure(
        self, now_s: float, timing: WatchTiming, rng: random.Random
    ) -> tuple["Backoff", float]:
        """The backoff with one more failure, and seconds to wait for it.

        The wait is jittered even at the cap, so that many clients don't come back together.
        """
        failures = 0 if now_s - self.last_at_s >= timing.backoff_reset_s else self.failures
        plain_s = timing.backoff_base_s * 2.0 ** min(failures, 30)
        stretched_s = plain_s * (1.0 + timing.jitter * rng.random())
        cap_s = timing.backoff_cap_s * (1.0 - 0.25 * timing.jitter * rng.random())
        return Backoff(failures + 1, now_s), min(stretched_s, cap_s)


NO_FAILURES = Backoff()


@dataclass(slots=True)
class Delays:
    """The delays that one step can choose from; choosing one counts a failure."""

    retries: Backoff
    relists: Backoff
    now_s: float
    took_s: float
    timing: WatchTiming
    rng: random.Random

    def retry_s(self, error: KubeError | None = None) -> float:
        """Before the same request is made again.

        The time that the attempt took counts towards the delay, except for the shortest one:
        otherwise a request that hangs and a long delay would add up to more than a minute.
        """
        shortest_s = self.absence_s(0)
        self.retries, wait_s = self.retries.after_failure(self.now_s, self.timing, self.rng)
        wait_s = max(wait_s - self.took_s, min(wait_s, shortest_s))
        return asked_s(error, wait_s)

    def relist_s(self, error: KubeError | None = None) -> float:
        """Before a list that fixes something: 0 for the first, a backoff if they repeat.

        It counts from the last such list, so that it limits lists and delays nothing else.
        """
        since_s = self.now_s - self.relists.last_at_s
        self.relists, wait_s = self.relists.after_failure(self.now_s, self.timing, self.rng)
        return asked_s(error, max(0.0, wait_s - since_s))

    def absence_s(self, absences: int) -> float:
        """Before asking again for a resource that isn't served."""
        return Backoff(absences, self.now_s).after_failure(self.now_s, self.timing, self.rng)[1]


def asked_s(error: KubeError | None, wait_s: float) -> float:
    """The delay that the API server asks for, if any, but never less than our own."""
    if isinstance(error, Throttled | Unavailable) and error.retry_after_s is not None:
        return min(max(error.retry_after_s, wait_s), MAX_RETRY_AFTER_S)
    return wait_s


_MOST_UNANSWERED = 3
"""Looks in a row without an answer before a pause: idle connections, which each takes one of, are
few."""


class Silence:
    """How long a stream has brought nothing, and what is due because of it.

    A proxy may keep a connection open and pass on nothing. A healthy stream is silent, too, for the
    minute between two bookmarks, or always where there are none. So a second, short watch from
    the stream's position tells whether there is anything that the stream should have brought.

    Attributes:
        heard_at_s: When it last brought a line.
        marked: The server sends bookmarks.
    """

    __slots__ = (
        "_doubted_at_s",
        "_looked_at_s",
        "_quiet_s",
        "_timing",
        "_unanswered",
        "heard_at_s",
        "marked",
    )

    def __init__(self, now_s: float, timing: WatchTiming, rng: random.Random) -> None:
        self._timing = timing
        self._quiet_s = timing.quiet_s * rng.uniform(0.9, 1.1)
        self._looked_at_s, self._doubted_at_s = -math.inf, math.inf
        self._unanswered = 0
        self.heard_at_s = now_s
        self.marked = False

    def heard(self, now_s: float) -> None:
        """It has brought a line: all doubt is gone."""
        self.heard_at_s = now_s
        self._doubted_at_s = math.inf

    def looked(self, now_s: float, *, missed: bool | None) -> None:
        """It was looked for what the stream misses; None: there was no answer."""
        self._unanswered = self._unanswered + 1 if missed is None else 0
        if self._unanswered % _MOST_UNANSWERED == 0:
            self._looked_at_s = now_s
        if missed:
            self._doubted_at_s = now_s

    @property
    def look_at_s(self) -> float:
        """When the next look is due; never where another watch is due first."""
        due_s = max(self.heard_at_s + self._quiet_s, self._looked_at_s + self._timing.look_again_s)
        overdue_at_s = self.heard_at_s + self._timing.overdue_s
        if self.marked and self._looked_at_s < overdue_at_s:
            due_s = min(due_s, overdue_at_s)
        return due_s if due_s + self._timing.doubt_s < self.over_at_s else math.inf

    @property
    def over_at_s(self) -> float:
        """When another watch takes the place of the stream."""
        return min(
            self.heard_at_s + self._timing.idle_limit_s, self._doubted_at_s + self._timing.doubt_s
        )
