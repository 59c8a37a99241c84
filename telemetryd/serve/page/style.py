"""The style of the pages, and their Content-Security-Policy.

Light and dark colours follow the reader's system; each text has a contrast of 4.5 or more. Below
60 rem tables become cards. The page loads nothing: the policy allows only this style, by its hash.
"""

from base64 import b64encode
from hashlib import sha256
from typing import Final

from telemetryd.history.charts import STYLE as CHART_STYLE

STYLE: Final = (
    """
:root {
  color-scheme: light dark; --muted: var(--quiet); --accent: var(--link);
  --ground: #f4f5f6; --sheet: #fff; --line: #dfe2e6; --text: #1b1f24; --quiet: #59626d;
  --link: #0a58a8; --good: #17713f; --busy: #2f55ad; --gaps: #855600; --bad: #b0241c;
  --good-sheet: #edf7f1; --busy-sheet: #eff3fc; --gaps-sheet: #fcf5e6; --bad-sheet: #fdf0ef;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --ground: #121518; --sheet: #1a1e22; --line: #30363d; --text: #e4e7ea; --quiet: #a1aab4;
    --link: #84b9f7; --good: #62cf95; --busy: #94b4ff; --gaps: #e5ba62; --bad: #ff958c;
    --good-sheet: #16241d; --busy-sheet: #181f2e; --gaps-sheet: #272114; --bad-sheet: #2c1a19;
  }
}
*, *::before { box-sizing: border-box; }
html { scroll-padding-block: 1rem; background: var(--ground);
  -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  max-width: 84rem; margin: 0 auto; padding: 1.25rem clamp(1rem, 3vw, 2.5rem) 3rem;
  background: var(--ground); color: var(--text);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, Cantarell, "DejaVu Sans", sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere;
}
h1, h2, h3, p, ul, dl, dd { margin: 0; padding: 0; }
a { color: var(--link); text-decoration-thickness: 1px; text-underline-offset: .2em; }
a:hover { text-decoration-thickness: 2px; }
:focus-visible { outline: 3px solid var(--link); outline-offset: 3px; border-radius: 2px; }
main:focus { outline: none; }
code { font: .9em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
b { font-weight: 600; }
small { display: block; font-size: .8125rem; color: var(--quiet); }
.quiet { color: var(--quiet); }
.skip { position: absolute; left: -100vw; padding: .5rem 1rem; background: var(--sheet); }
.skip:focus { left: 1rem; top: 1rem; z-index: 1; }

header { margin-bottom: 1.25rem; }
.bar { display: flex; flex-wrap: wrap; justify-content: space-between; gap: .25rem 2rem; }
.brand { font-size: 1.125rem; font-weight: 600; }
.brand span { font-size: .875rem; font-weight: 400; color: var(--quiet); }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; list-style: none; }
nav a { display: inline-block; padding: .125rem 0; }
.facts { display: flex; flex-wrap: wrap; gap: 0 1.25rem; font-size: .875rem; color: var(--quiet); }
.facts b { font-weight: 500; color: var(--text); }

.mark {
  display: inline-block; flex: none; width: .7em; height: .7em; forced-color-adjust: none;
  print-color-adjust: exact; background: currentColor; border-radius: 50%; color: var(--good);
}
.mark.quiet {
  height: .2em; transform: translateY(-.22em); border-radius: 1px; color: var(--quiet);
}
.mark.busy { background: none; border: .18em solid currentColor; color: var(--busy); }
.mark.gaps {
  border-radius: 0; clip-path: polygon(50% 0, 100% 100%, 0 100%); color: var(--gaps);
}
.mark.bad { border-radius: 1px; transform: rotate(45deg) scale(.86); color: var(--bad); }

section { padding: 1.25rem 1.5rem 1.375rem; margin-bottom: 1rem; background: var(--sheet);
  border: 1px solid var(--line); border-radius: 8px; }
h2 { margin-bottom: .125rem; font-size: 1.125rem; line-height: 1.4; font-weight: 600; }
h3 { margin: 1.25rem 0 .25rem; font-size: .9375rem; font-weight: 600; }
.verdict { border-left: 5px solid var(--good); background: var(--good-sheet); }
.verdict.quiet { border-left-color: var(--quiet); background: var(--sheet); color: inherit; }
.verdict.busy { border-left-color: var(--busy); background: var(--busy-sheet); }
.verdict.gaps { border-left-color: var(--gaps); background: var(--gaps-sheet); }
.verdict.bad { border-left-color: var(--bad); background: var(--bad-sheet); }
h1 { display: flex; gap: .75rem; align-items: baseline; font-size: clamp(1.25rem, 2.6vw, 1.5rem);
  line-height: 1.3; font-weight: 600; text-wrap: pretty; }
.advice { margin-top: .5rem; padding-left: clamp(0rem, 2.6vw, 1.8rem); }
.advice + .findings { margin-top: .75rem; border-top: 1px solid var(--line); }
:is(.advice, .findings, .texts) p { max-width: 70rem; }
:is(.advice, .findings) .why { font-size: .9375rem; color: var(--quiet); }
.findings { margin-top: .75rem; list-style: none; }
.findings li { display: flex; gap: .75rem; align-items: baseline; padding: .5rem 0; }
.findings li + li { border-top: 1px solid var(--line); }

.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr));
  gap: .75rem 1.5rem; margin-top: .5rem; }
.figures dt { font-size: .875rem; }
.figures b { font-size: 1.75rem; line-height: 1.25; }
.parts { columns: 19rem; column-gap: 2.5rem; margin-top: 1.5rem; }
.parts > * { break-inside: avoid; margin-bottom: 1.25rem; }

table { width: 100%; border-collapse: collapse; font-size: .9375rem; }
caption { padding-bottom: .375rem; text-align: left; font-size: .875rem; color: var(--quiet); }
th, td { padding: .625rem 1.5rem .625rem 0; text-align: left; vertical-align: top; }
:is(th, td):last-child { padding-right: 0; }
thead th { padding-block: .375rem; font-size: .8125rem; font-weight: 500; color: var(--quiet);
  white-space: nowrap; }
tbody th { font-weight: 400; }
.sums caption { font-weight: 600; color: var(--text); }
.sums :is(th, td) { padding: .25rem .75rem .25rem 0; }
.sums :is(th, td):not(:first-child) { text-align: right; white-space: nowrap; }
.sums :is(th, td):last-child { padding-right: 0; }
.worded :is(th, td):last-child { width: 45%; padding-left: .75rem; text-align: left;
  white-space: normal; }
figure { margin: .75rem 0 0; }
figcaption { padding-bottom: .5rem; font-size: .875rem; color: var(--quiet); }
.past { display: flex; flex-wrap: wrap; gap: .25rem .75rem; align-items: center;
  margin-top: .75rem; font-size: .875rem; color: var(--quiet); }
.sums tr, .records tbody { border-top: 1px solid var(--line); }
.sums thead tr { border-top: 0; }
.records time, .records td > div > a, .state span { white-space: nowrap; }
.records td[data-label] :is(small, .quiet) { white-space: nowrap; }
.records time small { display: block; }
.state { display: flex; gap: .5rem; align-items: baseline; }
.over span { white-space: normal; }
tr:has(+ tr) > :is(th, td) { padding-bottom: .125rem; }
.records .texts td { padding-top: .25rem; padding-bottom: .75rem; }
.texts div, th[colspan] b { display: block; contain: inline-size; }

dl div { display: grid; grid-template-columns: 9.5rem 1fr; gap: 0 1.5rem; padding: .375rem 0;
  font-size: .9375rem; }
dl div + div { border-top: 1px solid var(--line); }
.figures div, .figures div + div { display: block; padding: 0; border: 0; }
dt { color: var(--quiet); }
time small { display: inline; white-space: nowrap; }
section > dl:not(.figures) { columns: 30rem; column-gap: 2.5rem; margin-top: .5rem; }
#restrictions ~ dl { columns: auto; }
section > dl:not(.figures) div { border-top: 1px solid var(--line); break-inside: avoid; }
.fields { list-style: none; columns: 21rem; column-gap: 2.5rem; font-size: .9375rem; }
.fields li { break-inside: avoid; padding-bottom: .4375rem; }
.fields :is(code, span, small) { display: block; }
.reads { columns: 30rem; }
section > ul:not([class]) { padding-left: 1.1rem; }

details { margin-top: .5rem; border-top: 1px solid var(--line); padding-top: .5rem; }
details > div { padding: .5rem 0 0; }
summary { cursor: pointer; }
summary h3 { display: inline; margin: 0; }

@media screen and (max-width: 59.99rem) {
  section { padding: 1rem 1.125rem 1.125rem; }
  .records, .records :is(tbody, tr, th, td, caption) { display: block; width: auto; }
  .records thead { position: absolute; width: 1px; height: 1px; overflow: hidden;
    clip-path: inset(50%); }
  .records tbody { padding: .75rem 0; }
  .records tbody:last-child { padding-bottom: 0; }
  .records tbody th { padding: 0 0 .375rem; font-size: 1rem; }
  .records td { display: grid; grid-template-columns: 7rem 1fr; gap: 0 1rem; padding: .1875rem 0; }
  .records .texts td { display: block; padding: .375rem 0 0; }
  td.nothing { display: none; }
  .records td::before { content: attr(data-label); content: attr(data-label) / "";
    color: var(--quiet); font-size: .875rem; line-height: 1.6; }
  .records td:not([data-label])::before { content: none; }
  .records time, .records td[data-label] :is(small, .quiet) { white-space: normal; }
  .records time small { display: inline; }
  dl div { grid-template-columns: 8.5rem 1fr; gap: 0 1rem; }
}
@media screen and (max-width: 40rem) {
  .worded, .worded :is(thead, tbody, caption) { display: block; }
  .worded tr { display: grid; grid-template-columns: 1.7fr 1fr 1fr 1fr; }
  .worded thead th:last-child, .worded td:empty { display: none; }
  .worded td:last-child { grid-column: 1 / -1; width: auto; padding: 0 0 .25rem; }
  .worded td:last-child::before { content: "Gaps: "; }
}
@media screen and (max-width: 26rem) {
  .figures, .figures div { display: block; }
  .figures div, .figures div + div { display: grid; grid-template-columns: 6rem 1fr;
    gap: 0 1rem; padding: .25rem 0; align-items: baseline; }
  .figures b { font-size: 1.25rem; }
  .sums { font-size: .8125rem; }
  .sums :is(th, td) { padding-right: .5rem; }
  dl div { grid-template-columns: 6.5rem 1fr; }
  :is(#off, #restrictions) ~ dl div { grid-template-columns: 1fr; }
}
@media print {
  :root { color-scheme: light; font-size: 75%; }
  body { max-width: none; padding: 0; }
  html, body, section, .verdict { background: #fff; }
  section { padding: .75rem 0; border-width: 1px 0 0; border-radius: 0; }
  nav, .skip { display: none; }
  a { color: inherit; text-decoration: none; }
  thead { display: table-header-group; }
  tbody, h2, h3, .sums, .figures { break-inside: avoid; }
  h2, h3, caption { break-after: avoid; }
  details::details-content { content-visibility: visible; display: block; }
  figure { break-inside: avoid; }
}
"""
    + CHART_STYLE
)

ICON: Final = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
    "%3Ccircle cx='8' cy='8' r='6' fill='none' stroke='%232f6fc2' stroke-width='3'/%3E%3C/svg%3E"
)

PAGE_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        f"style-src 'sha256-{b64encode(sha256(STYLE.encode()).digest()).decode()}'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Content-Security-Policy of the pages."""
