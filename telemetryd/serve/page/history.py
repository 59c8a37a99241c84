"""``/history``: usage over time as a page with charts, as JSON and as CSV.

The charts are SVG, and beneath each is a table with the same data in fewer lines.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any, Final

from telemetryd.history.charts import Point, chart
from telemetryd.history.documents import (
    CAVEATS,
    counts_in_words,
    document,
    rule_in_words,
    to_csv,
    to_json,
)
from telemetryd.history.entitlement import Entitlement
from telemetryd.history.report import MONTH, Period, Report, number
from telemetryd.serve.page.facts import HistoryFacts, render_time
from telemetryd.serve.page.layout import (
    PageRow,
    figures,
    items,
    mark,
    masthead,
    more,
    pairs,
    records,
    section,
    sums_with_words,
    verdict,
)
from telemetryd.serve.page.layout import document as page
from telemetryd.serve.page.markup import (
    Child,
    Markup,
    date_of,
    join,
    render_count,
    some,
    span,
    tag,
)
from telemetryd.serve.page.notes import (
    TONE_NAMES,
    Note,
    Overview,
    Tone,
    notes_of_history,
    words_of_limit,
)
from telemetryd.serve.page.usage import Chart, Missed, Stretch, Usage

_LINKS: Final = (
    (".", "Status"),
    ("history", "Refresh"),
    ("history.json", "History as JSON"),
    ("history.csv", "Months as CSV"),
)
_UNITS: Final = {"node": "nodes", "core": "CPU cores", "cluster": "clusters"}
_COLUMNS: Final = ("Figure", "Licenses", "Peak", "Mean", "Hours known")


def render_history(usage: Usage, facts: HistoryFacts) -> bytes:
    """The whole page."""
    overview = _judge(usage, facts)
    shown: list[Child] = []
    if usage.report is not None:
        shown += [_chart(each, facts.rule) for each in usage.charts]
        shown.append(_months(usage.report, usage.charts[-1].table))
    text = page(
        f"History: {TONE_NAMES[overview.tone].lower()}",
        tag("a", "Skip to the history", class_="skip", href="#history"),
        masthead("history", _LINKS, tag("span", "History as of ", date_of(facts.now))),
        tag(
            "main",
            verdict(overview),
            _entitlement(usage, facts),
            *shown,
            _reading(),
            id="history",
            tabindex="-1",
        ),
    )
    return text.encode()


def render_json(usage: Usage, facts: HistoryFacts) -> bytes:
    """The report by month, and what the charts show."""
    made = Report(facts.installation, facts.instance, None, _moment(facts), MONTH, facts.rule, ())
    found = {
        "enabled": not facts.off,
        "off": facts.off,
        "trouble": usage.trouble or facts.status.trouble,
        "store": facts.store,
        **document(usage.report or made),
        "charts": {each.name: [_point(point) for point in each.points] for each in usage.charts},
    }
    return to_json(found).encode()


def render_csv(usage: Usage, _facts: HistoryFacts) -> bytes:
    """A line for each month."""
    return to_csv(() if usage.report is None else (usage.report,)).encode()


def _point(point: Point) -> dict[str, Any]:
    return {
        "from": render_time(point.begin.timestamp()),
        "to": render_time(point.end.timestamp()),
        "low": point.low,
        "mean": None if point.mean is None else round(point.mean, 3),
        "high": point.high,
        "gap": point.why or None,
    }


def _judge(usage: Usage, facts: HistoryFacts) -> Overview:
    """What matters first."""
    if facts.off:
        fix = "telemetryd report shows what was kept before, and history prune --all removes it."
        note = Note(Tone.QUIET, f"No history is kept: {facts.off}.", fix=fix)
        return Overview(note.tone, note.what, note, (note,))
    month = _this_month(usage)
    licenses = facts.status.licenses if month is None else month.licenses
    status = replace(facts.status, licenses=licenses, limit=facts.rule.limit)
    notes = [*notes_of_history(status, kept=True)]
    if usage.trouble and usage.trouble != facts.status.trouble:
        notes.append(Note(Tone.GAPS, "The history can't be read.", usage.trouble))
    notes.sort(key=lambda note: -note.tone)
    if notes:
        return Overview(notes[0].tone, notes[0].what, notes[0], tuple(notes))
    if usage.report is None:
        return Overview(Tone.BUSY, "Nothing is known yet.", None, ())
    if licenses is None:
        return Overview(Tone.BUSY, "Nothing of this month is known yet.", None, ())
    sentence = f"This month counts {words_of_limit(licenses, facts.rule.limit)}."
    return Overview(Tone.GOOD, sentence, None, ())


def _this_month(usage: Usage) -> Period | None:
    return usage.report.periods[-1] if usage.report and usage.report.periods else None


def _entitlement(usage: Usage, facts: HistoryFacts) -> Markup:
    """The rule in words, and what this month counts by it."""
    month, rule = _this_month(usage), facts.rule
    tiles = _tiles(month, rule) if month is not None and month.figure is not None else ()
    words = rule_in_words(Report("", "", None, _moment(facts), MONTH, rule, ()))
    rows: list[tuple[str, Child]] = [
        ("Limit", "none is configured" if rule.limit is None else some(rule.limit, "license")),
        ("Known since", "nothing yet" if usage.since is None else _time(usage.since)),
        ("Kept in", tag("code", facts.store) if facts.store else "nothing that outlives a restart"),
    ]
    if facts.instance:
        rows.append(("Record of", tag("code", facts.instance)))
    command = tag("code", "telemetryd report --format html --output report.html")
    rows.append(("To hand over", join((command, " writes one file that prints well."))))
    return section(
        "entitlement",
        "Entitlement",
        tag("p", f"Counts {words}."),
        figures(tiles) if tiles else "",
        pairs(rows),
    )


def _tiles(month: Period, rule: Entitlement) -> Iterator[tuple[str, str, str]]:
    units = _UNITS[rule.unit]
    yield "This month", _shown(month.figure), f"{units} by the rule, so far"
    if month.licenses is not None:
        words = words_of_limit(month.licenses, rule.limit)
        yield "Licenses", render_count(month.licenses), words.partition(" ")[2]
    if month.peak is not None:
        yield "Peak", _shown(month.peak.value), f"{units}, {_hour(month.peak.at)}"
    if month.mean is not None:
        yield "Mean", _mean(month.mean), f"{units}, by time"


def _chart(each: Chart, rule: Entitlement) -> Markup:
    units = _UNITS[rule.unit]
    known = [point for point in each.points if point.high is not None]
    lows = [point.low for point in known if point.low is not None]
    highs = [point.high for point in known if point.high is not None]
    if known:
        extent = f"{_shown(min(lows, default=min(highs)))} to {_shown(max(highs))}"
        said = f"{units[:1].upper()}{units[1:]}: {extent}. Line: mean; area: lowest to highest."
    else:
        extent, said = "not known", "Nothing of this time is known."
    missed = _missed(each.missed)
    caption = tag("figcaption", said, f" Gaps: {missed}." if missed else "")
    limit = None if rule.limit is None else float(rule.limit * rule.per_license)
    title = f"{each.heading}, {units}: {extent}"
    drawn = tag("figure", caption, Markup(chart(title, each.points, limit=limit)))
    rows = (
        (
            _label(line.begin, each.each),
            _shown(line.low),
            _mean(line.mean),
            _shown(line.high),
            _missed(line.missed),
        )
        for line in reversed(each.table)
    )
    heads = (each.each.capitalize(), "Lowest", "Mean", "Highest", "Gaps")
    table = sums_with_words(f"{each.heading}, by {each.each}, in UTC", heads, rows)
    return section(each.name, each.heading, drawn, more(f"As a table, by {each.each}", table))


def _months(report: Report, stretches: Sequence[Stretch]) -> Markup:
    rows = [
        PageRow(
            f"{period.begin:%B %Y}",
            "so far" if period.end > report.made else "",
            _cells(period, report.rule),
            [("Gaps", f"{words}.")] if (words := _missed(stretch.missed)) else (),
        )
        for period, stretch in reversed(list(zip(report.periods, stretches, strict=True)))
    ]
    caption = f"{_UNITS[report.rule.unit].capitalize()} by calendar month in UTC"
    months = records(caption, ("Month", *_COLUMNS), rows)
    return section("months", "By month", months, _variety(report.periods))


def _variety(periods: Sequence[Period]) -> Markup:
    rows = (
        PageRow(
            f"{period.begin:%B %Y}",
            "",
            [
                text or None
                for text in (
                    ", ".join(period.versions),
                    counts_in_words(period.providers),
                    counts_in_words(period.kubernetes),
                )
            ],
        )
        for period in reversed(periods)
    )
    heads = ("Month", "Versions", "Clusters by provider", "Clusters by Kubernetes")
    caption = "Versions that ran, and the most clusters at a moment, by calendar month in UTC"
    return more("Versions and providers, by month", records(caption, heads, rows))


def _cells(period: Period, rule: Entitlement) -> Sequence[Child | None]:
    hours = period.hours
    licenses: Child | None = None
    if period.licenses is not None:
        over = period.licenses - rule.limit if rule.limit is not None else 0
        licenses = render_count(period.licenses)
        if over > 0:
            words = f"{licenses}, {render_count(over)} over the limit"
            licenses = tag("span", mark(Tone.BAD), tag("span", words), class_="state over")
    known = f"{_hours(hours.complete)} of {_hours(hours.total)}"
    part = hours.known - hours.complete
    peak = period.peak
    return (
        "not known" if period.figure is None else _shown(period.figure),
        licenses,
        None if peak is None else join((_shown(peak.value), tag("small", _hour(peak.at)))),
        None if period.mean is None else _mean(period.mean),
        join((known, tag("small", f"and {_hours(part)} in part"))) if part else known,
    )


def _reading() -> Markup:
    lines = (
        *CAVEATS,
        "A month counts what its known hours say. Hours known in part count for peaks alone.",
    )
    return section("reading", "How to read it", items(lines))


def _missed(missed: Iterable[Missed]) -> str:
    return ", ".join(
        f"{span(each.seconds)}{' in part' if each.in_part else ''} ({each.why})" for each in missed
    )


def _label(begin: datetime, each: str) -> str:
    pattern = {"hour": "%d %b %H:%M", "day": "%Y-%m-%d", "month": "%Y-%m"}[each]
    return f"{begin:{pattern}}"


def _hour(at: datetime) -> str:
    return f"{at:%d %b}, {at:%H:%M} to {at + timedelta(hours=1):%H:%M}"


def _time(at: datetime) -> Markup:
    return date_of(at.timestamp())


def _moment(facts: HistoryFacts) -> datetime:
    return datetime.fromtimestamp(facts.now, UTC)


def _shown(value: Fraction | float | None) -> str:
    return "" if value is None else f"{number(Fraction(value)):,}"


def _mean(value: Fraction | float | None) -> str:
    return "" if value is None else f"{float(value):,.1f}".removesuffix(".0")


def _hours(value: Fraction) -> str:
    """Rounded down: what is missing must show."""
    return f"{int(value * 10) / 10:,g}"
