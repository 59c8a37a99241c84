"""The history of a whole daemon under faults: it is kept again afterwards, and exports go on."""

import json
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest

from telemetryd.history.slots import HOUR_S, MINUTE_S, Slot
from telemetryd.history.sqlite import read_store
from telemetryd.history.store import FILE_NAME
from tests.cli.test_commands import telemetryd
from tests.export.sinks.test_snapshots import own_mounts
from tests.support.daemon import Daemon
from tests.support.embedded import FleetServer, serve_fleet
from tests.system.clock import WallClock, require_steps

WRITABLE = "telemetryd_history_writable"
SAMPLES = "telemetryd_history_samples_total"
RUNS = 'telemetryd_exporter_runs_total{exporter="out",result="%s"}'
CONFIG = '[[exporters]]\nname = "out"\ntype = "file"\ndirectory = "{out}"\ninterval = "1s"\n'
PATIENCE_S = 90.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetServer]:
    """Changes all the time, so that the daemon looks every few seconds."""
    with serve_fleet(tmp_path_factory.mktemp("fleet"), churn_per_s=3) as fleet:
        yield fleet


class Kept:
    """A daemon with a wall clock that a test sets ahead; its history is in ``state``."""

    def __init__(self, folder: Path, server: FleetServer, *, under: tuple[str, ...] = ()) -> None:
        folder.mkdir(exist_ok=True)
        self.state = folder / "state"
        self.state.mkdir(exist_ok=True)
        self.clock = WallClock(folder)
        self._ahead_s = 0
        (folder / "run").mkdir(exist_ok=True)
        self.daemon = Daemon(
            folder,
            server.kubeconfig,
            CONFIG.format(out=folder / "out"),
            environ={
                **self.clock.environ(),
                "STATE_DIRECTORY": str(self.state),
                "RUNTIME_DIRECTORY": str(folder / "run"),
            },
            under=under,
        )

    def wait_for(self, what: str, probe: object) -> None:
        self.daemon.wait_for(what, probe, PATIENCE_S)  # type: ignore[arg-type]

    def ahead(self, seconds: int = 60) -> None:
        """Let the wall clock say so much more, so that a minute is over."""
        self._ahead_s += seconds
        self.clock.set(self._ahead_s)

    def runs(self) -> float:
        """Exports so far, of which none failed."""
        return sum(self.daemon.metric(RUNS % each) or 0 for each in ("success", "unchanged"))

    def goes_on(self) -> None:
        """It is alive, and exports."""
        before = self.runs()
        self.wait_for("an export", lambda: self.runs() > before + 1)
        assert self.daemon.get("/livez")[0] == 200

    def writes(self) -> None:
        """What it has seen is in the file soon."""
        before = self.daemon.metric(SAMPLES) or 0
        self.ahead()
        self.wait_for("looks", lambda: (self.daemon.metric(SAMPLES) or 0) > before + 1)


@contextmanager
def keeping(folder: Path, server: FleetServer, *, under: tuple[str, ...] = ()) -> Iterator[Kept]:
    require_steps()
    kept = Kept(folder, server, under=under)
    try:
        kept.wait_for("a first look", lambda: (kept.daemon.metric(SAMPLES) or 0) > 0)
        kept.goes_on()
        yield kept
        assert kept.daemon.stop() == 0, kept.daemon.log()[-4000:]
    finally:
        if kept.daemon.process.poll() is None:
            kept.daemon.process.kill()
            kept.daemon.process.wait()


def slots_of(state: Path, size_s: int = MINUTE_S) -> dict[int, Slot]:
    store = read_store(state)
    try:
        found = [
            slot
            for installation in store.installations()
            for slot in store.read(installation, size_s, 0, 2**40)
        ]
    finally:
        store.close()
    made = {slot.start: slot for slot in found}
    assert len(made) == len(found)
    return made


def test_file_that_is_removed_and_put_back_while_it_runs_is_gone_on_with(
    server: FleetServer, tmp_path: Path
) -> None:
    with keeping(tmp_path, server) as kept:
        file = kept.state / FILE_NAME
        kept.ahead()
        kept.wait_for("a minute", lambda: file.exists() and slots_of(kept.state))
        file.unlink()
        kept.ahead()
        kept.wait_for("another file", lambda: file.exists() and slots_of(kept.state))
        kept.goes_on()
        assert kept.daemon.whole_log().count("history file was removed or replaced") == 1
    assert slots_of(kept.state)


def test_digest_that_is_logged_at_the_end_of_the_month_is_that_of_the_report(
    server: FleetServer, tmp_path: Path
) -> None:
    with keeping(tmp_path, server) as kept:
        kept.ahead()
        kept.wait_for("a minute", lambda: (kept.state / FILE_NAME).exists() and state_of(kept))
        now = datetime.fromtimestamp(time.time() + 60, UTC)
        end = (now.replace(day=1) + timedelta(days=32)).replace(day=1, hour=0, minute=5)
        assert ended_months(kept) == []
        kept.ahead(int((end - now).total_seconds()))
        kept.wait_for("the end of the month", lambda: ended_months(kept))
        for _ in range(2):
            kept.writes()
        made = telemetryd(
            *("report", "--format", "json", "--config", str(kept.daemon.config_file)),
            STATE_DIRECTORY=str(kept.state),
            RUNTIME_DIRECTORY=str(tmp_path / "run"),
            **kept.clock.environ(),  # an hour later than now counts only by the same clock
        )
        assert made.returncode == 0, made.stderr
        *_, month, _ = json.loads(made.stdout)["periods"]
        (line,) = ended_months(kept)
        assert (line["month"], line["digest"]) == (f"{now:%Y-%m}", month["digest"])
        assert (line["figure"], line["licenses"]) == (str(month["figure"]), str(month["licenses"]))


def ended_months(kept: Kept) -> list[dict[str, str]]:
    lines = [json.loads(each) for each in kept.daemon.log().splitlines() if "month ended" in each]
    return [{name: str(value) for name, value in each.items()} for each in lines]


def test_state_folder_of_another_daemon_is_left_to_it_until_it_ends(
    server: FleetServer, tmp_path: Path
) -> None:
    with keeping(tmp_path / "first", server) as first:
        (tmp_path / "second").mkdir()
        (tmp_path / "second" / "state").symlink_to(first.state)
        with keeping(tmp_path / "second", server) as second:
            second.wait_for("a refusal", lambda: second.daemon.metric(WRITABLE) == 0)
            trouble = second.daemon.status()["history"]["trouble"]
            assert "another telemetryd keeps its history there" in trouble
            second.goes_on()
            assert first.daemon.metric(WRITABLE) == 1
            assert first.daemon.stop() == 0
            second.ahead()
            second.wait_for("its turn", lambda: second.daemon.metric(WRITABLE) == 1)
    assert all(slot.known_s <= 60 for slot in slots_of(first.state).values())


def fill(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while filler.write(bytes(4096)):
            pass


MOUNT = 'mount -t tmpfs -o size=3m tmpfs "$0" && exec "$@"'


@pytest.mark.long
@pytest.mark.timeout(400)
def test_disk_that_is_full_for_a_while_costs_no_minute_and_no_export(
    server: FleetServer, tmp_path: Path
) -> None:
    if not own_mounts():
        pytest.skip("no mount namespace: needs root or unprivileged user namespaces")
    (tmp_path / "state").mkdir()
    under = (*own_mounts(), "sh", "-c", MOUNT, str(tmp_path / "state"))
    with keeping(tmp_path, server, under=under) as kept:
        inside = Path(f"/proc/{kept.daemon.process.pid}/root{kept.state}")
        kept.ahead()
        kept.wait_for("a file", (inside / FILE_NAME).exists)
        fill(inside)
        for _ in range(3):
            kept.writes()
        kept.wait_for("a full disk", lambda: kept.daemon.metric(WRITABLE) == 0)
        kept.goes_on()
        (inside / "filler").unlink()
        kept.ahead()
        kept.wait_for("a disk with room", lambda: kept.daemon.metric(WRITABLE) == 1)
        assert kept.daemon.metric("telemetryd_history_lost_slots_total") == 0
        assert kept.daemon.whole_log().count("cannot keep the history") == 1
        copy = tmp_path / "copy"
        shutil.copytree(inside, copy)
        fill(inside)
    hours = slots_of(copy, HOUR_S).values()
    assert sum(slot.known_s for slot in hours) > 10
    assert all(slot.known_s <= 60 for slot in slots_of(copy).values())


@pytest.mark.faults
@pytest.mark.timeout(1500)
def test_daemon_that_is_killed_over_and_over_loses_no_minute_that_was_written(
    server: FleetServer, tmp_path: Path
) -> None:
    require_steps()
    rng, ahead_s = Random(7), 0
    seen: dict[int, Slot] = {}
    for _ in range(20):
        kept = Kept(tmp_path, server)
        kept.ahead(ahead_s)
        try:
            kept.wait_for("a look", lambda: (kept.daemon.metric(SAMPLES) or 0) > 0)  # noqa: B023
            for _ in range(rng.randrange(1, 4)):
                kept.ahead()
                ahead_s += 60
                if rng.random() < 0.6:
                    count = len(seen)
                    kept.wait_for("a write", lambda: count < len(state_of(kept)))  # noqa: B023
                    seen = state_of(kept)
        finally:
            kept.daemon.signal(signal.SIGKILL)
            kept.daemon.process.wait()
        ahead_s += 60
        found = slots_of(kept.state)
        for start, slot in seen.items():
            assert found[start].known_s >= slot.known_s
        assert all(slot.known_s <= 60 for slot in found.values())
        with sqlite3.connect(kept.state / FILE_NAME) as file:
            assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        file.close()
        seen = found
    assert len(seen) > 20
    log = (tmp_path / "telemetryd.log").read_text()
    assert "damaged" not in log
    assert "Traceback" not in log
    assert not any(json.loads(line).get("level") == "error" for line in log.splitlines())


def state_of(kept: Kept) -> dict[int, Slot]:
    return slots_of(kept.state) if (kept.state / FILE_NAME).exists() else {}
