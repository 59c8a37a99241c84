"""The digest of each month that is over, found once: for two parties to compare with their reports.

What was noted stays in the store, so that neither a restart nor another replica finds it again. A
month is not over after all where the clock was ahead, or is set back into it. Once it has ended
again, it is found again if its digest is another one by then.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final, NamedTuple

from telemetryd.history.entitlement import Entitlement
from telemetryd.history.report import MONTH, Period, make_report, month_of
from telemetryd.history.slots import DAY_S
from telemetryd.history.store import HistoryStore

SETTLED_S: Final = 300.0
"""After a month's end every replica has written its last minute."""


class EndedMonth(NamedTuple):
    """A month whose digest wasn't noted before.

    Attributes:
        again: Another digest was.
    """

    period: Period
    again: bool


class EndedMonths:
    """Which months of one installation are over.

    Attributes:
        found: What ``find`` found, also where it failed in the end; take it out of there.
    """

    def __init__(self) -> None:
        """Nothing is known yet."""
        self.found: list[EndedMonth] = []
        self._month: datetime | None = None
        self._reopened: set[int] = set()

    def is_due(self, now: float, *, shared: bool) -> bool:
        """Whether another month is over since ``find``, or one is not over after all.

        Args:
            now: Unix time in seconds.
            shared: Other replicas write to the store too.
        """
        month = month_of(datetime.fromtimestamp(now, UTC))
        if month == self._month:
            return False
        is_back = self._month is not None and month < self._month
        return is_back or not shared or now >= month.timestamp() + SETTLED_S

    def find(self, store: HistoryStore, rule: Entitlement, installation: str, now: float) -> None:
        """Note what is over and known, and was not noted; blocks, as the store does.

        Raises:
            HistoryError: The store can't be read or written: call it again.
        """
        month = month_of(datetime.fromtimestamp(now, UTC))
        noted = store.digests(installation)
        self._reopened |= {start for start in noted if start >= month.timestamp()}
        over = {start for start in noted if start < month.timestamp()}
        begin = _first_to_note(over, self._reopened)
        for period in _known(store, rule, installation, begin, month):
            start = int(period.begin.timestamp())
            is_new = start not in noted or start in self._reopened
            if is_new and store.note_digest(installation, start, period.digest):
                self.found.append(EndedMonth(period, again=start in noted))
        self._reopened -= over
        self._month = month


def _first_to_note(over: set[int], reopened: set[int]) -> datetime | None:
    """The first month that may not be noted yet; None for the first one that is known."""
    if not over:
        return None
    after = month_of(datetime.fromtimestamp(max(over) + 32 * DAY_S, UTC))
    return min([after, *(datetime.fromtimestamp(start, UTC) for start in over & reopened)])


def _known(
    store: HistoryStore,
    rule: Entitlement,
    installation: str,
    begin: datetime | None,
    end: datetime,
) -> Iterator[Period]:
    """Months from ``begin`` to before ``end`` of which anything is known."""
    if begin is not None and begin >= end:
        return
    report = make_report(
        store, rule, installation=installation, instance="", begin=begin, end=end, by=MONTH
    )
    yield from (period for period in report.periods if period.peak is not None)
