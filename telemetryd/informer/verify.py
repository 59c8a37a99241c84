"""Compares a store's keys with a new quorum list. It changes nothing."""

from dataclasses import dataclass
from itertools import repeat
from typing import Any

import anyio
import anyio.lowlevel

from telemetryd.errors import Gone
from telemetryd.informer.apply import read_page
from telemetryd.informer.backoff import DEFAULT_TIMING
from telemetryd.informer.decode import ObjectDecoder, Page
from telemetryd.informer.lists import Paging
from telemetryd.informer.resource import Resource
from telemetryd.informer.scan import ScanNeeded, scan_identity, scan_in_turn
from telemetryd.informer.source import KubeSource
from telemetryd.informer.store import SLICE_OBJECTS, Reader

ROUNDS = 3
"""Lists until a difference counts as one."""
PATIENCE_S = 1.0
"""After each list, so that the watch can bring what the list already had."""

_POLL_S = 0.05
_LIST_TRIES = 3


@dataclass(frozen=True, slots=True)
class Verification:
    """The differences.

    Attributes:
        resource_version: Of that list; empty if the resource isn't served.
        missing: Sorted keys that the API server has and the store hasn't.
        extra: Sorted keys that the store has and the API server hasn't.
    """

    listed: int
    resource_version: str
    missing: tuple[str, ...]
    extra: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not (self.missing or self.extra)


async def verify(
    resource: Resource[Any, Any],
    reader: Reader[Any],
    source: KubeSource,
    *,
    page_size: int,
    rounds: int = ROUNDS,
    patience_s: float = PATIENCE_S,
) -> Verification:
    """Compare the keys with new lists.

    Objects come and go meanwhile: only what differs the same way in every round, and for as long
    as the watch may take each time, counts as a difference.

    Raises:
        KubeError: It can't be listed.
    """
    keys, version = await _list(resource, source, page_size)
    missing, extra = await _settle(keys, reader, patience_s)
    for _ in range(rounds - 1):
        if not (missing or extra):
            break
        keys, version = await _list(resource, source, page_size)
        also = await _settle(keys, reader, patience_s)
        missing, extra = missing & also[0], extra & also[1]
    return Verification(
        listed=len(keys),
        resource_version=version,
        missing=tuple(sorted(missing)),
        extra=tuple(sorted(extra)),
    )


async def _settle(
    listed: set[str], reader: Reader[Any], patience_s: float
) -> tuple[set[str], set[str]]:
    """The missing and extra keys that are left once the store has had time to catch up."""
    held = set(reader.keys())
    missing, extra = listed - held, held - listed
    deadline_s = anyio.current_time() + patience_s
    while (missing or extra) and anyio.current_time() < deadline_s:
        await anyio.sleep(_POLL_S)
        missing = {key for key in missing if reader.get(key) is None}
        extra = {key for key in extra if reader.get(key) is not None}
    return missing, extra


async def _list(
    resource: Resource[Any, Any], source: KubeSource, page_size: int
) -> tuple[set[str], str]:
    """Keys and resource version of a quorum list; begun again if its continue token expires."""
    if not await source.served(timeout_s=DEFAULT_TIMING.discovery_timeout_s):
        return set(), ""
    for _ in range(_LIST_TRIES - 1):
        try:
            return await _list_pages(resource, source, page_size)
        except Gone:
            continue
    return await _list_pages(resource, source, page_size)


async def _list_pages(
    resource: Resource[Any, Any], source: KubeSource, page_size: int
) -> tuple[set[str], str]:
    """One attempt of it."""
    paging = Paging(anyio.current_time() + DEFAULT_TIMING.full_list_timeout_s)
    decoder = ObjectDecoder(resource)
    keys: set[str] = set()
    version = token = ""
    while True:
        body = await source.list_page(
            limit=page_size, continue_token=token, timeout_s=DEFAULT_TIMING.list_timeout_s
        )
        page = await read_page(body, resource)
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
            return keys, version


async def _take_keys(page: Page, decoder: ObjectDecoder[Any, Any], keys: set[str]) -> int:
    """Add the keys of the page's objects; returns how many have one."""
    named = 0
    identities = page.identities or repeat(None)
    for count, (raw, known) in enumerate(zip(page.items, identities, strict=False), 1):
        try:
            key = decoder.identify_deleted(raw, known).key
        except ScanNeeded:
            found = await scan_in_turn(scan_identity, bytes(raw))
            key = decoder.identify_deleted(raw, found).key
        if key is not None:
            keys.add(key)
            named += 1
        if count % SLICE_OBJECTS == 0:
            await anyio.lowlevel.checkpoint()
    return named
