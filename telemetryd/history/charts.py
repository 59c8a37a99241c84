"""Charts as SVG, drawn on the server: no script, no outside font, readable in light and dark.

Colours come from the style sheet of the page around (``fill`` and ``stroke`` by class). A gap is
drawn as a gap. The chart has a title for screen readers; the page shows the same data as a table.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from html import escape
from typing import Final

from telemetryd.history.entitlement import Entitlement
from telemetryd.history.slots import Slot, slot_start

WIDTH: Final = 720
HEIGHT: Final = 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 12, 28
_TICKS: Final = 4

STYLE: Final = """
.chart{width:100%;height:auto;display:block;font:12px system-ui,sans-serif}
.chart text{fill:var(--muted,#57606a)}
.chart .grid{stroke:var(--line,#d0d7de);stroke-width:1}
.chart .mean{fill:none;stroke:var(--accent,#0969da);stroke-width:2;stroke-linejoin:round}
.chart .range{fill:var(--accent,#0969da);opacity:.18}
.chart .limit{stroke:var(--bad,#cf222e);stroke-width:1.5;stroke-dasharray:6 4}
.chart .limit-text{fill:var(--bad,#cf222e)}
.chart .gap{fill:var(--line,#d0d7de);opacity:.45}
"""
"""For the page around; its variables have the colours of both schemes."""


@dataclass(frozen=True, slots=True)
class Point:
    """A stretch of time.

    Attributes:
        low: The lowest, highest and mean value; all None where nothing is known.
    """

    begin: datetime
    end: datetime
    low: float | None
    high: float | None
    mean: float | None


@dataclass(frozen=True, slots=True)
class _Scale:
    begin: datetime
    end: datetime
    top: float

    def x(self, at: datetime) -> float:
        share = (at - self.begin) / (self.end - self.begin)
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = value / self.top
        return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)


def points_of(
    slots: Sequence[Slot], rule: Entitlement, begin: datetime, end: datetime, size_s: int
) -> list[Point]:
    """What the rule counts in each slot from ``begin`` to ``end``, known or not."""
    by_start = {slot.start: slot for slot in slots}
    found = []
    for start in range(slot_start(begin.timestamp(), size_s), math.ceil(end.timestamp()), size_s):
        slot = by_start.get(start)
        low = high = mean = None
        if slot is not None and slot.known:
            cell = slot.cell(rule.series)
            high = float(rule.units(Fraction(cell.high)))
            low = None if cell.low is None else float(rule.units(Fraction(cell.low)))
            mean = None if cell.mean is None else float(rule.units(Fraction(cell.mean)))
        at = datetime.fromtimestamp(start, UTC)
        found.append(Point(at, at + timedelta(seconds=size_s), low, high, mean))
    return found


def chart(title: str, points: Sequence[Point], *, limit: float | None = None) -> str:
    """An SVG element: the mean as a line, lowest to highest as an area around, gaps as bars.

    Args:
        title: What it shows, as text.
        points: In the order of time, without overlaps; at least one.
        limit: Drawn as a dashed line.
    """
    values = [each.high for each in points if each.high is not None]
    top = ceiling(max([*values, limit or 0.0]))
    scale = _Scale(points[0].begin, points[-1].end, top)
    named = f'role="img" aria-label="{escape(title, quote=True)}"'
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" {named}><title>{escape(title)}</title>',
        *_gaps(points, scale),
        *_grid(scale),
        *_lines(points, scale),
    ]
    if limit is not None:
        y = scale.y(limit)
        parts.append(
            f'<line class="limit" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="limit-text" x="{WIDTH - _RIGHT}" y="{y - 4:.1f}"'
            f' text-anchor="end">limit {limit:,g}</text>'
        )
    return "".join([*parts, "</svg>"])


def ceiling(value: float) -> float:
    """The next 1, 2, 4 or 5 times a power of ten, so that four lines of a grid are round."""
    if value <= _TICKS:
        return float(_TICKS)
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 5, 10) if step * power >= value)


def _gaps(points: Sequence[Point], scale: _Scale) -> Iterator[str]:
    begin: datetime | None = None
    for each in (*points, None):
        if each is not None and each.high is None:
            begin = begin or each.begin
        elif begin is not None:
            end = each.begin if each is not None else scale.end
            left, right = scale.x(begin), scale.x(end)
            yield (
                f'<rect class="gap" x="{left:.1f}" y="{_TOP}" width="{right - left:.1f}"'
                f' height="{HEIGHT - _TOP - _BOTTOM}"><title>not known</title></rect>'
            )
            begin = None


def _grid(scale: _Scale) -> Iterator[str]:
    for tick in range(_TICKS + 1):
        value = scale.top * tick / _TICKS
        y = scale.y(value)
        yield (
            f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_short(value)}</text>'
        )
    for at, text in time_ticks(scale.begin, scale.end):
        x = scale.x(at)
        anchor = "start" if x < _LEFT + 20 else "end" if x > WIDTH - 40 else "middle"
        yield f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{text}</text>'


def time_ticks(begin: datetime, end: datetime) -> list[tuple[datetime, str]]:
    """Up to eight round moments in UTC between two, with what to write there."""
    length = end - begin
    if length <= timedelta(hours=48):
        step, pattern = timedelta(hours=max(1, math.ceil(length / timedelta(hours=7)))), "%H:%M"
    elif length <= timedelta(days=70):
        step, pattern = timedelta(days=max(1, math.ceil(length / timedelta(days=7)))), "%d %b"
    else:
        return _month_ticks(begin, end)
    unit = timedelta(hours=1) if step < timedelta(days=1) else timedelta(days=1)
    midnight = begin.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    at = midnight + math.ceil((begin - midnight) / unit) * unit
    found = []
    while at <= end:
        found.append((at, f"{at:{pattern}}"))
        at += step
    return found


def _month_ticks(begin: datetime, end: datetime) -> list[tuple[datetime, str]]:
    months = []
    at = begin.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    while at <= end:
        if at >= begin:
            months.append((at, f"{at:%b %y}"))
        at = (at + timedelta(days=31)).replace(day=1)
    return months[:: max(1, math.ceil(len(months) / 8))]


def _lines(points: Sequence[Point], scale: _Scale) -> Iterator[str]:
    for run in _runs(points):
        upper = [
            f"{scale.x(at):.1f},{scale.y(each.high or 0):.1f}"
            for each in run
            for at in (each.begin, each.end)
        ]
        lower = [
            f"{scale.x(at):.1f},{scale.y(each.low if each.low is not None else each.high or 0):.1f}"
            for each in reversed(run)
            for at in (each.end, each.begin)
        ]
        yield f'<polygon class="range" points="{" ".join(upper + lower)}"/>'
    for run in _runs([each for each in points if each.mean is not None or each.high is None]):
        line = [
            f"{scale.x(at):.1f},{scale.y(each.mean):.1f}"
            for each in run
            if each.mean is not None
            for at in (each.begin, each.end)
        ]
        yield f'<polyline class="mean" points="{" ".join(line)}"/>'


def _runs(points: Sequence[Point]) -> Iterator[list[Point]]:
    """What is known without a gap between."""
    run: list[Point] = []
    for each in points:
        if each.high is None or (run and each.begin != run[-1].end):
            if run:
                yield run
            run = []
        if each.high is not None:
            run.append(each)
    if run:
        yield run


def _short(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"
