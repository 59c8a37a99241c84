"""A report as data and as text: JSON, CSV, and a table for a terminal."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from fractions import Fraction
from typing import Any, Final

import orjson

from telemetryd.bounds import visible
from telemetryd.history.report import DAY, MONTH, Period, Report, number

_BAR: Final = 24
_FORMULA: Final = frozenset("=+-@\t\r\n")
"""How a formula begins."""
_PARTS: Final = " ▏▎▍▌▋▊▉█"
"""Eighths of a character, so that a bar of 24 characters shows 192 steps."""


def document(report: Report) -> dict[str, Any]:
    """What ``telemetryd report --format json`` prints, as JSON types."""
    rule = report.rule
    return {
        "installation": report.installation,
        "instance": report.instance,
        "since": _time(report.since),
        "made": _time(report.made),
        "by": report.by,
        "rule": {
            "preset": rule.preset or None,
            "unit": rule.unit,
            "scope": rule.scope,
            "method": rule.method,
            "minimum": rule.minimum,
            "per_license": rule.per_license,
            "limit": rule.limit,
        },
        "periods": [_period(each) for each in report.periods],
    }


def _period(period: Period) -> dict[str, Any]:
    hours, peak = period.hours, period.peak
    return {
        "from": _time(period.begin),
        "to": _time(period.end),
        "figure": _optional(period.figure),
        "licenses": period.licenses,
        "peak": None if peak is None else {"value": number(peak.value), "at": _time(peak.at)},
        "mean": _optional(period.mean),
        "hours": {
            "total": number(hours.total),
            "known": number(hours.known),
            "complete": number(hours.complete),
            "gaps": {str(gap): number(lost) for gap, lost in hours.gaps.items()},
        },
        "versions": list(period.versions),
        "providers": period.providers,
        "kubernetes": period.kubernetes,
        "digest": period.digest,
    }


def to_json(found: object) -> str:
    """Indented, with a line break at its end."""
    return orjson.dumps(found, option=orjson.OPT_INDENT_2).decode() + "\n"


def to_csv(reports: Iterable[Report]) -> str:
    """A line for each period, with a heading; empty fields where nothing is known (RFC 4180)."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("installation", *(name for name, _ in _COLUMNS)))
    for report in reports:
        for period in report.periods:
            shown = _period(period)
            writer.writerow((report.installation, *(value(shown) for _, value in _COLUMNS)))
    return text.getvalue()


_COLUMNS: Final[tuple[tuple[str, Callable[[dict[str, Any]], Any]], ...]] = (
    ("from", lambda period: period["from"]),
    ("to", lambda period: period["to"]),
    ("figure", lambda period: period["figure"]),
    ("licenses", lambda period: period["licenses"]),
    ("peak", lambda period: (period["peak"] or {}).get("value")),
    ("peak_at", lambda period: (period["peak"] or {}).get("at")),
    ("mean", lambda period: period["mean"]),
    ("hours_total", lambda period: period["hours"]["total"]),
    ("hours_known", lambda period: period["hours"]["known"]),
    ("hours_complete", lambda period: period["hours"]["complete"]),
    ("digest", lambda period: period["digest"]),
    ("versions", lambda period: _cell(", ".join(period["versions"]))),
    ("providers", lambda period: _cell(counts_in_words(period["providers"]))),
    ("kubernetes", lambda period: _cell(counts_in_words(period["kubernetes"]))),
)


def counts_in_words(counts: Mapping[str, int]) -> str:
    """Names with their numbers: ``k3s 2, rke2 19``."""
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in _FORMULA else text


def rule_in_words(report: Report) -> str:
    """What the figure counts, in a sentence."""
    rule = report.rule
    what = {"node": "nodes", "core": "CPU cores", "cluster": "clusters"}[rule.unit]
    where = {
        "managed": "in managed clusters that aren't being deleted, without the local cluster",
        "all": "in all clusters, the local one among them",
    }[rule.scope]
    period = {DAY: "day", MONTH: "month"}[report.by]
    how = {
        "peak": f"the highest count of the {period}",
        "current": f"the last count of the {period}",
        "monthly_average": (
            f"the mean over the {period}'s known hours of the count at each hour's beginning"
        ),
    }[rule.method]
    words = f"{what} {where}: {how}"
    if rule.minimum:
        words += f", at least {rule.minimum}"
    if rule.per_license > 1:
        words += f"; a license covers {rule.per_license}, and a begun license counts in full"
    return words + (f" (preset {rule.preset})" if rule.preset else "")


CAVEATS: Final = (
    "Hours that aren't known are neither zero nor estimated.",
    "Virtual and nested clusters count as Rancher lists them.",
    "Nodes of a cluster that Rancher can't reach count.",
    "Equal digests prove equal records, not true ones.",
)


def to_text(report: Report) -> str:
    """A table with bars for a terminal."""
    lines = [
        f"Installation  {report.installation}",
        f"Counted       {rule_in_words(report)}",
    ]
    if report.rule.limit is not None:
        limit = report.rule.limit
        lines.append(f"Limit         {limit} license{'s' if limit != 1 else ''}")
    if report.instance:
        lines.append(f"Record of     {report.instance}")
    if report.since is None:
        return "\n".join([*lines, "", "No hour is known yet.", ""])
    lines.append(f"Known since   {_time(report.since)}")
    lines += ["", *_aligned(_figures(report), str.rjust)]
    lines += ["", *_aligned(_variety(report), str.ljust), "", *CAVEATS, ""]
    return "\n".join(lines)


def _figures(report: Report) -> Iterator[tuple[str, ...]]:
    rule, periods = report.rule, report.periods
    highest = max(
        [float(each.figure) for each in periods if each.figure is not None]
        + [float(rule.limit * rule.per_license) if rule.limit is not None else 0.0]
    )
    yield "period", "figure", "licenses", "peak", "on", "mean", "known", ""
    for each in periods:
        over = rule.limit is not None and each.licenses is not None and each.licenses > rule.limit
        yield (
            _name(each, report.by),
            _shown(each.figure),
            "-" if each.licenses is None else str(each.licenses),
            "-" if each.peak is None else _shown(each.peak.value),
            "-" if each.peak is None else f"{each.peak.at:%d %H:%M}",
            _shown(each.mean),
            _share(each.hours.known, each.hours.total),
            _bar(each.figure, highest) + (" over the limit" if over else ""),
        )


def _variety(report: Report) -> Iterator[tuple[str, ...]]:
    yield "period", "clusters by provider", "by Kubernetes version", "versions"
    for each in report.periods:
        counts = map(counts_in_words, (each.providers, each.kubernetes))
        texts = (*counts, ", ".join(each.versions))
        # What was imported may hold any text.
        yield (_name(each, report.by), *(visible(text) or "-" for text in texts))


def _aligned(rows: Iterable[tuple[str, ...]], align: Callable[[str, int], str]) -> Iterator[str]:
    """Columns as wide as they must be: the first one to the left, the last one as it is."""
    found = list(rows)
    widths = [max(len(row[column]) for row in found) for column in range(len(found[0]) - 1)]
    for first, *rest in found:
        cells = (align(cell, width) for cell, width in zip(rest, widths[1:], strict=False))
        yield "  ".join((first.ljust(widths[0]), *cells, rest[-1])).rstrip()


def _name(period: Period, by: str) -> str:
    return f"{period.begin:%Y-%m}" if by == MONTH else f"{period.begin:%Y-%m-%d}"


def _bar(figure: Fraction | None, highest: float) -> str:
    if figure is None:
        return "(not known)"
    eighths = round(float(figure) / highest * _BAR * 8) if highest else 0
    return "█" * (eighths // 8) + (_PARTS[eighths % 8] if eighths % 8 else "")


def _share(part: Fraction, whole: Fraction) -> str:
    if not whole or not part:
        return "-"
    # Rounded down: 100 % says that nothing is missing.
    return f"{int(part * 100 / whole)} %" if part * 100 >= whole else "<1 %"


def _shown(value: Fraction | None) -> str:
    return "-" if value is None else f"{number(value):,}"


def _optional(value: Fraction | None) -> int | float | None:
    return None if value is None else number(value)


def _time(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="seconds").replace("+00:00", "Z")
