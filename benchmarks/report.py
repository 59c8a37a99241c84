"""Results as Markdown: the goals, the holders side by side, and the block of the README. Pure."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from benchmarks.figures import Goal, Spread
from benchmarks.goals import judge
from benchmarks.results import CLIENT_GO, PAGES, TELEMETRYD, Results, Section

RESULTS: Final = (
    "<!-- results: written by `make bench`, from here -->",
    "<!-- results: to here -->",
)
BUSY: Final = (
    "<!-- busy: written by `make bench BENCH_BUSY=1`, from here -->",
    "<!-- busy: to here -->",
)
PROFILE: Final = (
    "<!-- profile: written by `make bench-profile`, from here -->",
    "<!-- profile: to here -->",
)
"""The lines between which the README holds each."""

_HOLDER_COLUMNS: Final = (
    ("start to ready, s", "loaded_s", 1.0, 2),
    ("cold sync wall, s", "wall_s", 1.0, 2),
    ("its CPU, s", "cpu_s", 1.0, 2),
    ("CPU of imports, s", "loaded_cpu_s", 1.0, 2),
    ("peak, MB", "peak_bytes", 1e-6, 0),
    ("resident after, MB", "resident_bytes", 1e-6, 0),
    ("CPU an update, ms", "cpu_per_event_s", 1e3, 3),
    ("500 at once, ms", "cpu_per_burst_event_s", 1e3, 3),
    ("collection, ms", "collection_s", 1e3, 2),
)


def render(results: Results, *, partly: bool = False) -> str:
    """Everything, as Markdown; without the goals that were not measured where it ran ``partly``."""
    goals = [goal for goal in judge(results) if not partly or goal.measured is not None]
    parts = [
        f"Taken at {results.taken_at}, {'beside a busy loop' if results.busy else 'alone'}, on:",
        _list(results.machine),
        "with:",
        _list(results.versions),
        render_goals(goals),
        *(_section(section, results) for section in results.ordered() if _has_rounds(section)),
        _inside(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def put_into(document: str, block: str, markers: tuple[str, str]) -> str:
    """The document with the block between its markers.

    Raises:
        ValueError: It has no markers, or not in this order.
    """
    begin, end = markers
    before, found_begin, rest = document.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f"no {begin!r} followed by {end!r}")
    return f"{before}{begin}\n\n{block.strip()}\n\n{end}{after}"


def render_goals(goals: Iterable[Goal]) -> str:
    """The table of the goals."""
    rows = [
        (
            goal.what,
            f"≤ {goal.limit:g} {_unit(goal.unit)}",
            "-" if goal.measured is None else f"{_rounded(goal.measured)} {_unit(goal.unit)}",
            goal.verdict if goal.verdict == "met" else f"**{goal.verdict}**",
            goal.detail,
        )
        for goal in goals
    ]
    return table(("what", "goal", "measured", "", "behind it"), rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def show(spread: Spread | None, scale: float, digits: int) -> str:
    """``median (least to most)``; a dash where nothing was measured."""
    if spread is None:
        return "-"
    middle, least, most = (
        f"{v * scale:.{digits}f}" for v in (spread.middle, spread.least, spread.most)
    )
    return middle if least == most else f"{middle} ({least} to {most})"


def _has_rounds(section: Section) -> bool:
    return any("wall_s" in samples for samples in section.holders.values())


def _section(section: Section, results: Results) -> str:
    runs = max((len(samples.get("wall_s", ())) for samples in section.holders.values()), default=0)
    shown = [
        column
        for column in _HOLDER_COLUMNS
        if any(column[1] in samples for samples in section.holders.values())
    ]
    collected = _collection_of_telemetryd(section, results)
    rows = [
        (
            holder,
            *(
                collected
                if figure == "collection_s" and holder == TELEMETRYD
                else show(section.spread(holder, figure), scale, digits)
                for _, figure, scale, digits in shown
            ),
        )
        for holder in section.holders
        if section.spread(holder, "wall_s") is not None
    ]
    title = (
        f"### {section.nodes:,} {section.fleet} nodes"
        f"{'' if section.clusters == 1 else f' in {section.clusters:,} clusters'} "
        f"({section.json_bytes / 1e6:.0f} MB as JSON), {section.server}"
    )
    legend = f"Medians of {runs} runs in turns (least to most)." if runs > 1 else "One run."
    if PAGES in section.holders and CLIENT_GO in section.holders:
        legend += (
            f" {TELEMETRYD} and {CLIENT_GO} are sent the list as a stream where the API server does"
            " that; the others ask for pages."
        )
    head = ["holder", *(column[0] for column in shown)]
    return "\n\n".join((title, legend, table(head, rows)))


def _collection_of_telemetryd(section: Section, results: Results) -> str:
    near = [
        inside
        for nodes, inside in results.inside.get(section.fleet, {}).items()
        if nodes <= section.nodes < nodes * 1.1
    ]
    return f"{near[0]['collection_s'] * 1e3:.2f}" if near else "-"


def _inside(results: Results) -> str:
    rows = [
        (
            f"{nodes:,} {fleet}",
            f"{inside['traced_bytes_per_node']:.0f}",
            f"{inside['collection_s'] * 1e3:.3f}",
            f"{inside['collection_cpu_s'] * 1e3:.3f}" if "collection_cpu_s" in inside else "-",
            f"{inside['collection_unchanged_s'] * 1e3:.3f}",
            f"{inside['payload_bytes']:.0f}",
        )
        for fleet, sizes in results.inside.items()
        for nodes, inside in sorted(sizes.items())
    ]
    head = (
        "nodes",
        "bytes a node, by tracemalloc",
        "collection after a change, ms",
        "its CPU, ms",
        "collection of the same, ms",
        "payload, bytes",
    )
    return "### telemetryd's stores alone, in one process\n\n" + table(head, rows) if rows else ""


def _list(facts: dict[str, str]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def _unit(unit: str) -> str:
    return "times" if unit == "x" else unit


def _rounded(value: float) -> str:
    rules: tuple[tuple[float, Callable[[float], str]], ...] = (
        (100, lambda v: f"{v:.0f}"),
        (1, lambda v: f"{v:.2f}"),
    )
    for least, shown in rules:
        if abs(value) >= least:
            return shown(value)
    return f"{value:.3f}" if value else "0"
