"""Replicas that share a history: leadership moves, and the record is as if there were but one."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import pytest

from telemetryd.history.slots import HOUR_S, MINUTE_S
from tests.apiserver.admin import Admin
from tests.apiserver.process import ApiServer
from tests.cli.test_commands import telemetryd
from tests.export.sinks.test_snapshots import own_mounts
from tests.support.daemon import Daemon
from tests.support.postgres import Database, pgbouncer
from tests.support.waiting import until
from tests.system.clock import WallClock, require_steps
from tests.system.rancher import INSTALL_UUID, Rancher
from tests.system.replicas import LEASE, election

CONFIG = '[history]\nstore = "postgresql"\ndsn_file = "{dsn_file}"\n' + election(2.0, 1.5, 0.3)
PATIENCE_S = 300.0
CLUSTER = "sentinel-c-1"
LOCAL, MANAGED = 3, 9
KEPT = """
SELECT size, start, known_s, off_s + down_s + clock_s, epoch, high, low, first, last
  FROM telemetryd.slots JOIN telemetryd.installations ON id = slots.installation
  JOIN telemetryd.cells USING (installation, size, start)
 WHERE uuid = $1 AND series = 'nodes.entitled' ORDER BY size, start
"""
UNKNOWN = "SELECT count(*) FROM telemetryd.slots WHERE size = $1 AND NOT complete"
WRITTEN = "SELECT start FROM telemetryd.slots WHERE size = $1 AND complete"
WRITERS = "SELECT writer FROM telemetryd.writers ORDER BY writer"
RULES = (("peak", ()), ("current", ("aws-csp",)), ("monthly_average", ("payg-monthly",)))


class Pod:
    """A replica on a host of its own name, as a pod is."""

    def __init__(self, folder: Path, apiserver: ApiServer, config: str, clock: WallClock) -> None:
        folder.mkdir()
        self._folder, self._config, self._clock = folder, config, clock
        self._kubeconfig = apiserver.kubeconfig(folder / "kubeconfig")
        self.daemon = self.start()

    def start(self) -> Daemon:
        name = self._folder.name
        self.daemon = Daemon(
            self._folder,
            self._kubeconfig,
            self._config,
            environ={"HOSTNAME": name, **self._clock.environ()},
            under=(*own_mounts(), "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', name),
        )
        return self.daemon

    def wait_for(self, what: str, probe: Callable[[], Any]) -> None:
        self.daemon.wait_for(what, probe, PATIENCE_S)

    def leader(self) -> dict[str, Any]:
        found: dict[str, Any] = self.daemon.status()["leader"]
        return found

    def leads(self) -> bool:
        return self.daemon.get("/status.json")[0] == 200 and self.leader()["leading"]

    def shows(self, nodes: int) -> bool:
        return self.daemon.metric("telemetryd_fleet_nodes") == nodes

    def looks(self) -> float:
        """How often it has looked at the fleet for its history."""
        return self.daemon.metric("telemetryd_history_samples_total") or 0

    def looks_again(self, than: float) -> bool:
        return self.looks() > than

    def writes(self) -> bool:
        return self.daemon.metric("telemetryd_history_writable") == 1


class Pair:
    """Two pods, their fleet, and a log of what befell them, minute by minute.

    Attributes:
        first: The first minute.
        log: The managed nodes from one minute to another; two only where the machine was slow.
        epochs: Of each leader.
        elapsed_s: How long it took, by a clock that is never set.
    """

    def __init__(
        self, folder: Path, apiserver: ApiServer, rancher: Rancher, dsn_file: Path
    ) -> None:
        self.clock = WallClock(folder)
        self._rancher = rancher
        self.managed = MANAGED
        self.log: list[tuple[int, int, int]] = []
        self.epochs: list[int] = []
        self._ahead_s = 0
        # Early in an hour, which it does not leave.
        self._set((time.time() // HOUR_S + 1) * HOUR_S)
        self.first, self._steady_s = self._minute(), time.monotonic()
        config = CONFIG.format(dsn_file=dsn_file)
        self.pods = [
            Pod(folder / name, apiserver, config, self.clock) for name in ("pod-a", "pod-b")
        ]

    def now(self) -> float:
        """What the wall clock of the pods says."""
        return time.time() + self._ahead_s

    def _set(self, to: float) -> None:
        self._ahead_s = ceil(to - time.time())
        self.clock.set(self._ahead_s)

    def _minute(self) -> int:
        return int(self.now() // MINUTE_S) * MINUTE_S

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._steady_s

    def leading(self) -> tuple[Pod, Pod]:
        """The leader, and the other one."""

        def found() -> tuple[Pod, Pod] | None:
            first, second = self.pods
            leads = [each for each in self.pods if each.leads()]
            if len(leads) != 1:
                return None
            return (first, second) if leads == [first] else (second, first)

        return until(found, "one leader", deadline_s=PATIENCE_S)

    def look(self) -> None:
        """All that run look at the fleet as it is in this minute."""
        running = [each for each in self.pods if each.daemon.process.poll() is None]
        shown: dict[Pod, float] = {}

        def all_show() -> bool:
            for pod in running:
                # Counted at once: the next look may be a minute away.
                if pod not in shown and pod.shows(LOCAL + self.managed):
                    shown[pod] = pod.looks()
            return len(shown) == len(running)

        until(all_show, "the nodes", deadline_s=PATIENCE_S)
        for pod, looks in shown.items():
            pod.wait_for("a look", partial(pod.looks_again, looks))

    def pass_minute(self, change: int = 1) -> None:
        """The next minute begins, in which a node comes or goes."""
        self._set(self._minute() + MINUTE_S)
        begin = self._minute()
        self.managed += change
        if change > 0:
            self._rancher.add_node(CLUSTER, 100 + self.managed)
        else:
            self._rancher.delete_node(CLUSTER, 101 + self.managed)
        self.look()
        self.log.append((begin, self._minute(), self.managed))

    def hand_over(self, way: str, *, again: bool = True) -> None:
        """The leader ends, another term begins, and what ended is started again."""
        former, _ = self.leading()
        if way == "kill":
            former.daemon.process.kill()
            former.daemon.process.wait()
        else:
            assert former.daemon.stop() == 0, former.daemon.log()[-3000:]
        if again:
            former.start()
        leader, _ = self.leading()
        self.epochs.append(leader.leader()["epoch"])
        if again:
            # The next leader has seen the next minute whole.
            former.wait_for("a look", former.looks)

    def end(self) -> None:
        """Both end well."""
        for pod in self.pods:
            if pod.daemon.process.poll() is None:
                assert pod.daemon.stop() == 0, pod.daemon.log()[-3000:]

    def kill(self) -> None:
        for pod in self.pods:
            pod.daemon.process.kill()
            pod.daemon.process.wait()


@pytest.fixture
def rancher(admin: Admin) -> Iterator[Rancher]:
    with Rancher.built(admin, clusters=4, nodes=3) as fleet:
        try:
            yield fleet
        finally:
            admin.delete(LEASE)


@contextmanager
def paired(folder: Path, apiserver: ApiServer, rancher: Rancher, dsn_file: Path) -> Iterator[Pair]:
    require_steps()
    if not own_mounts():
        pytest.skip("no namespaces of its own: needs root or unprivileged user namespaces")
    pair = Pair(folder, apiserver, rancher, dsn_file)
    try:
        for pod in pair.pods:
            pod.wait_for("a look", pod.looks)
        pair.epochs.append(pair.leading()[0].leader()["epoch"])
        yield pair
    finally:
        pair.kill()


def has_all(pair: Pair, database: Database) -> bool:
    """Whether the minutes before the current one are written, and known."""
    found = {start for (start,) in database.ask(WRITTEN, MINUTE_S)}
    return found >= set(range(pair.first, pair.log[-1][0], MINUTE_S))


def check(pair: Pair, database: Database) -> None:
    """The tables and the report say what the log says, and nothing twice."""
    rows = database.ask(KEPT, INSTALL_UUID)
    minutes = {row[1]: row[2:] for row in rows if row[0] == MINUTE_S}
    (hour,) = [row[1:] for row in rows if row[0] == HOUR_S]
    assert len(minutes) + 2 == len(rows), "the minutes, an hour and a day"
    assert database.ask(UNKNOWN, MINUTE_S) == [(0,)]
    assert list(minutes) == list(range(pair.first, max(minutes) + 1, MINUTE_S)), "none lost"
    assert max(minutes) >= pair.log[-1][1]
    highest = MANAGED
    for begin, end, managed in pair.log:
        for start in range(begin, end + 1, MINUTE_S):
            high, last = minutes[start][3], minutes[start][6]
            assert high in {highest, managed}, start
            assert last in {highest, managed}, start
            if begin == end and managed >= highest:
                assert (high, last) == (managed, managed), start
        highest = managed
    known_s = sum(row[0] for row in minutes.values())
    assert all(known + gaps < MINUTE_S + 1e-6 for known, gaps, *_ in minutes.values())
    peak = max(managed for *_, managed in pair.log)
    assert hour[0] == min(minutes) // HOUR_S * HOUR_S
    assert 0 < known_s <= hour[1] + 1e-6 < pair.elapsed_s, "no second twice"
    assert hour[4:] == (peak, MANAGED, MANAGED, pair.managed)
    epochs = [row[2] for row in minutes.values()]
    # A minute has the epoch of who wrote to it last, which may be a later one.
    assert min(epochs) < pair.epochs[-1] <= max(epochs)
    assert database.ask(WRITERS) == [("pod-a",), ("pod-b",)]
    figures = {"peak": peak, "current": pair.managed, "monthly_average": MANAGED}
    for method, preset in RULES:
        period = report(pair, *(f"entitlement.preset={each}" for each in preset))
        assert period["figure"] == figures[method], method
        assert period["peak"]["value"] == peak
        assert period["hours"]["known"] == pytest.approx(hour[1] / HOUR_S, abs=1e-3)


def report(pair: Pair, *settings: str) -> dict[str, Any]:
    """The one month that a report of a pod's configuration has."""
    words = [word for each in settings for word in ("--set", each)]
    config = pair.pods[0].daemon.config_file
    folder = str(config.parent)
    done = telemetryd(
        *("report", "--format", "json", "--config", str(config), *words),
        RUNTIME_DIRECTORY=folder,
        STATE_DIRECTORY=folder,
        **pair.clock.environ(),
    )
    assert done.returncode == 0, done.stderr
    (period,) = json.loads(done.stdout)["periods"]
    found: dict[str, Any] = period
    return found


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "ways",
    [
        ("kill", "stop"),
        pytest.param(("kill", "stop", "stop", "kill", "kill", "stop"), marks=pytest.mark.long),
    ],
    ids=len,
)
def test_leadership_that_moves_within_an_hour_leaves_the_record_of_one(
    ways: tuple[str, ...],
    apiserver: ApiServer,
    rancher: Rancher,
    database: Database,
    tmp_path: Path,
) -> None:
    with paired(tmp_path, apiserver, rancher, database.dsn_file) as pair:
        for way in ways[:-1]:
            pair.hand_over(way)
            pair.pass_minute()
        pair.hand_over(ways[-1], again=False)
        pair.pass_minute(-1)
        pair.end()
        check(pair, database)
        assert pair.epochs == sorted(set(pair.epochs))


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("through", ["directly", "through PgBouncer"])
def test_leader_that_ends_while_postgresql_is_away_costs_no_minute(
    through: str, apiserver: ApiServer, rancher: Rancher, database: Database, tmp_path: Path
) -> None:
    with ExitStack() as ends:
        if through != "directly":
            dsn = ends.enter_context(pgbouncer(database, connections=2))
            database.dsn_file.write_text(f"{dsn}\n")
        pair = ends.enter_context(paired(tmp_path, apiserver, rancher, database.dsn_file))
        for way in ("kill", "stop"):
            pair.pass_minute()
            database.server.kill()
            pair.pass_minute()
            pair.hand_over(way)
            pair.pass_minute()
            database.server.start()
            pair.pass_minute()
            # What the killed one's successor has not seen waited in the memory of that one alone.
            until(partial(has_all, pair, database), "what waited", deadline_s=PATIENCE_S)
            pair.hand_over("kill")
        pair.pass_minute(-1)
        for pod in pair.pods:
            pod.wait_for("a write", pod.writes)
            assert pod.daemon.metric("telemetryd_history_lost_slots_total") == 0
        pair.end()
        check(pair, database)
        assert pair.epochs == sorted(set(pair.epochs))
