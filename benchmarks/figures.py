"""The arithmetic of the results: spreads, ratios, and goals that are met or not.

Pure. Where figures come from is ``scenarios``'s, and how they are shown is ``report``'s.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Spread:
    """Several runs of one measurement."""

    middle: float
    least: float
    most: float
    runs: int


@dataclass(frozen=True, slots=True)
class Goal:
    """One goal and what was measured.

    Attributes:
        what: What is measured, in words.
        limit: It is met up to this value.
        measured: None where it could not be measured; ``detail`` says why.
        unit: Of both; ``x`` is a ratio to a peer.
        detail: Further figures behind it, or why there is none.
    """

    what: str
    limit: float
    measured: float | None
    unit: str
    detail: str = ""

    @property
    def verdict(self) -> str:
        """``met``, ``not met`` or ``not measured``."""
        if self.measured is None:
            return "not measured"
        return "met" if self.measured <= self.limit else "not met"


def summarise(values: Sequence[float]) -> Spread:
    """Median, least and most.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("no runs to summarise")
    return Spread(median(values), min(values), max(values), len(values))


def ratio(ours: Spread | None, theirs: Spread | None) -> float | None:
    """Our median as a multiple of theirs; None where one is missing or theirs is nothing."""
    if ours is None or theirs is None or not theirs.middle:
        return None
    return ours.middle / theirs.middle


def per_object(small: float, large: float, *, fewer: int, more: int) -> float:
    """What each further object adds, from totals at two numbers of objects.

    Raises:
        ValueError: The numbers are not apart.
    """
    if more <= fewer:
        raise ValueError(f"{more} objects are not more than {fewer}")
    return (large - small) / (more - fewer)


def quantile(values: Sequence[float], part: float) -> float:
    """The smallest value that at least this part of the values doesn't exceed.

    Raises:
        ValueError: There are no values, or the part isn't in (0, 1].
    """
    if not values or not 0 < part <= 1:
        raise ValueError("a quantile needs values and a part above 0 and up to 1")
    ordered = sorted(values)
    return ordered[max(0, -int(-part * len(ordered) // 1) - 1)]


def bucket_bound(cumulative: Sequence[tuple[float, float]], part: float) -> float | None:
    """The upper bound of the bucket in which this part of a histogram's observations ends.

    Args:
        cumulative: (upper bound, observations up to it) in rising order, as Prometheus shows them.
        part: Such as 0.99.

    Returns:
        The bound, which may be infinite; None where nothing was observed.
    """
    if not cumulative or not cumulative[-1][1]:
        return None
    wanted = part * cumulative[-1][1]
    return next(bound for bound, count in cumulative if count >= wanted)
