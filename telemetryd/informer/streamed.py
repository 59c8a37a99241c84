"""A list that comes as a stream of events, one object at a time, and goes on as the watch.

When one is made, and what follows where it fails, doesn't belong here: that is ``watch``'s.
"""

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import anyio

from telemetryd.errors import BadResponse, Invalid, KubeError, Reason, Unavailable
from telemetryd.informer.apply import Applier
from telemetryd.informer.feed import LineFeed
from telemetryd.informer.lines import OversizeLine
from telemetryd.informer.store import Relist
from telemetryd.informer.waits import WatchTiming

_NOT_IMPLEMENTED = 501


@dataclass(slots=True)
class Carried:
    """The stream of a list that is complete, for the watch to go on with.

    Attributes:
        resources: Closes the stream.
        started_s: When it was asked for, on the loop's clock.
        server_timeout_s: After how many seconds the API server is to end it.
    """

    resources: AsyncExitStack
    feed: LineFeed
    started_s: float
    server_timeout_s: int


async def collect(
    feed: LineFeed,
    applier: Applier[Any, Any],
    relist: Relist[Any],
    *,
    timing: WatchTiming,
    contact: Callable[[], None],
) -> str:
    """Take a streamed list to its end.

    Args:
        feed: What the stream brings; what follows the list is put back into it.
        applier: Turns lines into records.
        relist: Takes the objects.
        timing: Limits.
        contact: Called whenever something came.

    Returns:
        The resource version of the list.

    Raises:
        Invalid: The API server doesn't end it.
        BadResponse: A line that isn't an event of this resource; or it takes too long.
        KubeError: It broke, or brought an ERROR event.
    """
    patience = _Patience(timing, anyio.current_time())
    while True:
        lines = await _read(feed, patience.left_s(anyio.current_time()))
        if lines:
            patience.heard_at_s = anyio.current_time()
            contact()
            end = await applier.take_lines(lines, relist)
            if end is not None:
                feed.put_back(end.rest)
                return end.resource_version


class _Patience:
    """How long to wait for the next line."""

    def __init__(self, timing: WatchTiming, now_s: float) -> None:
        self._timing = timing
        self._over_at_s = now_s + timing.full_list_timeout_s
        self.heard_at_s = now_s

    def left_s(self, now_s: float) -> float:
        """Until it is given up.

        Raises:
            Invalid: Nothing has come for too long.
            BadResponse: It takes too long altogether.
        """
        timing = self._timing
        if now_s >= self._over_at_s:
            raise BadResponse("list: its stream takes too long to come to an end")
        silent_at_s = self.heard_at_s + timing.list_timeout_s
        if now_s >= silent_at_s:
            raise Invalid(f"list: its stream was silent for {timing.list_timeout_s:g} s")
        return min(self._over_at_s, silent_at_s) - now_s


async def _read(feed: LineFeed, timeout_s: float) -> list[bytes | OversizeLine]:
    """The next lines, none where nothing came in time.

    Raises:
        Unavailable: It broke, or ended.
        BadResponse: It can't be decompressed.
    """
    try:
        lines = await feed.read(timeout_s)
    except Unavailable as error:
        if error.kind is not Reason.TIMEOUT:
            raise
        return []
    if lines is None:
        raise Unavailable("list: its stream ended before it did", kind=Reason.CONNECT)
    return lines


def is_refusal(error: KubeError) -> bool:
    """Whether the API server doesn't serve lists as streams; other errors may pass."""
    return isinstance(error, Invalid) or (
        isinstance(error, Unavailable) and error.status == _NOT_IMPLEMENTED
    )
