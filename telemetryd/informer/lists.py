"""Makes whole lists, in pages or as a stream, and the smallest one as a probe.

``machine`` decides when to make one.
"""

import asyncio
import logging
import math
import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Generic

import anyio

from telemetryd.errors import (
    BadResponse,
    Invalid,
    KubeError,
    Reason,
    Throttled,
    Unavailable,
)
from telemetryd.informer.apply import Applier, read_page
from telemetryd.informer.backoff import WatchTiming
from telemetryd.informer.resource import T
from telemetryd.informer.source import KubeSource, LineFeed, Lines
from telemetryd.informer.states import (
    Checked,
    Failed,
    Listed,
    Listing,
    ListMethod,
    ListReason,
    Outcome,
    Regressed,
    StreamRefused,
    Suspect,
)
from telemetryd.informer.store import MAX_LISTED_OBJECTS, Relist
from telemetryd.model import R

log = logging.getLogger(__name__)

MAX_TOKEN_CHARS = 8 * 1024
"""Of a continue token, which travels in a URL; those of API servers have a few hundred."""

MAX_BARREN_PAGES = 100
"""In a row without any named object; a field selector may make a few empty ones."""

_NOT_IMPLEMENTED = 501


class Paging:
    """Ends a list in pages that would never end, whatever the server sends."""

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._seen: set[int] = set()
        self._barren = 0
        self._keys = 0
        self._objects = 0

    def turn(self, token: str, *, now_s: float, objects: int, named: int, keys: int) -> None:
        """Note that a page was read.

        Raises:
            BadResponse: The list must not go on.
        """
        self._objects += objects
        if self._objects > MAX_LISTED_OBJECTS:
            raise BadResponse(f"list: more than {MAX_LISTED_OBJECTS} objects")
        if named and keys == self._keys:
            raise BadResponse("list: a page that only repeats earlier objects")
        self._barren = 0 if named else self._barren + 1
        self._keys = keys
        if not token:
            return
        if self._barren > MAX_BARREN_PAGES:
            raise BadResponse("list: too many pages without objects")
        if len(token) > MAX_TOKEN_CHARS:
            raise BadResponse("list: the continue token is too long")
        # Hashes, because a hostile server may send many long tokens.
        if hash(token) in self._seen:
            raise BadResponse("list: the same continue token again")
        self._seen.add(hash(token))
        if now_s >= self._deadline_s:
            raise BadResponse("list: its pages take too long")


@dataclass(slots=True)
class OpenStream:
    """The stream of a complete list, which the watch continues.

    Attributes:
        started_s: When it was requested, on the event loop's clock.
        server_timeout_s: After how many seconds the API server was asked to end it.
    """

    resources: AsyncExitStack
    feed: LineFeed
    started_s: float
    server_timeout_s: int


@dataclass(slots=True, eq=False)
class Lister(Generic[T, R]):
    """Makes the lists of one informer.

    Attributes:
        contact: Called for each part of a list that is read.
        resync_at_s: When the next regular list is due, on the event loop's clock.
        listed_at_s: When a list was last applied.
    """

    source: KubeSource
    applier: Applier[T, R]
    rng: random.Random
    page_size: int
    timing: WatchTiming
    contact: Callable[[], None]
    resync_at_s: float = field(default=0.0, init=False)
    listed_at_s: float = field(default=0.0, init=False)
    _open: OpenStream | None = field(default=None, init=False)
    _new_enough_until_s: float = field(default=-math.inf, init=False)

    def take_stream(self) -> OpenStream | None:
        """The stream of the list just made, if any, which the caller must close."""
        stream, self._open = self._open, None
        return stream

    async def list(self, state: Listing) -> Outcome:
        """Make a list in pages, or in one answer."""
        started_s = anyio.current_time()
        paging = Paging(started_s + self.timing.full_list_timeout_s)
        relist: Relist[R] = Relist(self.applier.store)
        version = token = ""
        suspects = number = 0
        while token or not number:
            number += 1
            try:
                body = await self._fetch(state.method, token)
                page = await read_page(body, self.applier.resource)
                del body
                keyless_before = relist.keyless
                suspects += await self.applier.take_page(page, relist)
                paging.turn(
                    page.continue_token,
                    now_s=anyio.current_time(),
                    objects=len(page.items),
                    named=len(page.items) - (relist.keyless - keyless_before),
                    keys=len(relist),
                )
            except KubeError as error:
                return Failed(error, number)
            version = version or page.resource_version
            if state.reason is not ListReason.REGRESSION and self.applier.is_older(version):
                return Regressed()
            if suspects and not state.tolerant:
                return Suspect()
            self.contact()
            token = page.continue_token
            del page  # its objects keep all of its bytes alive
        await self._finish(relist, version, started_s, suspects=suspects, way="pages")
        return Listed(version)

    async def _fetch(self, method: ListMethod, token: str) -> bytes:
        """The page of this continue token, or the whole list."""
        timing = self.timing
        if method is ListMethod.WHOLE:
            limit, timeout_s = None, timing.full_list_timeout_s
        else:
            limit, timeout_s = self.page_size, timing.list_timeout_s
        return await self.source.list_page(limit=limit, continue_token=token, timeout_s=timeout_s)

    async def stream(self) -> Outcome:
        """Make a list as a stream; ``take_stream`` then returns the stream."""
        timing = self.timing
        started_s = anyio.current_time()
        try:
            if await self._is_too_old():
                return StreamRefused()
        except KubeError as error:
            return Failed(error)
        server_timeout_s = timing.server_timeout_s(self.rng)
        relist: Relist[R] = Relist(self.applier.store)
        begun = False
        async with AsyncExitStack() as resources:
            try:
                stream = await resources.enter_async_context(
                    self.source.stream_list(
                        server_timeout_s=server_timeout_s, open_timeout_s=timing.list_timeout_s
                    )
                )
                begun = True
                feed = LineFeed(stream)
                version = await self._read_stream(feed, relist)
            except KubeError as error:
                return StreamRefused(error) if _is_refusal(error) else Failed(error, begun=begun)
            if self.applier.is_older(version):
                return Regressed()
            await self._finish(relist, version, started_s, suspects=0, way="stream")
            self._open = OpenStream(resources.pop_all(), feed, started_s, server_timeout_s)
        return Listed(version)

    async def _is_too_old(self) -> bool:
        """Whether the API server, by its version, neither refuses a streamed list nor ends it.

        It would send all objects first, in vain.

        Raises:
            Throttled: Ask later.
            Unavailable: It can't be reached.
        """
        now_s = anyio.current_time()
        if now_s < self._new_enough_until_s:
            return False
        try:
            is_known = await self.source.knows_streams(timeout_s=self.timing.discovery_timeout_s)
        except (Throttled, Unavailable):
            raise
        except KubeError as error:
            log.debug("cannot get the API server's version error=%r", str(error))
            return False
        if is_known:
            self._new_enough_until_s = now_s + self.timing.stream_retry_s
        return not is_known

    async def _read_stream(self, feed: LineFeed, relist: Relist[R]) -> str:
        """Read a streamed list to its end; the lines after it stay in the feed.

        Returns:
            The resource version of the list.

        Raises:
            Invalid: The API server doesn't end it.
            BadResponse: A line isn't an event of this resource, or it takes too long.
            Unavailable: It broke.
            KubeError: An ERROR event.
        """
        timing = self.timing
        clock = asyncio.get_running_loop().time
        heard_at_s = clock()
        over_at_s = heard_at_s + timing.full_list_timeout_s

        def take(lines: Lines) -> Lines | None:
            nonlocal heard_at_s
            heard_at_s = clock()
            self.contact()
            left = self.applier.take_slice(lines, relist)
            return left if left or relist.ended_at else None

        while not relist.ended_at:
            now_s = clock()
            silent_at_s = heard_at_s + timing.list_timeout_s
            if now_s >= over_at_s:
                raise BadResponse("list: its stream takes too long")
            if now_s >= silent_at_s:
                raise Invalid(f"list: its stream was silent for {timing.list_timeout_s:g} s")
            lines = await feed.read(min(over_at_s, silent_at_s) - now_s, take)
            if lines is None:
                message = "list: stream ended before the end-of-list bookmark"
                raise Unavailable(message, kind=Reason.CONNECT)
            feed.put_back(await self.applier.take_lines(lines, relist))
        return relist.ended_at

    async def _finish(
        self, relist: Relist[R], version: str, started_s: float, *, suspects: int, way: str
    ) -> None:
        self.applier.stats.list_method = way
        await relist.apply(version)
        self.applier.contact()
        ended_s = self.listed_at_s = anyio.current_time()
        self.applier.stats.list_duration.observe(ended_s - started_s)
        jittered_s = self.timing.resync_s * self.rng.uniform(0.9, 1.1)
        self.resync_at_s = ended_s + (self.timing.suspect_relist_s if suspects else jittered_s)

    async def probe(self) -> Outcome:
        """Make the smallest list: is the server there, and at least as far as the store?"""
        try:
            body = await self.source.list_page(
                limit=1, continue_token="", timeout_s=self.timing.list_timeout_s
            )
            page = await read_page(body, self.applier.resource)
        except KubeError as error:
            return Failed(error)
        if self.applier.is_older(page.resource_version):
            return Regressed()
        return Checked(served=True)


def _is_refusal(error: KubeError) -> bool:
    """Whether the API server doesn't serve lists as streams; other errors may pass."""
    return isinstance(error, Invalid) or (
        isinstance(error, Unavailable) and error.status == _NOT_IMPLEMENTED
    )
