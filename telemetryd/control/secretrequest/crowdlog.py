"""What becomes of requests, line by line while they are few; of a crowd their number is logged."""

import logging
import math
from typing import Final

import anyio

from telemetryd.limiter import TokenBucket

log = logging.getLogger(__name__)

LINES_PER_S: Final = 0.2
LINES_AT_ONCE: Final = 100
"""So many lines tell of single requests; those of a crowd would fill the disk."""


class CrowdLog:
    """A log that anybody who may create and delete requests can write to."""

    def __init__(self) -> None:
        """Log nothing yet."""
        self._lines = TokenBucket(LINES_PER_S, burst=LINES_AT_ONCE)
        self._left_out = 0

    def log(self, level: int, message: str, *values: object) -> None:
        """Log a line about one request, or count it; of a level that isn't logged, do neither."""
        if not log.isEnabledFor(level):
            return
        if self._lines.wait_s():
            self._left_out += 1
            return
        self._lines.take()
        log.log(level, message, *values)

    def say_left_out(self) -> float:
        """Say how many lines were left out since this was last said.

        Returns:
            When to come back, on the loop's clock; infinity where all is said.
        """
        wait_s = self._lines.wait_s()
        if self._left_out and not wait_s:
            left_out, self._left_out = self._left_out, 0
            self.log(
                logging.WARNING,
                "lines about secret requests left out: see ctl status count=%d",
                left_out,
            )
        return anyio.current_time() + wait_s if self._left_out else math.inf
