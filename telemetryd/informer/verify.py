"""A store held against the API server: which keys a fresh quorum list has that it hasn't, and back.

It only looks: what differs is fixed by the informer's own relists, or is its defect.
"""

from dataclasses import dataclass
from itertools import repeat
from typing import Any

import anyio
import anyio.lowlevel

from telemetryd.errors import Gone
from telemetryd.informer.aside import aside
from telemetryd.informer.decode import ObjectDecoder, Page, parse_page, scan_page
from telemetryd.informer.identity import Tangled, scan_identity
from telemetryd.informer.paging import Paging
from telemetryd.informer.resource import Reader, Resource
from telemetryd.informer.source import Source
from telemetryd.informer.store import SLICE_OBJECTS
from telemetryd.informer.waits import DEFAULT_TIMING

ROUNDS = 3
"""Lists until a difference counts as one."""
PATIENCE_S = 1.0
"""After each list, for the watch to bring what the list already had."""

_POLL_S = 0.05
_LIST_TRIES = 3


@dataclass(frozen=True, slots=True)
class Verification:
    """What came of it.

    Attributes:
        listed: Objects with a key in the last list.
        resource_version: Of that list; empty where the resource isn't served.
        missing: Sorted keys that the API server has and the store hasn't.
        extra: The other way round.
    """

    listed: int
    resource_version: str
    missing: tuple[str, ...]
    extra: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not (self.missing or self.extra)


@dataclass(frozen=True, slots=True)
class _Listing:
    keys: frozenset[str]
    resource_version: str


async def verify(
    resource: Resource[Any, Any],
    reader: Reader[Any],
    source: Source,
    *,
    page_size: int,
    rounds: int = ROUNDS,
    patience_s: float = PATIENCE_S,
) -> Verification:
    """Compare keys with fresh lists.

    Objects come and go while it looks: only what differs the same way in every round, and for as
    long as the watch may take each time, counts as a difference.

    Args:
        resource: What is compared.
        reader: What is held of it, while it changes.
        source: Where to list it.
        page_size: Objects a page.
        rounds: Lists at most; at least 1.
        patience_s: How long the watch may take.

    Raises:
        KubeError: It can't be listed.
    """
    listing = await _list(resource, source, page_size)
    missing, extra = await _settle(_difference(listing.keys, reader), reader, patience_s)
    for _ in range(rounds - 1):
        if not (missing or extra):
            break
        listing = await _list(resource, source, page_size)
        also = await _settle(_difference(listing.keys, reader), reader, patience_s)
        missing, extra = missing & also[0], extra & also[1]
    return Verification(
        listed=len(listing.keys),
        resource_version=listing.resource_version,
        missing=tuple(sorted(missing)),
        extra=tuple(sorted(extra)),
    )


def _difference(listed: frozenset[str], reader: Reader[Any]) -> tuple[set[str], set[str]]:
    held = reader.keys()
    return set(listed.difference(held)), set(held) - listed


async def _settle(
    difference: tuple[set[str], set[str]], reader: Reader[Any], patience_s: float
) -> tuple[set[str], set[str]]:
    """What is left of the difference once the store has had time to catch up with the list."""
    missing, extra = difference
    deadline_s = anyio.current_time() + patience_s
    while (missing or extra) and anyio.current_time() < deadline_s:
        await anyio.sleep(_POLL_S)
        missing = {key for key in missing if reader.get(key) is None}
        extra = {key for key in extra if reader.get(key) is not None}
    return missing, extra


async def _list(resource: Resource[Any, Any], source: Source, page_size: int) -> _Listing:
    """All keys of a quorum list; begun anew where its continue token expires.

    Raises:
        KubeError: It can't be had.
    """
    if not await source.served(timeout_s=DEFAULT_TIMING.discovery_timeout_s):
        return _Listing(frozenset(), "")
    for _ in range(_LIST_TRIES - 1):
        try:
            return await _list_pages(resource, source, page_size)
        except Gone:
            continue
    return await _list_pages(resource, source, page_size)


async def _list_pages(resource: Resource[Any, Any], source: Source, page_size: int) -> _Listing:
    """One attempt of it.

    Raises:
        KubeError: It can't be had, or isn't a list.
    """
    paging = Paging(anyio.current_time() + DEFAULT_TIMING.full_list_timeout_s)
    decoder = ObjectDecoder(resource)
    keys: set[str] = set()
    version = token = ""
    while True:
        body = await source.list_page(
            limit=page_size, continue_token=token, timeout_s=DEFAULT_TIMING.list_timeout_s
        )
        page = await _read_page(body, resource)
        named = await _take_keys(page, decoder, keys)
        version = version or page.resource_version
        token = page.continue_token
        paging.turn(
            token,
            now_s=anyio.current_time(),
            objects=len(page.items),
            named=named,
            keys=len(keys),
        )
        if not token:
            return _Listing(frozenset(keys), version)


async def _read_page(body: bytes, resource: Resource[Any, Any]) -> Page:
    try:
        return parse_page(body, resource)
    except Tangled:
        return await aside(lambda text, check: scan_page(text, resource, check), body)


async def _take_keys(page: Page, decoder: ObjectDecoder[Any, Any], keys: set[str]) -> int:
    """Add the keys of the page's objects; returns how many have one.

    Only who they are counts here, not what they hold.
    """
    named = 0
    identities = page.identities or repeat(None)
    for count, (raw, known) in enumerate(zip(page.items, identities, strict=False), 1):
        try:
            key = decoder.identify_deleted(raw, known).key
        except Tangled:
            key = decoder.identify_deleted(raw, await aside(scan_identity, bytes(raw))).key
        if key is not None:
            keys.add(key)
            named += 1
        if count % SLICE_OBJECTS == 0:
            await anyio.lowlevel.checkpoint()
    return named
