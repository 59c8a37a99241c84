"""One resource kept in a store: source to lines to objects to records, for ever.

The rules of when to list and when to watch are ``watch``'s; what a record holds is the resource's.
"""

import logging
import math
import random
from collections.abc import Callable
from typing import Generic, assert_never

import anyio

from telemetryd.errors import BadResponse, Gone, KubeError, Reason, Unavailable
from telemetryd.kube.apply import Applier, Progress
from telemetryd.kube.decode import Page
from telemetryd.kube.lines import LineSplitter
from telemetryd.kube.paging import Paging
from telemetryd.kube.resource import Reader, Resource, T
from telemetryd.kube.source import Source, Stream
from telemetryd.kube.states import (
    Checked,
    CheckFailed,
    Checking,
    Crashed,
    Listed,
    ListFailed,
    Listing,
    ListReason,
    ListRegressed,
    ListSuspect,
    Outcome,
    Probed,
    ProbeFailed,
    Probing,
    ResyncDue,
    State,
    WatchEnd,
    WatchEnded,
    WatchFailed,
    Watching,
    WatchMalformed,
    WatchRegressed,
    WatchUnheard,
)
from telemetryd.kube.store import Relist, Store
from telemetryd.kube.trouble import Journal, trouble_in
from telemetryd.kube.waits import DEFAULT_TIMING, WatchTiming
from telemetryd.kube.watch import START, Move, is_short, step
from telemetryd.model import R
from telemetryd.stats import InformerStats

log = logging.getLogger(__name__)

_TIMEOUT_LEEWAY_S = 5.0
"""A watch that ends this little before the time asked for has ended because of it."""


class Informer(Generic[T, R]):
    """Keeps ``reader`` equal to what the API server holds of one resource."""

    def __init__(
        self,
        resource: Resource[T, R],
        source: Source,
        *,
        now: Callable[[], float],
        rng: random.Random,
        stats: InformerStats,
        page_size: int = 500,
        timing: WatchTiming = DEFAULT_TIMING,
    ) -> None:
        """Nothing is asked of the source before ``run``.

        Args:
            resource: What is watched, and how an object becomes a record.
            source: Where it comes from; ``KubeSource`` outside of tests.
            now: Unix time in seconds.
            rng: For jitter and watch timeouts.
            stats: Counters of this informer, moved here.
            page_size: Objects a page.
            timing: Limits and waits.
        """
        self.resource = resource
        self._source = source
        self._rng = rng
        self._stats = stats
        self._page_size = page_size
        self._timing = timing
        self._store: Store[R] = Store(stats)
        self._applier = Applier(resource, self._store, stats, now)
        self._journal = Journal(resource.id)
        self._resync_at_s = 0.0
        self._heard_at_s = 0.0

    @property
    def reader(self) -> Reader[R]:
        """What is held, for everyone else."""
        return self._store.reader

    async def run(self) -> None:
        """List and watch until cancelled, whatever happens."""
        machine = START
        while True:
            asked_at_s = anyio.current_time()
            outcome = await self._attempt(machine.state)
            now_s = anyio.current_time()
            move = step(
                machine,
                outcome,
                now_s=now_s,
                took_s=now_s - asked_at_s,
                timing=self._timing,
                rng=self._rng,
            )
            self._count(machine.state, outcome)
            self._tell(machine.state, outcome, move)
            machine = move.machine
            await anyio.sleep(move.wait_s)

    async def _attempt(self, state: State) -> Outcome:
        try:
            match state:
                case Listing():
                    return await self._list(state)
                case Watching():
                    return await self._watch(state)
                case Probing():
                    return await self._probe(state)
                case Checking():
                    return await self._check()
                case _:
                    assert_never(state)
        except Exception:
            # Whatever this is, the daemon's other parts don't deserve it, and a fresh list mends
            # what may have been left half done.
            trouble = self._journal.trouble
            known = trouble is not None and trouble.kind == "internal"
            level = logging.DEBUG if known else logging.ERROR
            log.log(level, "informer failed resource=%s", self.resource.id, exc_info=True)
            return Crashed()
        finally:
            self._store.flush()

    # -- list

    async def _list(self, state: Listing) -> Outcome:
        started_s = anyio.current_time()
        paging = Paging(started_s + self._timing.full_list_timeout_s)
        relist: Relist[R] = Relist(self._store)
        version = token = ""
        suspects = number = 0
        while token or not number:
            number += 1
            try:
                page = await self._fetch(state, token)
                keyless_before = relist.keyless
                suspects += await self._applier.take_page(page, relist)
                paging.turn(
                    page.continue_token,
                    now_s=anyio.current_time(),
                    objects=len(page.items),
                    named=len(page.items) - (relist.keyless - keyless_before),
                    keys=len(relist),
                )
            except KubeError as error:
                return ListFailed(error, number)
            version = version or page.resource_version
            if state.reason is not ListReason.REGRESSION and self._applier.is_older(version):
                return ListRegressed()
            if suspects and not state.tolerant:
                return ListSuspect()
            self._contact()
            token = page.continue_token
            del page  # a page's objects keep all of its bytes alive
        await relist.apply(version)
        self._applier.contact()
        ended_s = self._heard_at_s = anyio.current_time()
        self._stats.list_duration.observe(ended_s - started_s)
        jittered_s = self._timing.resync_s * self._rng.uniform(0.9, 1.1)
        self._resync_at_s = ended_s + (self._timing.suspect_relist_s if suspects else jittered_s)
        return Listed(version)

    async def _fetch(self, state: Listing, token: str) -> Page:
        """The list's page that the token leads to, or all of the list.

        Raises:
            KubeError: It can't be had.
        """
        timing = self._timing
        body = await self._source.list_page(
            limit=self._page_size if state.paged else None,
            continue_token=token,
            timeout_s=timing.list_timeout_s if state.paged else timing.full_list_timeout_s,
        )
        return await self._applier.read_page(body)

    async def _probe(self, state: Probing) -> Outcome:
        try:
            body = await self._source.list_page(
                limit=1, continue_token="", timeout_s=self._timing.list_timeout_s
            )
            page = await self._applier.read_page(body)
        except KubeError as error:
            return ProbeFailed(error)
        if self._applier.is_older(page.resource_version):
            return WatchRegressed()
        if not state.refusals and not state.lost:
            # Had there been anything to tell, the watch would have told it.
            self._applier.contact()
            self._recover()
        return Probed()

    # -- watch

    async def _watch(self, state: Watching) -> Outcome:
        timing = self._timing
        timeout_s = self._rng.randint(timing.watch_timeout_min_s, timing.watch_timeout_max_s)
        progress = Progress(anyio.current_time())
        if progress.started_s >= self._resync_at_s:
            return ResyncDue()
        try:
            async with self._source.watch(
                state.resource_version,
                server_timeout_s=timeout_s,
                open_timeout_s=timing.idle_limit_s,
            ) as stream:
                self._stats.watches["success"] += 1
                self._contact()
                progress.accepted = True
                until_s = self._timing.unproven_s if state.unproven else math.inf
                end = await self._follow(stream, progress, progress.started_s + until_s)
        except BadResponse as error:
            if not progress.accepted:
                self._stats.watches["error"] += 1
                return WatchFailed(self._position(state), error)
            return WatchMalformed(self._position(state), progress.events)
        except KubeError as error:
            return self._broken_off(state, error, progress)
        if not isinstance(end, WatchEnd):
            return end
        lasted_s = anyio.current_time() - progress.started_s
        if end is WatchEnd.CLOSED and lasted_s >= timeout_s - _TIMEOUT_LEEWAY_S:
            end = WatchEnd.TIMEOUT
        return WatchEnded(self._position(state), end, lasted_s, progress.events)

    def _broken_off(self, state: Watching, error: KubeError, progress: Progress) -> Outcome:
        now_s = anyio.current_time()
        if not progress.accepted:
            is_timeout = isinstance(error, Unavailable) and error.kind is Reason.TIMEOUT
            if is_timeout and error.status is None:
                return WatchUnheard(self._position(state), now_s - self._heard_at_s)
            self._stats.watches["error"] += 1
            return WatchFailed(self._position(state), error)
        stood = now_s - progress.started_s >= self._timing.fallback_relist_s
        return WatchFailed(self._position(state), error, worked=stood or progress.events > 0)

    def _position(self, state: Watching) -> str:
        return self._store.resource_version or state.resource_version

    async def _follow(
        self, stream: Stream, progress: Progress, end_at_s: float
    ) -> WatchEnd | WatchRegressed | ResyncDue:
        """Apply what the watch brings until it ends, one way or the other, or its time has come.

        Raises:
            BadResponse: It brought something that isn't an event.
            Unavailable: It broke.
            KubeError: It brought an ERROR event.
        """
        splitter = LineSplitter()
        heard_at_s = anyio.current_time()
        while True:
            now_s = anyio.current_time()
            idle_at_s = heard_at_s + self._timing.idle_limit_s
            if now_s >= self._resync_at_s:
                return ResyncDue()
            if now_s >= idle_at_s:
                return WatchEnd.IDLE
            if now_s >= end_at_s:
                return WatchEnd.CLOSED
            look_at_s = self._next_look_s(progress, now_s)
            until_s = min(self._resync_at_s, idle_at_s, end_at_s, look_at_s)
            try:
                chunk = await stream.read(until_s - now_s)
            except Unavailable as error:
                if error.kind is not Reason.TIMEOUT:
                    raise
                continue
            if not chunk:
                return WatchEnd.CLOSED
            lines = splitter.feed(chunk)
            del chunk
            if lines:
                heard_at_s = anyio.current_time()
                if not await self._applier.apply_lines(lines, progress):
                    return WatchRegressed()
                self._heard_at_s = heard_at_s
                self._recover()

    def _next_look_s(self, progress: Progress, now_s: float) -> float:
        """When to look whether a watch that follows on trouble has lasted long enough."""
        if self._journal.trouble is None:
            return math.inf
        well_at_s = progress.started_s + self._timing.short_watch_s
        if now_s < well_at_s:
            return well_at_s
        self._applier.contact()
        self._recover()
        return math.inf

    # -- discovery

    async def _check(self) -> Outcome:
        try:
            served = await self._source.served(timeout_s=self._timing.discovery_timeout_s)
        except KubeError as error:
            return CheckFailed(error)
        if not served:
            self._applier.contact()
        return Checked(served, len(self._store))

    # -- what others see of it

    def _contact(self) -> None:
        """The API server has been heard, which proves something only while all is well.

        Else the same page or watch that leads nowhere, again and again, would make what is held
        look fresh: then only a whole list or a watch that works counts.
        """
        if self._journal.trouble is None:
            self._applier.contact()

    def _recover(self) -> None:
        self._journal.leave()
        self._store.set_error("")

    def _tell(self, state: State, outcome: Outcome, move: Move) -> None:
        self._journal.moved(state, outcome, move, len(self._store))
        trouble = trouble_in(outcome, self._timing)
        if move.absent:
            self._journal.absent()
            self._store.set_error("")
            self._store.finish_absent()
        elif trouble is not None:
            self._journal.enter(trouble, move.wait_s)
            self._store.set_error(trouble.text)
            self._store.flush()

    def _count(self, state: State, outcome: Outcome) -> None:
        stats = self._stats
        match state:
            case Listing():
                result = "success" if isinstance(outcome, Listed) else "error"
                stats.lists[result, state.reason] += 1
            case Watching():
                stats.watch_terminations[_termination(outcome, self._timing)] += 1
            case Probing() | Checking():
                pass
            case _:
                assert_never(state)


def _termination(outcome: Outcome, timing: WatchTiming) -> str:
    """Label ``reason`` of the counter of ended watches."""
    match outcome:
        case WatchEnded() if is_short(outcome, timing):
            return "short"
        case WatchEnded():
            return outcome.how
        case WatchUnheard():
            return WatchEnd.IDLE
        case WatchFailed(error=Gone()):
            return "expired"
        case ResyncDue():
            return "closed"
        case _:
            return "error"
