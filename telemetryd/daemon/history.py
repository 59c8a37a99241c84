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
from typing import Any, Final, Protocol, TypeVar

import anyio

from telemetryd.config import Config
from telemetryd.daemon.historystore import NO_FOLDER, StoreThread
from telemetryd.errors import HistoryError, NotReady
from telemetryd.history.backlog import Backlog, Batch
from telemetryd.history.entitlement import entitlement_of
from telemetryd.history.measure import measure
from telemetryd.history.months import EndedMonths
from telemetryd.history.recorder import Recorder, is_set
from telemetryd.history.report import month_of, number
from telemetryd.history.slots import DAY_S, HOUR_S, MINUTE_S, Gap, Moment, Slot
from telemetryd.history.store import HistoryStore, describe_store, instance_of
from telemetryd.model import HistoryStatus, Snapshot, Switches
from telemetryd.serve.page.facts import HistoryFacts
from telemetryd.timing import boot_time_s

T = TypeVar("T")

log = logging.getLogger(__name__)

LOOK_S: Final = 5.0
"""Between two looks at a fleet that changes all the time: a peak of that length is seen."""
END_TIMEOUT_S: Final = 1.5
"""For what is left at the end, within the drain."""
_ENDED = "month ended month=%s figure=%s licenses=%s hours_known=%s hours=%s digest=%s"
_COUNTED_AGAIN = (
    "month counted again month=%s figure=%s licenses=%s hours_known=%s hours=%s digest=%s"
)
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
        self._store = StoreThread(config, now=now)
        self.follow(config)
        self._recorder = Recorder(now=now, clock=clock)
        self._installation = ""
        self._seen: tuple[Snapshot, Moment] | None = None
        self._resumed = False
        self._waiting = Backlog()
        self._months = EndedMonths()
        self._pruned_s = -math.inf

    def follow(self, config: Config) -> None:
        """Put a configuration in force."""
        self._store.follow(config)
        self._config = config.history
        self._rule = entitlement_of(config.entitlement)
        self._note(enabled=config.history.enabled, limit=self._rule.limit, licenses=None)

    async def ask(self, call: Callable[[HistoryStore], T]) -> T:
        """What a call of the store returns, for a command, which makes none.

        Raises:
            HistoryError: There is no history yet, or the store fails.
        """
        return await self._store.use(call, make=False)

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
        self._months = EndedMonths()
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
            instance_of(self._store.config),
            describe_store(self._store.config),
            off or self._fleet.switches.detail,
        )

    async def read(self, size_s: int, begin: float, end: float, series: str) -> list[Slot]:
        """The slots of a size that begin in [begin, end), with the cells of a series, or of all.

        What is read counts for nothing in ``status``: a disk may be full and still be read. A write
        waits until it is read, so ask for no more than a month of hours.

        Raises:
            HistoryError: The store can't be read.
        """
        if self._off or not self._installation:
            return []
        of = self._installation
        return await self._store.use(
            lambda store: store.read(of, size_s, begin, end, series=series)
        )

    async def run(self) -> None:
        """Look and write until cancelled; then write what is left, within a time limit.

        Without a state folder, and without a database, nothing is kept.
        """
        while self._store.is_nowhere:
            self._note(trouble=NO_FOLDER)
            await anyio.sleep(MINUTE_S)
        try:
            while True:
                await self._look()
                minute = self._now() // MINUTE_S
                with anyio.move_on_after(MINUTE_S - self._now() % MINUTE_S):
                    await self._fleet.changed()
                    await anyio.sleep(self._look_s)
                # Read before the look: what it finds over, the look has seen to its end.
                if (now := self._now()) // MINUTE_S != minute:
                    await self._look()
                    await self._write(now)
        finally:
            with anyio.move_on_after(END_TIMEOUT_S, shield=True):
                await self._write(all_of_it=True)
                with suppress(HistoryError):
                    await self._store.close()

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
        self._months = EndedMonths()
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

    async def _write(self, now: float = math.inf, *, all_of_it: bool = False) -> None:
        """Write what is over, and once a day remove what is old; nothing while it is off.

        What is over goes by the clock; a month also by ``now``, where that is earlier.
        """
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
            await self._end_months(min(now, self._now()))
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
            of = self._installation if self._store.shared else ""
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

    async def _end_months(self, now: float) -> None:
        """Log the digest of each month that is over, once."""
        months = self._months
        if not (is_set(now) and months.is_due(now, shared=self._store.shared)):
            return
        rule, of = self._rule, self._installation

        def find(store: HistoryStore) -> bool:
            months.find(store, rule, of, now)
            return True

        await self._use(find)
        while months.found:
            period, again = months.found.pop(0)
            log.info(
                _COUNTED_AGAIN if again else _ENDED,
                f"{period.begin:%Y-%m}",
                None if period.figure is None else number(period.figure),
                period.licenses,
                number(period.hours.known),
                number(period.hours.total),
                period.digest,
            )

    async def _use(self, call: Callable[[HistoryStore], T]) -> T | None:
        """What a call of the store returns; None where it fails, which is logged once."""
        async with anyio.create_task_group() as looking:
            looking.start_soon(self._look_meanwhile)
            found = await self._try(call)
            looking.cancel_scope.cancel()
        return found

    async def _try(self, call: Callable[[HistoryStore], T]) -> T | None:
        try:
            found = await self._store.use(call)
        except HistoryError as error:
            self._fail(str(error))
            return None
        self._note(trouble="")
        return found

    def _note(self, **changes: Any) -> None:
        self.status = replace(self.status, **changes)

    def _fail(self, why: str) -> None:
        if why != self.status.trouble:
            log.warning("cannot keep the history error=%r", why)
        self._note(trouble=why)
