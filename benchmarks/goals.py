"""The goals, and whether a document of results meets them. Pure."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from benchmarks.figures import Goal, per_object, ratio
from benchmarks.results import (
    CLIENT_GO,
    CORE,
    DROPPED,
    DROPPED_PROTOBUF,
    DROPPED_STREAM,
    KUBE_STATE_METRICS,
    PAGES,
    REAL,
    TELEMETRYD,
    UNIFORM,
    Results,
    Section,
)

_TINY, _USUAL, _LARGE = 200, 10_000, 100_000
_CORE = 20_000
_MEGA = 1e6
_MOST_THREADS = 42
"""anyio's own limit of worker threads, the main one, and a spare."""
_NOT_RUN: Final = "not run"


def judge(results: Results) -> list[Goal]:
    """Every goal with what was measured."""
    return [
        *_uniform(results),
        *_real(results),
        *_large(results),
        *_tiny(results),
        *_core(results),
        *_memory(results),
        *_collection(results),
        *_running(results),
        *_many(results),
        *_history(results),
    ]


def _uniform(results: Results) -> Iterator[Goal]:
    usual = results.near(UNIFORM, _USUAL)
    what = "10,000 uniform nodes"
    yield _against(
        f"{what}: cold sync, wall, where the server streams, to client-go",
        0.6,
        usual,
        "wall_s",
        CLIENT_GO,
    )
    yield _against(
        f"{what}: cold sync, wall, in pages, to the same pages fetched and dropped",
        1.1,
        usual,
        "wall_s",
        DROPPED,
        ours=PAGES,
    )
    yield _against(f"{what}: cold sync, CPU, imports left out, to client-go", 0.45, usual, "cpu_s")
    yield _against(
        f"{what}: cold sync in pages, CPU, imports left out, to client-go's stream",
        0.45,
        usual,
        "cpu_s",
        ours=PAGES,
    )
    yield _against(f"{what}: peak memory, everything included, to client-go", 0.35, usual)
    yield _against(f"{what}: CPU of an update, to client-go", 0.35, usual, "cpu_per_event_s")


def _real(results: Results) -> Iterator[Goal]:
    usual = results.near(REAL, _USUAL)
    what = "10,000 real nodes"
    yield _beside_floor(
        _against(f"{what}: start and cold sync, wall, to client-go", 0.45, usual, "whole_s"), usual
    )
    yield _beside_floor(
        _against(f"{what}: the same as a stream, to pages", 1.0, usual, "whole_s", PAGES), usual
    )
    yield _against(f"{what}: start and cold sync, CPU, to client-go", 0.25, usual, "whole_cpu_s")
    yield _against(f"{what}: peak memory, everything included, to client-go", 0.27, usual)
    yield _against(f"{what}: CPU of an update, to client-go", 0.3, usual, "cpu_per_event_s")
    yield _against(f"{what}: the same, 500 updates at once", 0.3, usual, "cpu_per_burst_event_s")
    yield _collected(results, _USUAL, 0.05)


def _large(results: Results) -> Iterator[Goal]:
    large = results.near(REAL, _LARGE)
    what = "100,000 real nodes"
    yield _beside_floor(
        _against(f"{what}: start and cold sync, wall, to client-go", 0.35, large, "whole_s"), large
    )
    yield _against(f"{what}: start and cold sync, CPU, to client-go", 0.2, large, "whole_cpu_s")
    yield _against(f"{what}: peak memory, everything included, to client-go", 0.06, large)
    yield _collected(results, _LARGE, 0.01)


def _collected(results: Results, nodes: int, limit: float) -> Goal:
    """One collection of the stores to one of client-go's."""
    what = f"{nodes:,} real nodes: collection after a change, to client-go"
    section = results.near(REAL, nodes)
    theirs = section.spread(CLIENT_GO, "collection_s") if section is not None else None
    ours = results.inside.get(REAL, {}).get(nodes)
    if theirs is None or ours is None:
        return Goal(what, limit, None, "x", _NOT_RUN)
    mine_s = ours["collection_s"]
    detail = f"{mine_s * 1e3:.3f} ms to {theirs.middle * 1e3:.2f} ms"
    return Goal(what, limit, mine_s / theirs.middle, "x", detail)


def _tiny(results: Results) -> Iterator[Goal]:
    tiny = results.near(REAL, _TINY)
    for what, limit, figure, scale, unit in (
        ("peak memory, everything included", 42, "peak_bytes", 1 / _MEGA, "MB"),
        ("CPU to the first export", 0.4, "whole_cpu_s", 1.0, "s"),
        ("start to the first export", 0.8, "whole_s", 1.0, "s"),
    ):
        theirs = tiny.spread(CLIENT_GO, figure) if tiny is not None else None
        yield _at_most(
            f"200 nodes: {what}",
            limit,
            _middle(tiny, figure),
            scale=scale,
            unit=unit,
            detail=f"client-go {_shown(figure, theirs.middle)}" if theirs is not None else "",
        )
    yield _at_most(
        "200 nodes, nothing changes: idle",
        0.2,
        _middle(tiny, "rest_core"),
        scale=100,
        unit="% of a core",
    )
    yield _at_most(
        "200 nodes, nothing changes: wake-ups a second",
        1,
        _middle(tiny, "rest_wakeups_per_s"),
        unit="wake-ups",
        detail="voluntary context switches of all threads",
    )
    yield _silent(tiny)
    streams = _middle(tiny, "rest_streams")
    yield _at_most(
        "requests a minute and stream, while nothing changes",
        1,
        _middle(tiny, "rest_requests_per_stream"),
        unit="requests",
        detail="" if streams is None else f"all requests over {streams:.0f} streams",
    )


def _silent(tiny: Section | None) -> Goal:
    """The longest that one of the daemons took."""
    what = "a silent stream behind a proxy is noticed after at most"
    ours = tiny.spread(TELEMETRYD, "silent_s") if tiny is not None else None
    theirs = tiny.spread(CLIENT_GO, "silent_s") if tiny is not None else None
    if ours is None:
        return Goal(what, 45, None, "s", _NOT_RUN)
    detail = f"{ours.least:.0f} to {ours.most:.0f} s of {ours.runs} daemons"
    peer = f", client-go {theirs.middle:.0f} s" if theirs is not None else ""
    return Goal(what, 45, ours.most, "s", detail + peer)


def _core(results: Results) -> Iterator[Goal]:
    section, peer = results.near(CORE, _CORE), KUBE_STATE_METRICS
    what = "20,000 core nodes"
    for name, limit, figure in (
        ("start and cold sync, wall", 0.8, "whole_s"),
        ("start and cold sync, CPU", 0.5, "whole_cpu_s"),
        ("peak memory, everything included", 0.09, "peak_bytes"),
        ("CPU of an update", 0.6, "cpu_per_event_s"),
    ):
        goal = _against(f"{what}: {name}, to {peer}", limit, section, figure, peer)
        yield _beside_floor(goal, section) if figure == "whole_s" else goal


def _memory(results: Results) -> Iterator[Goal]:
    for fleet in (UNIFORM, REAL):
        yield _slope(results, fleet)
    relist = _middle(results.near(UNIFORM, _USUAL), "relist_peak_over_steady_bytes")
    yield Goal(
        "relist of 10,000 unchanged nodes, peak over steady",
        15,
        None if relist is None else relist / _MEGA,
        "MB",
        "" if relist is not None else f"{_NOT_RUN}, or the server can't be restarted",
    )


def _slope(results: Results, fleet: str) -> Goal:
    """Resident bytes of one more node, between the smallest and the largest fleet."""
    what = f"memory of a further {fleet} node"
    sections = [
        section
        for section in results.ordered(fleet)
        if section.spread(TELEMETRYD, "resident_bytes") and section.nodes > _TINY * 2
    ]
    traced = ", ".join(
        f"{inside['traced_bytes_per_node']:.0f} traced at {nodes:,}"
        for nodes, inside in sorted(results.inside.get(fleet, {}).items())
    )
    if len(sections) < 2:  # noqa: PLR2004 - a slope
        return Goal(what, 400, None, "bytes resident", f"needs two fleets; {traced}")
    small, large = sections[0], sections[-1]
    grown = {
        figure: per_object(
            _middle(small, figure) or 0.0,
            _middle(large, figure) or 0.0,
            fewer=small.nodes,
            more=large.nodes,
        )
        for figure in ("resident_bytes", "peak_bytes")
    }
    peak = f"{grown['peak_bytes']:.0f} by the peaks"
    return Goal(what, 400, grown["resident_bytes"], "bytes resident", f"{peak}, {traced}")


def _collection(results: Results) -> Iterator[Goal]:
    for fleet in (UNIFORM, REAL):
        inside = results.inside.get(fleet, {})
        usual, large = inside.get(_USUAL), inside.get(_LARGE)
        yield Goal(
            f"one collection at 10,000 {fleet} nodes: snapshot and SCC payload after a change",
            0.5,
            usual["collection_s"] * 1e3 if usual else None,
            "ms",
            f"{usual['payload_bytes']:.0f} bytes of payload" if usual else _NOT_RUN,
        )
        grown = large["collection_s"] / usual["collection_s"] if usual and large else None
        what = f"the same at 100,000 {fleet} nodes, to 10,000"
        yield Goal(what, 2, grown, "x", "" if grown is not None else _NOT_RUN)


def _running(results: Results) -> Iterator[Goal]:
    usual = results.near(UNIFORM, _USUAL)
    wall = _found(results, "scrape_wall_s")
    yield _at_most(
        "scrape with 50 exporters, time of the event loop's thread",
        10,
        _found(results, "scrape_loop_s"),
        scale=1e3,
        unit="ms",
        detail="" if wall is None else f"{wall * 1e3:.0f} ms until the answer is there",
    )
    own = _found(results, "own_lag_p99_bound_s")
    yield _at_most(
        "event loop during the cold sync: p99 of answers from /livez",
        20,
        _middle(usual, "lag_p99_s"),
        scale=1e3,
        unit="ms",
        detail=_lag_detail(_middle(usual, "raw_lag_p99_s"), own),
    )
    exports = _middle(usual, "idle_exports")
    yield _at_most(
        "10,000 nodes: idle with an export a minute",
        0.3,
        _middle(usual, "idle_core"),
        scale=100,
        unit="% of a core",
        detail="" if exports is None else f"{exports:.0f} runs of exporters in it",
    )
    writes = _middle(usual, "idle_writes")
    yield _at_most("writes to the API server while idle", 0, writes, unit="writes")
    yield _at_most("start to READY", 1.5, _middle(usual, "loaded_s"), unit="s")
    first = _middle(usual, "first_export_s")
    yield _at_most(
        "first export after the last page of the first list",
        0.5,
        _middle(usual, "export_after_list_s"),
        unit="s",
        detail="" if first is None else f"{first:.2f} s from the start of the process",
    )


def _lag_detail(raw_s: float | None, own_s: float | None) -> str:
    if raw_s is None:
        return ""
    raw = f"{raw_s * 1e3:.0f} ms with the time spent waiting for a core"
    return raw if own_s is None else f"{raw}; its own histogram: at most {own_s * 1e3:g} ms"


def _many(results: Results) -> Iterator[Goal]:
    one = _found(results, "threads_one")
    for kind in ("secret", "file"):
        who = f"1,000 exporters of type {kind}"
        more = _found(results, f"many_{kind}_bytes")
        yield _at_most(f"{who}: memory they take", 15, more, scale=1 / _MEGA, unit="MB")
        yield _at_most(
            f"{who}: threads, whatever their number",
            _MOST_THREADS,
            _found(results, f"many_{kind}_threads"),
            unit="threads",
            detail="" if one is None else f"{one:.0f} with one exporter",
        )
        yield _at_most(
            f"{who}: p99 of how late slots are met",
            50,
            _found(results, f"many_{kind}_late_s"),
            scale=1e3,
            unit="ms",
            detail="bound of the histogram's bucket",
        )


def _history(results: Results) -> Iterator[Goal]:
    found = results.history
    with_rows = f"of {found['rows'] / _MEGA:.1f} million rows" if found else ""
    for what, limit, figure, scale, unit, detail in (
        ("history: report of a year", 2, "report_s", 1.0, "s", with_rows),
        ("history: reads of its page", 0.3, "page_s", 1.0, "s", with_rows),
        ("history: insert of a minute of 60 series", 5, "insert_s", 1e3, "ms", with_rows),
        ("history: five years of 60 series", 50, "five_years_bytes", 1 / _MEGA, "MB", ""),
        ("history: memory while idle", 3, "idle_bytes", 1 / _MEGA, "MB", ""),
        ("history: idle", 0.05, "idle_core", 100, "% of a core", "a look every 5 s"),
    ):
        yield _at_most(what, limit, found.get(figure), scale=scale, unit=unit, detail=detail)


def _against(
    what: str,
    limit: float,
    section: Section | None,
    figure: str = "peak_bytes",
    peer: str = CLIENT_GO,
    *,
    ours: str = TELEMETRYD,
) -> Goal:
    if section is None:
        return Goal(what, limit, None, "x", _NOT_RUN)
    mine, theirs = section.spread(ours, figure), section.spread(peer, figure)
    if mine is None or theirs is None:
        return Goal(what, limit, None, "x", f"no {peer} here" if mine else _NOT_RUN)
    detail = f"{_shown(figure, mine.middle)} to {_shown(figure, theirs.middle)}"
    return Goal(what, limit, ratio(mine, theirs), "x", detail)


def _beside_floor(goal: Goal, section: Section | None) -> Goal:
    """The goal with what the server's stream takes a client that drops it, without any start."""
    floors = {
        name: spread.middle
        for name in (DROPPED_STREAM, DROPPED_PROTOBUF)
        if section is not None and (spread := section.spread(name, "wall_s")) is not None
    }
    said = "".join(f"; {name} {_shown('wall_s', floor)}" for name, floor in floors.items())
    return replace(goal, detail=goal.detail + said)


def _at_most(
    what: str,
    limit: float,
    measured: float | None,
    *,
    unit: str,
    scale: float = 1.0,
    detail: str = "",
) -> Goal:
    if measured is None:
        return Goal(what, limit, None, unit, _NOT_RUN)
    return Goal(what, limit, measured * scale, unit, detail)


def _found(results: Results, figure: str) -> float | None:
    """The figure on whichever fleet it was measured."""
    return next(
        (
            middle
            for section in results.ordered()
            if (middle := _middle(section, figure)) is not None
        ),
        None,
    )


def _middle(section: Section | None, figure: str) -> float | None:
    spread = section.spread(TELEMETRYD, figure) if section is not None else None
    return spread.middle if spread is not None else None


def _shown(figure: str, value: float) -> str:
    if figure.endswith("_bytes"):
        return f"{value / _MEGA:.0f} MB"
    return f"{value * 1e3:.2f} ms" if "event" in figure else f"{value:.2f} s"
