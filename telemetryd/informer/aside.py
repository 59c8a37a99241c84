"""Scans of tangled JSON without holding up the event loop.

What is scanned for doesn't belong here.
"""

from collections.abc import Callable
from typing import TypeVar

import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread

from telemetryd.informer.scan import unchecked

SCAN_AT_ONCE_BYTES = 16 * 1024
"""Longer texts are scanned in a worker thread: this much takes 3 ms at worst."""

V = TypeVar("V")


async def aside(scan: Callable[[bytes, Callable[[], None]], V], text: bytes) -> V:
    """What the scan finds in the text; the event loop gets its turn in any case.

    Cancellation stops the scan itself, by its check: no thread is left behind.

    Args:
        scan: Pure; calls its second argument every few milliseconds.
        text: Its first argument.
    """
    if len(text) <= SCAN_AT_ONCE_BYTES:
        found = scan(text, unchecked)
        await anyio.lowlevel.checkpoint()
        return found
    return await anyio.to_thread.run_sync(scan, text, anyio.from_thread.check_cancelled)
