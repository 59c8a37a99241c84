"""Where lists and watches come from: the protocol that informers need, and the API server's side.

What becomes of the bytes doesn't belong here.
"""

import sys
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Generic, Protocol, TypeVar

import msgspec

from telemetryd.errors import BadResponse, NotFound, TooLarge
from telemetryd.informer.resource import Resource, T
from telemetryd.kube.requests import Requests
from telemetryd.model import R

MAX_PAGE_BYTES = 8 * 1024 * 1024
"""500 objects of 16 KB; nodes have 5 to 15 KB. Larger pages are asked for in smaller pieces."""

MAX_FULL_LIST_BYTES = 128 * 1024 * 1024
"""A list without pages, only made when a continue token has expired or pages can't be had, and
never of objects so large that their pages had to be made smaller."""


_FIRST_STREAMS = (1, 27)
"""The first Kubernetes whose API server knows ``sendInitialEvents``; before, it never ends a list
that it doesn't know to be one, or refuses it."""


class Stream(Protocol):
    """A watch that was accepted."""

    async def read(self, timeout_s: float) -> bytes:
        """The next bytes, as they come; empty at the end.

        Raises:
            Unavailable: None came in time (kind TIMEOUT), or the connection broke.
        """


class Source(Protocol):
    """Lists and watches of one resource, as bytes."""

    async def list_page(self, *, limit: int | None, continue_token: str, timeout_s: float) -> bytes:
        """One page of a quorum list; all of it in one where there is no limit.

        Args:
            limit: Objects on the page at most; None for no pages.
            continue_token: Of the page before, empty for the first one.
            timeout_s: For one answer.

        Raises:
            TooLarge: It is larger than is held at a time.
            KubeError: It could not be had.
        """

    def watch(
        self, resource_version: str, *, server_timeout_s: int, open_timeout_s: float
    ) -> AbstractAsyncContextManager[Stream]:
        """A watch from there on, with bookmarks; entering it raises KubeError where it's refused.

        Args:
            resource_version: Events after this one are wanted.
            server_timeout_s: After how many seconds the API server is to end it.
            open_timeout_s: Until its headers are there. Unavailable of kind TIMEOUT, without a
                status, means that they weren't: some proxies hold them back until the first event.
        """

    def stream_list(
        self, *, server_timeout_s: int, open_timeout_s: float
    ) -> AbstractAsyncContextManager[Stream]:
        """A consistent list, an event for each object, that goes on as a watch with bookmarks.

        Entering it raises KubeError where it's refused. A bookmark that says so ends the list.

        Args:
            server_timeout_s: After how many seconds the API server is to end it.
            open_timeout_s: Until its headers are there.
        """

    async def knows_streams(self, *, timeout_s: float) -> bool:
        """Whether the API server is new enough for ``stream_list``, by its version.

        Raises:
            KubeError: It doesn't tell.
        """

    async def served(self, *, timeout_s: float) -> bool:
        """Whether the API server serves the resource at all, by discovery.

        Raises:
            KubeError: Discovery can't tell.
        """


class ApiClient(Requests, Protocol):
    """What of ``KubeClient`` a source needs."""

    @property
    def server(self) -> str:
        """URL of the API server, without credentials."""

    def stream(
        self, path: str, params: Mapping[str, str], *, open_timeout_s: float
    ) -> AbstractAsyncContextManager[Stream]:
        """A GET whose answer doesn't end."""


class _Version(msgspec.Struct, gc=False):
    major: str
    minor: str


class _NamedResource(msgspec.Struct, gc=False):
    name: str = ""


class _ResourceList(msgspec.Struct, gc=False):
    kind: str = ""
    resources: list[_NamedResource] | None = None


class _GroupVersion(msgspec.Struct, gc=False):
    version: str = ""


class _Group(msgspec.Struct, gc=False):
    name: str = ""
    versions: list[_GroupVersion] | None = None


class _GroupList(msgspec.Struct, gc=False):
    kind: str = ""
    groups: list[_Group] | None = None


class KubeSource(Generic[T, R]):
    """One resource at the API server."""

    def __init__(self, client: ApiClient, resource: Resource[T, R]) -> None:
        self._client = client
        self._resource = resource
        self._selector = (
            {"fieldSelector": f"metadata.name={resource.name}"} if resource.name else {}
        )
        self._most_objects = sys.maxsize

    async def list_page(self, *, limit: int | None, continue_token: str, timeout_s: float) -> bytes:
        """One page of a quorum list: without resource version, and none beside ``continue``.

        A page that is too large is asked for again with half as many objects, and so are the
        rest of that list's. The next list begins with twice as many as that one came to.

        Raises:
            TooLarge: Not even one object is small enough, or all of them without pages.
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
    ) -> AbstractAsyncContextManager[Stream]:
        """A watch from there on, with bookmarks."""
        params = {
            **self._selector,
            "watch": "true",
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(server_timeout_s),
        }
        return self._client.stream(self._resource.path, params, open_timeout_s=open_timeout_s)

    def stream_list(
        self, *, server_timeout_s: int, open_timeout_s: float
    ) -> AbstractAsyncContextManager[Stream]:
        """A list as a stream, at least as new as the moment of the request.

        Without a resource version NotOlderThan means just that (KEP-3157): what a quorum read
        would give, though it comes from the API server's watch cache.
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
        """Whether the API server's version is one that knows ``sendInitialEvents``.

        Raises:
            BadResponse: It isn't a version.
        """
        body = await self._client.request("GET", "/version", timeout_s=timeout_s)
        try:
            found = msgspec.json.decode(body, type=_Version)
            # Some add a plus sign to the minor version.
            version = int(found.major), int(found.minor.rstrip("+"))
        except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError) as error:
            raise BadResponse("GET /version: not a version") from error
        return version >= _FIRST_STREAMS

    async def served(self, *, timeout_s: float) -> bool:
        """Whether discovery names the resource.

        A 404 alone proves nothing, for anything in between can answer so: the list of groups, of
        the right kind, has to say so too.

        Raises:
            NotFound: The core group is always served: whoever says no isn't an API server.
        """
        resource = self._resource
        try:
            body = await self._client.request("GET", resource.group_path, timeout_s=timeout_s)
        except NotFound:
            if not resource.group:
                raise
        else:
            served = _decode(body, _ResourceList, "APIResourceList").resources or []
            return any(entry.name == resource.plural for entry in served)
        return await serves_group(
            self._client, resource.group, resource.version, timeout_s=timeout_s
        )


async def serves_group(client: ApiClient, group: str, version: str, *, timeout_s: float) -> bool:
    """Whether discovery names the version of the API group.

    Raises:
        KubeError: Discovery can't tell.
    """
    body = await client.request("GET", "/apis", timeout_s=timeout_s)
    return any(
        found.name == group and any(entry.version == version for entry in found.versions or [])
        for found in _decode(body, _GroupList, "APIGroupList").groups or []
    )


_L = TypeVar("_L", _ResourceList, _GroupList)


def _decode(body: bytes, kind_type: type[_L], kind: str) -> _L:
    try:
        found = msgspec.json.decode(body, type=kind_type)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BadResponse(f"discovery: not {kind}") from error
    if found.kind != kind:
        raise BadResponse(f"discovery: not {kind}")
    return found
