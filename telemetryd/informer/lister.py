"""Whole lists into a store, in pages or as a stream, and the smallest one as a probe.

When to make one doesn't belong here: that is ``watch``'s.
"""

import logging
import math
import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Generic

import anyio

from telemetryd.errors import KubeError, Throttled, Unavailable
from telemetryd.informer.apply import Applier
from telemetryd.informer.decode import Page
from telemetryd.informer.feed import LineFeed
from telemetryd.informer.paging import Paging
from telemetryd.informer.resource import T
from telemetryd.informer.source import Source
from telemetryd.informer.states import (
    Listed,
    ListFailed,
    Listing,
    ListReason,
    ListRegressed,
    ListSuspect,
    Outcome,
    Probed,
    ProbeFailed,
    StreamRefused,
    WatchRegressed,
)
from telemetryd.informer.store import Relist, Store
from telemetryd.informer.streamed import Carried, collect, is_refusal
from telemetryd.informer.waits import WatchTiming
from telemetryd.model import R
from telemetryd.stats import InformerStats

log = logging.getLogger(__name__)


class Lister(Generic[T, R]):
    """Makes the lists of one informer.

    Attributes:
        resync_at_s: When the next list is due for caution's sake, on the loop's clock.
        listed_at_s: When a list was last applied.
    """

    def __init__(
        self,
        source: Source,
        store: Store[R],
        applier: Applier[T, R],
        *,
        rng: random.Random,
        stats: InformerStats,
        page_size: int,
        timing: WatchTiming,
        contact: Callable[[], None],
    ) -> None:
        """Nothing is asked of the source yet.

        Args:
            source: Where lists come from.
            store: Where they go.
            applier: Turns bytes into records.
            rng: For jitter.
            stats: Counters of the informer.
            page_size: Objects a page.
            timing: Limits.
            contact: Called whenever something of a list came.
        """
        self._source = source
        self._store = store
        self._applier = applier
        self._rng = rng
        self._stats = stats
        self._page_size = page_size
        self._timing = timing
        self._contact = contact
        self._carried: Carried | None = None
        self._new_enough_until_s = -math.inf
        self.resync_at_s = 0.0
        self.listed_at_s = 0.0

    def take_stream(self) -> Carried | None:
        """The stream of the list just made, which is the caller's to close; None without one."""
        carried, self._carried = self._carried, None
        return carried

    async def list(self, state: Listing) -> Outcome:
        """In pages, or in one."""
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
        await self._finish_list(relist, version, started_s, suspects=suspects, way="pages")
        return Listed(version)

    async def stream(self) -> Outcome:
        """As a stream, which is then there to be taken."""
        timing = self._timing
        started_s = anyio.current_time()
        try:
            if await self._is_too_old():
                return StreamRefused()
        except KubeError as error:
            return ListFailed(error)
        server_timeout_s = timing.server_timeout_s(self._rng)
        relist: Relist[R] = Relist(self._store)
        begun = False
        async with AsyncExitStack() as resources:
            try:
                stream = await resources.enter_async_context(
                    self._source.stream_list(
                        server_timeout_s=server_timeout_s, open_timeout_s=timing.list_timeout_s
                    )
                )
                begun = True
                feed = LineFeed(stream)
                version = await collect(
                    feed,
                    self._applier,
                    relist,
                    timing=timing,
                    contact=self._contact,
                )
            except KubeError as error:
                return StreamRefused(error) if is_refusal(error) else ListFailed(error, begun=begun)
            if self._applier.is_older(version):
                return ListRegressed()
            await self._finish_list(relist, version, started_s, suspects=0, way="stream")
            self._carried = Carried(resources.pop_all(), feed, started_s, server_timeout_s)
        return Listed(version)

    async def _is_too_old(self) -> bool:
        """Whether the API server, by its version, would neither refuse a streamed list nor end it.

        It would bring all objects first, and all for nothing.

        Raises:
            Throttled: It tells later.
            Unavailable: It can't be reached.
        """
        now_s = anyio.current_time()
        if now_s < self._new_enough_until_s:
            return False
        try:
            is_known = await self._source.knows_streams(timeout_s=self._timing.discovery_timeout_s)
        except (Throttled, Unavailable):
            raise
        except KubeError as error:
            log.debug("version not had error=%r", str(error))
            return False
        if is_known:
            self._new_enough_until_s = now_s + self._timing.stream_retry_s
        return not is_known

    async def _finish_list(
        self, relist: Relist[R], version: str, started_s: float, *, suspects: int, way: str
    ) -> None:
        self._stats.list_method = way
        await relist.apply(version)
        self._applier.contact()
        ended_s = self.listed_at_s = anyio.current_time()
        self._stats.list_duration.observe(ended_s - started_s)
        jittered_s = self._timing.resync_s * self._rng.uniform(0.9, 1.1)
        self.resync_at_s = ended_s + (self._timing.suspect_relist_s if suspects else jittered_s)

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

    async def probe(self) -> Outcome:
        """The smallest list: whether the server is there, and at least as far as what is held."""
        try:
            body = await self._source.list_page(
                limit=1, continue_token="", timeout_s=self._timing.list_timeout_s
            )
            page = await self._applier.read_page(body)
        except KubeError as error:
            return ProbeFailed(error)
        if self._applier.is_older(page.resource_version):
            return WatchRegressed()
        return Probed()
