"""Keeps a store equal to one resource of the API server, by the decisions of ``machine``."""

import asyncio
import logging
import math
import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Generic, assert_never

import anyio
from anyio.abc import TaskGroup

from telemetryd.errors import BadResponse, KubeError, Reason, Unavailable
from telemetryd.informer.apply import Applier, Progress
from telemetryd.informer.backoff import DEFAULT_TIMING, WatchTiming
from telemetryd.informer.lists import Lister
from telemetryd.informer.machine import START, START_STREAMED, Machine, Move, step
from telemetryd.informer.resource import Resource, T
from telemetryd.informer.silence import Lookout, Silence
from telemetryd.informer.source import KubeSource, LineFeed, Lines
from telemetryd.informer.states import (
    Checked,
    Checking,
    Crashed,
    Failed,
    Listed,
    Listing,
    ListMethod,
    ListReason,
    Outcome,
    Probing,
    Regressed,
    ResyncDue,
    State,
    StreamRefused,
    Trouble,
    WatchEnd,
    WatchEnded,
    WatchFailed,
    Watching,
    WatchUnanswered,
    termination,
    trouble_in,
)
from telemetryd.informer.store import Reader, Store
from telemetryd.model import R
from telemetryd.stats import InformerStats

log = logging.getLogger(__name__)


_TIMEOUT_LEEWAY_S = 5.0
"""A watch that ends this close to the requested time has ended because of it."""


class Informer(Generic[T, R]):
    """Keeps ``reader`` equal to what the API server holds of one resource."""

    def __init__(
        self,
        resource: Resource[T, R],
        source: KubeSource,
        *,
        now: Callable[[], float],
        rng: random.Random,
        stats: InformerStats,
        page_size: int = 500,
        streamed: bool = False,
        timing: WatchTiming = DEFAULT_TIMING,
    ) -> None:
        self.resource = resource
        self._source = source
        self._rng = rng
        self._stats = stats
        self._timing = timing
        self._store: Store[R] = Store(stats)
        self._applier = Applier(resource, self._store, stats, now)
        self._trouble: Trouble | None = None
        self._synced = False
        self._start = START_STREAMED if streamed else START
        self._lister = Lister(source, self._applier, rng, page_size, timing, self._contact)
        self._heard_at_s = 0.0
        self._marked = False

    @property
    def reader(self) -> Reader[R]:
        """The store without its writing side."""
        return self._store

    async def run(self) -> None:
        """List and watch until cancelled, whatever happens."""
        machine = self._start
        try:
            while True:
                machine = await self._turn(machine)
        finally:
            stream = self._lister.take_stream()
            if stream is not None:
                with anyio.CancelScope(shield=True):
                    await stream.resources.aclose()

    async def _turn(self, machine: Machine) -> Machine:
        """Do what the state says, and wait as long as the outcome requires."""
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
        self._report(machine.state, outcome, move)
        await anyio.sleep(move.wait_s)
        return move.machine

    async def _attempt(self, state: State) -> Outcome:
        try:
            match state:
                case Listing(method=ListMethod.STREAM):
                    return await self._lister.stream()
                case Listing():
                    return await self._lister.list(state)
                case Watching():
                    return await self._watch(state)
                case Probing():
                    return await self._probe(state)
                case Checking():
                    return await self._check()
                case _:
                    assert_never(state)
        except Exception:
            # The rest of the daemon must go on, and a new list repairs a half updated store.
            known = self._trouble is not None and self._trouble.kind == "internal"
            level = logging.DEBUG if known else logging.ERROR
            log.log(level, "informer failed resource=%s", self.resource.id, exc_info=True)
            return Crashed()
        finally:
            self._store.flush()

    async def _probe(self, state: Probing) -> Outcome:
        outcome = await self._lister.probe()
        if isinstance(outcome, Checked) and not state.refusals and not state.lost:
            # The watch got no answer because nothing has changed.
            self._applier.contact()
            self._recover()
        return outcome

    # -- watch

    async def _watch(self, state: Watching) -> Outcome:
        timing = self._timing
        stream = self._lister.take_stream()
        async with anyio.create_task_group() as looks, AsyncExitStack() as resources:
            resources.callback(looks.cancel_scope.cancel)
            if stream is not None:
                await resources.enter_async_context(stream.resources)
            started_s = anyio.current_time()
            progress = Progress(stream.started_s if stream else started_s)
            timeout_s = stream.server_timeout_s if stream else timing.server_timeout_s(self._rng)
            if started_s >= self._lister.resync_at_s:
                return ResyncDue()
            try:
                feed = stream.feed if stream else await self._open(state, timeout_s, resources)
                self._stats.watches["success"] += 1
                self._contact()
                progress.accepted = True
                until_s = timing.unproven_s if state.lost else math.inf
                end = await self._follow(feed, progress, progress.started_s + until_s, looks)
            except KubeError as error:
                return self._failed(state, error, progress)
        if not isinstance(end, WatchEnd):
            return end
        lasted_s = anyio.current_time() - progress.started_s
        if end is WatchEnd.CLOSED and lasted_s >= timeout_s - _TIMEOUT_LEEWAY_S:
            end = WatchEnd.TIMEOUT
        return WatchEnded(self._position(state), end, lasted_s, progress.events)

    async def _open(
        self, state: Watching, server_timeout_s: int, resources: AsyncExitStack
    ) -> LineFeed:
        """Open a watch from the state's version."""
        stream = await resources.enter_async_context(
            self._source.watch(
                state.resource_version,
                server_timeout_s=server_timeout_s,
                open_timeout_s=self._timing.idle_limit_s,
            )
        )
        return LineFeed(stream)

    def _failed(self, state: Watching, error: KubeError, progress: Progress) -> Outcome:
        now_s = anyio.current_time()
        version = self._position(state)
        if progress.accepted:
            stood = now_s - progress.started_s >= self._timing.fallback_relist_s
            is_line = isinstance(error, BadResponse)
            return WatchFailed(version, error, progress.events > 0 or (stood and not is_line))
        is_timeout = isinstance(error, Unavailable) and error.kind is Reason.TIMEOUT
        if is_timeout and error.status is None:
            heard_at_s = max(self._heard_at_s, self._lister.listed_at_s)
            return WatchUnanswered(version, now_s - heard_at_s)
        self._stats.watches["error"] += 1
        return WatchFailed(version, error)

    def _position(self, state: Watching) -> str:
        return self._store.resource_version or state.resource_version

    async def _follow(
        self, feed: LineFeed, progress: Progress, end_at_s: float, looks: TaskGroup
    ) -> WatchEnd | Regressed | ResyncDue:
        """Apply the events of the watch until it ends, is idle, or a list or probe is due.

        Raises:
            BadResponse: A line isn't an event.
            Unavailable: It broke.
            KubeError: An ERROR event.
        """
        clock = asyncio.get_running_loop().time
        bookmarks = partial(self._stats.events.__getitem__, "bookmark")
        silence = Silence(clock(), self._timing, marked=self._marked, marks=bookmarks())
        lookout = Lookout(self._source, self._timing, silence, looks, lambda: progress.events)

        def take(lines: Lines) -> Lines | None:
            silence.heard(clock())
            left = self._applier.apply_slice(lines, progress)
            if not progress.regressed:
                self._heard_at_s = silence.heard_at_s
                self._recover()
            if silence.mark(bookmarks()) and not left:
                lookout.put_off(due_s())
            return left or None

        def due_s() -> float:
            look_at_s = min(self._next_look_s(progress, clock()), silence.look_at_s)
            return min(self._lister.resync_at_s, silence.over_at_s, end_at_s, look_at_s)

        while True:
            now_s = clock()
            silence.mark(bookmarks())
            end = self._end_by_time(now_s, silence, end_at_s)
            self._marked = silence.marked and end is not WatchEnd.IDLE
            if end is not None:
                return end
            if now_s >= silence.look_at_s:
                lookout.look(self._store.resource_version or "")
            lines = await lookout.read(feed, due_s(), take)
            if lines is None:
                return WatchEnd.CLOSED
            if progress.regressed or not await self._applier.apply_lines(lines, progress):
                return Regressed()

    def _end_by_time(
        self, now_s: float, silence: Silence, end_at_s: float
    ) -> WatchEnd | ResyncDue | None:
        """How a watch must end now; None where it may go on."""
        if now_s >= self._lister.resync_at_s:
            return ResyncDue()
        if now_s >= silence.over_at_s:
            return WatchEnd.IDLE
        return WatchEnd.CLOSED if now_s >= end_at_s else None

    def _next_look_s(self, progress: Progress, now_s: float) -> float:
        """When a watch after a failure has lasted long enough to be called recovered."""
        if self._trouble is None:
            return math.inf
        well_at_s = progress.started_s + self._timing.short_watch_s
        if now_s < well_at_s:
            return well_at_s
        self._applier.contact()
        self._recover()
        return math.inf

    async def _check(self) -> Outcome:
        try:
            served = await self._source.served(timeout_s=self._timing.discovery_timeout_s)
        except KubeError as error:
            return Failed(error)
        if not served:
            self._applier.contact()
        return Checked(served, len(self._store))

    # -- status, log and counters

    def _contact(self) -> None:
        """Note contact with the API server, but not while something fails.

        A first page or an accepted watch that leads nowhere, again and again, would make the store
        look fresh: then only a whole list or a watch that works counts.
        """
        if self._trouble is None:
            self._applier.contact()

    def _recover(self) -> None:
        if self._trouble is not None:
            self._trouble = None
            self._store.set_error("")
            log.info("informer recovered resource=%s", self.resource.id)

    def _report(self, state: State, outcome: Outcome, move: Move) -> None:
        """Log changes of state, each once, and show what fails; repetitions at debug."""
        self._log_list(state, outcome, move)
        trouble = trouble_in(state, outcome, self._timing)
        if move.absent:
            self._trouble = None
            self._synced = True
            log.info("resource absent, counts as synced resource=%s", self.resource.id)
            self._store.set_error("")
            self._store.finish_absent()
        elif trouble is not None:
            news = self._trouble is None or self._trouble.kind != trouble.kind
            self._trouble = trouble
            log.log(
                logging.WARNING if news else logging.DEBUG,
                "informer failing resource=%s reason=%s retry_in_s=%.1f",
                self.resource.id,
                trouble.text,
                move.wait_s,
            )
            self._store.set_error(trouble.text)
            self._store.flush()

    def _log_list(self, state: State, outcome: Outcome, move: Move) -> None:
        following = move.machine.state
        if isinstance(outcome, Listed) and (
            not self._synced or (isinstance(state, Listing) and state.absences)
        ):
            self._synced = True
            log.info("informer synced resource=%s objects=%d", self.resource.id, len(self._store))
        if isinstance(outcome, StreamRefused):
            log.info(
                "no streamed lists, using pages for hours resource=%s reason=%r",
                self.resource.id,
                str(outcome.error or "the API server is too old"),
            )
        elif isinstance(following, Listing) and following.reason is not ListReason.INITIAL:
            changed = not isinstance(state, Listing) or state.reason is not following.reason
            log.log(
                logging.INFO if changed else logging.DEBUG,
                "relist resource=%s reason=%s in_s=%.1f",
                self.resource.id,
                following.reason,
                move.wait_s,
            )

    def _count(self, state: State, outcome: Outcome) -> None:
        stats = self._stats
        match state:
            case Listing() if isinstance(outcome, StreamRefused):
                pass  # no failure: the list is made in pages, and counted then
            case Listing():
                result = "success" if isinstance(outcome, Listed) else "error"
                stats.lists[result, state.reason] += 1
            case Watching():
                stats.watch_terminations[termination(outcome, self._timing)] += 1
            case Probing() | Checking():
                pass
            case _:
                assert_never(state)
