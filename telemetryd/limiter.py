"""Limits how many callers use a shared resource: at once, or at once and by rate."""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import anyio

WAITED: Final = "still waiting for its turn: others are at work"
"""Note on the cancellation of a caller that had no turn yet."""


class Limiter:
    """Limits how many callers use a shared resource at once, in the order of their calls.

    A caller that holds its slot longer than ``patience_s`` no longer counts, though it goes on.
    With a limit of 16 and half a second, sixteen callers that hang delay all others once, by half
    a second.
    """

    __slots__ = ("_patience_s", "_semaphore")

    def __init__(self, limit: int, *, patience_s: float) -> None:
        """A free limiter; belongs to the event loop that first uses it."""
        self._semaphore = anyio.Semaphore(limit, max_value=limit, fast_acquire=True)
        self._patience_s = patience_s

    @property
    def waiting(self) -> int:
        """How many wait for a turn."""
        return self._semaphore.statistics().tasks_waiting

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, and keep it until the block is left; the deadline is the caller's.

        Raises:
            CancelledError: The caller was cut off before; ``WAITED`` is noted on it.
        """
        try:
            await self._semaphore.acquire()
        except asyncio.CancelledError as cut:
            cut.add_note(WAITED)
            raise
        counts = True

        def give_back() -> None:
            nonlocal counts
            if counts:
                counts = False
                self._semaphore.release()

        timer = asyncio.get_running_loop().call_later(self._patience_s, give_back)
        try:
            yield
        finally:
            timer.cancel()
            give_back()


class Gate:
    """Lets work begin in the order it is asked for, so much at a time; what waits is a function.

    Work that takes longer than ``patience_s`` no longer counts, though it goes on.
    """

    __slots__ = ("_busy", "_limit", "_patience_s", "_waiting")

    def __init__(self, limit: int, *, patience_s: float) -> None:
        """An open one; belongs to the event loop that first uses it."""
        self._limit = limit
        self._patience_s = patience_s
        self._busy = 0
        self._waiting: deque[Callable[[GatePass], object]] = deque()

    def enter(self, begin: "Callable[[GatePass], object]") -> None:
        """Call ``begin`` once there is room; its work gives the pass back when it is over."""
        self._waiting.append(begin)
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._busy < self._limit:
            self._busy += 1
            self._waiting.popleft()(GatePass(self._leave, self._patience_s))

    def _leave(self) -> None:
        self._busy -= 1
        self._admit()


class GatePass:
    """Counts its owner as busy until it is given back, or its time is over."""

    __slots__ = ("_leave", "_timer")

    def __init__(self, leave: Callable[[], None], patience_s: float) -> None:
        self._leave = leave
        loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = loop.call_later(patience_s, self.give_back)

    def give_back(self) -> None:
        """Make room for others; no effect a second time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._leave()


class TokenBucket:
    """Tokens that come back at a rate, up to a burst; full at first, below zero where overdrawn."""

    __slots__ = ("_at_s", "_burst", "_left", "_per_s")

    def __init__(self, per_s: float, *, burst: float) -> None:
        """A full one; its first use starts its clock, which is the event loop's."""
        self._per_s = per_s
        self._burst = burst
        self._left = burst
        self._at_s: float | None = None

    def wait_s(self, tokens: float = 1) -> float:
        """Seconds until so many are there; 0 where they are."""
        now_s = anyio.current_time()
        if self._at_s is not None:
            self._left = min(self._burst, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        return max(0.0, (tokens - self._left) / self._per_s)

    def take(self, tokens: float = 1) -> None:
        """Take so many, whether they are there or not."""
        self.wait_s(tokens)
        self._left -= tokens


class FairRate:
    """Turns at a limited rate, a few at a time, which no crowd of callers can take for itself.

    Peers get a turn in rotation. Among the callers of one peer chance decides, so a newcomer is
    never worse off than those who wait already: with ``n`` others of its peer waiting all the time
    it is among the next ``k`` turns of the peer with a chance of ``1 - (n / (n + 1)) ** k``.
    """

    __slots__ = (
        "_bucket",
        "_busy",
        "_most",
        "_rng",
        "_timer",
        "_waiting",
    )

    def __init__(
        self, per_s: float, *, burst: int, at_once: int, rng: random.Random | None = None
    ) -> None:
        """A free limiter; belongs to the event loop that first uses it.

        ``burst`` turns need no wait after a quiet time; ``rng`` chooses among a peer's callers.
        """
        self._bucket = TokenBucket(per_s, burst=burst)
        self._most = at_once
        self._rng = rng or random.Random()
        self._busy = 0
        self._waiting: dict[str, list[anyio.Event]] = {}
        self._timer: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def turn(self, peer: str) -> AsyncIterator[None]:
        """Wait for a turn, and keep it until the block is left; the deadline is the caller's.

        ``peer`` is on whose behalf, such as an address.
        """
        mine = anyio.Event()
        self._waiting.setdefault(peer, []).append(mine)
        self._admit()
        try:
            await mine.wait()
            yield
        finally:
            if mine.is_set():
                self._busy -= 1
            else:
                self._forget(peer, mine)
            self._admit()

    def _forget(self, peer: str, mine: anyio.Event) -> None:
        waiting = self._waiting[peer]
        waiting.remove(mine)
        if not waiting:
            del self._waiting[peer]

    def _admit(self) -> None:
        """Give out the turns that are free."""
        while self._waiting and self._busy < self._most and not self._bucket.wait_s():
            peer = next(iter(self._waiting))
            waiting = self._waiting.pop(peer)
            waiting.pop(self._rng.randrange(len(waiting))).set()
            if waiting:
                self._waiting[peer] = waiting  # behind the other peers
            self._bucket.take()
            self._busy += 1
        wait_s = self._bucket.wait_s()
        if self._waiting and wait_s and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(wait_s + 0.001, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._admit()
