"""The event loop's own pulse: how late it wakes, and whether it still wakes at all."""

import logging

import anyio

from telemetryd.stats import Histogram

log = logging.getLogger(__name__)

PERIOD_S = 0.5
"""Between beats: short enough to see the stalls that matter, 0.01 % of a core."""
ALIVE_WITHIN_S = 15.0
"""A pulse older than this means that something blocks the loop or has ended its root task."""
BLOCKED_S = 1.0
"""A wake-up this late is worth a line in the log."""


class Heartbeat:
    """Beats on the loop and measures how late each beat comes.

    Attributes:
        lag: Seconds between the moment a beat was due and the moment it came.
    """

    def __init__(self) -> None:
        self.lag = Histogram()
        self._last_beat: float | None = None

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            due = anyio.current_time() + PERIOD_S
            await anyio.sleep(PERIOD_S)
            self._last_beat = anyio.current_time()
            late = max(0.0, self._last_beat - due)
            self.lag.observe(late)
            if late > BLOCKED_S:
                log.warning("event loop was blocked seconds=%.1f", late)

    @property
    def alive(self) -> bool:
        """Whether the last beat is recent; True before the first, while the daemon starts."""
        return self._last_beat is None or anyio.current_time() - self._last_beat < ALIVE_WITHIN_S
