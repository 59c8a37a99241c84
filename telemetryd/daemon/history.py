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
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import anyio

from telemetryd.config import Config
from telemetryd.errors import HistoryError, NotReady
from telemetryd.export.threads import StillHangingError, WorkerThread, shared_threads
from telemetryd.history.backlog import Backlog, Batch
from telemetryd.history.entitlement import entitlement_of
from telemetryd.history.measure import measure
from telemetryd.history.recorder import Recorder, is_set
from telemetryd.history.report import month_of
from telemetryd.history.slots import DAY_S, HOUR_S, MINUTE_S, Gap, Moment, Slot
from telemetryd.history.store import (
    FILE_NAME,
    HistoryStore,
    describe_store,
    instance_of,
    is_shared,
    open_history,
)
from telemetryd.model import HistoryStatus, Snapshot, Switches
from telemetryd.serve.page.usage import HistoryFacts
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
_SLOW: Final = {
    False: "the disk takes too long: check the disk or the file server",
    True: "PostgreSQL takes too long: check the server and the network",
}
PRUNE_AFTER_S: Final = HOUR_S
"""A clock that was wrong at boot is right by then: by a wrong one, everything could be too old."""


class FleetSource(Protocol):
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
    """Looks, and keeps what it saw in the state folder, or in a database.

    Attributes:
        status: What is shown of it.
    """

    def __init__(
        self,
        fleet: FleetSource,
        config: Config,
        epoch: Callable[[], int] = lambda: 0,
        *,
        now: Callable[[], float],
        clock: Callable[[], float] = boot_time_s,
        look_s: float = LOOK_S,
    ) -> None:
        """Nothing is opened before ``run``.

        Args:
            fleet: What is looked at.
            config: Where the file is made, what is kept, and for how long.
            epoch: Of leadership, now.
            now: Unix time in seconds.
            clock: Seconds since the machine booted.
            look_s: Between two looks.
        """
        self._look_s = look_s
        self._fleet = fleet
        self._now = now
        self._epoch = epoch
        self._clock = clock
        self.status = HistoryStatus()
        self._whole = config
        self._store: HistoryStore | None = None
        self._stale = False
        self.follow(config)
        self._thread = WorkerThread(shared_threads())
        self._recorder = Recorder(now=now, clock=clock)
        self._installation = ""
        self._seen: tuple[Snapshot, Moment] | None = None
        self._resumed = False
        self._waiting = Backlog()
        self._pruned_s = -math.inf

    def follow(self, config: Config) -> None:
        """Put a configuration in force."""
        self._stale = self._stale or config.history != self._whole.history
        # The folder is that of the start.
        self._whole = replace(config, state_dir=self._whole.state_dir)
        self._config = config.history
        self._rule = entitlement_of(config.entitlement)
        self._note(enabled=config.history.enabled, limit=self._rule.limit, licenses=None)

    async def ask(self, call: Callable[[HistoryStore], T]) -> T:
        """What a call of the store returns, for a command.

        Raises:
            HistoryError: There is no history yet, or the store fails.
        """
        if self._whole.state_dir is None and not is_shared(self._whole):
            raise HistoryError(f"no history: {_NO_FOLDER}")
        try:
            with anyio.fail_after(STORE_TIMEOUT_S):
                return await self._run(lambda: call(self._existing()))
        except TimeoutError as error:
            raise HistoryError(_SLOW[is_shared(self._whole)]) from error

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
        await self.ask(lambda store: store.clear())

    @property
    def _off(self) -> bool:
        return not (self._config.enabled and self._fleet.switches.enabled)

    def facts(self) -> HistoryFacts:
        """What the pages show of it, beside the slots."""
        off = "" if self._config.enabled else "history.enabled is false in the configuration"
        return HistoryFacts(
            self._now(),
            self.status,
            self._rule,
            self._installation,
            instance_of(self._whole),
            describe_store(self._whole),
            off or self._fleet.switches.detail,
        )

    async def read(self, size_s: int, begin: float, end: float, series: str) -> list[Slot]:
        """The slots of a size that begin in [begin, end), with the cells of one series.

        What is read counts for nothing in ``status``: a disk may be full and still be read. A write
        waits until it is read, so ask for no more than a month of hours.

        Raises:
            HistoryError: The store can't be read.
        """
        if self._off or not self._installation:
            return []
        of = self._installation
        try:
            with anyio.fail_after(STORE_TIMEOUT_S):
                return await self._run(
                    lambda: self._opened().read(of, size_s, begin, end, series=series)
                )
        except TimeoutError:
            raise HistoryError(_SLOW[is_shared(self._whole)]) from None

    async def run(self) -> None:
        """Look and write until cancelled; then write what is left, within a time limit.

        Without a state folder, and without a database, nothing is kept.
        """
        while self._whole.state_dir is None and not is_shared(self._whole):
            self._note(trouble=_NO_FOLDER)
            await anyio.sleep(MINUTE_S)
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
                with suppress(HistoryError):
                    await self._run(self._close)

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
        self._see(snapshot)

    def _see(self, snapshot: Snapshot) -> None:
        if self._seen is None or self._seen[0] is not snapshot:
            self._seen = snapshot, measure(snapshot)
        self._recorder.see(self._seen[1])
        self._note(samples=self.status.samples + 1, last_sample_at=self._now())

    async def _look_meanwhile(self) -> None:
        """Look while a disk takes its time: a peak must not go by."""
        while True:
            await anyio.sleep(self._look_s or LOOK_S)
            with suppress(NotReady):
                if not self._off:
                    snapshot = self._fleet.snapshot()
                    if snapshot.identity.install_uuid == self._installation:
                        self._see(snapshot)

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
        self._resumed = False
        await self._resume()

    async def _resume(self) -> None:
        """Have the recorder say what was missed since the store ends, once that is known."""
        installation, now = self._installation, self._now()
        found = await self._use(lambda store: (store.known_until(installation, now),))
        if found is not None:
            self._resumed = True
            if found[0] is not None:
                self._recorder.resume(found[0])

    async def _write(self, *, all_of_it: bool = False) -> None:
        """Write what is over, and once a day remove what is old; nothing while it is off."""
        if self._off or not self._installation:
            return
        if not self._resumed:
            await self._resume()
        slots = self._recorder.take(all_of_it=all_of_it)
        if lost := self._waiting.add(self._installation, self._epoch(), slots):
            self._note(lost_slots=self.status.lost_slots + lost)
        taken = False
        while (batch := self._waiting.first()) is not None:
            taken = await self._put(batch)
            if not taken:
                return
            self._waiting.done(batch)
        if taken:
            await self._count()
            await self._prune()

    async def _put(self, batch: Batch) -> bool:
        """Whether the store has a batch now, of which nothing is there twice."""
        batch.tried, slots = True, tuple(batch.slots)

        def write(store: HistoryStore) -> bool:
            store.write(batch.installation, slots, epoch=batch.epoch, batch=batch.token)
            return True

        return bool(await self._use(write))

    async def _prune(self) -> None:
        if self._recorder.steady_s < PRUNE_AFTER_S or self._clock() - self._pruned_s < DAY_S:
            return
        now, kept = self._now(), self._config

        def prune(store: HistoryStore) -> bool:
            # Others say for how long they keep theirs in a store that is shared.
            of = self._installation if is_shared(self._whole) else ""
            store.prune(now, keep_s=kept.keep_s, keep_daily_s=kept.keep_daily_s, installation=of)
            return True

        if await self._use(prune):
            self._pruned_s = self._clock()

    async def _count(self) -> None:
        """What this month counts by the rule."""
        if not is_set(self._now()):
            return
        installation, series = self._installation, self._rule.series
        month = month_of(datetime.fromtimestamp(self._now(), UTC)).timestamp()
        hours = await self._use(
            lambda store: store.read(installation, HOUR_S, month, math.inf, series=series)
        )
        figure = self._rule.figure(hours) if hours else None
        self._note(licenses=None if figure is None else self._rule.licenses(figure))

    async def _use(self, call: Callable[[HistoryStore], T]) -> T | None:
        """What a call of the store returns; None where it fails, which is logged once."""
        async with anyio.create_task_group() as looking:
            looking.start_soon(self._look_meanwhile)
            found = await self._try(call)
            looking.cancel_scope.cancel()
        return found

    async def _try(self, call: Callable[[HistoryStore], T]) -> T | None:
        try:
            with anyio.fail_after(STORE_TIMEOUT_S):
                found = await self._run(lambda: call(self._opened()))
        except TimeoutError:  # it goes on in its thread, and may open a large file yet
            self._fail(_SLOW[is_shared(self._whole)])
        except HistoryError as error:
            self._fail(str(error))
            self._stale = True
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

    def _existing(self) -> HistoryStore:
        """The store; called in the thread.

        Raises:
            HistoryError: There is none, and to ask for one makes none.
        """
        folder = self._whole.state_dir
        missing = not is_shared(self._whole) and not Path(folder or "", FILE_NAME).exists()
        if self._store is None and missing:
            raise HistoryError(f"no history in {folder} yet")
        return self._opened()

    def _opened(self) -> HistoryStore:
        """The store; called in the thread."""
        if self._stale:
            # A disk that was full or away may have left the connection useless.
            self._close()
        self._stale = False
        if self._store is None:
            self._store = open_history(self._whole, now=self._now)
        return self._store

    def _close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    def _note(self, **changes: Any) -> None:
        self.status = replace(self.status, **changes)

    def _fail(self, why: str) -> None:
        if why != self.status.trouble:
            log.warning("cannot keep the history error=%r", why)
        self._note(trouble=why)
