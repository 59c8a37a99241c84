"""What a subscription is counted by: the rule, and its figure over a time.

telemetryd counts and shows; it judges nothing. The rules of the presets are public: ``aws-csp`` is
how Rancher's adapter for AWS counts (rancher/csp-adapter, ``pkg/manager/aws.go``: 20 nodes per
license, rounded up), ``payg-monthly`` how the cloud marketplaces do (rancher/rancher-docs#1149: the
mean of a month's hourly counts, 5 nodes at least).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final

from telemetryd.config import EntitlementConfig
from telemetryd.history.measure import ALL, ENTITLED
from telemetryd.history.slots import Slot

CURRENT: Final = "current"
PEAK: Final = "peak"
MONTHLY_AVERAGE: Final = "monthly_average"
METHODS: Final = (PEAK, CURRENT, MONTHLY_AVERAGE)

_SERIES: Final = {"node": "nodes", "core": "cpu", "cluster": "clusters"}
_MILLI: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Entitlement:
    """A rule.

    Attributes:
        unit: ``node``, ``core`` or ``cluster``.
        scope: ``managed`` leaves out the local cluster and clusters that are being deleted; ``all``
            counts everything.
        method: ``peak`` is the highest count, ``current`` the last one, and ``monthly_average`` the
            mean of the counts at the beginning of each hour.
        minimum: Units that are counted at least, where anything is counted.
        per_license: Units of a license; what is begun counts in full.
        limit: Licenses that there are, None for no limit.
        preset: The name of the preset that the rule comes from, empty for a rule of one's own.
    """

    unit: str = "node"
    scope: str = "managed"
    method: str = PEAK
    minimum: int = 0
    per_license: int = 1
    limit: int | None = None
    preset: str = ""

    @property
    def series(self) -> str:
        """The series that it counts."""
        return f"{_SERIES[self.unit]}.{ENTITLED if self.scope == 'managed' else ALL}"

    def units(self, value: Fraction) -> Fraction:
        """A value of the series in units: cores are kept in thousandths."""
        return value / _MILLI if self.unit == "core" else value

    def shown(self, value: float) -> float:
        """The same for a chart, rounded to a float."""
        return value / _MILLI if self.unit == "core" else float(value)

    def licenses(self, figure: Fraction) -> int:
        """Licenses for a figure; rounded up after everything else."""
        return math.ceil(figure / self.per_license)

    def figure(self, hours: Iterable[Slot]) -> Fraction | None:
        """The figure over hours in the order of time, exact; None where none of them counts.

        Hours that aren't known are neither zero nor interpolated.
        """
        found = self._count([slot for slot in hours if slot.known])
        return None if found is None else max(self.units(found), Fraction(self.minimum))

    def _count(self, hours: list[Slot]) -> Fraction | None:
        series = self.series
        cells = [slot.cell(series) for slot in hours]
        if self.method == PEAK:
            return Fraction(max(cell.high for cell in cells)) if cells else None
        counts = [
            count
            for count in (cell.last if self.method == CURRENT else cell.first for cell in cells)
            if count is not None
        ]
        if not counts:
            return None
        return Fraction(
            counts[-1] if self.method == CURRENT else Fraction(sum(counts), len(counts))
        )


PRESETS: Final = {
    "aws-csp": Entitlement(method=CURRENT, per_license=20, preset="aws-csp"),
    "payg-monthly": Entitlement(method=MONTHLY_AVERAGE, minimum=5, preset="payg-monthly"),
}


def entitlement_of(config: EntitlementConfig) -> Entitlement:
    """The rule of a configuration."""
    if config.preset is not None:
        return replace(PRESETS[config.preset], limit=config.limit)
    return Entitlement(
        unit=config.unit,
        scope=config.scope,
        method=config.method,
        minimum=config.minimum,
        per_license=config.per_license,
        limit=config.limit,
    )
