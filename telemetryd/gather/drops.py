"""Falls of the fleet that no fleet has: half of it or more, within minutes.

A relist that returns next to nothing looks like this, and so does an API server that was restored
from an old copy. What is counted is sent all the same, and said to be doubtful.
"""

from collections import deque
from typing import Final

from telemetryd.model import Drop

WINDOW_S: Final = 600.0
"""A fall within so long counts, and one between two looks however far apart they are."""

HOLD_S: Final = 3600.0
"""After so long the fleet is taken to be as small as it says."""

LEAST: Final = 4
"""A fall by fewer is one that a small fleet has."""


class DropWatch:
    """Follows one number, and says when it has fallen by half or more.

    A process that has just started has nothing to compare with.
    """

    def __init__(self, what: str) -> None:
        """Follow a number.

        Args:
            what: What is counted, ``clusters`` or ``nodes``.
        """
        self._what = what
        self._seen: deque[tuple[float, int]] = deque()  # falling numbers, and until when they held
        self._fallen: tuple[float, int] | None = None

    @property
    def fallen(self) -> bool:
        """Whether a fall held at the last look."""
        return self._fallen is not None

    def look(self, now_s: float, number: int) -> Drop | None:
        """The fall that holds now, if one does.

        Args:
            now_s: Of a clock that only goes forward.
            number: What is counted now.
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
        """The highest number of the window, after this one has been noted."""
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
