"""A report as one HTML file: readable in light and dark, at any width, and on paper.

It loads nothing and runs no script. Each chart has the same data in a table beside it.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from fractions import Fraction
from html import escape as escape_html
from typing import Final

from telemetryd.bounds import escaped
from telemetryd.history.charts import STYLE as CHART_STYLE
from telemetryd.history.charts import Point, chart, thinned
from telemetryd.history.documents import CAVEATS, counts_in_words, rule_in_words
from telemetryd.history.report import MONTH, Period, Report, number

_MOST_CHARS: Final = 2000
_STYLE: Final = (
    """
:root{color-scheme:light dark;--text:#1b1f24;--muted:#59626d;--line:#dfe2e6;--sheet:#fff;
--accent:#0a58a8;--bad:#b0241c}
@media screen and (prefers-color-scheme:dark){:root{--text:#e4e7ea;--muted:#a1aab4;--line:#30363d;
--sheet:#1a1e22;--accent:#84b9f7;--bad:#ff958c}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:60rem;padding:1.5rem clamp(1rem,4vw,2.5rem) 3rem;
background:var(--sheet);color:var(--text);font:1rem/1.5 system-ui,sans-serif;
font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
h1{font-size:1.5rem;line-height:1.25;margin:0 0 .5rem}
h2{font-size:1.125rem;margin:2rem 0 .5rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.25rem 1.25rem;margin:0}
dt,small,caption{color:var(--muted)}
dd{margin:0}
table{border-collapse:collapse;width:100%}
caption{text-align:left;padding-bottom:.25rem}
th,td{padding:.3rem .75rem .3rem 0;text-align:right;border-bottom:1px solid var(--line);
white-space:nowrap}
th:first-child,td:first-child{text-align:left}
th{font-weight:600}
code{font:.8125rem ui-monospace,monospace}
.over{color:var(--bad);font-weight:600}
.texts th,.texts td{white-space:normal;text-align:left}
.texts th:first-child{white-space:nowrap}
.texts thead th{overflow-wrap:normal}
@media screen and (max-width:48rem){dl{grid-template-columns:1fr}dd{margin-bottom:.5rem}
table,caption,tbody,tr,th{display:block}
thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
tr{padding:.5rem 0;border-bottom:1px solid var(--line)}
tbody th,td{border:0;padding:.1rem 0;white-space:normal}
td,.texts td{display:grid;grid-template-columns:9rem 1fr;gap:0 1rem;text-align:left}
td:before{content:attr(data-label);color:var(--muted)}td:has(span:empty){display:none}}
@media print{body{max-width:none;padding:0;font-size:10pt}h2{break-after:avoid}
tr,figure{break-inside:avoid}}
figure{margin:0}
"""
    + CHART_STYLE
)


def escape(text: str) -> str:
    """A text as HTML; marks that turn the direction of what follows are shown as escapes."""
    return escape_html(escaped(text, _MOST_CHARS))


def to_html(report: Report, points: Sequence[Point]) -> str:
    """The whole file.

    Args:
        report: What the tables show.
        points: For the chart over time, in the order of time; none draws none.
    """
    rule = report.rule
    title = f"Usage of {report.installation}"
    units = {"node": "nodes", "core": "CPU cores", "cluster": "clusters"}[rule.unit]
    limit = None if rule.limit is None else float(rule.limit * rule.per_license)
    body = [
        f"<h1>{escape(title)}</h1>",
        _facts(report),
        "<h2>Over time</h2>",
        f"<figure>{chart(f'{units} over time', thinned(points), limit=limit)}</figure>"
        if points
        else "",
        f"<h2>By {report.by}</h2>",
        _table(report, units),
        "<h2>Versions and providers</h2>",
        _variety(report),
        "<h2>Digests</h2>",
        _digests(report),
        "<h2>How to read it</h2>",
        "<ul>",
        *(f"<li>{escape(each)}</li>" for each in CAVEATS),
        "</ul>",
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>"
        + "".join(body)
        + "</main></body></html>\n"
    )


def _facts(report: Report) -> str:
    rule = report.rule
    facts = [("Counted", rule_in_words(report))]
    if rule.limit is not None:
        facts.append(("Limit", f"{rule.limit:,} licenses"))
    facts += [
        ("Known since", "nothing yet" if report.since is None else _time(report.since)),
        ("Made", _time(report.made)),
    ]
    if report.instance:
        facts.append(("Record of", report.instance))
    rows = (f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts)
    return f"<dl>{''.join(rows)}</dl>"


def _table(report: Report, units: str) -> str:
    rows = []
    for each in report.periods:
        over = (
            each.licenses is not None
            and report.rule.limit is not None
            and each.licenses > report.rule.limit
        )
        licenses = "not known" if each.licenses is None else f"{each.licenses:,}"
        rows.append(
            (
                _name(report, each),
                _shown(each.figure),
                f'<span class="over">{licenses} (over the limit)</span>' if over else licenses,
                "" if each.peak is None else _shown(each.peak.value),
                "" if each.peak is None else f"{each.peak.at:%d %b %H:%M}",
                _shown(each.mean),
                f"{_hours(each.hours.complete)} of {_hours(each.hours.total)}",
                _hours(each.hours.known - each.hours.complete),
            )
        )
    heading = (
        report.by,
        f"figure, {units}",
        "licenses",
        "peak",
        "in the hour of",
        "mean",
        "hours known",
        "in part",
    )
    return _draw(
        heading,
        rows,
        f"All times in UTC. A {report.by} without figures isn't known. Hours that are known in part"
        " count for peaks alone.",
    )


def _variety(report: Report) -> str:
    rows = [
        (
            _name(report, each),
            escape(", ".join(each.versions)),
            escape(counts_in_words(each.providers)),
            escape(counts_in_words(each.kubernetes)),
        )
        for each in report.periods
    ]
    heading = (report.by, "version", "clusters by provider", "clusters by Kubernetes version")
    return _draw(heading, rows, "The most clusters at a moment.", kind="texts")


def _digests(report: Report) -> str:
    rows = [(_name(report, each), f"<code>{each.digest}</code>") for each in report.periods]
    about = "SHA-256 over the rule and the hours counted."
    return _draw((report.by, "digest"), rows, about, kind="texts")


def _draw(
    heading: Iterable[str], rows: Iterable[Iterable[str]], about: str, *, kind: str = "numbers"
) -> str:
    heads = [escape(each) for each in heading]
    head = "".join(f'<th scope="col" role="columnheader">{each}</th>' for each in heads)
    body = []
    for first, *rest in rows:
        cells = "".join(
            f'<td role="cell" data-label="{name}"><span>{each}</span></td>'
            for name, each in zip(heads[1:], rest, strict=True)
        )
        body.append(f'<tr role="row"><th scope="row" role="rowheader">{first}</th>{cells}</tr>')
    # Roles repeat the elements: in browsers they lose their meaning with their display.
    return (
        f'<table role="table" class="{kind}"><caption>{escape(about)}</caption>'
        f'<thead role="rowgroup"><tr role="row">{head}</tr></thead>'
        f'<tbody role="rowgroup">{"".join(body)}</tbody></table>'
    )


def _name(report: Report, period: Period) -> str:
    return f"{period.begin:%Y-%m}" if report.by == MONTH else f"{period.begin:%Y-%m-%d}"


def _hours(value: Fraction) -> str:
    # Rounded down, as coverage must be.
    return f"{int(value * 10) / 10:,g}"


def _shown(value: Fraction | None) -> str:
    return "" if value is None else f"{number(value):,}"


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
