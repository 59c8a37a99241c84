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
        quiet_s: After this time, in which it isn't certain that the stream of a watch misses no
            event, a look is taken (``silence``); at the tick of ``timing`` before.
        look_s: So long a look lasts, and half as long where the server sends no bookmarks.
        look_again_s: Before the next look at a stream after one that failed.
        overdue_s: After this time without a bookmark a look is due at a stream of a server that
            sends them: a healthy one would have brought one.
        longest_doubt_s: Where a bookmark is overdue after no more than this, it is waited for.
        look_timeout_s: Deadline of the answer to a look, and of its end after it was to end. One
            without either is made again at once: its connection may be as dead as the stream.
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
    quiet_s: float = 33.0
    look_s: int = 60
    look_again_s: float = 60.0
    overdue_s: float = 66.0
    longest_doubt_s: float = 40.0
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
