"""Memory and collection time against nodes: an SVG of two panels with logarithmic axes. Pure.

A line is solid for the uniform fleet and dashed for the real one.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Final

from benchmarks.results import (
    CLIENT_GO,
    DROPPED,
    KUBERNETES_ASYNCIO,
    LIGHTKUBE,
    REAL,
    TELEMETRYD,
    UNIFORM,
    Results,
)

Points = Sequence[tuple[float, float]]
Lines = Mapping[tuple[str, str], Points]
"""By holder and fleet."""

_WIDTH, _HEIGHT = 440, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 30, 40, 48
_COLOURS: Final = {
    TELEMETRYD: "#0b7285",
    CLIENT_GO: "#c2255c",
    KUBERNETES_ASYNCIO: "#e67700",
    LIGHTKUBE: "#5f3dc4",
    DROPPED: "#868e96",
}


def render(results: Results) -> str:
    """The picture."""
    memory = {
        (holder, fleet): _by_nodes(results, holder, fleet, "peak_bytes", 1e-6)
        for holder in _COLOURS
        for fleet in (UNIFORM, REAL)
    }
    collection: dict[tuple[str, str], Points] = {}
    for fleet in (UNIFORM, REAL):
        collection[TELEMETRYD, fleet] = [
            (float(nodes), inside["collection_s"] * 1e3)
            for nodes, inside in sorted(results.inside.get(fleet, {}).items())
        ]
        collection[CLIENT_GO, fleet] = _by_nodes(results, CLIENT_GO, fleet, "collection_s", 1e3)
    panels = (
        _panel("Peak memory, MB", memory, 0),
        _panel("One collection, ms", collection, _WIDTH),
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * _WIDTH} {_HEIGHT + 56}" '
        'font-family="sans-serif" font-size="12">\n'
        '<rect width="100%" height="100%" fill="#fff"/>\n'
        + "\n".join(panels)
        + "\n"
        + _legend(holder for holder in _COLOURS if any(memory[holder, f] for f in (UNIFORM, REAL)))
        + "\n</svg>\n"
    )


def _by_nodes(results: Results, holder: str, fleet: str, figure: str, scale: float) -> Points:
    return [
        (float(section.nodes), spread.middle * scale)
        for section in results.ordered(fleet)
        if (spread := section.spread(holder, figure)) is not None
    ]


def _panel(title: str, series: Lines, offset: int) -> str:
    points = [point for line in series.values() for point in line]
    parts = [
        f'<g transform="translate({offset} 0)">',
        f'<text x="{_LEFT}" y="22" font-weight="bold">{escape(title)}</text>',
    ]
    if points:
        x_decades = _decades([x for x, _ in points])
        y_decades = _decades([y for _, y in points])
        parts += _axes(x_decades, y_decades)
        for (holder, fleet), line in series.items():
            if not line:
                continue
            placed = [
                (
                    _place(x, x_decades, _LEFT, _WIDTH - _RIGHT),
                    _place(y, y_decades, _HEIGHT - _BOTTOM, _TOP),
                )
                for x, y in line
            ]
            parts += _line(placed, _COLOURS[holder], dashed=fleet == REAL)
    else:
        parts.append(f'<text x="{_LEFT}" y="60">not measured</text>')
    return "\n".join((*parts, "</g>"))


def _decades(values: Iterable[float]) -> tuple[int, int]:
    """The powers of ten around all values, at least one apart."""
    logs = [math.log10(value) for value in values]
    low, high = math.floor(min(logs) + 1e-9), math.ceil(max(logs) - 1e-9)
    return low, max(high, low + 1)


def _place(value: float, decades: tuple[int, int], start: float, end: float) -> float:
    low, high = decades
    return start + (end - start) * (math.log10(value) - low) / (high - low)


def _axes(x_decades: tuple[int, int], y_decades: tuple[int, int]) -> list[str]:
    parts = []
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for power in range(x_decades[0], x_decades[1] + 1):
        x = _place(10**power, x_decades, _LEFT, right)
        parts.append(f'<path d="M{x:.1f} {_TOP}V{bottom}" stroke="#dee2e6"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{10**power:,}</text>'
        )
    for power in range(y_decades[0], y_decades[1] + 1):
        y = _place(10**power, y_decades, bottom, _TOP)
        label = f"{10.0**power:,.10g}"
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="#dee2e6"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    parts.append(f'<text x="{right}" y="{bottom + 36}" text-anchor="end">nodes</text>')
    return parts


def _line(points: Points, colour: str, *, dashed: bool) -> list[str]:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
    dashes = ' stroke-dasharray="6 4"' if dashed else ""
    line = f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>'
    return [line, *dots]


def _legend(holders: Iterable[str]) -> str:
    parts, x = [], float(_LEFT)
    for holder in holders:
        y = _HEIGHT + 12
        parts.append(
            f'<rect x="{x:.0f}" y="{y}" width="12" height="12" fill="{_COLOURS[holder]}"/>'
        )
        parts.append(f'<text x="{x + 17:.0f}" y="{y + 10}">{escape(holder)}</text>')
        x += 40 + 7 * len(holder)
    parts.append(
        f'<text x="{_LEFT}" y="{_HEIGHT + 44}">solid: uniform nodes, dashed: real nodes</text>'
    )
    return "\n".join(parts)
