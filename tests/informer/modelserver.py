"""An API server in memory that keeps its history as the real one does; a ``KubeSource``.

Lists are of one moment, page by page, until that moment is compacted away; a watch from before the
compaction gets 410. Streams are cut into chunks of any size, spoilt, and broken off within a line.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

import anyio

from telemetryd.errors import (
    Forbidden,
    Gone,
    Invalid,
    KubeError,
    Reason,
    Unavailable,
    UnreadableReason,
)
from telemetryd.informer.source import KubeSource
from telemetryd.kube.stream import ByteStream
from telemetryd.model import Unreadable
from tests.informer.samples import (
    Json,
    ThingRecord,
    bookmark,
    event,
    list_end,
    listing,
    record,
    status,
    thing,
)

EXPIRED = Gone("410", status=410)
DENIED = Forbidden("403", status=403)
AWAY = Unavailable("refused", kind=Reason.CONNECT)


class ModelStream(ByteStream):
    """One watch: what the server has queued for it, in chunks.

    Attributes:
        after: The version up to which the history is queued.
        ends: No more comes after what is queued: how; None while it is open.
    """

    def __init__(self, server: "ModelServer", after: int) -> None:
        self._server = server
        self._queued = b""
        self._news = anyio.Event()
        self.after = after
        self.ends: KubeError | str | None = None

    def push(self, data: bytes) -> None:
        """Queues bytes, unless it ends."""
        if self.ends is None:
            self._queued += data
            self._news.set()

    def stop(self, how: KubeError | str) -> None:
        """Lets it end, after what is queued: with an error, or cleanly."""
        if self.ends is None:
            self.ends = how
            self._news.set()

    async def read(self, timeout_s: float) -> bytes:
        with anyio.move_on_after(timeout_s):
            while not self._queued and self.ends is None:
                self._news = anyio.Event()
                await self._news.wait()
        if self._queued:
            size = self._server.rng.randint(1, len(self._queued))
            chunk, self._queued = self._queued[:size], self._queued[size:]
            return chunk
        if isinstance(self.ends, KubeError):
            raise self.ends
        if self.ends is not None:
            return b""
        raise Unavailable("silent", kind=Reason.TIMEOUT)


@dataclass(eq=False)
class ModelServer(KubeSource):
    """The truth.

    Attributes:
        rng: For the sizes of chunks.
        objects: As they are now, by name.
        refusal: What every request gets; None while the server is well.
        streaming: It serves lists as streams too.
        asked: When what was asked: ``list`` for a first page or a stream, ``page``, ``watch``,
            ``probe``, ``version``, ``look``.
    """

    rng: Random
    version: int = 1
    objects: dict[str, Json] = field(default_factory=dict)
    refusal: KubeError | None = None
    streaming: bool = True
    asked: list[tuple[float, str]] = field(default_factory=list)
    streams: set[ModelStream] = field(default_factory=set)
    looks: set[ModelStream] = field(default_factory=set)
    _history: list[tuple[int, bytes]] = field(default_factory=list)
    _moments: dict[int, list[Json]] = field(default_factory=dict)
    _compacted: int = 0
    _born: int = 0

    # -- what happens in the cluster

    def put(self, name: str, size: object) -> None:
        """Creates or changes an object; a size that is no number makes it unreadable."""
        self.version += 1
        kind = "MODIFIED" if name in self.objects else "ADDED"
        if kind == "ADDED":
            self._born += 1
            uid = f"uid-{name}-{self._born}"
        else:
            uid = self.objects[name]["metadata"]["uid"]
        body = thing(name, version=self.version, uid=uid)
        body["spec"]["size"] = size
        self.objects[name] = body
        self._tell(event(kind, body))

    def delete(self, name: str) -> None:
        """Deletes an object."""
        self.version += 1
        body = self.objects.pop(name)
        meta = body["metadata"] | {"resourceVersion": str(self.version)}
        self._tell(event("DELETED", body | {"metadata": meta}))

    def compact(self) -> None:
        """Forgets the history, and the moments of lists that are under way."""
        self._compacted = self.version
        self._history.clear()
        self._moments.clear()

    # -- what happens to streams

    def repeat(self, back: int) -> None:
        """Streams bring an event once more that they have brought, if history has it."""
        if self._history:
            _, line = self._history[-1 - back % len(self._history)]
            self.say(line)

    def mark(self) -> None:
        """Streams bring a bookmark."""
        self.say(bookmark(self.version))

    def say(self, line: bytes) -> None:
        """Streams bring a line, whatever it is."""
        for stream in self.streams:
            stream.push(line)

    def expire(self) -> None:
        """Streams bring an ERROR of 410, and end."""
        self.say(event("ERROR", status(410, "Expired")))
        self.cut("")

    def cut(self, how: KubeError | str, half: bytes = b"") -> None:
        """Streams end, where they may bring the half of a line before."""
        for stream in self.streams:
            stream.push(half)
            stream.stop(how)

    def _tell(self, line: bytes) -> None:
        self._history.append((self.version, line))
        for stream in self.streams | self.looks:
            stream.push(line)

    # -- what the cache must hold

    def expected(self) -> dict[str, ThingRecord | Unreadable]:
        """The records of what is there."""
        found: dict[str, ThingRecord | Unreadable] = {}
        for name, body in self.objects.items():
            uid, size = body["metadata"]["uid"], body["spec"]["size"]
            readable = isinstance(size, int) and not isinstance(size, bool)
            found[f"ns/{name}"] = (
                record(name, size, uid) if readable else Unreadable(uid, UnreadableReason.TYPE)
            )
        return found

    # -- KubeSource

    def _ask(self, what: str) -> None:
        self.asked.append((anyio.current_time(), what))
        if self.refusal is not None:
            raise self.refusal

    async def list_page(self, *, limit: int | None, continue_token: str, timeout_s: float) -> bytes:
        kind = "page" if continue_token else "probe" if limit == 1 else "list"
        self._ask(kind)
        # A page takes its time, so that the cluster changes between two of one list.
        await anyio.sleep(0.2)
        if continue_token:
            version, start = map(int, continue_token.split("-"))
            if version not in self._moments:
                raise EXPIRED
        else:
            version, start = self.version, 0
            self._moments[version] = [self.objects[name] for name in sorted(self.objects)]
        moment = self._moments[version]
        end = start + (limit or len(moment) + 1)
        token = f"{version}-{end}" if end < len(moment) else ""
        return listing(moment[start:end], version, token)

    @asynccontextmanager
    async def watch(
        self, resource_version: str, *, server_timeout_s: int, open_timeout_s: float
    ) -> AsyncIterator[ModelStream]:
        self._ask("watch")
        after = int(resource_version)
        if after < self._compacted:
            raise EXPIRED
        stream = ModelStream(self, after)
        for version, line in self._history:
            if version > after:
                stream.push(line)
        self.streams.add(stream)
        try:
            yield stream
        finally:
            self.streams.discard(stream)

    @asynccontextmanager
    async def look(
        self, resource_version: str, *, server_timeout_s: int, open_timeout_s: float
    ) -> AsyncIterator[ModelStream]:
        self._ask("look")
        after = int(resource_version)
        if after < self._compacted:
            raise EXPIRED
        stream = ModelStream(self, after)
        for version, line in self._history:
            if version > after:
                stream.push(line)
        self.looks.add(stream)
        ends = asyncio.get_running_loop().call_later(server_timeout_s, stream.stop, "")
        try:
            yield stream
        finally:
            ends.cancel()
            self.looks.discard(stream)

    @asynccontextmanager
    async def stream_list(
        self, *, server_timeout_s: int, open_timeout_s: float
    ) -> AsyncIterator[ModelStream]:
        self._ask("list")
        if not self.streaming:
            raise Invalid("422", status=422)
        stream = ModelStream(self, self.version)
        for name in sorted(self.objects):
            stream.push(event("ADDED", self.objects[name]))
        stream.push(list_end(self.version))
        self.streams.add(stream)
        try:
            yield stream
        finally:
            self.streams.discard(stream)

    async def knows_streams(self, *, timeout_s: float) -> bool:
        self._ask("version")
        return True

    async def served(self, *, timeout_s: float) -> bool:
        self._ask("discovery")
        return True
