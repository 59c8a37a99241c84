"""Charts as SVG, drawn on the server: no script, no outside font, readable in light and dark.

Colours come from the style sheet of the page around (``fill`` and ``stroke`` by class). Widths are
shares of the chart's own, so texts keep their size on a narrow screen. A gap is drawn as a gap. The
chart has a title for screen readers; the page shows the same data as a table.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from html import escape
from typing import Final

from telemetryd.history.entitlement import Entitlement
from telemetryd.history.slots import Gap, Slot, slot_start

HEIGHT: Final = 220
_TOP, _BOTTOM = 12, 28
_DRAWN: Final = HEIGHT - _TOP - _BOTTOM
_ACROSS: Final = 1000
"""Units across the lines, which are stretched to the width of the chart."""
_TICKS: Final = 4
_LEAST_GAP: Final = 0.2
"""In percent of the width: a gap of a minute must be seen."""
_AT_THE_EDGE: Final = 6.0
"""In percent: a text in the middle of its place would leave the chart."""

MOST_POINTS: Final = 720
"""In one chart: a screen shows no more."""

STYLE: Final = """
.chart{display:block;width:calc(100% - 3.75rem);height:220px;margin:0 .75rem 0 3rem;
overflow:visible;font:12px system-ui,sans-serif}
.chart text{fill:var(--muted);stroke:var(--sheet);stroke-width:3px;paint-order:stroke;
stroke-linejoin:round}
.chart .grid{stroke:var(--line);stroke-width:1}
.chart .mean,.spark .mean{fill:none;stroke:var(--accent);stroke-width:2;stroke-linejoin:round;
vector-effect:non-scaling-stroke}
.chart .range,.spark .range{fill:var(--accent);fill-opacity:.2;stroke:var(--accent);
stroke-opacity:.35;stroke-width:1;vector-effect:non-scaling-stroke}
.chart .limit{stroke:var(--bad);stroke-width:1.5;stroke-dasharray:6 4}
.chart .limit-text{fill:var(--bad)}
.chart .gap{fill:var(--line);fill-opacity:.6}
.spark{display:inline-block;vertical-align:middle;width:10rem;height:2rem}
@media(max-width:40rem){.chart .every-other{display:none}}
"""
"""For the page around; its variables have the colours of both schemes."""

REASONS: Final = {
    Gap.OFF: "collection was off",
    Gap.DOWN: "telemetryd was down or not ready",
    Gap.INCOMPLETE: "not all could be read",
    Gap.CLOCK: "the clock was set ahead",
}
NO_RECORD: Final = "no record"


@dataclass(frozen=True, slots=True)
class Point:
    """A stretch of time.

    Attributes:
        low: The lowest, highest and mean value; all None where nothing is known.
        why: Why nothing is known; empty where something is.
    """

    begin: datetime
    end: datetime
    low: float | None
    high: float | None
    mean: float | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class _Scale:
    begin: datetime
    end: datetime
    top: float

    def share(self, at: datetime) -> float:
        return (at - self.begin) / (self.end - self.begin)

    def y(self, value: float) -> float:
        return (1 - value / self.top) * _DRAWN


def points_of(
    slots: Sequence[Slot], rule: Entitlement, begin: datetime, end: datetime, size_s: int
) -> list[Point]:
    """What the rule counts in each slot from ``begin`` to ``end``, known or not."""
    by_start = {slot.start: slot for slot in slots}
    series = rule.series
    found = []
    for start in range(slot_start(begin.timestamp(), size_s), math.ceil(end.timestamp()), size_s):
        slot = by_start.get(start)
        low = high = mean = None
        why = ""
        if slot is not None and slot.known:
            cell = slot.cell(series)
            high = rule.shown(cell.high)
            low = None if cell.low is None else rule.shown(cell.low)
            mean = None if cell.mean is None else rule.shown(cell.mean)
        else:
            gaps = () if slot is None else sorted(slot.gaps, key=lambda gap: -slot.gaps[gap])
            why = ", ".join(REASONS[gap] for gap in gaps) or NO_RECORD
        at = datetime.fromtimestamp(start, UTC)
        found.append(Point(at, at + timedelta(seconds=size_s), low, high, mean, why))
    return found


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most so many: neighbours become one, with the extremes of all."""
    size = max(1, math.ceil(len(points) / most))
    return [_merged(points[at : at + size]) for at in range(0, len(points), size)]


def _merged(points: Sequence[Point]) -> Point:
    if len(points) == 1:
        return points[0]
    lows = [each.low for each in points if each.low is not None]
    highs = [each.high for each in points if each.high is not None]
    means = [each.mean for each in points if each.mean is not None]
    return Point(
        points[0].begin,
        points[-1].end,
        min(lows, default=None),
        max(highs, default=None),
        math.fsum(means) / len(means) if means else None,
        "" if highs else _reasons(points),
    )


def _reasons(points: Sequence[Point]) -> str:
    return ", ".join(dict.fromkeys(each.why for each in points if each.why))


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
        f'<svg class="chart" {named}>',
        *_gaps(points, scale),
        *_grid(scale),
        f'<svg y="{_TOP}" width="100%" height="{_DRAWN}" {_stretched(_DRAWN)}>',
        *_lines(points, scale),
        "</svg>",
    ]
    if limit is not None:
        y = _TOP + scale.y(limit)
        parts.append(
            f'<line class="limit" x1="0" x2="100%" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="limit-text" x="100%" y="{y - 4:.1f}" text-anchor="end">'
            f"limit {limit:,.0f}</text>"
        )
    return "".join([*parts, "</svg>"])


def sparkline(points: Sequence[Point]) -> str:
    """A small SVG element without axes, from 0 up; a text beside it must say the same."""
    top = max([each.high for each in points if each.high is not None], default=0.0) or 1.0
    scale = _Scale(points[0].begin, points[-1].end, top * 1.05)
    lines = "".join(_lines(points, scale))
    return f'<svg class="spark" aria-hidden="true" {_stretched(_DRAWN)}>{lines}</svg>'


def _stretched(height: int) -> str:
    return f'viewBox="0 0 {_ACROSS} {height}" preserveAspectRatio="none"'


def ceiling(value: float) -> float:
    """The top of a scale for values up to this one, so that each of its four lines is round."""
    quarter = max(1.0, value / _TICKS)
    power = 10.0 ** math.floor(math.log10(quarter))
    steps = (1, 2, 3, 4, 5, 10) if power == 1 else (1, 2, 2.5, 3, 4, 5, 10)
    return _TICKS * next(step * power for step in steps if step * power >= quarter)


def _gaps(points: Sequence[Point], scale: _Scale) -> Iterator[str]:
    gap: list[Point] = []
    for each in (*points, None):
        if each is not None and each.high is None:
            gap.append(each)
        elif gap:
            left, right = 100 * scale.share(gap[0].begin), 100 * scale.share(gap[-1].end)
            yield (
                f'<rect class="gap" x="{left:.2f}%" y="{_TOP}" height="{_DRAWN}"'
                f' width="{max(right - left, _LEAST_GAP):.2f}%">'
                f"<title>not known: {escape(_reasons(gap))}</title></rect>"
            )
            gap = []


def _grid(scale: _Scale) -> Iterator[str]:
    for tick in range(_TICKS + 1):
        value = scale.top * tick / _TICKS
        y = _TOP + scale.y(value)
        yield (
            f'<line class="grid" x1="0" x2="100%" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="-6" y="{y + 4:.1f}" text-anchor="end">{_short(value)}</text>'
        )
    for number, (at, text) in enumerate(time_ticks(scale.begin, scale.end)):
        x = 100 * scale.share(at)
        anchor = "start" if x < _AT_THE_EDGE else "end" if x > 100 - _AT_THE_EDGE else "middle"
        name = ' class="every-other"' if number % 2 else ""
        yield f'<text{name} x="{x:.2f}%" y="{HEIGHT - 8}" text-anchor="{anchor}">{text}</text>'


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
        upper = _steps(run, scale, lambda each: each.high)
        lower = _steps(run, scale, lambda each: each.high if each.low is None else each.low)
        yield f'<polygon class="range" points="{_path(upper)} {_path(lower[::-1])}"/>'
    for run in _runs([each for each in points if each.mean is not None or each.high is None]):
        yield f'<polyline class="mean" points="{_path(_steps(run, scale, lambda e: e.mean))}"/>'


def _steps(
    run: Sequence[Point], scale: _Scale, value: Callable[[Point], float | None]
) -> list[tuple[float, float]]:
    """Corners of a line that holds each value for its stretch; equal neighbours share theirs."""
    corners: list[tuple[float, float]] = []
    for each in run:
        y = scale.y(value(each) or 0.0)
        for at in (each.begin, each.end):
            corner = _ACROSS * scale.share(at), y
            if len(corners) > 1 and corners[-1][1] == corners[-2][1] == y:
                corners[-1] = corner
            else:
                corners.append(corner)
    return corners


def _path(corners: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)


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
