"""Keeps the history beside the collection: looks at the fleet, and each minute writes what it saw.

Nothing here can hold up an export: the store is used in a thread of its own, under a time limit.
What it doesn't take waits in memory, up to a bound.
"""

import logging
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import anyio

from telemetryd.config import Config
from telemetryd.errors import HistoryError, NotReady
from telemetryd.export.threads import StillHangingError, WorkerThread, shared_threads
from telemetryd.history.entitlement import entitlement_of
from telemetryd.history.measure import measure
from telemetryd.history.recorder import Recorder
from telemetryd.history.report import month_of
from telemetryd.history.slots import DAY_S, HOUR_S, MINUTE_S, Gap, Moment, Slot
from telemetryd.history.sqlite import FILE_NAME, SqliteStore, open_store
from telemetryd.model import HistoryStatus, Snapshot, Switches
from telemetryd.timing import boot_time_s

T = TypeVar("T")

log = logging.getLogger(__name__)

LOOK_S: Final = 5.0
"""Between two looks at a fleet that changes all the time: a peak of that length is seen."""
STORE_TIMEOUT_S: Final = 20.0
END_TIMEOUT_S: Final = 1.5
"""For what is left at the end, within the drain."""
_PAUSE_S: Final = 0.05
_NO_FOLDER: Final = "there is no usable state_dir: configure one"
_SLOW: Final = "the disk takes too long: check the disk or the file server"
MOST_WAITING: Final = 2 * 24 * 60
"""Slots in memory while the store takes none; then the oldest go."""


class Fleet(Protocol):
    """What is looked at: the collector."""

    @property
    def switches(self) -> Switches:
        """Which switches turn collection off."""

    def snapshot(self) -> Snapshot:
        """The fleet now.

        Raises:
            NotReady: There is none.
        """

    async def changed(self) -> None:
        """Return when the next snapshot may be another one, or collection is on or off."""


class HistoryKeeper:
    """Looks, and keeps what it saw in the state folder.

    Attributes:
        status: What is shown of it.
    """

    def __init__(
        self,
        fleet: Fleet,
        config: Config,
        *,
        now: Callable[[], float],
        clock: Callable[[], float] = boot_time_s,
        look_s: float = LOOK_S,
    ) -> None:
        """Nothing is opened before ``run``.

        Args:
            fleet: What is looked at.
            config: Where the file is made, what is kept, and for how long.
            now: Unix time in seconds.
            clock: Seconds since the machine booted.
            look_s: Between two looks.
        """
        self._look_s = look_s
        self._fleet = fleet
        self._folder = config.state_dir
        self._now = now
        self._clock = clock
        self.status = HistoryStatus()
        self.follow(config)
        self._thread = WorkerThread(shared_threads())
        self._store: SqliteStore | None = None
        self._stale = False
        self._recorder = Recorder(now=now, clock=clock)
        self._installation = ""
        self._seen: tuple[Snapshot, Moment] | None = None
        self._waiting: list[Slot] = []
        self._pruned_at = 0.0

    def follow(self, config: Config) -> None:
        """Put a configuration in force."""
        self._config = config.history
        self._rule = entitlement_of(config.entitlement)
        self._note(enabled=config.history.enabled, limit=self._rule.limit, licenses=None)

    async def ask(self, call: Callable[[SqliteStore], T]) -> T:
        """What a call of the store returns, for a command.

        Raises:
            HistoryError: There is no history yet, or the store fails.
        """
        if self._folder is None:
            raise HistoryError(f"no history: {_NO_FOLDER}")
        try:
            with anyio.fail_after(STORE_TIMEOUT_S):
                return await self._run(lambda: call(self._existing()))
        except TimeoutError as error:
            raise HistoryError(_SLOW) from error

    async def prune(self, keep_s: float, keep_daily_s: float) -> int:
        """Remove what is older; returns the number of slots.

        Raises:
            HistoryError: There is no history yet, or the store fails.
        """
        now = self._now()
        return await self.ask(
            lambda store: store.prune(now, keep_s=keep_s, keep_daily_s=keep_daily_s)
        )

    async def clear(self) -> None:
        """Remove everything, what isn't written yet among it.

        Raises:
            HistoryError: The store fails.
        """
        self._waiting.clear()
        self._recorder = Recorder(now=self._now, clock=self._clock)
        self._note(licenses=None)
        await self.ask(SqliteStore.clear)

    @property
    def _off(self) -> bool:
        return not (self._config.enabled and self._fleet.switches.enabled)

    async def run(self) -> None:
        """Look and write until cancelled; then write what is left, within a time limit.

        Without a state folder nothing is kept.
        """
        if self._folder is None:
            self._note(trouble=_NO_FOLDER)
            await anyio.sleep_forever()
        try:
            while True:
                await self._look()
                minute = self._now() // MINUTE_S
                with anyio.move_on_after(MINUTE_S - self._now() % MINUTE_S):
                    await self._fleet.changed()
                    await anyio.sleep(self._look_s)
                if self._now() // MINUTE_S != minute:
                    await self._look()
                    await self._write()
        finally:
            with anyio.move_on_after(END_TIMEOUT_S, shield=True):
                await self._write(all_of_it=True)
                if self._store is not None:  # otherwise there would be one from now on
                    await self._use(SqliteStore.close)

    async def _look(self) -> None:
        if self._off:
            self._forget()
            return
        try:
            snapshot = self._fleet.snapshot()
        except NotReady:
            self._recorder.lose(Gap.DOWN)
            return
        if snapshot.identity.install_uuid != self._installation:
            await self._begin(snapshot.identity.install_uuid)
        if self._seen is None or self._seen[0] is not snapshot:
            self._seen = snapshot, measure(snapshot)
        self._recorder.see(self._seen[1])
        self._note(samples=self.status.samples + 1, last_sample_at=self._now())

    def _forget(self) -> None:
        """Collection is off: keep only since when."""
        if self._seen is not None:
            self._waiting.clear()
            self._recorder = Recorder(now=self._now, clock=self._clock)
        self._seen = None
        self._recorder.lose(Gap.OFF)

    async def _begin(self, installation: str) -> None:
        """Go on with the history of an installation."""
        if self._installation:
            await self._write(all_of_it=True)
            self._recorder = Recorder(now=self._now, clock=self._clock)
        self._installation = installation
        until = await self._use(lambda store: store.known_until(installation))
        if until is not None and not self._recorder.started:
            self._recorder.resume(until)

    async def _write(self, *, all_of_it: bool = False) -> None:
        """Write what is over, and once a day remove what is old; nothing while it is off."""
        if self._off or not self._installation:
            return
        self._waiting += self._recorder.take(all_of_it=all_of_it)
        lost = max(0, len(self._waiting) - MOST_WAITING)
        if lost:
            self._note(lost_slots=self.status.lost_slots + lost)
            del self._waiting[:lost]
        slots = tuple(self._waiting)
        write = partial(SqliteStore.write, installation=self._installation, slots=slots)
        taken = bool(slots) and await self._use(lambda store: _done(write(store)))
        if taken:
            del self._waiting[: len(slots)]
        if taken:
            await self._count()
        if self._now() - self._pruned_at >= DAY_S:
            prune = partial(
                SqliteStore.prune,
                now=self._now(),
                keep_s=self._config.keep_s,
                keep_daily_s=self._config.keep_daily_s,
            )
            if await self._use(lambda store: _done(prune(store))):
                self._pruned_at = self._now()

    async def _count(self) -> None:
        """What this month counts by the rule."""
        month = month_of(datetime.fromtimestamp(self._now(), UTC)).timestamp()
        read = partial(
            SqliteStore.read,
            installation=self._installation,
            size_s=HOUR_S,
            begin=month,
            end=math.inf,
            series=self._rule.series,
        )
        hours = await self._use(read)
        figure = self._rule.figure(hours) if hours else None
        self._note(licenses=None if figure is None else self._rule.licenses(figure))

    async def _use(self, call: Callable[[SqliteStore], T]) -> T | None:
        """What a call of the store returns; None where it fails, which is logged once."""
        try:
            with anyio.fail_after(STORE_TIMEOUT_S):
                found = await self._run(lambda: call(self._opened()))
        except TimeoutError:
            self._fail(_SLOW)
        except HistoryError as error:
            self._fail(str(error))
        else:
            self._note(trouble="")
            return found
        return None

    async def _run(self, call: Callable[[], T]) -> T:
        """What a call returns, once one that was cut off has ended."""
        while True:
            with suppress(StillHangingError):
                return await self._thread.run(call)
            await anyio.sleep(_PAUSE_S)

    def _existing(self) -> SqliteStore:
        """The store; called in the thread.

        Raises:
            HistoryError: There is none, and to ask for one makes none.
        """
        if self._store is None and not Path(self._folder or "", FILE_NAME).exists():
            raise HistoryError(f"no history in {self._folder} yet")
        return self._opened()

    def _opened(self) -> SqliteStore:
        """The store; called in the thread."""
        if self._stale and self._store is not None:
            # A disk that was full or away may have left the connection useless.
            self._store.close()
            self._store = None
        self._stale = False
        if self._store is None:
            self._store = open_store(Path(self._folder or ""), now=self._now)
            if self._store.set_aside is not None:
                aside, why = self._store.set_aside
                log.error("history is damaged, a new one begins moved_to=%s error=%r", aside, why)
        return self._store

    def _note(self, **changes: Any) -> None:
        self.status = replace(self.status, **changes)

    def _fail(self, why: str) -> None:
        if why != self.status.trouble:
            log.warning("cannot keep the history error=%r", why)
        self._note(trouble=why)
        self._stale = True


def _done(_: object) -> bool:
    return True
