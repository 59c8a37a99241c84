"""Implausible drops: half of the fleet or more, within minutes.

A relist that returns almost nothing looks like this, and so does an API server restored from an old
backup. The counts are sent anyway, and marked as doubtful.
"""

from collections import deque
from typing import Final

from telemetryd.model import Drop

WINDOW_S: Final = 600.0
"""A drop within this time counts, and any drop between two consecutive looks."""

HOLD_S: Final = 3600.0
"""After this time the fleet is believed to be as small as it is counted."""

LEAST: Final = 4
"""Fewer can disappear from a small fleet at once."""


class DropWatch:
    """Follows the number of ``what`` (``clusters`` or ``nodes``) since the process started."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._seen: deque[tuple[float, int]] = deque()  # falling numbers, and until when they held
        self._fallen: tuple[float, int] | None = None

    @property
    def fallen(self) -> bool:
        """Whether there was a drop at the last look."""
        return self._fallen is not None

    def look(self, now_s: float, number: int) -> Drop | None:
        """The current drop, if any.

        Args:
            now_s: On a clock that only moves forward.
            number: The current number.
        """
        before = self._peak(now_s, number)
        if self._fallen is None and _is_implausible(before, number):
            self._fallen = (now_s, before)
        if self._fallen is None:
            return None
        since, before = self._fallen
        if now_s - since < HOLD_S and _is_implausible(before, number):
            return Drop(self._what, before, number)
        self._fallen = None
        self._seen = deque([(now_s, number)])
        return None

    def _peak(self, now_s: float, number: int) -> int:
        """The highest number of the window, including this one."""
        seen = self._seen
        if seen:
            seen[-1] = (now_s, seen[-1][1])
        while seen and seen[0][0] < now_s - WINDOW_S:
            seen.popleft()
        while seen and seen[-1][1] <= number:
            seen.pop()
        seen.append((now_s, number))
        return seen[0][1]


def _is_implausible(before: int, now: int) -> bool:
    return before - now >= LEAST and 2 * now <= before
