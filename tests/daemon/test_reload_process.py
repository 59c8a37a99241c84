"""Reloads of the whole daemon as a process, while the fleet that it watches changes."""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_commands import telemetryd
from tests.support.daemon import STATUS, TOP_LEVEL, Daemon
from tests.support.embedded import FleetServer, serve_fleet

ON_CHANGE = TOP_LEVEL + "reload_on_change = true\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetServer]:
    """A fleet that is never at rest."""
    with serve_fleet(tmp_path_factory.mktemp("embedded"), churn_per_s=20) as fleet:
        yield fleet


@dataclass(frozen=True, slots=True)
class Reloading:
    """A daemon under test, and what it says of its reloads."""

    daemon: Daemon

    def count(self, result: str, trigger: str) -> float:
        series = f'telemetryd_config_reloads_total{{result="{result}",trigger="{trigger}"}}'
        return self.daemon.metric(series) or 0

    def expect(self, result: str, trigger: str = "signal", *, within_s: float = 30) -> None:
        """Sends SIGHUP where that is the trigger, and waits for one more such result."""
        before = self.count(result, trigger)
        if trigger == "signal":
            self.daemon.signal(signal.SIGHUP)
        self.daemon.wait_for(
            f"{result} by {trigger}",
            lambda: self.count(result, trigger) == before + 1,
            within_s,
        )

    def lines(self, text: str) -> list[dict[str, Any]]:
        """The log's lines that contain the text."""
        return [json.loads(line) for line in self.daemon.whole_log().splitlines() if text in line]


@contextmanager
def running(
    folder: Path, server: FleetServer, config: str, top_level: str = TOP_LEVEL
) -> Iterator[Reloading]:
    """A daemon that is ready; it must end well."""
    daemon = Daemon(folder, server.kubeconfig, config, top_level)
    try:
        daemon.wait_for("started", daemon.ready, 90)
        yield Reloading(daemon)
    finally:
        status = daemon.stop()
    assert status == 0, daemon.log()[-4000:]


def exporter(name: str, **changes: object) -> str:
    """The table of one exporter; of type ``secret`` unless it has a directory."""
    keys = {"name": name, "interval": "1s", **changes}
    keys |= {"type": "file"} if "directory" in keys else {"type": "secret", "secret": f"s-{name}"}
    keys |= changes
    lines = (f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
    return "[[exporters]]\n" + "".join(lines)


def runs(daemon: Daemon, name: str, result: str | None = None) -> float:
    """Runs that delivered, or those of one result."""
    results = ("success", "unchanged") if result is None else (result,)
    return sum(
        daemon.metric(f'telemetryd_exporter_runs_total{{exporter="{name}",result="{each}"}}') or 0
        for each in results
    )


def delivered(daemon: Daemon, name: str, times: int) -> bool:
    return runs(daemon, name) >= times


def version(server: FleetServer, secret: str) -> str | None:
    payload = server.payload(secret)
    return None if payload is None else payload["version"]


def next_run_s(daemon: Daemon, name: str) -> float:
    found = daemon.metric(f'telemetryd_exporter_next_run_timestamp_seconds{{exporter="{name}"}}')
    assert found is not None
    return found


def test_reload_under_load_applies_the_differences_and_nothing_else(
    tmp_path: Path, server: FleetServer
) -> None:
    broken = tmp_path / "leads-nowhere"
    broken.symlink_to(tmp_path / "nothing" / "there")
    stuck = exporter("stuck", directory=str(broken), interval="1h", retry_base="2s", retry_cap="2s")
    kept = exporter("kept") + stuck
    before = kept + exporter("gone") + exporter("moved", interval="2s") + exporter("paced")
    after = (
        '[identity]\nversion = "v9.9.9"\n'
        + exporter("fresh")
        + exporter("paced", interval="1h")
        + exporter("moved", interval="2s", secret="s-elsewhere")
        + kept
    )
    with running(tmp_path, server, before) as reloading:
        check_differences(reloading, server, after)


def check_differences(reloading: Reloading, server: FleetServer, after: str) -> None:
    daemon = reloading.daemon
    for name in ("kept", "gone", "moved", "paced"):
        daemon.wait_for(f"{name} delivers", partial(delivered, daemon, name, 2), 30)
    daemon.wait_for(
        "stuck fails", lambda: daemon.exporter("stuck")["last_error_reason"] == "storage", 30
    )
    old = {name: runs(daemon, name) for name in ("kept", "moved", "paced")}
    old_grid = next_run_s(daemon, "kept")
    old_hash = daemon.metric("telemetryd_config_hash")

    daemon.configure(after)
    reloading.expect("success")

    (line,) = reloading.lines("config reloaded")
    for change in (
        "identity.version changed",
        "exporter gone removed",
        "exporter fresh added (secret)",
        "exporter moved replaced (secret)",
        'exporter paced rescheduled (interval from \\"1s\\" to \\"1h\\", timeout',
    ):
        assert change in json.dumps(line), line
    daemon.wait_for("fresh delivers", lambda: server.payload("s-fresh"), 30)
    daemon.wait_for("the identity", lambda: version(server, "s-kept") == "9.9.9", 30)
    daemon.wait_for("moved delivers", lambda: server.payload("s-elsewhere"), 30)
    daemon.wait_for("kept goes on", lambda: runs(daemon, "kept") >= old["kept"] + 3, 30)
    # Untouched: its counters and its grid.
    slots = next_run_s(daemon, "kept") - old_grid
    assert abs(slots - round(slots)) < 0.1
    # In a retry all along: still the first of its runs.
    stuck_status = daemon.exporter("stuck")
    assert stuck_status["state"] in {"backoff", "running"}
    assert stuck_status["consecutive_failures"] == 0
    retries = 'telemetryd_exporter_retries_total{exporter="stuck",reason="storage"}'
    assert (daemon.metric(retries) or 0) >= 2
    # Only its interval changed: its counters are there, and its next run is an hour ahead.
    assert old["paced"] <= runs(daemon, "paced")
    assert daemon.exporter("paced")["interval_seconds"] == 3600
    assert 3500 < next_run_s(daemon, "paced") - time.time() <= 3600
    assert 'exporter="gone"' not in daemon.get("/metrics")[1]
    lists = 'telemetryd_informer_lists_total{reason="initial",resource="nodes.management.cattle.io"'
    assert daemon.metric(f'{lists},result="success"}}') == 1
    assert daemon.metric("telemetryd_config_hash") != old_hash
    config = daemon.status()["config"]
    assert config["file"] == str(daemon.config_file)
    assert config["last_reload"]["ok"]
    assert datetime.fromisoformat(config["in_force_at"]).timestamp() > time.time() - 15


BROKEN = {
    "no TOML": ("interval = \n", "isn't valid TOML", "at line"),
    "unknown key": (exporter("scc", intervals="5s"), "exporters.scc.intervals", "interval"),
    "no unit": (exporter("scc", interval="60"), "exporters.scc.interval", 'write "60s"'),
    "wrong kind": (exporter("scc", takeover="yes"), "exporters.scc.takeover", "true or false"),
    "out of range": (exporter("scc", jitter=0.9), "exporters.scc.jitter", "from 0 to 0.5"),
    "no name": ('[[exporters]]\ntype = "secret"\n', "exporters[#1].name", "is missing"),
    "unknown type": (exporter("scc", type="sekret"), "exporters.scc.type", 'did you mean "secret"'),
    "same name": (exporter("scc") * 2, "exporters.scc.name", "each needs its own"),
    "same Secret": (
        exporter("scc") + exporter("other", secret="s-scc"),
        "exporters.other.secret",
        "each needs its own",
    ),
    "timeout": (exporter("scc", timeout="1s"), "exporters.scc.timeout", "shorter than interval"),
    "not a table": ("identity = 3\n", "identity", "write [identity]"),
}


SPOILT = {
    "is elsewhere": ("server.listen", "can't change", "restart it, or put"),
    "isn't UTF-8": ("isn't UTF-8 (at line", "save it as UTF-8"),
    "is a directory": ("is a directory", "name a TOML file"),
    "is a pipe": ("isn't a regular file", "name a TOML file"),
    "is gone": ("doesn't exist", "create it"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_file_is_refused_with_file_key_and_fix(tmp_path: Path, kind: str) -> None:
    config, key, fix = BROKEN[kind]
    file = tmp_path / "config.toml"
    file.write_text(config)
    done = telemetryd("check-config", "--config", str(file))
    assert done.returncode == 78
    for text in (str(file), key, fix):
        assert text in done.stderr


@pytest.mark.parametrize(
    "kinds",
    [
        ("no TOML", "same Secret"),
        pytest.param(tuple(BROKEN), marks=pytest.mark.long),
    ],
)
def test_broken_files_change_nothing_and_say_file_key_and_fix(
    tmp_path: Path, server: FleetServer, kinds: tuple[str, ...]
) -> None:
    with running(tmp_path, server, exporter("scc")) as reloading:
        check_broken_files(reloading, {kind: BROKEN[kind] for kind in kinds})


def check_broken_files(reloading: Reloading, broken: dict[str, tuple[str, str, str]]) -> None:
    daemon = reloading.daemon
    daemon.wait_for("delivers", lambda: runs(daemon, "scc") >= 1, 30)
    in_force = daemon.status()["config"]
    before = runs(daemon, "scc")
    for kind, (config, key, fix) in broken.items():
        # Keys at the top level have to come before the tables.
        top_level = TOP_LEVEL + ("" if config.startswith("[") else config)
        daemon.configure(config if config.startswith("[") else exporter("scc"), top_level)
        check_rejection(reloading, kind, key, fix)
    for kind, texts in SPOILT.items():
        daemon.configure(exporter("scc"))
        spoil(daemon.config_file, kind)
        check_rejection(reloading, kind, *texts)
        if daemon.config_file.is_dir():
            daemon.config_file.rmdir()

    config = daemon.status()["config"]
    assert config["last_reload"]["problems"]
    assert {**config, "last_reload": None} == {**in_force, "last_reload": None}
    assert daemon.metric("telemetryd_config_last_reload_successful") == 0
    assert [each["name"] for each in daemon.status()["exporters"]] == ["scc"]
    daemon.wait_for("goes on", lambda: runs(daemon, "scc") > before, 30)
    assert runs(daemon, "scc", "skipped") == 0
    daemon.configure(exporter("scc"))
    reloading.expect("success")
    assert daemon.metric("telemetryd_config_last_reload_successful") == 1


def spoil(file: Path, how: str) -> None:
    text = file.read_text()
    file.unlink()
    match how:
        case "is elsewhere":
            file.write_text(text.replace('listen = "127.0.0.1', 'listen = "localhost'))
        case "isn't UTF-8":
            file.write_bytes(b"# \xff\n" + text.encode())
        case "is a directory":
            file.mkdir()
        case "is a pipe":
            os.mkfifo(file)


def check_rejection(reloading: Reloading, kind: str, *texts: str) -> None:
    """The next SIGHUP is answered by one error in the log, which has these texts."""
    seen = len(reloading.lines("config rejected"))
    reloading.expect("failure")
    lines = reloading.lines("config rejected")
    assert len(lines) == seen + 1, kind
    assert lines[-1]["level"] == "error"
    for text in (str(reloading.daemon.config_file), *texts):
        assert text in lines[-1]["problems"], (kind, lines[-1])


def test_change_of_the_file_is_noticed_however_it_is_made(
    tmp_path: Path, server: FleetServer
) -> None:
    """By a rename, and by the swap of a ConfigMap's link; a gap between the two is waited out."""
    config_map = tmp_path / "map"
    with running(tmp_path, server, exporter("a"), ON_CHANGE) as reloading:
        check_notices(reloading, config_map)


def check_notices(reloading: Reloading, config_map: Path) -> None:
    daemon = reloading.daemon
    file = daemon.config_file

    daemon.configure(exporter("b"), ON_CHANGE)
    reloading.expect("success", "file")
    assert [each["name"] for each in daemon.status()["exporters"]] == ["b"]

    publish(config_map, "first", file.read_text())
    file.unlink()
    time.sleep(1.5)  # nothing is there for more than one look
    file.symlink_to(config_map / "config.toml")
    publish(config_map, "second", file.read_text().replace('"b"', '"c"'))
    shutil.rmtree(config_map / "first")
    reloading.expect("success", "file")
    assert [each["name"] for each in daemon.status()["exporters"]] == ["c"]
    assert reloading.count("failure", "file") == 0


def publish(config_map: Path, version: str, text: str) -> None:
    """Puts a new version in force as the kubelet does: by swapping the link ``..data``."""
    folder = config_map / version
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(text)
    swap = config_map / "..data_tmp"
    swap.symlink_to(version)
    swap.rename(config_map / "..data")
    link = config_map / "config.toml"
    if not link.is_symlink():
        link.symlink_to("..data/config.toml")


def test_storm_of_signals_coalesces_and_hurts_no_one(tmp_path: Path, server: FleetServer) -> None:
    with running(tmp_path, server, exporter("scc")) as reloading:
        check_storm(reloading, server)


def check_storm(reloading: Reloading, server: FleetServer) -> None:
    daemon = reloading.daemon
    daemon.wait_for("delivers", lambda: runs(daemon, "scc") >= 1, 30)
    for _ in range(500):
        daemon.signal(signal.SIGHUP)
    daemon.configure(exporter("scc") + exporter("last"))
    daemon.signal(signal.SIGHUP)
    daemon.wait_for("the last word counts", lambda: server.payload("s-last"), 30)
    assert 1 <= reloading.count("success", "signal") < 250
    assert runs(daemon, "scc", "skipped") == 0
    (line,) = reloading.lines(STATUS)
    assert line["level"] == "info"
    assert line["exporters_succeeded"]
    daemon.signal(signal.SIGTERM)
    while daemon.process.poll() is None:
        daemon.signal(signal.SIGHUP)
        daemon.signal(signal.SIGUSR1)
        time.sleep(0.0005)
    assert daemon.process.returncode == 0
    assert not reloading.lines('"error"')
