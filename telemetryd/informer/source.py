"""The requests of an informer: lists, watches and discovery of one resource, as bytes and lines."""

import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeVar

import msgspec

from telemetryd.errors import BadResponse, NotFound, Reason, TooLarge, Unavailable
from telemetryd.informer.resource import Resource
from telemetryd.kube.client import KubeClient
from telemetryd.kube.objects import UNPARSABLE
from telemetryd.kube.requests import Requests
from telemetryd.kube.stream import ByteStream

DEFAULT_MAX_LINE_BYTES = 8 * 1024 * 1024
"""etcd takes 1.5 MiB a request by default and API servers 3 MiB; an event adds a few bytes."""

_HEAD_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class OversizeLine:
    """A line above the limit that was skipped.

    Attributes:
        head: Its first bytes, in which the object's key may be found.
    """

    head: bytes


class LineSplitter:
    """Splits a stream; every byte is read once and copied at most twice.

    A line above ``max_line_bytes`` is skipped to its newline. An incomplete line at the end of the
    stream is never returned.
    """

    __slots__ = ("_head", "_head_bytes", "_max_line_bytes", "_tail", "_tail_bytes")

    def __init__(self, max_line_bytes: int = DEFAULT_MAX_LINE_BYTES) -> None:
        if max_line_bytes < 1:
            raise ValueError("max_line_bytes must be at least 1")
        self._max_line_bytes = max_line_bytes
        self._head_bytes = min(_HEAD_BYTES, max_line_bytes)
        self._tail: list[bytes] = []
        self._tail_bytes = 0
        self._head: bytes | None = None

    def feed(self, chunk: bytes) -> list[bytes | OversizeLine]:
        """The lines that end in this chunk, without newline and without empty ones."""
        # Lines have some kilobytes: find() is ten times as fast as split() on such.
        end = chunk.find(b"\n")
        if end < 0:
            self._keep(chunk)
            return []
        self._keep(chunk[:end])
        lines: list[bytes | OversizeLine] = []
        if self._head is not None:
            lines.append(OversizeLine(self._head))
        elif self._tail_bytes:
            lines.append(b"".join(self._tail))
        start = end + 1
        while (end := chunk.find(b"\n", start)) >= 0:
            if end - start > self._max_line_bytes:
                lines.append(OversizeLine(chunk[start : start + self._head_bytes]))
            elif end > start:
                lines.append(chunk[start:end])
            start = end + 1
        self._head = None
        self._tail = []
        self._tail_bytes = 0
        self._keep(chunk[start:])
        return lines

    def _keep(self, piece: bytes) -> None:
        if self._head is not None or not piece:
            return
        self._tail.append(piece)
        self._tail_bytes += len(piece)
        if self._tail_bytes > self._max_line_bytes:
            self._head = b"".join(self._tail)[: self._head_bytes]
            self._tail = []
            self._tail_bytes = 0


Lines: TypeAlias = list[bytes | OversizeLine]


class LineFeed:
    """The lines of one stream, in batches as they come."""

    def __init__(self, stream: ByteStream, max_line_bytes: int = DEFAULT_MAX_LINE_BYTES) -> None:
        self._stream = stream
        self._splitter = LineSplitter(max_line_bytes)
        self._left: Lines = []

    async def read(self, timeout_s: float, take: Callable[[Lines], Lines | None]) -> Lines | None:
        """Hand out the lines of each piece that comes, until ``take`` returns lines of them.

        Where the stream can, no task wakes for a piece of which ``take`` returns None.

        Returns:
            What it returned, or no lines for a look at the time; None at the end of the stream.

        Raises:
            Unavailable: The connection broke.
            BadResponse: It can't be decompressed.
            Exception: What ``take`` raises.
        """
        if not self._left:
            try:
                if not await self._stream.follow(timeout_s, partial(self._split, take)):
                    return None
            except Unavailable as error:
                if error.kind is not Reason.TIMEOUT or error.status is not None:
                    raise
        left, self._left = self._left, []
        return left

    def put_back(self, lines: Lines) -> None:
        """Return these first at the next read."""
        self._left = lines

    def _split(self, take: Callable[[Lines], Lines | None], piece: bytes) -> bool:
        lines = self._splitter.feed(piece)
        left = take(lines) if lines else None
        self._left = left or []
        return left is None


MAX_PAGE_BYTES = 8 * 1024 * 1024
"""500 objects of 16 KB; nodes have 5 to 15 KB. A larger page is requested in smaller ones."""

MAX_FULL_LIST_BYTES = 128 * 1024 * 1024
"""A list in one answer. It is never made of objects so large that their pages had to be smaller."""

_FIRST_STREAMS = (1, 27)
"""The first Kubernetes with ``sendInitialEvents``. Older API servers refuse such a list, or take it
for a watch and never end it."""


class _ServerVersion(msgspec.Struct, gc=False):
    major: str
    minor: str


class _NamedResource(msgspec.Struct, gc=False):
    name: str = ""


class _ApiResourceList(msgspec.Struct, gc=False):
    kind: str = ""
    resources: list[_NamedResource] | None = None


class _GroupVersion(msgspec.Struct, gc=False):
    version: str = ""


class _Group(msgspec.Struct, gc=False):
    name: str = ""
    versions: list[_GroupVersion] | None = None


class _ApiGroupList(msgspec.Struct, gc=False):
    kind: str = ""
    groups: list[_Group] | None = None


class KubeSource:
    """One resource at the API server."""

    def __init__(self, client: KubeClient, resource: Resource[Any, Any]) -> None:
        self._client = client
        self._resource = resource
        self._selector = (
            {"fieldSelector": f"metadata.name={resource.name}"} if resource.name else {}
        )
        self._most_objects = sys.maxsize

    async def list_page(self, *, limit: int | None, continue_token: str, timeout_s: float) -> bytes:
        """One page of a quorum list: without resource version, and none beside ``continue``.

        A page that is too large is requested again with half as many objects, and so are the other
        pages of that list. The next list begins with twice that number. Without a limit it is the
        whole list in one answer.

        Raises:
            TooLarge: Not even one object is small enough, or the whole list isn't.
            KubeError: The request failed.
        """
        if limit is None:
            if self._most_objects < sys.maxsize:
                raise TooLarge(f"list of {self._resource.id}: its objects are too large for one")
            return await self._list({}, continue_token, timeout_s, MAX_FULL_LIST_BYTES)
        if not continue_token:
            grown = 2 * self._most_objects
            self._most_objects = grown if grown < limit else sys.maxsize
        while True:
            asked = min(limit, self._most_objects)
            try:
                return await self._list(
                    {"limit": str(asked)}, continue_token, timeout_s, MAX_PAGE_BYTES
                )
            except TooLarge:
                if asked <= 1:
                    self._most_objects = sys.maxsize  # the server may not know pages
                    raise
                self._most_objects = asked // 2

    async def _list(
        self, params: dict[str, str], continue_token: str, timeout_s: float, max_bytes: int
    ) -> bytes:
        if continue_token:
            params["continue"] = continue_token
        return await self._client.request(
            "GET",
            self._resource.path,
            params=self._selector | params,
            timeout_s=timeout_s,
            max_bytes=max_bytes,
        )

    def watch(
        self, resource_version: str, *, server_timeout_s: int, open_timeout_s: float
    ) -> AbstractAsyncContextManager[ByteStream]:
        """A watch with bookmarks; entering it raises KubeError if it is refused.

        No headers within ``open_timeout_s`` raise Unavailable of kind TIMEOUT, without a status:
        some proxies hold them back until the first event.
        """
        params = {**self._from(resource_version, server_timeout_s), "allowWatchBookmarks": "true"}
        return self._client.stream(self._resource.path, params, open_timeout_s=open_timeout_s)

    def look(
        self, resource_version: str, *, server_timeout_s: int, open_timeout_s: float
    ) -> AbstractAsyncContextManager[ByteStream]:
        """As ``watch``, without bookmarks: beside another one that stands at this version."""
        params = self._from(resource_version, server_timeout_s)
        return self._client.stream(self._resource.path, params, open_timeout_s=open_timeout_s)

    def _from(self, resource_version: str, server_timeout_s: int) -> dict[str, str]:
        return {
            **self._selector,
            "watch": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(server_timeout_s),
        }

    def stream_list(
        self, *, server_timeout_s: int, open_timeout_s: float
    ) -> AbstractAsyncContextManager[ByteStream]:
        """A list as a stream: an event for each object, a bookmark at its end, and then a watch.

        Without a resource version NotOlderThan means at least as new as the request (KEP-3157):
        what a quorum read would return, though it comes from the API server's watch cache.
        """
        params = {
            **self._selector,
            "watch": "true",
            "sendInitialEvents": "true",
            "resourceVersionMatch": "NotOlderThan",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(server_timeout_s),
        }
        return self._client.stream(self._resource.path, params, open_timeout_s=open_timeout_s)

    async def knows_streams(self, *, timeout_s: float) -> bool:
        """Whether the API server is new enough for ``stream_list``, by its version.

        Raises:
            BadResponse: The answer isn't a version.
            KubeError: The request failed.
        """
        body = await self._client.request("GET", "/version", timeout_s=timeout_s)
        try:
            found = msgspec.json.decode(body, type=_ServerVersion)
            # Some add a plus sign to the minor version.
            version = int(found.major), int(found.minor.rstrip("+"))
        except (*UNPARSABLE, ValueError) as error:
            raise BadResponse("GET /version: not a version") from error
        return version >= _FIRST_STREAMS

    async def served(self, *, timeout_s: float) -> bool:
        """Whether discovery names the resource.

        A 404 alone proves nothing, because a proxy can answer so: the list of groups must say so
        too.

        Raises:
            NotFound: Of the core group, which every API server serves: this isn't one.
            KubeError: Discovery failed.
        """
        resource = self._resource
        try:
            body = await self._client.request("GET", resource.group_path, timeout_s=timeout_s)
        except NotFound:
            if not resource.group:
                raise
        else:
            served = _decode(body, _ApiResourceList, "APIResourceList").resources or []
            return any(entry.name == resource.plural for entry in served)
        return await serves_group(
            self._client, resource.group, resource.version, timeout_s=timeout_s
        )


async def serves_group(client: Requests, group: str, version: str, *, timeout_s: float) -> bool:
    """Whether discovery names the version of the API group.

    Raises:
        KubeError: Discovery failed.
    """
    body = await client.request("GET", "/apis", timeout_s=timeout_s)
    return any(
        found.name == group and any(entry.version == version for entry in found.versions or [])
        for found in _decode(body, _ApiGroupList, "APIGroupList").groups or []
    )


_L = TypeVar("_L", _ApiResourceList, _ApiGroupList)


def _decode(body: bytes, kind_type: type[_L], kind: str) -> _L:
    try:
        found = msgspec.json.decode(body, type=kind_type)
    except UNPARSABLE as error:
        raise BadResponse(f"discovery: not {kind}") from error
    if found.kind != kind:
        raise BadResponse(f"discovery: not {kind}")
    return found
