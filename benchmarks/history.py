"""What the history costs: the store with millions of rows, and the keeper of a fleet at rest.

The store is filled with what so many installations leave after five years, in the order in which it
comes about. A process of its own: ``ROWS`` in, a JSON object out.
"""

import gc
import json
import math
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

import anyio

import telemetryd.daemon.app  # noqa: F401 - what the daemon holds anyway
from benchmarks import processes
from benchmarks.figures import quantile
from telemetryd.config import Config
from telemetryd.daemon.history import LOOK_S, HistoryKeeper
from telemetryd.history.entitlement import PRESETS
from telemetryd.history.report import MONTH, make_report
from telemetryd.history.slots import DAY_S, HOUR_S, MINUTE_S, Moment, Slot, piece
from telemetryd.model import (
    MANAGED,
    ClusterGroup,
    GroupKey,
    HistoryStatus,
    Identity,
    Snapshot,
    Sums,
    Switches,
    Totals,
)
from telemetryd.serve.page.facts import HistoryFacts
from telemetryd.serve.page.history import render_history
from telemetryd.serve.page.usage import UsageReader

SERIES: Final = 60
END: Final = 1_893_456_000
"""2030-01-01."""
_DAYS: Final = 5 * 365 + 1
_HOURLY_DAYS: Final = 400
_MINUTELY_DAYS: Final = 2
_CELLS: Final = SERIES * (_DAYS + 24 * _HOURLY_DAYS + 1440 * _MINUTELY_DAYS)
_RULE: Final = PRESETS["payg-monthly"]
_TIMES: Final = 5
_INSERTS: Final = 90
_IDLE_MINUTES: Final = 240
_WARM_MINUTES: Final = 30

_SLOTS: Final = """
WITH RECURSIVE each(start) AS (
  SELECT :begin UNION ALL SELECT start + :size FROM each WHERE start + :size < :end)
INSERT INTO slots SELECT :key, :size, start, :size, :size, 1, 0, 0, 0, 0, 'v2.14.1' FROM each
"""
_FILL: Final = """
WITH RECURSIVE each(start) AS (
  SELECT :begin UNION ALL SELECT start + :size FROM each WHERE start + :size < :end)
INSERT INTO cells SELECT :key, :size, start, id,
  50 * id + start / 864000 % 1000 + 3 * (id % 2), 50 * id + start / 864000 % 1000,
  50 * id + start / 864000 % 1000 + id % 2, 50 * id + start / 864000 % 1000 + 2 * (id % 2),
  50 * id + start / 864000 % 1000 + (id % 2) * (start / :size % 97) / 97.0
FROM each, series ORDER BY start, id
"""
"""Every other series changes within each slot, the others don't."""


def measure(rows: int) -> dict[str, float]:
    """Fill a store and use it, then let a keeper run.

    Returns:
        ``rows``, ``five_years_bytes`` (of one installation), ``report_s``, ``page_s``, ``insert_s``
        (medians), ``idle_bytes`` and ``idle_core``.
    """
    with tempfile.TemporaryDirectory() as name:
        idle = anyio.run(_idle, Path(name))
    with tempfile.TemporaryDirectory() as name:
        return {**_store(Path(name), max(1, math.ceil(rows / _CELLS))), **idle}


def _store(folder: Path, installations: int) -> dict[str, float]:
    from telemetryd.history.sqlite import open_store  # noqa: PLC0415 - not while idle
    from telemetryd.history.store import FILE_NAME  # noqa: PLC0415 - not while idle

    names = [str(UUID(int=number + 1)) for number in range(installations)]
    with closing(open_store(folder, now=time.time)) as store:
        for name in names:
            store.write(name, [_minute(END - 10 * 365 * DAY_S)])
            store.prune(END, keep_s=DAY_S, keep_daily_s=DAY_S)
    file = folder / FILE_NAME
    first_bytes = 0
    for key in range(1, installations + 1):
        _fill(file, key)
        first_bytes = first_bytes or file.stat().st_size
    with closing(open_store(folder, now=time.time)) as store:
        one = names[len(names) // 2]
        end = datetime.fromtimestamp(END, UTC)

        def report() -> None:
            make_report(
                store,
                _RULE,
                installation=one,
                instance="",
                begin=end - timedelta(days=365),
                end=end,
                by=MONTH,
            )

        facts = HistoryFacts(END - 1800.0, HistoryStatus(enabled=True), _RULE, one)

        async def read(size_s: int, begin: float, end: float, series: str) -> list[Slot]:
            return store.read(one, size_s, begin, end, series=series)

        async def view() -> None:
            # The first view of a daemon that has just begun: nothing is remembered.
            render_history(await UsageReader(lambda: facts, read).usage(), facts)

        inserts = iter(range(END, END + _INSERTS * MINUTE_S, MINUTE_S))
        return {
            "rows": _count(file),
            "five_years_bytes": first_bytes,
            "report_s": _median_s(report, _TIMES),
            "page_s": _median_s(lambda: anyio.run(view), _TIMES),
            "insert_s": _median_s(lambda: store.write(one, [_minute(next(inserts))]), _INSERTS),
        }


def _fill(file: Path, key: int) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        for day in range(_DAYS):
            begin = END - (_DAYS - day) * DAY_S
            sizes = [DAY_S]
            sizes += [HOUR_S] if day >= _DAYS - _HOURLY_DAYS else []
            sizes += [MINUTE_S] if day >= _DAYS - _MINUTELY_DAYS else []
            for size_s in sizes:
                span = {"key": key, "size": size_s, "begin": begin, "end": begin + DAY_S}
                connection.execute(_SLOTS, span)
                connection.execute(_FILL, span)
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _count(file: Path) -> int:
    with closing(sqlite3.connect(file)) as connection:
        found: int = connection.execute("SELECT count(*) FROM cells").fetchone()[0]
        return found


def _minute(start: int, nodes: int = 5) -> Slot:
    values = {_RULE.series: nodes}
    values |= {f"nodes.provider.p{number}": 50 * number for number in range(1, SERIES)}
    return piece(MINUTE_S, start, float(MINUTE_S), Moment(values, complete=True, version="v2.14.1"))


def _median_s(call: Callable[[], None], times: int) -> float:
    took = []
    for _ in range(times):
        begun_s = time.perf_counter()
        call()
        took.append(time.perf_counter() - begun_s)
    return quantile(took, 0.5)


class _Fleet:
    """A fleet that is looked at as often as the daemon looks at one, on a clock that leaps."""

    def __init__(self) -> None:
        self.now = float(END)
        self.end = math.inf
        self.over = anyio.Event()
        self.switches = Switches()
        groups = tuple(
            ClusterGroup(
                GroupKey(
                    MANAGED,
                    f"p{number}",
                    "",
                    "",
                    f"1.{number}",
                    active=True,
                    deleting=False,
                    stale=False,
                ),
                Sums(clusters=3, nodes=50),
            )
            for number in range(SERIES // 4)
        )
        identity = Identity(str(UUID(int=1)), "", "", "v2.14.1", "", "rancher")
        self._snapshot = Snapshot(
            1,
            self.now,
            True,
            (),
            identity,
            (),
            (),
            (),
            Totals(groups=groups),
        )

    def snapshot(self) -> Snapshot:
        return self._snapshot

    async def changed(self) -> None:
        if self.now >= self.end:
            self.over.set()
            await anyio.sleep_forever()
        self.now += LOOK_S
        await anyio.lowlevel.checkpoint()


async def _idle(folder: Path) -> dict[str, float]:
    """Memory and CPU of the keeper beside what the daemon holds anyway."""
    pid, fleet = os.getpid(), _Fleet()
    gc.collect()
    before = processes.memory(pid).resident_bytes
    keeper = HistoryKeeper(
        fleet,
        Config(state_dir=str(folder)),
        now=lambda: fleet.now,
        clock=lambda: fleet.now,
        look_s=0,
    )
    spent_s = 0.0
    for minutes in (_WARM_MINUTES, _IDLE_MINUTES):
        fleet.end, fleet.over = fleet.now + minutes * MINUTE_S, anyio.Event()
        begun_s = processes.cpu_s(pid)
        async with anyio.create_task_group() as running:
            running.start_soon(keeper.run)
            await fleet.over.wait()
            running.cancel_scope.cancel()
        spent_s = processes.cpu_s(pid) - begun_s
    gc.collect()
    after = processes.memory(pid).resident_bytes
    return {"idle_bytes": after - before, "idle_core": spent_s / (_IDLE_MINUTES * MINUTE_S)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(int(sys.argv[1]))) + "\n")
